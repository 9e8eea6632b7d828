"""Cell by cell: what is finished is kept, the rest is run and judged."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

from advrbd_plugin.backdoorbench.record import AttackRecord, record_folder
from advrbd_plugin.backdoorbench.requirements import explained_requirements
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.compare.cell import Cell, read_cell, write_cell
from advrbd_plugin.evaluation.compare.clock import Clock
from advrbd_plugin.evaluation.compare.judge import Judge
from advrbd_plugin.evaluation.compare.left_files import (
    defense_folder,
    detection_rates,
    has_own_detection,
    is_result,
    notes_path,
)
from advrbd_plugin.evaluation.compare.plan import Method, Plan, check_options, find_method, script_arguments
from advrbd_plugin.evaluation.compare.process import run_script


@explained_requirements()
def compare(plan: Plan, tell: Callable[[str], None] = print) -> list[Cell]:
    """Run what has no result with these options yet; return every cell, record by record, the undefended model first.

    A defense that fails becomes a cell with its problem; the others go on. A result that a person made with the
    scripts themselves is taken, whatever its options were.

    Raises:
        AdvrBDError: a record, a defense or an option is unknown (nothing is run then), or what the toolbox imports is
            not installed.
    """
    methods = [find_method(plan.checkout, name) for name in plan.defenses]
    folders = [record_folder(plan.checkout, name) for name in plan.records]
    check_options(plan, methods)
    cells = []
    clock = Clock(len(folders) * len(methods), tell)
    for folder in folders:
        judge = Judge(plan, folder)
        cells.append(judge.undefended())
        for method in methods:
            cells.append(_cell(plan, judge, method, clock))
    return cells


def _cell(plan: Plan, judge: Judge, method: Method, clock: Clock) -> Cell:
    name = f"{judge.record.name} / {method.name}"
    cell = None if plan.rerun else _finished_cell(judge, method)
    again = cell is not None and not _as_planned(plan, judge.record, method, cell)
    if cell is not None and not again:
        clock.keep(name, "it was finished before" if cell.options else "it was run by hand")
        return cell
    clock.begin(name, "run again, its options were others" if again else "running")
    cell = _run_cell(plan, judge, method)
    clock.end(cell.problem or f"{cell.seconds:.0f} s")
    return cell


def _finished_cell(judge: Judge, method: Method) -> Cell | None:
    """The finished cell, whatever its options; ``None`` if there is none.

    Where the model is newer than its figures, the script was run by hand: it is judged, and its options are unknown.
    """
    notes = notes_path(judge.record, method.name)
    cell = read_cell(notes)
    result = defense_folder(judge.record, method.name) / "defense_result.pt"
    if method.defense is not None and not is_result(result):
        return None
    if method.defense is None and detection_rates(judge.record, method.name) is None:
        return None
    if cell is not None and cell.problem is not None:
        return None
    if cell is not None and (not result.exists() or notes.stat().st_mtime >= result.stat().st_mtime):
        return cell
    cell = _judged(judge, method, Cell(judge.record.name, method.name))
    write_cell(notes, cell)
    return cell


def _as_planned(plan: Plan, record: AttackRecord, method: Method, cell: Cell) -> bool:
    """Whether the finished cell had the plan's options; one that was run by hand may have had any."""
    planned = [argument for _, arguments in _runs(plan, record, method) for argument in arguments]
    return not cell.options or list(cell.options) == planned


def _runs(plan: Plan, record: AttackRecord, method: Method) -> Iterator[tuple[Path, list[str]]]:
    """The scripts of a cell and what each is given, one by one: a defense that has run may have detected by itself."""
    for script in method.scripts:
        if script == method.detection and method.defense is not None:
            if not plan.detect or has_own_detection(record, method.name):
                continue
        yield script, script_arguments(plan, record, method, script)


def _run_cell(plan: Plan, judge: Judge, method: Method) -> Cell:
    cell = Cell(judge.record.name, method.name)
    detected = False
    for script, arguments in _runs(plan, judge.record, method):
        log = defense_folder(judge.record, method.name) / f"compare_{script.parent.name}.log"
        report, problem = run_script(plan, script, arguments, log)
        cell = replace(
            cell,
            seconds=(cell.seconds or 0.0) + report["seconds"],
            peak_memory_bytes=_larger(cell.peak_memory_bytes, report.get("peak_memory_bytes")),
            peak_cuda_bytes=_larger(cell.peak_cuda_bytes, report.get("peak_cuda_bytes")),
            options=(*cell.options, *arguments),
            problem=problem,
        )
        if problem is not None:
            break
        detected = script == method.detection
    if cell.problem is None or (method.defense is not None and _only_detection_failed(judge.record, cell)):
        cell = _judged(judge, method, cell)
    if not detected and not has_own_detection(judge.record, method.name):
        cell = replace(cell, tpr=None, fpr=None)  # they are an earlier run's
    write_cell(notes_path(judge.record, method.name), cell)
    return cell


def _judged(judge: Judge, method: Method, cell: Cell) -> Cell:
    """Fill in what the files that the method left say."""
    rates = detection_rates(judge.record, method.name) or (None, None)
    cell = replace(cell, tpr=rates[0], fpr=rates[1])
    if method.defense is None:
        return cell
    path = defense_folder(judge.record, method.name) / "defense_result.pt"
    try:
        figures = judge.model_file(path)
    except AdvrBDError as error:
        return replace(cell, problem=cell.problem or str(error))
    return replace(cell, acc=figures["test_acc"], asr=figures["test_asr"], ra=figures["test_ra"])


def _only_detection_failed(record: AttackRecord, cell: Cell) -> bool:
    """Whether the defense itself left its model."""
    return "detection_pretrain/" in (cell.problem or "") and is_result(
        defense_folder(record, cell.defense) / "defense_result.pt"
    )


def _larger(first: int | None, second: int | None) -> int | None:
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None
