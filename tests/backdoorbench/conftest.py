"""Records in BackdoorBench's format that need no checkout, and a real checkout where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.models import make_model

POISONED = (1, 4)
IMAGENETTE_WNIDS = ("n01440764", "n02102040", "n02979186", "n03000684", "n03028079")
IMAGENETTE_WNIDS += ("n03394916", "n03417042", "n03425413", "n03445777", "n03888257")
# Datasets that the toolbox reads class by class -> class names and side of the images.
IN_CLASS_FOLDERS = {
    "gtsrb": (tuple(f"{label:05d}" for label in range(43)), 32),
    "tiny": (tuple(f"n{label:08d}" for label in range(200)), 64),
    "imagenette": (IMAGENETTE_WNIDS, 128),
}


def noise_set(dataset: str, each: int, *, seed: int) -> ImageSet:
    """``each`` images of every class, of random pixels, in no order of the classes; ids are no positions."""
    names, side = IN_CLASS_FOLDERS[dataset]
    generator = torch.Generator().manual_seed(seed)
    count = each * len(names)
    pixels = torch.randint(0, 256, (count, 3, side, side), generator=generator, dtype=torch.uint8)
    labels = torch.arange(count)[torch.randperm(count, generator=generator)] % len(names)
    return ImageSet(pixels, labels, names, torch.arange(count) * 7 + 3)


def record_parts(dataset: str) -> dict:
    """What ``write_record`` is given: two training images and one test image of each class, an untrained model."""
    names, side = IN_CLASS_FOLDERS[dataset]
    torch.manual_seed(0)
    model = make_model("resnet_narrow", num_classes=len(names), image_size=side).eval()
    return parts_of(noise_set(dataset, 2, seed=1), noise_set(dataset, 1, seed=2), model, dataset)


def parts_of(train: ImageSet, test: ImageSet, model: torch.nn.Module, dataset: str) -> dict:
    """What ``write_record`` is given, for these sets under an attack that has covers."""
    attack = make_attack("adaptive_blend", poison_ratio=0.1, cover_rate=0.05)
    return {
        "poisoned": attack.poison(train, seed=0),
        "clean_train": train,
        "clean_test": test,
        "triggered_test": attack.triggered_test_set(test),
        "model_name": "resnet_narrow",
        "model": model,
        "dataset": dataset,
    }


class RecordWriter:
    """Writes ``record/NAME`` as BackdoorBench v2.2 does: six 8x8 images of three classes, two of them poisoned."""

    def __init__(self, home: Path) -> None:
        self.home = home

    def content(self, name: str = "badnet", *, in_memory: bool = False) -> dict:
        """What torch.save is given; poisoned pictures are written beside it unless they stay in memory."""
        return {
            "model_name": "preactresnet18",
            "num_classes": 3,
            "model": {"linear.weight": torch.ones(3, 2), "linear.bias": torch.zeros(3)},
            "data_path": "./data/cifar10",
            "img_size": (8, 8, 3),
            "clean_data": "cifar10",
            "bd_train": self.state(name, "bd_train_dataset", in_memory=in_memory),
            "bd_test": self.state(name, "bd_test_dataset", in_memory=in_memory),
        }

    def state(self, name: str, part: str, *, in_memory: bool = False) -> dict:
        folder = f"./record/{name}/{part}"
        indicator = numpy.zeros(6)
        data = {}
        for index in numpy.asarray(POISONED):  # the toolbox's keys are NumPy numbers, as these are
            indicator[index] = 1
            picture = Image.new("RGB", (8, 8), (int(index) * 20, 0, 0))
            if in_memory:
                data[index] = (picture, 0, 2)
            else:
                place = self.home / folder / "2"
                place.mkdir(parents=True, exist_ok=True)
                picture.save(place / f"{index}.png")
                data[index] = {"path": f"{folder}/2/{index}.png", "other_info": [0, 2]}
        return {
            "bd_data_container": {
                "save_folder_path": None if in_memory else folder,
                "data_dict": data,
                "save_file_format": ".png",
            },
            "getitem_all": True,
            "getitem_all_switch": False,
            "original_index_array": numpy.arange(6),
            "poison_indicator": indicator,
            "save_folder_path": None if in_memory else folder,
        }

    def write(self, content: object, name: str = "badnet") -> Path:
        """Save ``content`` as the record's attack_result.pt; return the record's folder."""
        folder = self.home / "record" / name
        folder.mkdir(parents=True, exist_ok=True)
        torch.save(content, folder / "attack_result.pt")
        return folder


@pytest.fixture
def records(tmp_path: Path) -> RecordWriter:
    return RecordWriter(tmp_path)


@pytest.fixture
def fake_checkout(tmp_path: Path) -> Path:
    """A folder that looks like a checkout of another version and holds none of BackdoorBench's code."""
    checkout = tmp_path / "checkout"
    for name in ("defense/base.py", "utils/save_load_attack.py", "detection_pretrain/__init__.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("# not BackdoorBench's\n")
    return checkout
