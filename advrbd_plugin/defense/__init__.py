"""AdvrBD, stage by stage; ``pipeline.py`` strings the stages together."""
