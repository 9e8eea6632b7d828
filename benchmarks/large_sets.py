"""What a set in a store costs, in time and in memory, as it grows: the stages that see every picture.

    python benchmarks/large_sets.py [--counts 5000,200000] [--side 32] [--model small] [--json FILE]

For each count a store is filled from a stream of random pictures, and a new process opens it and runs the stages, one
epoch of training among them. Shown are processor seconds and the most memory that the process held in the stage (the
kernel's VmHWM). The default network is small, so that what is seen is the way of
the pictures and not the network; `--model resnet_narrow` and the other networks of the package go too.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advrbd_plugin import make_model
from advrbd_plugin.cache import digest
from advrbd_plugin.data.store import Picture, fill_store, open_store
from advrbd_plugin.defense.config import ScoringConfig
from advrbd_plugin.defense.scoring import score_samples
from advrbd_plugin.nn.description import channel_statistics
from advrbd_plugin.nn.features import layered_features
from advrbd_plugin.nn.training import TrainingOptions, train

CLASSES = 10


def pictures(count: int, side: int) -> Iterator[Picture]:
    """Random pictures, a thousand drawn at a time."""
    generator = torch.Generator().manual_seed(0)
    for first in range(0, count, 1000):
        drawn = torch.randint(0, 256, (min(1000, count - first), 3, side, side), dtype=torch.uint8, generator=generator)
        for place, pixels in enumerate(drawn, first):
            # Ids in another order than the file, as those of paths are.
            yield Picture(pixels, place % CLASSES, place * 7919 % 1_000_003)


def network(name: str, side: int) -> nn.Module:
    if name != "small":
        return make_model(name, num_classes=CLASSES, image_size=side)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=4, padding=1, bias=False),
        nn.BatchNorm2d(8),
        nn.ReLU(),
        nn.Conv2d(8, 16, 3, stride=2, padding=1),
        nn.ReLU(),
        nn.AdaptiveAvgPool2d(1),
        nn.Flatten(),
        nn.Linear(16, CLASSES),
    )


def measure(folder: str, model_name: str) -> dict[str, dict[str, float]]:
    """Stage -> processor seconds for each thousand pictures, and MiB held at most."""
    torch.manual_seed(0)
    opened = open_store(folder)
    assert opened is not None
    images = opened[0].by_id()
    model = network(model_name, images.image_size[0])
    options = TrainingOptions(epochs=1, batch_size=256)
    scoring = ScoringConfig(num_patch_sizes=1, num_masks=1, patch_size=min(16, min(images.image_size)))
    first = images.subset(torch.arange(min(2560, len(images))))
    stages: dict[str, Callable[[], Any]] = {
        "ten steps": lambda: train(model, first.images, first.labels, first.sample_ids, options),
        "training, an epoch": lambda: train(model, images.images, images.labels, images.sample_ids, options),
        "fingerprint": lambda: digest(images.images),
        "channel statistics": lambda: channel_statistics(images.images),
        "scoring": lambda: score_samples(model, images, scoring),
        "features": lambda: layered_features(model, images.images),
    }
    return {name: _stage(work, len(first if name == "ten steps" else images)) for name, work in stages.items()}


def _stage(work: Callable[[], Any], count: int) -> dict[str, float]:
    Path("/proc/self/clear_refs").write_text("5")  # from here on the most memory is counted anew
    began = time.process_time()
    work()
    seconds = time.process_time() - began
    held = next(line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM"))
    return {"ms_per_picture": 1e3 * seconds / count, "mib": int(held.split()[1]) / 1024}


def table(rows: dict[str, dict[str, dict[str, float]]]) -> str:
    """Markdown, one line a stage, each count beside the other."""
    counts = list(rows)
    lines = [
        "| stage | " + " | ".join(f"ms a picture, {int(count):,}" for count in counts) + " | ratio | "
        "" + " | ".join(f"MiB, {int(count):,}" for count in counts) + " |",
        "| --- |" + " ---: |" * (2 * len(counts) + 1),
    ]
    for stage in rows[counts[0]]:
        found = [rows[count][stage] for count in counts]
        times = " | ".join(f"{each['ms_per_picture']:.4f}" for each in found)
        ratio = found[-1]["ms_per_picture"] / max(1e-9, found[0]["ms_per_picture"])
        lines.append(
            f"| {stage} | {times} | {ratio:.2f} | " + " | ".join(f"{each['mib']:.0f}" for each in found) + " |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--counts", default="5000,200000")
    parser.add_argument("--side", type=int, default=32)
    parser.add_argument("--model", default="small")
    parser.add_argument("--folder", help="where to put the stores (default: a temporary folder)")
    parser.add_argument("--json", help="write the figures to this file")
    parser.add_argument("--measure", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.measure:
        print(json.dumps(measure(arguments.measure, arguments.model)))
        return
    rows = {}
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        for count in arguments.counts.split(","):
            place = Path(folder) / count
            began = time.process_time()
            fill_store(place, pictures(int(count), arguments.side), [str(label) for label in range(CLASSES)])
            filled = 1e3 * (time.process_time() - began) / int(count)
            print(f"store of {int(count):,} pictures: {filled:.4f} ms a picture, drawing included", flush=True)
            command = [sys.executable, __file__, "--measure", str(place), "--model", arguments.model]
            done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
            rows[count] = json.loads(done.stdout.splitlines()[-1])
    print(table(rows))
    if arguments.json:
        about = {"torch": torch.__version__, "threads": torch.get_num_threads(), "model": arguments.model}
        Path(arguments.json).write_text(json.dumps(about | {"side": arguments.side, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
