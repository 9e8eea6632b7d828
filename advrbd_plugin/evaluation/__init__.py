"""Cells of methods and attacks, one engine that runs them, and the metrics that judge them.

``runner.py`` runs jobs (``job.py``), whatever they are. ``advrbd reproduce`` gives it the cells of the paper's
evaluation (``grid.py``, ``grid_job.py``, ``process.py``), ``advrbd compare`` BackdoorBench's defenses on its records
(``compare/``).
"""
