"""A small CIFAR-10 in torchvision's on-disk layout, made from images in class folders."""

from __future__ import annotations

import os
from collections import defaultdict
from pathlib import Path, PurePosixPath

import numpy
import torch

from advrbd_plugin.backdoorbench.cifar_writer import LAYOUTS, write_cifar
from advrbd_plugin.data.cifar import CIFAR10_NAMES
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.reading import Listing, read_listing
from advrbd_plugin.data.sources import Source, ZipSource
from advrbd_plugin.errors import AdvrBDError

FOLDER = LAYOUTS["cifar10"].folder
_TRAIN_BATCHES = len(LAYOUTS["cifar10"].parts["train"])


def write_cifar10(
    images: Path, data_root: Path, *, train: int, test: int, seed: int = 0, overwrite: bool = False
) -> None:
    """Write ``data_root/cifar-10-batches-py`` from ``images/train.zip`` and ``test.zip``, completely or not at all.

    Args:
        images: a folder with both archives, each with one folder of pictures per CIFAR-10 class; pictures of another
            size than 32x32 are resized.
        data_root: what BackdoorBench calls ``data/cifar10``.
        train, test: how many images to draw, the same number of every class.
        seed: which ones are drawn, and their order.
        overwrite: replace an existing ``cifar-10-batches-py``.

    Raises:
        AdvrBDError: the place is taken, or an archive is missing, damaged or holds too few pictures of a class.
        StorageError: the disk is full or the place cannot be written.
    """
    if train % (len(CIFAR10_NAMES) * _TRAIN_BATCHES) or test % len(CIFAR10_NAMES) or train <= 0 or test <= 0:
        raise AdvrBDError(f"--train must be a multiple of 50 and --test one of 10, got {train} and {test}")
    place = data_root / FOLDER
    if os.path.lexists(place) and not overwrite:
        raise AdvrBDError(f"{place} exists already: name another folder, or pass --overwrite to replace it")
    generator = numpy.random.default_rng(seed)
    parts = [_draw(images / f"{part}.zip", count, generator) for part, count in (("train", train), ("test", test))]
    write_cifar(data_root, "cifar10", *parts, overwrite=overwrite)


def _draw(archive: Path, count: int, generator: numpy.random.Generator) -> ImageSet:
    if not archive.is_file():
        raise AdvrBDError(f"{archive} does not exist; it should hold one folder of pictures for each class")
    with ZipSource(archive) as source:
        listing = _drawn(source, count // len(CIFAR10_NAMES), generator)
        loaded = read_listing(source, listing, image_size=(32, 32), must_be_complete=False)
    if loaded.left_out:
        path, reason = loaded.left_out[0]
        raise AdvrBDError(f"{archive}: {path} cannot be read: {reason}")
    return loaded.image_set


def _drawn(source: Source, each: int, generator: numpy.random.Generator) -> Listing:
    """``each`` pictures of every class, in the order that they are to have."""
    paths = defaultdict(list)
    for path in source.files:
        paths[PurePosixPath(path).parent.name].append(path)
    drawn: list[tuple[str, int]] = []
    for label, class_name in enumerate(CIFAR10_NAMES):
        found = paths[class_name]
        if len(found) < each:
            raise AdvrBDError(f"{source.root} holds {len(found)} pictures of {class_name}, not {each}")
        drawn += [(str(path), label) for path in generator.choice(found, each, replace=False)]
    order = generator.permutation(len(drawn))
    labels = torch.tensor([drawn[index][1] for index in order])
    return Listing([drawn[index][0] for index in order], labels, torch.arange(len(drawn)), CIFAR10_NAMES)
