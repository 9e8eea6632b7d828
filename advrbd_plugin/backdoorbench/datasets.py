"""A record's images and labels as tensors, read with the toolbox's own dataset classes.

The functions here import the checkout's modules (``utils``), so they need its root on ``sys.path``.
"""

from __future__ import annotations

import argparse
import copy
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor

from advrbd_plugin.backdoorbench.additions import install_additions
from advrbd_plugin.backdoorbench.record import AttackRecord
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import one_reason

DATASETS = ("cifar10", "cifar100", "gtsrb", "tiny", "mnist", "celeba", "imagenet", "imagenette")


@dataclass(frozen=True)
class PoisonTruth:
    """The ground truth of a poisoned training set, for reports alone.

    Attributes:
        poisoned: (N,) bool, the training samples that the attack changed.
        original_labels: (N,) int64, the labels before the attack.
    """

    poisoned: Tensor
    original_labels: Tensor


@dataclass(frozen=True)
class TestSets:
    """The test sets of a model; all images (N, C, H, W) uint8, all labels (N,) int64.

    Attributes:
        clean_images, clean_labels: the dataset's test part.
        triggered_images: the test images with the trigger, none of the target class.
        attack_labels: the target class of each of them.
        original_labels: the true label of each of them.
    """

    clean_images: Tensor
    clean_labels: Tensor
    triggered_images: Tensor
    attack_labels: Tensor
    original_labels: Tensor


def data_root(record: AttackRecord, dataset_path: str | None = None) -> Path:
    """Find the folder of the record's dataset on this machine.

    As in BackdoorBench, this is the part of the attack's path from ``data`` on, beside ``record/``. If that does not
    exist, it is ``dataset_path`` (``--dataset_path``) joined with the dataset's name.

    Raises:
        AdvrBDError: neither exists.
    """
    home = record.folder.parent.parent
    start = record.data_path.find("data")
    found = home / record.data_path[start:] if start >= 0 else None
    given = home / dataset_path / record.clean_data if dataset_path else None
    for candidate in (found, given):
        if candidate is not None and candidate.is_dir():
            return candidate
    raise AdvrBDError(
        f"record {record.name} was made with the data root {record.data_path}, and there is no "
        f"{found or given}; put or link the same {record.clean_data} there, or name its parent with --dataset_path"
    )


def load_result(record: AttackRecord, dataset_path: str | None = None) -> dict[str, Any]:
    """Return what BackdoorBench's ``load_attack_result`` returns, from a record that was read safely.

    The keys are model_name, model, clean_train, clean_test, bd_train (``None`` if the record has none) and bd_test.

    Raises:
        AdvrBDError: the dataset is missing, cannot be read, or is not the one that was attacked.
    """
    install_additions()
    from utils.aggregate_block.dataset_and_transform_generate import dataset_and_transform_generate, get_transform
    from utils.bd_dataset_v2 import dataset_wrapper_with_transform, prepro_cls_DatasetBD_v2

    try:
        get_transform(record.clean_data, *record.img_size[:2])
    except Exception as error:  # the toolbox raises no narrower one
        raise AdvrBDError(
            f"record {record.name} was made on {record.clean_data}, which this checkout does not know; it has "
            f"{', '.join(DATASETS)}"
        ) from error
    root = data_root(record, dataset_path)
    setting = argparse.Namespace(dataset=record.clean_data, dataset_path=str(root), img_size=record.img_size)
    try:
        train, train_transform, _, test, test_transform, _ = dataset_and_transform_generate(setting)
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        raise AdvrBDError(
            f"{root} does not hold {record.clean_data} as torchvision and BackdoorBench expect it ({reason}); "
            "for a subset or re-encoded images pass --local-data"
        ) from error
    result: dict[str, Any] = {
        "model_name": record.model_name,
        "model": record.model,
        "clean_train": dataset_wrapper_with_transform(train, train_transform),
        "clean_test": dataset_wrapper_with_transform(test, test_transform),
    }
    parts = (("bd_train", record.bd_train, train, train_transform), ("bd_test", record.bd_test, test, test_transform))
    for part, state, clean, transform in parts:
        if state is None:
            result[part] = None
            continue
        if len(state["poison_indicator"]) != len(clean):
            raise AdvrBDError(
                f"record {record.name} was made on {len(state['poison_indicator'])} images ({part}), but {root} holds "
                f"{len(clean)}: it is another dataset; point --dataset_path at the one that was attacked"
            )
        poisoned = prepro_cls_DatasetBD_v2(clean)
        poisoned.set_state(copy.deepcopy(state))
        poisoned.getitem_all, poisoned.getitem_all_switch = True, False
        result[part] = dataset_wrapper_with_transform(poisoned, transform)
    return result


def training_set(result: dict[str, Any], record: AttackRecord) -> tuple[ImageSet, PoisonTruth]:
    """Return the poisoned training set, which is all that a defense sees, and its ground truth for the report."""
    samples = result["bd_train"].wrapped_dataset
    columns = _columns(samples, record.img_size)
    class_names = _class_names(result["clean_train"].wrapped_dataset, record.num_classes)
    images = ImageSet(columns.images, columns.labels, class_names, columns.indices)
    return images, PoisonTruth(columns.poisoned, columns.original_labels)


def clean_samples(
    result: dict[str, Any], record: AttackRecord, *, ratio: float | None, index: str | None, seed: int
) -> ImageSet:
    """Draw a share of the clean training samples or read those that a file lists, as the toolbox's defenses do.

    Args:
        ratio: share of the training set, drawn by (seed, position); without effect if ``index`` is given.
        index: a file with one position in the training set per line.
        seed: draws the share.

    Raises:
        AdvrBDError: neither is given, or one is out of range.
    """
    samples = result["clean_train"].wrapped_dataset
    positions = _positions(len(samples), ratio=ratio, index=index, seed=seed)
    rows = ((place, *samples[place][:2]) for place in positions)
    columns = _columns([(picture, label, place, 0, label) for place, picture, label in rows], record.img_size)
    return ImageSet(columns.images, columns.labels, _class_names(samples, record.num_classes), columns.indices)


def _positions(count: int, *, ratio: float | None, index: str | None, seed: int) -> list[int]:
    if index is not None:
        try:
            positions = [int(float(line)) for line in Path(index).read_text(encoding="utf-8").split()]
        except (OSError, ValueError, OverflowError) as error:
            raise AdvrBDError(f"--index {index} cannot be read as one number a line: {one_reason(error)}") from error
        if not positions or not 0 <= min(positions) <= max(positions) < count or len(set(positions)) < len(positions):
            raise AdvrBDError(f"--index {index} must name different samples in [0, {count - 1}]")
        return positions
    try:
        share = float(ratio) if ratio is not None else 0.0
    except ValueError:
        share = 0.0
    if not 0 < share <= 1 or round(share * count) < 1:
        raise AdvrBDError(f"this method needs clean samples: --ratio must be a share in (0, 1] of {count}, got {ratio}")
    return draw(torch.arange(count), round(share * count), seed=seed, purpose="clean samples").tolist()


def as_image_set(samples: Any, img_size: tuple[int, int, int], num_classes: int) -> ImageSet:
    """Convert a dataset of the toolbox without transform, at its training size ``img_size``; ids are positions."""
    columns = _columns(samples, img_size)
    return ImageSet(columns.images, columns.labels, _class_names(samples, num_classes))


def _class_names(samples: Any, num_classes: int) -> tuple[str, ...]:
    """The dataset's own class names if it has one for each label, else the labels' numbers."""
    names = getattr(samples, "classes", None)
    class_names = [str(name) for name in names] if names is not None else []
    if len(set(class_names)) != num_classes:
        class_names = [str(label) for label in range(num_classes)]
    return tuple(class_names)


def test_sets(result: dict[str, Any], record: AttackRecord) -> TestSets:
    """Return the clean and the triggered test images."""
    clean = _columns(result["clean_test"].wrapped_dataset, record.img_size)
    triggered = _columns(result["bd_test"].wrapped_dataset, record.img_size)
    return TestSets(
        clean_images=clean.images,
        clean_labels=clean.labels,
        triggered_images=triggered.images,
        attack_labels=triggered.labels,
        original_labels=triggered.original_labels,
    )


@dataclass(frozen=True)
class _Columns:
    images: Tensor
    labels: Tensor
    indices: Tensor
    poisoned: Tensor
    original_labels: Tensor


def _columns(samples: Any, img_size: tuple[int, int, int]) -> _Columns:
    """Read all samples of a dataset without transform, in its order, at the toolbox's training size."""
    rows: Iterable[Any] = (samples[position] for position in range(len(samples)))
    images, figures = [], []
    for position, (picture, label, *details) in enumerate(rows):
        images.append(_pixels(picture, img_size))
        index, poisoned, original = details if details else (position, 0, label)
        figures.append((int(label), int(index), int(poisoned), int(original)))
    table = torch.tensor(figures, dtype=torch.int64).reshape(-1, 4)
    pixels = torch.stack(images) if images else torch.zeros((0, img_size[2], *img_size[:2]), dtype=torch.uint8)
    return _Columns(pixels, table[:, 0].clone(), table[:, 1].clone(), table[:, 2].bool(), table[:, 3].clone())


def _pixels(picture: Any, img_size: tuple[int, int, int]) -> Tensor:
    """(C, H, W) uint8, resized as the toolbox's transforms resize it."""
    from torchvision.transforms.functional import resize

    height, width, channels = img_size
    if picture.size != (width, height):
        picture = resize(picture, [height, width])
    pixels = numpy.array(picture.convert("L" if channels == 1 else "RGB"))
    return torch.from_numpy(pixels).reshape(height, width, channels).permute(2, 0, 1).contiguous()
