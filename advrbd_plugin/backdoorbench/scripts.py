"""What ``advrbd register`` adds to a checkout: one row for each method, and the thin scripts made from it."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advrbd_plugin.backdoorbench.defense_script import DefenseScript


@dataclass(frozen=True)
class DefenseRow:
    """A method that ``advrbd register`` adds as a defense of BackdoorBench.

    Its configurations are the files of ``configs/backdoorbench/NAME/``; they go to ``config/defense/NAME/``.

    Attributes:
        name: of the scripts, their class, and the folder of its configurations and results.
        title: what it is and where it was published.
        methods: ``module:class`` below ``advrbd_plugin.backdoorbench``, a subclass of
            :class:`advrbd_plugin.backdoorbench.defense_script.DefenseScript`.
        purposes: folder of the checkout -> the class's docstring there.
    """

    name: str
    title: str
    methods: str
    purposes: Mapping[str, str]

    def methods_class(self) -> type[DefenseScript[Any]]:
        """The class behind :attr:`methods`."""
        module, name = self.methods.split(":")
        found: type[DefenseScript[Any]] = getattr(
            importlib.import_module(f"advrbd_plugin.backdoorbench.{module}"), name
        )
        return found

    def planned_files(self) -> dict[str, bytes]:
        """Path in the checkout -> content."""
        module, methods = self.methods.split(":")
        planned = _configs(self.name, f"config/defense/{self.name}")
        for folder, purpose in self.purposes.items():
            script = _DEFENSE_SCRIPT.format(
                name=self.name,
                title=self.title,
                folder=folder,
                kind=_KINDS[folder],
                purpose=purpose,
                module=module,
                methods=methods,
            )
            planned[f"{folder}/{self.name}.py"] = script.encode()
        return planned


_KINDS = {"defense": "defense", "detection_pretrain": "detection"}

_DEFENSE_SCRIPT = '''"""{title} as a {kind} of BackdoorBench.

Written by `advrbd register`, removed by `advrbd unregister`.

    python {folder}/{name}.py --result_file NAME --yaml_path ./config/defense/{name}/cifar10.yaml --dataset cifar10
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True

from defense.base import defense

from advrbd_plugin.backdoorbench.{module} import {methods}
from advrbd_plugin.backdoorbench.defense_script import main


class {name}({methods}, defense):
    """{purpose}"""


if __name__ == "__main__":
    main({name}, "{kind}")
'''


@dataclass(frozen=True)
class AttackRow:
    """An attack of :data:`advrbd_plugin.attacks.ATTACKS` that ``advrbd register`` adds as one of BackdoorBench.

    Its configurations are the files of ``configs/backdoorbench/attack/NAME/``; they go to ``config/attack/NAME/``.

    Attributes:
        name: of the attack, its script, its class and the folder of its configurations.
        title: what it is and where it was published.
    """

    name: str
    title: str

    def planned_files(self) -> dict[str, bytes]:
        """Path in the checkout -> content."""
        script = _ATTACK_SCRIPT.format(name=self.name, title=self.title)
        return _configs(f"attack/{self.name}", f"config/attack/{self.name}") | {
            f"attack/{self.name}.py": script.encode()
        }


_ATTACK_SCRIPT = '''"""{title} as an attack of BackdoorBench.

Written by `advrbd register`, removed by `advrbd unregister`.

    python attack/{name}.py --yaml_path ./config/attack/prototype/cifar10.yaml --save_folder_name {name}
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True

from advrbd_plugin.backdoorbench.attack_script import AttackScript, main, prepare_process

prepare_process()

from attack.badnet import BadNet


class {name}(AttackScript, BadNet):
    """{title}; --attack_target, --pratio and the attack's own parameters stand over its configuration."""

    name = "{name}"


if __name__ == "__main__":
    main({name})
'''

DEFENSES = (
    DefenseRow(
        name="advrbd",
        title="AdvrBD (arXiv 2405.12719)",
        methods="defense:AdvrBDMethods",
        purposes={
            "defense": "Train a clean model on the poisoned training set alone: no clean data, no poison ratio.",
            "detection_pretrain": "Tell which samples of the poisoned training set are poisoned.",
        },
    ),
    DefenseRow(
        name="ulrl",
        title="ULRL (arXiv 2405.14781)",
        methods="ulrl:ULRLMethods",
        purposes={"defense": "Repair the attacked model with a few clean samples, or with those that AdvrBD picks."},
    ),
    DefenseRow(
        name="cutmix",
        title="CutMix (arXiv 1905.04899) against poisoned training sets (arXiv 2011.09527)",
        methods="baselines:CutMixMethods",
        purposes={"defense": "Train on the poisoned training set with pieces of other pictures in every picture."},
    ),
    DefenseRow(
        name="scanft",
        title="SCAn (Tang et al., USENIX Security 2021), unlearning and fine-tuning",
        methods="baselines:SCAnFTMethods",
        purposes={
            "defense": "Find poisoned samples with a few clean ones, unlearn them, and fine-tune.",
            "detection_pretrain": "Find poisoned samples with a few clean ones.",
        },
    ),
)


ATTACKS = (
    AttackRow("physicalba", "PhysicalBA (arXiv 2104.02361)"),
    AttackRow("tact", "TaCT (arXiv 1908.00686)"),
    AttackRow("adaptive_blend", "Adaptive-Blend (Qi et al., ICLR 2023)"),
    AttackRow("adaptive_patch", "Adaptive-Patch (Qi et al., ICLR 2023)"),
)


def planned_files() -> dict[str, bytes]:
    """What register writes: path in the checkout -> content."""
    return {name: content for row in (*DEFENSES, *ATTACKS) for name, content in row.planned_files().items()}


def methods_named(name: str) -> type[DefenseScript[Any]] | None:
    """The class of the defense ``name``, or ``None`` if the defense is not ours."""
    return next((row.methods_class() for row in DEFENSES if row.name == name), None)


def _configs(source: str, target: str) -> dict[str, bytes]:
    folder: Any = files("advrbd_plugin").joinpath("configs", "backdoorbench", *source.split("/"))
    found = sorted((path.name, path) for path in folder.iterdir() if path.name.endswith(".yaml"))
    return {f"{target}/{name}": path.read_bytes() for name, path in found}
