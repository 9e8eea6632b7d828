"""Times consistency scoring beside the bare passes of the same model over the same batches, and counts its stalls.

Then how much of a step of scoring and of training the GPU is idle, which decides whether CUDA graphs would pay. The
bare passes are those of benchmarks/scoring.py: forward, backward to the input, and a forward for each mask. A stall is
a moment at which the host waits for the GPU, as torch.cuda.set_sync_debug_mode reports it.
"""

from __future__ import annotations

import importlib.util
import statistics
import sys
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
from launch_share import launch_share
from outcome import NO_GPU, PartFile, Skip, part_parser
from torch import Tensor, nn

from advrbd_plugin import consistency_scores, make_model
from advrbd_plugin.nn.training import TrainingOptions, train

_MASKS = 4
_BATCH = 500
_TRAINING_BATCH = 128


def main() -> int:
    parser = part_parser(__doc__)
    parser.add_argument("--images", type=int, default=10_000)
    parser.add_argument("--repeats", type=int, default=3)
    arguments = parser.parse_args()
    part = PartFile(arguments.out, arguments.dry_run)
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    count, repeats = (16, 1) if arguments.dry_run else (arguments.images, arguments.repeats)
    part.content |= {"device": device.type, "images": count, "batch_size": _BATCH, "repeats": repeats}
    ends = time.monotonic() + arguments.seconds
    bench = _load_bench()
    for name in ("resnet_narrow",) if arguments.dry_run else ("resnet_narrow", "resnet18"):
        torch.manual_seed(0)
        model = make_model(name, num_classes=10).to(device, memory_format=torch.channels_last).eval()
        images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
        labels = torch.randint(0, 10, (count,))
        for sizes, masks in ([8], 1), ([8], _MASKS), ([16, 8, 4], _MASKS):
            with part.step(f"{name}, {len(sizes)} patch size{'s' * (len(sizes) > 1)}, K={masks}") as row:
                if time.monotonic() > ends:
                    raise Skip("no time was left for this row")
                row |= measure(bench, model, images, labels, sizes, masks, repeats, device)
        with part.step(f"{name}, stalls") as row:
            if device.type != "cuda":
                raise Skip(NO_GPU)
            row |= stalls(model, images, labels)
        steps, *sizes_of_batches = (1, 4, 4) if arguments.dry_run else (5, _BATCH, _TRAINING_BATCH)
        fresh = make_model(name, num_classes=10).to(device)
        for loop, (batch, work) in loops(fresh, 2 * steps, *sizes_of_batches).items():
            with part.step(f"{name}, idle share of {loop}, batch {batch}") as row:
                if time.monotonic() > ends:
                    raise Skip("no time was left for this row")
                row |= {"batch_size": batch} | launch_share(work, steps, device)
    return int(part.failed)


def measure(
    bench: ModuleType,
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    sizes: list[int],
    masks: int,
    repeats: int,
    device: torch.device,
) -> dict[str, Any]:
    """Medians over the repeats, both sides in turn; the ratio is the median of the ratios of neighbours."""
    contenders: dict[str, Callable[[], object]] = {
        "bare": lambda: bench.bare_passes(model, images, labels, masks * len(sizes), device),
        "scoring": lambda: consistency_scores(
            model, images, labels, patch_size=sizes, num_masks=masks, batch_size=_BATCH
        ),
    }
    times: dict[str, list[float]] = {name: [] for name in contenders}
    for repeat in range(repeats + 1):
        for name, call in contenders.items():
            began = time.perf_counter()
            call()  # either ends with its figures on the host
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    scoring = statistics.median(times["scoring"])
    return {
        "patch_sizes": sizes,
        "num_masks": masks,
        "bare_seconds": round(statistics.median(times["bare"]), 5),
        "scoring_seconds": round(scoring, 5),
        "ratio": round(statistics.median([ours / bare for ours, bare in zip(times["scoring"], times["bare"])]), 4),
        "images_per_second": round(len(images) / scoring, 1),
    }


def loops(model: nn.Module, steps: int, scored: int, trained: int) -> dict[str, tuple[int, Callable[[int], object]]]:
    """The loops that launch a row of small kernels for each batch: the batch's size, and what does some batches of it.

    Args:
        steps: the most batches that are asked for. The pictures are drawn here, so that no step waits for them.
        scored, trained: the sizes of the batches.
    """
    drawn = steps * max(scored, trained)
    images, ids = torch.randint(0, 256, (drawn, 3, 32, 32), dtype=torch.uint8), torch.arange(drawn)
    labels = ids % 10

    def scoring(steps: int) -> None:
        count = steps * scored
        consistency_scores(
            model, images[:count], labels[:count], patch_size=[16, 8, 4], num_masks=_MASKS, batch_size=scored
        )

    def training(steps: int) -> None:
        count, options = steps * trained, TrainingOptions(epochs=1, batch_size=trained)
        train(model, images[:count], labels[:count], ids[:count], options)

    return {"scoring": (scored, scoring), "training": (trained, training)}


def stalls(model: nn.Module, images: Tensor, labels: Tensor) -> dict[str, Any]:
    """How often the host waits for the GPU in a batch: of three patch sizes, and of one.

    What four batches cost more than two is divided by two, so that what happens once in a call does not count.
    """
    found: dict[str, Any] = {}
    for name, sizes in (("one_patch_size", [8]), ("three_patch_sizes", [16, 8, 4])):
        waits = [_count_waits(model, images[:n], labels[:n], sizes) for n in (2 * _BATCH, 4 * _BATCH)]
        found[f"stalls_per_batch_{name}"] = (waits[1] - waits[0]) / 2
    return found


def _count_waits(model: nn.Module, images: Tensor, labels: Tensor, sizes: list[int]) -> int:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        torch.cuda.set_sync_debug_mode("warn")
        try:
            consistency_scores(model, images, labels, patch_size=sizes, num_masks=_MASKS, batch_size=_BATCH)
        finally:
            torch.cuda.set_sync_debug_mode("default")
    return sum("synchronizing" in str(warning.message) for warning in caught)


def _load_bench() -> ModuleType:
    """benchmarks/scoring.py, whose bare passes these are."""
    path = Path(__file__).resolve().parents[1] / "scoring.py"
    spec = importlib.util.spec_from_file_location("advrbd_benchmark_of_scoring", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


if __name__ == "__main__":
    sys.exit(main())
