"""Measures ULRL on the backdoored models of `advrbd reproduce`: with 1% clean samples, and with none.

    python benchmarks/repair.py [--data ../shared/data/cifar10] [--samples 10000] [--attacks badnets,blend,sig,none]

Starts from the models that `advrbd reproduce` trained and stored (same --work folder, same settings), and trains them
first where they are missing. Writes FOLDER/repair.json and repair.md; finished cells are cached in --work. The clean
samples of the rows "1% clean" are the true images of 1% of the training set, as BackdoorBench draws them. Costs are
processor seconds, given in epochs of the training of the whole set (measured once, before the first attack).
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import asdict
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))
from small_scale import (
    TARGET_LABEL,
    add_arguments,
    attack_of,
    backdoored_model,
    check_data,
    load,
    poison,
    variant,
    write_results,
)

CLEAN_SHARE = 0.01
METHODS = {
    "undefended": "no repair",
    "paper": "ULRL (`paper`), 1% clean",
    "robust": "ULRL (`robust`), 1% clean",
    "none_clean": "ULRL (`robust`), none clean",
}


def run_attack(name: str, arguments: argparse.Namespace, train, test) -> list[dict]:
    """One row for each method. The truth is used to poison, to draw the clean samples, and for the figures only."""
    from advrbd_plugin.data.selection import draw_stratified
    from advrbd_plugin.evaluation.metrics import evaluate
    from advrbd_plugin.ulrl import ULRL, ULRLConfig, clean_from_poisoned
    from advrbd_plugin.ulrl.pipeline import LOOKS_CLEAN

    attack = attack_of(name, arguments)
    poisoned = poison(attack, train, arguments)
    triggered = None if attack is None else attack.triggered_test_set(test)
    samples = poisoned.image_set
    backdoored = backdoored_model(name, arguments, samples)
    epoch_seconds = _epoch_seconds(backdoored, samples, arguments)
    count = max(train.num_classes, round(CLEAN_SHARE * len(train)))
    clean_set = train.subset(draw_stratified(train.sample_ids, train.labels, count, seed=arguments.seed + 1))
    rows = []

    def judge(method: str, model, seconds: float = 0.0, **more) -> None:
        target = None if attack is None else TARGET_LABEL
        if more.get("verdict") == LOOKS_CLEAN:  # the same weights, hence the same figures
            figures = {name: rows[0][name] for name in ("acc", "asr", "ra")}
        else:
            figures = asdict(evaluate(model, test, triggered, target))
        row = {"attack": name, "method": method, **figures, "epochs": round(seconds / epoch_seconds, 2), **more}
        print({key: value for key, value in row.items() if key != "config"}, flush=True)
        rows.append(row)

    def repaired(method: str, preset: str, clean, began: float, **known) -> None:
        result = ULRL(ULRLConfig.preset(preset).replace(seed=arguments.seed)).repair(backdoored, clean, **known)
        seconds = time.process_time() - began
        judge(
            method,
            result.model,
            seconds,
            verdict=result.verdict,
            clean_samples=len(clean),
            suspicious_neurons=result.num_suspicious,
            attacked_labels=list(result.attacked_labels),
            evidence={kind: [round(float(value), 4) for value in each] for kind, each in result.evidence.items()},
            config=result.config.to_mapping(),
        )

    judge("undefended", backdoored)
    repaired("paper", "paper", clean_set, time.process_time())
    repaired("robust", "robust", clean_set, time.process_time())
    began = time.process_time()
    picked = clean_from_poisoned(backdoored, samples, seed=arguments.seed)
    positions = {int(sample): place for place, sample in enumerate(samples.sample_ids)}
    chosen = [positions[int(sample)] for sample in picked.clean_set.sample_ids]
    repaired(
        "none_clean",
        "robust",
        picked.clean_set,
        began,
        suspect_set=picked.suspect_set,
        attacked_labels=picked.suspected_classes,
    )
    rows[-1]["poison_among_clean"] = float(poisoned.poisoned[chosen].float().mean())
    return rows


def _epoch_seconds(model, samples, arguments: argparse.Namespace) -> float:
    """Processor seconds of one epoch of training on the whole set; cached in the work folder."""
    import copy

    from advrbd_plugin import AdvrBDConfig
    from advrbd_plugin.files import write_json
    from advrbd_plugin.nn.training import train

    cached = Path(arguments.work) / f"epoch-seconds-{arguments.samples}.json"
    if not cached.exists():
        options = AdvrBDConfig().training(arguments.seed, epochs=1)
        began = time.process_time()
        train(copy.deepcopy(model), samples.images, samples.labels, samples.sample_ids, options)
        write_json(cached, time.process_time() - began)
    return json.loads(cached.read_text())


def markdown(rows: list[dict]) -> str:
    """The table of docs/ulrl.md."""
    from advrbd_plugin.table import Table, percent

    columns = ("attack", "method", "ACC", "ASR", "RA", "verdict", "suspicious neurons", "cost in epochs")
    entries = []
    for row in rows:
        figures = [percent(row[name], missing="") for name in ("acc", "asr", "ra")]
        rest = (row.get("verdict", ""), row.get("suspicious_neurons", ""), row["epochs"] or "")
        entries.append((row["attack"], METHODS[row["method"]], *figures, *map(str, rest)))
    return Table(columns, tuple(entries), align="llrrrl").markdown()


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, attacks="badnets,blend,sig,wanet,tact,adaptive_blend,none")
    parser.add_argument("--test-samples", type=int, default=10_000, help="judge on so many clean and triggered images")
    arguments = parser.parse_args()
    check_data(arguments, unpoisoned=True)
    import torch

    from advrbd_plugin.cache import digest
    from advrbd_plugin.data.selection import draw_images
    from advrbd_plugin.environment import commit
    from advrbd_plugin.files import write_json
    from advrbd_plugin.ulrl import ULRLConfig

    torch.set_num_threads(1)
    settings = digest([ULRLConfig.preset(name).to_mapping() for name in ULRLConfig.preset_files], commit())[:8]
    rows = []
    train, test = load(arguments.data, arguments.samples, arguments.seed)
    test = draw_images(test, arguments.test_samples, seed=arguments.seed)
    for name in arguments.attacks.split(","):
        run = f"{variant(name, arguments)}-repair-{arguments.samples}-{arguments.test_samples}-{arguments.seed}"
        cached = Path(arguments.work) / f"{run}-{settings}.json"
        if not cached.exists():
            write_json(cached, run_attack(name, arguments, train, test))
        rows += json.loads(cached.read_text())
    write_results(
        "repair", arguments, rows, markdown(rows), clean_share=CLEAN_SHARE, test_samples=arguments.test_samples
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
