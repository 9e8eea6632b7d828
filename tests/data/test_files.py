"""A file is whole or not there."""

from __future__ import annotations

import errno
import json
import os
import time

import pytest

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import atomic_file, write_json, write_text


def test_a_file_is_replaced_whole(tmp_path):
    write_text(tmp_path / "new" / "a.txt", "one\n")
    write_text(tmp_path / "new" / "a.txt", "two\n")
    assert (tmp_path / "new" / "a.txt").read_bytes() == b"two\n"
    assert os.listdir(tmp_path / "new") == ["a.txt"]


def test_a_failure_leaves_the_old_file_and_nothing_beside_it(tmp_path):
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_file(tmp_path / "a.txt", "w") as handle:
        handle.write("half of the n")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old" and os.listdir(tmp_path) == ["a.txt"]


def test_what_a_killed_process_left_goes_when_it_is_old(tmp_path):
    for name, age in ((".a.txt.abcd1234.part", 7200), (".a.txt.abcd5678.part", 60), (".b.txt.abcd1234.part", 7200)):
        (tmp_path / name).write_text("half")
        os.utime(tmp_path / name, (time.time() - age,) * 2)
    write_text(tmp_path / "a.txt", "whole")
    assert sorted(os.listdir(tmp_path)) == [".a.txt.abcd5678.part", ".b.txt.abcd1234.part", "a.txt"]


def test_a_full_disk_is_one_line(tmp_path, monkeypatch):
    def full(descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(AdvrBDError, match="is full: free some space"):
        write_text(tmp_path / "a.txt", "text")
    assert os.listdir(tmp_path) == []


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="/dev/full exists on Linux only")
def test_the_systems_own_full_device_gives_the_error_that_is_handled():
    with pytest.raises(OSError) as error, open("/dev/full", "w") as device:
        device.write("x")
        device.flush()
    assert error.value.errno == errno.ENOSPC


def test_json_refuses_what_json_has_not(tmp_path):
    with pytest.raises(ValueError):
        write_json(tmp_path / "a.json", {"loss": float("nan")})
    assert os.listdir(tmp_path) == []


def test_json_keeps_names_that_are_no_utf8(tmp_path):
    write_json(tmp_path / "a.json", ["caf\u00e9", "\udcff"])
    assert json.loads((tmp_path / "a.json").read_text()) == ["caf\u00e9", "\udcff"]
    write_json(tmp_path / "b.json", ["caf\u00e9"])
    assert "caf\u00e9" in (tmp_path / "b.json").read_text()
