"""BackdoorBench's public leaderboard beside ours: each defense's means over its attacks, from a CSV of its figures."""

from __future__ import annotations

import csv
from collections import defaultdict
from pathlib import Path

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.report.evaluation.measured import defense_effectiveness_rating
from advrbd_plugin.table import Table, percent

_UNDEFENDED = "no defense"
_DATASET, _MODEL, _RATIO = "cifar10", "preactresnet18", 0.05
_COLUMNS = ("dataset", "backbone", "attack_name", "defense_name", "ratio", "test_acc", "test_asr")


def leaderboard_table(path: Path) -> Table | None:
    """CIFAR-10, PreAct-ResNet-18, poison ratio 5%, the best DER first; ``None`` where the file is not there.

    Raises:
        AdvrBDError: the file lacks a column, or holds something else than numbers in them.
    """
    if not path.is_file():
        return None
    figures = _read(path)
    undefended = figures.pop(_UNDEFENDED, {})
    rows = []
    for defense, by_attack in figures.items():
        shared = [(*by_attack[attack], *undefended[attack]) for attack in by_attack if attack in undefended]
        if shared:
            acc, asr = (sum(row[place] for row in shared) / len(shared) for place in (0, 1))
            der = sum(defense_effectiveness_rating(*row) for row in shared) / len(shared)
            rows.append((der, defense, acc, asr, len(shared)))
    return Table(
        ("Defense", "ACC", "ASR", "DER", "Attacks"),
        tuple(
            (defense, percent(acc), percent(asr), percent(der), str(count))
            for der, defense, acc, asr, count in sorted(rows, reverse=True)
        ),
        "BackdoorBench's leaderboard: CIFAR-10, PreAct-ResNet-18, poison ratio 0.05, means over its attacks",
        notes=("Source: backdoorbench/backdoorbench.github.io. Its attacks are not the paper's eight.",),
    )


def _read(path: Path) -> dict[str, dict[str, tuple[float, float]]]:
    """Defense -> attack -> (ACC, ASR)."""
    found: dict[str, dict[str, tuple[float, float]]] = defaultdict(dict)
    try:
        with path.open(encoding="utf-8", newline="") as handle:
            for row in csv.DictReader(handle):
                dataset, model, attack, defense, ratio, acc, asr = (row[name] for name in _COLUMNS)
                if (dataset, model, float(ratio)) == (_DATASET, _MODEL, _RATIO) and acc and asr:
                    found[defense][attack] = float(acc), float(asr)
    except (KeyError, TypeError, ValueError) as error:
        raise AdvrBDError(f"{path} is no table of BackdoorBench's leaderboard: {error}") from error
    return found
