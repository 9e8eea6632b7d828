"""Results name the algorithm that made them: its version, and a digest of the source that decides verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from advrbd_plugin.defense import ALGORITHM_VERSION, algorithm_digest


def current_algorithm() -> dict[str, Any]:
    """What a result of now bears under ``algorithm``."""
    return {"version": ALGORITHM_VERSION, "digest": algorithm_digest()}


def is_of_current_algorithm(content: Mapping[str, Any]) -> bool:
    """Whether a result's file names the algorithm of now; older files name none."""
    return content.get("algorithm") == current_algorithm()
