"""What the paper has no table for: every cell with all of its figures, and each method's means."""

from __future__ import annotations

from collections.abc import Iterator

from advrbd_plugin.data import DATASETS
from advrbd_plugin.evaluation.cell import NO_ATTACK, POISON_RATIO, Cell
from advrbd_plugin.evaluation.grid import EIGHT_ATTACKS
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.report.evaluation.measured import Mean, Measured
from advrbd_plugin.report.evaluation.paper_tables import ATTACK_TITLES, MODEL_TITLES
from advrbd_plugin.report.evaluation.table import PERCENT, PLAIN, Table, Value, mark_of, value_of

_FIGURES = {
    "acc": ("ACC", PERCENT),
    "asr": ("ASR", PERCENT),
    "ra": ("RA", PERCENT),
    "der": ("DER", PERCENT),
    "tpr": ("TPR", PERCENT),
    "fpr": ("FPR", PERCENT),
    "auroc": ("AUROC", PLAIN),
    "poison_in_trusted": ("Poison in D_c", PERCENT),
}


def means_table(scale: str, measured: Measured) -> Iterator[Table]:
    """For each data set and network, every method's means over the eight attacks and its worst ASR."""
    for dataset, model in _places(measured):
        rows, mixed = [], []
        for method in _methods(measured, dataset, model):
            seed = measured.first_seed
            cells = [Cell(scale, dataset, model, attack, POISON_RATIO, seed, method) for attack in EIGHT_ATTACKS]
            means = {name: measured.mean(cells, name) for name in _FIGURES}
            if means["acc"].value is None:
                continue
            asr = means["asr"]
            rates = [measured.mean([cell], "asr").value for cell in cells]
            worst = max((rate for rate in rates if rate is not None), default=None)
            values = [value_of(means[name], kind=kind) for name, (_, kind) in _FIGURES.items()]
            values.insert(2, value_of(Mean(worst, asr.measured, asr.asked)))
            rows.append(((METHODS[method].title,), (*values, Value(f"{means['acc'].measured}/{means['acc'].asked}"))))
            if not measured.are_configured_alike(cells):
                mixed.append(METHODS[method].title)
        if rows:
            names = [title for title, _ in _FIGURES.values()]
            names.insert(2, "Worst ASR")
            yield Table(
                f"Means over the eight attacks, {DATASETS[dataset].title}, {MODEL_TITLES[model]}, poison ratio 0.05",
                ("Method", *names, "Cells"),
                tuple(rows),
                notes=("An asterisk marks a mean from which cells are missing.", *_not_alike(mixed)),
            )


def _not_alike(methods: list[str]) -> tuple[str, ...]:
    return (f"Cells of {', '.join(methods)} were run with different settings.",) if methods else ()


def all_cells_tables(measured: Measured) -> Iterator[Table]:
    """For each data set and network, every cell that there is."""
    for dataset, model in _places(measured):
        cells = [cell for cell in measured.results if (cell.dataset, cell.model) == (dataset, model)]
        rows = tuple(_row(measured, cell) for cell in sorted(cells, key=_order))
        names = [title for title, _ in _FIGURES.values()]
        yield Table(
            f"All cells, {DATASETS[dataset].title}, {MODEL_TITLES[model]}",
            ("Attack", "Poison ratio", "Seed", "Method", *names, "CPU seconds", "Peak memory, MiB"),
            rows,
            labels=4,
            notes=("CPU seconds are the processor's, of all of a cell's processes; what was found again takes none.",),
        )


def _row(measured: Measured, cell: Cell) -> tuple[tuple[str, ...], tuple[Value, ...]]:
    result = measured.results[cell]
    rate = "" if cell.partition_rate is None else f", partition rate {cell.partition_rate:g}"
    labels = (ATTACK_TITLES[cell.attack], f"{cell.poison_ratio:g}", str(cell.seed), METHODS[cell.method].title + rate)
    link = cell.path.as_posix()
    if not result.is_done:
        return labels, (Value(mark_of(result), link=link), *[Value("")] * (len(_FIGURES) + 1))
    values = []
    for name, (_, kind) in _FIGURES.items():
        figure = measured.figure(cell, name)
        value = value_of(Mean(figure, 1, 1), kind=kind, link="" if values else link)
        values.append(Value("") if figure is None else value)
    memory = result.content.get("peak_memory_bytes")
    seconds = result.content.get("cpu_seconds")
    return labels, (
        *values,
        Value("" if seconds is None else f"{seconds:.0f}"),
        Value("" if not memory else f"{memory / 2**20:.0f}"),
    )


def _places(measured: Measured) -> list[tuple[str, str]]:
    return sorted({(cell.dataset, cell.model) for cell in measured.results})


def _methods(measured: Measured, dataset: str, model: str) -> list[str]:
    there = {cell.method for cell in measured.results if (cell.dataset, cell.model) == (dataset, model)}
    return [name for name in METHODS if name in there]


def _order(cell: Cell) -> tuple[object, ...]:
    attack, method = (*EIGHT_ATTACKS, NO_ATTACK).index(cell.attack), list(METHODS).index(cell.method)
    return attack, cell.poison_ratio, cell.seed, method, cell.partition_rate or 0
