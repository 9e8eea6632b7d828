"""One script of the toolbox in a process of its own."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import advrbd_plugin
from advrbd_plugin.evaluation.compare.plan import Plan


def run_script(plan: Plan, script: Path, arguments: Sequence[str], log: Path) -> tuple[dict[str, Any], str | None]:
    """Run one script, its output to ``log``. Return its report (``seconds`` at least) and, if it failed, why."""
    log.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as workspace:
        report = Path(workspace) / "report.json"
        command = [sys.executable, "-m", "advrbd_plugin.cli", "backdoorbench", "run"]
        command += ["--backdoorbench", os.fspath(plan.checkout), "--any-version", "--report", os.fspath(report)]
        command += ["--trust-record"] * plan.trust_record + ["--local-data"] * plan.local_data
        command += [os.fspath(script.relative_to(plan.checkout)), *arguments]
        started = time.monotonic()
        with log.open("wb") as output:
            finished = subprocess.run(
                command, cwd=plan.checkout, stdout=output, stderr=subprocess.STDOUT, env=_environment(), check=False
            )
        figures = json.loads(report.read_text()) if report.is_file() else {}
    figures["seconds"] = time.monotonic() - started
    if finished.returncode == 0:
        return figures, None
    reason = _last_line(log).removeprefix("advrbd: error: ")
    return figures, f"{script.parent.name}/{script.name} failed: {reason} (see {log})"


def _environment() -> dict[str, str]:
    """This process's environment, in which the child finds the same package whatever folder it starts in."""
    home = os.fspath(Path(advrbd_plugin.__file__).resolve().parent.parent)
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"
