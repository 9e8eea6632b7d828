"""The engine: every cell a job, every job a process (or several in turn), some at a time, each behind what it needs."""

from __future__ import annotations

import signal
import time
from collections.abc import Generator, Hashable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any, Generic, Protocol

from advrbd_plugin.evaluation.child import Child, Command, Ended, end_all
from advrbd_plugin.evaluation.estimate import Estimate
from advrbd_plugin.evaluation.job import AnyJob, Job, R

_POLL_SECONDS = 0.2


class Display(Protocol):
    """What is told of jobs at work."""

    def begin(self, waiting: Sequence[AnyJob], cached: Sequence[AnyJob]) -> None:
        """``waiting`` jobs are to run, ``cached`` ones have a current result."""

    def started(self, job: AnyJob) -> None:
        """A job began."""

    def ended(self, job: AnyJob, result: Any) -> None:
        """A job has its result."""

    def tick(self, running: Sequence[tuple[AnyJob, float, float | None]], remaining: float | None) -> None:
        """The jobs at work with the seconds that they took and will take in all, and the seconds left of all jobs."""


def run_jobs(
    jobs: Sequence[Job[R]],
    display: Display,
    estimate: Estimate | None = None,
    *,
    parallel: int = 1,
    rerun: bool = False,
    nested: bool = False,
) -> list[R]:
    """Run the jobs that have no current result; one that fails has a result that says so, and the others go on.

    After Ctrl-C, SIGTERM and SIGHUP the processes are ended, so that they unwind and nothing half-written stays.

    Args:
        jobs: each behind the one that it needs.
        estimate: what is known of the time that jobs take, by default from the current results; it learns from each
            job that is done.
        parallel: how many run at a time; with more than one, each has one thread.
        rerun: also run jobs that have a current result.
        nested: within a job's own process, which leads their group and hears the signals.

    Returns:
        The result of every job, in the order given.

    Raises:
        KeyboardInterrupt: one of those signals came.
    """
    runner = _Runner(jobs, display, estimate, parallel, rerun, own_group=not nested)
    with nullcontext() if nested else _ended_by_signals():
        try:
            runner.run()
        finally:
            runner.stop()
    return [runner.results[job.key] for job in jobs]


@dataclass
class _Running(Generic[R]):
    """A job at work: its generator, and the process that the generator waits for."""

    job: Job[R]
    steps: Generator[Command, Ended, R]
    child: Child
    seconds_before: float = 0.0

    @property
    def seconds(self) -> float:
        return self.seconds_before + self.child.seconds


class _Runner(Generic[R]):
    def __init__(
        self,
        jobs: Sequence[Job[R]],
        display: Display,
        estimate: Estimate | None,
        parallel: int,
        rerun: bool,
        *,
        own_group: bool,
    ) -> None:
        self._display, self._parallel, self._own_group = display, parallel, own_group
        self.results: dict[Hashable, R] = {}
        for job in () if rerun else jobs:
            stored = job.stored()
            if stored is not None:
                self.results[job.key] = stored
        self._cached = [job for job in jobs if job.key in self.results]
        self._estimate = estimate or _estimate_from(self._cached, self.results)
        self._waiting = [job for job in jobs if job.key not in self.results]
        self._to_do = {job.key for job in self._waiting}
        self._running: list[_Running[R]] = []

    def run(self) -> None:
        self._display.begin(self._waiting, self._cached)
        while self._waiting or self._running:
            self._tell()
            self._start_some()
            if self._running:
                time.sleep(_POLL_SECONDS)
            for each in list(self._running):
                ended = each.child.poll()
                if ended is not None:
                    self._go_on(each, ended)

    def stop(self) -> None:
        """End what still runs."""
        end_all([each.child for each in self._running])
        for each in self._running:
            each.steps.close()
        self._running.clear()

    def _start_some(self) -> None:
        for job in list(self._waiting):
            if len(self._running) >= self._parallel:
                return
            reason = job.obstacle(None if job.needs is None else self.results.get(job.needs))
            if reason is not None:
                self._waiting.remove(job)
                self._settle(job, job.not_run(reason))
            elif job.needs not in self._to_do:
                self._tell()
                self._waiting.remove(job)
                self._start(job)

    def _start(self, job: Job[R]) -> None:
        steps = job.run()
        try:
            command = next(steps)
        except StopIteration as stopped:  # it needs no process
            self._settle(job, stopped.value)
            return
        self._running.append(_Running(job, steps, self._child(command)))
        self._display.started(job)

    def _go_on(self, running: _Running[R], ended: Ended) -> None:
        """Start the job's next process, or take its result."""
        self._running.remove(running)
        try:
            command = running.steps.send(ended)
        except StopIteration as stopped:
            self._settle(running.job, stopped.value)
            return
        spent = running.seconds_before + ended.seconds
        self._running.append(_Running(running.job, running.steps, self._child(command), spent))

    def _child(self, command: Command) -> Child:
        return Child(command, one_thread=self._parallel > 1, own_group=self._own_group)

    def _settle(self, job: Job[R], result: R) -> None:
        self.results[job.key] = result
        self._to_do.discard(job.key)
        if result.is_done:
            self._estimate.add(job.kind, job.measured_seconds(result))
        self._display.ended(job, result)

    def _tell(self) -> None:
        running = [(each.job, each.seconds, self._estimate.seconds(each.job.kind)) for each in self._running]
        spent = [(job.kind, seconds) for job, seconds, _ in running]
        waiting = [job.kind for job in self._waiting]
        self._display.tick(running, self._estimate.remaining(waiting, spent, self._parallel))


def _estimate_from(cached: Sequence[Job[R]], results: Mapping[Hashable, R]) -> Estimate:
    estimate = Estimate()
    for job in cached:
        estimate.add(job.kind, job.measured_seconds(results[job.key]))
    return estimate


@contextmanager
def _ended_by_signals() -> Iterator[None]:
    """Within this context SIGTERM, and SIGHUP of a terminal that is closed, end the run as Ctrl-C does."""

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
