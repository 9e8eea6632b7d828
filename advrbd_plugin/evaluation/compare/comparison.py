"""Defenses side by side: the cells of the table as jobs of the engine, told line by line."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from advrbd_plugin.backdoorbench.record import read_record, record_folder
from advrbd_plugin.backdoorbench.requirements import explained_requirements
from advrbd_plugin.evaluation.compare.cell import UNDEFENDED, CompareCell
from advrbd_plugin.evaluation.compare.judge import Judge
from advrbd_plugin.evaluation.compare.plan import Plan, check_options, find_method
from advrbd_plugin.evaluation.compare.script_job import CompareJob, ScriptJob, UndefendedJob
from advrbd_plugin.evaluation.job import AnyJob
from advrbd_plugin.evaluation.runner import run_jobs


@explained_requirements()
def compare(plan: Plan, tell: Callable[[str], None] = print, *, nested: bool = False) -> list[CompareCell]:
    """Run what has no result with these options yet; return every cell, record by record, the undefended model first.

    A defense that fails becomes a cell with its problem; the others go on. A result that a person made with the
    scripts themselves is taken, whatever its options were.

    Args:
        nested: within a process of the engine, see :func:`advrbd_plugin.evaluation.runner.run_jobs`.

    Raises:
        AdvrBDError: a record, a defense or an option is unknown (nothing is run then), or what the toolbox imports is
            not installed.
    """
    methods = [find_method(plan.checkout, name) for name in plan.defenses]
    folders = [record_folder(plan.checkout, name) for name in plan.records]
    check_options(plan, methods)
    judge, jobs = Judge(plan), list[CompareJob]()
    for folder in folders:
        record = read_record(folder, trust=plan.trust_record)
        jobs.append(UndefendedJob(judge, record))
        jobs += [ScriptJob(plan, judge, record, method) for method in methods]
    return run_jobs(jobs, _Lines(tell), rerun=plan.rerun, nested=nested)


class _Lines:
    """A line for each job that is cached, begun or ended."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
        self._left = 0
        self._remaining: float | None = None

    def begin(self, waiting: Sequence[AnyJob], cached: Sequence[AnyJob]) -> None:
        self._left = sum(map(_has_process, waiting))
        for job in filter(_has_process, cached):
            self._tell(f"{job.name}: cached, {job.why}")

    def started(self, job: AnyJob) -> None:
        eta = f", about {self._remaining / 60:.0f} min for the {self._left} left" if self._remaining else ""
        self._tell(f"{job.name}: {job.why}{eta}")

    def ended(self, job: AnyJob, result: CompareCell) -> None:
        if _has_process(job):
            self._left -= 1
            self._tell(f"{job.name}: {result.problem or f'{result.seconds or 0.0:.0f} s'}")

    def tick(self, running: Sequence[tuple[AnyJob, float, float | None]], remaining: float | None) -> None:
        self._remaining = remaining


def _has_process(job: AnyJob) -> bool:
    return job.kind.method != UNDEFENDED
