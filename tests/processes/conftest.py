"""Starting a script in several processes, as torchrun does."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HERE = Path(__file__).resolve().parent


def environment() -> dict[str, str]:
    search = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    return os.environ | {"PYTHONPATH": search, "OMP_NUM_THREADS": "1"}


@pytest.fixture
def start() -> Callable[..., list[subprocess.CompletedProcess[str]]]:
    """Runs a script of this folder in ``count`` processes and gives what each said, once all have ended."""

    def run(count: int, script: str, *arguments: object) -> list[subprocess.CompletedProcess[str]]:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            place = {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free.getsockname()[1]), "WORLD_SIZE": str(count)}
        command = [sys.executable, str(HERE / script), *map(str, arguments)]
        started = [
            subprocess.Popen(
                command,
                env=environment() | place | {"RANK": str(rank), "LOCAL_RANK": str(rank)},
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
            )
            for rank in range(count)
        ]
        try:
            said = [process.communicate(timeout=500) for process in started]
        finally:
            for process in started:
                process.kill()
        return [
            subprocess.CompletedProcess(command, process.returncode, *texts)
            for process, texts in zip(started, said, strict=True)
        ]

    return run


@pytest.fixture
def torchrun() -> Callable[..., subprocess.CompletedProcess[str]]:
    """Runs a command line behind ``torchrun --nproc-per-node=2``."""

    def run(*words: object) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2"]
        return subprocess.run(
            [*command, *map(str, words)], env=environment(), capture_output=True, text=True, timeout=500, check=False
        )

    return run
