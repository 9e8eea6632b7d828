"""Writing a poisoned set and its model as a record of BackdoorBench, so that its defenses run on them.

The files are those of the toolbox's ``save_attack_result``: the poisoned samples as PNG files, and ``attack_result.pt``
with the model's weights and the position of each sample. No code of the toolbox is used.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy
import torch
from torch import Tensor, nn

from advrbd_plugin.attacks import PoisonedSet
from advrbd_plugin.backdoorbench.classifiers import PixelScaleClassifier, bare_network, normalization, toolbox_state
from advrbd_plugin.backdoorbench.clean_data import order_read, write_clean_data
from advrbd_plugin.backdoorbench.networks import to_toolbox, toolbox_name
from advrbd_plugin.backdoorbench.pictures import write_png
from advrbd_plugin.backdoorbench.record import FILE_NAME
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import atomic_file, workspace_for


def write_record(
    checkout: Path,
    name: str,
    *,
    poisoned: PoisonedSet,
    clean_train: ImageSet,
    clean_test: ImageSet,
    triggered_test: ImageSet,
    model_name: str,
    model: nn.Module,
    dataset: str,
    target_label: int | None = None,
    data_path: str | None = None,
    overwrite: bool = False,
) -> Path:
    """Write ``record/NAME`` into a checkout, completely or not at all.

    Poisoned samples and covers are marked alike (``poison_indicator`` 1), as the toolbox's own attacks do; a cover
    keeps its label. The clean images must lie in the checkout too, in the record's order. Unless ``data_path`` says
    where they are, they are written beside the record (``data/advrbd/...``, to be read with ``--local-data``): those
    of cifar10 and cifar100 in the sets' order, those of gtsrb, tiny and imagenette in the order of their labels, since
    the toolbox reads these class by class. The record then follows that order: its sample ``i`` is the sample
    ``clean_train.labels.argsort(stable=True)[i]`` of the set.

    Args:
        checkout: the root of BackdoorBench.
        name: of the record.
        poisoned: the training set after the attack.
        clean_train: the training set before it, in the same order.
        clean_test: the clean test images.
        triggered_test: the victims among them with the trigger, their *true* labels and the ids of ``clean_test``.
        model_name: as :data:`advrbd_plugin.nn.models.MODELS` names it, or, for a
            :class:`~advrbd_plugin.backdoorbench.classifiers.PixelScaleClassifier`, as the toolbox does. The record
            may name it otherwise (``resnet18`` with the first layers for small images is ``resnet18_cifar``).
        model: the attacked model, for pixel-scale images; what is saved works behind the toolbox's transforms.
        dataset: as the toolbox names it. What is written for gtsrb, tiny and imagenette must have the dataset's
            classes (43, 200, 10) and RGB images of its size (32x32, 64x64, 128x128); tiny and imagenette, an image of
            each class in either part.
        target_label: the target class of the triggered images, if the poisoned set names none.
        data_path: the dataset's folder in the checkout, such as ``./data/cifar10``, which the toolbox reads in the
            order of the sets.
        overwrite: replace an existing record.

    Returns:
        ``checkout/record/NAME``.

    Raises:
        AdvrBDError: the record exists or its name is a path, the sets do not belong together or do not fit the dataset,
            its images cannot be written, or the toolbox has no such model.
        StorageError: the disk is full or the folder cannot be written.
    """
    records = Path(os.path.abspath(checkout)) / "record"
    folder = records / name
    if not name or folder.parent != records or name.startswith("."):
        raise AdvrBDError(f"the record's name must be one folder's name, got {name!r}")
    _check_place(folder, overwrite)
    target = poisoned.target_label if poisoned.target_label is not None else target_label
    if target is None:
        raise AdvrBDError("a set without an attack names no target label: pass target_label")
    _check_sets(poisoned, clean_train, clean_test, triggered_test)
    if not data_path:
        poisoned, clean_train, clean_test = _in_order_read(dataset, poisoned, clean_train, clean_test)
    known_name, state = _model_state(model, model_name, clean_train, dataset)
    data_path = data_path or write_clean_data(Path(checkout), dataset, clean_train, clean_test)
    with workspace_for(folder) as workspace:
        part = workspace / name
        changed = (poisoned.poisoned | poisoned.covers).nonzero().flatten()
        places = _places_of(triggered_test, clean_test)
        content = {
            "model_name": known_name,
            "num_classes": clean_train.num_classes,
            "model": state,
            "data_path": data_path,
            "img_size": (*clean_train.image_size, clean_train.num_channels),
            "clean_data": dataset,
            "bd_train": _write_images(
                part,
                "bd_train_dataset",
                images=poisoned.image_set.images[changed],
                places=changed,
                labels=poisoned.image_set.labels[changed],
                original_labels=poisoned.true_labels[changed],
                order=torch.arange(len(clean_train)),
                length=len(clean_train),
            ),
            "bd_test": _write_images(
                part,
                "bd_test_dataset",
                images=triggered_test.images,
                places=places,
                labels=torch.full_like(triggered_test.labels, target),
                original_labels=triggered_test.labels,
                order=places,
                length=len(clean_test),
            ),
        }
        with atomic_file(part / FILE_NAME) as handle:
            torch.save(content, handle)
        _move_in(part, folder)
    return folder


def _write_images(
    record: Path,
    part: str,
    *,
    images: Tensor,
    places: Tensor,
    labels: Tensor,
    original_labels: Tensor,
    order: Tensor,
    length: int,
) -> dict[str, Any]:
    """Write the (N, C, H, W) uint8 images and return the state of the toolbox's dataset of ``length`` samples.

    Args:
        record: the record's folder as it stands now; its name is the record's.
        places: (N,) where each image stands in the clean dataset.
        order: (M,) the samples that the dataset has, by place.
    """
    written = f"./record/{record.name}/{part}"
    indicator = numpy.zeros(length)
    indicator[places.numpy()] = 1
    entries = {}
    rows: Iterable[tuple[int, int, int]] = zip(places.tolist(), labels.tolist(), original_labels.tolist(), strict=True)
    for image, (place, label, original) in zip(images, rows, strict=True):
        below = f"{original}/{place}.png"
        write_png(record / part / below, image)
        entries[place] = {"path": f"{written}/{below}", "other_info": [label, original]}
    return {
        "bd_data_container": {"save_folder_path": written, "data_dict": entries, "save_file_format": ".png"},
        "getitem_all": True,
        "getitem_all_switch": False,
        "original_index_array": order.numpy(),
        "poison_indicator": indicator,
        "save_folder_path": written,
    }


def _in_order_read(
    dataset: str, poisoned: PoisonedSet, train: ImageSet, test: ImageSet
) -> tuple[PoisonedSet, ImageSet, ImageSet]:
    """The sets in the order in which the toolbox will read them from what is written here."""
    order = order_read(dataset, train.labels)
    if not torch.equal(order, torch.arange(len(order))):  # no needless copy of a large set
        train = train.subset(order)
        poisoned = replace(
            poisoned,
            image_set=poisoned.image_set.subset(order),
            poisoned=poisoned.poisoned[order],
            covers=poisoned.covers[order],
            true_labels=poisoned.true_labels[order],
        )
    return poisoned, train, test.subset(order_read(dataset, test.labels))


def _model_state(model: nn.Module, model_name: str, train_set: ImageSet, dataset: str) -> tuple[str, dict[str, Tensor]]:
    """The toolbox's name of the network, and its weights for the toolbox's normalised images."""
    inner = bare_network(model)
    if isinstance(inner, PixelScaleClassifier):
        return model_name, toolbox_state(inner)
    known = toolbox_name(model_name, min(train_set.image_size))
    mean, std = normalization(dataset)
    return known, to_toolbox(inner, known, num_classes=train_set.num_classes, mean=mean, std=std)


def _places_of(samples: ImageSet, whole: ImageSet) -> Tensor:
    """(N,) positions of the samples in the whole set, matched by id."""
    place_of = {number: place for place, number in enumerate(whole.sample_ids.tolist())}
    try:
        return torch.tensor([place_of[number] for number in samples.sample_ids.tolist()], dtype=torch.int64)
    except KeyError as error:
        raise AdvrBDError(f"triggered_test holds the sample {error}, which clean_test does not") from None


def _check_sets(poisoned: PoisonedSet, train: ImageSet, test: ImageSet, triggered: ImageSet) -> None:
    if not torch.equal(poisoned.image_set.sample_ids, train.sample_ids):
        raise AdvrBDError("poisoned and clean_train must hold the same samples in the same order")
    if not torch.equal(poisoned.true_labels, train.labels):
        raise AdvrBDError("the true labels of poisoned must be those of clean_train")
    sizes = {part.images.shape[1:] for part in (poisoned.image_set, train, test, triggered)}
    if len(sizes) > 1:
        raise AdvrBDError(f"all images must have one size, got {', '.join(str(tuple(size)) for size in sizes)}")
    if not len(triggered):
        raise AdvrBDError("triggered_test is empty, and the toolbox cannot judge a model without triggered images")


def _check_place(folder: Path, overwrite: bool) -> None:
    if not os.path.lexists(folder):
        return
    if not overwrite:
        raise AdvrBDError(f"{folder} exists already: choose another name, or overwrite it")
    if not (folder / FILE_NAME).is_file():
        raise AdvrBDError(f"{folder} is in the way: it is no record, so it is not overwritten")


def _move_in(part: Path, folder: Path) -> None:
    """Move the finished record into its place; an old one is removed only then."""
    if folder.exists():
        old = part.parent / ".old"  # no record has this name
        os.replace(folder, old)
        os.replace(part, folder)
        shutil.rmtree(old)
    else:
        os.replace(part, folder)
