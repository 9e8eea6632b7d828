"""The habits of Python's machine learning libraries: what a user's file may count on."""

from __future__ import annotations

import importlib
import importlib.util
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

from advrbd_plugin import (
    AdvrBDConfig,
    AdvrBDError,
    AdvrBDResult,
    AdvrBDScan,
    ImageClassifier,
    ImageSet,
    PoisonDetector,
    load_model,
    make_model,
)
from advrbd_plugin.defense.findings import ClassFinding, Window
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.nn.description import ModelDescription

USER_FILE = Path(__file__).with_name("user_file.py")


@pytest.fixture(scope="module")
def user_file():
    spec = importlib.util.spec_from_file_location("user_file", USER_FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def images(user_file):
    return user_file.pictures(20)


@pytest.fixture
def scan(images):
    return AdvrBDScan(**found(images))


@pytest.fixture
def result(images):
    model = ImageClassifier.of(network().eval(), images)
    return AdvrBDResult(**found(images), model=model, is_retrained=True, rounds=2, remark="the clean one")


def network() -> nn.Module:
    return make_model("resnet_narrow", num_classes=2, image_size=8)


def found(images: ImageSet) -> dict:
    """What a scan of ``images`` might give: every tenth poisoned, every tenth mislabelled."""
    place = torch.arange(len(images)) % 10
    nothing = torch.zeros(len(images), dtype=torch.bool)
    return {
        "backdoored_model": ImageClassifier.of(network().eval(), images),
        "verdicts": Verdicts(place == 0, 0.25 + 0.5 * (place == 0), 1 - images.labels, nothing, place == 1),
        "suspected_classes": (1,),
        "findings": (
            ClassFinding(0, False, 0.1, "nothing"),
            ClassFinding(1, True, 0.9, "a square", pattern=torch.ones(3, 8, 8), window=Window(1, 2, 3)),
        ),
        "evidence": (),
        "fit": 0.9,
        "trained_enough": True,
        "curves": {"training": [{"epoch": 1, "loss": 0.5}]},
        "seconds": {"training": 1.5},
        "config": AdvrBDConfig(patch_size=4),
        "train_set": images,
    }


def test_a_users_file_runs(user_file, tmp_path):
    user_file.main(tmp_path)


def test_the_examples_of_the_page_run(tmp_path, monkeypatch):
    from advrbd_plugin import AdvrBD

    for name in ("cat", "dog"):
        (tmp_path / "my_images" / name).mkdir(parents=True)
        for value in range(10):
            Image.new("RGB", (30, 20), (value, 9, 9)).save(tmp_path / "my_images" / name / f"{value}.png")
    own = {"is_retrained": True, "rounds": 2, "remark": "the clean one"}
    monkeypatch.setattr(AdvrBD, "scan", lambda self, train_set: AdvrBDScan(**found(train_set)))
    monkeypatch.setattr(
        AdvrBD,
        "fit",
        lambda self, train_set: AdvrBDResult(**found(train_set), **own, model=ImageClassifier.of(network(), train_set)),
    )
    monkeypatch.chdir(tmp_path)
    text = (Path(__file__).resolve().parents[2] / "docs" / "python.md").read_text(encoding="utf-8")
    names: dict = {}
    for block in re.findall(r"```python\n(.*?)```", text, re.DOTALL):
        exec(compile(block, "docs/python.md", "exec"), names)
    assert len(names["poisoned"]) == 20 and names["model"].image_size == (32, 32)


def test_mypy_passes_a_users_file():
    pytest.importorskip("mypy")
    root = Path(__file__).resolve().parents[2]
    command = [sys.executable, "-m", "mypy", "--strict", "--follow-imports=silent", str(USER_FILE)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


# The detector.


@pytest.fixture
def detector(monkeypatch, images):
    from advrbd_plugin.defense import detector as module

    class Instant:
        def __init__(self, make_model, config, **_):
            Instant.config = config

        def scan(self, train_set):
            return AdvrBDScan(**found(train_set))

    monkeypatch.setattr(module, "AdvrBD", Instant)
    return PoisonDetector()


def test_verdicts_are_ones_and_scores_are_from_zero_on(detector, images):
    assert detector.fit(images) is detector
    assert detector.predict().tolist() == [1, *[0] * 9] * 2 and detector.predict().dtype == np.int64
    assert ((detector.decision_function() >= 0) == detector.predict().astype(bool)).all()
    assert (detector.fit_predict(images) == detector.predict(images)).all()


def test_poison_is_reported_as_art_reports_it(detector, images):
    report, is_clean = detector.fit(images).detect_poison(nb_clusters=2)
    assert is_clean == [0, *[1] * 9] * 2
    assert report["suspected_classes"] == ["dog"] and report["classes"]["dog"]["window"] == [1, 2, 3]


def test_a_detector_takes_arrays_and_data_sets(detector, images):
    arrays = images.images.permute(0, 2, 3, 1).numpy(), images.labels.numpy()
    assert len(detector.fit(*arrays).predict()) == 20
    assert len(detector.fit([(image, int(label)) for image, label in zip(*arrays, strict=True)]).predict()) == 20


def test_a_detector_judges_the_set_of_its_fit_only(detector, images):
    with pytest.raises(AdvrBDError, match="call fit"):
        detector.predict()
    detector.fit(images)
    assert len(detector.predict(images.images)) == 20
    with pytest.raises(AdvrBDError, match="only the set that it was fitted to"):
        detector.predict(images.images[:5])
    with pytest.raises(AdvrBDError, match="pictures need labels"):
        detector.fit(images.images)


def test_scikit_learn_can_clone_a_detector(detector):
    from sklearn.base import clone

    again = clone(PoisonDetector("resnet18", work_dir="work").set_params(device="cpu"))
    assert again.get_params() == {
        "model": "resnet18", "config": None, "device": "cpu", "work_dir": "work", "progress": None
    }  # fmt: skip
    with pytest.raises(AdvrBDError, match="no parameter 'models'"):
        detector.set_params(models=3)


# Results.


def test_a_table_has_a_row_for_each_sample(scan):
    table = scan.table()
    assert table.columns.tolist() == ["sample_id", "label", "verdict", "probability", "suggested_label"]
    assert table.verdict.tolist() == ["poisoned", "mislabelled", *["clean"] * 8] * 2
    assert table.iloc[0].to_dict() | {"sample_id": 0} == {
        "sample_id": 0, "label": "cat", "verdict": "poisoned", "probability": 0.75, "suggested_label": "dog"
    }  # fmt: skip


def test_a_table_without_pandas_is_one_line(scan, monkeypatch):
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(AdvrBDError, match="needs the package pandas: pip install pandas"):
        scan.table()


@pytest.mark.parametrize("kind", ["scan", "result"])
def test_what_is_saved_is_loaded_again(request, kind, tmp_path, images):
    before = request.getfixturevalue(kind)
    before.save(tmp_path / "saved")
    before.save(tmp_path / "saved")  # over its own files
    after = type(before).load(tmp_path / "saved")
    assert torch.equal(after.verdicts.poisoned, before.verdicts.poisoned)
    assert torch.equal(after.findings[1].pattern, before.findings[1].pattern)
    assert after.findings[1].window == Window(1, 2, 3) and after.config == before.config
    assert (after.curves, after.seconds) == (before.curves, before.seconds)
    assert after.table().equals(before.table())
    names = ("backdoored_model", "model") if kind == "result" else ("backdoored_model",)
    for name in names:
        mine, theirs = getattr(before, name).state_dict(), getattr(after, name).state_dict()
        assert all(torch.equal(mine[key], theirs[key]) for key in mine)
    with pytest.raises(AdvrBDError, match="train_set=images"):
        after.report(tmp_path / "page")


def test_a_bad_saved_result_is_one_line(result, tmp_path):
    result.save(tmp_path / "saved")
    with pytest.raises(AdvrBDError, match="holds 'AdvrBDResult', not AdvrBDScan"):
        AdvrBDScan.load(tmp_path / "saved")
    with pytest.raises(AdvrBDError, match=r"holds no result\.json"):
        AdvrBDResult.load(tmp_path)
    (tmp_path / "saved" / "result.safetensors").write_bytes(b"x" * 99)
    with pytest.raises(AdvrBDError, match="damaged or missing"):
        AdvrBDResult.load(tmp_path / "saved")
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("precious")
    with pytest.raises(AdvrBDError, match=r"holds other files \(thesis.tex\)"):
        result.save(tmp_path / "other")


def test_a_result_writes_its_report(result, tmp_path, monkeypatch):
    from advrbd_plugin.report import output

    monkeypatch.setattr(output, "overview_png", lambda *_: b"picture")
    monkeypatch.setattr(output, "report_html", lambda *_: "page")
    summary = result.report(tmp_path / "page")
    assert summary["poisoned"] == 2 and (tmp_path / "page" / "verdicts.csv").exists()
    assert load_model(tmp_path / "page").class_names == ("cat", "dog")


def test_texts_are_short(result, scan):
    assert repr(result) == "AdvrBDResult(2 of 20 samples poisoned, suspected classes: dog)"
    assert repr(scan).startswith("AdvrBDScan(2 of 20")
    assert repr(result.verdicts) == "Verdicts(20 samples: 2 poisoned, 0 uncertain, 2 mislabelled)"
    for each in (result.model, result.samples, result.findings[1], PoisonDetector(network)):
        assert len(repr(each)) < 200 and "tensor(" not in repr(each)


# Models.


@pytest.fixture
def classifier(images):
    torch.manual_seed(1)
    return ImageClassifier.of(network().eval(), images)


def test_pictures_of_any_kind_and_size_are_prepared(classifier):
    colour, grey = Image.new("RGB", (40, 30), (200, 10, 60)), Image.new("L", (8, 8), 99)
    kinds = [colour, grey, np.zeros((30, 40), np.uint8), torch.zeros(3, 30, 40, dtype=torch.uint8)]
    assert classifier.prepare(kinds).shape == (4, 3, 8, 8)
    assert classifier.predict(torch.zeros(5, 3, 300, 400, dtype=torch.uint8)).shape == (5,)
    assert classifier.predict_proba(colour).sum(1).tolist() == pytest.approx([1.0])
    assert (classifier.prepare(grey) == 99).all()


def test_images_of_its_own_size_are_its_networks(classifier, images):
    inputs = images.images.float() / 255
    assert torch.equal(classifier(inputs), classifier.network(inputs))
    assert torch.equal(classifier.prepare(images), images.images)
    assert set(classifier.state_dict()) == set(classifier.network.state_dict())


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (torch.zeros(1, 3, 300, 400), "takes images of 3x8x8, got 3x300x400"),
        (torch.zeros(1, 1, 8, 8), "takes images of 3x8x8, got 1x8x8"),
        (torch.zeros(1, 3, 8, 8, dtype=torch.uint8), "takes floats in"),
    ],
)
def test_other_images_are_refused(classifier, given, expected):
    with pytest.raises(AdvrBDError, match=expected):
        classifier(given)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], "no pictures"),
        ("cat.png", "got 'cat.png'"),
        (np.zeros((8, 8, 3)), "must be uint8"),
        (np.zeros((8, 8, 5), np.uint8), "the shape"),
    ],
)
def test_what_is_no_picture_is_one_line(classifier, given, expected):
    with pytest.raises(AdvrBDError, match=expected):
        classifier.predict(given)


def test_a_model_of_ones_own_is_loaded_with_its_maker(images, tmp_path):
    class Own(nn.Sequential):
        def __init__(self):
            super().__init__(nn.Flatten(), nn.Linear(192, 2))

    model = ImageClassifier.of(Own().eval(), images)
    model.save(tmp_path)
    again = load_model(tmp_path, make_model=Own)
    assert torch.equal(again.predict_proba(images), model.predict_proba(images))
    with pytest.raises(AdvrBDError, match="Own"):
        load_model(tmp_path)


def test_an_exported_program_gives_the_same_logits(classifier, tmp_path):
    path = classifier.export(tmp_path / "model.pt2")
    inputs = torch.rand(5, 3, 8, 8)
    again = torch.export.load(path).module()(inputs)
    torch.testing.assert_close(again, classifier(inputs), atol=1e-5, rtol=1e-4)
    with pytest.raises(AdvrBDError, match=r"ends in \.onnx or \.pt2"):
        classifier.export(tmp_path / "model.pt")


def test_onnx_gives_the_same_logits(classifier, tmp_path):
    pytest.importorskip("onnxscript")
    onnx = pytest.importorskip("onnx")
    from onnx.reference import ReferenceEvaluator

    path = classifier.export(tmp_path / "model.onnx")
    inputs = torch.rand(3, 3, 8, 8)
    (logits,) = ReferenceEvaluator(onnx.load(path)).run(None, {"images": inputs.numpy()})
    torch.testing.assert_close(torch.from_numpy(logits), classifier(inputs).detach(), atol=1e-4, rtol=1e-3)
    assert [file.name for file in tmp_path.iterdir()] == ["model.onnx"]


def test_a_missing_onnx_is_one_line(classifier, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(AdvrBDError, match="needs the package onnx: pip install onnx onnxscript"):
        classifier.export(tmp_path / "model.onnx")
    assert not list(tmp_path.iterdir())


def test_a_description_says_which_network_it_is(images):
    assert ModelDescription.of_network(network(), images).name == "resnet_narrow"
