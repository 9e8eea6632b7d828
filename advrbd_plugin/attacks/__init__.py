"""Backdoor attacks on image tensors with known ground truth, for demonstrations, tests and benchmarks.

Each attack is a frozen dataclass of its parameters with two methods: ``poison`` makes the poisoned training set and
``triggered_test_set`` the test set for ASR. A new attack subclasses :class:`Attack` (:class:`CoverAttack` if some
samples carry the trigger with their true label) and is listed in ``ATTACKS``. The defaults are Table I of the AdvrBD
paper (arXiv 2405.12719).
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from advrbd_plugin.attacks.adaptive_blend import AdaptiveBlend
from advrbd_plugin.attacks.adaptive_patch import AdaptivePatch
from advrbd_plugin.attacks.badnets import BadNets
from advrbd_plugin.attacks.base import Attack, CoverAttack, PoisonedSet, no_attack
from advrbd_plugin.attacks.blend import Blend
from advrbd_plugin.attacks.physicalba import PhysicalBA
from advrbd_plugin.attacks.sig import SIG
from advrbd_plugin.attacks.tact import TaCT
from advrbd_plugin.attacks.wanet import WaNet
from advrbd_plugin.errors import AdvrBDError

ATTACKS: dict[str, type[Attack]] = {
    attack.name: attack for attack in (BadNets, Blend, SIG, WaNet, PhysicalBA, TaCT, AdaptiveBlend, AdaptivePatch)
}


def make_attack(name: str, **parameters: Any) -> Attack:
    """Make the attack ``name``, a key of ``ATTACKS``; ``parameters`` replace its defaults.

    Raises:
        AdvrBDError: there is no such attack, it has no such parameter, or a value is out of range or of the wrong type.
    """
    if name not in ATTACKS:
        raise AdvrBDError(f"attack must be one of {', '.join(ATTACKS)}, got {name!r}")
    known = [each.name for each in fields(ATTACKS[name])]
    unknown = [parameter for parameter in parameters if parameter not in known]
    if unknown:
        raise AdvrBDError(f"{name} takes {', '.join(known)}, got {', '.join(unknown)}")
    try:
        return ATTACKS[name](**parameters)
    except TypeError as error:
        given = ", ".join(f"{parameter}={value!r}" for parameter, value in parameters.items())
        raise AdvrBDError(f"{name}: a parameter has the wrong type in {given} ({error})") from error


__all__ = [
    "ATTACKS",
    "SIG",
    "AdaptiveBlend",
    "AdaptivePatch",
    "Attack",
    "BadNets",
    "Blend",
    "CoverAttack",
    "PhysicalBA",
    "PoisonedSet",
    "TaCT",
    "WaNet",
    "make_attack",
    "no_attack",
]
