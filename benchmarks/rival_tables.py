"""The tables of benchmarks/rivals.py: each method on each set, means, and where a method is ahead of AdvrBD."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from advrbd_plugin.evaluation.stress_judge import LEARNED

MARKS = ("<!-- tables of benchmarks/rivals.py: begin -->", "<!-- end -->")
TITLES = {
    "flare": "FLARE",
    "flare_noise_aside": "FLARE, noise aside",
    "activation_clustering": "activation clustering",
    "spectral_signatures": "spectral signatures",
    "spectre": "SPECTRE",
    "scan": "SCAn",
    "strip": "STRIP",
    "consistency": "consistency (paper)",
}
ELSEWHERE = ("flare", "flare_noise_aside", "spectre")  # run outside the repository; they flag, and give no score
RANKS_ONLY = ("consistency",)  # it has no rule that needs no poison ratio
OURS = "AdvrBD"

Row = Mapping[str, Any]
Cells = dict[str, Row]


def tables(rows: list[Row], defended: Mapping[str, Row]) -> str:
    """Markdown from the rows of FOLDER/SET.json and AdvrBD's results by set; those of another model are left out."""
    rows = sorted(rows, key=lambda row: (_kind(row), row["name"]))
    cells = {row["name"]: _cells(row, defended.get(row["name"])) for row in rows}
    versions = [defended[row["name"]]["algorithm"]["version"] for row in rows if OURS in cells[row["name"]]]
    flagging = [OURS, *(method for method in TITLES if method not in RANKS_ONLY)]
    ranking = [OURS, *(method for method in TITLES if method not in ELSEWHERE)]
    return "\n\n".join(
        [
            f"TPR / FPR in %; {_of_version(versions)}. Sets with a learned backdoor come first: their TPR is of the "
            "samples of learned triggers.",
            _table(rows, cells, flagging, _flagged, _mean_rows(rows, cells, flagging)),
            f"AUROC, of the same samples; {OURS}'s is known of all poison alone, so it is left out where only some "
            "triggers were learned.",
            _table(rows, cells, ranking, _auroc, [_mean_auroc(rows, cells, ranking)], poisoned_only=True),
            "\n".join(_ahead(rows, cells)) + "\n",
        ]
    )


def ours_of(row: Row, defended: Row | None) -> dict[str, Any] | None:
    """AdvrBD's TPR, FPR and AUROC as :func:`rivals.judged` counts them; ``None`` if its result is of another model."""
    if defended is None:
        return None
    of_result = defended["data"]["fingerprint"], defended["set"]["epochs"], defended["undefended"]["acc"]
    if of_result != (row["data"], row["epochs"], row["acc"]):
        return None
    pairs = list(zip(row["triggers"], defended["triggers"], strict=True))
    learned = [pair for pair in pairs if pair[0]["asr"] >= LEARNED]
    asked = learned or pairs
    found = sum(before["samples"] * after["tpr"] for before, after in asked)
    whole = sum(before["samples"] for before, _ in asked)
    figures = defended["figures"]
    auroc = figures["auroc"] if len(asked) == len(pairs) else None
    return {"tpr": found / whole if whole else None, "fpr": figures["fpr"], "auroc": auroc}


def _of_version(versions: Iterable[int]) -> str:
    names = [str(version) for version in sorted(set(versions))]
    return f"{OURS} is the whole defense, version {' and '.join(names)}" if names else f"no result of {OURS} yet"


def _kind(row: Row) -> int:
    """0: a trigger was learned, 1: poison that was not learned, 2: no poison."""
    if not row["poison"]:
        return 2
    return 0 if any(each["asr"] >= LEARNED for each in row["triggers"]) else 1


def _cells(row: Row, defended: Row | None) -> Cells:
    ours = ours_of(row, defended)
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
    measured = [method for method in methods if any(_has(cells, row, method) for row in rows)]
    common = [row for row in rows if all(_has(cells, row, method) for method in measured)]
    lines = []
    for title, some in (("mean", rows), (f"mean of {len(common)} sets that all measured ones have", common)):
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
    """Where a method is better than AdvrBD: in TPR, in FPR at the same TPR, or in FPR alone with half of the poison."""
    better: list[str] = []
    surer: list[str] = []
    compared = [row for row in rows if OURS in cells[row["name"]] and _kind(row) != 1]
    for row in compared:
        own = cells[row["name"]]
        ours, known = own[OURS], [method for method in TITLES if method in own and own[method]["fpr"] is not None]
        for method in known:
            tpr, our_tpr = own[method]["tpr"] or 0.0, ours["tpr"] or 0.0
            less = own[method]["fpr"] < ours["fpr"]
            line = f"- {TITLES[method]} on `{row['name']}`: {_flagged(own[method])} against {_flagged(ours)}"
            if tpr > our_tpr or (tpr == our_tpr and less):
                better.append(line)
            elif less and tpr >= 0.5:
                surer.append(line)
    head = f"Ahead of AdvrBD in TPR, or in FPR at its TPR, on the {len(compared)} clean or learned sets that it judged"
    return [
        *_listed(head, better),
        "",
        *_listed("Lower FPR than AdvrBD at a lower TPR of at least 50%", surer),
    ]


def _listed(head: str, lines: list[str]) -> list[str]:
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
