"""Class folders are read back as the sets that they were written from; the readers are torchvision's where it has one.

tests/backdoorbench/test_data_layouts.py does the same with the toolbox's own readers, where there is a checkout.
"""

from __future__ import annotations

import csv
import errno
from dataclasses import replace

import pytest
import torch
from PIL import Image
from torchvision.datasets import ImageFolder, Imagenette
from torchvision.transforms.functional import pil_to_tensor

from advrbd_plugin.backdoorbench import clean_data, folder_writer
from advrbd_plugin.backdoorbench.additions import imagenette_part
from advrbd_plugin.backdoorbench.clean_data import order_read, write_clean_data
from advrbd_plugin.backdoorbench.folder_writer import write_folders
from advrbd_plugin.errors import AdvrBDError, StorageError

from .conftest import IMAGENETTE_WNIDS, IN_CLASS_FOLDERS, noise_set


def sorted_set(dataset, each, *, seed):
    images = noise_set(dataset, each, seed=seed)
    return images.subset(order_read(dataset, images.labels))


def read(dataset, root, part):
    """(images, labels) in the order of the toolbox: class by class, and in a class by name or by the list."""
    if dataset == "gtsrb":
        folders = [root / "Test"] if part == "test" else [root / "Train" / f"{label:05d}" for label in range(43)]
        found = []
        for folder in folders:
            table = folder / ("GT-final_test.csv" if part == "test" else f"GT-{folder.name}.csv")
            with table.open(newline="") as handle:
                rows = csv.DictReader(handle, delimiter=";")
                found += [(Image.open(folder / row["Filename"]), int(row["ClassId"])) for row in rows]
    else:
        part = {"train": "train", "test": "val"}[part]
        found = ImageFolder(root / "tiny-imagenet-200" / part) if dataset == "tiny" else imagenette_part(root, part)
    images, labels = zip(*(found[place] for place in range(len(found))), strict=True)
    return torch.stack([pil_to_tensor(image) for image in images]), torch.tensor(labels)


@pytest.mark.parametrize("dataset", IN_CLASS_FOLDERS)
def test_the_sets_are_read_back_in_their_order(tmp_path, dataset):
    sets = {"train": sorted_set(dataset, 3, seed=1), "test": sorted_set(dataset, 1, seed=2)}
    write_folders(tmp_path / "data", dataset, *sets.values())
    for part, images in sets.items():
        pixels, labels = read(dataset, tmp_path / "data", part)
        assert torch.equal(pixels, images.images) and torch.equal(labels, images.labels)
    assert [path.name for path in tmp_path.iterdir()] == ["data"]


def test_a_class_without_images(tmp_path):
    some = sorted_set("gtsrb", 1, seed=1).subset([3, 5, 42])
    write_folders(tmp_path / "gtsrb", "gtsrb", some, some)
    pixels, labels = read("gtsrb", tmp_path / "gtsrb", "train")
    assert torch.equal(pixels, some.images) and labels.tolist() == [3, 5, 42]
    whole = sorted_set("imagenette", 1, seed=1)
    with pytest.raises(AdvrBDError, match="test holds none of label 9"):
        write_folders(tmp_path / "imagenette", "imagenette", whole, whole.subset(range(9)))
    assert not (tmp_path / "imagenette").exists()


@pytest.mark.parametrize(
    "names",
    [
        [f"class {label:03d}" for label in range(200)],
        [f"class {label}" for label in range(200)],  # 10 stands before 2 in sorted order
        [f"{label:03d}/.." for label in range(200)],
    ],
)
def test_whatever_the_classes_are_called_their_labels_stay(tmp_path, names):
    images = replace(sorted_set("tiny", 1, seed=1), class_names=tuple(names))
    write_folders(tmp_path / "tiny", "tiny", images, images)
    pixels, labels = read("tiny", tmp_path / "tiny", "train")
    assert torch.equal(pixels, images.images) and torch.equal(labels, images.labels)
    classes = ImageFolder(tmp_path / "tiny/tiny-imagenet-200/train").classes
    assert (classes == names) == (names[0] == "class 000")


def test_imagenettes_classes_are_those_that_its_reader_names(tmp_path):
    images = sorted_set("imagenette", 1, seed=1)
    names = tuple(Imagenette._WNID_TO_CLASS[wnid][0] for wnid in IMAGENETTE_WNIDS)
    write_folders(tmp_path / "named", "imagenette", replace(images, class_names=names), images)
    assert imagenette_part(tmp_path / "named", "train").classes == list(names)
    with pytest.raises(AdvrBDError, match="must be called tench, .* parachute, or by their WordNet ids"):
        write_folders(tmp_path / "other", "imagenette", replace(images, class_names=tuple(sorted(names))), images)


def changed(**changes):
    return replace(sorted_set("gtsrb", 1, seed=1), **changes)


@pytest.mark.parametrize(
    "dataset, train, said",
    [
        ("mnist", changed(), "dataset must be one of gtsrb, tiny, imagenette, got 'mnist'"),
        ("gtsrb", changed(images=torch.zeros(43, 3, 64, 32, dtype=torch.uint8)), "are 3x32x32, got 3x64x32"),
        ("gtsrb", changed(images=torch.zeros(43, 1, 32, 32, dtype=torch.uint8)), "are 3x32x32, got 1x32x32"),
        ("gtsrb", changed(class_names=tuple(map(str, range(44)))), "has 43 classes, got 44"),
        ("gtsrb", changed(labels=torch.arange(43).flip(0)), "sort train by its labels"),
    ],
)
def test_sets_that_are_not_the_datasets_are_refused(tmp_path, dataset, train, said):
    with pytest.raises(AdvrBDError, match=said):
        write_folders(tmp_path / "data", dataset, train, changed())
    assert not list(tmp_path.iterdir())


def test_a_full_disk_leaves_nothing(tmp_path, monkeypatch):
    def full(path, image):
        path.parent.mkdir(parents=True, exist_ok=True)
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(folder_writer, "write_png", full)
    with pytest.raises(StorageError, match="is full: free some space"):
        write_folders(tmp_path / "data", "gtsrb", changed(), changed())
    assert not list(tmp_path.iterdir())


def test_of_two_processes_at_once_one_writes(tmp_path, monkeypatch):
    images = changed()
    first = write_clean_data(tmp_path, "gtsrb", images, images)

    def slower(root, dataset, train, test):
        """Finds the place free, and taken once it is done."""
        assert not root.exists()
        write_folders(root, dataset, train, test)
        write_folders(root, dataset, train, test)

    (tmp_path / first).rename(tmp_path / "away")
    monkeypatch.setattr(clean_data, "write_folders", slower)
    assert write_clean_data(tmp_path, "gtsrb", images, images) == first
    assert len(list((tmp_path / "data/advrbd").iterdir())) == 1
    assert torch.equal(read("gtsrb", tmp_path / first, "train")[0], images.images)
