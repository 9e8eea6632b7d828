"""The image set checks what it is given and keeps ids and paths with their images."""

from __future__ import annotations

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
