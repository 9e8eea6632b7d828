"""What the benchmarks' scripts share: the names of what they keep, and what they publish."""

import argparse
import importlib.util
import json
import sys
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def small_scale():
    path = Path(__file__).parents[1] / "benchmarks" / "small_scale.py"
    spec = importlib.util.spec_from_file_location("small_scale", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def parse(small_scale):
    parser = argparse.ArgumentParser()
    small_scale.add_arguments(parser, attacks="badnets,wanet")
    return lambda *words: parser.parse_args(list(words))


def test_only_what_differs_from_the_defaults_is_in_the_names(small_scale, parse):
    assert small_scale.variant("badnets", parse()) == "badnets"
    assert small_scale.variant("badnets", parse("--epochs", "20", "--poison-ratio", "0.05")) == "badnets"
    unusual = parse(
        "--poison-ratio", "0.1", "--epochs", "60", "--set-attack", "strength=1.0", "--set-attack", "control_points=8"
    )
    assert small_scale.variant("wanet", unusual) == "wanet-0.1-control_points=8-strength=1-epochs60"
    assert small_scale.variant("none", unusual) == "none-epochs60"
    attack = small_scale.attack_of("wanet", unusual)
    assert (attack.poison_ratio, attack.strength, attack.control_points) == (0.1, 1.0, 8)
    assert small_scale.attack_of("none", unusual) is None


@pytest.mark.parametrize(
    "text", ["poison_ratio=0.1", "target_label=3", "picture=/a/b.png", "opacities=[1, 2]", "strength"]
)
def test_a_parameter_that_cannot_be_set_here_is_refused(parse, capsys, text):
    with pytest.raises(SystemExit):
        parse("--set-attack", text)
    assert "--set-attack" in capsys.readouterr().err


@pytest.mark.parametrize("words", [("--set-attack", "strength=1"), ("--attacks", "none"), ("--epochs", "-1")])
def test_a_wrong_option_is_one_line(small_scale, parse, tmp_path, words):
    with pytest.raises(SystemExit, match=r"^benchmarks/[^\n]*$"):
        small_scale.check_data(parse("--data", str(tmp_path), *words))
    with pytest.raises(SystemExit, match="nowhere is missing"):
        small_scale.check_data(parse("--data", str(tmp_path / "nowhere")))


def test_no_place_on_the_machine_is_published(small_scale, tmp_path):
    def said(text):
        return small_scale.without_paths(text, tmp_path)

    log = f"{tmp_path}/record/a/defense/anp/compare_defense.log"
    assert said(f"defense/anp.py failed: it printed nothing (see {log})") == "defense/anp.py failed: it printed nothing"
    assert said(f"{tmp_path}/record/a/result.pt holds no model") == "record/a/result.pt holds no model"
    assert said("No such file: '/home/me/data/x.yaml'") == "No such file: 'x.yaml'"
    assert said("needs ./data/cifar10 of https://example.org/a") == "needs ./data/cifar10 of https://example.org/a"


def test_the_results_say_how_they_were_made(small_scale, parse, tmp_path):
    words = ("--out", str(tmp_path), "--set-attack", "strength=1.0", "--epochs", "60")
    small_scale.write_results("figures", parse(*words), [{"a": 1}], "| a |\n", test_samples=7)
    content = json.loads((tmp_path / "figures.json").read_text())
    assert content["rows"] == [{"a": 1}] and (tmp_path / "figures.md").read_text() == "| a |\n"
    assert content["attack_settings"] == {"strength": 1.0}
    assert (content["training_epochs"], content["poison_ratio"], content["test_samples"]) == (60, 0.05, 7)
    assert content["command"] == f"python benchmarks/{Path(sys.argv[0]).name}"


def other_result(**changes):
    return {
        "data": {"name": "digits", "train": 8000, "test": 2000, "classes": 10, "image_size": [28, 28]},
        "attack": {"name": "badnets", "poison_ratio": 0.05, "target": "5", "seed": 1},
        "label_share": 0.354,
        "before": {"acc": 0.99, "asr": 1.0, "ra": 0.0},
        "after": {"acc": 0.98, "asr": 0.002, "ra": 0.97},
        "detection": {"tpr": 1.0, "fpr": 0.001, "auroc": 1.0},
        "mislabelled": 3,
        "poison_trusted": 0,
        "target_found": True,
        "falsely_suspected": ["0", "8"],
        "algorithm": {},
    } | changes


def test_the_table_of_other_data_says_what_was_found_and_by_which_version(benchmark):
    from advrbd_plugin.evaluation.algorithm import current_algorithm

    table = benchmark("other_data").table_of
    clean = other_result(
        attack={"name": "none", "poison_ratio": 0.0, "target": "5", "seed": 1},
        detection={"tpr": None, "fpr": 0.0, "auroc": None},
        falsely_suspected=[],
        algorithm=current_algorithm(),
    )
    lines = table([other_result(), clean]).splitlines()
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 4
    assert (
        "| digits\u2020 | 8,000 of 28x28 | 10 | badnets, 5% | 35.4 | 99.0 | 98.0 | 100.0 | 0.2 | yes | 0, 8 |"
        in lines[2]
    )
    assert "| digits | 8,000 of 28x28 | 10 | none | \u2013 | 99.0 | 98.0 | \u2013 |" in lines[3]


def test_a_cell_of_other_data_is_done_where_the_same_was_asked_of_this_version(benchmark):
    from argparse import Namespace

    from advrbd_plugin.evaluation.algorithm import current_algorithm

    module = benchmark("other_data")
    arguments = Namespace(samples=8000, no_flip=True)
    stored = other_result(algorithm=current_algorithm(), asked=module.asked(arguments))
    assert module.is_done(stored, arguments)
    assert not module.is_done(other_result(asked=module.asked(arguments)), arguments)
    for other in (Namespace(samples=4000, no_flip=True), Namespace(samples=8000, no_flip=False)):
        assert not module.is_done(stored, other)


def test_a_folder_that_is_not_there_is_one_line(benchmark, monkeypatch, tmp_path, capsys):
    module = benchmark("other_data")
    monkeypatch.setattr(sys, "argv", ["other_data.py", str(tmp_path / "nowhere"), "--out", str(tmp_path / "out")])
    assert module.main() == 1
    said = capsys.readouterr().err.splitlines()
    assert len(said) == 2 and all("nowhere" in line for line in said)
    assert not (tmp_path / "out").exists()
