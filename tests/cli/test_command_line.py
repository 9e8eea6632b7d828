"""Every command's way from arguments to files and exit status; the defense itself is a stand-in here."""

from __future__ import annotations

import csv
import errno
import json
import os
import subprocess
import sys
import zipfile

import pytest
import torch

from advrbd_plugin.cli import main
from advrbd_plugin.data import ImageSet
from advrbd_plugin.errors import AdvrBDError, StorageError

from .conftest import png

RESULTS = {
    "model.safetensors",
    "backdoored_model.safetensors",
    "model.json",
    "verdicts.csv",
    "summary.json",
    "curves.csv",
    "curves.json",
    "report.png",
    "report.html",
    "config.yaml",
}


def test_starting_is_cheap():
    code = (
        "import sys; from advrbd_plugin.cli.command import build_parser; build_parser().format_help(); "
        "print(sorted({'torch', 'numpy', 'sklearn', 'matplotlib', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_the_presets_offered_are_those_there_are():
    from advrbd_plugin.cli import options
    from advrbd_plugin.defense.config import PRESETS

    assert options.PRESETS == PRESETS


def test_version(capsys):
    with pytest.raises(SystemExit) as ended:
        main(["--version"])
    assert ended.value.code == 0 and capsys.readouterr().out.startswith("advrbd 0.")


def test_no_command_is_wrong_usage_and_shows_what_there_is(capsys):
    assert main([]) == 2
    shown = capsys.readouterr()
    assert shown.out.startswith("usage: advrbd") and "defend" in shown.out and shown.err == ""


def test_explaining_an_error_imports_nothing_heavy():
    code = (
        "import sys; from advrbd_plugin.cli import command; command._fail('a\\nb'); "
        "print(sorted({'torch', 'numpy', 'rich'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert (done.stdout.strip(), done.stderr) == ("[]", "advrbd: error: a\\nb\n")


def test_doctor_tells_what_is_there_and_what_is_not(capsys, monkeypatch):
    import advrbd_plugin.cli.installation

    assert main(["doctor"]) == 0
    assert "torch" in capsys.readouterr().out
    missing = advrbd_plugin.cli.installation.Finding("rich", "not installed", "missing", "pip install rich")
    monkeypatch.setattr(advrbd_plugin.cli.installation, "examine", lambda: [missing])
    assert main(["doctor"]) == 1
    assert capsys.readouterr().out.split() == ["MISSING", "rich", "not", "installed", "->", "pip", "install", "rich"]
    assert main(["doctor", "--json"]) == 1
    told = json.loads(capsys.readouterr().out)
    assert not told["healthy"] and told["findings"][0]["advice"] == "pip install rich"


def test_defend_writes_everything_and_evaluate_reads_it(defense, images, tmp_path, capsys):
    out = tmp_path / "cleaned"
    (images / "cat" / "broken.png").write_bytes(b"nonsense")
    assert main(["defend", str(images), "--out", str(out), "--seed", "3", "--epochs", "2"]) == 3
    assert {path.name for path in out.iterdir()} == RESULTS
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["images"], summary["poisoned"], summary["seed"]) == (24, 3, 3)
    assert summary["config"]["epochs"] == 2 and summary["suspected_classes"] == ["dog"]
    assert summary["left_out"] == [{"path": "cat/broken.png", "reason": "not an image"}]
    rows = list(csv.DictReader((out / "verdicts.csv").open()))
    assert len(rows) == 24 and rows[0] == {
        "path": "cat/00.png",
        "label": "cat",
        "verdict": "poisoned",
        "probability": "0.75",
        "suggested_label": "cat",
    }
    shown = capsys.readouterr()
    assert "3 (12.5%)" in shown.out and "cat/broken.png: not an image" in shown.err

    assert main(["evaluate", str(out), "--clean", str(images), "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert 0 <= figures["acc"] <= 1 and figures["asr"] is None and figures["clean_images"] == 24
    both = ["--triggered", str(images), "--target", "dog"]
    assert main(["evaluate", str(out), "--clean", str(images), *both, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["asr"] + figures["ra"] == 1 and figures["triggered_images"] == 12  # two classes: one or the other
    assert main(["evaluate", str(out), "--clean", str(images), *both]) == 0
    assert "attack success rate" in capsys.readouterr().out


def test_defend_takes_a_zip_and_settings(defense, images, tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in sorted(images.rglob("*.png")):
            archive.write(path, path.relative_to(images))
    config = tmp_path / "own.yaml"
    config.write_text("seed: 9\nepochs: 4\n")
    out = tmp_path / "out"
    arguments = ["--config", str(config), "--set", "epochs=3", "--image-size", "16", "--model", "resnet_narrow"]
    assert main(["defend", str(tmp_path / "set.zip"), "--out", str(out), *arguments]) == 3
    summary = json.loads((out / "summary.json").read_text())
    assert (summary["seed"], summary["config"]["epochs"], summary["image_size"]) == (9, 3, [16, 16])


@pytest.mark.skipif(sys.platform != "linux", reason="other systems refuse file names that are no UTF-8")
def test_names_that_are_no_text_and_names_that_are_commands(defense, images, tmp_path, capsys):
    (images / "dog").rename(os.fsdecode(os.fsencode(images) + b"/\xff\x1b[31m[bold]"))
    (images / "cat" / "00.png").rename(images / "cat" / "=1+1\n.png")
    out = tmp_path / "out"
    assert main(["defend", str(images), "--out", str(out)]) == 3
    with (out / "verdicts.csv").open(encoding="utf-8", errors="surrogateescape", newline="") as handle:
        rows = list(csv.DictReader(handle))
    assert rows[-1]["label"] == os.fsdecode(b"\xff\x1b[31m[bold]")  # as on the disk; the terminal shows it escaped
    assert "cat/=1+1\n.png" in {row["path"] for row in rows}
    assert main(["evaluate", str(out), "--clean", str(images)]) == 0
    shown = capsys.readouterr()
    assert "\x1b" not in shown.out + shown.err and "[31m[bold]" in shown.out


def test_the_former_name_of_a_setting_is_read_with_one_line(defense, images, tmp_path, capsys, fails):
    out, config = tmp_path / "out", tmp_path / "old.yaml"
    assert main(["defend", str(images), "--out", str(out), "--set", "accusation_gain=0.2"]) == 3
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "advrbd: note: the key accusation_gain is now called detection_gain"
    assert sum("detection_gain" in line for line in lines) == 1
    assert json.loads((out / "summary.json").read_text())["config"]["detection_gain"] == 0.2
    config.write_text("accuse_labels: true\n")
    assert main(["defend", str(images), "--out", str(tmp_path / "other"), "--config", str(config)]) == 3
    assert capsys.readouterr().err.splitlines()[0] == "advrbd: note: the key accuse_labels is now called detect_targets"
    both = ["--set", "doubt=0.2", "--set", "abstain_threshold=0.2"]
    assert "give only abstain_threshold" in fails("defend", images, "--out", tmp_path / "third", *both)


def test_a_small_set_is_trained_on_for_longer_and_the_user_is_told(defense, images, tmp_path, capsys):
    assert main(["defend", str(images), "--out", str(tmp_path / "longer")]) == 3
    assert "200 epochs in place of 20" in capsys.readouterr().err
    assert main(["defend", str(images), "--out", str(tmp_path / "as-said"), "--epochs", "2"]) == 3
    assert "in place of" not in capsys.readouterr().err


@pytest.mark.parametrize("attack", ["badnets", "none"])
def test_demo_knows_the_truth(defense, tmp_path, capsys, attack):
    out = tmp_path / "demo"
    assert main(["demo", "--attack", attack, "--samples", "200", "--out", str(out)]) == 0
    assert {path.name for path in out.iterdir()} == RESULTS | {"demo.png"}
    truth = json.loads((out / "summary.json").read_text())["truth"]
    assert truth["poisoned"] == (10 if attack == "badnets" else 0)
    assert (truth["defended"]["asr"] is None) == (attack == "none")
    assert 0 <= truth["detection"]["fpr"] <= 1
    assert "undefended" in capsys.readouterr().out


def test_demo_with_the_real_defense_and_real_pictures(tmp_path, capsys):
    quick = ["--epochs", "1", "--set", "enhancement_steps=2", "--set", "relearn_epochs=1", "--samples", "300"]
    assert main(["demo", "--out", str(tmp_path / "out"), *quick]) == 0
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS | {"demo.png"}
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["config"]["flip"] is False and set(summary["seconds"]) >= {"training", "scoring"}
    assert "training done" in capsys.readouterr().err


def test_demo_on_train_and_test_folders(defense, images, tmp_path):
    data = tmp_path / "data"
    data.mkdir()
    images.rename(data / "train")
    with zipfile.ZipFile(data / "test.zip", "w") as archive:
        for path in (data / "train").rglob("*.png"):
            archive.write(path, path.relative_to(data))
    (data / "train.zip").symlink_to(data / "test.zip")
    (data / "train").rename(tmp_path / "elsewhere")
    assert main(["demo", "--data", str(data), "--out", str(tmp_path / "out"), "--attack", "blend"]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["truth"]["poisoned"] == 1


@pytest.fixture
def cifar10(tmp_path):
    import pickle

    import numpy

    folder = tmp_path / "data" / "cifar-10-batches-py"
    folder.mkdir(parents=True)
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        pixels = numpy.full((8, 3072), 40, numpy.uint8)
        (folder / name).write_bytes(pickle.dumps({"data": pixels, "labels": [0, 1] * 4}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    return folder


def test_defend_and_demo_read_cifar10_as_it_is_unpacked(defense, cifar10, tmp_path):
    folder = cifar10
    assert main(["demo", "--data", str(folder.parent), "--out", str(tmp_path / "demo")]) == 0
    assert main(["defend", str(folder), "--out", str(tmp_path / "out"), "--samples", "20"]) == 3
    summary = json.loads((tmp_path / "out" / "summary.json").read_text())
    assert summary["images"] == 20 and list(summary["classes"]) == ["cat", "dog"]


def test_evaluate_reads_the_test_part_of_what_defend_reads(defense, cifar10, images, tmp_path, capsys, fails):
    out = tmp_path / "out"
    assert main(["defend", str(cifar10), "--out", str(out)]) == 3
    capsys.readouterr()
    both = ["--triggered", str(cifar10), "--target", "dog"]
    assert main(["evaluate", str(out / "model.safetensors"), "--clean", str(cifar10.parent), *both, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert (figures["clean_images"], figures["triggered_images"]) == (8, 4)
    (images / "dog").rename(images / "cow")
    assert main(["defend", str(images), "--out", str(out), "--image-size", "32", "--overwrite"]) == 3
    assert "has the class 'dog', which the model does not know: it knows cat, cow" in fails(
        "evaluate", out, "--clean", cifar10
    )


def test_evaluate_knows_imagenette_whole_or_by_part(defense, tmp_path, capsys):
    folder = tmp_path / "imagenette2-160"
    for part, count in (("train", 12), ("val", 3)):
        for wnid in ("n01440764", "n02102040"):
            (folder / part / wnid).mkdir(parents=True)
            for number in range(count):
                (folder / part / wnid / f"{number}.JPEG").write_bytes(png(number))
    assert main(["defend", str(folder), "--out", str(tmp_path / "out"), "--image-size", "16"]) == 3
    assert set(json.loads((tmp_path / "out" / "summary.json").read_text())["classes"]) == {"tench", "English springer"}
    for place in (folder, folder / "val"):
        capsys.readouterr()
        assert main(["evaluate", str(tmp_path / "out"), "--clean", str(place), "--json"]) == 0
        assert json.loads(capsys.readouterr().out)["clean_images"] == 6


@pytest.mark.parametrize("option", ["--clean-from-poisoned", "--data"])
def test_repair_reads_the_training_part_of_what_defend_reads(defense, cifar10, tmp_path, fails, monkeypatch, option):
    import advrbd_plugin.ulrl

    def seen(*arguments, **_):
        images = next(each for each in arguments if isinstance(each, ImageSet))
        raise AdvrBDError(f"{len(images)} images of {images.class_names}")

    monkeypatch.setattr(advrbd_plugin.ulrl, "clean_from_poisoned", seen)
    monkeypatch.setattr(advrbd_plugin.ulrl.ULRL, "repair", seen)
    assert main(["defend", str(cifar10), "--out", str(tmp_path / "out")]) == 3
    line = fails("repair", tmp_path / "out", option, cifar10, "--out", tmp_path / "repaired")
    assert line == "40 images of ('cat', 'dog')"
    assert not (tmp_path / "repaired").exists()


def test_demo_holds_out_a_test_part_where_there_is_none(defense, images, tmp_path):
    assert main(["demo", "--data", str(images), "--out", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out" / "summary.json").read_text())["images"] == 18


# Bad input: one line, status 2, nothing left behind.


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda images: images.rename(images.parent / "gone"), "does not exist"),
        (lambda images: [path.unlink() for path in images.rglob("*.png")], "class with no image"),
        (lambda images: [path.write_bytes(b"x") for path in images.rglob("*.png")], "none of the 24 files"),
        (lambda images: (images / "dog").rename(images.parent / "gone"), "one class only"),
        (lambda images: (images / "empty").mkdir(), "a class with no image: 'empty'"),
    ],
)
def test_bad_folders_are_explained(defense, images, tmp_path, fails, prepare, expected):
    prepare(images)
    assert expected in fails("defend", images, "--out", tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["--model", "resnet_wide"], "--model must be one of"),
        (["--set", "patch_sise=3"], "patch_sise"),
        (["--set", "epochs=-1"], "epochs"),
        (["--device", "abacus"], "--device must be cpu, cuda or cuda:N, got 'abacus'"),
        (["--device", "meta"], "--device must be cpu, cuda or cuda:N, got 'meta'"),
        (["--device", "cuda:77"], "--device cuda:77 cannot be used"),
        (["--config", "nowhere.yaml"], "nowhere.yaml"),
        (["--samples", "1"], "samples must be at least"),
    ],
)
def test_bad_options_are_explained(defense, images, tmp_path, fails, arguments, expected):
    assert expected in fails("defend", images, "--out", tmp_path / "out", *arguments)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    "arguments",
    [
        ["defend", "x"],
        ["defend", "x", "--out", "y", "--set", "novalue"],
        ["defend", "x", "--out", "y", "--image-size", "0"],
        ["evaluate", "x", "--clean", "y", "--target", "cat"],
        ["demo", "--attack", "unheard-of"],
    ],
)
def test_wrong_usage_has_status_2(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "usage:" in capsys.readouterr().err


def test_a_folder_of_others_is_not_written_to(defense, images, tmp_path, fails):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.tex").write_text("precious")
    assert "thesis.tex" in fails("defend", images, "--out", tmp_path / "out")
    assert "is a file" in fails("defend", images, "--out", tmp_path / "out" / "thesis.tex")
    assert os.listdir(tmp_path / "out") == ["thesis.tex"]
    assert "inside the data" in fails("defend", images, "--out", images / "out")


def test_a_place_that_the_system_refuses_is_one_line(defense, images, tmp_path, fails):
    place = tmp_path / ("n" * 300)
    assert fails("defend", images, "--out", place) == f"{place}: File name too long"
    (tmp_path / "file").write_text("text")
    assert "Not a directory" in fails("defend", images, "--out", tmp_path / "file" / "out")


def test_a_defense_that_fails_before_it_stored_anything_leaves_nothing(defense, images, tmp_path, fails):
    defense.failure, defense.stores = AdvrBDError("the model's output is not a number in stage train"), False
    assert "not a number" in fails("defend", images, "--out", tmp_path / "new" / "out")
    assert not (tmp_path / "new").exists()


def test_an_error_keeps_what_this_run_or_an_earlier_one_stored(defense, images, tmp_path, fails):
    checkpoint = tmp_path / "out" / ".advrbd-work" / "checkpoint"
    defense.failure = AdvrBDError("relearning diverges: lower the learning rate")
    assert "lower" in fails("defend", images, "--out", tmp_path / "out")
    assert checkpoint.exists()
    defense.failure, defense.stores = AdvrBDError("patch_size must be in [1, 8], got 16"), False
    assert "patch_size" in fails("defend", images, "--out", tmp_path / "out", "--image-size", "8")
    assert checkpoint.exists()
    defense.failure = None
    assert main(["defend", str(images), "--out", str(tmp_path / "out")]) == 3
    assert {path.name for path in (tmp_path / "out").iterdir()} == RESULTS


def test_a_full_disk_during_training_keeps_what_was_done(defense, images, tmp_path, fails):
    defense.failure = StorageError("the disk is full")
    assert fails("defend", images, "--out", tmp_path / "out") == "the disk is full"
    assert (tmp_path / "out" / ".advrbd-work" / "checkpoint").exists()


def test_a_full_disk_while_writing_leaves_the_earlier_results(defense, images, tmp_path, fails, monkeypatch):
    out = tmp_path / "out"
    assert main(["defend", str(images), "--out", str(out)]) == 3
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    monkeypatch.setattr(os, "fsync", _third_call_fails())
    assert "is full" in fails("defend", images, "--out", out, "--seed", "5", "--overwrite")
    assert {path.name: path.read_bytes() for path in out.iterdir() if path.is_file()} == before
    assert [path.name for path in out.iterdir() if path.is_dir()] == [".advrbd-work"]


def _third_call_fails():
    calls = []

    def fsync(descriptor):
        calls.append(descriptor)
        if len(calls) == 3:
            raise OSError(errno.ENOSPC, "No space left on device")

    return fsync


def test_ctrl_c_says_how_to_go_on(defense, images, tmp_path, fails):
    defense.failure = KeyboardInterrupt()
    line = fails("defend", images, "--out", tmp_path / "out", status=130)
    assert line == "interrupted: run the same command again to go on from here"
    assert (tmp_path / "out" / ".advrbd-work" / "checkpoint").exists()


def test_evaluate_explains_what_it_cannot_use(defense, images, tmp_path, fails):
    assert "holds no model.json" in fails("evaluate", tmp_path, "--clean", images)
    out = tmp_path / "out"
    assert main(["defend", str(images), "--out", str(out)]) == 3
    bad_target = ["--triggered", images, "--target", "cow"]
    assert "--target must be one of" in fails("evaluate", out, "--clean", images, *bad_target)
    (images / "cow").mkdir()
    assert "does not know, 'cow'" in fails("evaluate", out, "--clean", images)
    (images / "cow").rmdir()
    (out / "model.safetensors").write_bytes(b"\x00" * 64)
    assert "is damaged" in fails("evaluate", out, "--clean", images)
    (out / "model.json").write_text('{"format": "advrbd-model", "version": 1, "name": "resnet_narrow"}')
    assert "class_names must be distinct names" in fails("evaluate", out, "--clean", images)


def test_a_model_is_its_folder_or_the_file_that_is_loaded(defense, images, tmp_path, fails):
    out, repaired = tmp_path / "out", ["--out", tmp_path / "repaired"]
    assert main(["defend", str(images), "--out", str(out)]) == 3
    (out / "other.safetensors").write_bytes(b"another model")
    other = out / "other.safetensors"
    for command in (["evaluate", other, "--clean", images], ["repair", other, "--data", images, *repaired]):
        assert fails(*command) == f"the model must be a folder or its file model.safetensors, got {other}"


@pytest.mark.parametrize("given", ["out", "out/model.safetensors", "data/../out"])
def test_a_repair_does_not_replace_its_model(defense, images, tmp_path, fails, given):
    out = tmp_path / "out"
    (tmp_path / "data").mkdir()
    assert main(["defend", str(images), "--out", str(out)]) == 3
    before = {path.name: path.read_bytes() for path in out.iterdir()}
    line = fails("repair", tmp_path / given, "--data", images, "--out", out)
    assert line == f"--out {out} is the folder of MODEL, which would be replaced: give a new or empty folder"
    assert {path.name: path.read_bytes() for path in out.iterdir()} == before


def used_up_memory() -> RuntimeError:
    """PyTorch's own error for more memory than any computer has."""
    with pytest.raises(RuntimeError) as error:
        torch.empty(2**60, dtype=torch.uint8)
    return error.value


@pytest.mark.parametrize("make_error", [MemoryError, used_up_memory])
def test_used_up_memory_is_explained_with_the_commands_options(
    defense, images, tmp_path, fails, monkeypatch, make_error
):
    import advrbd_plugin.evaluation.metrics

    def judge(*_):
        raise make_error()

    out = tmp_path / "out"
    assert main(["defend", str(images), "--out", str(out)]) == 3
    defense.failure = make_error()
    line = fails("defend", images, "--out", out, "--overwrite")
    assert line.startswith("the computer's memory is used up: try --set batch_size=... with a smaller number or --")
    assert (out / ".advrbd-work" / "checkpoint").exists()
    monkeypatch.setattr(advrbd_plugin.evaluation.metrics, "evaluate", judge)
    assert fails("evaluate", out, "--clean", images) == (
        "the computer's memory is used up: give fewer images, or end other programs"
    )


def test_a_used_up_gpu_is_explained_and_a_mistake_of_ours_is_not_hidden(defense, images, tmp_path, fails):
    defense.failure = torch.OutOfMemoryError("CUDA out of memory")
    line = fails("defend", images, "--out", tmp_path / "out")
    assert line.startswith("the GPU's memory is used up: try --set batch_size=") and line.endswith(" or --device cpu")
    defense.failure = RuntimeError("shapes do not match")
    with pytest.raises(RuntimeError, match="shapes"):
        main(["defend", str(images), "--out", str(tmp_path / "out")])


def test_nan_in_a_saved_model_is_explained(defense, images, tmp_path, fails):
    from safetensors.torch import load_file, save_file

    out = tmp_path / "out"
    assert main(["defend", str(images), "--out", str(out)]) == 3
    tensors = load_file(out / "model.safetensors")
    broken = {name: tensor * float("nan") if tensor.is_floating_point() else tensor for name, tensor in tensors.items()}
    save_file(broken, out / "model.safetensors")
    assert "output is NaN or infinite" in fails("evaluate", out, "--clean", images)
