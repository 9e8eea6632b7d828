"""Runs one command on one hostile input in a process of its own, with limits, and says what went wrong.

The process is a fork of one that has imported everything, so that thousands of inputs take minutes. It may take 2 GiB
of address space more than that one, 30 seconds of processor time, and four times as long on a busy machine.
"""

from __future__ import annotations

import io
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from pathlib import Path

DONE = (0, 3, 4)  # exit statuses: nothing found, something found, no verdict
MEMORY = 2 * 2**30  # bytes beyond those of the process that has only imported
SECONDS = 30.0


@dataclass(frozen=True)
class Case:
    """Attributes:
    name: what it is, in a few words; unique in a run.
    build: writes the input into an empty folder and returns the command for :data:`COMMANDS` and its arguments.
    """

    name: str
    build: Callable[[Path], tuple[str, ...]]


@dataclass
class Outcome:
    """What became of a case; ``faults`` is empty where all is well."""

    name: str
    status: int | None
    line: str
    seconds: float
    memory: int
    faults: list[str] = field(default_factory=list)


def run(case: Case) -> Outcome:
    """Run a case and judge it."""
    place = Path(tempfile.mkdtemp(prefix="hostile-"))
    try:
        return _run(case, place)
    finally:
        shutil.rmtree(place, ignore_errors=True)


def _run(case: Case, place: Path) -> Outcome:
    command = case.build(place)
    before = set(_listing(place))
    report = place / ".outcome"
    started = time.monotonic()
    child = os.fork()
    if child == 0:
        _work(command, report)
    status, usage, timed_out = _wait(child, started)
    seconds = usage.ru_utime + usage.ru_stime
    said = json.loads(report.read_text()) if report.is_file() else {"status": None, "out": "", "err": ""}
    report.unlink(missing_ok=True)
    memory = usage.ru_maxrss * 1024 - resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    errors = [line for line in said["err"].splitlines() if line.startswith("advrbd: error: ")]
    outcome = Outcome(case.name, said["status"], (errors or [""])[-1], seconds, max(0, memory))
    if timed_out:
        outcome.faults.append(f"it waited for longer than {4 * SECONDS:g} s")
    elif seconds > SECONDS:
        outcome.faults.append(f"it took {seconds:.1f} s")
    elif os.WIFSIGNALED(status):
        outcome.faults.append(f"it was ended by {signal.Signals(os.WTERMSIG(status)).name}")
    elif said["status"] not in (*DONE, 2):
        outcome.faults.append(f"it ended with status {said['status']}: {said['err'][-500:]}")
    elif said["status"] not in DONE and (len(errors) != 1 or len(errors[0]) > 4000):
        outcome.faults.append(f"it did not end in one line: {said['err'][-500:]}")
    if "Traceback" in said["err"] + said["out"]:
        outcome.faults.append(f"it printed a traceback: {said['err'][-1500:]}")
    if outcome.memory > MEMORY:
        outcome.faults.append(f"it took {outcome.memory / 2**20:.0f} MiB")
    new = set(_listing(place)) - before
    allowed = {path for path in new if path.split("/")[0] == "out"} if said["status"] in DONE else set()
    if new - allowed:
        outcome.faults.append(f"it left {sorted(new - allowed)[:5]}")
    return outcome


def _listing(place: Path) -> Iterator[str]:
    for parent, folders, files in os.walk(place):
        yield from (os.path.relpath(os.path.join(parent, name), place) for name in (*folders, *files))


def _wait(child: int, started: float) -> tuple[int, resource.struct_rusage, bool]:
    while True:
        found, status, usage = os.wait4(child, os.WNOHANG)
        if found:
            return status, usage, False
        if time.monotonic() - started > 4 * SECONDS:
            os.kill(child, signal.SIGKILL)
            _, status, usage = os.wait4(child, 0)
            return status, usage, True
        time.sleep(0.005)


def _work(command: tuple[str, ...], report: Path) -> None:
    """In the fork: limits, the command, a report of how it ended; never returns."""
    out, err = io.StringIO(), io.StringIO()
    status: int | None = None
    try:
        os.chdir(report.parent)
        _limit_memory()
        with redirect_stdout(out), redirect_stderr(err):
            status = COMMANDS[command[0]](*command[1:])
    except SystemExit as error:
        status = error.code if isinstance(error.code, int) else 70
    except BaseException:
        status = 70
        err.write(traceback.format_exc())
    finally:
        text = json.dumps({"status": status, "out": out.getvalue()[-10_000:], "err": err.getvalue()[-10_000:]})
        report.write_text(text)
        sys.stdout.flush()
        os._exit(0)


def _limit_memory() -> None:
    pages = int(Path("/proc/self/statm").read_text().split()[0]) if sys.platform == "linux" else 0
    if pages:
        limit = pages * resource.getpagesize() + MEMORY
        resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    resource.setrlimit(resource.RLIMIT_CPU, (int(SECONDS) + 1, int(SECONDS) + 2))


class InstantAdvrBD:
    """Takes the place of the defense: what is attacked here is the reading and the writing."""

    def __init__(self, make_model, config=None, *, work_dir=None, **_: object) -> None:
        self.make_model, self.config = make_model, config

    def fit(self, train_set):
        import torch

        from advrbd_plugin.defense.identification import Verdicts
        from advrbd_plugin.defense.result import AdvrBDResult

        nothing = torch.zeros(len(train_set))
        flags = nothing.bool()
        return AdvrBDResult(
            model=self.make_model().eval(),
            backdoored_model=self.make_model().eval(),
            verdicts=Verdicts(flags, nothing, train_set.labels.clone(), uncertain=flags, mislabelled=flags),
            suspected_classes=(),
            findings=(),
            evidence=(),
            fit=1.0,
            trained_enough=True,
            curves={},
            seconds={},
            config=self.config,
            is_retrained=False,
            rounds=1,
            remark="",
        )


def prepare() -> None:
    """Import everything, and put the instant defense in its place. Once, before the first case."""
    os.environ["OMP_NUM_THREADS"] = "1"
    import numpy  # noqa: F401
    import safetensors.torch
    import torch
    import torchvision
    import yaml  # noqa: F401
    from PIL import Image

    import advrbd_plugin.backdoorbench.record
    import advrbd_plugin.cli.evaluate
    import advrbd_plugin.defense.pipeline
    from advrbd_plugin.nn.models import MODELS
    from advrbd_plugin.report import output

    assert MODELS and safetensors.torch and torchvision
    torch.set_num_threads(1)
    Image.init()
    advrbd_plugin.defense.pipeline.AdvrBD = InstantAdvrBD
    output.overview_png = lambda record: b"picture"
    output.report_html = lambda *_: "page"


def _command_line(*arguments: str) -> int:
    from advrbd_plugin.cli import main

    return main(list(arguments))


def _explained(work: Callable[[], object]) -> int:
    """As the command line would end it."""
    from advrbd_plugin.cli import command as _command  # noqa: F401 - the same imports as in use
    from advrbd_plugin.errors import AdvrBDError

    try:
        work()
    except AdvrBDError as error:
        line = str(error)
        print(f"advrbd: error: {line}" if "\n" not in line else f"of several lines: {line}", file=sys.stderr)
        return 2
    return 0


def _record(folder: str) -> int:
    from advrbd_plugin.backdoorbench.record import read_record

    return _explained(lambda: read_record(Path(folder)))


def _torch_file(path: str) -> int:
    from advrbd_plugin.backdoorbench import safe_pickle

    return _explained(lambda: safe_pickle.load(Path(path)))


def _trigger(path: str) -> int:
    from advrbd_plugin.attacks.picture import load_patch, load_picture

    return _explained(lambda: (load_picture(path, 8, 8), load_patch(path, 3)))


COMMANDS: dict[str, Callable[..., int]] = {
    "advrbd": _command_line,
    "record": _record,
    "torch": _torch_file,
    "trigger": _trigger,
}
