"""What a large set costs on several devices, computed from the rates of one that are measured here.

    python benchmarks/million.py [--pictures 1000000] [--side 224] [--model resnet18] [--devices 1,8,64] [--json FILE]

Measured on this machine, on a few batches of random pictures: a training step, a scoring batch, a forward pass, the
fingerprint, and the decoding of a JPEG. Everything else is arithmetic: how often the preset `robust` does each
(`advrbd_plugin/defense/planning.py`), and a division by the number of devices that takes the exchange between them for
free, so that the result is a lower bound. On a CPU one thread is measured in processor seconds, so that other work on
the machine does not count, and a "device" is a core; on a GPU it is seconds by the clock.
"""

from __future__ import annotations

import argparse
import io
import json
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from advrbd_plugin import AdvrBDConfig, ImageSet, make_model
from advrbd_plugin.cache import digest
from advrbd_plugin.defense.config import ScoringConfig
from advrbd_plugin.defense.planning import planned_work
from advrbd_plugin.defense.scoring import score_samples
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.training import TRAINING_WORK, TrainingOptions, train

CLASSES = 100


def measure(side: int, name: str, batch: int, device: torch.device) -> dict[str, float]:
    """Seconds a picture."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    smooth = torch.nn.functional.interpolate(torch.rand(batch, 3, 8, 8), size=(side, side), mode="bicubic")
    pixels = (255 * smooth).clamp(0, 255).to(torch.uint8)
    samples = ImageSet(pixels, torch.arange(batch) % CLASSES, tuple(map(str, range(CLASSES))))
    model = make_model(name, num_classes=CLASSES, image_size=side).to(device)
    options = TrainingOptions(epochs=1, batch_size=batch)
    config = ScoringConfig()
    jpeg = _jpeg(pixels[0])
    return {
        "training step": _seconds(lambda: train(model, pixels, samples.labels, samples.sample_ids, options), device)
        / batch,
        "scoring": _seconds(lambda: score_samples(model, samples, config), device) / batch,
        "forward pass": _seconds(lambda: predict(model, pixels), device) / batch,
        "fingerprint": _seconds(lambda: digest(pixels), device) / batch,
        "decoding": _seconds(lambda: [_decode(jpeg, side) for _ in range(batch)], device) / batch,
    }


def costs(pictures: int, rates: dict[str, float]) -> dict[str, float]:
    """Stage -> seconds on one device."""
    config = AdvrBDConfig.preset("robust")
    work = planned_work(pictures, CLASSES, config)
    passes = {stage: amount / TRAINING_WORK for stage, amount in work.items()}
    few = work["enhancement"] - pictures
    return {
        "training": passes["training"] * rates["training step"],
        "scoring": pictures * rates["scoring"],
        "features, twice, and the enhanced model's predictions": 3 * pictures * rates["forward pass"],
        "retraining": passes["retraining"] * rates["training step"],
        "relearning": passes["relearning"] * rates["training step"],
        "candidates, twice": 2 * (work["detection"] - pictures) * rates["forward pass"],
        "enhancement *": few / TRAINING_WORK * rates["training step"],
        "decoding and fingerprints *": pictures * (rates["decoding"] + 2 * rates["fingerprint"]),
    }


def table(seconds: dict[str, float], devices: list[int]) -> str:
    """Markdown: hours, a line a stage; stages with a star are not shared out."""
    lines = ["| stage | " + " | ".join(f"{count}" for count in devices) + " |", "| --- |" + " ---: |" * len(devices)]
    total = [0.0] * len(devices)
    for stage, spent in seconds.items():
        each = [spent / 3600 / (1 if stage.endswith("*") else count) for count in devices]
        total = [before + more for before, more in zip(total, each)]
        lines.append(f"| {stage} | " + " | ".join(f"{hours:,.2f}" for hours in each) + " |")
    return "\n".join([*lines, "| **all** | " + " | ".join(f"**{hours:,.1f}**" for hours in total) + " |"])


def _seconds(work: Callable[[], Any], device: torch.device) -> float:
    work()  # warm
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    if device.type == "cuda":
        torch.cuda.synchronize()
    began = clock()
    work()
    if device.type == "cuda":
        torch.cuda.synchronize()
    return clock() - began


def _jpeg(pixels: torch.Tensor) -> bytes:
    from PIL import Image

    buffer = io.BytesIO()
    Image.fromarray(pixels.permute(1, 2, 0).numpy()).save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def _decode(content: bytes, side: int) -> Any:
    from advrbd_plugin.data.decoding import decode

    return decode(content, (side, side))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pictures", type=int, default=1_000_000)
    parser.add_argument("--side", type=int, default=224)
    parser.add_argument("--model", default="resnet18")
    parser.add_argument("--batch", type=int, default=64)
    parser.add_argument("--devices", default="1,8,64")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    rates = measure(arguments.side, arguments.model, arguments.batch, device)
    print("measured: " + ", ".join(f"{name} {1e3 * each:.3f} ms" for name, each in rates.items()) + " a picture")
    devices = [int(count) for count in arguments.devices.split(",")]
    seconds = costs(arguments.pictures, rates)
    print(f"computed, in hours, for {arguments.pictures:,} pictures on so many devices ({device.type}):")
    print(table(seconds, devices))
    if arguments.json:
        about = {"torch": torch.__version__, "device": device.type, "model": arguments.model, "side": arguments.side}
        content = about | {"pictures": arguments.pictures, "measured": rates, "computed_seconds": seconds}
        Path(arguments.json).write_text(json.dumps(content, indent=2))


if __name__ == "__main__":
    main()
