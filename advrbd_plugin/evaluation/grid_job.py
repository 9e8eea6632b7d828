"""The cells of the grid as jobs: what starts their processes, and which results are current."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Generator, Sequence
from dataclasses import replace
from pathlib import Path

from advrbd_plugin.data.datasets import find_dataset
from advrbd_plugin.evaluation.algorithm import is_of_current_algorithm, stress_sets_digest
from advrbd_plugin.evaluation.cell import STRESS, Cell
from advrbd_plugin.evaluation.child import Command, Ended
from advrbd_plugin.evaluation.estimate import Estimate
from advrbd_plugin.evaluation.experiment import Options
from advrbd_plugin.evaluation.job import Job, Kind
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.methods.undefended import training_configuration
from advrbd_plugin.evaluation.process import request
from advrbd_plugin.evaluation.result import (
    FAILED,
    NOT_RUN,
    Result,
    forget_failure,
    read_failure,
    read_result,
    read_results,
    write_failure,
)
from advrbd_plugin.evaluation.runner import Display, run_jobs

StartCell = Callable[[Cell, Options], list[str]]


def run_grid(
    cells: Sequence[Cell],
    options: Options,
    display: Display,
    *,
    jobs: int = 1,
    rerun: bool = False,
    command: StartCell | None = None,
) -> list[Result]:
    """Run what has no current result; a cell that fails is recorded with its reason and the others go on.

    Args:
        cells: prerequisites before what needs them, as :func:`advrbd_plugin.evaluation.grid.make_grid` has them.
        jobs: how many run at a time; with more than one, each has one thread.
        rerun: also run cells that are done.
        command: what starts a cell's process.

    Returns:
        The result of every cell, in the order given.
    """
    obstacles = _Obstacles(options)
    grid = [GridJob(cell, options, obstacles, command or _command) for cell in cells]
    return run_jobs(grid, display, estimate_from(options.out), parallel=jobs, rerun=rerun)


def estimate_from(out: str | Path) -> Estimate:
    """What all results below a folder say of the time that cells take, whatever grid they belong to."""
    estimate = Estimate()
    for result in read_results(out):
        if result.is_done:
            estimate.add(kind_of(result.cell), measured_seconds(result))
    return estimate


def kind_of(cell: Cell) -> Kind:
    """Cells of one method on one network and data set take alike long."""
    size = () if cell.samples is None else (str(cell.samples),)
    return Kind((cell.scale, cell.dataset, cell.model, *size), cell.method, METHODS[cell.method].cost)


def measured_seconds(result: Result) -> float | None:
    """How long a cell took; ``None`` where it found its backdoored model trained already."""
    seconds: float = result.content["seconds"]
    stages = result.content.get("stage_seconds")
    trained = stages is None or stages.get("training", 0.0) > 0.5 * seconds
    return seconds if trained or not result.cell.is_prerequisite else None


def current_result(cell: Cell, options: Options) -> Result | None:
    """A cell's result if it is done and was made with what it would be made with now.

    That is: the method's settings, those of the backdoored model's training, the poisoned set of the undefended cell,
    where AdvrBD's verdicts play a part, the algorithm, and in the stress suite the source that makes its sets.
    """
    result, method = read_result(options.out, cell), METHODS[cell.method]
    if result is None or not result.is_done:
        return None
    if method.uses_algorithm and not is_of_current_algorithm(result.content):
        return None
    if cell.scale == STRESS and result.content.get("set", {}).get("made_by") != stress_sets_digest():
        return None
    same = result.content.get("configuration") == _as_json(method.configuration(cell, options))
    if method.uses_backdoored_model:
        # The oldest files lack the training's settings; they are all of the scale's own training.
        usual = training_configuration(cell, replace(options, settings={}))
        same &= result.content.get("training", _as_json(usual)) == _as_json(training_configuration(cell, options))
    return result if same and _is_of_the_same_data(result, read_result(options.out, cell.prerequisite)) else None


class GridJob(Job[Result]):
    """One method on one backdoored model."""

    def __init__(self, cell: Cell, options: Options, obstacles: _Obstacles, command: StartCell) -> None:
        self.cell, self._options, self._obstacles, self._command = cell, options, obstacles, command
        self.key, self.name, self.kind = cell, cell.name, kind_of(cell)
        waits = METHODS[cell.method].uses_backdoored_model and not cell.is_prerequisite
        self.needs = cell.prerequisite if waits else None

    def stored(self) -> Result | None:
        return current_result(self.cell, self._options)

    def obstacle(self, before: Result | None) -> str | None:
        reason = self._obstacles.of(self.cell)
        if reason is None and before is not None and not before.is_done:
            return f"there is no backdoored model: {before.reason}"
        return reason

    def not_run(self, reason: str) -> Result:
        return write_failure(self._options.out, self.cell, NOT_RUN, reason)

    def run(self) -> Generator[Command, Ended, Result]:
        forget_failure(self._options.out, self.cell)  # its reason may not be this time's
        log = Path(self._options.work) / "logs" / f"{self.cell.file_name}.log"
        ended = yield Command(tuple(self._command(self.cell, self._options)), log)
        return self._result(ended)

    def measured_seconds(self, result: Result) -> float | None:
        return measured_seconds(result)

    def _result(self, ended: Ended) -> Result:
        out = self._options.out
        result = read_result(out, self.cell) if ended.status == 0 else None
        if result is not None and result.is_done:
            return result
        told = read_failure(out, self.cell) if ended.status == 1 else None  # others died before they could say why
        if told is not None:
            return told
        reason = f"{ended.describe()}: {ended.last_line() or 'it said nothing'} (see {ended.log})"
        return write_failure(out, self.cell, FAILED, reason)


class _Obstacles:
    """The data sets and the methods that cannot be used here, and what to do about it; looked up once each."""

    def __init__(self, options: Options) -> None:
        self._options = options
        self._known: dict[tuple[str, str], str | None] = {}

    def of(self, cell: Cell) -> str | None:
        """Why a cell cannot run, as far as that can be known before it is tried."""
        return self._look_up("data", cell.dataset) or self._look_up("method", cell.method)

    def _look_up(self, what: str, name: str) -> str | None:
        if (what, name) not in self._known:
            self._known[what, name] = self._no_data(name) if what == "data" else METHODS[name].missing(self._options)
        return self._known[what, name]

    def _no_data(self, dataset: str) -> str | None:
        if find_dataset(dataset, self._options.data) is not None:
            return None
        return f"{dataset} is not in {self._options.data}: see docs/reproduce.md for where to put it"


def _is_of_the_same_data(result: Result, undefended: Result | None) -> bool:
    known = [each.content.get("data", {}).get("fingerprint") for each in (result, undefended or result)]
    return None in known or known[0] == known[1]


def _command(cell: Cell, options: Options) -> list[str]:
    return [sys.executable, "-m", "advrbd_plugin.evaluation.process", request(cell, options)]


def _as_json(configuration: object) -> object:
    """A configuration as it comes back from its file."""
    return json.loads(json.dumps(configuration))
