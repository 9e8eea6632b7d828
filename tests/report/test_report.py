"""The files of a run: complete, machine-readable, and harmless whatever the names in them."""

from __future__ import annotations

import csv
import errno
import io
import json
import os
from dataclasses import replace

import pytest
import torch
from PIL import Image

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.errors import AdvrBDError, StorageError
from advrbd_plugin.evaluation.metrics import Detection, Performance
from advrbd_plugin.nn.description import channel_statistics
from advrbd_plugin.report import OutputFolder, load_model, output
from advrbd_plugin.report.demonstration import Demonstration, demonstration_png, outcome_table
from advrbd_plugin.report.figures import curves_svgs, draw_curves, make_figure
from advrbd_plugin.report.tables import curves_csv, verdicts_csv
from advrbd_plugin.report.text import file_bytes, one_line, spreadsheet_cell

from .conftest import as_scan


def test_everything_is_written_and_nothing_else(written):
    assert sorted(os.listdir(written)) == [
        "backdoored_model.safetensors",
        "curves.csv",
        "curves.json",
        "model.json",
        "model.safetensors",
        "more.bin",
        "report.html",
        "report.png",
        "summary.json",
        "trigger-1.png",
        "verdicts.csv",
    ]
    assert Image.open(written / "report.png").size[0] > 800


def test_the_summary_tells_how_it_was_made(written):
    summary = json.loads((written / "summary.json").read_text())
    assert (summary["images"], summary["poisoned"], summary["clean"], summary["seed"]) == (120, 10, 108, 7)
    assert (summary["uncertain"], summary["mislabelled"], summary["rounds"]) == (1, 1, 2)
    assert summary["classes"]["cat"] == {"images": 30, "poisoned": 0, "mislabelled": 1, "uncertain": 0}
    assert summary["findings"][1]["class"] == "<b>bee</b>" and summary["findings"][1]["window"] == [1, 2, 3]
    assert [each["pattern"] for each in summary["findings"]] == [None, "trigger-1.png", None, None]
    assert summary["models"]["poisoned_images"] == 10 and 0 <= summary["models"]["after"]["trusted_accuracy"] <= 1
    assert (summary["fit"], summary["trained_enough"]) == (0.93, True)
    assert summary["seconds"] == {"train": 61.5, "enhance": 3.25}
    assert {"torch", "python", "advrbd_plugin"} <= set(summary["versions"])
    assert summary["hardware"]["cores"] >= 1 and "commit" in summary
    assert summary["left_out"] == [{"path": "c1/broken\n.png", "reason": "not an image"}]
    assert summary["truth"] == {"asr": None}


def test_verdicts_have_one_row_a_sample(written, record):
    rows = list(csv.DictReader((written / "verdicts.csv").open()))
    assert len(rows) == 120
    assert [row["verdict"] for row in rows].count("poisoned") == 10
    assert (rows[2]["verdict"], rows[5]["verdict"], rows[0]["verdict"]) == ("mislabelled", "uncertain", "clean")
    assert rows[9] | {"probability": ""} == {
        "path": "c1/<i>9</i>.png",
        "label": "<b>bee</b>",
        "verdict": "poisoned",
        "probability": "",
        "suggested_label": "cat",
    }
    assert float(rows[9]["probability"]) == pytest.approx(float(record.result.verdicts.score[9]), rel=1e-5)
    assert rows[0]["label"] == "'=cmd()"  # a spreadsheet shows it and does not run it


def test_samples_of_no_files_have_their_ids(record):
    images = replace(record.image_set, paths=None, sample_ids=torch.arange(120) + 1000)
    assert verdicts_csv(replace(record, image_set=images)).splitlines()[:2] == [
        "id,label,verdict,probability,suggested_label",
        f"1000,'=cmd(),clean,{float(record.result.verdicts.score[0]):.7g},'=cmd()",
    ]


def test_a_scan_is_written_without_a_clean_model(record, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "overview_png", lambda record: b"picture")
    out = OutputFolder(tmp_path / "out")
    summary = out.write(as_scan(record))
    assert not (out.path / "model.safetensors").exists() and "rounds" not in summary
    with pytest.raises(AdvrBDError, match="`advrbd scan`, which wrote this one"):
        load_model(out.path)


def test_what_an_earlier_run_left_is_removed(record, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "overview_png", lambda record: b"picture")
    out = OutputFolder(tmp_path / "out")
    summary = {
        "tool": "advrbd",
        "run": {"files": {"trigger-1.png": "", "../mine": "", "mine.csv": "", "trigger-0.png": ""}},
    }
    (out.path / "summary.json").write_text(json.dumps(summary))
    for name in ("trigger-9.png", "mine.csv", "../mine", "trigger-0.png"):
        (out.path / name).write_bytes(b"")
    out.write(record)
    assert (out.path / "trigger-9.png").exists() and (out.path / "mine.csv").exists() and (tmp_path / "mine").exists()
    assert not (out.path / "trigger-0.png").exists()


def test_curves_keep_gaps_as_gaps(written):
    rows = list(csv.DictReader((written / "curves.csv").open()))
    gaps = {"epoch": "", "loss": "", "accuracy": ""}
    assert len(rows) == 9 and rows[8] == {"stage": "enhance", "row": "0", "kept": "0.4"} | gaps
    assert json.loads((written / "curves.json").read_text())["enhance"] == [{"loss": None, "kept": 0.4}]


def test_no_two_columns_of_the_curves_have_one_name():
    header = curves_csv({"enhancement": [{"step": 20, "loss": 0.5}], "training": [{"epoch": 1}]}).splitlines()[0]
    assert header == "stage,row,step,loss,epoch"


def test_curves_are_numbered_as_their_rows_are():
    figure = make_figure(4, 2)
    draw_curves(figure, {"training": [{"epoch": 1, "loss": 2.0}, {"epoch": 2, "loss": 1.0}], "other": [{"loss": 1.0}]})
    training, other = figure.axes
    assert training.get_xlabel() == "epoch" and training.lines[0].get_xdata().tolist() == [1, 2]
    assert other.get_xlabel() == "row" and other.lines[0].get_xdata().tolist() == [0]


def test_each_stage_has_its_drawing_and_only_shares_are_per_cent(record):
    assert list(curves_svgs(record)) == ["train", "enhance"]  # a stage without rows has none
    figure = make_figure(4, 2)
    draw_curves(
        figure, {"training": [{"epoch": 1, "loss": 0.9, "accuracy": 0.2}, {"epoch": 2, "loss": 0.5, "accuracy": 1}]}
    )
    left, right = figure.axes
    assert (left.get_ylabel(), right.get_ylabel()) == ("accuracy", "loss")
    formatter = left.yaxis.get_major_formatter()
    formatter.set_locs([0.2, 1.0])
    assert formatter(0.5) == "50%" and right.yaxis.get_major_formatter()(0.5) != "50%"


def test_the_demonstration_shows_truth_and_figures(record):
    poisoned = make_attack("badnets").poison(record.image_set)
    demonstration = Demonstration(
        before=record.image_set,
        poisoned=poisoned,
        undefended=Performance(0.9, 0.98, 0.01),
        defended=Performance(0.89, 0.012, 0.87),
        detection=Detection(0.95, 0.02, 0.991),
    )
    assert outcome_table(demonstration.to_mapping())["rows"][1] == (
        "AdvrBD",
        ("89.0%", "1.2%", "87.0%", "95.0%", "2.0%", "0.991"),
    )
    assert demonstration.to_mapping()["poisoned"] == 6
    assert Image.open(io.BytesIO(demonstration_png(record, demonstration))).size[0] > 800


def test_a_killed_writing_is_swept_up_and_may_be_repeated(record, tmp_path, monkeypatch):
    monkeypatch.setattr(output, "overview_png", lambda record: b"picture")
    out = OutputFolder(tmp_path / "out")
    (out.path / ".advrbd-unfinished-1").mkdir()
    out.write(record)
    assert not [name for name in os.listdir(out.path) if name.startswith(".")]
    OutputFolder(tmp_path / "out").write(record)


def test_discard_leaves_no_folder_that_it_made_and_keeps_one_that_was_there(tmp_path):
    OutputFolder(tmp_path / "new" / "deep").discard()
    assert not (tmp_path / "new").exists()
    (tmp_path / "old").mkdir()
    OutputFolder(tmp_path / "old").discard()
    assert os.listdir(tmp_path / "old") == []


def test_a_full_disk_at_the_start_keeps_what_an_earlier_run_stored(tmp_path, monkeypatch):
    stored = OutputFolder(tmp_path / "out").work / "training-0.safetensors"
    stored.write_bytes(b"hours of work")

    def full(**_):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(output.tempfile, "TemporaryFile", full)
    for place in ("out", "new/deep"):
        with pytest.raises(StorageError, match="is full"):
            OutputFolder(tmp_path / place)
    assert stored.read_bytes() == b"hours of work" and not (tmp_path / "new").exists()


@pytest.mark.parametrize("stored", [True, False])
def test_after_an_error_only_empty_folders_of_the_same_run_go(tmp_path, stored):
    (tmp_path / "old").mkdir()
    for place in ("old", "new/deep"):
        with pytest.raises(AdvrBDError), OutputFolder(tmp_path / place) as out:
            if stored:
                (out.work / "training-0.safetensors").write_bytes(b"hours of work")
            raise AdvrBDError("training diverges: lower the learning rate")
        assert out.work.exists() == stored
    assert (tmp_path / "old").exists() and (tmp_path / "new").exists() == stored


def test_a_summary_of_another_tool_is_respected(tmp_path):
    (tmp_path / "summary.json").write_text('{"tool": "something else"}')
    with pytest.raises(AdvrBDError, match="summary.json"):
        OutputFolder(tmp_path)


def test_channel_statistics_match_torch():
    images = torch.randint(0, 256, (50, 3, 9, 7), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    mean, std = channel_statistics(images)
    scaled = images.double() / 255
    assert mean == pytest.approx(scaled.mean(dim=(0, 2, 3)).tolist(), abs=1e-4)
    assert std == pytest.approx(scaled.std(dim=(0, 2, 3), correction=0).tolist(), abs=1e-4)


def test_text_from_strangers():
    assert one_line("a\nb\x1b[31m\udcff") == "a\\nb\\x1b[31m\\udcff"
    assert one_line("größe 猫") == "größe 猫"
    assert [spreadsheet_cell(text) for text in ("=1", "@x", "-a/b", "cat/1.png")] == [
        "'=1",
        "'@x",
        "'-a/b",
        "cat/1.png",
    ]


ODD_NAMES = (
    "a\\x01b",
    "a\x01b",
    "a\u202fb",
    "a\\u202fb",
    "a\u00a0b",
    "a b",
    "a\\b",
    "a\nb",
    "a\rb",
    "a\r\nb",
    'a"b',
    "a,b",
    "a;b",
    "=1",
    "'=1",
    "''=1",
    "-1",
    "+1",
    "@x",
    "'",
    " a ",
    "a\udcffb",
    "\u00e9",
    "e\u0301",
    "a\tb",
    "\x1b[31m",
)


def test_the_csv_and_the_summary_hold_names_as_the_disk_does(record, tmp_path):
    folder = tmp_path / "images"
    for name in ODD_NAMES:
        (folder / name).mkdir(parents=True)
        (folder / name / name).write_bytes(b"x")
    labels = torch.arange(len(ODD_NAMES))
    image_set = replace(
        record.image_set.subset(labels),
        labels=labels,
        class_names=ODD_NAMES,
        paths=tuple(f"{name}/{name}" for name in ODD_NAMES),
    )
    nothing = torch.zeros(len(labels), dtype=torch.bool)
    verdicts = Verdicts(nothing, nothing.float(), labels, uncertain=nothing, mislabelled=nothing)
    result = replace(record.result, verdicts=verdicts, suspected_classes=(), findings=())
    out = OutputFolder(tmp_path / "out")
    summary = out.write(replace(record, image_set=image_set, result=result))
    with (out.path / "verdicts.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert [row["path"].removeprefix("'") if row["path"].startswith("'") else row["path"] for row in rows] == [
        f"{name}/{name}" for name in ODD_NAMES
    ]
    for row, name in zip(rows, ODD_NAMES, strict=True):
        assert (folder / row["path"].removeprefix("'")).read_bytes() == b"x"
        assert row["label"].removeprefix("'") == row["suggested_label"].removeprefix("'") == name
        assert not row["path"].startswith(("=", "+", "-", "@", "\t", "\r"))
    assert len({row["label"] for row in rows}) == len(ODD_NAMES)
    assert list(summary["classes"]) == list(ODD_NAMES)
    assert list(json.loads((out.path / "summary.json").read_text())["classes"]) == list(ODD_NAMES)
    page = (out.path / "report.html").read_bytes()
    assert b"\x1b" not in page and b"\x01" not in page


def test_half_a_surrogate_pair_does_not_stop_the_csv():
    assert file_bytes("a\udcffb") == b"a\xffb" and b"b" in file_bytes("\ud800b")
