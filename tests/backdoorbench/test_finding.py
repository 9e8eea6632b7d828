"""Which checkout is taken, and what is said when there is none or a wrong one."""

from __future__ import annotations

import subprocess

import pytest

from advrbd_plugin.backdoorbench import checkout
from advrbd_plugin.errors import AdvrBDError


@pytest.fixture(autouse=True)
def nowhere(tmp_path, monkeypatch):
    """No variable, no checkout in this folder, none in the cache."""
    monkeypatch.delenv(checkout.HOME_VARIABLE, raising=False)
    monkeypatch.setattr(checkout, "cached_checkout", lambda: tmp_path / "cache" / "BackdoorBench")
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")


def copy_of(fake_checkout, place):
    place.parent.mkdir(parents=True, exist_ok=True)
    fake_checkout.rename(place)
    return place


def find(explicit=None):
    return checkout.find_checkout(explicit, any_version=True)


def test_the_order(tmp_path, fake_checkout, monkeypatch):
    with pytest.raises(AdvrBDError, match="advrbd backdoorbench install"):
        find()
    cached = copy_of(fake_checkout, tmp_path / "cache" / "BackdoorBench")
    assert find() == cached
    current = tmp_path / "other"
    for name in ("defense/base.py", "utils/save_load_attack.py"):
        (current / name).parent.mkdir(parents=True)
        (current / name).touch()
    monkeypatch.chdir(current)
    assert find() == current
    monkeypatch.setenv(checkout.HOME_VARIABLE, str(cached))
    assert find() == cached
    assert find(current) == current


def test_a_wrong_name_is_no_reason_to_take_another(tmp_path, fake_checkout, monkeypatch):
    copy_of(fake_checkout, tmp_path / "cache" / "BackdoorBench")
    with pytest.raises(AdvrBDError, match="--backdoorbench names .*lacks defense/base.py"):
        find(tmp_path)
    monkeypatch.setenv(checkout.HOME_VARIABLE, str(tmp_path))
    with pytest.raises(AdvrBDError, match="BACKDOORBENCH_HOME names"):
        find()


def test_another_version_is_said(fake_checkout):
    with pytest.raises(AdvrBDError, match=r"another version \(defense/base.py differs.*f02e353"):
        checkout.find_checkout(fake_checkout)


def test_a_package_is_no_checkout(tmp_path, monkeypatch):
    package = tmp_path / "site" / "backdoorbench"
    package.mkdir(parents=True)
    (package / "__init__.py").touch()
    monkeypatch.syspath_prepend(tmp_path / "site")
    with pytest.raises(AdvrBDError, match="package backdoorbench at .* is no checkout .*lacks defense/"):
        find()


def test_install_says_what_is_wrong(tmp_path):
    target = tmp_path / "target"
    with pytest.raises(AdvrBDError, match="git clone failed"):
        checkout.install(tmp_path / "here", target)
    subprocess.run(["git", "init", "--quiet", str(tmp_path / "empty")], check=True)
    with pytest.raises(AdvrBDError, match="does not hold BackdoorBench's commit f02e353"):
        checkout.install(tmp_path / "empty", target)
    assert not target.exists() and not list(tmp_path.glob(".backdoorbench-*"))
    target.mkdir()
    (target / "mine.txt").touch()
    with pytest.raises(AdvrBDError, match="in the way"):
        checkout.install(tmp_path / "empty", target)
