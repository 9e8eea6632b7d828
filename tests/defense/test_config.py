import pytest
import yaml

from advrbd_plugin.defense.config import PRESETS, AdvrBDConfig, ScoringConfig
from advrbd_plugin.errors import AdvrBDError


def test_defaults_are_the_robust_preset():
    assert AdvrBDConfig.preset("robust") == AdvrBDConfig()


def test_paper_preset_is_the_paper():
    config = AdvrBDConfig.preset("paper")
    assert (config.num_masks, config.detect_targets, config.enhancement) == (1, False, "unlearn")


@pytest.mark.parametrize("name", PRESETS)
def test_mapping_and_yaml_round_trip(name, tmp_path):
    config = AdvrBDConfig.preset(name).replace(seed=7)
    path = tmp_path / "config.yaml"
    path.write_text(yaml.safe_dump(config.to_mapping()))
    assert AdvrBDConfig.from_yaml(path) == AdvrBDConfig.from_mapping(config.to_mapping()) == config


def test_a_mapping_starts_from_the_preset_that_it_names():
    assert AdvrBDConfig.from_mapping({"preset": "paper", "seed": 3}) == AdvrBDConfig.preset("paper").replace(seed=3)


@pytest.mark.parametrize(
    ("samples", "batch_size", "epochs"),
    [
        (50_000, 64, 20),
        (9_600, 64, 20),
        (2_000, 64, 94),
        (1_999, 64, 94),
        (800, 64, 200),
        (2, 64, 200),
        (50_000, 512, 31),
    ],
)
def test_epochs_left_to_the_set_make_enough_batches_but_do_not_go_on_for_ever(samples, batch_size, epochs):
    assert AdvrBDConfig(batch_size=batch_size).for_samples(samples).epochs == epochs
    assert AdvrBDConfig(epochs=7, batch_size=batch_size).for_samples(samples).epochs == 7


def test_fractions_and_exponents_are_numbers():
    assert AdvrBDConfig.from_mapping({"seed": "9007199254740993"}).seed == 9007199254740993  # which is no float
    config = AdvrBDConfig.from_mapping({"epsilon": "8/255", "weight_decay": "5e-4", "epochs": "3"})
    assert (config.epsilon, config.weight_decay, config.epochs) == (8 / 255, 5e-4, 3)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"epsilon": 2}, "epsilon must be a number in [0.0, 1.0], got 2"),
        ({"epsilon": float("nan")}, "epsilon must be a number in [0.0, 1.0], got nan"),
        ({"epochs": 1.5}, "epochs must be a whole number in [0, 10000], got 1.5"),
        ({"epochs": True}, "epochs must be a whole number in [0, 10000], got True"),
        ({"flip": "yes"}, "flip must be true or false, got 'yes'"),
        ({"reduction": "max"}, "reduction must be one of median, geometric_mean, mean, got 'max'"),
        ({"epsilonn": 0.1}, "unknown key 'epsilonn'; did you mean epsilon?"),
        ({"preset": "best"}, "preset must be one of robust, paper, got 'best'"),
        ({"enhancement": "unlearn"}, "enhancement must be trigger or none where detect_targets is true"),
    ],
)
def test_errors_name_key_value_and_what_is_allowed(changes, line):
    with pytest.raises(AdvrBDError) as caught:
        AdvrBDConfig.from_mapping(changes)
    assert str(caught.value).startswith(line)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["epochs: [", "- 1\n- 2\n", ""])
def test_a_broken_file_is_named(tmp_path, text):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(AdvrBDError, match="broken.yaml"):
        AdvrBDConfig.from_yaml(path)


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(AdvrBDError, match="no.yaml"):
        AdvrBDConfig.from_yaml(tmp_path / "no.yaml")


def test_former_names_of_keys_are_still_read_and_said_in_one_line():
    with pytest.warns(UserWarning, match="^the key accusation_gain is now called detection_gain$"):
        config = AdvrBDConfig.from_mapping({"accusation_gain": 0.3})
    assert config.detection_gain == 0.3
    with pytest.raises(AdvrBDError, match="doubt is the former name of abstain_threshold: give only abstain_threshold"):
        config.replace(doubt=1.0, abstain_threshold=2.0)


def test_a_part_holds_the_settings_of_one_stage_alone():
    part = AdvrBDConfig(seed=3, epsilon=0.1, alpha=0.3).part(ScoringConfig)
    assert (part.seed, part.epsilon) == (3, 0.1) and not hasattr(part, "alpha")
    assert part == ScoringConfig(seed=3, epsilon=0.1)
