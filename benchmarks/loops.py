"""Pictures a second of training, scoring and features, in this checkout and in another one, in turn.

    python benchmarks/loops.py [--beside ../other-checkout] [--model resnet_narrow] [--images 1024] [--rounds 3]

The data are random pictures. Each round starts a process for each checkout, which warms up and times once; shown is the
best round of each. On the CPU what counts is the time of the process, on one thread, so that other work on the machine
disturbs it little; on a GPU it is the time that passes. The digests tell whether both give the same bits.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def measure(name: str, count: int) -> dict[str, float | str]:
    import torch

    from advrbd_plugin import consistency_scores, make_model
    from advrbd_plugin.cache import digest
    from advrbd_plugin.nn.features import layered_features
    from advrbd_plugin.nn.training import TrainingOptions, train

    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    torch.manual_seed(0)
    model = make_model(name, num_classes=10).to(device)
    images, labels = torch.randint(0, 256, (count, 3, 32, 32), dtype=torch.uint8), torch.arange(count) % 10
    ids, batch = torch.arange(count), 64 if device.type == "cpu" else 128
    found: dict[str, float | str] = {"device": device.type}

    def timed(what: str, work: Callable[[int], torch.Tensor]) -> None:
        work(2 * batch)  # warms up
        began = clock()
        result = work(count)  # ends with its figures on the host
        found[f"{what}_per_second"] = round(count / (clock() - began), 1)
        found[f"{what}_digest"] = digest(result)[:16]

    def training(some: int) -> torch.Tensor:
        train(model, images[:some], labels[:some], ids[:some], TrainingOptions(epochs=1, batch_size=batch))
        return torch.cat([each.detach().cpu().flatten().double() for each in model.state_dict().values()])

    timed("training", training)
    timed("scoring", lambda some: consistency_scores(model, images[:some], labels[:some], patch_size=[16, 8, 4]))
    timed("features", lambda some: layered_features(model, images[:some])[0])
    return found


def in_a_process(checkout: Path, arguments: argparse.Namespace) -> dict[str, float | str]:
    command = [sys.executable, __file__, "--once", "--model", arguments.model, "--images", str(arguments.images)]
    environment = os.environ | {"PYTHONPATH": str(checkout), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, cwd=checkout, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{checkout}: {done.stderr.strip().splitlines()[-1:]}")
    figures: dict[str, float | str] = json.loads(done.stdout)
    return figures


def best(rounds: list[dict[str, float | str]]) -> dict[str, float | str]:
    """The highest speed of each kind, and the digests, which are alike in all rounds or marked."""
    found: dict[str, float | str] = {}
    for key in rounds[0]:
        values = [each[key] for each in rounds]
        found[key] = max(values) if key.endswith("_per_second") else "/".join(sorted({str(each) for each in values}))
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--beside", type=Path, help="another checkout, with its compiled ops")
    parser.add_argument("--model", default="resnet_narrow")
    parser.add_argument("--images", type=int, default=1_024)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--once", action="store_true", help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.once:
        print(json.dumps(measure(arguments.model, arguments.images)))
        return
    checkouts = {"here": ROOT} | ({"beside": arguments.beside.resolve()} if arguments.beside else {})
    rounds: dict[str, list[dict[str, float | str]]] = {name: [] for name in checkouts}
    for _ in range(arguments.rounds):
        for name, checkout in checkouts.items():
            rounds[name].append(in_a_process(checkout, arguments))
    print(json.dumps({name: best(each) for name, each in rounds.items()}, indent=2))


if __name__ == "__main__":
    main()
