"""Which cells a selection asks for: the paper's tables, its ablation of the partition rate, or the user's options."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, fields
from itertools import product

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.cell import NO_ATTACK, POISON_RATIO, UNDEFENDED, Cell
from advrbd_plugin.evaluation.scales import SCALES

FAMILIAR_ATTACKS = ("badnets", "blend", "sig", "wanet", "physicalba")
ADAPTIVE_ATTACKS = ("tact", "adaptive_blend", "adaptive_patch")
EIGHT_ATTACKS = (*FAMILIAR_ATTACKS, *ADAPTIVE_ATTACKS)
PAPER_METHODS = (UNDEFENDED, "ft", "fp", "cutmix", "clp", "d-br", "scanft", "abl", "advrbd")


@dataclass(frozen=True)
class Selection:
    """The sides of a grid; ``None`` leaves a side to the scale or the default.

    Attributes:
        attacks, defenses, datasets, models, poison_ratios, partition_rates, seeds: see
            :class:`advrbd_plugin.evaluation.cell.Cell`.
    """

    attacks: tuple[str, ...] | None = None
    defenses: tuple[str, ...] | None = None
    datasets: tuple[str, ...] | None = None
    models: tuple[str, ...] | None = None
    poison_ratios: tuple[float, ...] | None = None
    partition_rates: tuple[float | None, ...] | None = None
    seeds: tuple[int, ...] | None = None

    def over(self, other: Selection) -> Selection:
        """This one, with the sides that it leaves open taken from ``other``."""
        mine = {each.name: getattr(self, each.name) for each in fields(self)}
        return Selection(**{name: getattr(other, name) if side is None else side for name, side in mine.items()})


TABLE_V_RATIOS = (0.1, 0.15, 0.2)
TABLE_V_ATTACKS = tuple(name for name in EIGHT_ATTACKS if name != "sig")  # clean-label: it has one class to poison
TABLE_VI_MODELS = ("resnet34", "mobilenet_v2")
TABLES: Mapping[str, Selection] = {
    "II": Selection(FAMILIAR_ATTACKS, PAPER_METHODS, SCALES["full"].datasets),
    "III": Selection(ADAPTIVE_ATTACKS, PAPER_METHODS, SCALES["full"].datasets),
    "IV": Selection(EIGHT_ATTACKS, ("advrbd-no-relearning", "advrbd")),
    "V": Selection((NO_ATTACK, *TABLE_V_ATTACKS), ("advrbd",), poison_ratios=TABLE_V_RATIOS),
    "VI": Selection((NO_ATTACK, *EIGHT_ATTACKS), ("advrbd",), models=TABLE_VI_MODELS),
    "VII": Selection((NO_ATTACK, *EIGHT_ATTACKS), (UNDEFENDED, "advrbd")),
}
"""The paper's tables; what they leave open is CIFAR-10, the scale's network, a poison ratio of 0.05 and seed 0."""

# The text of the paper that we have lacks its five rates.
PARTITION_RATES = (0.02, 0.05, 0.10, 0.15, 0.20)
FIGURES: Mapping[str, Selection] = {
    "7": Selection(EIGHT_ATTACKS, ("advrbd",), partition_rates=PARTITION_RATES),
}

DEFAULT = Selection(
    EIGHT_ATTACKS, (UNDEFENDED, "clean_only", "advrbd"), ("cifar10",), None, (POISON_RATIO,), (None,), (0,)
)


def make_grid(scale: str, selections: Iterable[Selection]) -> list[Cell]:
    """The cells of several selections, each once, behind the cells that train their backdoored models.

    Raises:
        AdvrBDError: a name is unknown or a number out of range, and the line names the option and what is allowed; or
            no cell is left.
    """
    cells: dict[Cell, None] = {}
    for selection in selections:
        for cell in _cells_of(scale, selection.over(DEFAULT)):
            cells[cell] = None
            cells[cell.prerequisite] = None
    if not cells:
        raise AdvrBDError(f"--attacks {NO_ATTACK}: none of --defenses has anything to do on the unpoisoned set")
    settings = dict.fromkeys(cell.prerequisite for cell in cells)
    by_setting = {setting: [setting] for setting in settings}
    for cell in cells:
        if not cell.is_prerequisite:
            by_setting[cell.prerequisite].append(cell)
    return [cell for setting in by_setting.values() for cell in setting]


def select(scale: str, tables: Sequence[str], figures: Sequence[str], own: Selection) -> list[Selection]:
    """The selections that the command line means: the user's options stand over those of each table and figure."""
    chosen = [_at_scale(scale, TABLES[name]) for name in tables] + [FIGURES[name] for name in figures]
    return [own.over(each) for each in chosen] or [own]


def _at_scale(scale: str, table: Selection) -> Selection:
    """A table on the data sets that the scale has."""
    if table.datasets is None:
        return table
    return Selection(datasets=SCALES[scale].datasets).over(table)


@dataclass(frozen=True)
class _Sides:
    """A selection whose sides are all known."""

    attacks: tuple[str, ...]
    defenses: tuple[str, ...]
    datasets: tuple[str, ...]
    models: tuple[str, ...]
    poison_ratios: tuple[float, ...]
    partition_rates: tuple[float | None, ...]
    seeds: tuple[int, ...]


def _cells_of(scale: str, selection: Selection) -> Iterable[Cell]:
    from advrbd_plugin.evaluation.methods import METHODS

    complete = selection.over(Selection(models=(SCALES[scale].model,)))
    sides = _Sides(**{each.name: getattr(complete, each.name) for each in fields(complete)})
    _check(sides, METHODS)
    settings = product(sides.datasets, sides.models, sides.poison_ratios, sides.seeds, sides.attacks)
    for dataset, model, ratio, seed, attack in settings:
        share = 0.0 if attack == NO_ATTACK else float(ratio)
        for method, rate in product(sides.defenses, sides.partition_rates):
            if METHODS[method].suits(attack):
                rate = rate if method.startswith("advrbd") else None
                yield Cell(scale, dataset, model, attack, share, seed, method, rate)


def _check(sides: _Sides, methods: Mapping[str, object]) -> None:
    from advrbd_plugin.attacks import ATTACKS
    from advrbd_plugin.data import DATASETS
    from advrbd_plugin.nn.models import MODELS

    names: list[tuple[str, tuple[str, ...], Collection[str]]] = [
        ("--attacks", sides.attacks, (*ATTACKS, NO_ATTACK)),
        ("--defenses", sides.defenses, methods),
        ("--datasets", sides.datasets, DATASETS),
        ("--models", sides.models, MODELS),
    ]
    for option, values, known in names:
        unknown = [value for value in values if value not in known]
        if unknown:
            raise AdvrBDError(f"{option} must be of {', '.join(known)}, got {unknown[0]!r}")
    shares = [("--poison-ratios", sides.poison_ratios), ("--partition-rates", sides.partition_rates)]
    for option, rates in shares:
        outside = [rate for rate in rates if rate is not None and not 0 < rate < 1]
        if outside:
            raise AdvrBDError(f"{option} must lie between 0 and 1, got {outside[0]:g}")
