"""Starting the `advrbd` command as a process of its own, to be hit by signals."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

TORTURE = os.environ.get("ADVRBD_TORTURE", "0") not in ("", "0")

AS_MODULE = (sys.executable, "-m", "advrbd_plugin")
AS_MODULE_OF_CLI = (sys.executable, "-m", "advrbd_plugin.cli")
# What pip writes into the script for an entry point.
AS_SCRIPT = (sys.executable, "-c", "import sys; from advrbd_plugin.cli import console; sys.exit(console())")


def start(*arguments: object, way: tuple[str, ...] = AS_MODULE) -> subprocess.Popen[str]:
    """The process in a group of its own, heeding SIGINT even where the tests run under nohup."""
    return subprocess.Popen(
        [*way, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": ""},
        preexec_fn=_heed_signals,
    )


def _heed_signals() -> None:
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


def wait_until_handled(process: subprocess.Popen[str]) -> None:
    """Wait for Python's own start, whose traceback no program can prevent: until the command handles SIGTERM."""
    mask = 1 << (signal.SIGTERM - 1)
    while process.poll() is None:
        caught = next(
            line for line in Path(f"/proc/{process.pid}/status").read_text().splitlines() if line.startswith("SigCgt:")
        )
        if int(caught.split()[1], 16) & mask:
            return
        time.sleep(0.002)


def finish(process: subprocess.Popen[str], seconds: float = 120) -> tuple[int, str, list[str]]:
    """(exit status, stdout, lines of stderr); a process that hangs is killed, which fails the test."""
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        out, err = process.communicate()
        pytest.fail(f"no end after {seconds} s: {err[-2000:]}")
    return process.returncode, out, err.splitlines()
