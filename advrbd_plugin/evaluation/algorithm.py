"""Results name the algorithm that made them: its version, and a digest of the source that decides verdicts."""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

import advrbd_plugin
from advrbd_plugin.defense import ALGORITHM_VERSION, algorithm_digest
from advrbd_plugin.defense.version import source_digest

_MAKING_STRESS_SETS = ("attacks/*.py", "evaluation/stress_sets.py", "evaluation/stress_suite.py", "data/selection.py")


def current_algorithm() -> dict[str, Any]:
    """What a result of now bears under ``algorithm``."""
    return {"version": ALGORITHM_VERSION, "digest": algorithm_digest()}


def is_of_current_algorithm(content: Mapping[str, Any]) -> bool:
    """Whether a result's file names the algorithm of now; older files name none."""
    return content.get("algorithm") == current_algorithm()


@cache
def stress_sets_digest() -> str:
    """A fingerprint of the source that makes the stress suite's sets: a name alone does not say what is in a set."""
    package = Path(advrbd_plugin.__file__).resolve().parent
    files = sorted(path for pattern in _MAKING_STRESS_SETS for path in package.glob(pattern))
    return source_digest((path.relative_to(package).as_posix(), path.read_text(encoding="utf-8")) for path in files)
