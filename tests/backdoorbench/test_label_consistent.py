"""The label-consistent attack's images: how far they may move, that they do, and what is said when they cannot."""

from __future__ import annotations

import argparse
import sys

import pytest
import torch
from torch.nn import functional

from advrbd_plugin.backdoorbench import label_consistent
from advrbd_plugin.backdoorbench.label_consistent import push_away, write_images
from advrbd_plugin.cli import main
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.models import make_model


def test_images_move_away_from_their_labels_within_epsilon():
    torch.manual_seed(0)
    model = make_model("resnet_narrow", num_classes=3, image_size=8).eval()
    images = torch.randint(0, 256, (5, 3, 8, 8), dtype=torch.uint8)
    labels = torch.tensor([0, 1, 2, 0, 1])
    pushed = push_away(model, images, labels, epsilon=8 / 255, step_size=2 / 255, steps=6, batch_size=2)
    assert pushed.shape == images.shape and pushed.dtype == torch.uint8
    assert 0 < (pushed.int() - images.int()).abs().max() <= 8
    with torch.no_grad():
        before, after = (functional.cross_entropy(model(part.float() / 255), labels) for part in (images, pushed))
    assert after > before


@pytest.mark.parametrize(
    "changes, said",
    [
        ({}, "holds no clean_model.pth: train a clean model first"),
        ({"steps": 0}, "--steps at least 1"),
        ({"epsilon": 2.0}, r"--epsilon and --step_size must be in \(0, 255\]"),
    ],
)
def test_mistakes(fake_checkout, changes, said):
    with pytest.raises(AdvrBDError, match=said):
        write_images(fake_checkout, "prototype", **changes)


def stop_at_the_weights(state, make):
    raise AdvrBDError("the weights were read")


@pytest.mark.parametrize("strange", ["info.pickle", "clean_model.pth"])
def test_a_record_of_another_type_is_read_when_it_is_trusted(fake_checkout, monkeypatch, capsys, strange):
    for name, changed in (("apply_patches_for_modules", lambda: None), ("wrap_state", stop_at_the_weights)):
        monkeypatch.setattr(label_consistent, name, changed)
    monkeypatch.setattr(label_consistent, "model_maker", lambda name, **options: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    monkeypatch.setattr(sys, "dont_write_bytecode", sys.dont_write_bytecode)
    folder = fake_checkout / "record/prototype"
    folder.mkdir(parents=True)
    settings = {"dataset": "cifar10", "dataset_path": ".", "model": "resnet18", "num_classes": 10, "img_size": (8, 8)}
    for name, content in (("info.pickle", settings), ("clean_model.pth", {})):
        stranger = {"stranger": argparse.Namespace()} if name == strange else {}
        torch.save(content | stranger, folder / name)
    command = ["backdoorbench", "label-consistent", "--backdoorbench", str(fake_checkout), "--any-version"]
    command += ["--result_file", "prototype"]
    for trusted, said in (([], f"{strange} holds argparse.Namespace"), (["--trust-record"], "the weights were read")):
        assert main([*command, *trusted]) == 2
        assert said in capsys.readouterr().err
