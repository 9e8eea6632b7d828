"""Joining the processes that ``torchrun`` started, and one line that names the one that died.

Each process counts up a number in the run's key-value store twice a second. When a process fails, those that waited for
it are cut off in the middle of an exchange, or get ``torchrun``'s SIGTERM; they look whose number stands still. The
first of them to know says so, and all others end without a word.
"""

from __future__ import annotations

import os
import signal
import socket
import threading
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist

from advrbd_plugin.errors import AdvrBDError, is_out_of_memory
from advrbd_plugin.processes import Processes, names, sharing

_BEAT_SECONDS = 0.5
_STILL_SECONDS = 2.5
# Others may wait this long for rank 0 to read its pictures; a process that died is noticed at once.
_TIMEOUT = timedelta(hours=12)
_JOIN_SECONDS = 600
_GO_ON = "run the same command again to go on from here, with as many processes as you like"


def launched() -> int:
    """How many processes ``torchrun`` started; 1 without it.

    Raises:
        AdvrBDError: its environment variables are no numbers.
    """
    return _number("WORLD_SIZE", 1)


@contextmanager
def joined(device: str | None) -> Iterator[tuple[Processes, torch.device]]:
    """Within this context the processes of ``torchrun`` share the work; without it there is one.

    Args:
        device: ``cpu``, ``cuda`` (each process of a machine takes its own GPU) or, for one process, ``cuda:N``;
            ``None`` takes the GPUs where there are any.

    Yields:
        The processes, and where this one computes.

    Raises:
        AdvrBDError: there are fewer GPUs than processes; a process that died, named in one line.
        SystemExit: another process has said why the run ends.
    """
    count = launched()
    if count == 1:
        yield Processes(), _device(device)
        return
    rank, place = _number("RANK", 0), _device_of_rank(device, _number("LOCAL_RANK", 0))
    group = _Group(rank, count)
    if rank:
        warnings.simplefilter("ignore")  # rank 0 says it
    backend = "gloo" if place.type == "cpu" else "cpu:gloo,cuda:nccl"
    try:
        group.wait_for_all()
        dist.init_process_group(backend, store=group.store, rank=rank, world_size=count, timeout=_TIMEOUT)
        processes = Processes(rank, count)
        with sharing(processes):
            yield processes, place
    except BaseException as error:
        group.end(error)
        raise
    group.leave()
    dist.destroy_process_group()


class _Group:
    """What the processes tell one another beside the work."""

    def __init__(self, rank: int, count: int) -> None:
        self._rank, self._count = rank, count
        self.store = _store(rank, count)
        self._store = _store(rank, count, is_client=True)  # of its own, so that no exchange keeps it waiting
        self._store.set(f"who/{rank}", f"{names([rank])} ({socket.gethostname()}, process {os.getpid()})")
        self._ended = threading.Event()
        self._beating = threading.Thread(target=self._beat, daemon=True)
        self._beating.start()

    def wait_for_all(self) -> None:
        """Return once every process is there. Raises AdvrBDError if one does not come."""
        missing = list(range(self._count))
        for _ in range(_JOIN_SECONDS):
            missing = [rank for rank in missing if not self._store.check([f"who/{rank}"])]
            if not missing:
                return
            time.sleep(1)
        raise AdvrBDError(f"{names(missing)} of {self._count} did not start within {_JOIN_SECONDS // 60} minutes")

    def leave(self) -> None:
        """This process is done; that it falls silent is no death. Rank 0 stays for the others: it holds the store."""
        if self._rank:
            self._fall_silent()
        self._store.set(f"done/{self._rank}", "")
        if not self._rank:
            self._wait_for_the_others()
            self._fall_silent()

    def _wait_for_the_others(self) -> None:
        """Return once all are done, or those that are not stand still."""
        done = [f"done/{rank}" for rank in range(self._count)]
        beats, since = self._beats()[1:], time.monotonic()
        while not self._store.check(done) and time.monotonic() - since < _STILL_SECONDS:
            time.sleep(_BEAT_SECONDS / 10)
            if (now := self._beats()[1:]) != beats:
                beats, since = now, time.monotonic()

    def end(self, error: BaseException) -> None:
        """Raise what the user shall read of ``error``; return where it may pass as it is.

        Raises:
            AdvrBDError: the line, with the name of the process.
            SystemExit: another process says it.
        """
        for number in (signal.SIGINT, signal.SIGTERM):  # torchrun's would cut off the line that says why
            with suppress(ValueError):  # not in the main thread
                signal.signal(number, signal.SIG_IGN)
        try:
            self._explain(error)
        finally:
            self._fall_silent()

    def _explain(self, error: BaseException) -> None:
        cut_off = _is_cut_off(error)
        dead = self._dead() if cut_off or _is_termination(error) else []
        if not self._speaks():
            raise SystemExit(1) from None
        if dead:
            raise AdvrBDError(f"{self._describe(dead)} died: {_GO_ON}") from error
        if cut_off:
            reason = str(error).strip().splitlines()[0][:200]
            raise AdvrBDError(f"the processes lost touch with one another ({reason}): {_GO_ON}") from error
        if self._rank and (isinstance(error, (AdvrBDError, OSError)) or is_out_of_memory(error)):
            reason = " ".join(str(error).split()) or type(error).__name__
            raise AdvrBDError(f"{self._describe([self._rank])}: {reason}") from error

    def _speaks(self) -> bool:
        """Whether this process is the first that has something to say."""
        try:
            return self._store.add("said", 1) == 1
        except Exception:  # the store went with rank 0
            return self._rank == 1

    def _dead(self) -> list[int]:
        """The ranks whose number stands still."""
        try:
            if self._store.add("said", 0):
                return []
            before = self._beats()
            time.sleep(_STILL_SECONDS)
            after = self._beats()
            still = [rank for rank in range(self._count) if before[rank] == after[rank] and rank != self._rank]
            return [rank for rank in still if not self._store.check([f"done/{rank}"])]
        except Exception:  # the store went with the process that held it
            return [0]

    def _beats(self) -> list[int]:
        return [self._store.add(f"beats/{rank}", 0) for rank in range(self._count)]

    def _beat(self) -> None:
        with suppress(Exception):  # the store is gone, and with it the run
            while not self._ended.wait(_BEAT_SECONDS):
                self._store.add(f"beats/{self._rank}", 1)

    def _fall_silent(self) -> None:
        """End the thread: Python's end in the middle of its exchange would abort the process."""
        self._ended.set()
        self._beating.join(timeout=10)

    def _describe(self, ranks: list[int]) -> str:
        try:
            return " and ".join(self._store.get(f"who/{rank}").decode() for rank in ranks)
        except Exception:
            return names(ranks)


def _store(rank: int, count: int, *, is_client: bool = False) -> Any:
    """The key-value store that ``torchrun`` holds, or else rank 0."""
    host, port = os.environ.get("MASTER_ADDR", "127.0.0.1"), _number("MASTER_PORT", 29500)
    of_agent = os.environ.get("TORCHELASTIC_USE_AGENT_STORE") == "True"
    try:
        is_master = rank == 0 and not (of_agent or is_client)
        store = dist.TCPStore(host, port, count, is_master=is_master)  # type: ignore[attr-defined]
    except (RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0][:200]
        raise AdvrBDError(f"rank {rank} cannot reach {host}:{port} (MASTER_ADDR, MASTER_PORT): {reason}") from error
    # A run that torchrun starts again must not read what the one before said.
    attempt = os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")
    return dist.PrefixStore(f"advrbd/{attempt}", store)  # type: ignore[attr-defined]


def _is_cut_off(error: BaseException) -> bool:
    """Whether an exchange with another process failed."""
    if isinstance(error, dist.DistError):
        return True
    return isinstance(error, RuntimeError) and any(word in str(error).lower() for word in ("gloo", "nccl"))


def _is_termination(error: BaseException) -> bool:
    """SIGTERM, which is also how ``torchrun`` ends the others when one died."""
    return isinstance(error, KeyboardInterrupt) and "terminated" in str(error)


def _device(name: str | None) -> torch.device:
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def _device_of_rank(name: str | None, local_rank: int) -> torch.device:
    device = _device(name)
    if device.type != "cuda":
        return device
    if device.index is not None:
        raise AdvrBDError(f"--device must be cpu or cuda where torchrun starts several processes, got {name}")
    gpus = torch.cuda.device_count()
    if local_rank >= gpus:
        raise AdvrBDError(
            f"--device cuda: there are {gpus} GPUs for {local_rank + 1} processes or more on this machine: "
            f"torchrun --nproc-per-node={gpus}, or --device cpu"
        )
    torch.cuda.set_device(local_rank)
    return torch.device("cuda", local_rank)


def _number(variable: str, default: int) -> int:
    text = os.environ.get(variable, str(default))
    if not text.isdigit():
        raise AdvrBDError(f"the environment variable {variable} must be a whole number, got {text!r}")
    return int(text)
