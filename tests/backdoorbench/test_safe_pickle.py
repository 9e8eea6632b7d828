"""Files from strangers: what BackdoorBench writes is read, anything else stops with its name."""

from __future__ import annotations

import os
import pickle
from pathlib import Path

import numpy
import pytest
import torch
from PIL import Image

from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.errors import AdvrBDError


class Command:
    """Runs a command when it is unpickled, as a malicious record would."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_what_backdoorbench_writes_is_read(tmp_path):
    content = {
        "array": numpy.arange(6, dtype=numpy.int64).reshape(2, 3),
        "floats": numpy.array([0.5, -1.0], dtype=numpy.float32),
        numpy.int64(7): [Image.new("RGB", (3, 2), (1, 2, 3)), numpy.float64(0.25), torch.tensor([1, 2])],
    }
    read = safe_pickle.load(saved(tmp_path / "x.pt", content))
    assert numpy.array_equal(read["array"], content["array"]) and read["array"].dtype == numpy.int64
    assert numpy.array_equal(read["floats"], content["floats"]) and read["floats"].dtype == numpy.float32
    picture, number, tensor = read[7]
    assert picture.getpixel((2, 1)) == (1, 2, 3)
    assert number == 0.25
    assert tensor.tolist() == [1, 2]


@pytest.mark.parametrize(
    "wrap", [lambda bad: bad, lambda bad: {"model": [bad]}, lambda bad: numpy.array([bad], object)]
)
def test_another_type_stops_before_it_runs(tmp_path, wrap):
    made = tmp_path / "made"
    path = saved(tmp_path / "x.pt", wrap(Command(made)))
    with pytest.raises(AdvrBDError, match=r"mkdir|numpy.dtype\(\|O\)") as error:
        safe_pickle.load(path)
    assert "--trust-record" in str(error.value) and "\n" not in str(error.value)
    assert not made.exists()


def test_trust_is_the_informed_way_around(tmp_path):
    made = tmp_path / "made"
    safe_pickle.load(saved(tmp_path / "x.pt", [Command(made)]), trust=True)
    assert made.is_dir()


def test_damaged_files_are_named(tmp_path):
    whole = saved(tmp_path / "whole.pt", {"a": torch.zeros(100)}).read_bytes()
    for name, content in (("cut.pt", whole[: len(whole) // 2]), ("text.pt", b"not a pickle"), ("empty.pt", b"")):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AdvrBDError, match=name):
            safe_pickle.load(tmp_path / name)
    with pytest.raises(AdvrBDError, match="does not exist"):
        safe_pickle.load(tmp_path / "nothing.pt")


def test_dataset_batches_hold_numbers_only(tmp_path):
    batch = {"data": numpy.arange(12, dtype=numpy.uint8).reshape(2, 6), "labels": [3, 4]}
    path = tmp_path / "batch"
    path.write_bytes(pickle.dumps(batch))
    with path.open("rb") as handle:
        read = safe_pickle.NumbersUnpickler(handle).load()
    assert numpy.array_equal(read["data"], batch["data"]) and read["labels"] == [3, 4]
    path.write_bytes(pickle.dumps(Command(tmp_path / "made")))
    with path.open("rb") as handle, pytest.raises(pickle.UnpicklingError, match="mkdir"):
        safe_pickle.NumbersUnpickler(handle).load()
    assert not (tmp_path / "made").exists()
