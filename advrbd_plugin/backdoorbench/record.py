"""BackdoorBench's records (``record/NAME/attack_result.pt``), read as what they are: files from whoever attacked.

A record names the poisoned images by path. Every path is brought inside the record's folder or refused, and
the file is read with an allow-list of types (:mod:`advrbd_plugin.backdoorbench.safe_pickle`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy

from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.errors import AdvrBDError

FILE_NAME = "attack_result.pt"
_KEYS = ("model_name", "num_classes", "model", "data_path", "img_size", "clean_data", "bd_test")
_STATE_KEYS = (
    "bd_data_container",
    "getitem_all",
    "getitem_all_switch",
    "original_index_array",
    "poison_indicator",
    "save_folder_path",
)


@dataclass(frozen=True)
class AttackRecord:
    """What an attack left behind.

    Attributes:
        folder: ``record/NAME``, absolute.
        model_name: the architecture, as ``generate_cls_model`` names it.
        num_classes: how many labels there are.
        model: the backdoored model's state dict, without DataParallel's ``module.`` prefix.
        data_path: where the attack found its dataset, as it wrote it (``./data/cifar10``).
        img_size: (height, width, channels).
        clean_data: the dataset's name.
        bd_train: the state of the poisoned training set, paths absolute and inside ``folder``; ``None`` if the attack
            saved none (blind and lira, which control the training).
        bd_test: the same for the triggered test images.
    """

    folder: Path
    model_name: str
    num_classes: int
    model: dict[str, Any]
    data_path: str
    img_size: tuple[int, int, int]
    clean_data: str
    bd_train: dict[str, Any] | None
    bd_test: dict[str, Any]

    def need_training_set(self) -> None:
        """Raise AdvrBDError if the attack saved no poisoned training set."""
        if self.bd_train is None:
            raise AdvrBDError(
                f"{self.folder / FILE_NAME} lacks bd_train, the poisoned training set, which is all that AdvrBD works "
                "on; attacks that control the training (blind, lira) save none"
            )

    @property
    def name(self) -> str:
        """The record's name, as ``--result_file`` gives it."""
        return self.folder.name


def record_folder(checkout: Path, name: str) -> Path:
    """Return ``checkout/record/NAME`` if it is a record, with an error that lists the records if it is none."""
    records = checkout / "record"
    folder = Path(os.path.normpath(records / name))
    if folder == records or not folder.is_relative_to(records):
        raise AdvrBDError(f"--result_file {name} leads outside {records}")
    if not (folder / FILE_NAME).is_file():
        known = sorted(file.parent.name for file in records.glob(f"*/{FILE_NAME}"))
        there = f"it holds {', '.join(known)}" if known else "it holds none yet: run an attack/*.py first"
        raise AdvrBDError(f"there is no record {name} (with its {FILE_NAME}) in {records}; {there}")
    return folder


def read_record(folder: Path, *, trust: bool = False) -> AttackRecord:
    """Read and check ``folder/attack_result.pt``.

    Args:
        folder: ``record/NAME``.
        trust: also build types outside the allow-list (may run code that the record's maker put there).

    Raises:
        AdvrBDError: the file is missing, damaged or no record, holds another type, or names an image outside
            ``folder``.
    """
    folder = Path(os.path.abspath(folder))
    path = folder / FILE_NAME
    # By the allow-list, unless the user vouches for the maker (--trust-record).
    content = safe_pickle.load(path, trust=trust)
    if not isinstance(content, dict):
        raise AdvrBDError(f"{path} is no attack result: it holds a {type(content).__name__}, not a dictionary")
    for key in _KEYS:
        if content.get(key) is None:
            raise AdvrBDError(
                f"{path} lacks {key}, which every attack of BackdoorBench writes; run it again and let it finish"
            )
    height, width, *channels = (int(size) for size in content["img_size"])
    return AttackRecord(
        folder=folder,
        model_name=str(content["model_name"]),
        num_classes=int(content["num_classes"]),
        model={key.removeprefix("module."): value for key, value in content["model"].items()},
        data_path=str(content["data_path"]),
        img_size=(height, width, channels[0] if channels else 3),
        clean_data=str(content["clean_data"]),
        bd_train=_checked_state(content["bd_train"], folder, "bd_train") if content.get("bd_train") else None,
        bd_test=_checked_state(content["bd_test"], folder, "bd_test"),
    )


def _checked_state(state: Any, folder: Path, part: str) -> dict[str, Any]:
    """The state of a poisoned dataset with its image paths made absolute, each inside ``folder``."""
    missing = [key for key in _STATE_KEYS if not isinstance(state, dict) or key not in state]
    if missing:
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} lacks {missing[0]}, so it is no dataset of BackdoorBench v2")
    container = dict(state["bd_data_container"])
    stored = container.get("save_folder_path")
    if stored is not None:
        container["data_dict"] = {
            key: {**entry, "path": os.fspath(_inside(entry["path"], stored, folder, part))}
            for key, entry in container["data_dict"].items()
        }
        container["save_folder_path"] = os.fspath(folder / PurePosixPath(stored).name)
    indicator = numpy.asarray(state["poison_indicator"])
    order = numpy.asarray(state["original_index_array"])
    if order.ndim != 1 or indicator.ndim != 1 or (len(order) and not 0 <= order.min() <= order.max() < len(indicator)):
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} names samples that its dataset does not have")
    poisoned = {int(index) for index in order if indicator[index]}
    absent = poisoned - {int(key) for key in container["data_dict"]}
    if absent:
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} calls sample {min(absent)} poisoned but holds no image of it")
    return {**state, "bd_data_container": container}


def _inside(stored_path: str, stored_folder: str, folder: Path, part: str) -> Path:
    """Where an image of the record lies now, however the record's folder was named when it was written.

    BackdoorBench writes ``./record/NAME/bd_train_dataset/3/17.png`` beside ``./record/NAME/bd_train_dataset``:
    what counts is the path below that folder.
    """
    below = os.path.relpath(os.path.normpath(stored_path), os.path.normpath(stored_folder))
    path = folder / PurePosixPath(stored_folder).name / below
    home = folder.resolve()
    if not path.resolve().is_relative_to(home) or os.path.isabs(below):
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} names the image {stored_path}, outside the record's folder")
    return path
