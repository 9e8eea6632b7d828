"""Trains at full scale: the network on poisoned CIFAR-10, then AdvrBD from that model on, one process for each attack.

The first cell runs alone, so that its seconds count; the others share the GPU, ``--jobs`` at a time, and say so. What a
cell has found is kept after each of its two halves (the undefended model, the defended one).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from outcome import DONE, FAILED, SKIPPED, PartFile, part_parser, public, read_steps, write_json

ROOT = Path(__file__).resolve().parents[2]
ARCHIVES = ("shared/data/cifar10.tar.xz", ".gpu/cifar10.tar.xz", "../shared/data/cifar10.tar.xz")
# Most valuable first. ``none`` is the unpoisoned set, on which every flagged sample is a false one.
CELLS = (
    "resnet18:badnets,preactresnet18:badnets,resnet18:blend,resnet18:wanet,resnet18:adaptive_blend,resnet18:none,"
    "resnet18:tact,resnet18:adaptive_patch,resnet18:sig,resnet18:physicalba,preactresnet18:wanet,preactresnet18:blend,"
    "preactresnet18:adaptive_blend,preactresnet18:tact,preactresnet18:adaptive_patch,preactresnet18:sig,"
    "preactresnet18:physicalba,preactresnet18:none"
)
DRY_CELLS = "resnet_narrow:badnets,resnet_narrow:none"
HALVES = ("none", "advrbd")  # methods, in the order in which a cell does them
NO_ATTACK = "none"
_TARGET_LABEL, _POISON_RATIO = 1, 0.05
_SECONDS_OF_DECODING = 120.0
_POLL_SECONDS = 0.2
_LEAST_SECONDS = 10.0


@dataclass
class Running:
    """Attributes:
    name: ``MODEL:ATTACK``.
    beside: the most cells that ran at the same time.
    """

    name: str
    process: subprocess.Popen[bytes]
    file: Path
    began: float
    beside: int = 0


def main() -> int:
    parser = _parser()
    arguments = parser.parse_args()
    if arguments.cell:
        return run_cell(arguments)
    ends = time.monotonic() + arguments.seconds
    part = PartFile(arguments.out, arguments.dry_run)
    part.content["settings"] = settings_of(arguments)
    work = Path(arguments.work)
    with part.step("photographs") as row:
        row |= prepare(arguments, work)
    if part.failed:
        return 1
    names = (arguments.cells or (DRY_CELLS if arguments.dry_run else CELLS)).split(",")
    run_cells([name.strip() for name in names if name.strip()], arguments, part, work, ends)
    return int(part.failed)


def check_train_options(words: Sequence[str]) -> None:
    """End with argparse's message unless these are options of this part, before any minute is spent."""
    _parser().parse_args(["--out", "", "--work", "", *words])


def _parser() -> ArgumentParser:
    parser = part_parser(__doc__)
    parser.allow_abbrev = False
    parser.add_argument("--cells", default=os.environ.get("ADVRBD_GPU_CELLS"), help="MODEL:ATTACK,... in this order")
    parser.add_argument("--jobs", type=int, default=3, help="cells at a time, after the first")
    parser.add_argument("--cell-seconds", type=float, default=450.0, help="time limit of each cell")
    parser.add_argument("--epochs", type=int, default=30)
    parser.add_argument("--batch-size", type=int, default=128)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--photographs", help="archive of CIFAR-10's image files; looked for in shared/data and .gpu")
    parser.add_argument("--cell", help="run this one here (what the part starts)")
    return parser


def settings_of(arguments: Namespace) -> dict[str, Any]:
    """What every training changes in AdvrBD's preset ``robust``; the seed is that of attack, weights and training."""
    if arguments.dry_run:
        tiny = {"epochs": 1, "relearn_epochs": 1, "enhancement_steps": 2, "patch_size": 8, "num_masks": 2}
        return {**tiny, "batch_size": 32, "seed": arguments.seed}
    return {"epochs": arguments.epochs, "batch_size": arguments.batch_size, "seed": arguments.seed}


def prepare(arguments: Namespace, work: Path) -> dict[str, Any]:
    """Decode the photographs, in this process: what it imports for it the cells import again."""
    import photographs

    if arguments.dry_run:
        archive = work / "made-up.tar.xz"
        photographs.make_archive(archive)
    elif arguments.photographs:
        archive = Path(arguments.photographs)
    else:
        places = [ROOT / place for place in ARCHIVES]
        archive = next((place for place in places if place.exists()), places[0])
    limit = min(_SECONDS_OF_DECODING, arguments.seconds)
    train, test = photographs.load(photographs.decode(archive, work, limit))
    return {"training_samples": len(train), "test_samples": len(test)}


def run_cells(names: Sequence[str], arguments: Namespace, part: PartFile, work: Path, ends: float) -> None:
    """The first alone, then the others side by side until the time is up."""
    waiting, running = list(names), list[Running]()
    first_seconds: float | None = None
    while waiting or running:
        left = ends - time.monotonic()
        while waiting and len(running) < jobs_at(left, first_seconds, arguments):
            running.append(start(waiting.pop(0), arguments, work, alone=first_seconds is None))
        if waiting and not running:
            break
        time.sleep(_POLL_SECONDS)
        for cell in list(running):
            cell.beside = max(cell.beside, len(running) - 1)
            now = time.monotonic()
            if cell.process.poll() is None and now < min(ends, cell.began + arguments.cell_seconds):
                continue
            running.remove(cell)
            settle(cell, part)
            first_seconds = first_seconds or now - cell.began
    needed = f"the first cell took {first_seconds:.0f} s" if first_seconds else "no cell was begun"
    left = max(0.0, ends - time.monotonic())
    for name in waiting:
        part.add({"name": name, "status": SKIPPED, "reason": f"{left:.0f} s were left; {needed}", "seconds": 0.0})


def jobs_at(left: float, first_seconds: float | None, arguments: Namespace) -> int:
    """How many cells may run at a time: as many as end even where side by side they are no faster.

    The last is begun while half of the first one's time is left, which is enough for the undefended model.
    """
    if arguments.dry_run:
        return arguments.jobs
    if first_seconds is None:
        return int(left > _LEAST_SECONDS)
    return max(int(left > first_seconds / 2), min(arguments.jobs, int(left // first_seconds)))


def start(name: str, arguments: Namespace, work: Path, *, alone: bool) -> Running:
    file = work / "cells" / f"{name.replace(':', '-')}.json"
    file.parent.mkdir(parents=True, exist_ok=True)
    file.unlink(missing_ok=True)
    command = [sys.executable, str(Path(__file__).resolve()), "--out", str(file), "--work", str(work), "--cell", name]
    for option in ("epochs", "batch_size", "seed"):
        command += [f"--{option.replace('_', '-')}", str(getattr(arguments, option))]
    threads = 1 if arguments.dry_run else max(1, (os.cpu_count() or 1) // (1 if alone else arguments.jobs))
    log = file.with_suffix(".log").open("wb")
    process = subprocess.Popen(
        command + (["--dry-run"] if arguments.dry_run else []),
        cwd=ROOT,
        env={**os.environ, "OMP_NUM_THREADS": str(threads)},
        stdin=subprocess.DEVNULL,
        stdout=log,
        stderr=log,
    )
    log.close()
    return Running(name, process, file, time.monotonic())


def settle(cell: Running, part: PartFile) -> None:
    """Take over what a cell has found, and the reason for what it has not."""
    cut_off = cell.process.poll() is None
    if cut_off:
        cell.process.kill()
    status = cell.process.wait()
    seconds = round(time.monotonic() - cell.began, 1)
    text = cell.file.with_suffix(".log").read_text(errors="replace").strip()
    print(f"--- {cell.name}\n{text[-5000:]}", flush=True)
    steps = {step["name"]: step for step in read_steps(cell.file)}
    for half in HALVES:
        name = f"{cell.name}:{half}"
        if name in steps:
            part.add(steps[name] | {"cells_beside": cell.beside})
            continue
        if cut_off:
            row = {"status": SKIPPED, "reason": f"the time was up after {seconds:.0f} s"}
        else:
            last = text.splitlines()[-1] if text else "it said nothing"
            row = {"status": FAILED, "reason": public(f"the process ended with status {status}: {last}")}
        part.add({"name": name, **row, "seconds": seconds})


def run_cell(arguments: Namespace) -> int:
    """One network on one poisoned set: undefended, then defended, in this process."""
    import photographs
    import torch

    from advrbd_plugin import AdvrBD, AdvrBDConfig
    from advrbd_plugin.attacks import make_attack, no_attack
    from advrbd_plugin.nn.description import ModelDescription

    model, attack_name = arguments.cell.split(":")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    work = Path(arguments.work)
    train, test = photographs.load(work / "photographs.safetensors")
    # The unpoisoned set's models are shown BadNets' trigger: they have a rate of triggered images too.
    named = "badnets" if attack_name == NO_ATTACK else attack_name
    attack = make_attack(named, target_label=_TARGET_LABEL, poison_ratio=_POISON_RATIO)
    poisoned = no_attack(train) if attack_name == NO_ATTACK else attack.poison(train, seed=arguments.seed)
    triggered = attack.triggered_test_set(test)
    config = AdvrBDConfig.preset("robust").replace(**settings_of(arguments))
    description = ModelDescription.for_images(model, poisoned.image_set)
    torch.zeros(1, device=device)  # the first use of a GPU takes seconds that belong to no stage
    folder = work / "stages" / arguments.cell.replace(":", "-")
    defense = AdvrBD(description.build, config, device=device, work_dir=folder)
    judge = Judge(Path(arguments.out), arguments.cell, poisoned.poisoned, test, triggered, len(train), config.epochs)
    undefended = defense.train_backdoored(poisoned.image_set)
    judge.keep("none", undefended.model, undefended.seconds)
    result = defense.fit(poisoned.image_set)  # which finds the model that was trained
    seconds = {**result.seconds, "training": undefended.seconds["training"]}
    judge.keep("advrbd", result.model, seconds, result.verdicts, list(result.suspected_classes))
    return 0


class Judge:
    """Figures of the models of one cell, kept as soon as they are known."""

    def __init__(self, file: Path, cell: str, truth: Any, test: Any, triggered: Any, samples: int, epochs: int) -> None:
        self._file, self._cell, self._truth = file, cell, truth
        self._test, self._triggered, self._samples, self._epochs = test, triggered, samples, epochs
        self._steps: list[dict[str, Any]] = []

    def keep(
        self, method: str, model: Any, seconds: dict[str, float], verdicts: Any = None, suspected: Any = None
    ) -> None:
        import torch

        from advrbd_plugin.evaluation.metrics import evaluate, judge_detection

        figures = asdict(evaluate(model, self._test, self._triggered, _TARGET_LABEL))
        if verdicts is not None:
            figures |= asdict(judge_detection(self._truth, verdicts.poisoned, verdicts.score))
        total = sum(seconds.values())
        row = {"name": f"{self._cell}:{method}", "status": DONE, "reason": "", "seconds": round(total, 2)}
        row |= {"figures": figures, "stage_seconds": {stage: round(taken, 3) for stage, taken in seconds.items()}}
        row["training_images_per_second"] = round(self._samples * self._epochs / seconds["training"], 1)
        row["suspected_classes"] = suspected
        row["peak_cuda_bytes"] = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None
        self._steps.append(row)
        write_json(self._file, {"steps": self._steps})
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    sys.exit(main())
