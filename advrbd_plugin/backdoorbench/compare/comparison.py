"""Cell by cell: what is finished is kept, the rest is run and judged."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from advrbd_plugin.backdoorbench.compare.cell import Cell, read_cell, write_cell
from advrbd_plugin.backdoorbench.compare.clock import Clock
from advrbd_plugin.backdoorbench.compare.judge import Judge
from advrbd_plugin.backdoorbench.compare.left_files import (
    defense_folder,
    detection_rates,
    has_own_detection,
    is_result,
    notes_path,
)
from advrbd_plugin.backdoorbench.compare.plan import Method, Plan, check_options, find_method, script_arguments
from advrbd_plugin.backdoorbench.compare.process import run_script
from advrbd_plugin.backdoorbench.record import AttackRecord, record_folder
from advrbd_plugin.errors import AdvrBDError


def compare(plan: Plan, tell: Callable[[str], None] = print) -> list[Cell]:
    """Run what has no result yet and return every cell, record by record, the undefended model first.

    A defense that fails becomes a cell with its problem; the others go on.

    Raises:
        AdvrBDError: a record, a defense or an option is unknown. Nothing is run then.
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
    cell = _kept_cell(plan, judge, method)
    if cell is not None:
        clock.keep(name)
        return cell
    clock.begin(name)
    cell = _run_cell(plan, judge, method)
    clock.end(cell.problem or f"{cell.seconds:.0f} s")
    return cell


def _kept_cell(plan: Plan, judge: Judge, method: Method) -> Cell | None:
    """The finished cell, judged again if its model is newer than its figures; ``None`` if there is none."""
    if plan.rerun:
        return None
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


def _run_cell(plan: Plan, judge: Judge, method: Method) -> Cell:
    cell = Cell(judge.record.name, method.name)
    scripts = [script for script in (method.defense, method.detection) if script is not None]
    for script in scripts:
        is_detection = script == method.detection
        if is_detection and method.defense and (not plan.detect or has_own_detection(judge.record, method.name)):
            continue
        arguments = script_arguments(plan, judge.record, method, script)
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
    if cell.problem is None or (method.defense is not None and _only_detection_failed(judge.record, cell)):
        cell = _judged(judge, method, cell)
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
