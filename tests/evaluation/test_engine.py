"""The engine on jobs that are no cells: several processes in turn, none at all, and a run that is stopped."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import pytest

from advrbd_plugin.evaluation.child import Command
from advrbd_plugin.evaluation.estimate import Estimate
from advrbd_plugin.evaluation.job import Job, Kind
from advrbd_plugin.evaluation.runner import run_jobs


@dataclass(frozen=True)
class Answer:
    """A job's result: how its processes ended."""

    statuses: tuple[int, ...] = ()
    reason: str = ""

    @property
    def is_done(self) -> bool:
        return not self.reason


class Script(Job[Answer]):
    """Runs pieces of Python one after another, and stops at the first that fails."""

    def __init__(self, folder: Path, name: str, pieces: Sequence[str], needs: str | None = None) -> None:
        self.key = self.name = name
        self.kind = Kind(("here",), name)
        self.needs, self._folder, self._pieces = needs, folder, pieces
        self.closed = False

    def stored(self) -> Answer | None:
        return Answer() if (self._folder / f"{self.name}.done").exists() else None

    def obstacle(self, before: Answer | None) -> str | None:
        return f"before it: {before.reason}" if before is not None and before.reason else None

    def not_run(self, reason: str) -> Answer:
        return Answer(reason=reason)

    def run(self):
        statuses: tuple[int, ...] = ()
        try:
            for piece in self._pieces:
                command = (sys.executable, "-c", piece)
                ended = yield Command(command, self._folder / f"{self.name}.log", self._folder)
                statuses += (ended.status,)
                if ended.status:
                    return Answer(statuses, f"{ended.describe()}: {ended.last_line()}")
        finally:
            self.closed = True
        (self._folder / f"{self.name}.done").touch()
        return Answer(statuses)

    def measured_seconds(self, result: Answer) -> float:
        return 3.0


class Silent:
    """Tells nothing, and may interrupt."""

    def __init__(self, interrupt_at: str | None = None) -> None:
        self.order: list[str] = []
        self._interrupt_at = interrupt_at

    def begin(self, waiting, cached) -> None:
        self.order.append(f"{len(waiting)} waiting, {len(cached)} cached")

    def started(self, job) -> None:
        if job.name == self._interrupt_at:
            raise KeyboardInterrupt

    def ended(self, job, result) -> None:
        self.order.append(job.name)

    def tick(self, running, remaining) -> None:
        pass


def test_a_job_may_have_several_processes_or_none(tmp_path):
    jobs = [
        Script(tmp_path, "two", ["open('a', 'w').write('1')", "print(open('a').read())"]),
        Script(tmp_path, "none", []),
        Script(tmp_path, "fails", ["print('so far'); raise SystemExit('no luck')", "open('never', 'w')"]),
        Script(tmp_path, "behind", ["pass"], needs="fails"),
        Script(tmp_path, "after", ["pass"], needs="two"),
    ]
    display, estimate = Silent(), Estimate()
    two, none, fails, behind, after = run_jobs(jobs, display, estimate, parallel=2)
    assert (two, none, after) == (Answer((0, 0)), Answer(), Answer((0,)))
    assert fails == Answer((1,), "its process ended with status 1: no luck") and not (tmp_path / "never").exists()
    assert behind.reason == "before it: its process ended with status 1: no luck"
    assert display.order.index("two") < display.order.index("after")
    assert estimate.seconds(jobs[0].kind) == 3.0 and estimate.remaining([jobs[2].kind], [], 1) == 3.0
    again = Silent()
    run_jobs(jobs, again)
    assert again.order == ["2 waiting, 3 cached", "fails", "behind"]


@pytest.mark.parametrize("nested", [False, True])
def test_a_stopped_run_ends_its_processes_and_closes_its_jobs(tmp_path, nested):
    piece = "import signal, sys, time; signal.signal(signal.SIGTERM, lambda *_: sys.exit(3)); time.sleep(600)"
    jobs = [Script(tmp_path, "first", [piece]), Script(tmp_path, "second", [piece])]
    with pytest.raises(KeyboardInterrupt):
        run_jobs(jobs, Silent(interrupt_at="second"), parallel=2, nested=nested)
    assert all(job.closed for job in jobs) and not list(tmp_path.glob("*.done"))
