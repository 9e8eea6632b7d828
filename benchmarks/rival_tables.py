"""The tables of benchmarks/rivals.py: each method on each set, means, and where a method is ahead of AdvrBD."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

MARKS = ("<!-- tables of benchmarks/rivals.py: begin -->", "<!-- end -->")
TITLES = {
    "flare": "FLARE",
    "activation_clustering": "activation clustering",
    "spectral_signatures": "spectral signatures",
    "scan": "SCAn",
    "strip": "STRIP",
    "consistency": "consistency (paper)",
}
OURS = "AdvrBD"
LEARNED = 0.2  # detection.LEARNED: from this ASR on, a backdoor is there to be found

Row = dict[str, Any]
Cells = dict[str, dict[str, Any]]


def tables(rows: list[Row], judged: dict[str, Row]) -> str:
    """Markdown from the rows of FOLDER/SET.json and AdvrBD's judgements by set; those of another model are left out."""
    rows = sorted(rows, key=lambda row: (_kind(row), row["name"]))
    cells = {row["name"]: _cells(row, judged.get(row["name"])) for row in rows}
    flagging = [OURS, *(method for method in TITLES if method != "consistency")]
    ranking = [method for method in TITLES if method != "flare"]
    return "\n\n".join(
        [
            "TPR / FPR in %. Sets with a learned backdoor come first: their TPR is of the samples of learned triggers.",
            _table(rows, cells, flagging, _flagged, _mean_rows(rows, cells, flagging)),
            "AUROC, of the same samples:",
            _table(rows, cells, ranking, _auroc, [_mean_auroc(rows, cells, ranking)], poisoned_only=True),
            "\n".join(_ahead(rows, cells)) + "\n",
        ]
    )


def ours_of(row: Row, judged: Row | None) -> dict[str, Any] | None:
    """AdvrBD's TPR and FPR on a set, as :func:`rivals.judged` counts them; ``None`` if it judged another model."""
    if judged is None or any(judged.get(key) != row[key] for key in ("set", "epochs", "acc")):
        return None
    samples = {each["name"]: each["samples"] for each in row["triggers"]}
    learned = {each["name"] for each in row["triggers"] if each["asr"] >= LEARNED} or set(samples)
    found = sum(each["tpr"] * samples[each["name"]] for each in judged["triggers"] if each["name"] in learned)
    whole = sum(samples[name] for name in learned)
    return {"tpr": found / whole if whole else None, "fpr": judged["fpr"], "auroc": None}


def _kind(row: Row) -> int:
    """0: a trigger was learned, 1: poison that was not learned, 2: no poison."""
    if not row["poison"]:
        return 2
    return 0 if any(each["asr"] >= LEARNED for each in row["triggers"]) else 1


def _cells(row: Row, judged: Row | None) -> Cells:
    ours = ours_of(row, judged)
    return row["methods"] | ({OURS: ours} if ours else {})


def _table(
    rows: list[Row],
    cells: dict[str, Cells],
    methods: list[str],
    show: Callable[[dict[str, Any] | None], str],
    last: Iterable[list[str]],
    *,
    poisoned_only: bool = False,
) -> str:
    lines = [["set", "ASR", *(TITLES.get(method, method) for method in methods)]]
    lines += [["---", "---", *["---:"] * len(methods)]]
    for row in rows:
        if poisoned_only and _kind(row) == 2:
            continue
        asr = ", ".join(f"{each['asr']:.0%}" for each in row["triggers"]) or "clean"
        lines.append([f"`{row['name']}`", asr, *(show(cells[row["name"]].get(method)) for method in methods)])
    return "\n".join(f"| {' | '.join(line)} |" for line in [*lines, *last])


def _mean_rows(rows: list[Row], cells: dict[str, Cells], methods: list[str]) -> list[list[str]]:
    """Mean TPR of learned sets and mean FPR of all, over the sets that the method has; and over those that all have."""
    common = [row for row in rows if all(_has(cells, row, method) for method in methods)]
    lines = []
    for title, some in (("mean", rows), (f"mean of the {len(common)} sets that all have", common)):
        line = [f"**{title}**", ""]
        for method in methods:
            own = [row for row in some if _has(cells, row, method)]
            tpr = _mean(cells[row["name"]][method]["tpr"] for row in own if _kind(row) == 0)
            fpr = _mean(cells[row["name"]][method]["fpr"] for row in own)
            line.append(f"{_percent(tpr)} / {_percent(fpr)} ({len(own)})" if own else "")
        lines.append(line)
    return lines


def _mean_auroc(rows: list[Row], cells: dict[str, Cells], methods: list[str]) -> list[str]:
    learned = [row["name"] for row in rows if _kind(row) == 0]
    means = [_mean(cells[name].get(method, {}).get("auroc") for name in learned) for method in methods]
    return ["**mean of learned**", "", *("" if each is None else f"{each:.3f}" for each in means)]


def _ahead(rows: list[Row], cells: dict[str, Cells]) -> list[str]:
    """A line for each set and method that has no lower TPR and no higher FPR than AdvrBD, and one of them better."""
    lines, compared = [], 0
    for row in rows:
        ours = cells[row["name"]].get(OURS)
        if ours is None or _kind(row) == 1:
            continue
        compared += 1
        for method in TITLES:
            other = cells[row["name"]].get(method)
            if other is None or other["fpr"] is None:
                continue
            tprs = (other["tpr"] or 0.0, ours["tpr"] or 0.0)
            if tprs[0] > tprs[1] or (tprs[0] == tprs[1] and other["fpr"] < ours["fpr"]):
                note = "" if other["fpr"] <= ours["fpr"] else ", at a higher FPR"
                lines.append(
                    f"- {TITLES[method]} on `{row['name']}`: {_flagged(other)} against {_flagged(ours)} of AdvrBD{note}"
                )
    head = f"Ahead of AdvrBD in TPR, or in FPR at the same TPR, on the {compared} clean or learned sets that it judged"
    return [f"{head}:", "", *lines] if lines else [f"{head}: none."]


def _has(cells: dict[str, Cells], row: Row, method: str) -> bool:
    return method in cells[row["name"]]


def _flagged(cell: dict[str, Any] | None) -> str:
    return f"{_percent(cell['tpr'])} / {_percent(cell['fpr'], 2)}" if cell else ""


def _auroc(cell: dict[str, Any] | None) -> str:
    return f"{cell['auroc']:.3f}" if cell and cell["auroc"] is not None else ""


def _percent(value: float | None, digits: int = 1) -> str:
    return "-" if value is None else f"{100 * value:.{digits}f}"


def _mean(values: Iterable[float | None]) -> float | None:
    present = [each for each in values if each is not None]
    return sum(present) / len(present) if present else None
