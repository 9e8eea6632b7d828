"""AdvrBD, stage by stage; :mod:`advrbd_plugin.defense.pipeline` strings the stages together.

ImageSet -> BackdooredModel -> Scores -> Detection -> Enhancement -> Verdicts -> AdvrBDResult
"""

from advrbd_plugin.defense.version import ALGORITHM_VERSION, algorithm_digest

__all__ = ["ALGORITHM_VERSION", "algorithm_digest"]
