"""One of our attacks as an attack of BackdoorBench: what the class of an ``attack/*.py`` does.

The thin scripts that ``advrbd register`` writes put these methods in front of the checkout's ``attack.badnet.BadNet``.
BadNet trains; only the poisoned images are made here. The checkout's modules are imported inside functions, so its root
must be on ``sys.path`` when they are called.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from copy import deepcopy
from pathlib import Path
from typing import Any, ClassVar

import torch
from torch import Tensor
from torchvision.transforms.functional import to_pil_image

from advrbd_plugin.attacks import ATTACKS, Attack, make_attack
from advrbd_plugin.backdoorbench.additions import install_additions
from advrbd_plugin.backdoorbench.compat import apply_patches, use_local_data
from advrbd_plugin.backdoorbench.datasets import as_image_set
from advrbd_plugin.backdoorbench.settings import read_yaml, yaml_value
from advrbd_plugin.errors import AdvrBDError

# Our name -> BackdoorBench's, where they differ.
TOOLBOX_NAMES = {"target_label": "attack_target", "poison_ratio": "pratio"}


class AttackScript:
    """The methods that differ from ``BadNet``'s: the options, and how images are poisoned.

    Attributes:
        name: of the attack in :data:`advrbd_plugin.attacks.ATTACKS`, of its script and of its configuration.
    """

    name: ClassVar[str]
    args: argparse.Namespace  # BadNet sets it

    def set_bd_args(self, parser: argparse.ArgumentParser) -> argparse.ArgumentParser:
        """Add BadNet's options, except for its patch, and the attack's own, all without defaults."""
        from attack.badnet import add_common_attack_args

        add_common_attack_args(parser)
        parser.add_argument("--bd_yaml_path", default=f"./config/attack/{self.name}/default.yaml")
        parser.add_argument(
            "--local_data",
            action="store_const",
            const=True,
            help="read the dataset's files without download or checksum",
        )
        for parameter in own_parameters(self.name):
            parser.add_argument(f"--{parameter}", type=yaml_value, help="see advrbd_plugin.attacks")
        return parser

    def make_attack(self) -> Attack:
        """The attack with the values of ``self.args``.

        Raises:
            AdvrBDError: a value is out of range, or ``--attack_label_trans`` is not all-to-one.
        """
        given = vars(self.args)
        if given.get("attack_label_trans", "all2one") != "all2one":
            raise AdvrBDError(
                f"--attack_label_trans must be all2one for {self.name}, got {given['attack_label_trans']}"
            )
        names = {name: name for name in own_parameters(self.name)} | TOOLBOX_NAMES
        values = {name: given[option] for name, option in names.items() if given.get(option) is not None}
        return make_attack(self.name, **values)

    def stage1_non_training_data_prepare(self) -> None:
        """Poison the training set and make the triggered test set, as the toolbox's own datasets."""
        from utils.bd_dataset_v2 import dataset_wrapper_with_transform

        args, attack = self.args, self.make_attack()
        train, train_transform, train_labels, test, test_transform, test_labels, *clean = self.benign_prepare()  # type: ignore[attr-defined]
        train_images, test_images = (as_image_set(part, args.img_size, args.num_classes) for part in (train, test))
        poisoned = attack.poison(train_images, seed=int(args.random_seed))
        changed = (poisoned.poisoned | poisoned.covers).nonzero().flatten()
        bd_train = self._toolbox_dataset(
            train,
            "bd_train_dataset",
            places=changed,
            images=poisoned.image_set.images[changed],
            labels=poisoned.image_set.labels[changed],
            original_labels=poisoned.true_labels[changed],
        )
        torch.save(bd_train.poison_indicator, f"{args.save_path}/train_poison_index_list.pickle")
        triggered = attack.triggered_test_set(test_images)
        bd_test = self._toolbox_dataset(
            test,
            "bd_test_dataset",
            places=triggered.sample_ids,
            images=triggered.images,
            labels=torch.full_like(triggered.labels, attack.target_label),
            original_labels=triggered.labels,
        )
        bd_test.subset(triggered.sample_ids.numpy())
        self.stage1_results = (
            clean[0],
            clean[2],
            dataset_wrapper_with_transform(bd_train, train_transform, train_labels),
            dataset_wrapper_with_transform(bd_test, test_transform, test_labels),
        )

    def _toolbox_dataset(
        self, clean: Any, folder: str, *, places: Tensor, images: Tensor, labels: Tensor, original_labels: Tensor
    ) -> Any:
        """A copy of the clean dataset with these images, stored without loss, at ``places``."""
        from utils.bd_dataset_v2 import prepro_cls_DatasetBD_v2

        dataset = prepro_cls_DatasetBD_v2(deepcopy(clean), save_folder_path=f"{self.args.save_path}/{folder}")
        rows = zip(places.tolist(), labels.tolist(), original_labels.tolist(), strict=True)
        for image, (place, label, original) in zip(images, rows, strict=True):
            dataset.set_one_bd_sample(place, to_pil_image(image), label, original)
        return dataset


def own_parameters(name: str) -> list[str]:
    """The attack's parameters except target label and poison ratio, which are BackdoorBench's own options."""
    return [each.name for each in dataclasses.fields(ATTACKS[name]) if each.name not in TOOLBOX_NAMES]


def prepare_process() -> None:
    """Make the checkout's modules run on today's libraries and take our networks and datasets."""
    apply_patches()
    install_additions()


def main(attack_class: Any) -> None:
    """Run one of the thin scripts in the order of the toolbox's own; a user's error is one line and exit status 2."""
    attack = attack_class()
    parser = argparse.ArgumentParser(description=attack_class.__doc__)
    args = attack.set_bd_args(attack.set_args(parser)).parse_args()
    try:
        for path in (args.bd_yaml_path, args.yaml_path):
            read_yaml(Path(path))  # an unreadable file fails here, in one line
        if args.save_folder_name is not None and (Path("record") / args.save_folder_name).exists():
            raise AdvrBDError(f"record/{args.save_folder_name} exists already: choose another --save_folder_name")
        attack.add_bd_yaml_to_args(args)
        attack.add_yaml_to_args(args)
        if getattr(args, "local_data", None):
            use_local_data()
        args = attack.args = attack.process_args(args)
        attack.make_attack()  # a value out of range fails here, before the record exists
        attack.prepare(args)
        attack.stage1_non_training_data_prepare()
        attack.stage2_training()
    except AdvrBDError as error:
        print(f"advrbd: error: {error}", file=sys.stderr)
        raise SystemExit(2) from None
