"""One run's settings: the command line over YAML, every key read or refused."""

from __future__ import annotations

import argparse

import pytest

from advrbd_plugin.backdoorbench.settings import UNUSED_KEYS, add_arguments, read_settings, takes_option
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.errors import AdvrBDError


def settings(tmp_path, text, *command):
    path = tmp_path / "cifar10.yaml"
    path.write_text(text)
    parser = argparse.ArgumentParser()
    add_arguments(parser, str(path))
    return read_settings(vars(parser.parse_args(command)), AdvrBDConfig)


def test_the_command_line_stands_over_the_file(tmp_path):
    text = "dataset: cifar10\nepochs: 7\nlr: 0.25\nrandom_seed: 3\nepsilon: 8/255\n"
    found = settings(tmp_path, text, "--epochs", "2", "--device", "cpu", "--num_masks", "2", "--amp", "False")
    assert (found.config.epochs, found.config.learning_rate, found.config.seed) == (2, 0.25, 3)
    assert (found.config.num_masks, found.config.mixed_precision) == (2, False)
    assert found.config.epsilon == pytest.approx(8 / 255)
    assert (found.options["dataset"], found.options["device"], found.options["model"]) == ("cifar10", "cpu", None)
    assert found.unused == ()


def test_the_toolboxs_name_stands_over_advrbds_own(tmp_path):
    assert settings(tmp_path, "learning_rate: 0.5\n", "--lr", "0.125").config.learning_rate == 0.125


def test_what_advrbd_has_no_use_for_is_said(tmp_path):
    found = settings(tmp_path, "pin_memory: true\n", "--ratio", "0.05")
    assert set(found.unused) == {"pin_memory", "ratio"}


@pytest.mark.parametrize(
    "text, said",
    [
        ("epsilom: 3\n", "unknown key epsilom; did you mean epsilon"),
        ("gamma_low: 3\n", "unknown key gamma_low; "),
        ("epochs: -1\n", r"epochs must be a whole number in \[0, 10000\], got -1"),
        ("preset: best\n", "preset must be one of robust, paper"),
        ("- 1\n", "must hold keys and values, got a list"),
        ("a: [\n", "is not valid YAML"),
    ],
)
def test_mistakes_are_one_line(tmp_path, text, said):
    with pytest.raises(AdvrBDError, match=said) as error:
        settings(tmp_path, text)
    assert "cifar10.yaml" in str(error.value) and "\n" not in str(error.value)


def test_a_missing_file_is_said(tmp_path):
    parser = argparse.ArgumentParser()
    add_arguments(parser, str(tmp_path / "nothing.yaml"))
    with pytest.raises(AdvrBDError, match="cannot read the configuration .*nothing.yaml"):
        read_settings(vars(parser.parse_args([])), AdvrBDConfig)


def test_which_options_are_known():
    assert all(takes_option(f"--{name}") for name in (*UNUSED_KEYS, "epochs", "lr", "preset", "result_file"))
    assert takes_option("--trust-record") and not takes_option("--tuning_epochs")


@pytest.mark.parametrize("name", ["config", "cifar10", "cifar100", "gtsrb", "tiny", "imagenette"])
def test_the_configurations_that_register_writes_are_read(tmp_path, name):
    from advrbd_plugin.backdoorbench.registration import planned_files

    found = settings(tmp_path, planned_files()[f"config/defense/advrbd/{name}.yaml"].decode())
    assert found.options["dataset"] == (None if name == "config" else name)
    assert not found.unused


def test_a_former_name_of_a_key_is_still_read(tmp_path):
    with pytest.warns(UserWarning, match="the key doubt is now called abstain_threshold"):
        assert settings(tmp_path, "doubt: 0.25\n").config.abstain_threshold == 0.25
