"""Records in BackdoorBench's format that need no checkout, and a real checkout where there is one."""

from __future__ import annotations

from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

POISONED = (1, 4)


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
