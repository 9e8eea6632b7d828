"""Times the ops on the device, beside eager PyTorch, torch.compile and a copy of as many bytes.

Events on the GPU's own clock surround a row of calls, which the host has queued before the first begins: the host's
dispatch takes longer than a small launch and is reported by itself. Calls go round among several sets of inputs, and
outputs are kept until their turn comes again, so that what is read and written together exceeds the L2 cache; each
row says whether it does. On the CPU, in a dry run, the host's clock stands in.
"""

from __future__ import annotations

import importlib.util
import math
import statistics
import sys
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from outcome import PartFile, Skip, part_parser, public
from torch import Tensor

from advrbd_plugin import ops

_WARM_UP = 3
_L2_MULTIPLE = 3  # inputs and outputs of all sets together, in sizes of the L2 cache
_MOST_SETS = 24
_CYCLES_PER_SECOND = 2e9  # of a GPU that sleeps while the host queues
_CHANNELS, _SIDE, _PATCH = 3, 32, 8

Call = Callable[..., object]


@dataclass(frozen=True)
class Work:
    """Attributes:
    name: of the row.
    make: a fresh set of inputs.
    contenders: name -> call on such a set.
    bytes: what the op must read and write at least.
    """

    name: str
    make: Callable[[], Sequence[Tensor]]
    contenders: dict[str, Call]
    bytes: int


def main() -> int:
    parser = part_parser(__doc__)
    parser.add_argument("--repeats", type=int, default=30)
    arguments = parser.parse_args()
    part = PartFile(arguments.out, arguments.dry_run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    part.content |= {"device": device.type, "clock": "CUDA events" if device.type == "cuda" else "host"}
    repeats = 3 if arguments.dry_run else arguments.repeats
    ends = time.monotonic() + arguments.seconds
    torch.manual_seed(0)
    bench = _load_bench()
    with torch.inference_mode():
        for work in all_work(device, bench, arguments.dry_run):
            torch.compiler.reset()  # one function may be compiled for a few shapes only before eager serves in silence
            with part.step(work.name) as row:
                if time.monotonic() > ends:
                    raise Skip("no time was left for this row")
                row |= measure(work, device, repeats, part.content["machine"]["l2_cache_bytes"] or 0)
    return int(part.failed)


def all_work(device: torch.device, bench: ModuleType, dry_run: bool) -> list[Work]:
    """What is timed, the smaller sets first; a dry run needs one row of each kind."""
    sizes = (16,) if dry_run else (512, 32_768)
    dtypes = (torch.float32,) if dry_run else (torch.float32, torch.bfloat16)
    masks = (4,) if dry_run else (1, 4)
    rows = [perturb_work(device, bench, n, k, dtype) for n in sizes for dtype in dtypes for k in masks]
    rows += [step_work(device, bench, n, 4, dtype) for n in sizes for dtype in dtypes[-1:]]
    classes = ((16, 10),) if dry_run else ((512, 10), (32_768, 10), (32_768, 200))
    return rows + [kl_work(device, bench, n, count, 4) for n, count in classes]


def perturb_work(device: torch.device, bench: ModuleType, n: int, k: int, dtype: torch.dtype) -> Work:
    def make() -> Sequence[Tensor]:
        images = torch.rand(n, _CHANNELS, _SIDE, _SIDE, device=device, dtype=dtype)
        return images, torch.randn_like(images), ops.patch_origins(torch.arange(n, device=device), _SIDE, _PATCH, k)

    options = {"epsilon": bench.EPSILON, "patch_size": _PATCH, "num_masks": k}
    moved = (2 + k) * n * _CHANNELS * _SIDE**2 * dtype.itemsize
    return Work(
        f"perturb N={n} K={k} {_short(dtype)}",
        make,
        {
            "advrbd": lambda images, grad, _: ops.perturb(images, grad, **options),
            "eager": bench.eager_perturb,  # which is given the positions; the op draws them as it goes
            "compile": _compiled(bench.eager_perturb, device),
        },
        moved,
    )


def kl_work(device: torch.device, bench: ModuleType, n: int, classes: int, k: int) -> Work:
    def make() -> Sequence[Tensor]:
        logits = 3 * torch.randn(n, classes, device=device)
        return logits, logits + torch.randn(k, n, classes, device=device)

    contenders = {
        "advrbd": ops.kl_divergence,
        "eager": bench.eager_kl_by_hand,
        "compile": _compiled(bench.eager_kl_by_hand, device),
    }
    return Work(f"kl_divergence N={n} classes={classes} K={k} f32", make, contenders, 4 * n * ((1 + k) * classes + k))


def step_work(device: torch.device, bench: ModuleType, n: int, k: int, dtype: torch.dtype) -> Work:
    """The fused launch of the scoring loop, beside its two ops one after the other."""
    perturb, kl = perturb_work(device, bench, n, k, dtype), kl_work(device, bench, n, 10, k)
    options = {"epsilon": bench.EPSILON, "patch_size": _PATCH, "num_masks": k}

    def both(images: Tensor, grad: Tensor, _: Tensor, logits: Tensor, perturbed: Tensor) -> object:
        return ops.perturb(images, grad, **options), ops.kl_divergence(logits, perturbed)

    def fused(images: Tensor, grad: Tensor, _: Tensor, logits: Tensor, perturbed: Tensor) -> object:
        return ops.score_step(logits, perturbed, images, grad, **options)

    return Work(
        f"score_step N={n} K={k} {_short(dtype)}",
        lambda: (*perturb.make(), *kl.make()),
        {"advrbd": fused, "two ops": both},
        perturb.bytes + kl.bytes,
    )


def measure(work: Work, device: torch.device, repeats: int, cache_bytes: int) -> dict[str, Any]:
    """Median microseconds of each contender, and what that makes in bytes a second."""
    sets = max(1, min(_MOST_SETS, math.ceil(_L2_MULTIPLE * cache_bytes / work.bytes)))
    inputs = [work.make() for _ in range(sets)]
    source = [(torch.rand(max(1, work.bytes // 8), device=device),) for _ in range(sets)]  # half is read, half written
    contenders = {**work.contenders, "copy": lambda tensor: tensor.clone()}
    row: dict[str, Any] = {
        "bytes": work.bytes,
        "sets": sets,
        "working_set_bytes": sets * work.bytes,
        "larger_than_l2": bool(cache_bytes) and sets * work.bytes > cache_bytes,
        "microseconds": {},
        "dispatch_microseconds": {},
        "reasons": {},
    }
    for name, call in contenders.items():
        try:
            taken, dispatch = time_calls(call, source if name == "copy" else inputs, device, repeats)
        except Exception as error:  # torch.compile may lack a compiler; the others are measured all the same
            if name in ("advrbd", "copy"):
                raise
            row["reasons"][name] = public(f"{type(error).__name__}: {error}")
            continue
        row["microseconds"][name] = {
            "median": round(1e6 * statistics.median(taken), 3),
            "smallest": round(1e6 * min(taken), 3),
            "largest": round(1e6 * max(taken), 3),
        }
        row["dispatch_microseconds"][name] = round(1e6 * dispatch, 3)
    ours, copy = (row["microseconds"][name]["median"] for name in ("advrbd", "copy"))
    return row | {
        "gigabytes_per_second": round(work.bytes / ours / 1e3, 1),
        "copy_gigabytes_per_second": round(work.bytes / copy / 1e3, 1),
        "share_of_copy": round(copy / ours, 3),
    }


def time_calls(
    call: Call, inputs: Sequence[Sequence[Tensor]], device: torch.device, repeats: int
) -> tuple[list[float], float]:
    """(seconds a call in each repeat, seconds the host needs to queue one); a repeat is one call on each set."""
    kept: deque[object] = deque(maxlen=len(inputs))

    def row_of_calls() -> float:
        began = time.perf_counter()
        for tensors in inputs:
            kept.append(call(*tensors))
        return time.perf_counter() - began

    for _ in range(_WARM_UP):
        row_of_calls()
    if device.type != "cuda":
        times = [row_of_calls() / len(inputs) for _ in range(repeats)]
        return times, statistics.median(times)
    torch.cuda.synchronize()
    dispatch = statistics.median([_synchronised(row_of_calls) for _ in range(_WARM_UP)])
    cycles = int(max(1e5, 2 * dispatch * _CYCLES_PER_SECOND))
    times = []
    for _ in range(repeats):
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(cycles)  # until all calls are queued
        start.record()
        row_of_calls()
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end) / 1e3 / len(inputs))
    return times, dispatch / len(inputs)


def _synchronised(row_of_calls: Callable[[], float]) -> float:
    taken = row_of_calls()
    torch.cuda.synchronize()
    return taken


def _compiled(function: Callable[..., Tensor], device: torch.device) -> Call:
    """torch.compile for these very shapes; on the CPU without a compiler, which a dry run has no time for."""
    return torch.compile(function, dynamic=False, **({} if device.type == "cuda" else {"backend": "eager"}))


def _load_bench() -> ModuleType:
    """benchmarks/ops.py, whose eager contenders these are."""
    path = Path(__file__).resolve().parents[1] / "ops.py"
    spec = importlib.util.spec_from_file_location("advrbd_benchmark_of_ops", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


def _short(dtype: torch.dtype) -> str:
    return {torch.float32: "f32", torch.bfloat16: "bf16", torch.float16: "f16"}[dtype]


if __name__ == "__main__":
    sys.exit(main())
