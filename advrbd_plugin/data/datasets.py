"""The data sets that research compares on, by name, from wherever they lie on the disk. Nothing is downloaded."""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

import torch

from advrbd_plugin.data.cifar import CIFAR10, CIFAR10_NAMES, CIFAR100, load_cifar
from advrbd_plugin.data.fitting import DEFAULT_FIT
from advrbd_plugin.data.folder import class_folders, is_picture, load_folder
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.listings import GTSRB_CLASSES, LISTINGS, TINY_IMAGENET, gtsrb_names, imagenette_names
from advrbd_plugin.data.originals import hand_over
from advrbd_plugin.data.reading import Listing, LoadedImages, Visit, read_listing
from advrbd_plugin.data.sources import is_junk, open_source
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief

_Labelled = TypeVar("_Labelled", ImageSet, Listing)


@dataclass(frozen=True)
class Dataset:
    """Attributes:
    title: as papers write it.
    num_classes: how many classes the whole data set has.
    image_size: (height, width) that pictures are brought to unless a size is asked for.
    folders: names under which archives unpack; the first that is there is read.
    marker: what such a folder must hold, so that no other of that name is taken for it.
    layout: what must be on the disk, in words.
    """

    title: str
    num_classes: int
    image_size: tuple[int, int]
    folders: tuple[str, ...]
    marker: str
    layout: str


DATASETS: dict[str, Dataset] = {
    "cifar10": Dataset("CIFAR10", 10, (32, 32), (CIFAR10.folder,), CIFAR10.meta, f"{CIFAR10.folder}/ with its files"),
    "cifar100": Dataset(
        "CIFAR100", 100, (32, 32), (CIFAR100.folder,), CIFAR100.meta, f"{CIFAR100.folder}/ with its files"
    ),
    "tiny_imagenet": Dataset(
        "TinyImageNet", 200, (64, 64), (TINY_IMAGENET,), "val", f"{TINY_IMAGENET}/ with train and val"
    ),
    "imagenette": Dataset(
        "Imagenette",
        10,
        (128, 128),
        ("imagenette2-160", "imagenette2-320", "imagenette2"),
        "val",
        "imagenette2-160/ (or -320) with train and val",
    ),
    "gtsrb": Dataset(
        "GTSRB",
        GTSRB_CLASSES,
        (32, 32),
        ("gtsrb",),
        "GTSRB",
        "gtsrb/ with GTSRB/Training, GTSRB/Final_Test, GT-final_test.csv",
    ),
}
"""Name -> what is known of the data set."""

PARTS = ("train", "test")
_FOLDER_NAMES = {"train": ("train",), "test": ("test", "val")}


def load_dataset(
    name: str,
    root: str | os.PathLike[str],
    *,
    samples: int | None = None,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
) -> tuple[LoadedImages, LoadedImages]:
    """(train, test) of a data set: in its original layout, or as image folders or zips ``train`` and ``test``.

    Args:
        name: a key of :data:`DATASETS`.
        root: the folder that holds it, or that holds a folder called ``name`` with it.
        samples: how many training images to take, each class in proportion, drawn by (seed, sample id).
        seed: for that draw.
        image_size: (height, width) of all; the data set's own by default. CIFAR's pictures have one size alone.

    Raises:
        AdvrBDError: no such data set, nothing there, what is there cannot be read, or is of another data set, as the
            names or the number of the image folders tell.
    """
    if name not in DATASETS:
        raise AdvrBDError(f"dataset must be one of {', '.join(DATASETS)}, got {name!r}")
    found = find_dataset(name, root)
    if found is None:
        raise AdvrBDError(
            f"{name} is not in {root}: put there {DATASETS[name].layout}, or image folders (or zips) train and test"
        )
    size = image_size or DATASETS[name].image_size
    # Squeezed, as BackdoorBench and the papers resize.
    train = found.load("train", samples=samples, seed=seed, image_size=size, fit="squeeze")
    return train, found.load("test", image_size=size, fit="squeeze", class_names=train.image_set.class_names)


@dataclass(frozen=True)
class FoundDataset:
    """Attributes:
    load: from a part and the options of :func:`load_folder` to its images; the classes are matched by name with
        ``class_names`` in any layout.
    zips: the files that are read, where they are zips.
    homes: what was found, the first being read.
    """

    load: Callable[..., LoadedImages]
    zips: tuple[Path, ...] = ()
    homes: tuple[Path, ...] = ()


def find_dataset(name: str, root: str | os.PathLike[str]) -> FoundDataset | None:
    """Where the data set called ``name`` lies below ``root``; ``None`` if it does not."""
    for place in (Path(root) / name, Path(root)):
        original = _find_original(name, place)
        if original is not None:
            return original
        found = {part: _part_of_folders(place, part) for part in PARTS}
        parts = {part: path for part, path in found.items() if path is not None}
        if len(parts) == len(found):
            zips = tuple(part for part in parts.values() if part.is_file())
            return FoundDataset(partial(_load_part, name, parts), zips if len(zips) == len(parts) else ())
    return None


def recognise(path: str | os.PathLike[str]) -> FoundDataset | None:
    """The data set that lies in (or is) a folder in its original layout; ``None`` for anything else.

    A zip of a data set beside folders of pictures is not the folder's content: those are.

    Raises:
        AdvrBDError: the folder holds several data sets, or one beside folders of pictures.
    """
    place = Path(path)
    found = {name: each for name in DATASETS if (each := _find_original(name, place)) is not None}
    if not found:
        return None
    name, first = next(iter(found.items()))
    home = first.homes[0]
    if home == place:
        return first
    if len(found) > 1:
        raise AdvrBDError(f"{place} holds the data sets {' and '.join(found)}: give the folder of one, such as {home}")
    beside = _folders_of_pictures(place, first.homes)
    if not beside:
        return first
    if home.is_file():
        return None
    raise AdvrBDError(
        f"{place} holds {home.name}, which is {name}, beside the folder {brief(beside)} with pictures: "
        f"give {home}, or move it away"
    )


def _folders_of_pictures(place: Path, homes: tuple[Path, ...]) -> str | None:
    """The first folder in ``place`` beside ``homes`` that has a picture in it or in its sub-folders; no deeper look."""
    try:
        for child in sorted(each for each in place.iterdir() if each.is_dir() and each not in homes):
            if is_junk(child.name):
                continue
            for folder in (child, *islice((each for each in child.iterdir() if each.is_dir()), 100)):
                if any(is_picture(file.name, named=True) for file in islice(folder.iterdir(), 1000)):
                    return child.name
    except OSError as error:
        raise AdvrBDError(f"cannot read the folder {error.filename or place}: {error.strerror}") from error
    return None


def _find_original(name: str, place: Path) -> FoundDataset | None:
    homes = []
    for folder in DATASETS[name].folders:
        archive = [place / f"{folder}.zip"] if name in LISTINGS else []
        for home in (place / folder, *archive, *([place] if place.name == folder else [])):
            if home.is_file() or (home / DATASETS[name].marker).exists():
                homes.append(home)
    if not homes:
        return None
    home = homes[0]
    # An archive beside the folder that it was unpacked to holds the same; another size of the set does not.
    others = [other for other in homes[1:] if other.name.removesuffix(".zip") != home.name.removesuffix(".zip")]
    notes = tuple(f"{home.name} is read; {other.name} beside it is not." for other in others)
    return FoundDataset(partial(_load_original, name, home, notes), (home,) if home.is_file() else (), tuple(homes))


def _load_part(name: str, parts: dict[str, Path], part: str, **options: Any) -> LoadedImages:
    if part == "train":
        _check_identity(name, parts[part])
    return load_folder(parts[part], **options)


def _check_identity(name: str, path: Path) -> None:
    """Image folders say only by their classes which data set they are; a part of a data set bears its names."""
    found = set(class_folders(path))
    if found <= _known_folders(name):
        return
    other = next((other for other in DATASETS if found <= _known_folders(other)), None)
    expected = DATASETS[name].num_classes
    if other is not None or len(found) != expected:
        of_other = "" if other is None else f" of {other}"
        raise AdvrBDError(
            f"{path} holds {len(found)} classes{of_other}, not the {expected} of {name}: give the folder of {name}"
        )


def _known_folders(name: str) -> set[str]:
    """What the class folders of a data set may be called; nothing where only the data set itself says it."""
    if name == "cifar10":
        return set(CIFAR10_NAMES)
    if name == "gtsrb":
        return set(gtsrb_names())
    return {word for pair in imagenette_names().items() for word in pair} if name == "imagenette" else set()


def _part_of_folders(place: Path, part: str) -> Path | None:
    names = [f"{name}{suffix}" for name in _FOLDER_NAMES[part] for suffix in ("", ".zip")]
    return next((place / name for name in names if (place / name).exists()), None)


def _load_original(
    name: str,
    home: Path,
    notes: tuple[str, ...],
    part: str,
    *,
    samples: int | None = None,
    seed: int = 0,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
    class_names: tuple[str, ...] | None = None,
    on_progress: Callable[[int, int], None] | None = None,
    visit: Visit | None = None,
) -> LoadedImages:
    """One part in the layout of the archive; its own classes are those of ``class_names``, or some of them.

    ``notes`` come before those on the reading.
    """
    if name in ("cifar10", "cifar100"):
        layout = CIFAR10 if name == "cifar10" else CIFAR100
        if image_size not in (None, (32, 32)):
            raise AdvrBDError(f"{name} has images of 32x32 alone, got image_size {image_size[0]}x{image_size[1]}")
        loaded = load_cifar(home.parent, layout, part, samples=samples, seed=seed)
        if visit is not None:
            return hand_over(visit, str(home), loaded.image_set)
        return replace(loaded, image_set=_with_classes(loaded.image_set, class_names, home), notes=notes + loaded.notes)
    with open_source(home) as source:
        own = LISTINGS[name](source, part)
        return read_listing(
            source,
            replace(_with_classes(own, class_names, home), notes=notes + own.notes),
            image_size=image_size,
            fit=fit,
            samples=samples,
            seed=seed,
            on_progress=on_progress,
            must_be_complete=len(class_names or ()) <= len(own.class_names),  # a model may know more classes
            visit=visit,
        )


def _with_classes(labelled: _Labelled, class_names: Sequence[str] | None, where: Path) -> _Labelled:
    """The same with the labels that a model gives the classes, which are matched by name."""
    if class_names is None:
        return labelled
    unknown = [name for name in labelled.class_names if name not in class_names]
    if unknown:
        raise AdvrBDError(
            f"{where} has the class {brief(unknown[0])}, which the model does not know: "
            f"it knows {', '.join(name[:80] for name in class_names[:20])}"
        )
    label_of = torch.tensor([class_names.index(name) for name in labelled.class_names], dtype=torch.int64)
    return replace(labelled, labels=label_of[labelled.labels], class_names=tuple(class_names))
