"""The sets of the stress suite by name: real photographs under every structure of :mod:`.stress_sets`.

A set's name is its structure, its attack and its seed. The seed draws everything: photographs, classes, target labels,
which samples are poisoned.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from advrbd_plugin.attacks import ATTACKS, Attack, make_attack
from advrbd_plugin.attacks.sample_specific import RandomPatch, Reflection, SampleNoise
from advrbd_plugin.attacks.smooth import Contrast, Rotation, Smooth, Vignette
from advrbd_plugin.attacks.whole_picture import DCT, Blur, ColourCast, ColourDepth, Frame, Wave
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation import stress_sets as sets
from advrbd_plugin.evaluation.stress_sets import StressSet

STRESS_ATTACKS: dict[str, type[Attack]] = {
    each.name: each
    for each in (
        *(RandomPatch, SampleNoise, Reflection, DCT, ColourDepth, ColourCast, Wave, Blur, Frame),
        *(Smooth, Vignette, Contrast, Rotation),
    )
}
"""Attacks of the suite alone, by name; :func:`advrbd_plugin.attacks.make_attack` knows the paper's."""

Structure = Callable[[ImageSet, ImageSet, int], tuple[ImageSet, ImageSet]]

_NAME = re.compile(r"(?P<recipe>[a-z0-9_+%.]+)-s(?P<seed>\d+)")


def make_stress_set(name: str, train: ImageSet, test: ImageSet) -> StressSet:
    """The set called ``name``, for instance ``composite+badnets-s3``: structure, attack and seed.

    Args:
        name: parts of :data:`STRUCTURES`, :data:`ATTACK_PARTS` and :data:`LATE_PARTS`, joined by ``+``, then ``-s`` and
            the seed.
        train: photographs of ten classes, drawn by the same seed.
        test: of the same classes.
    """
    parts, seed = split_name(name)
    for part in parts:
        if part in STRUCTURES:
            train, test = STRUCTURES[part](train, test, seed)
    stress = sets.benign(train, test)
    targets = sets.draw_order(train.num_classes, seed=seed, purpose="targets")
    for part in parts:
        if part in LATE_PARTS or part in STRUCTURES:
            continue
        stress = _attacked(stress, part, targets, seed)
        targets = targets[1:] + targets[:1]
    for part in parts:
        if part in LATE_PARTS:
            stress = LATE_PARTS[part](stress, seed)
    return stress


def split_name(name: str) -> tuple[list[str], int]:
    """The parts and the seed of a set's name; ``clean`` has no parts."""
    found = _NAME.fullmatch(name)
    if found is None:
        raise AdvrBDError(f"a stress set must be called like composite+badnets-s3, got {name!r}")
    parts = [part for part in found["recipe"].split("+") if part != "clean"]
    return parts, int(found["seed"])


def check_set_name(name: str) -> None:
    """Refuse a name that :func:`make_stress_set` could make nothing of.

    Raises:
        AdvrBDError: a part of it is unknown; the line lists those that there are.
    """
    for part in split_name(name)[0]:
        attack, _, percent = part.partition("%")
        attack = attack.removeprefix("all_to_all_").removeprefix("untargeted_")
        if part not in (*STRUCTURES, *LATE_PARTS) and attack not in (*STRESS_ATTACKS, *ATTACKS):
            known = ", ".join(("clean", *STRUCTURES, *LATE_PARTS, *ATTACKS, *STRESS_ATTACKS))
            raise AdvrBDError(f"{name}: {part!r} is no part of a stress set; there are {known}")
        if percent and not re.fullmatch(r"\d{1,2}(\.\d+)?", percent):
            raise AdvrBDError(f"{name}: a share of poison must be a percentage below 100, got {percent!r}")


def has_wrong_labels(name: str) -> bool:
    """Whether some samples of the set called ``name`` are poisoned or have a wrong label."""
    return any(part not in (*STRUCTURES, "duplicates") for part in split_name(name)[0])


def _attacked(stress: StressSet, part: str, targets: list[int], seed: int) -> StressSet:
    name, _, percent = part.partition("%")
    ratio = {"poison_ratio": float(percent) / 100} if percent else {}
    if name.startswith("all_to_all_"):
        return sets.all_to_all(stress, _make(name[11:], targets[0], {"poison_ratio": 0.1} | ratio), seed=seed)
    if name.startswith("untargeted_"):
        return sets.untargeted(stress, _make(name[11:], targets[0], {"poison_ratio": 0.1} | ratio), seed=seed)
    extra = {"source_label": targets[1]} if name == "tact" else {}
    return sets.attacked(stress, _make(name, targets[0], ratio | extra), seed=seed)


def _make(name: str, target: int, parameters: dict[str, Any]) -> Attack:
    known = STRESS_ATTACKS.get(name)
    if known is not None:
        return known(target_label=target, **parameters)
    return make_attack(name, target_label=target, **parameters)


def _both(change: Callable[[ImageSet, int], ImageSet]) -> Structure:
    return lambda train, test, seed: (change(train, seed), change(test, seed))


def _first(image_set: ImageSet, seed: int) -> int:
    return sets.draw_order(image_set.num_classes, seed=seed, purpose="innocent class")[0]


def _pairs(image_set: ImageSet, seed: int) -> ImageSet:
    order = sets.draw_order(image_set.num_classes, seed=seed, purpose="composite")
    return sets.composite(image_set, [order[start : start + 2] for start in range(0, len(order) - 1, 2)])


def _minor(image_set: ImageSet, seed: int) -> ImageSet:
    label, minor = sets.draw_order(image_set.num_classes, seed=seed, purpose="minor")[:2]
    return sets.with_minor_content(image_set, label=label, minor=minor, share=0.2, seed=seed)


STRUCTURES: dict[str, Structure] = {
    "composite": _both(_pairs),
    "minor": _both(_minor),
    "long_tail": lambda train, test, seed: (sets.long_tail(train, ratio=0.1, seed=seed), test),
    "grey": _both(lambda images, seed: sets.grey_class(images, _first(images, seed))),
    "half_grey": _both(lambda images, seed: sets.grey_class(images, _first(images, seed), share=0.4, seed=seed)),
    "jpeg": _both(lambda images, seed: sets.jpeg_class(images, _first(images, seed), share=0.4, seed=seed)),
    "camera": _both(lambda images, seed: sets.warm_class(images, _first(images, seed), share=0.4, seed=seed)),
    "haze": _both(
        lambda images, seed: sets.restyled_class(images, _first(images, seed), Contrast().trigger, seed=seed)
    ),
    "old_lens": _both(
        lambda images, seed: sets.restyled_class(images, _first(images, seed), Vignette().trigger, seed=seed)
    ),
    "watermark": _both(lambda images, seed: sets.watermarked_class(images, _first(images, seed), seed=seed)),
}
"""Name -> from (train, test, seed) to the two sets with another structure of classes."""

LATE_PARTS: dict[str, Callable[[StressSet, int], StressSet]] = {
    "noise10": lambda stress, seed: sets.label_noise(stress, rate=0.1, seed=seed),
    "noise20": lambda stress, seed: sets.label_noise(stress, rate=0.2, seed=seed),
    "duplicates": lambda stress, seed: sets.duplicates(stress, rate=0.02, copies=20, seed=seed),
}
"""Name -> what is done to the set after the attack."""

CHOOSING = (
    "badnets-s1",
    "clean-s2",
    "composite-s3",
    "wave-s4",
    "composite+badnets-s5",
    "all_to_all_wave-s6",
    "tact-s11",
    "reflection%3+blur%3+dct%3-s12",
    "colour_cast-s13",
    "untargeted_wave-s7",
)
"""Sets that were looked at while the detection was made."""

HELD_OUT = (
    "random_patch%3+colour_depth%3+sample_noise%3-s8",
    "minor+camera-s16",
    "sig%3+frame%3+blend%1-s21",
    "half_grey+noise10-s22",
    "long_tail+duplicates-s15",
    "badnets%2.5+wave%2.5-s18",
    "adaptive_blend%3+random_patch%3-s19",
    "noise20-s23",
    "watermark+duplicates-s25",
    "long_tail+badnets-s27",
    "clean-s38",
    "composite+jpeg-s39",
    "tact-s40",
    "composite+badnets-s41",
)
"""Sets that were not, of other triggers, structures and seeds; several attackers share a set to save trainings."""
