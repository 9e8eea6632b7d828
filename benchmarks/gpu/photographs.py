"""CIFAR-10's photographs from an archive of image files to one file of tensors, so that no training decodes them again.

    python benchmarks/gpu/photographs.py ARCHIVE.tar.xz --work FOLDER

The archive holds train/CLASS/NAME.jpg and test/CLASS/NAME.jpg. They are read as `advrbd` reads image folders: sample
ids derive from the paths, and so do the poisoned samples. A dry run makes an archive of its own.
"""

from __future__ import annotations

import argparse
import io
import shutil
import tarfile
import time
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image

from advrbd_plugin.data import ImageSet, load_dataset
from advrbd_plugin.data.cifar import CIFAR10_NAMES
from advrbd_plugin.errors import AdvrBDError

PARTS = ("train", "test")
_FILE = "photographs.safetensors"


def decode(archive: Path, work: Path, seconds: float) -> Path:
    """The file of tensors in ``work``; made unless it is there.

    Raises:
        AdvrBDError: there is no archive, or no photograph in it can be read.
        TimeoutError: unpacking alone took longer than ``seconds``.
    """
    from safetensors.torch import save_file

    place = work / _FILE
    if place.exists():
        return place
    if not archive.exists():
        raise AdvrBDError(f"{archive.name} is not there: bring it along and name it with --photographs")
    repack(archive, work / "zips", time.monotonic() + seconds)
    loaded = load_dataset("cifar10", work / "zips")
    tensors = {}
    for part, images in zip(PARTS, (each.image_set for each in loaded)):
        tensors |= {f"{part}.images": images.images, f"{part}.labels": images.labels, f"{part}.ids": images.sample_ids}
    beside = place.with_suffix(".part")
    save_file(tensors, beside, metadata={"classes": "\n".join(loaded[0].image_set.class_names)})
    beside.replace(place)
    shutil.rmtree(work / "zips")
    return place


def repack(archive: Path, folder: Path, ends: float) -> None:
    """Put the archive's pictures into train.zip and test.zip, in one pass over its compressed stream."""
    folder.mkdir(parents=True, exist_ok=True)
    zips = {part: zipfile.ZipFile(folder / f"{part}.zip", "w", zipfile.ZIP_STORED) for part in PARTS}
    try:
        with tarfile.open(archive, "r|*") as pictures:
            for member in pictures:
                part, _, name = member.name.removeprefix("./").partition("/")
                content = pictures.extractfile(member) if member.isfile() and part in zips else None
                if content is not None:
                    zips[part].writestr(f"{part}/{name}", content.read())
                if time.monotonic() > ends:
                    raise TimeoutError(f"{archive.name} is not unpacked in time")
    finally:
        for each in zips.values():
            each.close()


def load(place: Path) -> tuple[ImageSet, ImageSet]:
    """(train, test)"""
    from safetensors import safe_open

    with safe_open(place, framework="pt") as file:
        names = tuple(file.metadata()["classes"].split("\n"))
        parts = [[file.get_tensor(f"{part}.{field}") for field in ("images", "labels", "ids")] for part in PARTS]
    train, test = (ImageSet(images, labels, names, ids) for images, labels, ids in parts)
    return train, test


def make_archive(place: Path, *, train: int = 12, test: int = 4) -> None:
    """An archive of the same layout with a few made-up pictures of each class: a brightness and noise."""
    generator = np.random.default_rng(0)
    with tarfile.open(place, "w:xz", preset=0) as archive:
        for part, count in zip(PARTS, (train, test)):
            for label, name in enumerate(CIFAR10_NAMES):
                for number in range(count):
                    pixels = 20 * label + generator.integers(0, 60, (32, 32, 3))
                    picture = io.BytesIO()
                    Image.fromarray(pixels.astype(np.uint8)).save(picture, "JPEG", quality=90)
                    member = tarfile.TarInfo(f"{part}/{name}/{number:04}.jpg")
                    member.size = picture.tell()
                    archive.addfile(member, io.BytesIO(picture.getvalue()))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("archive", type=Path)
    parser.add_argument("--work", type=Path, required=True)
    parser.add_argument("--seconds", type=float, default=120.0)
    arguments = parser.parse_args()
    arguments.work.mkdir(parents=True, exist_ok=True)
    train, test = load(decode(arguments.archive, arguments.work, arguments.seconds))
    print(f"{len(train)} training and {len(test)} test photographs")


if __name__ == "__main__":
    main()
