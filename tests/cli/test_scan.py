"""``advrbd scan``, how `defend` goes on from it, and what every command tells a script: status, JSON, options."""

from __future__ import annotations

import json

import pytest
import yaml

from advrbd_plugin.cli import main, status
from advrbd_plugin.errors import AdvrBDError

SCANNED = {
    "verdicts.csv",
    "summary.json",
    "curves.csv",
    "curves.json",
    "report.png",
    "report.html",
    "config.yaml",
    "model.json",
    "backdoored_model.safetensors",
}


@pytest.fixture
def out(tmp_path):
    return tmp_path / "out"


def run(command, data, out, *arguments):
    return main([command, str(data), "--out", str(out), *map(str, arguments)])


def names(folder):
    return {path.name for path in folder.iterdir()}


def test_a_scan_has_verdicts_and_no_model_and_defend_goes_on_from_its_stages(defense, images, out, capsys):
    stage = out / ".advrbd-work" / "checkpoint"
    assert run("scan", images, out) == status.FOUND
    assert names(out) == SCANNED | {".advrbd-work"} and stage.exists()
    capsys.readouterr()
    defense.stores = False  # so that the stage is the scan's
    defense.failure = AdvrBDError("relearning diverged")
    assert run("defend", images, out) == status.BAD_INPUT
    assert stage.exists() and names(out) == SCANNED | {".advrbd-work"}
    defense.failure = None
    assert run("defend", images, out) == status.FOUND
    assert names(out) == SCANNED | {"model.safetensors"}


def test_the_real_defense_computes_nothing_that_a_scan_did(images, out, capsys):
    quick = ["--epochs", "1", "--device", "cpu", "--set", "enhancement_steps=1", "--set", "relearn_epochs=0"]
    assert run("scan", images, out, *quick) in (0, 3, 4)
    assert "found in" not in capsys.readouterr().err
    assert run("defend", images, out, *quick) in (0, 3, 4)
    lines = capsys.readouterr().err.splitlines()
    for stage in ("training", "scoring", "detection"):
        assert f"advrbd: {stage}: found in {out}/.advrbd-work, not computed again." in lines
    assert "model.safetensors" in names(out) and ".advrbd-work" not in names(out)


def test_a_finished_scan_is_shown_again_and_its_stages_stay(defense, images, out, capsys):
    assert run("scan", images, out) == 3
    first = capsys.readouterr().out
    defense.failure = AssertionError("it was scanned again")
    assert run("scan", images, out) == 3
    shown = capsys.readouterr()
    assert shown.out == first and "finished before" in shown.err
    assert (out / ".advrbd-work" / "checkpoint").exists()


def test_a_scan_is_answered_by_the_defense_that_holds_it(defense, images, out, capsys):
    assert run("defend", images, out) == 3
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    defense.failure = AssertionError("it was scanned again")
    assert run("scan", images, out) == 3
    assert "finished before" in capsys.readouterr().err
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def test_a_scan_with_other_settings_is_refused(defense, images, out, fails):
    assert run("scan", images, out) == 3
    line = fails("defend", images, "--out", out, "--seed", "5")
    assert "holds the finished results of other settings (seed was 0, now 5)" in line


def test_the_status_tells_what_was_found(defense, images, tmp_path):
    defense.finds = False
    assert run("scan", images, tmp_path / "a") == status.NOTHING_FOUND
    assert run("defend", images, tmp_path / "b") == status.NOTHING_FOUND
    summary = {"poisoned": 0, "suspected_classes": [], "trained_enough": False}
    assert status.of_summary(summary) == status.NO_VERDICT


@pytest.mark.parametrize("command", ["scan", "defend"])
def test_json_is_one_object_and_nothing_else(defense, images, out, capsys, command):
    assert run(command, images, out, "--json") == 3
    summary = json.loads(capsys.readouterr().out)
    assert summary["out"] == str(out) and summary["poisoned"] == 3


def test_quiet_says_nothing_but_errors(defense, images, out, capsys, fails):
    assert run("scan", images, out, "--quiet") == 3
    shown = capsys.readouterr()
    assert (shown.out, shown.err) == ("", "")
    assert "--model must be one of" in fails("scan", images, "--out", out, "--quiet", "--model", "x")


def test_every_option_can_stand_in_a_file_and_the_command_line_wins(defense, images, out, tmp_path):
    file = tmp_path / "options.yaml"
    content = {"data": str(images), "out": str(out), "image_size": 16, "samples": 20, "seed": 4, "patch_size": 2}
    file.write_text(yaml.safe_dump(content | {"set": {"num_masks": 2}, "quiet": True}))
    assert main(["defend", "--config", str(file), "--samples", "22"]) == 3
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["image_size"], summary["seed"]) == (22, [16, 16], 4)
    assert (summary["config"]["patch_size"], summary["config"]["num_masks"]) == (2, 2)


def test_an_abbreviated_option_names_the_file_too(defense, images, out, tmp_path):
    file = tmp_path / "options.yaml"
    file.write_text("samples: 20\n")
    assert run("scan", images, out, "--conf", file) == 3
    assert json.loads((out / "summary.json").read_text())["images"] == 20


def test_the_saved_options_make_the_same_run_again(defense, images, out, capsys):
    assert run("scan", images, out, "--image-size", "16x12", "--set", "patch_size=3", "--epochs", "2") == 3
    saved = yaml.safe_load((out / "config.yaml").read_text())
    assert (saved["image-size"], saved["patch_size"], saved["epochs"]) == ("16x12", 3, 2)
    defense.failure = AssertionError("it was scanned again")
    assert main(["scan", "--config", str(out / "config.yaml"), "--out", str(out)]) == 3
    assert "finished before" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("image-size: [1, 2, 3]", "image-size: expected a size"),
        ("imagesize: 3", "unknown key 'imagesize'"),
        ("overwrite: yes please", "overwrite must be true or false"),
        ("preset: rubust", "preset must be one of robust, paper"),
        ("samples: {a: 1}", "samples must be a value"),
        ("patch_size: 0", "patch_size must be"),
        ("- a", "must hold 'key: value' lines"),
    ],
)
def test_a_bad_file_of_options_is_one_line(defense, images, out, tmp_path, fails, text, expected):
    file = tmp_path / "options.yaml"
    file.write_text(text)
    line = fails("defend", images, "--out", out, "--config", file)
    assert str(file) in line and expected in line and not out.exists()


@pytest.mark.parametrize(
    "arguments", [["scan", "x", "--out", "y", "--epochs"], ["evaluate", "x", "--clean", "y", "--unheard-of"]]
)
def test_wrong_usage_shows_the_usage_of_the_command(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    shown = capsys.readouterr().err
    assert ended.value.code == 2 and shown.startswith(f"usage: advrbd {arguments[0]} ")
    assert f"advrbd {arguments[0]}: error: " in shown


def test_what_is_said_goes_through_logging(defense, images, out, caplog, monkeypatch):
    from advrbd_plugin.cli import messages

    seen = []
    monkeypatch.setattr(messages._Lines, "emit", lambda self, record: seen.append(record))
    assert run("scan", images, out) == 3
    assert {record.name for record in seen} == {"advrbd_plugin"}
    assert any("train done" in record.getMessage() for record in seen)


def test_reused_stages_are_said(tmp_path, caplog):
    import torch

    from advrbd_plugin.cache import StageStore

    store = StageStore(tmp_path)
    store.save("scoring", "k" * 64, {"a": torch.ones(1)})
    with caplog.at_level("INFO", "advrbd_plugin"):
        assert store.load("scoring", "k" * 64) is not None
    assert caplog.messages == [f"scoring: found in {tmp_path}, not computed again."]


def test_the_table_says_that_there_is_no_verdict():
    from advrbd_plugin.cli.defend import _summary_rows

    summary = {"images": 5, "poisoned": 0, "suspected_classes": [], "left_out": [], "config": {"detect_targets": True}}
    rows = dict(_summary_rows(summary | {"trained_enough": False}, "out"))
    assert rows["suspected target classes"].startswith("no verdict: the model learned too little")
    assert dict(_summary_rows(summary | {"trained_enough": True}, "out"))["suspected target classes"] == "none"
