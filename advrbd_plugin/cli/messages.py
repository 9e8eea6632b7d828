"""What a command says while it works: the records of the logger ``advrbd_plugin``, each a line on stderr."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

LOGGER = logging.getLogger("advrbd_plugin")
_print_above_bars: Callable[[str], None] | None = None


class _Lines(logging.Handler):
    """``advrbd: TEXT``, or the text alone above the progress bars while they are shown."""

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if record.levelno >= logging.WARNING:
            text = f"note: {' '.join(text.split())}"
        if _print_above_bars is not None:
            _print_above_bars(text)
        else:
            print(f"advrbd: {text}", file=sys.stderr, flush=True)


@contextmanager
def shown(quiet: bool = False) -> Iterator[None]:
    """Within this context the package's records go to stderr; with ``quiet`` warnings and errors alone."""
    handler, before = _Lines(), (LOGGER.level, LOGGER.propagate)
    LOGGER.addHandler(handler)
    LOGGER.setLevel(logging.WARNING if quiet else logging.INFO)
    LOGGER.propagate = False
    try:
        yield
    finally:
        LOGGER.removeHandler(handler)
        LOGGER.level, LOGGER.propagate = before


def hush() -> None:
    """From here on nothing but warnings and errors."""
    LOGGER.setLevel(logging.WARNING)


def is_quiet() -> bool:
    """Whether the command was asked to say nothing but errors."""
    return LOGGER.getEffectiveLevel() > logging.INFO


@contextmanager
def above_bars(show: Callable[[str], None]) -> Iterator[None]:
    """Within this context ``show`` prints the lines, above the bars that it knows."""
    global _print_above_bars
    before, _print_above_bars = _print_above_bars, show
    try:
        yield
    finally:
        _print_above_bars = before
