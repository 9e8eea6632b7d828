"""The stress suite's table: a row a set, with a mark for each bar that it reaches or misses."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from advrbd_plugin.evaluation import stress_bars as bars
from advrbd_plugin.evaluation.algorithm import is_of_current_algorithm
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.result import Result
from advrbd_plugin.evaluation.stress_bars import BARS, StressRow, bars_of
from advrbd_plugin.evaluation.stress_judge import LEARNED
from advrbd_plugin.report.evaluation.values import OTHER_ALGORITHM, dagger_note
from advrbd_plugin.table import NOT_MEASURED, Table, percent

LEGEND = (
    "ACC, ASR, TPR and FPR in percent; before: the undefended model. Clean training: the same training on the truly "
    "clean samples alone; its ASR is what a model without a backdoor mistakes for the target. ASR: of the worst "
    "trigger; of an untargeted one, the wrong labels beyond those that the same model gives without a trigger. FPR: "
    "share of the truly clean samples that are called poisoned; mislabelled ones are counted apart.",
    f"The bars. A set whose backdoor was learned (ASR before of {LEARNED:.0%} and more): ASR at most "
    f"{bars.MOST_ASR:.0%}; TPR at least {bars.LEAST_TPR:.0%} ({bars.LEAST_TPR_HIDDEN:.0%} for clean-label and "
    f"sample-specific triggers); FPR at most {bars.MOST_FPR:.0%}; ACC within {100 * bars.MOST_ACC_LOST:g} points of "
    "clean training; labels: all targets suspected and no other. A clean set: FPR at most "
    f"{bars.MOST_FPR_CLEAN_SET:.1%}; ACC within {100 * bars.MOST_ACC_LOST_CLEAN_SET:g} point; no label suspected. "
    f"Every set: neither ACC nor the ASR of any trigger worse than before by more than {100 * bars.MOST_WORSE:g} point."
    " A dash: it does not apply, or was not measured.",
)
_MARKS = {True: "\u2713", False: "\u2717", None: NOT_MEASURED}
_COLUMNS = (
    *("set", "samples", "ACC before", "ACC after", "ACC of clean training", "ASR before", "ASR after"),
    *("ASR of clean training", "TPR", "FPR", "labels found", "falsely", "rounds", "seconds"),
)


def suite_table(method: str, model: str, rows: Sequence[StressRow], without: Sequence[Result]) -> Table:
    """A row for each set of one method and network; cells that have no figures stand below, with their reasons."""
    other = [row for row in rows if _is_of_another_algorithm(row)]
    notes = (
        *summary_lines(rows),
        *(f"{each.cell.name}: {each.content['status']}: {each.reason}" for each in without),
        *dagger_note(len(other), len(rows)),
    )
    return Table(
        (*_COLUMNS, *BARS),
        tuple((*_entries(row), *(_MARKS[mark] for mark in bars_of(row).values())) for row in rows),
        title=f"{METHODS[method].title}, {model}",
        groups=(("reaches", len(BARS)),),
        notes=notes,
    )


def triggers_table(rows: Sequence[StressRow]) -> Table:
    """Each trigger of the sets that have several."""
    lines = []
    for row in rows:
        for before, after in row.triggers if len(row.triggers) > 1 else ():
            figures = (before["asr"], after["asr"], before["ra"], after["ra"], after.get("tpr"))
            lines.append((_name(row), after["name"], str(after["poisoned"]), *map(percent, figures)))
    columns = ("set", "trigger", "poisoned samples", "ASR before", "ASR after", "RA before", "RA after", "TPR")
    return Table(columns, tuple(lines), title="Each trigger of the sets with several", align="ll")


def summary_lines(rows: Sequence[StressRow]) -> tuple[str, ...]:
    """What is judged over all sets, a sentence each."""
    learned, clean = [row for row in rows if row.learned], [row for row in rows if row.is_clean_set]
    lines = []
    if learned:
        mean = _mean_asr(learned)
        reached = _MARKS[mean <= bars.MEAN_ASR]
        lines.append(
            f"Sets with a learned backdoor: {len(learned)}; mean ASR {percent(mean)} (at most {bars.MEAN_ASR:.0%}: "
            f"{reached}), mean TPR {_mean(learned, 'tpr')}, mean FPR {_mean(learned, 'fpr')}."
        )
        lines += _beside_clean_training([row for row in learned if row.asr_clean_training is not None])
    if clean:
        alarms = sum(bool(row.verdicts("suspected")) for row in clean)
        reached = _MARKS[alarms <= bars.FALSE_ALARMS * len(clean)]
        lines.append(
            f"Clean sets: {len(clean)}; a class is suspected in {alarms} (at most {bars.FALSE_ALARMS:.0%}: {reached}), "
            f"mean FPR {_mean(clean, 'fpr', 2)}."
        )
    worse = sum(not bars_of(row)["not worse"] for row in rows)
    missed = sum(False in bars_of(row).values() for row in rows)
    return (*lines, f"Of {len(rows)} sets, {worse} got worse and {missed} missed a bar.")


def _beside_clean_training(rows: Sequence[StressRow]) -> list[str]:
    if not rows:
        return []
    clean = sum(row.asr_clean_training or 0.0 for row in rows) / len(rows)
    return [
        f"Of {len(rows)} of these, clean training is known: its mean ASR is {percent(clean)}, after the defense "
        f"{percent(_mean_asr(rows))}."
    ]


def _mean_asr(rows: Sequence[StressRow]) -> float:
    """After the defense, of the worst learned trigger of each set."""
    return sum(max(float(each["asr"]) for each in row.learned) for row in rows) / len(rows)


def row_mapping(row: StressRow) -> dict[str, Any]:
    """A row with all that its cells say of it, for JSON."""
    content = row.defended.content
    return {
        **content["set"],
        "method": row.defended.cell.method,
        "algorithm": content.get("algorithm"),
        "acc_before": row.undefended.figure("acc"),
        "acc_after": row.figure("acc"),
        "acc_clean_training": row.acc_clean_training,
        "asr_before": row.undefended.figure("asr"),
        "asr_after": row.figure("asr"),
        "asr_clean_training": row.asr_clean_training,
        "tpr": row.figure("tpr"),
        "fpr": row.figure("fpr"),
        "triggers": [
            {**after, "asr_before": before["asr"], "ra_before": before["ra"]} for before, after in row.triggers
        ],
        "verdicts": content.get("verdicts"),
        **{key: content["details"].get(key) for key in ("rounds", "is_retrained", "remark")},
        "seconds": content["seconds"],
        "stage_seconds": content["stage_seconds"],
        "bars": bars_of(row),
    }


def csv_table(rows: Sequence[StressRow]) -> Table:
    """One line a set and method: names and plain numbers, fractions where the other table has percent."""
    columns = (
        *("name", "method", "seed", "samples", "model", "epochs", "acc_before", "acc_after", "acc_clean_training"),
        *("asr_before", "asr_after", "asr_clean_training", "tpr", "fpr", "rounds", "seconds"),
    )
    mappings = [row_mapping(row) for row in rows]
    lines = tuple(
        (
            *(_plain(each[column]) for column in columns),
            *(_labels(row, kind) for kind in ("targets", "found", "falsely_suspected")),
            *(_plain(each["bars"][bar]) for bar in BARS),
        )
        for row, each in zip(rows, mappings, strict=True)
    )
    names = ("targets", "found", "falsely_suspected", *(f"reaches {bar}" for bar in BARS))
    return Table((*columns, *names), lines)


def _entries(row: StressRow) -> tuple[str, ...]:
    before, content = row.undefended, row.defended.content
    targets = len(row.verdicts("targets"))
    found = f"{len(row.verdicts('found'))} of {targets}" if targets else NOT_MEASURED
    return (
        _name(row),
        f"{content['set']['samples']:,}",
        *map(percent, (before.figure("acc"), row.figure("acc"), row.acc_clean_training)),
        *map(percent, (before.figure("asr"), row.figure("asr"), row.asr_clean_training, row.figure("tpr"))),
        percent(row.figure("fpr"), 2),
        found,
        str(len(row.verdicts("falsely_suspected"))) if "verdicts" in content else NOT_MEASURED,
        str(content["details"].get("rounds", NOT_MEASURED)),
        f"{content['seconds']:.0f}",
    )


def _name(row: StressRow) -> str:
    cell = row.defended.cell
    return cell.set_name + (OTHER_ALGORITHM if _is_of_another_algorithm(row) else "")


def _is_of_another_algorithm(row: StressRow) -> bool:
    return METHODS[row.defended.cell.method].uses_algorithm and not is_of_current_algorithm(row.defended.content)


def _mean(rows: Sequence[StressRow], name: str, digits: int = 1) -> str:
    values = [value for value in (row.figure(name) for row in rows) if value is not None]
    return percent(sum(values) / len(values) if values else None, digits)


def _labels(row: StressRow, kind: str) -> str:
    return " ".join(map(str, row.verdicts(kind)))


def _plain(value: Any) -> str:
    return "" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
