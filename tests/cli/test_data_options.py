"""The options that say how data is read, and records of BackdoorBench; ``tests/data`` has what else is read."""

from __future__ import annotations

import argparse
import sys

import pytest

from advrbd_plugin.cli import data as data_options
from advrbd_plugin.data.fitting import FITS
from advrbd_plugin.errors import AdvrBDError


def options(*words: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    data_options.add_data_options(parser, samples="how many")
    return parser.parse_args(words)


def test_the_fits_offered_are_those_there_are():
    assert data_options.FITS == FITS


@pytest.fixture
def record(tmp_path, monkeypatch):
    (tmp_path / "record" / "badnet").mkdir(parents=True)
    (tmp_path / "record" / "badnet" / "attack_result.pt").write_bytes(b"")
    monkeypatch.setattr(sys, "path", list(sys.path))
    return tmp_path / "record" / "badnet"


def test_a_record_goes_to_the_reader_of_the_toolbox_with_the_checkout(record, tmp_path, monkeypatch):
    from advrbd_plugin.backdoorbench import checkout, poisoned_set

    seen = {}
    monkeypatch.setattr(checkout, "find_checkout", lambda: tmp_path / "checkout")
    monkeypatch.setattr(poisoned_set, "load_poisoned_set", lambda folder, **given: seen.update(given, folder=folder))
    data_options.read_data(str(record), options("--fit", "crop", "--image-size", "16", "--samples", "9"), seed=3)
    assert seen == {"folder": record, "root": None, "image_size": (16, 16), "fit": "crop", "samples": 9, "seed": 3}
    assert sys.path[0] == str(tmp_path / "checkout")
    with pytest.raises(AdvrBDError, match="which is a training set"):
        data_options.read_data(str(record), options(), "test")


def test_a_damaged_record_and_a_missing_checkout_are_one_line(record, tmp_path, monkeypatch):
    from advrbd_plugin.backdoorbench import checkout

    monkeypatch.setattr(checkout, "find_checkout", lambda: tmp_path)
    with pytest.raises(AdvrBDError, match=r"attack_result.pt is no file that torch.save wrote"):
        data_options.read_data(str(record), options())
    monkeypatch.undo()
    monkeypatch.setenv("BACKDOORBENCH_HOME", str(tmp_path / "nowhere"))
    with pytest.raises(AdvrBDError, match="no BackdoorBench checkout"):
        data_options.read_data(str(record), options())
