"""Images in the folders of GTSRB, Tiny ImageNet and Imagenette, as BackdoorBench and torchvision read them.

    gtsrb       Train/00007/00000012.png, listed in Train/00007/GT-00007.csv; Test/, listed in GT-final_test.csv
    tiny        tiny-imagenet-200/train/CLASS/00000012.png, and val in the same way
    imagenette  imagenette2-160/train/WNID/00000012.JPEG, and val in the same way

The readers go class by class, and within a class by file name or by its list. So the sets must be in the order of their
labels, and files are numbered by position: then the order of reading is the order of the sets.
"""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from advrbd_plugin.backdoorbench.pictures import write_png
from advrbd_plugin.data.datasets import DATASETS
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.listings import GTSRB_CLASSES, TINY_IMAGENET
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import workspace_for, write_text

_GTSRB_COLUMNS = ("Filename", "Width", "Height", "Roi.X1", "Roi.Y1", "Roi.X2", "Roi.Y2", "ClassId")


@dataclass(frozen=True)
class FolderLayout:
    """Attributes:
    num_classes: of the toolbox's networks.
    image_size: (height, width) of its training images.
    needs_every_class: whether the reader fails where a class has no image.
    write: writes (root, train, test) as files.
    """

    num_classes: int
    image_size: tuple[int, int]
    needs_every_class: bool
    write: Callable[[Path, ImageSet, ImageSet], None]


def write_folders(root: Path, dataset: str, train: ImageSet, test: ImageSet) -> None:
    """Write both parts as the new folder ``root``, in the sets' order, completely or not at all.

    Args:
        root: must not exist, or be an empty folder.
        dataset: a key of :data:`FOLDER_LAYOUTS`.
        train, test: RGB images of the dataset's size, labels ascending.

    Raises:
        AdvrBDError: the dataset is another one, or its folders cannot hold the sets: other sizes, classes or class
            names, labels in another order, a class without an image where the reader needs one.
        StorageError: the disk is full, or ``root`` is not empty or cannot be written.
    """
    if dataset not in FOLDER_LAYOUTS:
        raise AdvrBDError(f"dataset must be one of {', '.join(FOLDER_LAYOUTS)}, got {dataset!r}")
    layout = FOLDER_LAYOUTS[dataset]
    for name, images in (("train", train), ("test", test)):
        _check(dataset, layout, name, images)
    with workspace_for(root) as workspace:
        part = workspace / root.name
        layout.write(part, train, test)
        os.sync()  # all pictures must be on disk before the folder appears; syncing one by one takes minutes
        os.replace(part, root)


def _check(dataset: str, layout: FolderLayout, part: str, images: ImageSet) -> None:
    shape, wanted = tuple(images.images.shape[1:]), (3, *layout.image_size)
    if shape != wanted:
        raise AdvrBDError(f"{dataset}'s images are {_times(wanted)}, got {_times(shape)} ({part})")
    if images.num_classes != layout.num_classes:
        raise AdvrBDError(f"{dataset} has {layout.num_classes} classes, got {images.num_classes} ({part})")
    if bool((images.labels.diff() < 0).any()):
        raise AdvrBDError(f"{dataset} is read class by class: sort {part} by its labels")
    absent = (images.class_counts() == 0).nonzero().flatten().tolist()
    if absent and layout.needs_every_class:
        raise AdvrBDError(
            f"{dataset} cannot be read with a class that has no image: {part} holds none of label {absent[0]} "
            f"({images.class_names[absent[0]]})"
        )


def _times(shape: Sequence[int]) -> str:
    return "x".join(map(str, shape))


def _write_gtsrb(root: Path, train: ImageSet, test: ImageSet) -> None:
    for label in range(train.num_classes):  # the reader opens the list of every class, even of an empty one
        name = f"{label:05d}"
        _write_list(root / "Train" / name, f"GT-{name}.csv", train.subset(train.labels == label))
    _write_list(root / "Test", "GT-final_test.csv", test)


def _write_list(folder: Path, table: str, images: ImageSet) -> None:
    """Write the images and their list; the region of interest is the whole image."""
    height, width = images.image_size
    text = io.StringIO()
    lines = csv.writer(text, delimiter=";", lineterminator="\n")
    lines.writerow(_GTSRB_COLUMNS)
    for place, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        write_png(folder / _file_name(place), image)
        lines.writerow([_file_name(place), width, height, 0, 0, width - 1, height - 1, label])
    write_text(folder / table, text.getvalue())


def _write_tiny(root: Path, train: ImageSet, test: ImageSet) -> None:
    folders = _sortable(train.class_names)
    for part, images in (("train", train), ("val", test)):
        _write_classes(root / TINY_IMAGENET / part, folders, images)


def _write_imagenette(root: Path, train: ImageSet, test: ImageSet) -> None:
    from torchvision.datasets import Imagenette

    known = Imagenette._WNID_TO_CLASS
    wnids = tuple(sorted(known))
    names = tuple(known[wnid][0] for wnid in wnids)
    if train.class_names not in (wnids, names):  # the reader always gives these names
        raise AdvrBDError(
            f"imagenette's classes must be called {', '.join(names)}, or by their WordNet ids, in this order; got "
            f"{', '.join(train.class_names)}"
        )
    for part, images in (("train", train), ("val", test)):
        # torchvision reads files named .JPEG alone; Pillow goes by their content, which is PNG.
        _write_classes(root / "imagenette2-160" / part, wnids, images, suffix=".JPEG")


def _write_classes(folder: Path, classes: Sequence[str], images: ImageSet, suffix: str = ".png") -> None:
    for place, (image, label) in enumerate(zip(images.images, images.labels.tolist(), strict=True)):
        write_png(folder / classes[label] / _file_name(place, suffix), image)


def _file_name(place: int, suffix: str = ".png") -> str:
    return f"{place:08d}{suffix}"  # enough digits that names sort by position


def _sortable(class_names: Sequence[str]) -> list[str]:
    """A folder name for each class, in sorted order, as the reader numbers them: the class names if they sort so."""
    if list(class_names) == sorted(class_names) and all(re.fullmatch(r"\w[\w .-]*", name) for name in class_names):
        return list(class_names)
    return [f"{label:03d}" for label in range(len(class_names))]


FOLDER_LAYOUTS: dict[str, FolderLayout] = {
    "gtsrb": FolderLayout(GTSRB_CLASSES, DATASETS["gtsrb"].image_size, False, _write_gtsrb),
    "tiny": FolderLayout(200, DATASETS["tiny_imagenet"].image_size, True, _write_tiny),
    "imagenette": FolderLayout(10, DATASETS["imagenette"].image_size, True, _write_imagenette),
}
"""Dataset, as the toolbox names it -> layout of its folders."""
