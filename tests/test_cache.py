"""A stored stage comes back exactly as it was saved, or is named in a warning and computed again."""

from __future__ import annotations

import warnings

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import nn

from advrbd_plugin.cache import StageStore
from advrbd_plugin.nn.checkpoints import StoredTraining, cached_training

KEY = "a" * 20
TENSORS = {"x": torch.arange(3), "flag": torch.tensor([True, False]), "empty": torch.zeros(0, 2)}
ROWS = [{"epoch": 1, "loss": 0.5}]


@pytest.fixture
def store(tmp_path) -> StageStore:
    return StageStore(tmp_path)


@pytest.fixture
def stage(store, tmp_path):
    """The file of a stored stage."""
    store.save("stage", KEY, TENSORS, ROWS)
    (file,) = tmp_path.iterdir()
    return file


def assert_damage_is_reported(load):
    with pytest.warns(
        UserWarning, match=r"^the stored stage .* is damaged or of an earlier version: it is computed again"
    ):
        assert load() is None


def test_a_stage_comes_back_and_a_missing_one_is_no_damage(store, stage):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        tensors, rest = store.load("stage", KEY)
        assert store.load("stage", "b" * 20) is None and store.load("other", KEY) is None
    assert rest == ROWS and tensors.keys() == TENSORS.keys()
    for name, value in TENSORS.items():
        assert tensors[name].dtype == value.dtype and torch.equal(tensors[name], value)


def test_no_flipped_byte_gives_another_stage(store, stage):
    whole, damaged = stage.read_bytes(), 0
    for place in range(len(whole)):
        for bit in (0, 5):
            stage.write_bytes(whole[:place] + bytes([whole[place] ^ (1 << bit)]) + whole[place + 1 :])
            with warnings.catch_warnings(record=True) as seen:
                warnings.simplefilter("always")
                found = store.load("stage", KEY)
            if found is None:
                assert len(seen) == 1
                damaged += 1
            else:  # a blank that pads the header, say
                assert found[1] == ROWS and all(torch.equal(found[0][name], TENSORS[name]) for name in TENSORS)
    assert damaged > 1.8 * len(whole)


@pytest.mark.parametrize("share", [0.0, 0.01, 0.5, 0.99])
def test_a_stage_that_is_cut_off_is_damaged(store, stage, share):
    whole = stage.read_bytes()
    stage.write_bytes(whole[: int(share * len(whole))])
    assert_damage_is_reported(lambda: store.load("stage", KEY))


def test_a_stage_under_the_name_of_another_is_damaged(store, stage):
    key = KEY[:16] + "other"  # the file's name has the first 16 characters only
    assert_damage_is_reported(lambda: store.load("stage", key))
    stage.rename(stage.with_name(stage.name.replace("stage", "later")))
    assert_damage_is_reported(lambda: store.load("later", KEY))


def test_a_stage_without_a_checksum_is_computed_again(store, stage):
    with safe_open(stage, framework="pt") as handle:
        metadata = handle.metadata()
    del metadata["sha256"]
    save_file(TENSORS, stage, metadata)
    assert_damage_is_reported(lambda: store.load("stage", KEY))
    save_file(TENSORS, stage)
    assert_damage_is_reported(lambda: store.load("stage", KEY))


def test_a_stored_training_of_other_shapes_is_trained_again(store):
    def work(checkpoint):
        return [{"epoch": 1, "loss": 0.25}]

    store.save("training", KEY, nn.Linear(3, 2).state_dict(), ROWS)
    model = nn.Linear(4, 2)
    before = model.weight.clone()
    with pytest.warns(UserWarning, match="damaged"):
        assert cached_training(store, "training", KEY, model, work) == [{"epoch": 1, "loss": 0.25}]
    assert torch.equal(model.weight, before)
    other = nn.Linear(4, 2)
    assert cached_training(store, "training", KEY, other, work) == [{"epoch": 1, "loss": 0.25}]
    assert torch.equal(other.weight, before)


def test_an_unfinished_training_is_checked_as_well(store, tmp_path):
    model = nn.Linear(3, 2)
    checkpoint = StoredTraining(store, "training", KEY, model)
    weights = {f"model.{name}": value for name, value in model.state_dict().items()}
    checkpoint.save(2, weights)
    assert checkpoint.load()[0] == 2
    (file,) = tmp_path.iterdir()
    whole = bytearray(file.read_bytes())
    whole[-1] ^= 4
    file.write_bytes(whole)
    assert_damage_is_reported(checkpoint.load)
    checkpoint.save(2, weights | {"model.weight": torch.zeros(5, 5)})
    assert_damage_is_reported(checkpoint.load)
    checkpoint.save("two", weights)
    assert_damage_is_reported(checkpoint.load)


def test_a_store_without_a_folder_stores_nothing():
    store = StageStore(None)
    store.save("stage", KEY, TENSORS)
    assert store.load("stage", KEY) is None
