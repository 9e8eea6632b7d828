"""MNIST as the toolbox's networks take it; with a checkout, test_with_checkout.py attacks and defends it."""

from __future__ import annotations

import types

import numpy
from PIL import Image

from advrbd_plugin.backdoorbench import additions
from advrbd_plugin.backdoorbench.mnist import InColour


class Digits:
    targets = numpy.array([7, 1])
    classes = ("7 - seven", "1 - one")

    def __len__(self):
        return 2

    def __getitem__(self, position):
        return Image.fromarray(numpy.full((28, 28), 100 + position, dtype=numpy.uint8)), int(self.targets[position])


def test_pictures_get_three_equal_channels_and_keep_their_labels():
    dataset = InColour(Digits())
    picture, label = dataset[1]
    assert (picture.mode, picture.size, label, len(dataset)) == ("RGB", (28, 28), 1, 2)
    assert picture.getpixel((3, 4)) == (101, 101, 101)
    assert dataset.targets == [7, 1] and dataset.classes == ["7 - seven", "1 - one"]


def test_the_toolboxs_functions_learn_it_and_keep_the_rest():
    def refuse(name):
        raise ValueError(name)

    module = types.SimpleNamespace(
        get_num_classes=lambda name: {"mnist": 10}[name],
        get_input_shape=refuse,
        get_dataset_normalization=refuse,
        dataset_and_transform_generate=lambda args: (Digits(), "train", None, Digits(), "test", None),
    )
    additions._extend_datasets(module)
    assert module.get_num_classes("mnist") == 10 and module.get_input_shape("mnist") == (32, 32, 3)
    assert len(module.get_dataset_normalization("mnist").mean) == 3
    parts = module.dataset_and_transform_generate(types.SimpleNamespace(dataset="mnist"))
    assert [type(part).__name__ for part in parts] == ["InColour", "str", "NoneType"] * 2
    others = module.dataset_and_transform_generate(types.SimpleNamespace(dataset="cifar10"))
    assert isinstance(others[0], Digits)
