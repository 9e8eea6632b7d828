"""The log of a defense or detection: on the console and in a file, as BackdoorBench's own scripts write it."""

from __future__ import annotations

import logging
import time
from pathlib import Path


def start_log(folder: Path) -> None:
    """Log to the console and to a new file in ``folder``, named after the time."""
    folder.mkdir(parents=True, exist_ok=True)
    line = logging.Formatter(
        fmt="%(asctime)s [%(levelname)-8s] [%(filename)s:%(lineno)d] %(message)s", datefmt="%Y-%m-%d:%H:%M:%S"
    )
    logger = logging.getLogger()
    for handler in list(logger.handlers):
        # The toolbox's modules log while they are imported, so logging has added a handler that would repeat each line.
        if type(handler) is logging.StreamHandler:
            logger.removeHandler(handler)
    name = time.strftime("%Y_%m_%d_%H_%M_%S", time.localtime())
    new_handlers: tuple[logging.Handler, ...] = (logging.FileHandler(folder / f"{name}.log"), logging.StreamHandler())
    for handler in new_handlers:
        handler.setFormatter(line)
        logger.addHandler(handler)
    logger.setLevel(logging.INFO)
