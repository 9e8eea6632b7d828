"""How long the device works in a step, and how long the step takes: what is left, CUDA graphs could save.

A step whose kernels are shorter than the host needs to launch them leaves the GPU idle in between. The step is timed
without the profiler, which slows the host; the profiler then tells when kernels ran.

What else runs on the machine only ever adds time, so of several timings the shortest counts.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch.autograd import DeviceType
from torch.profiler import ProfilerActivity, profile

_REPEATS = 3


def launch_share(work: Callable[[int], object], steps: int, device: torch.device) -> dict[str, Any]:
    """Figures of one step. On the CPU, in a dry run, operators stand in for kernels.

    Args:
        work: does as many steps as it is told.
        steps: how many are timed. What twice as many cost more is divided by them, so that what happens once in a call
            does not count.

    Returns:
        ``ms_a_step`` and ``idle_share`` are ``None`` where twice as many steps took no longer: on a busy machine, the
        noise may exceed what some short steps take.
    """
    on_gpu = device.type == "cuda"
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    kind = DeviceType.CUDA if on_gpu else DeviceType.CPU
    work(steps)  # warms up
    seconds, busy, kernels = [], [], []
    for count in (steps, 2 * steps):
        seconds.append(min(_seconds(work, count, device) for _ in range(_REPEATS)))
        with profile(activities=activities) as profiled:
            work(count)
            _wait(device)
        found = [event for event in profiled.events() if event.device_type == kind]
        busy.append(covered((event.time_range.start, event.time_range.end) for event in found) / 1e6)
        kernels.append(len(found))
    step, working = ((last - first) / steps for first, last in (seconds, busy))
    return {
        "steps": steps,
        "ms_a_step": round(1e3 * step, 4) if step > 0 else None,
        "ms_a_step_with_a_kernel": round(1e3 * working, 4),
        "kernels_a_step": round((kernels[1] - kernels[0]) / steps, 1),
        "idle_share": round(max(0.0, 1 - working / step), 4) if step > 0 else None,
    }


def covered(intervals: Iterable[tuple[float, float]]) -> float:
    """The length of the union: kernels of two streams may run at the same time."""
    length, until = 0.0, float("-inf")
    for start, end in sorted(intervals):
        length += max(0.0, end - max(start, until))
        until = max(until, end)
    return length


def _seconds(work: Callable[[int], object], count: int, device: torch.device) -> float:
    _wait(device)
    began = time.perf_counter()
    work(count)
    _wait(device)
    return time.perf_counter() - began


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
