"""BackdoorBench's records (``record/NAME/attack_result.pt``), read as what they are: files from whoever attacked.

A record names the poisoned images by path. Every path is brought inside the record's folder or refused, and
the file is read without running it (:mod:`advrbd_plugin.backdoorbench.safe_pickle`).
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import numpy

from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief

FILE_NAME = "attack_result.pt"
_MOST_CLASSES = 65_536
_LONGEST_TEXT = 4096
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
    part = content.get("bd_train")
    return AttackRecord(
        folder=folder,
        model_name=_text(path, content, "model_name"),
        num_classes=_whole(path, content, "num_classes", 1, _MOST_CLASSES),
        model=safe_pickle.state_dict_of(content["model"], f"{path}: model"),
        data_path=_text(path, content, "data_path"),
        img_size=_img_size(path, content["img_size"]),
        clean_data=_text(path, content, "clean_data"),
        bd_train=None
        if part is None or (isinstance(part, dict) and not part)
        else _checked_state(part, folder, "bd_train"),
        bd_test=_checked_state(content["bd_test"], folder, "bd_test"),
    )


def _text(path: Path, content: dict[str, Any], key: str) -> str:
    value = content[key]
    if not isinstance(value, str) or not 0 < len(value) <= _LONGEST_TEXT or "\0" in value:
        raise AdvrBDError(f"{path}: {key} must be a text of at most {_LONGEST_TEXT} characters, got {brief(value)}")
    return value


def _is_whole(value: Any) -> bool:
    return isinstance(value, (int, numpy.integer)) and not isinstance(value, bool)


def _whole(path: Path, content: dict[str, Any], key: str, low: int, high: int) -> int:
    value = content[key]
    if not _is_whole(value) or not low <= value <= high:
        raise AdvrBDError(f"{path}: {key} must be a whole number in [{low}, {high}], got {brief(value)}")
    return int(value)


def _img_size(path: Path, value: Any) -> tuple[int, int, int]:
    sides = list(value) if isinstance(value, (list, tuple)) and len(value) in (2, 3) else []
    good = sides and all(_is_whole(side) and 1 <= side <= 4096 for side in sides)
    if not good or (len(sides) == 3 and sides[2] not in (1, 3)):
        raise AdvrBDError(f"{path}: img_size must be a height, a width and 1 or 3 channels, got {brief(value)}")
    height, width, *channels = (int(side) for side in sides)
    return height, width, channels[0] if channels else 3


def _checked_state(state: Any, folder: Path, part: str) -> dict[str, Any]:
    """The state of a poisoned dataset with its image paths made absolute, each inside ``folder``."""
    missing = [key for key in _STATE_KEYS if not isinstance(state, dict) or key not in state]
    if missing:
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} lacks {missing[0]}, so it is no dataset of BackdoorBench v2")
    indicator = _row(state["poison_indicator"], folder, f"{part}: poison_indicator", "biuf")
    order = _row(state["original_index_array"], folder, f"{part}: original_index_array", "iu")
    if len(order) and not 0 <= order.min() <= order.max() < len(indicator):
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} names samples that its dataset does not have")
    container = _checked_container(state["bd_data_container"], folder, part)
    poisoned = {int(index) for index in order if indicator[index]}
    absent = poisoned - {int(key) for key in container["data_dict"]}
    if absent:
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} calls sample {min(absent)} poisoned but holds no image of it")
    return {**state, "bd_data_container": container, "original_index_array": order, "poison_indicator": indicator}


def _row(value: Any, folder: Path, where: str, kinds: str) -> numpy.ndarray:
    """A one-dimensional array of numbers, from one or from a list of numbers."""
    if isinstance(value, (list, tuple)) and all(isinstance(each, (int, float, numpy.number)) for each in value):
        try:
            value = numpy.array(value, dtype=None if len(value) else numpy.int64)
        except OverflowError:
            value = None
    if not isinstance(value, numpy.ndarray) or value.ndim != 1 or value.dtype.kind not in kinds:
        raise AdvrBDError(f"{folder / FILE_NAME}: {where} must be a row of numbers, got {brief(value)}")
    return value


def _checked_container(value: Any, folder: Path, part: str) -> dict[str, Any]:
    """Where the images are: by path, each made absolute, or in memory."""
    where = f"{folder / FILE_NAME}: {part}"
    container = dict(value) if isinstance(value, dict) else {}
    entries = container.get("data_dict")
    if not isinstance(entries, dict):
        raise AdvrBDError(f"{where} holds no images: data_dict must be a dictionary, got {brief(entries)}")
    stored = container.get("save_folder_path")
    if stored is not None and (not isinstance(stored, str) or PurePosixPath(stored).name in ("", "..")):
        raise AdvrBDError(f"{where}: save_folder_path must be the path of a folder, got {brief(stored)}")
    checked: dict[Any, Any] = {}
    for key, entry in entries.items():
        if not _is_whole(key) or key < 0:
            raise AdvrBDError(f"{where} holds an image for {brief(key)}, which is no sample's number")
        if stored is None:
            if not isinstance(entry, (list, tuple)) or not entry or not _are_numbers(entry[1:]):
                raise AdvrBDError(f"{where}: sample {int(key)} must be a picture with its labels, got {brief(entry)}")
            checked[key] = entry
            continue
        path = entry.get("path") if isinstance(entry, dict) else None
        if not isinstance(path, str) or not _are_numbers(entry.get("other_info")):
            raise AdvrBDError(f"{where}: sample {int(key)} must have a path and its labels, got {brief(entry)}")
        checked[key] = {**entry, "path": os.fspath(_inside(path, stored, folder, part))}
    container["data_dict"] = checked
    if stored is not None:
        container["save_folder_path"] = os.fspath(folder / PurePosixPath(stored).name)
    return container


def _are_numbers(values: Any) -> bool:
    good = isinstance(values, (list, tuple)) and len(values) <= 16
    return good and all(isinstance(value, (int, float, numpy.number)) for value in values)


def _inside(stored_path: str, stored_folder: str, folder: Path, part: str) -> Path:
    """Where an image of the record lies now, however the record's folder was named when it was written.

    BackdoorBench writes ``./record/NAME/bd_train_dataset/3/17.png`` beside ``./record/NAME/bd_train_dataset``:
    what counts is the path below that folder.
    """
    if len(stored_path) > _LONGEST_TEXT or len(stored_folder) > _LONGEST_TEXT:
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} names an image by a path of {len(stored_path)} characters")
    below = os.path.relpath(os.path.normpath(stored_path), os.path.normpath(stored_folder))
    path = folder / PurePosixPath(stored_folder).name / below
    try:
        inside = path.resolve().is_relative_to(folder.resolve()) and not os.path.isabs(below)
    except (OSError, ValueError, RuntimeError):  # a loop of links, a zero byte, a name that is too long
        inside = False
    if not inside:
        shown = stored_path if len(stored_path) <= 200 else brief(stored_path)
        raise AdvrBDError(f"{folder / FILE_NAME}: {part} names the image {shown}, outside the record's folder")
    return path
