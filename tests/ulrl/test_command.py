"""`advrbd repair` from arguments to files."""

from __future__ import annotations

import json

import pytest
import torch
from PIL import Image

from advrbd_plugin.cli import main
from advrbd_plugin.report import ModelDescription, load_model, save_model

SETTINGS = ("unlearn_epochs=1", "relearn_steps=2", "attraction_steps=1", "warp_steps=1", "patterns=false")
QUICK = [part for each in SETTINGS for part in ("--set", each)] + ["--device", "cpu"]
NAMES = ("dark", "grey", "bright")


@pytest.fixture
def model_folder(tmp_path):
    torch.manual_seed(0)
    description = ModelDescription("resnet_narrow", NAMES, 3, (8, 8), (0.5,) * 3, (0.25,) * 3)
    folder = tmp_path / "model"
    folder.mkdir()
    save_model(folder, description.build(), description)
    return folder


def write_images(folder, counts):
    for label, (name, count) in enumerate(zip(NAMES, counts, strict=True)):
        (folder / name).mkdir(parents=True)
        for number in range(count):
            Image.new("RGB", (8, 8), (90 * label + number, 40, 40)).save(folder / name / f"{number}.png")
    return folder


def repair(*arguments):
    return main(["repair", *map(str, arguments)])


def error_of(capsys):
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("advrbd: error: ")]
    assert len(lines) == 1
    return lines[0]


def test_a_repair_writes_model_neurons_and_report(model_folder, tmp_path, capsys):
    data, out = write_images(tmp_path / "clean", (3, 3, 3)), tmp_path / "out"
    switched = ["--set", "attraction=false", "--set", "warps=false", "--set", "z_threshold=0.5"]
    assert repair(model_folder / "model.safetensors", "--data", data, "--out", out, *QUICK, *switched) == 0
    names = {file.name for file in out.iterdir()}
    assert names == {
        "model.safetensors", "model.json", "summary.json", "neurons.csv", "curves.csv", "curves.json", "report.html",
        "report.png", "config.yaml",
    }  # fmt: skip
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["method"], summary["verdict"]) == ("ulrl", "suspicious neurons found")
    assert summary["suspicious_neurons"] == (out / "neurons.csv").read_text().count(",1\n") > 0
    assert "Repaired" in (out / "report.html").read_text()
    load_model(out)
    assert "suspicious neurons found" in capsys.readouterr().out


def test_a_model_that_looks_clean_is_said_to_be(model_folder, tmp_path):
    data, out = write_images(tmp_path / "clean", (2, 2, 2)), tmp_path / "out"
    assert (
        repair(
            model_folder,
            "--data",
            data,
            "--out",
            out,
            *QUICK,
            "--set",
            "attraction_threshold=1",
            "--set",
            "warps=false",
        )
        == 0
    )
    assert json.loads((out / "summary.json").read_text())["verdict"] == "looks clean"
    assert "looks clean" in (out / "report.html").read_text()


def test_clean_samples_can_come_from_the_untrusted_set(model_folder, tmp_path):
    data, out = write_images(tmp_path / "untrusted", (6, 6, 6)), tmp_path / "out"
    assert repair(model_folder, "--clean-from-poisoned", data, "--samples", 6, "--out", out, *QUICK) == 0
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["clean_from_poisoned"], summary["clean_samples"]) == (True, 6)


def test_too_few_clean_samples_are_one_line(model_folder, tmp_path, capsys):
    data = write_images(tmp_path / "clean", (1, 1, 0))
    assert repair(model_folder, "--data", data, "--out", tmp_path / "out", *QUICK) == 2
    assert "at least one clean sample of each of the 3 classes, got 2" in error_of(capsys)
    assert not (tmp_path / "out").exists()


def test_weights_that_do_not_fit_or_are_no_numbers_are_one_line(model_folder, tmp_path, capsys):
    from safetensors.torch import load_file, save_file

    data, weights = write_images(tmp_path / "clean", (1, 1, 1)), model_folder / "model.safetensors"
    tensors = load_file(weights)
    first = next(name for name, value in tensors.items() if value.ndim == 4)
    save_file(tensors | {first: torch.full_like(tensors[first], float("nan"))}, weights)
    assert repair(model_folder, "--data", data, "--out", tmp_path / "out", *QUICK) == 2
    assert "NaN or infinite" in error_of(capsys)
    save_file({name: value for name, value in tensors.items() if name != first}, weights)
    assert repair(model_folder, "--data", data, "--out", tmp_path / "out", *QUICK) == 2
    assert "does not fit model.json" in error_of(capsys)


def test_a_source_of_clean_samples_is_needed(model_folder, tmp_path, capsys):
    with pytest.raises(SystemExit) as ended:
        repair(model_folder, "--out", tmp_path / "out")
    assert ended.value.code == 2
    assert "--data" in capsys.readouterr().err


def test_a_finished_repair_is_shown_again_and_not_replaced(model_folder, tmp_path, capsys):
    data, out = write_images(tmp_path / "clean", (2, 2, 2)), tmp_path / "out"
    command = (model_folder, "--data", data, "--out", out, *QUICK, "--set", "attraction_threshold=1")
    assert repair(*command) == 0
    first, written = capsys.readouterr().out, (out / "summary.json").read_bytes()
    assert repair(*command) == 0
    shown = capsys.readouterr()
    assert shown.out == first and "finished before" in shown.err
    assert repair(*command, "--seed", 4) == 2
    assert "finished results of other settings (seed was 0, now 4)" in error_of(capsys)
    description = load_model(model_folder).description
    save_model(model_folder, description.build(), description)
    assert repair(*command) == 2
    assert "finished results of other data" in error_of(capsys)
    assert (out / "summary.json").read_bytes() == written
