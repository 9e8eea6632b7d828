"""AdvrBD on image folders of any kind, clean and attacked: is what is clean spared, and what is poisoned found?

    python benchmarks/other_data.py pictures/ [more/ ...] [--attacks none,badnets] [--seeds 1] [--no-flip]

A folder holds `train` and `test` (or zips of them) with a sub-folder of pictures for each class. Each cell is a file
in --out, which also gets table.md. A cell that this version of the algorithm has measured with the same --samples and
--no-flip is skipped, and a killed run goes on where it was. The target is the class in the middle.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from itertools import product
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))
from small_scale import MODEL, NO_ATTACK, load, made_now, model_for


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "folders", nargs="*", type=Path, help="with train and test; without any, the table is made anew"
    )
    parser.add_argument("--attacks", default="none,badnets", help="those of `advrbd reproduce`; none: the set as it is")
    parser.add_argument("--poison-ratio", type=float, default=0.05)
    parser.add_argument("--seeds", default="1")
    parser.add_argument("--no-flip", action="store_true", help="where a mirrored picture shows another class (digits)")
    parser.add_argument("--samples", type=int, default=10_000, help="of the training set, each class in proportion")
    parser.add_argument("--out", type=Path, default=Path("results/other_data"))
    parser.add_argument("--work", type=Path, default=Path("out/other_data"))
    arguments = parser.parse_args()
    from advrbd_plugin.errors import AdvrBDError
    from advrbd_plugin.files import write_json, write_text

    failed = 0
    for folder, attack, seed in product(
        arguments.folders, arguments.attacks.split(","), map(int, arguments.seeds.split(","))
    ):
        ratio = 0.0 if attack == NO_ATTACK else arguments.poison_ratio
        name = "-".join((folder.resolve().name, attack, *([f"{ratio:g}"] if ratio else []), f"s{seed}"))
        path = arguments.out / f"{name}.json"
        if path.exists() and is_done(json.loads(path.read_text(encoding="utf-8")), arguments):
            print(f"other_data.py: {name}: done before", flush=True)
            continue
        try:
            result = measure(folder, attack, ratio, seed, arguments)
        except AdvrBDError as error:
            print(f"other_data.py: {name}: {error}", file=sys.stderr, flush=True)
            failed = 1
            continue
        write_json(path, result)
        print(f"other_data.py: {name}: ACC {result['after']['acc']:.1%}, {result['remark']}", flush=True)
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(arguments.out.glob("*.json"))]
    if results:
        write_text(arguments.out / "table.md", table_of(results))
        print(table_of(results))
    return failed


def is_done(result: dict[str, Any], arguments: argparse.Namespace) -> bool:
    """Whether a stored cell is what would be measured now."""
    from advrbd_plugin.evaluation.algorithm import is_of_current_algorithm

    return is_of_current_algorithm(result) and result.get("asked") == asked(arguments)


def asked(arguments: argparse.Namespace) -> dict[str, Any]:
    """What changes a cell and is not in its name."""
    return {"samples": arguments.samples, "flip": not arguments.no_flip}


def measure(folder: Path, attack: str, ratio: float, seed: int, arguments: argparse.Namespace) -> dict[str, Any]:
    """One set before and after the defense. The truth is used for the figures alone."""
    from advrbd_plugin import AdvrBD, AdvrBDConfig
    from advrbd_plugin.attacks import make_attack, no_attack
    from advrbd_plugin.evaluation.metrics import evaluate, judge_detection

    train, test = load(folder, arguments.samples, seed)
    target = train.num_classes // 2
    made = None if attack == NO_ATTACK else make_attack(attack, target_label=target, poison_ratio=ratio)
    poisoned = no_attack(train) if made is None else made.poison(train, seed=seed)
    samples = poisoned.image_set
    config = AdvrBDConfig(seed=seed, flip=not arguments.no_flip)
    result = AdvrBD(model_for(samples), config, work_dir=arguments.work / folder.resolve().name).fit(samples)
    triggered = None if made is None else made.triggered_test_set(test)
    before, after = (evaluate(each, test, triggered, target) for each in (result.backdoored_model, result.model))
    verdicts = result.verdicts
    return {
        "data": {
            "name": folder.resolve().name,
            "train": len(samples),
            "test": len(test),
            "classes": train.num_classes,
            "image_size": list(samples.image_size),
        },
        "attack": {"name": attack, "poison_ratio": ratio, "target": train.class_names[target], "seed": seed},
        "label_share": float(poisoned.poisoned[samples.labels == target].double().mean()),
        "fit": result.fit,
        "before": asdict(before),
        "after": asdict(after),
        "detection": asdict(judge_detection(poisoned.poisoned, verdicts.poisoned, verdicts.score)),
        "mislabelled": int(verdicts.mislabelled.sum()),
        "poison_trusted": int((poisoned.poisoned & verdicts.trusted).sum()),
        "target_found": made is not None and target in result.suspected_classes,
        "falsely_suspected": [
            train.class_names[label] for label in result.suspected_classes if made is None or label != target
        ],
        "findings": [each.to_json() for each in result.findings if each.suspected or each.probability > 0.01],
        "remark": result.remark,
        "seconds": result.seconds,
        "configuration": result.config.to_mapping(),
        "model": MODEL,
        "asked": asked(arguments),
        **made_now(),
    }


COLUMNS = (
    *("data", "pictures", "classes", "attack", "poison in its label", "ACC before", "after", "ASR before", "after"),
    *("target found", "falsely suspected", "TPR", "FPR", "mislabelled", "poison trusted"),
)


def table_of(results: list[dict[str, Any]]) -> str:
    """Markdown; figures in %, a dagger at those of an older version of the algorithm."""
    from advrbd_plugin.evaluation.algorithm import is_of_current_algorithm
    from advrbd_plugin.table import NOT_MEASURED, Table

    def percent(share: float | None) -> str:
        return NOT_MEASURED if share is None else f"{100 * share:.1f}"

    rows = []
    for each in results:
        data, attack, attacked = each["data"], each["attack"], each["attack"]["name"] != NO_ATTACK
        height, width = data["image_size"]
        older = "" if is_of_current_algorithm(each) else "\u2020"
        entries = (
            f"{data['name']}{older}",
            f"{data['train']:,} of {height}x{width}",
            str(data["classes"]),
            f"{attack['name']}, {attack['poison_ratio']:.0%}" if attacked else NO_ATTACK,
            percent(each["label_share"]) if attacked else NOT_MEASURED,
            percent(each["before"]["acc"]),
            percent(each["after"]["acc"]),
            percent(each["before"]["asr"]) if attacked else NOT_MEASURED,
            percent(each["after"]["asr"]) if attacked else NOT_MEASURED,
            ("yes" if each["target_found"] else "no") if attacked else NOT_MEASURED,
            ", ".join(each["falsely_suspected"]) or NOT_MEASURED,
            percent(each["detection"]["tpr"]) if attacked else NOT_MEASURED,
            percent(each["detection"]["fpr"]),
            f"{each['mislabelled']:,}",
            f"{each['poison_trusted']:,}" if attacked else NOT_MEASURED,
        )
        rows.append(entries)
    return Table(COLUMNS, tuple(rows)).markdown()


if __name__ == "__main__":
    sys.exit(main())
