"""Records that are written here are read back as they were, and mean to the toolbox what they mean here."""

from __future__ import annotations

import copy
import errno
import os
import shutil
import time

import pytest
import torch
from torchvision.datasets import CIFAR10

from advrbd_plugin.attacks import no_attack
from advrbd_plugin.backdoorbench import record_writer, safe_pickle
from advrbd_plugin.backdoorbench.classifiers import NORMALIZATION
from advrbd_plugin.backdoorbench.compat import use_local_data
from advrbd_plugin.backdoorbench.networks import NETWORKS, make_network, to_toolbox, toolbox_name
from advrbd_plugin.backdoorbench.record import read_record
from advrbd_plugin.backdoorbench.record_writer import write_record
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError, StorageError
from advrbd_plugin.nn.models import make_model

from .conftest import IN_CLASS_FOLDERS, parts_of, record_parts

NAMES = ("airplane", "car", "bird")


def images(count, *, seed, size=32):
    generator = torch.Generator().manual_seed(seed)
    pixels = torch.randint(0, 256, (count, 3, size, size), generator=generator, dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % len(NAMES), NAMES, torch.arange(count) * 7 + 3)


@pytest.fixture
def parts():
    model = make_model("resnet_narrow", num_classes=3, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).eval()
    return parts_of(images(40, seed=1), images(12, seed=2), model, "cifar10")


def stored_pixels(state, place):
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(Image.open(state["bd_data_container"]["data_dict"][place]["path"]))


def test_a_record_is_read_back(tmp_path, parts):
    folder = write_record(tmp_path, "blend", **parts)
    assert folder == tmp_path / "record/blend"
    record = read_record(folder)
    poisoned = parts["poisoned"]
    assert (record.model_name, record.num_classes, record.img_size) == ("resnet_narrow", 3, (32, 32, 3))
    assert record.clean_data == "cifar10" and record.data_path.startswith("./data/")
    changed = poisoned.poisoned | poisoned.covers
    assert torch.equal(torch.from_numpy(record.bd_train["poison_indicator"]).bool(), changed)
    assert int(poisoned.poisoned.sum()) == 4 and int(poisoned.covers.sum()) == 2
    for place in changed.nonzero().flatten().tolist():
        entry = record.bd_train["bd_data_container"]["data_dict"][place]
        true = int(parts["clean_train"].labels[place])
        assert entry["other_info"] == [1 if poisoned.poisoned[place] else true, true]
        assert torch.equal(stored_pixels(record.bd_train, place), poisoned.image_set.images[place])
    triggered = parts["triggered_test"]
    places = (parts["clean_test"].labels != 1).nonzero().flatten()
    assert record.bd_test["original_index_array"].tolist() == places.tolist()
    for row, place in enumerate(places.tolist()):
        entry = record.bd_test["bd_data_container"]["data_dict"][place]
        assert entry["other_info"] == [1, int(triggered.labels[row])]
        assert torch.equal(stored_pixels(record.bd_test, place), triggered.images[row])


def test_the_clean_images_lie_where_torchvision_finds_them(tmp_path, parts, monkeypatch):
    from torchvision.datasets import cifar

    monkeypatch.setattr(cifar, "pickle", cifar.pickle)
    monkeypatch.setattr(cifar, "check_integrity", cifar.check_integrity)
    use_local_data()
    record = read_record(write_record(tmp_path, "blend", **parts))
    for train, clean in ((True, parts["clean_train"]), (False, parts["clean_test"])):
        found = CIFAR10(tmp_path / record.data_path, train=train)
        assert torch.equal(torch.from_numpy(found.data).permute(0, 3, 1, 2), clean.images)
        assert found.targets == clean.labels.tolist() and found.classes == list(NAMES)
    write_record(tmp_path, "again", **parts)
    assert len(list((tmp_path / "data/advrbd").iterdir())) == 1  # one copy serves both


@pytest.mark.parametrize("dataset", IN_CLASS_FOLDERS)
def test_a_record_follows_the_order_in_which_class_folders_are_read(tmp_path, dataset):
    parts = record_parts(dataset)
    record = read_record(write_record(tmp_path, "blend", **parts))
    clean, poisoned, test = parts["clean_train"], parts["poisoned"], parts["clean_test"]
    order = clean.labels.argsort(stable=True)
    assert not torch.equal(order, torch.arange(len(order)))
    changed = poisoned.poisoned | poisoned.covers
    assert torch.equal(torch.from_numpy(record.bd_train["poison_indicator"]).bool(), changed[order])
    assert record.bd_train["original_index_array"].tolist() == list(range(len(clean)))
    for place in changed[order].nonzero().flatten().tolist():
        at = int(order[place])
        entry = record.bd_train["bd_data_container"]["data_dict"][place]
        assert entry["other_info"] == [int(poisoned.image_set.labels[at]), int(clean.labels[at])]
        assert torch.equal(stored_pixels(record.bd_train, place), poisoned.image_set.images[at])
    order = test.labels.argsort(stable=True)
    triggered = parts["triggered_test"]
    for row, place in enumerate(record.bd_test["original_index_array"].tolist()):
        assert triggered.sample_ids[row] == test.sample_ids[order[place]]
        assert torch.equal(stored_pixels(record.bd_test, place), triggered.images[row])


def test_with_a_data_path_a_record_keeps_the_order_of_its_sets(tmp_path):
    parts = record_parts("gtsrb")
    record = read_record(write_record(tmp_path, "blend", data_path="./data/gtsrb", **parts))
    changed = parts["poisoned"].poisoned | parts["poisoned"].covers
    assert torch.equal(torch.from_numpy(record.bd_train["poison_indicator"]).bool(), changed)
    assert not (tmp_path / "data").exists()


def test_what_a_killed_process_left_is_removed_after_an_hour(tmp_path, parts):
    left = {
        ".blend-abc_1234": 3700,  # of this record, old
        ".blend-abc_9999": 60,  # of a process that may be at work
        ".blend-2-abc_1234": 3700,  # of another record
    }
    for name, age in left.items():
        (tmp_path / "record" / name / "blend").mkdir(parents=True)
        os.utime(tmp_path / "record" / name, (time.time() - age, time.time() - age))
    write_record(tmp_path, "blend", **parts)
    names = {path.name for path in (tmp_path / "record").iterdir()}
    assert names == {"blend", ".blend-abc_9999", ".blend-2-abc_1234"}


def test_a_full_disk_is_one_line(tmp_path, parts, monkeypatch):
    def full(path, image):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(record_writer, "write_png", full)
    with pytest.raises(StorageError, match="is full: free some space"):
        write_record(tmp_path, "blend", **parts)
    assert not list((tmp_path / "record").iterdir())


@pytest.mark.parametrize("name", ["resnet_narrow", "preactresnet18_cifar", "mobilenet_v2_cifar", "resnet18_imagenet"])
def test_a_model_answers_to_normalised_images_as_to_pixels(name):
    base, size = NETWORKS[name]
    torch.manual_seed(0)
    model = make_model(base, num_classes=4, image_size=size, mean=(0.4, 0.5, 0.6), std=(0.2, 0.3, 0.4)).eval()
    assert toolbox_name(base, size) == name
    mean, std = NORMALIZATION["cifar10"]
    network = make_network(name, 4).eval()
    network.load_state_dict(to_toolbox(model, name, num_classes=4, mean=mean, std=std))
    pixels = torch.rand(2, 3, 64, 64)
    normalised = (pixels - torch.tensor(mean).view(3, 1, 1)) / torch.tensor(std).view(3, 1, 1)
    with torch.no_grad():
        torch.testing.assert_close(network(normalised), model(pixels), rtol=1e-4, atol=1e-4)


def test_a_new_network_takes_normalised_images_as_they_are():
    network = make_network("resnet_narrow", 4)
    assert list(dict(network.named_children()))[-1] == "fc" and "layer4" in dict(network.named_children())
    assert torch.equal(network.conv1[0](torch.ones(1, 3, 4, 4)), torch.ones(1, 3, 4, 4))


def test_a_network_on_the_cpu_works_in_the_layout_that_is_fast_there():
    network = copy.deepcopy(make_network("resnet_narrow", 4))
    features = []
    network.layer4.register_forward_hook(lambda module, inputs, output: features.append(output))
    network(torch.rand(2, 3, 32, 32)).sum().backward()
    assert features[0].is_contiguous(memory_format=torch.channels_last)
    assert all(weight.is_contiguous() for weight in network.parameters())


def test_names_that_are_taken(tmp_path, parts):
    write_record(tmp_path, "blend", **parts)
    with pytest.raises(AdvrBDError, match="exists already"):
        write_record(tmp_path, "blend", **parts)
    (tmp_path / "record/blend/left_over").write_text("old")
    write_record(tmp_path, "blend", overwrite=True, **parts)
    assert not (tmp_path / "record/blend/left_over").exists()
    for _ in range(2):
        write_record(tmp_path, "old", overwrite=True, **parts)
    shutil.rmtree(tmp_path / "record/old")
    (tmp_path / "record/notes").mkdir()
    with pytest.raises(AdvrBDError, match="it is no record"):
        write_record(tmp_path, "notes", overwrite=True, **parts)
    for name in ("", "../outside", "a/b", ".hidden"):
        with pytest.raises(AdvrBDError, match="one folder's name"):
            write_record(tmp_path, name, **parts)
    assert sorted(path.name for path in (tmp_path / "record").iterdir()) == ["blend", "notes"]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"clean_train": images(39, seed=1)}, "the same samples in the same order"),
        ({"clean_test": images(11, seed=2)}, "triggered_test holds the sample"),
        ({"dataset": "mnist"}, "images of mnist cannot be written, .* gtsrb, tiny, imagenette: .* pass data_path"),
        ({"dataset": "gtsrb"}, "gtsrb has 43 classes, got 3"),
        ({"model_name": "resnet99"}, "model must be one of"),
        ({"model_name": "resnet18"}, "the model is no resnet18 of 3 classes"),
    ],
)
def test_what_does_not_belong_together_is_refused_and_leaves_nothing(tmp_path, parts, changes, said):
    with pytest.raises(AdvrBDError, match=said):
        write_record(tmp_path, "blend", **parts | changes)
    assert not list((tmp_path / "record").glob("*"))


def test_a_set_without_an_attack_needs_a_target(tmp_path, parts):
    parts["poisoned"] = no_attack(parts["clean_train"])
    with pytest.raises(AdvrBDError, match="pass target_label"):
        write_record(tmp_path, "none", **parts)
    record = read_record(write_record(tmp_path, "none", target_label=2, **parts))
    assert record.bd_train["poison_indicator"].sum() == 0
    assert {entry["other_info"][0] for entry in record.bd_test["bd_data_container"]["data_dict"].values()} == {2}


def test_the_file_holds_plain_data_alone(tmp_path, parts):
    folder = write_record(tmp_path, "blend", data_path="./data/cifar10", **parts)
    content = safe_pickle.load(folder / "attack_result.pt")
    assert content["data_path"] == "./data/cifar10" and not (tmp_path / "data").exists()
