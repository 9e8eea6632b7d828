"""The tables of benchmarks/detection.py, from judged sets: rows, evidence of innocent clusters, reliability, constants.

Where it says *kind left out*, a set is judged with a null (how evidence falls for innocent clusters) that was fitted to
the other sets alone, none of which has its structure and attacks.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import fields
from itertools import pairwise
from typing import Any

import torch

from advrbd_plugin.defense import posterior
from advrbd_plugin.defense.evidence import EVIDENCE, ClusterEvidence
from advrbd_plugin.defense.posterior import (
    DEFAULT_NULL,
    Null,
    discovered,
    fit_null,
    label_probabilities,
    was_asked,
)
from advrbd_plugin.evaluation.stress_judge import LEARNED
from advrbd_plugin.evaluation.stress_suite import split_name

POISONED, INNOCENT = 0.5, 0.05  # share of poison from which, and up to which, a cluster counts as one or the other

Row = dict[str, Any]


def rows_of(judged: list[Row]) -> list[Row]:
    """A line for each judged set, ready for JSON."""
    return [_row(each, _null_without(judged, each)) for each in judged]


def tables(rows: list[Row], judged: list[Row]) -> str:
    """Markdown, from the lines and the sets that they are of."""
    return "\n\n".join([_sets(rows), _summary(rows), _nulls(judged), _reliability(rows), _constants(judged)]) + "\n"


def is_innocent(_row: Row, cluster: Row) -> bool:
    return bool(cluster["poison"] <= INNOCENT)


def is_poison(row: Row, cluster: Row) -> bool:
    """Whether a cluster is poison with a trigger that was learned."""
    return bool(cluster["poison"] >= POISONED and cluster["label"] in row["verdicts"]["targets"])


def evidence_of(row: Row, wanted: Callable[[Row, Row], bool] = lambda _row, _cluster: True) -> list[ClusterEvidence]:
    """Of the wanted clusters of a judged set."""
    names = [each.name for each in fields(ClusterEvidence)]
    return [
        ClusterEvidence(**{name: cluster[name] for name in names})
        for cluster in row["clusters"]
        if wanted(row, cluster)
    ]


def values_of(judged: list[Row], kind: str, wanted: Callable[[Row, Row], bool]) -> torch.Tensor:
    """(N,) float, one kind of evidence of the wanted clusters that were asked for it."""
    evidence = [each for row in judged for each in evidence_of(row, wanted)]
    return torch.tensor([each.value(kind) for each in evidence if was_asked(each, kind)])


def probabilities_of(row: Row, null: Null) -> dict[int, float]:
    """Label -> probability, with the null given."""
    own = null.of_set(evidence_of(row))
    compared = [ClusterEvidence(**cluster["compared"]) for cluster in row["clusters"]]
    return label_probabilities(compared, len(row["probabilities"]), null=own, one_way=row["one_way"])


def _innocent(judged: list[Row]) -> list[ClusterEvidence]:
    return [evidence for row in judged for evidence in evidence_of(row, is_innocent)]


def _kind(name: str) -> frozenset[str]:
    """What kind of set it is: structure and attacks, whatever their share and the seed."""
    return frozenset(part.partition("%")[0] for part in split_name(name)[0])


def _null_without(judged: list[Row], row: Row) -> Null:
    """The null fitted to the innocent clusters of the sets of other kinds."""
    others = _innocent([each for each in judged if _kind(each["name"]) != _kind(row["name"])])
    return fit_null(others) if others else DEFAULT_NULL


def _row(row: Row, null: Null) -> Row:
    """A set's line: what was judged with the default null, and again with a null that never saw this kind of set."""
    targets, poisoned = set(row["verdicts"]["targets"]), _poisoned_labels(row)
    left_out = probabilities_of(row, null)
    default = dict(enumerate(row["probabilities"]))
    line = {key: value for key, value in row.items() if key not in ("clusters", "probabilities")}
    for name, probabilities in (("", default), ("left_out_", left_out)):
        innocent = [value for label, value in probabilities.items() if label not in poisoned]
        line[f"{name}least_of_targets"] = min((probabilities.get(label, 0.0) for label in targets), default=None)
        line[f"{name}most_of_innocent"] = max(innocent, default=None)
    line["left_out_suspected"] = list(discovered(left_out))
    line["labels"] = {
        label: [probability, label in targets]
        for label, probability in left_out.items()
        if label in targets or label not in poisoned
    }
    return line


def _sets(rows: list[Row]) -> str:
    head = (
        "| set | ACC | ASR | labels found | falsely | least p of a target | most p of an innocent label | "
        "the same, kind left out | TPR | FPR | s |"
    )
    lines = [head, "|" + " --- |" * 11]
    for row in rows:
        asr = ", ".join(f"{each['asr']:.1%}" for each in row["triggers"]) or "-"
        tpr = ", ".join(f"{each['tpr']:.1%}" for each in row["triggers"]) or "-"
        verdicts = row["verdicts"]
        found = f"{len(verdicts['found'])} of {len(verdicts['targets'])}" if verdicts["targets"] else "-"
        left_out = f"{_p(row['left_out_least_of_targets'])} / {_p(row['left_out_most_of_innocent'])}"
        lines.append(
            f"| {row['name']} | {row['acc']:.1%} | {asr} | {found} | {len(verdicts['falsely_suspected'])} | "
            f"{_p(row['least_of_targets'])} | {_p(row['most_of_innocent'])} | {left_out} | {tpr} | "
            f"{row['figures']['fpr']:.2%} | {row['seconds']['detection']:.0f} |"
        )
    return "\n".join(lines)


def _summary(rows: list[Row]) -> str:
    attacked = [row for row in rows if row["verdicts"]["targets"]]
    clean = [row for row in rows if not row["triggers"]]
    learned = [trigger["tpr"] for row in rows for trigger in row["triggers"] if trigger["asr"] >= LEARNED]
    found, targets = (sum(len(row["verdicts"][name]) for row in attacked) for name in ("found", "targets"))
    return (
        f"- {len(attacked)} sets with a learned backdoor: learned triggers {len(learned)}, mean TPR {_mean(learned)}, "
        f"mean FPR {_mean([row['figures']['fpr'] for row in attacked])}, labels found {found} of {targets}, "
        f"falsely suspected {_false_labels(attacked)}\n"
        f"- {len(clean)} sets without poison: mean FPR {_mean([row['figures']['fpr'] for row in clean])}, labels "
        f"falsely suspected {_false_labels(clean)}"
    )


def _false_labels(rows: list[Row]) -> int:
    return sum(len(row["verdicts"]["falsely_suspected"]) for row in rows)


def _nulls(judged: list[Row]) -> str:
    """How the evidence of innocent clusters falls, and the scale that was fitted, beside that of poisoned ones."""
    lines = [
        "| evidence | innocent: median | 99% | most | fitted median + scale | default | poison: median | 90% |",
        "|" + " --- |" * 8,
    ]
    null = fit_null(_innocent(judged))
    for kind in EVIDENCE:
        innocent, poison = values_of(judged, kind, is_innocent), values_of(judged, kind, is_poison)
        lines.append(
            f"| {kind} | {_quantile(innocent, 0.5)} | {_quantile(innocent, 0.99)} | {_quantile(innocent, 1.0)} | "
            f"{null.medians[kind]:.3f} + {null.scales[kind]:.3f} | {DEFAULT_NULL.medians[kind]:.3f} + "
            f"{DEFAULT_NULL.scales[kind]:.3f} | {_quantile(poison, 0.5)} | {_quantile(poison, 0.9)} |"
        )
    return "\n".join(lines)


def _quantile(values: torch.Tensor, share: float) -> str:
    return f"{float(values.quantile(share)):.3f}" if len(values) else "-"


def _reliability(rows: list[Row]) -> str:
    """Labels by probability (kind left out), and how many of them were poisoned with a learned trigger."""
    pairs = [pair for row in rows for pair in row["labels"].values()]
    lines = ["| probability of a label | labels | mean | poisoned |", "|" + " --- |" * 4]
    edges = (0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
    for low, high in pairwise(edges):
        inside = [pair for pair in pairs if low <= pair[0] < high or (high == 1.0 and pair[0] == 1.0)]
        if inside:
            mean = sum(pair[0] for pair in inside) / len(inside)
            share = sum(pair[1] for pair in inside) / len(inside)
            lines.append(f"| {low} to {high} | {len(inside)} | {mean:.3f} | {share:.3f} |")
    return "\n".join(lines)


def _constants(judged: list[Row]) -> str:
    """What half and double of each constant of the decision would do: labels missed and falsely suspected."""
    lines = ["| constant | value | half: missed / false labels | as it is | double |", "|" + " --- |" * 5]
    for name in ("_CAUTION", "FALSE_DISCOVERY", "_POISONED_LABELS", "_LEAST_SCALE"):
        value = getattr(posterior, name)
        cells = []
        for changed in (value / 2, value, 2 * value):
            setattr(posterior, name, changed)
            missed = false = 0
            for row in judged:
                null = DEFAULT_NULL if name != "_LEAST_SCALE" else fit_null(_innocent(judged))
                suspected = set(discovered(probabilities_of(row, null), rate=posterior.FALSE_DISCOVERY))
                missed += len(set(row["verdicts"]["targets"]) - suspected)
                false += len(suspected - _poisoned_labels(row))
            cells.append(f"{missed} / {false}")
        setattr(posterior, name, value)
        lines.append(f"| `{name}` | {value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _poisoned_labels(row: Row) -> set[int]:
    """The labels of all triggers: suspecting one of a trigger that was not learned is not false."""
    return {label for each in row["triggers"] for label in each["labels"]}


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean(values: list[float]) -> str:
    return f"{sum(values) / len(values):.2%}" if values else "-"
