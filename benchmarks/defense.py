"""Measures the defense on poisoned CIFAR-10 photographs: one table of no defense, AdvrBD, the paper preset, and the
model trained on the truly clean samples.

    python benchmarks/defense.py [--data ../shared/data/cifar10] [--samples 10000] [--attacks badnets,blend,sig,none]

Writes FOLDER/defense.json, defense.csv and defense.md (default FOLDER: benchmarks/results). Every finished cell is
kept in the folder --work (default: out/benchmark), so a run that was stopped goes on. Two cells run at a time, each on one core.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import io
import json
import os
import sys
import time
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

TARGET_LABEL, POISON_RATIO = 1, 0.05
WORK = "out/benchmark"
MODEL = "resnet_narrow"
# The longer one first, so that no core stands idle at the end.
METHODS = ("advrbd", "clean_only")
NAMES = {
    "undefended": "no defense",
    "robust": "AdvrBD (`robust`)",
    "paper": "AdvrBD (`paper`)",
    "clean_only": "trained on the truly clean samples",
}
COLUMNS = ("acc", "asr", "ra", "tpr", "fpr", "auroc")


def load(data: str, samples: int, seed: int):
    """(train, test) image sets; the training set is a stratified draw of ``samples``."""
    from advrbd_plugin.data import load_folder

    parts = []
    for part, count in (("train", samples), ("test", None)):
        place = Path(data) / part
        place = place if place.exists() else place.with_suffix(".zip")
        names = parts[0].class_names if parts else None
        parts.append(load_folder(place, samples=count, seed=seed, class_names=names).image_set)
    return parts


def run_cell(attack_name: str, method: str, data: str, samples: int, seed: int, work: str) -> list[dict]:
    """The rows of one attack: the defense in both presets, or the training on the truly clean samples."""
    import torch

    from advrbd_plugin.attacks import make_attack, no_attack

    torch.set_num_threads(1)
    train, test = load(data, samples, seed)
    attack = None
    if attack_name != "none":
        attack = make_attack(attack_name, target_label=TARGET_LABEL, poison_ratio=POISON_RATIO)
    poisoned = no_attack(train) if attack is None else attack.poison(train, seed=seed)
    triggered = None if attack is None else attack.triggered_test_set(test)
    judge = _Judge(attack_name, poisoned, test, triggered)
    if method == "clean_only":
        return [_train_on_clean(judge, poisoned, seed)]
    return _defend(judge, poisoned, seed, Path(work) / attack_name)


class _Judge:
    def __init__(self, attack: str, poisoned, test, triggered) -> None:
        self.attack, self.poisoned, self.test, self.triggered = attack, poisoned, test, triggered

    def row(self, name: str, model, seconds: float, result=None) -> dict:
        from advrbd_plugin.metrics import evaluate, judge_detection

        target = None if self.triggered is None else TARGET_LABEL
        row = {"attack": self.attack, "method": name, "seconds": round(seconds, 1)}
        row |= asdict(evaluate(model, self.test, self.triggered, target))
        if result is not None:
            verdicts = result.verdicts
            row |= asdict(judge_detection(self.poisoned.poisoned, verdicts.poisoned, verdicts.score))
            row["accused_labels"] = list(result.accused_labels)
            row["evidence"] = [asdict(each) for each in result.evidence]
            row["stage_seconds"] = {stage: round(value, 1) for stage, value in result.seconds.items()}
            row["curves"] = result.curves
        return row


def model_for(image_set):
    from advrbd_plugin.report import ModelDescription

    return ModelDescription.for_images(MODEL, image_set).build


def _defend(judge: _Judge, poisoned, seed: int, work: Path) -> list[dict]:
    """Both presets share the first training, whose settings are the same."""
    from advrbd_plugin import AdvrBD, AdvrBDConfig, AdvrBDError

    rows = []
    for preset in ("robust", "paper"):
        config = AdvrBDConfig.preset(preset).replace(seed=seed)
        try:
            result = AdvrBD(model_for(poisoned.image_set), config, work_dir=work).fit(poisoned.image_set)
        except AdvrBDError as error:
            rows.append({"attack": judge.attack, "method": preset, "error": str(error)})
            continue
        if preset == "robust":
            rows.append(judge.row("undefended", result.backdoored_model, result.seconds["training"]))
        rows.append(judge.row(preset, result.model, sum(result.seconds.values()), result) | {"config": config.to_mapping()})
    return rows


def _train_on_clean(judge: _Judge, poisoned, seed: int) -> dict:
    """The same training on the truly clean samples: what a perfect detector would give."""
    import torch

    from advrbd_plugin import AdvrBDConfig
    from advrbd_plugin.randomness import derive_seed
    from advrbd_plugin.training import train

    config = AdvrBDConfig().replace(seed=seed)
    clean = poisoned.image_set.subset(~poisoned.poisoned)
    torch.manual_seed(derive_seed(seed, "weights", "training"))
    model = model_for(poisoned.image_set)()
    began = time.perf_counter()
    train(model, clean.images, clean.labels, clean.sample_ids, config.training(derive_seed(seed, "training")))
    return judge.row("clean_only", model, time.perf_counter() - began)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="folder with train and test, or their zips")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--attacks", default="badnets,blend,sig,none")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="benchmarks/results")
    parser.add_argument("--work", default=WORK)
    arguments = parser.parse_args()
    if not Path(arguments.data).is_dir():
        sys.exit(f"benchmarks/defense.py: {arguments.data} is missing: give --data a folder with train and test")
    attacks = arguments.attacks.split(",")
    cells = [(attack, method) for method in METHODS for attack in attacks if (attack, method) != ("none", "clean_only")]
    out = Path(arguments.out)
    rows, seconds = run_all(cells, arguments, Path(arguments.work))
    write(rows, arguments, seconds, out)
    print(f"\n{markdown(rows)}\n{seconds:.0f} s; written to {out}")
    return 0


def run_all(cells: list[tuple[str, str]], arguments: argparse.Namespace, work: Path) -> tuple[list[dict], float]:
    """All rows, and the seconds that this run took; finished cells are read from ``work``."""
    from advrbd_plugin.files import write_json

    began, rows, waiting = time.perf_counter(), {}, {}
    with ProcessPoolExecutor(max_workers=2) as pool:
        for attack, method in cells:
            kept = work / f"{attack}-{method}-{arguments.samples}-{arguments.seed}.json"
            if kept.exists():
                rows[attack, method] = json.loads(kept.read_text())
                continue
            settings = (arguments.data, arguments.samples, arguments.seed, str(work))
            waiting[pool.submit(run_cell, attack, method, *settings)] = (attack, method, kept)
        for done, future in enumerate(as_completed(waiting), 1):
            attack, method, kept = waiting[future]
            rows[attack, method] = future.result()
            write_json(kept, rows[attack, method])
            spent = time.perf_counter() - began
            left = spent / done * (len(waiting) - done)
            print(f"[{done}/{len(waiting)}] {attack}, {method}: {spent:.0f} s, about {left:.0f} s left", flush=True)
    return [row for cell in cells for row in rows[cell]], time.perf_counter() - began


def write(rows: list[dict], arguments: argparse.Namespace, seconds: float, out: Path) -> None:
    from advrbd_plugin.files import write_json, write_text
    from advrbd_plugin.report.environment import commit, hardware, versions

    about = {
        "command": "python benchmarks/defense.py",
        "date": datetime.date.today().isoformat(),
        "samples": arguments.samples,
        "poison_ratio": POISON_RATIO,
        "target_label": TARGET_LABEL,
        "model": MODEL,
        "seed": arguments.seed,
        "seconds": round(seconds),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
    }
    write_json(out / "defense.json", about | {"rows": rows})
    table = io.StringIO()
    writer = csv.DictWriter(table, ("attack", "method", *COLUMNS, "seconds"), extrasaction="ignore", lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(out / "defense.csv", table.getvalue())
    write_text(out / "defense.md", markdown(rows))


def markdown(rows: list[dict]) -> str:
    """The README's table."""
    lines = ["| attack | method | ACC | ASR | RA | TPR | FPR | AUROC |", "| --- | --- | ---: | ---: | ---: | ---: | ---: | ---: |"]
    attacks = list(dict.fromkeys(row["attack"] for row in rows))
    for attack in attacks:
        by_method = {row["method"]: row for row in rows if row["attack"] == attack}
        for method in NAMES:
            if method in by_method:
                row = by_method[method]
                values = " | ".join(_text(column, row.get(column)) for column in COLUMNS)
                if "error" in row:
                    values = f"stopped: {row['error']}" + " |" * (len(COLUMNS) - 1)
                lines.append(f"| {attack} | {NAMES[method]} | {values} |")
    return "\n".join(lines) + "\n"


def _text(column: str, value: float | None) -> str:
    if value is None:
        return ""
    return f"{value:.3f}" if column == "auroc" else f"{100 * value:.1f}"


if __name__ == "__main__":
    sys.exit(main())
