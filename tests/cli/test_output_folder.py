"""What `--out` holds is not lost: a finished run is shown or refused, an unfinished one goes on, one process writes."""

from __future__ import annotations

import json
import os
import shutil

import pytest

from advrbd_plugin.cli import main
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.report import OutputFolder

from .conftest import png


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


@pytest.fixture
def other_images(images, tmp_path):
    """The same names with other pixels."""
    shutil.copytree(images, tmp_path / "other")
    (tmp_path / "other" / "cat" / "00.png").write_bytes(png(99))
    return tmp_path / "other"


def defend(data, out, *arguments):
    return main(["defend", str(data), "--out", str(out), *map(str, arguments)])


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def no_second_run(defense):
    """From here on a defense that starts is a failure."""
    defense.failure = AssertionError("the defense was run again")


def test_the_same_command_on_a_finished_run_shows_it(defense, images, out, capsys):
    assert defend(images, out) == 3
    first, before = capsys.readouterr().out, contents(out)
    no_second_run(defense)
    assert defend(images, out) == 3
    shown = capsys.readouterr()
    assert shown.out == first and "3 (12.5%)" in shown.out
    assert shown.err.count("finished before, so nothing is computed again (--overwrite") == 1
    assert contents(out) == before and sorted(os.listdir(out)) == sorted(before)


def test_a_copy_of_the_images_is_the_same_data(defense, images, out, tmp_path):
    assert defend(images, out) == 3
    no_second_run(defense)
    shutil.copytree(images, tmp_path / "moved")
    assert defend(tmp_path / "moved", out, "--device", "cpu") == 3


@pytest.mark.parametrize(
    ("arguments", "difference"),
    [
        (["--seed", "5"], "other settings (seed was 0, now 5)"),
        (["--epochs", "3"], "other settings (epochs was 200, now 3)"),
        (["--samples", "20"], "other settings (samples was not set, now 20)"),
        (["--model", "resnet18"], "other settings (model was resnet_narrow, now resnet18)"),
    ],
)
def test_results_of_other_settings_are_not_replaced(defense, images, out, fails, arguments, difference):
    assert defend(images, out) == 3
    before = contents(out)
    line = fails("defend", images, "--out", out, *arguments)
    assert line == (
        f"--out {out} holds the finished results of {difference}: give another folder, or --overwrite to replace them"
    )
    assert contents(out) == before and sorted(os.listdir(out)) == sorted(before)


def test_results_of_other_data_are_not_replaced_unless_asked(defense, images, other_images, out, fails):
    assert defend(images, out) == 3
    before = contents(out)
    assert f"finished results of other data ({images}, now {other_images})" in fails(
        "defend", other_images, "--out", out
    )
    assert contents(out) == before
    assert defend(other_images, out, "--overwrite") == 3
    assert json.loads((out / "summary.json").read_text())["data"] == str(other_images)
    assert f"other data ({other_images}, now {images})" in fails("defend", images, "--out", out)


def test_changed_files_of_the_same_folder_are_other_data(defense, images, out, fails):
    assert defend(images, out) == 3
    (images / "cat" / "00.png").write_bytes(png(99))
    assert f"finished results of other data ({images} was changed since)" in fails("defend", images, "--out", out)


def test_results_of_another_command_are_not_replaced(defense, images, out, fails):
    assert main(["demo", "--data", str(images), "--out", str(out)]) == 0
    assert "holds the finished results of `advrbd demo`" in fails("defend", images, "--out", out)


@pytest.mark.parametrize("name", ["model.safetensors", "verdicts.csv", "report.html"])
def test_results_that_were_changed_or_removed_are_named(defense, images, out, fails, name):
    assert defend(images, out) == 3
    (out / name).write_text("edited by hand")
    line = f"{out / name} is missing or was changed since this run finished: "
    assert fails("defend", images, "--out", out).startswith(line)
    (out / name).unlink()
    assert fails("defend", images, "--out", out).startswith(line)
    assert defend(images, out, "--overwrite") == 3
    assert (out / name).read_text(errors="replace") != "edited by hand"


@pytest.mark.parametrize("edit", ['{"tool": "advrbd"}', '{"tool": "advrbd", "run": [1], "config": 3, "data": {}}'])
def test_a_summary_that_was_edited_or_is_of_an_earlier_version_is_one_line(defense, images, out, fails, edit):
    assert defend(images, out) == 3
    summary = json.loads((out / "summary.json").read_text())
    (out / "summary.json").write_text(edit)
    assert "holds the finished results of" in fails("defend", images, "--out", out)
    for files in (None, [], {"a\0b": "", "../x": 3}):
        summary["run"]["files"] = files
        (out / "summary.json").write_text(json.dumps(summary))
        assert "is missing or was changed" in fails("defend", images, "--out", out)


@pytest.mark.parametrize("summary", ["[" * 100_000, "{", '{"tool": "else"}'])
def test_a_summary_of_somebody_else_is_not_replaced(defense, images, out, fails, summary):
    (out / ".advrbd-work").mkdir(parents=True)
    (out / "summary.json").write_text(summary)
    assert "files that advrbd did not write (summary.json)" in fails("defend", images, "--out", out)
    assert (out / "summary.json").read_text() == summary


def test_an_unfinished_run_on_other_data_is_not_dropped_unless_asked(defense, images, other_images, out, fails):
    stage = out / ".advrbd-work" / "checkpoint"
    defense.failure = AdvrBDError("training diverged")
    fails("defend", images, "--out", out)
    assert stage.exists()
    defense.failure, defense.stores = None, False
    line = fails("defend", other_images, "--out", out)
    assert line == (
        f"--out {out} holds an unfinished run of `advrbd defend` on {images}: finish it, give another folder, or "
        "--overwrite to drop it"
    )
    assert stage.exists()
    assert "unfinished run of `advrbd defend`" in fails("demo", "--data", images, "--out", out)
    defense.failure = AdvrBDError("training diverged")
    fails("defend", images, "--out", out, "--set", "batch_size=8")  # the same data with what an error advised
    assert stage.exists()
    fails("defend", other_images, "--out", out, "--overwrite")
    assert not stage.exists()


def test_only_one_process_at_a_time_has_the_folder(defense, images, other_images, out, fails):
    line = f"--out {out} is in use by another run of advrbd: wait until it ends, or give another folder"
    with OutputFolder(out):
        assert fails("defend", images, "--out", out) == line
        assert fails("defend", images, "--out", out, "--overwrite") == line
        assert os.listdir(out) == [".advrbd-work"]
    assert not out.exists()
    assert defend(images, out) == 3
    with OutputFolder(out):
        assert fails("defend", images, "--out", out) == line
        (out.parent / "link").symlink_to(out)
        assert "is in use" in fails("defend", images, "--out", out.parent / "link")


def test_a_lock_that_a_killed_process_left_holds_nobody_up(defense, images, out):
    (out / ".advrbd-work").mkdir(parents=True)
    (out / ".advrbd-work" / "lock").touch()
    assert defend(images, out) == 3
    assert ".advrbd-work" not in os.listdir(out)


def test_a_demo_is_shown_again_and_told_from_another(defense, out, fails, capsys):
    demo = ["demo", "--samples", "200", "--out", str(out)]
    assert main(demo) == 0
    first = capsys.readouterr().out
    no_second_run(defense)
    assert main(demo) == 0
    shown = capsys.readouterr()
    assert shown.out == first and "finished before" in shown.err
    assert "other settings (attack was badnets, now blend)" in fails(*demo, "--attack", "blend")
    assert "(poison_ratio was 0.05, now 0.1)" in fails(*demo, "--poison-ratio", "0.1")


def test_an_empty_out_is_not_the_current_folder(defense, images, fails, tmp_path, monkeypatch):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert fails("defend", images, "--out", "") == "--out is empty: give a folder"
    assert os.listdir(tmp_path / "here") == []
