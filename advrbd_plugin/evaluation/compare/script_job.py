"""The cells of a comparison as jobs: the attacked model itself, and one method's scripts on one record."""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Generator, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from advrbd_plugin.backdoorbench.record import FILE_NAME, AttackRecord
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.child import Command, Ended
from advrbd_plugin.evaluation.compare.cell import UNDEFENDED, CompareCell, read_cell, write_cell
from advrbd_plugin.evaluation.compare.judge import Judge
from advrbd_plugin.evaluation.compare.left_files import (
    defense_folder,
    detection_rates,
    has_own_detection,
    is_result,
    notes_path,
)
from advrbd_plugin.evaluation.compare.plan import Method, Plan, script_arguments
from advrbd_plugin.evaluation.job import Job, Kind
from advrbd_plugin.evaluation.metrics import Performance

# Whose results depend on AdvrBD's verdicts.
_USES_ALGORITHM = ("advrbd", "ulrl")


class CompareJob(Job[CompareCell]):
    """A cell of the comparison."""

    def __init__(self, judge: Judge, record: AttackRecord, method: str) -> None:
        self._judge, self._record = judge, record
        self.key, self.name = (record.name, method), f"{record.name} / {method}"
        self.kind = Kind((record.clean_data, record.model_name), method)

    def not_run(self, reason: str) -> CompareCell:
        return CompareCell(self._record.name, self.kind.method, problem=reason)


class UndefendedJob(CompareJob):
    """The attacked model's own figures, which need no process."""

    def __init__(self, judge: Judge, record: AttackRecord) -> None:
        super().__init__(judge, record, UNDEFENDED)
        self.kind = replace(self.kind, cost=0.0)
        self._notes = record.folder / "compare_undefended.json"

    def stored(self) -> CompareCell | None:
        """The figures, unless the model is newer."""
        cell = read_cell(self._notes)
        attacked = self._record.folder / FILE_NAME
        return cell if cell is not None and _is_newer(self._notes, attacked) else None

    def run(self) -> Generator[Command, Ended, CompareCell]:
        yield from ()
        stored = self.stored()  # the defenses are run again, not the attack
        if stored is not None:
            return stored
        figures = self._judge.attacked_model(self._record)
        cell = _with_figures(CompareCell(self._record.name, UNDEFENDED), figures)
        write_cell(self._notes, cell)
        return cell


class ScriptJob(CompareJob):
    """A method of the toolbox on one record."""

    def __init__(self, plan: Plan, judge: Judge, record: AttackRecord, method: Method) -> None:
        super().__init__(judge, record, method.name)
        self._plan, self._method = plan, method
        self._notes = notes_path(record, method.name)
        self._model_file = defense_folder(record, method.name) / "defense_result.pt"

    def stored(self) -> CompareCell | None:
        """The finished cell, if it was run by hand or as the plan would run it now."""
        cell = self._finished_cell()
        if cell is None or cell.was_run_by_hand:
            self.why = "running" if cell is None else "it was run by hand"
            return cell
        if list(cell.options) != self._planned_options():
            self.why = "run again, its options were others"
            return None
        if self.kind.method in _USES_ALGORITHM and cell.algorithm != current_algorithm():
            self.why = "run again, AdvrBD's version was another"
            return None
        self.why = "it was finished before"
        return cell

    def run(self) -> Generator[Command, Ended, CompareCell]:
        cell = CompareCell(self._record.name, self.kind.method)
        detected = False
        for script, arguments in self._runs():
            with tempfile.TemporaryDirectory() as workspace:
                report = Path(workspace) / "report.json"
                ended = yield self._command(script, arguments, report)
                measured = json.loads(report.read_text()) if report.is_file() else {}
            cell = _after(cell, script, arguments, ended, measured)
            if cell.problem is not None:
                break
            detected = script == self._method.detection
        return self._finish(cell, detected)

    def measured_seconds(self, result: CompareCell) -> float | None:
        return result.seconds

    def _command(self, script: Path, arguments: list[str], report: Path) -> Command:
        plan = self._plan
        command = [sys.executable, "-m", "advrbd_plugin.cli", "backdoorbench", "run"]
        command += ["--backdoorbench", os.fspath(plan.checkout), "--any-version", "--report", os.fspath(report)]
        command += ["--trust-record"] * plan.trust_record + ["--local-data"] * plan.local_data
        command += [os.fspath(script.relative_to(plan.checkout)), *arguments]
        log = defense_folder(self._record, self.kind.method) / f"compare_{script.parent.name}.log"
        return Command(tuple(command), log, plan.checkout)

    def _runs(self) -> Iterator[tuple[Path, list[str]]]:
        """The scripts and what each is given, one by one: a defense that has run may have detected by itself."""
        for script in self._method.scripts:
            if script != self._method.detection or self._wants_detection():
                yield script, script_arguments(self._plan, self._record, self._method, script)

    def _wants_detection(self) -> bool:
        """Always where the method has nothing else; otherwise if it is asked for and not done by the defense."""
        if self._method.defense is None:
            return True
        return self._plan.detect and not has_own_detection(self._record, self._method.name)

    def _planned_options(self) -> list[str]:
        return [argument for _, arguments in self._runs() for argument in arguments]

    def _finished_cell(self) -> CompareCell | None:
        """The finished cell, whatever its options; ``None`` if there is none.

        Where the model is newer than its figures, the script was run by hand: it is judged, and its options are
        unknown.
        """
        if self._method.defense is not None and not is_result(self._model_file):
            return None
        if self._method.defense is None and detection_rates(self._record, self._method.name) is None:
            return None
        cell = read_cell(self._notes)
        if cell is not None and cell.problem is not None:
            return None
        if cell is not None and (not self._model_file.exists() or _is_newer(self._notes, self._model_file)):
            return cell
        cell = self._judged(CompareCell(self._record.name, self._method.name))
        write_cell(self._notes, cell)
        return cell

    def _finish(self, cell: CompareCell, detected: bool) -> CompareCell:
        if cell.problem is None or self._only_detection_failed(cell):
            cell = self._judged(cell)
        if not detected and not has_own_detection(self._record, self._method.name):
            cell = replace(cell, tpr=None, fpr=None)  # they are an earlier run's
        if self.kind.method in _USES_ALGORITHM:
            cell = replace(cell, algorithm=current_algorithm())
        write_cell(self._notes, cell)
        return cell

    def _judged(self, cell: CompareCell) -> CompareCell:
        """Fill in what the files that the method left say."""
        tpr, fpr = detection_rates(self._record, self._method.name) or (None, None)
        cell = replace(cell, tpr=tpr, fpr=fpr)
        if self._method.defense is None:
            return cell
        try:
            return _with_figures(cell, self._judge.defended_model(self._record, self._model_file))
        except AdvrBDError as error:
            return replace(cell, problem=cell.problem or str(error))

    def _only_detection_failed(self, cell: CompareCell) -> bool:
        """Whether the defense itself left its model."""
        is_detection = "detection_pretrain/" in cell.reason
        return self._method.defense is not None and is_detection and is_result(self._model_file)


def _after(
    cell: CompareCell, script: Path, arguments: list[str], ended: Ended, measured: dict[str, Any]
) -> CompareCell:
    """The cell after one of its scripts has run."""
    return replace(
        cell,
        seconds=(cell.seconds or 0.0) + ended.seconds,
        peak_memory_bytes=_larger(cell.peak_memory_bytes, measured.get("peak_memory_bytes")),
        peak_cuda_bytes=_larger(cell.peak_cuda_bytes, measured.get("peak_cuda_bytes")),
        options=(*cell.options, *arguments),
        problem=_problem(script, ended),
    )


def _problem(script: Path, ended: Ended) -> str | None:
    if ended.status == 0:
        return None
    reason = ended.last_line().removeprefix("advrbd: error: ") or "it printed nothing"
    return f"{script.parent.name}/{script.name} failed: {reason} (see {ended.log})"


def _with_figures(cell: CompareCell, figures: Performance) -> CompareCell:
    return replace(cell, acc=figures.acc, asr=figures.asr, ra=figures.ra)


def _is_newer(path: Path, other: Path) -> bool:
    return path.stat().st_mtime >= other.stat().st_mtime


def _larger(first: int | None, second: int | None) -> int | None:
    return max((value for value in (first, second) if value is not None), default=None)
