"""What a run costs is said before it begins."""

from __future__ import annotations

import pytest
import torch

from advrbd_plugin.cli import foretelling, main
from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense import forecast
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.nn.models import make_model


@pytest.mark.parametrize(
    ("seconds", "text"), [(3, "1 s"), (42, "40 s"), (480, "8 min"), (4200, "1 h 10 min"), (7200, "2 h")]
)
def test_times_are_rounded_for_people(seconds, text):
    assert foretelling.rough(seconds) == text


def test_a_forecast_grows_with_the_work_and_a_scan_costs_less(monkeypatch):
    monkeypatch.setattr(forecast, "_seconds_per_image", lambda *_: 0.01)
    images = ImageSet(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 2, ("a", "b"))

    def seconds(epochs, **options):
        config = AdvrBDConfig(epochs=epochs, patch_size=4, enhancement_steps=1)
        make = lambda: make_model("resnet_narrow", num_classes=2, image_size=8)  # noqa: E731
        found = forecast.foretell(make, images, config, device=torch.device("cpu"), **options)
        assert found.peak_bytes > 2**20
        return found.seconds

    assert seconds(2000) > 1.5 * seconds(100)
    assert seconds(2000, scan=True) < 0.8 * seconds(2000)


def test_a_measurement_takes_a_moment_and_changes_no_random_numbers():
    images = ImageSet(torch.zeros(8, 3, 8, 8, dtype=torch.uint8), torch.arange(8) % 2, ("a", "b"))
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    make = lambda: make_model("resnet_narrow", num_classes=2, image_size=8)  # noqa: E731
    found = forecast.foretell(make, images, AdvrBDConfig(patch_size=4), device=torch.device("cpu"), image_size=(16, 12))
    assert found.seconds > 0 and torch.equal(torch.rand(1), expected)


def layers(width: int) -> torch.nn.Module:
    """Keeps ``width`` + 10 numbers an image for its backward pass (its ReLUs' outputs); ten are its features."""
    return torch.nn.Sequential(
        torch.nn.Flatten(),
        torch.nn.Linear(3 * 8 * 8, width),
        torch.nn.ReLU(),
        torch.nn.Linear(width, 10),
        torch.nn.ReLU(),
        torch.nn.Linear(10, 2),
    )


@pytest.mark.parametrize(("count", "scored", "read"), [(5000, 128, 2048), (40, 40, 40)])
def test_the_memory_of_the_stages_is_that_of_what_they_keep(count, scored, read):
    images, labels = torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(20) % 2
    config = AdvrBDConfig(patch_size=4, num_masks=2, batch_size=50, mixed_precision=False)
    model = layers(1000)
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    # Of each image: the ReLUs' outputs, two log-probabilities and a label; its pixels, their gradient, two copies.
    scoring = scored * (4 * 1010 + 2 * 4 + 8 + (2 + 2) * 4 * 192)
    # Three copies of the features and the logits; of each value of a piece that is read: 40 bytes.
    detection = 4 * count * (3 * 10 + 2) + 40 * read * 192
    found = forecast.memory_of_stages(model, images, labels, count, config, torch.device("cpu"))
    assert found == pytest.approx(max(scoring, detection) + 3 * weights, rel=0.01)


def test_the_features_of_a_large_set_take_more_than_any_batch():
    images, labels = torch.zeros(20, 3, 8, 8, dtype=torch.uint8), torch.arange(20) % 2
    config, model = AdvrBDConfig(patch_size=4, mixed_precision=False), layers(20)
    weights = 4 * sum(weight.numel() for weight in model.parameters())
    found = forecast.memory_of_stages(model, images, labels, 10**6, config, torch.device("cpu"))
    assert found == 4 * 10**6 * (3 * 10 + 2) + 40 * 2048 * 192 + 3 * weights


def test_the_memory_foretold_is_what_is_in_use_and_what_will_be(monkeypatch):
    monkeypatch.setattr(forecast, "_seconds_per_image", lambda *_: 0.01)
    monkeypatch.setattr(forecast, "_in_use", lambda device: 1000)
    monkeypatch.setattr(forecast, "memory_of_stages", lambda *_: 234)
    images = ImageSet(torch.zeros(40, 3, 8, 8, dtype=torch.uint8), torch.arange(40) % 2, ("a", "b"))
    for most, expected in ((1100, 1234), (5000, 5000)):  # reading the images may have taken more
        monkeypatch.setattr(forecast, "_most_so_far", lambda device, most=most: most)
        make = lambda: layers(8)  # noqa: E731
        found = forecast.foretell(make, images, AdvrBDConfig(patch_size=4), device=torch.device("cpu"))
        assert found.peak_bytes == expected


@pytest.mark.parametrize(("size", "smaller"), [((32, 32), None), ((64, 64), (32, 32)), ((300, 400), (48, 64))])
def test_a_smaller_size_is_offered_for_large_images(size, smaller):
    assert forecast.smaller_size(size) == smaller


def test_a_long_run_is_foretold_with_a_way_to_make_it_short(defense, images, tmp_path, capsys, monkeypatch):
    def foretell(*_, image_size=None, **__):
        return forecast.Forecast(4200.0 if image_size is None else 480.0, 1180 * 2**20)

    monkeypatch.setattr(forecast, "foretell", foretell)
    assert main(["scan", str(images), "--out", str(tmp_path / "out"), "--image-size", "128"]) == 3
    expected = "About 1 h 10 min on this machine, 1.2 GiB of memory; with --image-size 64 about 8 min."
    assert expected in capsys.readouterr().err


def test_a_missing_tensorboard_is_one_line(defense, images, tmp_path, fails, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch.utils.tensorboard", None)
    line = fails("scan", images, "--out", tmp_path / "out", "--tensorboard", tmp_path / "board")
    assert line == "--tensorboard needs the package tensorboard: pip install tensorboard"


def test_figures_go_to_tensorboard(defense, images, tmp_path):
    pytest.importorskip("tensorboard")
    assert main(["scan", str(images), "--out", str(tmp_path / "out"), "--tensorboard", str(tmp_path / "board")]) == 3
    (events,) = (tmp_path / "board").iterdir()
    assert b"train/loss" in events.read_bytes()


def test_completions_name_the_commands(capsys, monkeypatch):
    pytest.importorskip("shtab")
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    shown = capsys.readouterr().out
    assert ended.value.code in (0, None) and "scan" in shown and "--image-size" in shown


def test_completions_without_shtab_are_one_line(capsys, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "shtab", None)
    with pytest.raises(SystemExit) as ended:
        main(["--print-completion", "bash"])
    assert ended.value.code == 2 and "needs the package shtab" in capsys.readouterr().err
