"""The whole defense on small sets."""

import dataclasses
from typing import ClassVar

import pytest
import torch
from torch import nn

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense import pipeline as advrbd
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detection, LabelEvidence
from advrbd_plugin.defense.pipeline import STAGES, AdvrBD
from advrbd_plugin.defense.retraining import relearn
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.metrics import evaluate, judge_detection
from advrbd_plugin.nn.models import make_model
from advrbd_plugin.nn.training import TrainingOptions, train

PAPER = {"detect_targets": False, "enhancement": "unlearn", "rounds": 2, "num_masks": 1, "reduction": "mean"}


@pytest.fixture(scope="module")
def robust(digits, poisoned_digits):
    config = AdvrBDConfig(epochs=20, flip=False, crop_padding=1)
    defense = AdvrBD(lambda: make_model("resnet_narrow", num_classes=10, in_channels=1, image_size=16), config)
    return defense.fit(poisoned_digits.image_set)


def test_the_defense_cleans_badnets_digits(robust, digits, poisoned_digits):
    attack = make_attack("badnets", target_label=1, poison_ratio=0.05)
    triggered = attack.triggered_test_set(digits[1])
    undefended = evaluate(robust.backdoored_model, digits[1], triggered, 1)
    defended = evaluate(robust.model, digits[1], triggered, 1)
    detection = judge_detection(poisoned_digits.poisoned, robust.verdicts.poisoned, robust.verdicts.score)
    assert undefended.asr > 0.8
    assert defended.asr <= 0.05 and defended.acc >= undefended.acc - 0.03
    assert robust.suspected_classes == (1,)
    assert detection.tpr >= 0.9 and detection.fpr <= 0.05 and detection.auroc > 0.97


def test_a_result_tells_what_was_done(robust, poisoned_digits):
    assert tuple(robust.curves) == ("training", "detection", "enhancement", "retraining", "relearning")
    assert set(robust.seconds) == set(STAGES)
    assert len(robust.curves["detection"]) == 10
    verdicts, labels = robust.verdicts, poisoned_digits.image_set.labels
    assert torch.equal(verdicts.suggested_label[~verdicts.poisoned], labels[~verdicts.poisoned])
    assert (verdicts.score[verdicts.poisoned] >= 0.5).all() and (verdicts.score[~verdicts.poisoned] < 0.5).all()
    relabelled = verdicts.suggested_label == poisoned_digits.true_labels
    assert relabelled[poisoned_digits.poisoned].float().mean() > 0.7


def same(first, second):
    return (
        digest(*first.model.state_dict().values()) == digest(*second.model.state_dict().values())
        and torch.equal(first.verdicts.score, second.verdicts.score)
        and torch.equal(first.verdicts.poisoned, second.verdicts.poisoned)
    )


@pytest.mark.parametrize("settings", [{}, PAPER], ids=["robust", "paper"])
def test_order_and_truth_play_no_part(poisoned_digits, make_digits_model, quick_config, settings):
    """The truth about poison is no input; shuffled, it changes nothing, and neither does the order of the samples."""
    config = quick_config.replace(detection_gain=0.0, **settings)
    whole = poisoned_digits.image_set.subset(torch.arange(400))
    first = AdvrBD(make_digits_model, config).fit(whole)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    shuffled_truth = dataclasses.replace(
        poisoned_digits, poisoned=poisoned_digits.poisoned[torch.randperm(len(poisoned_digits.poisoned))]
    )
    second = AdvrBD(make_digits_model, config).fit(shuffled_truth.image_set.subset(order))
    assert digest(*first.model.state_dict().values()) == digest(*second.model.state_dict().values())
    assert torch.equal(first.verdicts.score[order], second.verdicts.score)
    assert torch.equal(first.verdicts.poisoned[order], second.verdicts.poisoned)


def test_epochs_left_to_the_set_are_those_of_the_whole_set_in_every_training(
    poisoned_digits, make_digits_model, quick_config, monkeypatch
):
    monkeypatch.setattr("advrbd_plugin.defense.config._EPOCHS", 1)
    monkeypatch.setattr("advrbd_plugin.defense.config._BATCHES", 14)
    samples = poisoned_digits.image_set.subset(torch.arange(400))  # 7 batches, fewer without the suspects
    config = quick_config.replace(epochs=0, detection_gain=0.0, strong_evidence=0.0)
    result = AdvrBD(make_digits_model, config).fit(samples)
    assert result.verdicts.poisoned.any() and result.config.epochs == 2
    assert len(result.curves["training"]) == len(result.curves["retraining"]) == 2
    with pytest.raises(ValueError, match="epochs must be at least 1"):
        train(make_digits_model(), samples.images, samples.labels, samples.sample_ids, config.training(0))


class Killed(Exception):
    pass


class KilledAt:
    """A progress display that dies in the middle of one stage."""

    def __init__(self, stage):
        self.fatal, self.stage = stage, None

    def plan(self, work):
        pass

    def start(self, stage):
        self.stage = stage

    def advance(self, work, **figures):
        if self.stage == self.fatal:
            raise Killed

    def finish(self):
        pass


@pytest.mark.parametrize("stage", ["training", "enhancement", "retraining", "relearning"])
def test_a_killed_run_resumes_to_the_same_result(poisoned_digits, make_digits_model, quick_config, tmp_path, stage):
    config = quick_config.replace(detection_gain=0.0, strong_evidence=0.0)
    samples = poisoned_digits.image_set.subset(torch.arange(400))
    whole = AdvrBD(make_digits_model, config).fit(samples)
    with pytest.raises(Killed):
        AdvrBD(make_digits_model, config, work_dir=tmp_path, progress=KilledAt(stage)).fit(samples)
    assert same(whole, AdvrBD(make_digits_model, config, work_dir=tmp_path).fit(samples))
    assert same(whole, AdvrBD(make_digits_model, config, work_dir=tmp_path).fit(samples))


def test_other_settings_do_not_reuse_what_depends_on_them(poisoned_digits, make_digits_model, quick_config, tmp_path):
    samples = poisoned_digits.image_set.subset(torch.arange(200))
    other = quick_config.replace(seed=5)
    AdvrBD(make_digits_model, quick_config, work_dir=tmp_path).fit(samples)
    assert same(
        AdvrBD(make_digits_model, other, work_dir=tmp_path).fit(samples), AdvrBD(make_digits_model, other).fit(samples)
    )


class Counted:
    """A progress display that counts the work of each stage."""

    def __init__(self):
        self.done, self.stage = {}, None

    def plan(self, work):
        pass

    def start(self, stage):
        self.stage = stage

    def advance(self, work, **figures):
        self.done[self.stage] = self.done.get(self.stage, 0) + work

    def finish(self):
        pass


def test_the_partition_rate_plays_no_part_with_an_detection(poisoned_digits, make_digits_model, quick_config, tmp_path):
    """Cells of the grid that differ in alpha alone find each other's stages."""
    config = quick_config.replace(detection_gain=0.0, strong_evidence=0.0)
    samples = poisoned_digits.image_set.subset(torch.arange(400))
    first = AdvrBD(make_digits_model, config.replace(alpha=0.02), work_dir=tmp_path).fit(samples)
    assert first.verdicts.poisoned.any() and "relearning" in first.curves
    kept = sorted(tmp_path.iterdir())
    other, counted = config.replace(alpha=0.2, rounds=3), Counted()
    found = AdvrBD(make_digits_model, other, work_dir=tmp_path, progress=counted).fit(samples)
    assert same(first, found) and found.config.alpha == 0.2
    assert counted.done == {} and set(found.seconds) == {"training", "retraining", "relearning"}
    assert sorted(tmp_path.iterdir()) == kept
    assert same(first, AdvrBD(make_digits_model, other).fit(samples))


def test_the_partition_rate_of_the_paper_is_no_other_rates(poisoned_digits, make_digits_model, quick_config, tmp_path):
    samples = poisoned_digits.image_set.subset(torch.arange(200))
    config = quick_config.replace(**PAPER)
    for alpha in (0.05, 0.3):
        result = AdvrBD(make_digits_model, config.replace(alpha=alpha), work_dir=tmp_path).fit(samples)
        assert result.curves["enhancement"][0]["clean_share"] == pytest.approx(alpha)


class WatchedConfig(AdvrBDConfig):
    """Notes which settings are read."""

    read: ClassVar[set[str]] = set()

    def __getattribute__(self, name):
        type(self).read.add(name)
        return super().__getattribute__(name)


@pytest.mark.parametrize("settings", [{}, PAPER], ids=["robust", "paper"])
def test_what_names_a_stages_result_leaves_out_no_setting_that_it_reads(
    poisoned_digits, make_digits_model, quick_config, settings
):
    config = WatchedConfig(**quick_config.replace(detection_gain=0.0, **settings).to_mapping())
    defense = AdvrBD(make_digits_model, config, device="cpu")
    samples, model = poisoned_digits.image_set.subset(torch.arange(400)), make_digits_model().eval()
    identify = defense._identify_as_paper if settings else defense._identify_suspected
    WatchedConfig.read.clear()
    verdicts = identify(samples, model).verdicts
    read = set(WatchedConfig.read)
    unread = advrbd._UNREAD_AS_PAPER if settings else advrbd._UNREAD_WITH_ACCUSATION
    assert "epsilon" in read and not read & {*unread, *advrbd._READ_LATER}
    WatchedConfig.read.clear()
    relearn(model, samples.images, samples.sample_ids, verdicts, config)
    read = set(WatchedConfig.read)
    # The whole recipe, which names the result, and what stands in the place of two of its settings.
    recipe = {each.name for each in dataclasses.fields(TrainingOptions)}
    assert read & set(config.to_mapping()) == {*recipe, "relearn_epochs", "relearn_learning_rate"}


def test_the_first_stage_alone_is_that_of_the_whole(poisoned_digits, make_digits_model, quick_config, tmp_path):
    samples = poisoned_digits.image_set.subset(torch.arange(200))
    order = torch.randperm(200, generator=torch.Generator().manual_seed(1))
    first = AdvrBD(make_digits_model, quick_config, work_dir=tmp_path).train_backdoored(samples.subset(order))
    assert [row["epoch"] for row in first.rows] == [1, 2] and set(first.seconds) == {"training"}
    assert not first.model.training
    counted = Counted()
    whole = AdvrBD(make_digits_model, quick_config, work_dir=tmp_path, progress=counted).fit(samples)
    assert "training" not in counted.done and whole.curves["training"] == first.rows
    weights = first.model.state_dict(), whole.backdoored_model.state_dict()
    assert digest(*weights[0].values()) == digest(*weights[1].values())
    with pytest.raises(AdvrBDError, match="at least 2 images"):
        AdvrBD(make_digits_model, quick_config).train_backdoored(samples.subset(torch.arange(1)))


def test_without_an_detection_the_set_is_clean_and_the_model_stays(poisoned_digits, make_digits_model, quick_config):
    samples = poisoned_digits.image_set.subset(torch.arange(200))
    result = AdvrBD(make_digits_model, quick_config.replace(detection_gain=100.0)).fit(samples)
    assert result.suspected_classes == () and not result.verdicts.poisoned.any()
    assert result.model is result.backdoored_model


def test_a_patch_larger_than_the_image_is_refused(make_digits_model, quick_config):
    tiny = ImageSet(torch.zeros(4, 1, 6, 6, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(AdvrBDError, match=r"patch_size must be in \[1, 6\] for images of this size, got 8"):
        AdvrBD(make_digits_model, quick_config).fit(tiny)


def test_a_model_with_too_few_outputs_is_refused(poisoned_digits, quick_config):
    def small():
        return make_model("resnet_narrow", num_classes=2, in_channels=1, image_size=16)

    with pytest.raises(AdvrBDError, match="the model has 2 outputs, the training set 10 classes"):
        AdvrBD(small, quick_config).fit(poisoned_digits.image_set.subset(torch.arange(100)))


def test_networks_that_differ_in_no_weight_share_no_stage(poisoned_digits, make_digits_model, quick_config, tmp_path):
    def with_layer(layer):
        model = make_digits_model()
        model[1].insert(len(model[1]) - 1, layer)
        return model

    def without():
        return with_layer(nn.Identity())

    def with_dropout():
        return with_layer(nn.Dropout(0.5))

    samples = poisoned_digits.image_set.subset(torch.arange(100))
    trained = [
        AdvrBD(make, quick_config, work_dir=tmp_path).train_backdoored(samples).model.state_dict()
        for make in (without, with_dropout, with_dropout)
    ]
    names = [list(weights) for weights in trained]
    assert names[0] == names[1] and len(list(tmp_path.glob("training-*"))) == 2
    assert digest(*trained[0].values()) != digest(*trained[1].values()) == digest(*trained[2].values())


def test_a_model_that_gives_no_numbers_is_refused(poisoned_digits, make_digits_model, quick_config):
    def broken():
        model = make_digits_model()
        model[1][-1].bias.data.fill_(float("nan"))
        return model

    with pytest.raises(AdvrBDError, match="NaN or infinite"):
        AdvrBD(broken, quick_config).fit(poisoned_digits.image_set.subset(torch.arange(100)))


@pytest.fixture
def strong_and_weak(monkeypatch):
    """Makes the first model detect label 1 with strong evidence and half of label 4 with weak; gives a switch for what a
    second model says of label 4."""
    examined = []

    def detect(model, samples, ranks, config, *, on_batch=None):
        examined.append(sorted(samples.labels.unique().tolist()))
        assert ranks.shape == (len(ranks), len(samples))
        suspected = (1, 4) if len(examined) == 1 else detect.again
        poison_probability = torch.zeros(len(samples))
        for label in suspected:
            members = (samples.labels == label).nonzero().flatten()
            poison_probability[members[: len(members) // 2]] = 0.99
        gains = {1: 1.5, 4: 0.2}
        evidence = [
            LabelEvidence(label, 100, gains.get(label, 0.0), 3.0, 0.5, suspected=label in suspected)
            for label in range(10)
        ]
        return Detection(poison_probability, poison_probability.clone(), tuple(evidence))

    detect.again, detect.examined = (), examined
    monkeypatch.setattr(advrbd, "detect_targets", detect)
    return detect


def test_a_weak_detection_beside_a_strong_one_is_withdrawn_unless_a_second_model_upholds_it(
    strong_and_weak, poisoned_digits, make_digits_model, quick_config
):
    samples = poisoned_digits.image_set
    rejected = AdvrBD(make_digits_model, quick_config).fit(samples)
    assert strong_and_weak.examined == [list(range(10)), [4]]  # the second time the doubted label alone
    assert rejected.suspected_classes == (1,) and rejected.evidence[4].rejected
    assert not rejected.verdicts.poisoned[samples.labels == 4].any()
    assert rejected.verdicts.poisoned[samples.labels == 1].any()

    strong_and_weak.examined.clear()
    strong_and_weak.again = (4,)
    config = quick_config.replace(strong_evidence=1.0)
    upheld = AdvrBD(make_digits_model, config).fit(samples)
    assert strong_and_weak.examined == [list(range(10)), [4]]
    # After two epochs the clean model knows no digit, so it acquits nobody by recognising them.
    assert upheld.suspected_classes == (1, 4) and upheld.verdicts.poisoned[samples.labels == 4].any()
