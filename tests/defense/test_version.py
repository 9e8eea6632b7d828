"""The digest of the algorithm: what changes it and what does not."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from advrbd_plugin.defense import ALGORITHM_VERSION, algorithm_digest, version
from advrbd_plugin.defense.version import source_digest

SOURCE = '''"""What it does."""
THRESHOLD = 0.15  # measured
"""Of what."""

def decide(value: float) -> bool:
    """Whether it is too much."""
    if value < 0:
        raise ValueError(f"{value} is below zero")
    return value > THRESHOLD
'''


def digest(source: str) -> str:
    return source_digest([("a.py", source)])


@pytest.mark.parametrize(
    ("old", "new"),
    [
        ("# measured", "# found by hand"),
        ('"""What it does."""', '"""What this does, in other words."""'),
        ('    """Whether it is too much."""\n', ""),
        ('"""Of what."""', ""),
        ("value: float", "value: int"),
        ("is below zero", "must not be negative"),
        ("\n\ndef", "\n\n\n\ndef"),
    ],
)
def test_wording_does_not_change_the_digest(old, new):
    assert old in SOURCE and digest(SOURCE.replace(old, new)) == digest(SOURCE)


@pytest.mark.parametrize(("old", "new"), [("0.15", "0.16"), ("value >", "value >="), ("value < 0", "value < 1")])
def test_a_constant_or_a_condition_does(old, new):
    assert old in SOURCE and digest(SOURCE.replace(old, new)) != digest(SOURCE)


def test_a_file_that_is_moved_changes_the_digest():
    assert source_digest([("b.py", SOURCE)]) != digest(SOURCE)


def test_the_algorithms_digest_follows_a_threshold_and_not_a_docstring(tmp_path, monkeypatch):
    package = Path(version.__file__).parents[1]
    for part in ("defense", "nn"):
        shutil.copytree(package / part, tmp_path / part, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(package / "randomness.py", tmp_path)
    monkeypatch.setattr(version, "_PACKAGE", tmp_path)
    fresh = algorithm_digest.__wrapped__
    assert fresh() == algorithm_digest() and re.fullmatch("[0-9a-f]{16}", fresh())
    config = tmp_path / "defense" / "config.py"
    source = config.read_text()
    config.write_text(f"# A comment.\n{source}")
    assert fresh() == algorithm_digest()
    config.write_text(source.replace("0.15", "0.16", 1))
    assert "0.15" in source and fresh() != algorithm_digest()


def test_the_version_is_a_number():
    assert isinstance(ALGORITHM_VERSION, int) and ALGORITHM_VERSION >= 1
