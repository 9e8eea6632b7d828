"""The processes that share one run, as ``torchrun`` starts them; without it there is one.

All of them run the same program on the same samples. What is worth sharing out, they share out by whole batches and
merge in the order of the samples; rank 0 alone reads and writes files. How they are started, and what is said when one
of them dies: :mod:`advrbd_plugin.process_group`.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn


class Processes:
    """One process among those of a run.

    Attributes:
        rank: which one this is, in [0, count).
        count: how many there are.
    """

    def __init__(self, rank: int = 0, count: int = 1) -> None:
        self.rank, self.count = rank, count

    @property
    def leads(self) -> bool:
        """Whether this is rank 0, which reads and writes files and shows the progress."""
        return self.rank == 0

    def share(self, count: int, batch_size: int) -> Share:
        """How ``count`` samples in batches of ``batch_size`` are shared out."""
        return Share(self, count, batch_size)

    def part_of(self, batch: Tensor) -> Tensor:
        """This process's part of a (N,) batch, N at least :attr:`count`: parts differ in length by one at most."""
        return batch.tensor_split(self.count)[self.rank]

    def sum(self, *values: float) -> list[float]:
        """The sums over all processes."""
        if self.count == 1:
            return list(values)
        summed = torch.tensor(values, dtype=torch.float64)
        dist.all_reduce(summed)
        return summed.tolist()

    def receive(self, content: Callable[[], Any]) -> Any:
        """What ``content`` gives in rank 0, ready for JSON, in every process; the others do not call it."""
        if self.count == 1:
            return content()
        text = json.dumps(content()).encode() if self.leads else b""
        return json.loads(_from(0, text))

    def gather(self, content: Any) -> list[Any]:
        """What each process gives, ready for JSON, in the order of the ranks, in every process."""
        if self.count == 1:
            return [content]
        text = json.dumps(content).encode()
        return [json.loads(_from(rank, text if rank == self.rank else b"")) for rank in range(self.count)]

    def receive_tensors(self, tensors: Callable[[], dict[str, Tensor]]) -> dict[str, Tensor]:
        """What ``tensors`` gives in rank 0, on the CPU, in every process; the others do not call it."""
        if self.count == 1:
            return tensors()
        from safetensors.torch import load, save

        packed = b""
        if self.leads:
            packed = save({name: _packed(tensor) for name, tensor in tensors().items()})
        return load(_from(0, packed))

    def fill(self, tensor: Tensor) -> None:
        """Fill a contiguous tensor with that of rank 0."""
        if self.count > 1:
            dist.broadcast(tensor, 0)

    def sum_in_rank_0(self, tensor: Tensor) -> None:
        """Add up a tensor of all processes in that of rank 0; the others are zero afterwards."""
        if self.count > 1:
            dist.reduce(tensor, 0)
            if not self.leads:
                tensor.zero_()

    @torch.no_grad()
    def equalise(self, model: nn.Module) -> None:
        """Give every process the weights and buffers of rank 0, which other hardware may have rounded otherwise."""
        if self.count == 1:
            return
        for tensor in model.state_dict().values():
            contiguous = tensor.contiguous()
            dist.broadcast(contiguous, 0)
            tensor.copy_(contiguous)


class Share:
    """Samples shared out by whole batches, so that a batch holds the same samples however many processes there are.

    Attributes:
        own: this process's samples.
    """

    def __init__(self, processes: Processes, count: int, batch_size: int) -> None:
        self._processes, self._count = processes, count
        batches = -(-count // batch_size)
        ends = [min(count, -(-batches * rank // processes.count) * batch_size) for rank in range(processes.count + 1)]
        self._parts = [slice(*ends[rank : rank + 2]) for rank in range(processes.count)]
        self.own = self._parts[processes.rank]

    def merge(self, part: Tensor) -> Tensor:
        """The results of all samples, in their order, in every process.

        Args:
            part: (M, ...) on the CPU, of :attr:`own`.
        """
        if self._processes.count == 1:
            return part
        described = self._processes.receive(lambda: [list(part.shape[1:]), str(part.dtype).removeprefix("torch.")])
        whole = torch.empty(self._count, *described[0], dtype=getattr(torch, described[1]))
        whole[self.own] = part.to(whole.dtype).reshape(-1, *described[0])
        for rank, samples in enumerate(self._parts):
            if samples.start < samples.stop:
                dist.broadcast(whole[samples], rank)
        return whole

    def scaled(self, on_batch: Callable[[int], None] | None) -> Callable[[int], None] | None:
        """``on_batch`` that is told of all processes' work where this one reports its own."""
        own = self.own.stop - self.own.start
        if on_batch is None or own in (0, self._count):
            return on_batch
        return lambda done: on_batch(round(done * self._count / own))


_current = Processes()


def current() -> Processes:
    """The processes that share the work at this moment."""
    return _current


@contextmanager
def sharing(processes: Processes) -> Iterator[None]:
    """Within this context, in every process, trainings, scores and predictions are shared out among ``processes``."""
    global _current
    before, _current = _current, processes
    try:
        yield
    finally:
        _current = before


def _from(rank: int, content: bytes) -> bytes:
    """The content of one process, in every process."""
    size = torch.tensor([len(content)], dtype=torch.int64)
    dist.broadcast(size, rank)
    buffer = torch.empty(int(size), dtype=torch.uint8)
    if content:
        buffer = torch.frombuffer(bytearray(content), dtype=torch.uint8)
    dist.broadcast(buffer, rank)
    return buffer.numpy().tobytes()


def _packed(tensor: Tensor) -> Tensor:
    return tensor.detach().cpu().clone(memory_format=torch.contiguous_format)


def names(ranks: Sequence[int]) -> str:
    """``rank 1`` or ``ranks 1, 3``."""
    return f"rank{'s' * (len(ranks) > 1)} {', '.join(map(str, ranks))}"
