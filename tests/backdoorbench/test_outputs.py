"""The figures that are written for BackdoorBench's users."""

from __future__ import annotations

import csv
import logging
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advrbd_plugin.backdoorbench import classifiers
from advrbd_plugin.backdoorbench.classifiers import PixelScaleClassifier, toolbox_state, wrap_state
from advrbd_plugin.backdoorbench.datasets import TestSets as JudgedSets
from advrbd_plugin.backdoorbench.log_progress import LogProgress
from advrbd_plugin.backdoorbench.outputs import count_detection, judge, write_detection_info, write_verdicts
from advrbd_plugin.backdoorbench.record import read_record
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.classifier import ImageClassifier


def bools(text):
    return torch.tensor([character == "x" for character in text])


def test_counts_and_rates():
    counts = count_detection(poisoned=bools("xxx......."), flagged=bools("xx.x......"))
    assert counts.to_mapping() == {"TN": 6, "FP": 1, "FN": 1, "TP": 2, "TPR": 2 / 3, "FPR": 1 / 7}
    nothing = count_detection(poisoned=bools("xx.."), flagged=bools("...."))
    assert nothing.to_mapping() == {"TN": 2, "FP": 0, "FN": 2, "TP": 0, "TPR": 0.0, "FPR": 0.0}
    assert count_detection(bools("...."), bools("x...")).to_mapping()["TPR"] == 0.0


def test_detection_info_is_one_table_however_often_it_is_written(tmp_path):
    counts = count_detection(bools("xx.."), bools("x..x"))
    for _ in range(2):
        write_detection_info(tmp_path, "badnet", counts, (0, 3))
    rows = list(csv.reader((tmp_path / "detection_info.csv").open()))
    assert rows == [
        ["record", "TN", "FP", "FN", "TP", "TPR", "FPR", "target"],
        ["badnet", "1", "1", "1", "1", "0.5", "0.5", "0 3"],
    ]


def test_verdicts_name_the_original_index(tmp_path):
    images = ImageSet(
        torch.zeros(2, 1, 2, 2, dtype=torch.uint8), torch.tensor([1, 0]), ("a", "b"), torch.tensor([7, 3])
    )
    verdicts = SimpleNamespace(
        poisoned=bools("x."), score=torch.tensor([0.5, 0.25]), suggested_label=torch.tensor([0, 0])
    )
    write_verdicts(tmp_path, images, SimpleNamespace(verdicts=verdicts))
    rows = list(csv.reader((tmp_path / "verdicts.csv").open()))
    assert rows == [
        ["index", "label", "score", "verdict", "suggested_label"],
        ["7", "1", "0.5", "poisoned", "0"],
        ["3", "0", "0.25", "clean", "0"],
    ]


class Brightness(nn.Module):
    """Two classes: dark and bright, told by the normalised mean."""

    def __init__(self):
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        bright = self.scale * images.mean(dim=(1, 2, 3))
        return torch.stack([-bright, bright], dim=1)


def grey(*values):
    return torch.tensor(values, dtype=torch.uint8).view(-1, 1, 1, 1).expand(-1, 3, 2, 2).contiguous()


def test_judge_counts_as_the_toolbox_does():
    model = PixelScaleClassifier(Brightness(), (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    tests = JudgedSets(
        clean_images=grey(0, 255, 200),
        clean_labels=torch.tensor([0, 1, 0]),
        triggered_images=grey(255, 0, 0, 0),
        attack_labels=torch.tensor([1, 1, 1, 1]),
        original_labels=torch.tensor([0, 0, 0, 0]),
    )
    figures = judge(model, tests, batch_size=2, device=torch.device("cpu"))
    assert figures["test_acc"] == pytest.approx(2 / 3)
    assert (figures["test_asr"], figures["test_ra"]) == (0.25, 0.75)
    # The mean over batches, as the toolbox takes it: the last, smaller batch weighs as much as the first.
    logit = 10 * (200 / 255 - 0.5) / 0.25
    assert figures["clean_test_loss_avg_over_batch"] == pytest.approx(2 * logit / 2, rel=1e-4)


def test_the_model_of_a_result_is_saved_as_the_network_in_it():
    network = PixelScaleClassifier(Brightness(), (0.5,) * 3, (0.25,) * 3)
    pictures = ImageSet(grey(0, 255), torch.tensor([0, 1]), ("dark", "bright"))
    saved = toolbox_state(ImageClassifier.of(network, pictures))  # what AdvrBD.fit returns
    assert saved.keys() == network.classifier.state_dict().keys() and saved


def test_a_defenses_model_is_read_with_the_network_that_it_names(records, tmp_path, monkeypatch):
    record = read_record(records.write(records.content()))
    asked = []

    def model_maker(name, **about):
        asked.append((name, about))
        return lambda: PixelScaleClassifier(Brightness(), (0.5,), (0.5,))

    monkeypatch.setattr(classifiers, "model_maker", model_maker)
    path = tmp_path / "defense_result.pt"
    for named in ({"model_name": "vgg19_bn"}, {}):
        torch.save({"model": {"module.scale": torch.tensor(3.0)}, **named}, path)
        model = classifiers.load_defended_model(path, record)
        assert model.classifier.scale.item() == 3.0 and not model.training
    about = {"num_classes": 3, "image_size": 8, "dataset": "cifar10"}
    assert asked == [("vgg19_bn", about), ("preactresnet18", about)]
    for content in ({}, {"model": None}, [1]):  # the first is what the toolbox leaves when the loss is NaN
        torch.save(content, path)
        with pytest.raises(AdvrBDError, match="holds no model"):
            classifiers.load_defended_model(path, record)
    torch.save({"model": {"scale": StrangeType()}}, path)
    with pytest.raises(AdvrBDError, match="StrangeType"):
        classifiers.load_defended_model(path, record)
    with pytest.raises(AdvrBDError, match="another architecture"):
        classifiers.attacked_model(record)


class StrangeType:
    """What no file of BackdoorBench holds."""


def test_the_saved_state_is_the_toolboxs_own():
    model = PixelScaleClassifier(Brightness(), (0.5,), (0.5,))
    assert list(toolbox_state(model)) == ["scale"]
    again = wrap_state({"old_name": torch.tensor(3.0)}, lambda: PixelScaleClassifier(Brightness(), (0.5,), (0.5,)))
    assert again.classifier.scale.item() == 3.0 and not again.training
    pruned = {"scale_orig": torch.tensor(6.0), "scale_mask": torch.tensor(0.5)}
    assert wrap_state(pruned, lambda: model).classifier.scale.item() == 3.0
    with pytest.raises(AdvrBDError, match="another architecture"):
        wrap_state({"scale": torch.zeros(2)}, lambda: model)
    with pytest.raises(TypeError):
        toolbox_state(Brightness())


def test_progress_tells_stage_share_and_eta(caplog):
    now = [0.0]
    progress = LogProgress(every=10, clock=lambda: now[0])
    with caplog.at_level(logging.INFO):
        progress.plan({"train": 100.0, "score": 100.0})
        progress.start("train")
        for _ in range(5):
            now[0] += 6
            progress.advance(10, loss=0.5)
        progress.finish()
        progress.start("score")
    lines = [line.getMessage() for line in caplog.records]
    assert lines[0] == "stage 1/2 train" and lines[-1] == "stage 2/2 score"
    assert lines[1] == "train: 10% of the run loss=0.5 ETA 1:48"
    assert len(lines) == 4
