"""A small CIFAR-10 in torchvision's on-disk layout, made from pictures in class folders."""

from __future__ import annotations

import pickle
import zipfile
from collections import defaultdict
from io import BytesIO
from pathlib import Path, PurePosixPath

import numpy
from PIL import Image

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_bytes

FOLDER = "cifar-10-batches-py"
CLASSES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
_TRAIN_BATCHES = 5


def write_cifar10(images: Path, data_root: Path, *, train: int, test: int, seed: int = 0) -> None:
    """Write ``data_root/cifar-10-batches-py`` from ``images/train.zip`` and ``images/test.zip``.

    Args:
        images: a folder with both archives, each with one folder of 32x32 pictures per CIFAR-10 class.
        data_root: what BackdoorBench calls ``data/cifar10``.
        train, test: how many images to draw, the same number of every class.
        seed: which ones are drawn, and their order.

    Raises:
        AdvrBDError: an archive is missing or holds too few pictures of a class.
    """
    if train % (len(CLASSES) * _TRAIN_BATCHES) or test % len(CLASSES) or train <= 0 or test <= 0:
        raise AdvrBDError(f"--train must be a multiple of 50 and --test one of 10, got {train} and {test}")
    generator = numpy.random.default_rng(seed)
    pixels, labels = _draw(images / "train.zip", train, generator)
    target = data_root / FOLDER
    share = train // _TRAIN_BATCHES
    for batch in range(_TRAIN_BATCHES):
        rows = slice(batch * share, (batch + 1) * share)
        _write_batch(target / f"data_batch_{batch + 1}", pixels[rows], labels[rows])
    _write_batch(target / "test_batch", *_draw(images / "test.zip", test, generator))
    write_bytes(target / "batches.meta", pickle.dumps({"label_names": list(CLASSES)}))


def _draw(archive: Path, count: int, generator: numpy.random.Generator) -> tuple[numpy.ndarray, numpy.ndarray]:
    if not archive.is_file():
        raise AdvrBDError(f"{archive} does not exist; it should hold one folder of pictures for each class")
    with zipfile.ZipFile(archive) as opened:
        names = defaultdict(list)
        for name in sorted(opened.namelist()):
            if not name.endswith("/"):
                names[PurePosixPath(name).parent.name].append(name)
        drawn: list[tuple[str, int]] = []
        each = count // len(CLASSES)
        for label, class_name in enumerate(CLASSES):
            if len(names[class_name]) < each:
                raise AdvrBDError(f"{archive} holds {len(names[class_name])} pictures of {class_name}, not {each}")
            drawn += [(str(name), label) for name in generator.choice(names[class_name], each, replace=False)]
        order = generator.permutation(len(drawn))
        pixels = numpy.stack([_pixels(opened.read(drawn[index][0])) for index in order])
    return pixels, numpy.array([drawn[index][1] for index in order])


def _pixels(content: bytes) -> numpy.ndarray:
    """(3072,) uint8 in CIFAR's order: the red plane, the green one, the blue one."""
    with Image.open(BytesIO(content)) as picture:
        return numpy.asarray(picture.convert("RGB").resize((32, 32))).transpose(2, 0, 1).reshape(-1)


def _write_batch(path: Path, pixels: numpy.ndarray, labels: numpy.ndarray) -> None:
    write_bytes(path, pickle.dumps({"data": pixels, "labels": labels.tolist()}))
