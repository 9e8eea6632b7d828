"""What scoring costs beside the bare passes of the same model: forward, backward to the input, forward per mask.

    python benchmarks/scoring.py [--images 2000] [--masks 1,4] [--repeats 21]

Both sides run the same batches in the same precision, in turn; the bare passes look at the unperturbed images and
take no divergence. Shown are the medians over the repeats; the ratio is the median of the ratios of neighbouring
runs, so that a busy moment of the machine meets both sides. The C library is told to keep freed memory, for both
sides: otherwise asking the system for it again and again takes a fifth of the time and drowns what is to be seen.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import sys
import time

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin import consistency_scores, make_model
from advrbd_plugin.nn.inference import as_input, autocast

BATCH = 500
KEEP_MEMORY = {"MALLOC_TRIM_THRESHOLD_": "1000000000", "MALLOC_MMAP_THRESHOLD_": "1000000000"}


def bare_passes(model: nn.Module, images: Tensor, labels: Tensor, num_masks: int, device: torch.device) -> None:
    for parameter in model.parameters():
        parameter.requires_grad_(False)
    for batch in torch.arange(len(images)).split(BATCH):
        inputs = as_input(images[batch], device).requires_grad_(True)
        with autocast(device, True):
            logits = model(inputs)
        loss = functional.cross_entropy(logits.float(), labels[batch].to(device), reduction="sum")
        torch.autograd.grad(loss, inputs)
        inputs = inputs.detach()
        with torch.no_grad(), autocast(device, True):
            for _ in range(num_masks):
                model(inputs)
    if device.type == "cuda":
        torch.cuda.synchronize()


def measure(num_masks: int, count: int, repeats: int) -> dict[str, float]:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    torch.manual_seed(0)
    model = make_model("resnet_narrow", num_classes=10).to(device, memory_format=torch.channels_last).eval()
    images = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8)
    labels = torch.randint(0, 10, (count,))
    times: dict[str, list[float]] = {"bare": [], "scoring": []}
    for repeat in range(repeats + 1):
        for name, call in (
            ("bare", lambda: bare_passes(model, images, labels, num_masks, device)),
            ("scoring", lambda: consistency_scores(model, images, labels, num_masks=num_masks, batch_size=BATCH)),
        ):
            began = time.perf_counter()
            call()
            if repeat:  # the first round warms up
                times[name].append(time.perf_counter() - began)
    bare, scoring = statistics.median(times["bare"]), statistics.median(times["scoring"])
    ratios = [ours / theirs for ours, theirs in zip(times["scoring"], times["bare"])]
    return {
        "num_masks": num_masks,
        "bare_seconds": bare,
        "scoring_seconds": scoring,
        "ratio": statistics.median(ratios),
        "images_per_second": count / scoring,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--images", type=int, default=2_000)
    parser.add_argument("--masks", default="1,4")
    parser.add_argument("--repeats", type=int, default=21)
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    if not KEEP_MEMORY.items() <= os.environ.items():  # read by the C library when a process starts
        os.execve(sys.executable, [sys.executable, *sys.argv], os.environ | KEEP_MEMORY)
    rows = []
    for num_masks in map(int, arguments.masks.split(",")):
        rows.append(measure(num_masks, arguments.images, arguments.repeats))
        print(json.dumps(rows[-1]), flush=True)
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump({"torch": torch.__version__, "threads": torch.get_num_threads(), "rows": rows}, file, indent=2)


if __name__ == "__main__":
    main()
