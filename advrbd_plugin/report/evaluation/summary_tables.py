"""Tables that the paper lacks: every cell with all of its figures, and each method's means."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from advrbd_plugin.data import DATASETS
from advrbd_plugin.evaluation.cell import NO_ATTACK, POISON_RATIO, Cell
from advrbd_plugin.evaluation.grid import EIGHT_ATTACKS
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.report.evaluation.measured import Mean, Measured
from advrbd_plugin.report.evaluation.paper_tables import ATTACK_TITLES, MODEL_TITLES
from advrbd_plugin.report.evaluation.values import PERCENT, PLAIN, dagger_note, mark_of, value_of
from advrbd_plugin.table import Entry, Table, Value

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
    names = [title for title, _ in _FIGURES.values()]
    names.insert(2, "Worst ASR")
    for dataset, model in _places(measured):
        by_method = {
            method: [
                Cell(scale, dataset, model, attack, POISON_RATIO, measured.first_seed, method)
                for attack in EIGHT_ATTACKS
            ]
            for method in _methods(measured, dataset, model)
        }
        by_method = {name: cells for name, cells in by_method.items() if measured.mean(cells, "acc").measured}
        if by_method:
            every = [cell for cells in by_method.values() for cell in cells]
            yield Table(
                ("Method", *names, "Cells"),
                tuple((METHODS[name].title, *_means(measured, cells)) for name, cells in by_method.items()),
                f"Means over the eight attacks, {DATASETS[dataset].title}, {MODEL_TITLES[model]}, poison ratio 0.05",
                notes=(
                    "An asterisk marks a mean from which cells are missing.",
                    *dagger_note(*measured.count_algorithms(every)),
                    *_not_alike(measured, by_method),
                ),
            )


def _means(measured: Measured, cells: Sequence[Cell]) -> Iterator[Entry]:
    """The means of every figure, the worst ASR behind that of the ASR, and how many cells were measured."""
    for name, (_, kind) in _FIGURES.items():
        mean = measured.mean(cells, name)
        yield value_of(mean, kind=kind)
        if name == "asr":
            rates = [measured.mean([cell], "asr").value for cell in cells]
            worst = max((rate for rate in rates if rate is not None), default=None)
            yield value_of(replace(mean, value=worst))
    accuracy = measured.mean(cells, "acc")
    yield f"{accuracy.measured}/{accuracy.asked}"


def _not_alike(measured: Measured, by_method: Mapping[str, Sequence[Cell]]) -> tuple[str, ...]:
    mixed = [METHODS[name].title for name, cells in by_method.items() if not measured.are_configured_alike(cells)]
    return (f"Cells of {', '.join(mixed)} were run with different settings.",) if mixed else ()


def all_cells_tables(measured: Measured) -> Iterator[Table]:
    """For each data set and network, every cell that there is."""
    names = [title for title, _ in _FIGURES.values()]
    for dataset, model in _places(measured):
        cells = [cell for cell in measured.results if (cell.dataset, cell.model) == (dataset, model)]
        yield Table(
            ("Attack", "Poison ratio", "Seed", "Method", *names, "CPU seconds", "Peak memory, MiB"),
            tuple(_row(measured, cell) for cell in sorted(cells, key=_order)),
            f"All cells, {DATASETS[dataset].title}, {MODEL_TITLES[model]}",
            align="llll",
            notes=(
                "CPU seconds are those of all processes of a cell; stages loaded from an earlier run take none.",
                *dagger_note(*measured.count_algorithms(cells)),
            ),
        )


def _row(measured: Measured, cell: Cell) -> tuple[Entry, ...]:
    rate = "" if cell.partition_rate is None else f", partition rate {cell.partition_rate:g}"
    labels = (ATTACK_TITLES[cell.attack], f"{cell.poison_ratio:g}", str(cell.seed), METHODS[cell.method].title + rate)
    result = measured.results[cell]
    if not result.is_done:
        return (*labels, Value(mark_of(result), link=cell.path.as_posix()), *[""] * (len(_FIGURES) + 1))
    memory, seconds = result.content.get("peak_memory_bytes"), result.content.get("cpu_seconds")
    return (
        *labels,
        *(_figure(measured, cell, name) for name in _FIGURES),
        "" if seconds is None else f"{seconds:.0f}",
        "" if not memory else f"{memory / 2**20:.0f}",
    )


def _figure(measured: Measured, cell: Cell, name: str) -> Entry:
    """One figure of one cell; the first of a row links to the cell's file."""
    figure = measured.figure(cell, name)
    if figure is None:
        return ""
    mean = Mean(figure, 1, 1, int(measured.is_of_other_algorithm(cell)))
    return value_of(mean, kind=_FIGURES[name][1], link=cell.path.as_posix() if name == "acc" else "")


def _places(measured: Measured) -> list[tuple[str, str]]:
    return sorted({(cell.dataset, cell.model) for cell in measured.results})


def _methods(measured: Measured, dataset: str, model: str) -> list[str]:
    there = {cell.method for cell in measured.results if (cell.dataset, cell.model) == (dataset, model)}
    return [name for name in METHODS if name in there]


def _order(cell: Cell) -> tuple[object, ...]:
    attack, method = (*EIGHT_ATTACKS, NO_ATTACK).index(cell.attack), list(METHODS).index(cell.method)
    return attack, cell.poison_ratio, cell.seed, method, cell.partition_rate or 0
