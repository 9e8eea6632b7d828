"""Where Tiny ImageNet, Imagenette and GTSRB keep their pictures and labels."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

import torch

from advrbd_plugin import limits
from advrbd_plugin.data.reading import Listing, path_ids
from advrbd_plugin.data.sources import DAMAGE, Source, points_outside
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief

TINY_IMAGENET = "tiny-imagenet-200"
GTSRB_CLASSES = 43
_MOST_TEXT_LINES = 1_000_000


def list_tiny_imagenet(source: Source, part: str) -> Listing:
    """``train/WNID/images/*.JPEG``, and ``val/images/*.JPEG`` with ``val/val_annotations.txt`` for the test part.

    The classes are the WordNet ids in sorted order. The archive's own ``test`` folder has no labels and is not used.
    """
    home = _home(source, "train")
    classes = _child_folders(source, f"{home}train/")
    if part == "train":
        return _listing(source, home, _in_class_folders(source, f"{home}train/"), classes)
    annotations = f"{home}val/val_annotations.txt"
    rows = [line.split("\t") for line in _lines(source, annotations)]
    if not all(len(row) >= 2 for row in rows):
        raise AdvrBDError(f"{source.root} ({annotations}) has a line that is no file name and class: unpack it again")
    _check_names(source, annotations, (row[0] for row in rows))
    return _listing(source, home, ((f"{home}val/images/{row[0]}", row[1]) for row in rows), classes)


def list_imagenette(source: Source, part: str) -> Listing:
    """``train/WNID/*.JPEG`` and ``val/WNID/*.JPEG``; the classes bear torchvision's names."""
    home = _home(source, "train")
    wnids = _child_folders(source, f"{home}train/")
    known = imagenette_names()
    unknown = sorted(set(wnids) - set(known))
    if unknown:
        raise AdvrBDError(f"{source.root} has the class folder {brief(unknown[0])}, which Imagenette has not")
    inside = _in_class_folders(source, f"{home}{'train' if part == 'train' else 'val'}/")
    return _listing(source, home, inside, wnids, [known[wnid] for wnid in wnids])


def imagenette_names() -> dict[str, str]:
    """WordNet id, which the folders bear -> torchvision's name of the class."""
    from torchvision.datasets import Imagenette

    return {wnid: names[0] for wnid, names in Imagenette._WNID_TO_CLASS.items()}


def list_gtsrb(source: Source, part: str) -> Listing:
    """``GTSRB/Training/000NN/*.ppm``, and ``GTSRB/Final_Test/Images/*.ppm`` with ``GT-final_test.csv``."""
    home = _home(source, "GTSRB")
    classes = gtsrb_names()
    if part == "train":
        found = _in_class_folders(source, f"{home}GTSRB/Training/")
        return _listing(source, home, ((path, label) for path, label in found if path.endswith(".ppm")), classes)
    table = f"{home}GT-final_test.csv"
    try:
        rows = list(csv.DictReader(_lines(source, table), delimiter=";", skipinitialspace=True))
        found = [(f"{home}GTSRB/Final_Test/Images/" + row["Filename"], f"{int(row['ClassId']):05d}") for row in rows]
    except (KeyError, TypeError, ValueError, csv.Error) as error:
        raise AdvrBDError(
            f"{source.root} ({table}) has no column Filename or no number in ClassId: take the table with the classes"
        ) from error
    _check_names(source, table, (row["Filename"] for row in rows))
    return _listing(source, home, found, classes)


def gtsrb_names() -> list[str]:
    """What the folders of the classes are called, in the order of the labels."""
    return [f"{label:05d}" for label in range(GTSRB_CLASSES)]


LISTINGS: dict[str, Callable[[Source, str], Listing]] = {
    "tiny_imagenet": list_tiny_imagenet,
    "imagenette": list_imagenette,
    "gtsrb": list_gtsrb,
}
"""Data set -> the files of its part ``train`` or ``test`` with their labels."""


def _listing(
    source: Source,
    home: str,
    found: Iterable[tuple[str, str]],
    classes: Sequence[str],
    class_names: Sequence[str] | None = None,
) -> Listing:
    """(path, class) pairs as a listing in the order of the paths."""
    pairs = sorted(found)
    label_of = {name: label for label, name in enumerate(classes)}
    for path, name in pairs:
        if name not in label_of:
            raise AdvrBDError(
                f"{source.root}: {brief(path)} is of the class {brief(name)}, which the training part has not"
            )
    missing = sorted(set(classes) - {name for _, name in pairs})
    if missing:
        raise AdvrBDError(f"{source.root} holds no image of the class {brief(missing[0])}: unpack the archive again")
    paths = [path for path, _ in pairs]
    twice = next((path for path, other in pairwise(paths) if path == other), None)
    if twice is not None:
        raise AdvrBDError(f"{source.root} names {brief(twice)} twice: unpack the archive again")
    return Listing(
        paths=paths,
        labels=torch.tensor([label_of[name] for _, name in pairs], dtype=torch.int64),
        sample_ids=path_ids([path[len(home) :] for path in paths]),
        class_names=tuple(class_names or classes),
    )


def _check_names(source: Source, table: str, names: Iterable[str]) -> None:
    """A table may come from anyone: it must not make us read files outside the data set."""
    outside = next((name for name in names if "\\" in name or points_outside(name)), None)
    if outside is not None:
        raise AdvrBDError(
            f"{source.root} ({table}) names a file outside the data set ({brief(outside)}): it is not to be trusted"
        )


def _home(source: Source, folder: str) -> str:
    """The path, ``""`` or ending in ``/``, that ``folder`` lies in: archives wrap everything in a folder or two."""
    homes = [path[: -len(folder)] for path in source.folders if path == folder or path.endswith(f"/{folder}")]
    if not homes:
        raise AdvrBDError(f"{source.root} holds no folder {folder}: unpack the original archive there")
    return min(homes, key=lambda path: (path.count("/"), path))


def _child_folders(source: Source, prefix: str) -> list[str]:
    return sorted({path[len(prefix) :].split("/")[0] for path in source.folders if path.startswith(prefix)} - {""})


def _in_class_folders(source: Source, prefix: str) -> list[tuple[str, str]]:
    """(path, class folder) of the pictures below the class folders; a class's own text files are passed over."""
    inside = [path for path in source.files if path.startswith(prefix) and "/" in path[len(prefix) :]]
    return [(path, path[len(prefix) :].split("/")[0]) for path in inside if not path.endswith((".txt", ".csv"))]


def _lines(source: Source, path: str) -> list[str]:
    try:
        if source.size(path) > limits.MAX_TABLE_BYTES:
            raise AdvrBDError(
                f"{source.root} ({path}) is larger than {limits.MAX_TABLE_BYTES // 2**20} MiB: no such table is"
            )
        lines = source.read(path).decode("utf-8").splitlines()[:_MOST_TEXT_LINES]
    except (OSError, ValueError, *DAMAGE, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {path}") from error
        raise AdvrBDError(f"{source.root} holds no readable {path}, which has the test labels") from error
    return [line for line in lines if line.strip()]
