"""A process for one step of a job: its output goes to a log, and it is ended with all that it started."""

from __future__ import annotations

import os
import signal
import subprocess
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import advrbd_plugin
from advrbd_plugin.files import explain_os_error

_SECONDS_TO_END = 15.0
_LOG_TAIL_BYTES = 4096


@dataclass(frozen=True)
class Command:
    """Attributes:
    arguments: of the process, the program first.
    log: where its output goes; missing folders are made.
    folder: in which it is run; the current one by default.
    """

    arguments: tuple[str, ...]
    log: Path
    folder: Path | None = None


@dataclass(frozen=True)
class Ended:
    """Attributes:
    status: the process's exit status; the negative signal that killed it.
    seconds: wall time.
    log: what it said.
    """

    status: int
    seconds: float
    log: Path

    def describe(self) -> str:
        """How it ended, in words."""
        if self.status < 0:
            name = signal.Signals(-self.status).name
            return f"its process was killed by {name}" + (" (out of memory?)" if name == "SIGKILL" else "")
        return f"its process ended with status {self.status}"

    def last_line(self) -> str:
        """The last line of its output that is not blank, at most 300 characters; ``""`` where there is none."""
        text = self.log.read_bytes()[-_LOG_TAIL_BYTES:].decode("utf-8", "replace")
        lines = [line.strip() for line in text.splitlines() if line.strip()]
        return lines[-1][:300] if lines else ""


class Child:
    """A process at work, in which this very package is found whatever its folder is.

    Args:
        one_thread: let PyTorch use one thread, since others run beside it.
        own_group: give it a process group of its own, so that :meth:`end` ends what it started too and Ctrl-C does not
            reach it.

    Raises:
        StorageError: the log cannot be written.
    """

    def __init__(self, command: Command, *, one_thread: bool = False, own_group: bool = True) -> None:
        self._log, self._own_group = command.log, own_group
        self._began = time.monotonic()
        try:
            command.log.parent.mkdir(parents=True, exist_ok=True)
            with command.log.open("wb") as output:
                self._process = subprocess.Popen(
                    command.arguments,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    cwd=command.folder,
                    env=_environment(one_thread),
                    start_new_session=own_group,
                )
        except OSError as error:
            raise explain_os_error(error, command.log) from error

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self._began

    def poll(self) -> Ended | None:
        """How it ended; ``None`` while it runs."""
        status = self._process.poll()
        return None if status is None else Ended(status, self.seconds, self._log)

    def ask_to_end(self) -> None:
        """Send SIGTERM, on which processes of this package unwind."""
        self._send(signal.SIGTERM)

    def end(self, deadline: float) -> None:
        """Wait until ``deadline`` (:func:`time.monotonic`), then kill it."""
        try:
            self._process.wait(max(0.0, deadline - time.monotonic()))
        except subprocess.TimeoutExpired:
            self._send(signal.SIGKILL)
            self._process.wait()

    def _send(self, number: signal.Signals) -> None:
        with suppress(ProcessLookupError):
            if self._own_group:
                os.killpg(self._process.pid, number)
            else:
                self._process.send_signal(number)


def end_all(children: list[Child]) -> None:
    """End processes together; those that do not unwind within 15 seconds are killed."""
    for child in children:
        child.ask_to_end()
    deadline = time.monotonic() + _SECONDS_TO_END
    for child in children:
        child.end(deadline)


def _environment(one_thread: bool) -> dict[str, str]:
    home = os.fspath(Path(advrbd_plugin.__file__).resolve().parent.parent)
    path = os.pathsep.join([home, *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": path} | ({"OMP_NUM_THREADS": "1"} if one_thread else {})
