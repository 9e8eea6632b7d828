"""``advrbd clean``: what stays, under which label, and that nothing of the data is touched."""

from __future__ import annotations

import csv
import json
import os

import pytest

from advrbd_plugin.cli import main

ROWS = {
    "cat/00.png": ("cat", "poisoned", "dog"),
    "cat/01.png": ("cat", "mislabelled", "dog"),
    "cat/02.png": ("cat", "uncertain", "cat"),
    "cat/03.png": ("cat", "clean", "cat"),
    "dog/01.png": ("dog", "clean", "dog"),
}


@pytest.fixture
def verdicts(tmp_path):
    path = tmp_path / "verdicts.csv"
    lines = ["path,label,verdict,probability,suggested_label"]
    lines += [f"{path},{label},{verdict},0.5,{suggested}" for path, (label, verdict, suggested) in ROWS.items()]
    path.write_text("\n".join(lines) + "\n")
    return path


def clean(images, verdicts, out, *arguments):
    return main(["clean", str(images), "--verdicts", str(verdicts), "--out", str(out), *arguments])


def state(folder):
    return {str(path.relative_to(folder)): path.lstat().st_mtime_ns for path in folder.rglob("*")}


def files(folder):
    return {str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir()}


@pytest.mark.parametrize("way", ["links", "copies"])
def test_the_poisoned_are_left_out_and_the_mislabelled_relabelled(images, verdicts, tmp_path, capsys, way):
    before, out = state(images), tmp_path / "out"
    assert clean(images, verdicts, out, "--as", way, "--json") == 0
    # 01.png of the cats is a dog, and the dogs have a 01.png of their own.
    assert files(out) in ({"cat/02.png", "cat/03.png", "dog/01.png", "dog/01-1.png"},)
    assert (out / "dog/01.png").read_bytes() == (images / "cat/01.png").read_bytes()
    assert (out / "dog/01.png").is_symlink() == (way == "links")
    assert state(images) == before
    told = json.loads(capsys.readouterr().out)
    assert (told["images"], told["poisoned_left_out"], told["relabelled"], told["without_verdict"]) == (4, 1, 1, 19)


def test_a_manifest_names_files_and_labels(images, verdicts, tmp_path):
    assert clean(images, verdicts, tmp_path / "out", "--as", "manifest") == 0
    with (tmp_path / "out" / "manifest.csv").open() as handle:
        rows = {row["path"]: row["label"] for row in csv.DictReader(handle)}
    expected = {"cat/01.png": "dog", "cat/02.png": "cat", "cat/03.png": "cat", "dog/01.png": "dog"}
    assert rows == {f"../images/{path}": label for path, label in expected.items()}


def test_options_leave_out_more_or_keep_labels(images, verdicts, tmp_path):
    assert clean(images, verdicts, tmp_path / "a", "--mislabelled", "drop", "--drop-uncertain") == 0
    assert files(tmp_path / "a") == {"cat/03.png", "dog/01.png"}
    assert clean(images, verdicts, tmp_path / "b", "--mislabelled", "keep") == 0
    assert files(tmp_path / "b") == {"cat/01.png", "cat/02.png", "cat/03.png", "dog/01.png"}


def test_the_verdicts_of_a_scan_clean_the_set(defense, images, tmp_path):
    assert main(["scan", str(images), "--out", str(tmp_path / "scan")]) == 3
    assert clean(images, tmp_path / "scan" / "verdicts.csv", tmp_path / "out", "--quiet") == 0
    assert len(files(tmp_path / "out")) == 21  # every tenth of 24 is poisoned


@pytest.mark.parametrize(
    ("replaced", "by", "expected"),
    [
        ("cat/03.png", "../../etc/passwd", "line 5: path must lie below DATA"),
        ("cat/03.png", "/etc/passwd", "line 5: path must lie below DATA"),
        ("cat/03.png", "cat/gone.png", "1 of 4 pictures are not in"),
        ("poisoned,0.5,dog", "guilty,0.5,dog", "line 2: verdict must be one of clean, poisoned"),
        ("poisoned,0.5,dog", "unknown,0.5,dog", "line 2: there is no verdict, since the model fitted too little"),
        ("mislabelled,0.5,dog", "mislabelled,0.5,../../dog", "line 3: suggested_label must be the name of a class"),
        ("verdict,", "verdicts,", "no column verdict"),
        ("cat/00.png,cat,poisoned,0.5,dog", "cat/00.png", "line 2: the row is too short"),
    ],
)
def test_bad_verdicts_are_one_line_and_nothing_is_written(images, verdicts, tmp_path, fails, replaced, by, expected):
    verdicts.write_text(verdicts.read_text().replace(replaced, by, 1))
    assert expected in fails("clean", images, "--verdicts", verdicts, "--out", tmp_path / "out")
    assert sorted(os.listdir(tmp_path)) == ["images", "verdicts.csv"]


def test_bad_places_are_one_line(images, verdicts, tmp_path, fails):
    assert "must lie beside DATA" in fails("clean", images, "--verdicts", verdicts, "--out", images / "out")
    assert "must lie beside DATA" in fails("clean", images, "--verdicts", verdicts, "--out", tmp_path)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "thesis.tex").write_text("precious")
    assert "holds something already" in fails("clean", images, "--verdicts", verdicts, "--out", tmp_path / "full")
    assert "5 of 5 files are missing" in fails("clean", verdicts, "--verdicts", verdicts, "--out", tmp_path / "out")
