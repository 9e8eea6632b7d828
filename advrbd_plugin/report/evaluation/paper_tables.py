"""Tables II to VII with our figures and the paper's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import product

from advrbd_plugin.data import DATASETS
from advrbd_plugin.evaluation.cell import NO_ATTACK, POISON_RATIO, UNDEFENDED, Cell
from advrbd_plugin.evaluation.grid import (
    ADAPTIVE_ATTACKS,
    EIGHT_ATTACKS,
    FAMILIAR_ATTACKS,
    PAPER_METHODS,
    TABLE_V_ATTACKS,
    TABLE_V_RATIOS,
    TABLE_VI_MODELS,
)
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.scales import SCALES
from advrbd_plugin.report.evaluation.measured import Mean, Measured, defense_effectiveness_rating
from advrbd_plugin.report.evaluation.paper import AVERAGE, PaperFigure, paper_figure
from advrbd_plugin.report.evaluation.values import dagger_note, mark_of, value_of
from advrbd_plugin.table import Entry, Table, Value

ATTACK_TITLES = {
    "badnets": "BadNets",
    "blend": "Blend",
    "sig": "SIG",
    "wanet": "WaNet",
    "physicalba": "PhysicalBA",
    "tact": "TaCT",
    "adaptive_blend": "Adaptive-Blend",
    "adaptive_patch": "Adaptive-Patch",
    NO_ATTACK: "No attack",
    AVERAGE: "Average",
}
MODEL_TITLES = {
    "resnet18": "ResNet-18",
    "resnet34": "ResNet-34",
    "mobilenet_v2": "MobileNetV2",
    "preactresnet18": "PreAct-ResNet-18",
    "resnet_narrow": "ResNet-narrow",
}


@dataclass(frozen=True)
class _Column:
    """A column of a table: a method, a network and a poison ratio."""

    group: str
    method: str
    model: str
    ratio: float = POISON_RATIO
    paper_model: str | None = None


class PaperTables:
    """The tables at one scale.

    Args:
        scale: a key of ``SCALES``.
        measured: its results.
        model: the network in the place of the paper's ResNet-18.
    """

    def __init__(self, scale: str, measured: Measured, model: str | None = None) -> None:
        self._scale, self._measured = scale, measured
        self._model = model or SCALES[scale].model

    def all(self) -> list[Table]:
        """Tables II to VII, II and III followed by their DER."""
        comparisons = [*self._comparison("II", FAMILIAR_ATTACKS), *self._comparison("III", ADAPTIVE_ATTACKS)]
        return [*comparisons, *self._ablations()]

    def _comparison(self, table: str, attacks: Sequence[str]) -> list[Table]:
        columns = [_Column(METHODS[name].title, name, self._model) for name in PAPER_METHODS]
        what = "familiar attacks" if table == "II" else "adaptive attacks"
        named = f"Table {table}: {what}, {MODEL_TITLES[self._model]}"
        datasets = SCALES[self._scale].datasets
        both = self._table(table, f"{named} (ours, the paper's in brackets)", columns, attacks, datasets)
        defended = [column for column in columns if column.method != UNDEFENDED]
        return [both, self._table(table, f"{named}: DER", defended, attacks, datasets, figures=("der",))]

    def _ablations(self) -> Iterator[Table]:
        model = self._model
        yield self._table(
            "IV",
            f"Table IV: relabelling and relearning, CIFAR10, {MODEL_TITLES[model]}",
            [
                _Column("Without relearning", "advrbd-no-relearning", model),
                _Column("With relearning", "advrbd", model),
            ],
            EIGHT_ATTACKS,
        )
        yield self._table(
            "V",
            f"Table V: poison ratios, CIFAR10, {MODEL_TITLES[model]}",
            [_Column(f"{ratio:g}", "advrbd", model, ratio) for ratio in (0.01, 0.05, *TABLE_V_RATIOS)],
            (NO_ATTACK, *EIGHT_ATTACKS),
            averaged=TABLE_V_ATTACKS,
            notes=(
                "The paper has no SIG here: a clean-label attack has one class to poison. The averages are without it.",
                "TaCT poisons one class, which holds a tenth of CIFAR-10: there is none above 0.1.",
            ),
        )
        yield self._table(
            "VI",
            "Table VI: networks, CIFAR10",
            [_Column(MODEL_TITLES[name], "advrbd", name, paper_model=name) for name in TABLE_VI_MODELS],
            (NO_ATTACK, *EIGHT_ATTACKS),
            averaged=EIGHT_ATTACKS,
            notes=("The paper's averages are over the eight attacks and the unpoisoned set; ours over the attacks.",),
        )
        yield self._table(
            "VII",
            f"Table VII: poisoned and clean data, CIFAR10, {MODEL_TITLES[model]}",
            [_Column("Without defense", UNDEFENDED, model), _Column("With AdvrBD", "advrbd", model)],
            (*EIGHT_ATTACKS, NO_ATTACK),
            averaged=EIGHT_ATTACKS,
            notes=("The ASR of the unpoisoned set is BadNets' trigger's.",),
        )

    def _table(
        self,
        table: str,
        title: str,
        columns: Sequence[_Column],
        attacks: Sequence[str],
        datasets: Sequence[str] = ("cifar10",),
        *,
        figures: Sequence[str] = ("acc", "asr"),
        averaged: Sequence[str] | None = None,
        notes: tuple[str, ...] = (),
    ) -> Table:
        rows: list[tuple[Entry, ...]] = []
        for dataset, attack in product(datasets, (*attacks, AVERAGE)):
            members = (averaged or attacks) if attack == AVERAGE else (attack,)
            sides = product(columns, figures)
            values = [self._value(table, column, dataset, attack, members, figure) for column, figure in sides]
            rows.append((DATASETS[dataset].title, ATTACK_TITLES[attack], *values))
        names = [figure.upper() for figure in figures] * len(columns)
        groups = tuple((column.group, len(figures)) for column in columns)
        cells = [self._cell(*sides) for sides in product(columns, datasets, attacks)]
        notes = (*notes, *dagger_note(*self._measured.count_algorithms(cells)))
        return Table(("Data set", "Attack", *names), tuple(rows), title, groups, align="ll", notes=notes)

    def _value(
        self, table: str, column: _Column, dataset: str, attack: str, members: Sequence[str], figure: str
    ) -> Value:
        cells = [self._cell(column, dataset, member) for member in members]
        mean = self._measured.mean(cells, figure)
        paper = _paper_value(table, column, dataset, attack, members, figure)
        if attack == AVERAGE:
            return value_of(mean, paper)
        result = self._measured.result(cells[0])
        link = "" if result is None else cells[0].path.as_posix()
        if mean.value is None:
            known = value_of(Mean(None, 0, 1), paper)
            if figure == "der" and result is not None and result.is_done:
                result = self._measured.result(cells[0].prerequisite)  # which is what is missing
            return Value(mark_of(result), known.reference, link)
        return value_of(mean, paper, link=link)

    def _cell(self, column: _Column, dataset: str, attack: str) -> Cell:
        ratio = 0.0 if attack == NO_ATTACK else column.ratio
        return Cell(self._scale, dataset, column.model, attack, ratio, self._measured.first_seed, column.method)


def _paper_value(
    table: str, column: _Column, dataset: str, attack: str, members: Sequence[str], figure: str
) -> float | None:
    """The paper's figure; its averages as printed, but for the DER, which it lacks: there the mean of the members'."""

    def ask(attack: str, method: str) -> PaperFigure | None:
        return paper_figure(table, attack, method, dataset=dataset, model=column.paper_model, ratio=column.ratio)

    if figure != "der":
        found = ask(attack, column.method)
        return None if found is None else {"acc": found.acc, "asr": found.asr}[figure]
    pairs = [(ask(member, column.method), ask(member, UNDEFENDED)) for member in members]
    ratings = [
        defense_effectiveness_rating(defended.acc, defended.asr, undefended.acc, undefended.asr)
        for defended, undefended in pairs
        if defended is not None and undefended is not None
    ]
    return sum(ratings) / len(ratings) if len(ratings) == len(pairs) else None
