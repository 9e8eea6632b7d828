"""Running a grid: every cell a process, some at a time, each behind the cell that trains its backdoored model."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Protocol

import advrbd_plugin
from advrbd_plugin.data.datasets import find_dataset
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.estimate import Estimate
from advrbd_plugin.evaluation.experiment import Options
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
    write_failure,
)
from advrbd_plugin.files import explain_os_error

_POLL_SECONDS = 0.2
_SECONDS_TO_END = 15.0
_LOG_TAIL_BYTES = 4096


class Display(Protocol):
    """What is told of a grid at work."""

    def begin(self, waiting: int, kept: int) -> None:
        """``waiting`` cells are to run, ``kept`` were done before."""

    def started(self, cell: Cell) -> None:
        """A cell's process began."""

    def ended(self, cell: Cell, result: Result) -> None:
        """A cell has its result."""

    def tick(self, running: Sequence[tuple[Cell, float, float | None]], remaining: float | None) -> None:
        """The cells at work with the seconds that they took and will take in all, and the seconds left of the grid."""


@dataclass
class _Running:
    cell: Cell
    process: subprocess.Popen[bytes]
    log: Path
    began: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.began


def kept_result(cell: Cell, options: Options) -> Result | None:
    """A cell's result if it is done and was made with what it would be made with now: the method's settings, those of
    the backdoored model's training, and the poisoned set of the undefended cell."""
    result, method = read_result(options.out, cell), METHODS[cell.method]
    if result is None or not result.is_done:
        return None
    same = result.content.get("configuration") == _as_json(method.configuration(cell, options))
    if method.uses_backdoored_model:
        # Files from before this was kept are all of the scale's own training.
        usual = training_configuration(cell, replace(options, settings={}))
        same &= result.content.get("training", _as_json(usual)) == _as_json(training_configuration(cell, options))
    return result if same and _is_of_the_same_data(result, read_result(options.out, cell.prerequisite)) else None


def _is_of_the_same_data(result: Result, undefended: Result | None) -> bool:
    known = [each.content.get("data", {}).get("fingerprint") for each in (result, undefended or result)]
    return None in known or known[0] == known[1]


def run_grid(
    cells: Sequence[Cell],
    options: Options,
    display: Display,
    *,
    jobs: int = 1,
    rerun: bool = False,
    command: Callable[[Cell, Options], list[str]] | None = None,
) -> list[Result]:
    """Run what has no result yet; a cell that fails is recorded with its reason and the others go on.

    Args:
        cells: prerequisites before what needs them, as :func:`advrbd_plugin.evaluation.grid.make_grid` has them.
        jobs: how many run at a time; with more than one, each has one thread.
        rerun: also run cells that are done.
        command: what starts a cell's process.

    Returns:
        The result of every cell, in the order given.
    """
    grid = _Grid(cells, options, display, jobs, rerun, command or _command)
    with _ended_by_signals():
        try:
            grid.run()
        finally:
            grid.stop()
    return [grid.results[cell] for cell in cells]


class _Grid:
    def __init__(
        self,
        cells: Sequence[Cell],
        options: Options,
        display: Display,
        jobs: int,
        rerun: bool,
        command: Callable[[Cell, Options], list[str]],
    ) -> None:
        self._options, self._display, self._jobs, self._command = options, display, jobs, command
        self.results: dict[Cell, Result] = {}
        self._estimate = Estimate.from_results(options.out)
        for cell in cells if not rerun else ():
            kept = kept_result(cell, options)
            if kept is not None:
                self.results[cell] = kept
        self._waiting = [cell for cell in cells if cell not in self.results]
        self._to_do = set(self._waiting)
        self._running: list[_Running] = []
        self._obstacles = _static_obstacles(self._waiting, options)

    def run(self) -> None:
        self._display.begin(len(self._waiting), len(self.results))
        while self._waiting or self._running:
            self._tell()
            self._start_some()
            if self._running:
                time.sleep(_POLL_SECONDS)
            for each in [each for each in self._running if each.process.poll() is not None]:
                self._running.remove(each)
                self._take_in(each)

    def stop(self) -> None:
        """End what still runs: the processes unwind on SIGTERM, so that nothing half-written stays."""
        for each in self._running:
            _signal_group(each.process, signal.SIGTERM)
        deadline = time.monotonic() + _SECONDS_TO_END
        for each in self._running:
            try:
                each.process.wait(max(0.0, deadline - time.monotonic()))
            except subprocess.TimeoutExpired:
                _signal_group(each.process, signal.SIGKILL)
                each.process.wait()
        self._running.clear()

    def _start_some(self) -> None:
        for cell in list(self._waiting):
            if len(self._running) >= self._jobs:
                return
            reason = self._obstacle(cell)
            if reason is not None:
                self._waiting.remove(cell)
                self._settle(cell, write_failure(self._options.out, cell, NOT_RUN, reason))
            elif self._is_ready(cell):
                self._waiting.remove(cell)
                self._start(cell)

    def _is_ready(self, cell: Cell) -> bool:
        alone = cell.is_prerequisite or not METHODS[cell.method].uses_backdoored_model
        return alone or cell.prerequisite not in self._to_do

    def _obstacle(self, cell: Cell) -> str | None:
        """Why a cell cannot run, as far as that can be known before it is tried."""
        reason = self._obstacles.get(cell)
        if reason is not None or not METHODS[cell.method].uses_backdoored_model:
            return reason
        before = None if cell.is_prerequisite else self.results.get(cell.prerequisite)
        if before is not None and not before.is_done:
            return f"there is no backdoored model: {before.reason}"
        return None

    def _start(self, cell: Cell) -> None:
        log = Path(self._options.work) / "logs" / f"{cell.file_name}.log"
        forget_failure(self._options.out, cell)  # its reason may not be this time's
        environment = os.environ | {"PYTHONPATH": _python_path()}
        if self._jobs > 1:
            environment["OMP_NUM_THREADS"] = "1"
        try:
            log.parent.mkdir(parents=True, exist_ok=True)
            with log.open("wb") as output:
                process = subprocess.Popen(
                    self._command(cell, self._options),
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=environment,
                    start_new_session=True,
                )
        except OSError as error:
            raise explain_os_error(error, log) from error
        self._running.append(_Running(cell, process, log))
        self._display.started(cell)

    def _take_in(self, ended: _Running) -> None:
        cell, status, out = ended.cell, ended.process.returncode, self._options.out
        result = read_result(out, cell) if status == 0 else None
        if result is not None and result.is_done:
            self._estimate.add(result)
            self._settle(cell, result)
            return
        said = read_failure(out, cell) if status == 1 else None  # others died before they could say why
        self._settle(
            cell, said or write_failure(out, cell, FAILED, f"{_describe_end(status)}: {_last_line(ended.log)}")
        )

    def _settle(self, cell: Cell, result: Result) -> None:
        self.results[cell] = result
        self._to_do.discard(cell)
        self._display.ended(cell, result)

    def _tell(self) -> None:
        running = [(each.cell, each.seconds, self._estimate.seconds(each.cell)) for each in self._running]
        spent = [(cell, seconds) for cell, seconds, _ in running]
        self._display.tick(running, self._estimate.remaining(self._waiting, spent, self._jobs))


def _static_obstacles(cells: Sequence[Cell], options: Options) -> dict[Cell, str]:
    """The cells that lack their data set or what their method needs, and what to do about it."""
    no_data = {
        dataset: f"{dataset} is not in {options.data}: see docs/reproduce.md for where to put it"
        for dataset in {cell.dataset for cell in cells}
        if find_dataset(dataset, options.data) is None
    }
    missing = {method: METHODS[method].missing(options) for method in {cell.method for cell in cells}}
    reasons = {cell: no_data.get(cell.dataset) or missing[cell.method] for cell in cells}
    return {cell: reason for cell, reason in reasons.items() if reason is not None}


def _command(cell: Cell, options: Options) -> list[str]:
    return [sys.executable, "-m", "advrbd_plugin.evaluation.process", request(cell, options)]


def _python_path() -> str:
    """In which the process finds this very package, whatever folder it is started in."""
    home = os.fspath(Path(advrbd_plugin.__file__).resolve().parent.parent)
    return os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])


def _describe_end(status: int) -> str:
    if status < 0:
        name = signal.Signals(-status).name
        return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
    return f"its process ended with status {status}"


def _last_line(log: Path) -> str:
    text = log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return f"{lines[-1][:300] if lines else 'it said nothing'} (see {log})"


def _as_json(configuration: object) -> object:
    """A configuration as it comes back from its file."""
    return json.loads(json.dumps(configuration))


def _signal_group(process: subprocess.Popen[bytes], number: signal.Signals) -> None:
    """A cell's process leads a group, in which its own children are."""
    with suppress(ProcessLookupError):
        os.killpg(process.pid, number)


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within this context SIGTERM, and SIGHUP of a terminal that is closed, end the grid as Ctrl-C does."""

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    # One that is ignored, as SIGHUP under nohup, stays ignored.
    heeded = [each for each in (signal.SIGTERM, signal.SIGHUP) if signal.getsignal(each) != signal.SIG_IGN]
    try:
        before = {each: signal.signal(each, interrupt) for each in heeded}
    except ValueError:  # signals belong to the main thread
        yield
        return
    try:
        yield
    finally:
        for each, handler in before.items():
            signal.signal(each, handler)
