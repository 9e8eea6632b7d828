"""The image set checks what it is given and keeps ids and paths with their images."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from advrbd_plugin.data import ImageSet, load_digits
from advrbd_plugin.data.selection import draw
from advrbd_plugin.errors import AdvrBDError

GOOD = {
    "images": torch.arange(4 * 3 * 2 * 2, dtype=torch.uint8).reshape(4, 3, 2, 2),
    "labels": torch.tensor([0, 1, 0, 1]),
    "class_names": ("cat", "dog"),
}


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"images": torch.zeros(4, 3, 2, 2)}, "images must be torch.uint8"),
        ({"images": torch.zeros(4, 2, 2, 2, dtype=torch.uint8)}, "images must have shape"),
        ({"labels": torch.tensor([0, 1, 2, 0])}, r"labels must be in \[0, 1\], got 2 for image 2"),
        ({"labels": torch.tensor([0, -1, 1, 0])}, r"got -1 for image 1"),
        ({"labels": torch.zeros(4)}, "labels must be int64"),
        ({"labels": torch.zeros(3, dtype=torch.int64)}, "labels must be int64 of shape"),
        ({"class_names": ("cat", "cat")}, "class_names must be distinct"),
        ({"sample_ids": torch.tensor([0, 1, 1, 2])}, "sample_ids must be distinct"),
        ({"sample_ids": torch.tensor([0, 1, -1, 2])}, "must not be negative"),
        ({"paths": ("a",)}, "paths must name all 4 images"),
        ({"labels": torch.zeros(4, dtype=torch.int64, device="meta")}, "labels must be on the CPU, got meta"),
    ],
)
def test_a_wrong_field_is_named(change, expected):
    with pytest.raises(AdvrBDError, match=expected):
        ImageSet(**(GOOD | change))


def test_subset_keeps_each_images_own_things():
    images = ImageSet(**GOOD, paths=("a", "b", "c", "d"))
    part = images.subset([3, 0])
    assert part.sample_ids.tolist() == [3, 0] and part.paths == ("d", "a") and part.labels.tolist() == [1, 0]
    assert torch.equal(part.images, GOOD["images"][[3, 0]])
    assert images.subset(images.labels == 1).sample_ids.tolist() == [1, 3]
    assert len(images.subset([])) == 0


def test_a_draw_depends_on_seed_purpose_and_id_alone():
    ids = torch.arange(1000)
    order = torch.randperm(1000, generator=torch.Generator().manual_seed(0))
    drawn = draw(ids, 100, seed=1, purpose="x").tolist()
    assert sorted(int(order[i]) for i in draw(ids[order], 100, seed=1, purpose="x")) == drawn == sorted(set(drawn))
    assert draw(ids, 100, seed=2, purpose="x").tolist() != drawn != draw(ids, 100, seed=1, purpose="y").tolist()
    assert sum(index < 500 for index in drawn) in range(30, 71)


def test_digits_split_into_two_parts_with_all_classes():
    train, test = load_digits()
    assert len(train) + len(test) == 1797 and train.images.shape[1:] == (1, 16, 16)
    assert not set(train.sample_ids.tolist()) & set(test.sample_ids.tolist())
    assert int(train.class_counts().min()) > 100 and int(test.class_counts().min()) > 40
    assert int(train.images.max()) == 255


def test_wrong_types_name_themselves():
    pictures = np.zeros((4, 8, 8, 3), np.uint8)
    labels = torch.tensor([0, 1, 0, 1])
    tensors = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
    for images, numbers, names, line in (
        (
            pictures,
            labels,
            ("a", "b"),
            r"images must be a tensor, got a ndarray.*ImageSet.from_numpy\(images, labels\)",
        ),
        ("photos", labels, ("a", "b"), r"got 'photos'.*ImageSet.from_folder"),
        (tensors, [0, 1, 0, 1], ("a", "b"), r"labels must be a tensor, got \[0, 1, 0, 1\].*from_numpy"),
        (tensors.float(), labels, ("a", "b"), r"images must be torch.uint8, got torch.float32: ImageSet.from_numpy"),
        (tensors, labels, "ab", "class_names must be names"),
        (tensors, labels, (0, 1), "class_names must be texts, got 0"),
        (tensors, labels, 2, "class_names must be names"),
    ):
        with pytest.raises(AdvrBDError, match=line):
            ImageSet(images, numbers, names)


@pytest.mark.parametrize("kind", ["uint8", "float", "torch", "int64"])
def test_from_numpy_takes_arrays_of_every_usual_kind(kind):
    pictures = np.arange(2 * 4 * 5 * 3, dtype=np.uint8).reshape(2, 4, 5, 3)
    given = {
        "uint8": pictures,
        "float": pictures / 255,
        "torch": torch.from_numpy(pictures).permute(0, 3, 1, 2) / 255,
        "int64": pictures.astype(np.int64),
    }[kind]
    images = ImageSet.from_numpy(given, [1, 0])
    assert images.images.dtype == torch.uint8 and np.array_equal(images.images.permute(0, 2, 3, 1), pictures)
    assert images.labels.tolist() == [1, 0] and images.class_names == ("0", "1")


def test_from_numpy_with_names_grey_pictures_and_another_size():
    images = ImageSet.from_numpy(np.full((3, 4, 8), 9, np.uint8), np.array(["dog", "cat", "dog"]), image_size=(8, 8))
    assert images.image_size == (8, 8) and images.num_channels == 1 and images.images.eq(9).all()
    assert images.class_names == ("cat", "dog") and images.labels.tolist() == [1, 0, 1]
    assert ImageSet.from_numpy(np.zeros((2, 4, 4)), [0.0, 2.0], ["a", "b", "c"]).labels.tolist() == [0, 2]


@pytest.mark.parametrize(
    ("images", "labels", "line"),
    [
        (np.zeros((2, 4, 4, 5), np.uint8), [0, 1], "must have the shape"),
        (np.full((2, 4, 4), 2.5) - 4, [0, 1], "got values from -1.5 to -1.5: undo their normalisation"),
        (np.full((2, 4, 4), 2.5), [0, 1], "whole numbers in"),
        (np.full((2, 4, 4), np.nan), [0, 1], "NaN"),
        (np.full((2, 4, 4), 300), [0, 1], "got values from 300 to 300"),
        ([np.zeros((4, 4)), np.zeros((5, 4))], [0, 1], "must be one array"),
        (np.array(["a.png", "b.png"]), [0, 1], "array of numbers"),
        (np.zeros((2, 4, 4)), [0, 1, 1], r"shape \(2,\), one for each picture, got \(3,\)"),
        (np.zeros((2, 4, 4)), np.eye(2), "argmax"),
        (np.zeros((2, 4, 4)), [0, -1], r"got -1 at position 1"),
        (np.zeros((2, 4, 4)), [0, 10**12], r"got 1000000000000 at position 1"),
        (np.zeros((2, 4, 4)), [0.5, 1], "whole numbers or names"),
        (np.zeros((0, 4, 4)), [], "must have the shape"),
    ],
)
def test_from_numpy_tells_what_does_not_fit(images, labels, line):
    with pytest.raises(AdvrBDError, match=line):
        ImageSet.from_numpy(images, labels)
    with pytest.raises(AdvrBDError, match=r"position 1\): the label 5 is out of range: it must be in \[0, 1\]"):
        ImageSet.from_numpy(np.zeros((2, 4, 4)), [0, 5], ["a", "b"])


class Pairs(torch.utils.data.Dataset):
    classes = ("ant", "bee", "cat")

    def __init__(self, pairs):
        self.pairs = pairs

    def __len__(self):
        return len(self.pairs)

    def __getitem__(self, place):
        return self.pairs[place]


def test_from_dataset_takes_pictures_of_every_kind_and_size():
    from PIL import Image

    pairs = [
        (Image.new("RGB", (100, 50), (10, 20, 30)), 0),
        (torch.full((3, 40, 80), 0.5), torch.tensor(2)),
        (np.full((30, 30), 7, np.uint8), np.int64(0)),
    ]
    images = ImageSet.from_dataset(Pairs(pairs), image_size=(16, 16))
    assert images.class_names == ("ant", "bee", "cat") and images.labels.tolist() == [0, 2, 0]
    assert images.images[0, :, 8, 8].tolist() == [10, 20, 30] and images.images[1].unique().tolist() == [128]
    assert images.images[2].unique().tolist() == [7]
    own = ImageSet.from_dataset([(picture, str(int(label))) for picture, label in pairs])
    assert own.image_size == (30, 30) and own.class_names == ("0", "2")
    assert ImageSet.from_dataset(iter(pairs[1:])).class_names == ("0", "1", "2")


@pytest.mark.parametrize(
    ("dataset", "line"),
    [
        (torch.utils.data.DataLoader([(torch.rand(3, 8, 8), 0)]), "is a DataLoader.*give loader.dataset"),
        ([], "holds no pictures"),
        (3, "must be a data set of"),
        ([torch.rand(3, 8, 8)], r"item 0, must be \(picture, label\), got a Tensor"),
        ([("a.png", 0)], "picture 0, must be a PIL picture"),
        ([(torch.randn(3, 8, 8) * 9, 0)], "picture 0 must be in .*normalisation"),
        ([(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 8), 1.5)], "item 1: the label must be a whole number or a name"),
        (Pairs([(torch.rand(3, 8, 8), 0), (torch.rand(3, 8, 8), 3)]), r"item 1: the label 3 is out of range.*\[0, 2\]"),
        (Pairs([(torch.rand(3, 8, 8), -1)]), "the label -1 is out of range"),
        (Pairs({0: (torch.rand(3, 8, 8), 1), 2: None}), "fails while it is read"),
    ],
)
def test_from_dataset_tells_what_does_not_fit(dataset, line):
    with pytest.raises(AdvrBDError, match=line):
        ImageSet.from_dataset(dataset)
