"""Backdoor attacks on image tensors, for those who must know the truth: demonstrations, tests, benchmarks.

Each attack is a frozen dataclass of its parameters with two things to do: ``poison`` a training set and make the
``triggered_test_set``. A new one subclasses :class:`Attack` and is named in ``ATTACKS``.
"""

from __future__ import annotations

from typing import Any

from advrbd_plugin.attacks.badnets import BadNets
from advrbd_plugin.attacks.base import Attack, PoisonedSet, no_attack
from advrbd_plugin.attacks.blend import Blend
from advrbd_plugin.attacks.sig import SIG
from advrbd_plugin.errors import AdvrBDError

ATTACKS: dict[str, type[Attack]] = {attack.name: attack for attack in (BadNets, Blend, SIG)}


def make_attack(name: str, **parameters: Any) -> Attack:
    """The attack called ``name`` (a key of ``ATTACKS``) with ``parameters`` in place of its defaults.

    Raises:
        AdvrBDError: no such attack, or a parameter that it does not have.
    """
    if name not in ATTACKS:
        raise AdvrBDError(f"attack must be one of {', '.join(ATTACKS)}, got {name!r}")
    try:
        return ATTACKS[name](**parameters)
    except TypeError as error:
        allowed = ", ".join(ATTACKS[name].__dataclass_fields__)
        raise AdvrBDError(f"{name} takes {allowed}, got {', '.join(parameters)}") from error


__all__ = ["ATTACKS", "SIG", "Attack", "BadNets", "Blend", "PoisonedSet", "make_attack", "no_attack"]
