"""Which cells the stress suite consists of: sets, numbers of samples and networks, each undefended and defended."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import product

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.cell import STRESS, UNDEFENDED, Cell
from advrbd_plugin.evaluation.scales import STRESS_SAMPLES, STRESS_SCALE
from advrbd_plugin.evaluation.stress_suite import check_set_name, has_wrong_labels, split_name

DEFENSE, REFERENCE = "advrbd", "clean_only"
METHODS_OF_THE_SUITE = (
    *(UNDEFENDED, REFERENCE, DEFENSE, "advrbd-no-relearning", "advrbd-paper"),
    *("ulrl", "ulrl-clean", "cutmix", "scanft"),
)
"""Methods that need neither a target label nor the toolbox."""

SUITE = (
    *("clean-s101", "clean-s102@2000", "clean-s103@5000", "composite-s104", "long_tail-s105", "noise10-s106"),
    *("noise20-s107", "duplicates-s108", "minor-s109", "camera-s110", "half_grey-s111", "grey-s112", "jpeg-s113"),
    *("watermark-s114", "clean-s115@20000", "haze-s117", "old_lens-s118"),
    *("composite+badnets-s121", "composite+blend-s122", "badnets%2.5+wave%2.5-s123", "badnets%3+blend%3+wave%3-s124"),
    *("all_to_all_wave-s125", "untargeted_wave-s126", "random_patch-s127", "sample_noise-s128", "colour_depth-s129"),
    *("dct-s130", "colour_cast-s131", "reflection-s132", "noise10+badnets-s133", "noise20+badnets-s134"),
    *("long_tail+badnets-s135", "duplicates+badnets-s136", "sig%1-s137", "frame-s138", "blur-s139", "wave-s140"),
    *("tact-s141", "blend%1-s142", "adaptive_blend-s143", "smooth-s144", "vignette-s145", "contrast-s146"),
    *("rotation-s147", "clean-s116@50000"),
)
"""What ``advrbd reproduce --suite stress`` runs: sets of seeds that nobody chose anything by; ``@`` and a number of
samples where it is not 10,000. The largest comes last."""

_ENTRY = re.compile(r"(?P<recipe>[^@]+?)(?:-s(?P<seed>\d+))?(?:@(?P<samples>\d+))?")


@dataclass(frozen=True)
class SuiteSelection:
    """What of the suite is run; ``None`` is the default.

    Attributes:
        sets: names, by default :data:`SUITE`. A name may lack its seed, and may
            end with ``@`` and a number of samples of its own.
        samples: how many photographs are drawn, by default 10,000 or what the set's entry says.
        models: keys of :data:`advrbd_plugin.nn.models.MODELS`.
        seeds: of the sets that are named without one, by default 0; for the default sets in place of their own.
        datasets: keys of :data:`advrbd_plugin.data.DATASETS`, by default CIFAR-10.
        defenses: names of :data:`METHODS_OF_THE_SUITE`.
        reference: also train on the truly clean samples alone.
    """

    sets: tuple[str, ...] | None = None
    samples: int | None = None
    models: tuple[str, ...] | None = None
    seeds: tuple[int, ...] | None = None
    datasets: tuple[str, ...] | None = None
    defenses: tuple[str, ...] | None = None
    reference: bool = False


def make_suite(selection: SuiteSelection) -> list[Cell]:
    """The cells, each once, the undefended one of a set before the others.

    Raises:
        AdvrBDError: a name is unknown, and the line names the option and what is allowed.
    """
    methods = _methods(selection)
    _check_names(selection)
    cells: dict[Cell, None] = {}
    sides = product(
        selection.datasets or STRESS_SCALE.datasets, selection.models or (STRESS_SCALE.model,), _sets(selection)
    )
    for dataset, model, (set_name, samples) in sides:
        parts, seed = split_name(set_name)
        recipe = "+".join(parts) or "clean"
        undefended = Cell(STRESS, dataset, model, recipe, 0.0, seed, UNDEFENDED, samples=samples)
        for method in methods:
            if method != REFERENCE or has_wrong_labels(set_name):
                cells[replace(undefended, method=method)] = None
    return list(cells)


def _methods(selection: SuiteSelection) -> tuple[str, ...]:
    chosen = selection.defenses or (DEFENSE,)
    unknown = [name for name in chosen if name not in METHODS_OF_THE_SUITE]
    if unknown:
        allowed = ", ".join(METHODS_OF_THE_SUITE)
        raise AdvrBDError(f"--defenses of the stress suite must be of {allowed}, got {unknown[0]!r}")
    reference = (REFERENCE,) if selection.reference else ()
    return tuple(dict.fromkeys((UNDEFENDED, *reference, *chosen)))


def _check_names(selection: SuiteSelection) -> None:
    from advrbd_plugin.data import DATASETS
    from advrbd_plugin.nn.models import MODELS

    for option, values, known in (
        ("--model", selection.models or (), MODELS),
        ("--datasets", selection.datasets or (), DATASETS),
    ):
        unknown = [value for value in values if value not in known]
        if unknown:
            raise AdvrBDError(f"{option} must be of {', '.join(known)}, got {unknown[0]!r}")


def _sets(selection: SuiteSelection) -> Iterable[tuple[str, int]]:
    """(name, samples) of each set."""
    own = selection.sets is not None
    for entry in selection.sets if selection.sets is not None else SUITE:
        found = _ENTRY.fullmatch(entry)
        if found is None:
            raise AdvrBDError(f"--sets must name sets such as composite+badnets-s3 or clean-s2@5000, got {entry!r}")
        # What the user says of one set counts more than what is said of all; the default list's sizes count least.
        stated, asked = found["samples"], selection.samples
        samples = (stated or asked) if own else (asked or stated)
        for seed in _seeds(found["seed"], selection.seeds, own=own):
            name = f"{found['recipe']}-s{seed}"
            check_set_name(name)
            yield name, int(samples or STRESS_SAMPLES)


def _seeds(stated: str | None, asked: Sequence[int] | None, *, own: bool) -> Sequence[int]:
    if stated is not None and (own or asked is None):
        return (int(stated),)
    return asked or (0,)
