"""What each choice brings to finding the poison: the stages up to the verdicts, one switch changed at a time.

    python benchmarks/ablation.py [--data ../shared/data/cifar10] [--samples 10000] [--attacks badnets,sig,tact]

Starts from the backdoored models that `advrbd reproduce` trained and stored (same --work folder, same settings), and
trains them first where they are missing. Writes FOLDER/ablation.json and ablation.md. Scores are compared by AUROC of
the consistency ranks and by the poison left among the 20% least consistent, verdicts by TPR and FPR.
"""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

os.environ.setdefault("OMP_NUM_THREADS", "1")

sys.path.insert(0, str(Path(__file__).parent))
from small_scale import (
    TARGET_LABEL,
    add_arguments,
    attack_of,
    check_data,
    defense_for,
    load,
    poison,
    write_results,
)

VARIANTS: dict[str, dict[str, object]] = {
    "robust": {},
    "1 mask": {"num_masks": 1},
    "mean of 4": {"reduction": "mean"},
    "epsilon 8/255": {"epsilon": "8/255"},
    "patch 4 alone": {"patch_size": 4, "num_patch_sizes": 1},
    "patch 8 alone": {"patch_size": 8, "num_patch_sizes": 1},
    "patch 16 alone": {"patch_size": 16, "num_patch_sizes": 1},
    "whole image alone": {"patch_size": 32, "num_patch_sizes": 1, "num_masks": 1},
    "no enhancement": {"enhancement": "none"},
}


def measure(poisoned, defense) -> dict[str, float]:
    """Figures of one variant. The truth is used for the figures only."""
    import torch
    from sklearn.metrics import roc_auc_score

    from advrbd_plugin.defense.config import ScoringConfig
    from advrbd_plugin.defense.scoring import score_samples
    from advrbd_plugin.evaluation.metrics import judge_detection

    samples, truth = poisoned.image_set, poisoned.poisoned
    scan = defense.scan(samples)
    scores = score_samples(scan.backdoored_model, samples, defense.config.part(ScoringConfig))
    gains = torch.tensor([each.gain for each in scan.evidence])
    judged = judge_detection(truth, scan.verdicts.poisoned, scan.verdicts.score)
    target = torch.arange(len(gains)) == TARGET_LABEL
    least_consistent = scores.consistency.argsort()[: len(truth) // 5]
    return {
        "auroc_of_ranks": float(roc_auc_score(truth, scores.consistency)),
        "poison_in_top_20": float(truth[least_consistent].float().mean()),
        "gain_of_target": float(gains[target]),
        "largest_other_gain": float(gains[~target].max()),
        "tpr": judged.tpr,
        "fpr": judged.fpr,
        "auroc": judged.auroc,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add_arguments(parser, attacks="badnets,sig,tact,adaptive_blend")
    arguments = parser.parse_args()
    check_data(arguments)
    train, _ = load(arguments.data, arguments.samples, arguments.seed)
    rows = []
    for name in arguments.attacks.split(","):
        poisoned = poison(attack_of(name, arguments), train, arguments)
        for variant, changes in VARIANTS.items():
            defense = defense_for(name, arguments, poisoned.image_set, **changes)
            rows.append({"attack": name, "variant": variant} | measure(poisoned, defense))
            print(rows[-1], flush=True)
    write_results("ablation", arguments, rows, markdown(rows))
    return 0


def markdown(rows: list[dict]) -> str:
    from advrbd_plugin.table import Table

    columns = ("auroc_of_ranks", "poison_in_top_20", "gain_of_target", "largest_other_gain", "tpr", "fpr", "auroc")
    entries = [(row["attack"], row["variant"], *(f"{row[name]:.3f}" for name in columns)) for row in rows]
    return Table(("attack", "variant", *columns), tuple(entries), align="ll").markdown()


if __name__ == "__main__":
    sys.exit(main())
