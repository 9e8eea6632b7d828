"""The targets of AdvrBD, whether they are reached, and the cells that miss them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from advrbd_plugin.evaluation.cell import NO_ATTACK, POISON_RATIO, UNDEFENDED, Cell
from advrbd_plugin.evaluation.grid import EIGHT_ATTACKS, PARTITION_RATES
from advrbd_plugin.evaluation.scales import SCALES
from advrbd_plugin.report.evaluation.measured import Measured
from advrbd_plugin.report.evaluation.paper_tables import MODEL_TITLES
from advrbd_plugin.report.evaluation.values import OTHER_ALGORITHM, PERCENT, PLAIN, dagger_note
from advrbd_plugin.table import NOT_MEASURED, Table, percent

_RATIOS = (0.01, 0.05, 0.10, 0.20)
_FULL_SCALE_MODELS = ("resnet18", "preactresnet18")


@dataclass(frozen=True)
class Target:
    """Attributes:
    text: what is to be reached.
    value: ours as text.
    state: ``reached``, ``missed`` or ``not measured`` (in part or at all, and not missed so far).
    cells: those that miss the bound by themselves, the worst first.
    measured: all that the value is made of.
    """

    text: str
    value: str
    state: str
    cells: tuple[Cell, ...] = ()
    measured: tuple[Cell, ...] = ()


@dataclass(frozen=True)
class _Bound:
    """One figure of several cells with a limit.

    Attributes:
        figure: from a cell to its figure; ``None`` where it was not measured.
        limit: inclusive.
        at_most: whether the figure must not exceed the limit, or not fall below it.
        over: ``mean`` or ``worst`` of the cells.
    """

    text: str
    figure: Callable[[Cell], float | None]
    cells: Sequence[Cell]
    limit: float
    at_most: bool = True
    over: str = "worst"
    kind: str = PERCENT

    def judge(self, measured: Measured) -> Target:
        known = {cell: value for cell in self.cells if (value := self.figure(cell)) is not None}
        if not known:
            return Target(self.text, NOT_MEASURED, "not measured")
        worst = max if self.at_most else min
        value = sum(known.values()) / len(known) if self.over == "mean" else worst(known.values())
        complete = len(known) == len(self.cells)
        good = self._holds(value)
        missed = not good and (complete or self.over == "worst")
        beyond = sorted((cell for cell in known if not self._holds(known[cell])), key=lambda cell: known[cell])
        text = percent(value) if self.kind == PERCENT else f"{value:.3f}"
        text += OTHER_ALGORITHM if any(map(measured.is_of_other_algorithm, known)) else ""
        counted = "" if complete else f" ({len(known)} of {len(self.cells)} cells)"
        state = "missed" if missed else "reached" if good and complete else "not measured"
        worst_first = tuple(reversed(beyond) if self.at_most else beyond)
        return Target(self.text, text + counted, state, () if good else worst_first, tuple(known))

    def _holds(self, value: float) -> bool:
        return value <= self.limit if self.at_most else value >= self.limit


def targets_of(scale: str, measured: Measured) -> list[Target]:
    """The targets of a scale, judged on AdvrBD's cells on CIFAR-10 with its first seed."""
    bounds = _small(measured) if scale == "small" else _full(measured)
    return [bound.judge(measured) for bound in bounds]


def targets_table(targets: Sequence[Target], curves: Mapping[str, str], measured: Measured) -> Table:
    """The targets, with Markdown links to the curves of the cells that miss them.

    Args:
        curves: name of a cell -> its picture's file.
    """
    rows = []
    for target in targets:
        links = ", ".join(f"[{cell.name}]({curves[cell.name]})" for cell in target.cells if cell.name in curves)
        rows.append((target.text, target.value, target.state + (f": curves of {links}" if links else "")))
    return Table(("Target", "Ours", ""), tuple(rows), "Targets", align="lrl", notes=targets_note(targets, measured))


def targets_note(targets: Sequence[Target], measured: Measured) -> tuple[str, ...]:
    """The footnote of the daggers among the targets' values."""
    cells = {cell for target in targets for cell in target.measured}
    return dagger_note(*measured.count_algorithms_of(cells))


def _small(measured: Measured) -> Iterator[_Bound]:
    cells = _cells("small", SCALES["small"].model, measured)
    figure = _figure_of(measured)
    yield _Bound("mean ASR at most 2%", figure("asr"), cells, 0.02, over="mean")
    yield _Bound("worst ASR at most 5%", figure("asr"), cells, 0.05)
    loss = _loss(measured, "clean_only")
    yield _Bound("ACC at most 2 points below training on the truly clean samples", loss, cells, 0.02)
    yield _Bound("at most 1% poison in D_c", figure("poison_in_trusted"), cells, 0.01)
    yield _Bound("mean AUROC at least 0.98", figure("auroc"), cells, 0.98, at_most=False, over="mean", kind=PLAIN)
    clean = [replace(cells[0], attack=NO_ATTACK, poison_ratio=0.0)]
    yield _Bound("the unpoisoned set loses at most 2 points of ACC", _loss(measured, UNDEFENDED), clean, 0.02)
    ratios = [replace(cell, poison_ratio=ratio) for ratio in _RATIOS for cell in cells if _suits(cell.attack, ratio)]
    yield _Bound("ASR at most 8% at poison ratios 0.01 to 0.20", figure("asr"), ratios, 0.08)
    rates = [replace(cell, partition_rate=rate) for rate in PARTITION_RATES for cell in cells]
    yield _Bound("ASR at most 8% at partition rates 0.02 to 0.20", figure("asr"), rates, 0.08)


def _full(measured: Measured) -> Iterator[_Bound]:
    figure = _figure_of(measured)
    for model in _FULL_SCALE_MODELS:
        cells, name = _cells("full", model, measured), MODEL_TITLES[model]
        yield _Bound(f"{name}: mean ACC at least 92%", figure("acc"), cells, 0.92, at_most=False, over="mean")
        yield _Bound(f"{name}: mean ASR at most 1%", figure("asr"), cells, 0.01, over="mean")
        yield _Bound(f"{name}: worst ASR at most 5%", figure("asr"), cells, 0.05)
        yield _Bound(f"{name}: mean DER at least 95.3%", figure("der"), cells, 0.953, at_most=False, over="mean")


def _cells(scale: str, model: str, measured: Measured) -> list[Cell]:
    seed = measured.first_seed
    return [Cell(scale, "cifar10", model, attack, POISON_RATIO, seed, "advrbd") for attack in EIGHT_ATTACKS]


def _suits(attack: str, ratio: float) -> bool:
    """Whether there are enough samples: SIG and TaCT poison one class of ten, and SIG must leave some of it clean."""
    return ratio < 0.1 or (attack != "sig" and (ratio <= 0.1 or attack != "tact"))


def _figure_of(measured: Measured) -> Callable[[str], Callable[[Cell], float | None]]:
    return lambda name: lambda cell: measured.figure(cell, name)


def _loss(measured: Measured, method: str) -> Callable[[Cell], float | None]:
    """How much less ACC a cell has than another method on the same data."""

    def loss(cell: Cell) -> float | None:
        ours, other = (measured.figure(each, "acc") for each in (cell, replace(cell, method=method)))
        return None if ours is None or other is None else other - ours

    return loss
