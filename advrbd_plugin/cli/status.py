"""The exit statuses of ``advrbd``, by which a script decides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

NOTHING_FOUND = 0
BAD_INPUT = 2
FOUND = 3
NO_VERDICT = 4

EXPLAINED = (
    "Exit status: 0 done, and nothing was found; 2 bad input or usage, which one line explains; 3 poisoned samples "
    "were found (scan, defend; 0 under torchrun); 4 no verdict, since the model learned too little; 130 ended by "
    "Ctrl-C, 143 by SIGTERM. 1: a check failed (doctor, compare, reproduce), or a mistake of advrbd's own."
)


def of_summary(summary: Mapping[str, Any]) -> int:
    """The status of a scan or a defense with this ``summary.json``."""
    if not summary.get("trained_enough", True):
        return NO_VERDICT
    return FOUND if summary["poisoned"] or summary["suspected_classes"] else NOTHING_FOUND
