"""The benches that ask about the models that the stress suite keeps, on a set of 60 pictures."""

from __future__ import annotations

import hashlib
import json
import shutil
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advrbd_plugin.defense import stage_runner
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.cell import STRESS, Cell
from advrbd_plugin.evaluation.experiment import Options
from advrbd_plugin.evaluation.process import run_cell
from advrbd_plugin.evaluation.result import read_result, write_result
from advrbd_plugin.evaluation.stress_experiment import StressExperiment
from advrbd_plugin.files import write_json

NAME = "wave%10+noise10-s3"


def cell_of(method: str = "none", samples: int = 60) -> Cell:
    return Cell(STRESS, "cifar10", "resnet_narrow", "wave%10+noise10", 0.0, 3, method, samples=samples)


@pytest.fixture(scope="module")
def suite(make_tiny, tmp_path_factory) -> Options:
    """A suite of one set, undefended and defended."""
    tiny = make_tiny(tmp_path_factory.mktemp("suite"))
    for method in ("none", "advrbd"):
        write_result(tiny.out, cell_of(method), run_cell(cell_of(method), tiny))
    return tiny


@pytest.fixture(scope="module")
def folders(benchmark, suite, tmp_path_factory):
    own = str(tmp_path_factory.mktemp("bench"))
    return benchmark("suite_models").Folders(suite.data, suite.out, suite.work, own)


@pytest.fixture(scope="module")
def suite_set(benchmark, folders):
    (only,) = benchmark("suite_models").find_sets(folders, None)
    return only


@pytest.fixture(autouse=True)
def no_training(suite, monkeypatch):
    """Nothing may be trained once the suite was run."""

    def refuse(*_args, **_more):
        raise AssertionError("a bench must not train")

    monkeypatch.setattr(stage_runner, "train", refuse)


def content_of(folder: str) -> dict[str, str]:
    paths = (path for path in sorted(Path(folder).rglob("*")) if path.is_file())
    return {str(path): hashlib.sha256(path.read_bytes()).hexdigest() for path in paths}


def test_the_suites_model_is_read_and_nothing_of_the_suite_is_changed(suite_set, suite):
    before = content_of(suite.work) | content_of(suite.out)
    kept = StressExperiment(cell_of(), suite).first_stage.model.state_dict()
    trained = suite_set.trained
    assert all(torch.equal(value, kept[name]) for name, value in trained.model.state_dict().items())
    assert trained.mean_probabilities.shape == (60, 3) and not trained.model.training
    features, logits = suite_set.answers
    assert len(features) == 60 and logits.shape == (60, 3)
    assert suite_set.asr == [each["asr"] for each in suite_set.undefended["triggers"]]
    assert suite_set.defended == read_result(suite.out, cell_of("advrbd")).content
    assert content_of(suite.work) | content_of(suite.out) == before


def test_answers_are_computed_once(benchmark, suite_set, folders, monkeypatch):
    models = benchmark("suite_models")
    features, logits = suite_set.answers
    monkeypatch.setattr(models, "layered_features", lambda *_args, **_more: pytest.fail("they were there"))
    again = models.find_sets(folders, NAME)[0].answers
    assert torch.equal(again[0], features) and torch.equal(again[1], logits)


def test_a_missing_model_is_one_line_that_says_what_to_run(benchmark, folders, suite, tmp_path, capsys):
    models, work = benchmark("suite_models"), tmp_path / "work"
    shutil.copytree(suite.work, work)
    for path in work.glob("stress/*/training-*"):
        path.unlink()
    (suite_set,) = models.find_sets(replace(folders, models=str(work)), NAME)
    assert models.each_set([suite_set], lambda each: each.trained, "bench") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"bench: {NAME}: its undefended model is not in {work}: run advrbd reproduce --suite stress")
    assert f"--sets {NAME}@60 --defenses none --data {suite.data} --out {suite.out} --work {work}" in line


def test_a_set_without_a_result_or_with_two_is_told(benchmark, folders, suite, tmp_path):
    find_sets = benchmark("suite_models").find_sets
    with pytest.raises(
        AdvrBDError, match="no result of clean-s1 in .*: run advrbd reproduce --suite stress --sets cle"
    ):
        find_sets(folders, f"{NAME},clean-s1")
    for samples in (60, 30):
        write_result(tmp_path, cell_of(samples=samples), read_result(suite.out, cell_of()).content)
    with pytest.raises(AdvrBDError, match="has several results"):
        find_sets(replace(folders, results=str(tmp_path)), None)


def test_rivals_measure_the_suites_model_once(benchmark, suite_set, folders, tmp_path, monkeypatch):
    rivals, out = benchmark("rivals"), tmp_path / "rivals"
    rivals.measure(suite_set, out, ["spectral_signatures", "consistency"])
    row = json.loads((out / f"{NAME}.json").read_text())
    assert (row["set"], row["model"], row["poison"]) == (suite_set.fingerprint, suite_set.model_fingerprint, 6)
    assert row["methods"]["spectral_signatures"]["fpr"] is not None
    assert row["methods"]["consistency"]["fpr"] is None and set(row["methods"]) == {
        "spectral_signatures",
        "consistency",
    }
    monkeypatch.setitem(rivals.METHODS, "spectral_signatures", lambda _kept: pytest.fail("it was measured"))
    rivals.measure(suite_set, out, ["spectral_signatures"])
    write_json(out / f"{NAME}.json", row | {"model": "another"})
    with pytest.raises(pytest.fail.Exception, match="it was measured"):
        rivals.measure(suite_set, out, ["spectral_signatures"])


def test_verdicts_from_elsewhere_are_read_if_they_are_of_the_set(benchmark, suite_set, folders, tmp_path):
    from safetensors.torch import save_file

    path, out = Path(folders.work) / "flare" / f"{NAME}.safetensors", tmp_path / "rivals"
    path.parent.mkdir(parents=True)
    told = {"set": suite_set.fingerprint, "settings": {"xi": 0.02}, "cpu_seconds": 7.0}
    save_file({"poisoned": suite_set.stress.poisoned}, path, {"verdicts": json.dumps(told)})
    rivals = benchmark("rivals")
    rivals.measure(suite_set, out, [])
    method = json.loads((out / f"{NAME}.json").read_text())["methods"]["flare"]
    assert (method["tpr"], method["fpr"], method["auroc"], method["seconds"]) == (1.0, 0.0, None, 7.0)
    save_file({"poisoned": suite_set.stress.poisoned}, path, {"verdicts": json.dumps(told | {"set": "another"})})
    with pytest.raises(AdvrBDError, match="is of another set of that name: remove that file"):
        rivals.measure(suite_set, out, [])


def test_mislabelled_samples_are_no_false_alarms(benchmark, suite_set):
    rivals, stress = benchmark("rivals"), suite_set.stress
    assert stress.mislabelled.any()
    flagged = benchmark("rival_rules").Flagged(stress.poisoned | stress.mislabelled, None)
    figures = rivals.judged(stress, [1.0], flagged)
    assert (figures["tpr"], figures["fpr"], figures["triggers"]) == (1.0, 0.0, [1.0])


def test_the_search_is_judged_as_the_suite_judges(benchmark, suite_set, folders, tmp_path, monkeypatch):
    detection, folder = benchmark("detection"), tmp_path / "judged"
    detection.judge(suite_set, folder)
    row = json.loads((folder / f"{NAME}.json").read_text())
    assert set(row["figures"]) == {"tpr", "fpr", "auroc", "poison_in_trusted"}
    assert row["verdicts"].keys() == suite_set.defended["verdicts"].keys()
    assert [each["labels"] for each in row["triggers"]] == [each["labels"] for each in suite_set.undefended["triggers"]]
    assert "scoring" not in row["seconds"]  # the suite's was read
    monkeypatch.setattr(detection, "find", lambda *_args: pytest.fail("it was judged"))
    detection.judge(suite_set, folder)
    write_json(folder / f"{NAME}.json", row | {"algorithm": "another"})
    with pytest.raises(pytest.fail.Exception, match="it was judged"):
        detection.judge(suite_set, folder)


def test_what_the_transplants_saw_is_kept(benchmark, monkeypatch):
    """The detector is the plugin's own, by whose name a run finds the suite's later stages."""
    from advrbd_plugin.defense import detection as plugin

    detection, seen = benchmark("detection"), []
    monkeypatch.setattr(detection, "detect_by_transplant", named := lambda *_args, **_more: "what was seen")
    named.__name__ = "detect_by_transplant"
    monkeypatch.setattr(detection, "detect_targets", lambda *_args: plugin.detect_by_transplant())
    original = plugin.detect_by_transplant
    detector = detection._watched_detector(seen)
    assert detector() == "what was seen" and seen == ["what was seen"]
    assert plugin.detect_by_transplant is original
