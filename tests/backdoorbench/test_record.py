"""Records: what they must hold, and that no path in them leads outside."""

from __future__ import annotations

import os

import numpy
import pytest
import torch

from advrbd_plugin.backdoorbench.datasets import data_root
from advrbd_plugin.backdoorbench.record import read_record, record_folder
from advrbd_plugin.errors import AdvrBDError


def image_paths(record) -> list[str]:
    return [entry["path"] for entry in record.bd_train["bd_data_container"]["data_dict"].values()]


def test_a_record_is_read(records):
    folder = records.write(records.content())
    record = read_record(folder)
    assert (record.name, record.model_name, record.num_classes) == ("badnet", "preactresnet18", 3)
    assert record.img_size == (8, 8, 3)
    assert sorted(image_paths(record)) == [
        str(folder / "bd_train_dataset/2/1.png"),
        str(folder / "bd_train_dataset/2/4.png"),
    ]


def test_images_in_memory_are_read(records):
    record = read_record(records.write(records.content(in_memory=True)))
    picture, label, original = record.bd_train["bd_data_container"]["data_dict"][4]
    assert picture.getpixel((0, 0)) == (80, 0, 0) and (label, original) == (0, 2)


def test_dataparallel_prefix_is_taken_off(records):
    content = records.content()
    content["model"] = {f"module.{key}": value for key, value in content["model"].items()}
    assert set(read_record(records.write(content)).model) == {"linear.weight", "linear.bias"}


def test_a_renamed_record_still_finds_its_images(records, tmp_path):
    folder = records.write(records.content())
    moved = tmp_path / "record" / "copied"
    folder.rename(moved)
    assert all(path.startswith(str(moved)) and os.path.isfile(path) for path in image_paths(read_record(moved)))


@pytest.mark.parametrize(
    "path", ["./record/badnet/bd_train_dataset/../../../secret.png", "/etc/secret.png", "../x.png"]
)
def test_no_path_leads_outside(records, path):
    content = records.content()
    content["bd_train"]["bd_data_container"]["data_dict"][1]["path"] = path
    with pytest.raises(AdvrBDError, match="outside the record's folder") as error:
        read_record(records.write(content))
    assert path in str(error.value)


def test_no_link_leads_outside(records, tmp_path):
    folder = records.write(records.content())
    picture = folder / "bd_train_dataset/2/1.png"
    picture.rename(tmp_path / "secret.png")
    picture.symlink_to(tmp_path / "secret.png")
    with pytest.raises(AdvrBDError, match="outside the record's folder"):
        read_record(folder)


@pytest.mark.parametrize("key", ["bd_test", "model", "clean_data"])
def test_a_missing_part_is_named(records, key):
    content = records.content()
    content[key] = None
    with pytest.raises(AdvrBDError, match=f"lacks {key}"):
        read_record(records.write(content))


def test_a_record_without_training_set_serves_others_but_not_advrbd(records):
    content = records.content()
    content["bd_train"] = None
    record = read_record(records.write(content))
    assert record.bd_test is not None
    with pytest.raises(AdvrBDError, match="lacks bd_train, the poisoned training set"):
        record.need_training_set()


def test_contradictions_are_named(records):
    content = records.content()
    content["bd_train"]["poison_indicator"][3] = 1
    with pytest.raises(AdvrBDError, match="calls sample 3 poisoned but holds no image of it"):
        read_record(records.write(content))
    content["bd_train"]["original_index_array"] += 1
    with pytest.raises(AdvrBDError, match="samples that its dataset does not have"):
        read_record(records.write(content))
    with pytest.raises(AdvrBDError, match="a list, not a dictionary"):
        read_record(records.write([1, 2]))


def test_unknown_records_are_listed(records, tmp_path):
    records.write(records.content())
    with pytest.raises(AdvrBDError, match="no record bad .*it holds badnet"):
        record_folder(tmp_path, "bad")
    for name in ("../elsewhere", ".", "/etc"):
        with pytest.raises(AdvrBDError, match="outside"):
            record_folder(tmp_path, name)


def test_the_data_root_is_beside_the_record_or_given(records, tmp_path):
    record = read_record(records.write(records.content()))
    with pytest.raises(AdvrBDError, match=r"made with the data root \./data/cifar10.*--dataset_path"):
        data_root(record)
    (tmp_path / "elsewhere/cifar10").mkdir(parents=True)
    assert data_root(record, str(tmp_path / "elsewhere")) == tmp_path / "elsewhere/cifar10"
    (tmp_path / "data/cifar10").mkdir(parents=True)
    assert data_root(record, str(tmp_path / "elsewhere")) == tmp_path / "data/cifar10"


NESTED = ["x"]
for _ in range(40):
    NESTED = [NESTED, NESTED]  # shared: written out, it has 2^40 words
WRONG = [None, 0, -1, 1.5, True, "", "x" * 10**5, b"x", [], [[]], {}, {"a": 1}, (), numpy.zeros((2, 2)), torch.zeros(3)]


@pytest.mark.parametrize(
    "key", ["model_name", "num_classes", "model", "data_path", "img_size", "clean_data", "bd_test"]
)
def test_fields_of_the_wrong_type_are_one_line(records, key):
    for value in (*WRONG, NESTED, 10**30, 2**31, float("nan"), ["8", "8"], [8, 8, 8, 8], [8, -8], [8, 8.5], "a\0b"):
        content = records.content() | {key: value}
        folder = records.write(content)
        with pytest.raises(AdvrBDError) as error:
            read_record(folder)
        line = str(error.value)
        assert "\n" not in line and len(line) < 400 + len(str(folder)), (key, line)
        assert key in line or value is NESTED, (key, line)


PARTS = {
    "bd_data_container": WRONG,
    "original_index_array": [1, "x", [["a"]], {"a": 1}, numpy.zeros(3), numpy.array([7]), numpy.array([-1]), [2**70]],
    "poison_indicator": [1, "x", [["a"]], {"a": 1}, numpy.zeros((2, 2)), numpy.zeros(0), ["a"] * 6],
}


@pytest.mark.parametrize("key", PARTS)
@pytest.mark.parametrize("part", ["bd_train", "bd_test"])
def test_parts_of_the_wrong_type_are_one_line(records, part, key):
    for value in PARTS[key]:
        content = records.content()
        content[part][key] = value
        with pytest.raises(AdvrBDError, match=part) as error:
            read_record(records.write(content))
        assert "\n" not in str(error.value)


@pytest.mark.parametrize("in_memory", [False, True])
@pytest.mark.parametrize(
    "entry", [None, 1, "x", [], {}, {"path": 1, "other_info": [0]}, {"path": "x"}, ["x", "y"], [[], []]]
)
def test_entries_of_the_wrong_type_are_one_line(records, entry, in_memory):
    content = records.content(in_memory=in_memory)
    content["bd_train"]["bd_data_container"]["data_dict"][1] = entry
    with pytest.raises(AdvrBDError, match="bd_train: sample 1 must") as error:
        read_record(records.write(content))
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("key", ["a", -1, None, b"x", True])
def test_samples_go_by_number(records, key):
    content = records.content()
    entries = content["bd_train"]["bd_data_container"]["data_dict"]
    entries[key] = entries.pop(1)
    with pytest.raises(AdvrBDError, match="which is no sample's number|calls sample 1 poisoned"):
        read_record(records.write(content))


@pytest.mark.parametrize("folder", ["", "/", "..", "a/..", 1, [], "x" * 10**4])
def test_the_folder_of_the_images_is_one(records, folder):
    content = records.content()
    content["bd_train"]["bd_data_container"]["save_folder_path"] = folder
    with pytest.raises(AdvrBDError, match="bd_train"):
        read_record(records.write(content))


@pytest.mark.parametrize("path", ["x\0y", "x/" * 3000, "\ud800", ""])
def test_odd_paths_are_one_line(records, path):
    content = records.content()
    content["bd_train"]["bd_data_container"]["data_dict"][1]["path"] = path
    with pytest.raises(AdvrBDError, match="names (the|an) image") as error:
        read_record(records.write(content))
    assert "\n" not in str(error.value) and len(str(error.value)) < 600
