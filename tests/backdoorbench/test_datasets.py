"""From the toolbox's samples to an ImageSet: what AdvrBD sees and what only the report does."""

from __future__ import annotations

from types import SimpleNamespace

import torch
from PIL import Image

from advrbd_plugin.backdoorbench.datasets import test_sets as split_test_sets
from advrbd_plugin.backdoorbench.datasets import training_set


class Samples(list):
    """Stands for ``prepro_cls_DatasetBD_v2``: (image, label, original index, poisoned, original label)."""

    classes = ("a", "b", "c")


def samples(truth, *, mode="RGB", size=(4, 4)):
    indices = (5, 0, 2)
    return Samples(
        (Image.new(mode, size, 10 * index), index % 3, index, poisoned, original)
        for index, (poisoned, original) in zip(indices, truth, strict=True)
    )


def result(train, classes=("a", "b", "c")):
    return {
        "bd_train": SimpleNamespace(wrapped_dataset=train),
        "clean_train": SimpleNamespace(wrapped_dataset=SimpleNamespace(classes=classes)),
    }


def record(channels=3, num_classes=3):
    return SimpleNamespace(img_size=(4, 4, channels), num_classes=num_classes)


def test_the_training_set_does_not_depend_on_the_truth():
    first, first_truth = training_set(result(samples([(1, 0), (0, 0), (0, 2)])), record())
    second, second_truth = training_set(result(samples([(0, 2), (1, 1), (1, 0)])), record())
    assert torch.equal(first.images, second.images) and torch.equal(first.labels, second.labels)
    assert torch.equal(first.sample_ids, second.sample_ids)
    assert first_truth.poisoned.tolist() == [True, False, False]
    assert second_truth.poisoned.tolist() == [False, True, True]
    assert second_truth.original_labels.tolist() == [2, 1, 0]


def test_samples_keep_their_original_index_and_pixels():
    images, _ = training_set(result(samples([(0, 2), (0, 0), (0, 2)])), record())
    assert images.sample_ids.tolist() == [5, 0, 2] and images.labels.tolist() == [2, 0, 2]
    assert images.images.shape == (3, 3, 4, 4) and images.images[0, 0, 0, 0] == 50
    assert images.class_names == ("a", "b", "c")


def test_images_get_the_toolboxs_size_and_channels():
    images, _ = training_set(result(samples([(0, 2), (0, 0), (0, 2)], mode="L", size=(9, 7))), record(channels=1))
    assert images.images.shape == (3, 1, 4, 4) and images.images[2].unique().tolist() == [20]


def test_classes_without_names_are_numbered():
    images, _ = training_set(result(samples([(0, 2), (0, 0), (0, 2)]), classes=None), record(num_classes=4))
    assert images.class_names == ("0", "1", "2", "3")


def test_test_sets():
    clean = [(Image.new("RGB", (4, 4)), 2), (Image.new("RGB", (4, 4)), 1)]
    tests = split_test_sets(
        {
            "clean_test": SimpleNamespace(wrapped_dataset=clean),
            "bd_test": SimpleNamespace(wrapped_dataset=samples([(1, 1), (1, 2), (1, 0)])),
        },
        record(),
    )
    assert tests.clean_labels.tolist() == [2, 1]
    assert tests.attack_labels.tolist() == [2, 0, 2] and tests.original_labels.tolist() == [1, 2, 0]
