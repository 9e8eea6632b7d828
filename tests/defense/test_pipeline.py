"""The whole defense on small sets."""

import dataclasses

import pytest
import torch
from torch import nn

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.pipeline import AdvrBD
from advrbd_plugin.defense.planning import STAGES
from advrbd_plugin.defense.scoring import Scores
from advrbd_plugin.defense.splits import LabelEvidence
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.metrics import evaluate, judge_detection
from advrbd_plugin.nn.models import make_model
from advrbd_plugin.nn.training import train

PAPER = {"detect_targets": False, "enhancement": "unlearn", "rounds": 2, "num_masks": 1, "reduction": "mean"}


@pytest.fixture(scope="module")
def robust(digits, poisoned_digits):
    """In float32, which all processors round alike but for the order of sums."""
    config = AdvrBDConfig(epochs=20, flip=False, crop_padding=1, mixed_precision=False)
    defense = AdvrBD(lambda: make_model("resnet_narrow", num_classes=10, in_channels=1, image_size=16), config)
    return defense.fit(poisoned_digits.image_set)


@pytest.fixture
def quick_config(quick_config):
    return quick_config.replace(mixed_precision=False)


def detector(*suspected, unconfirmed=(), trained_enough=True):
    """A detector that suspects the classes given, whatever the model has learned: every third of their samples carries
    the trigger. The clusters of ``unconfirmed`` classes stand apart.
    """

    def detect(trained, samples, scores, config, on_batch=None):
        detect.examined.append(sorted(samples.labels.unique().tolist()))
        if on_batch is not None:
            on_batch(len(samples))
        assert scores.ranks.shape == (len(scores.ranks), len(samples))
        classes = torch.tensor((*suspected, *unconfirmed), dtype=torch.int64)
        carries = torch.isin(samples.labels, classes) & (samples.sample_ids % 3 == 0)
        evidence = [
            LabelEvidence(label, 100, 1.0, 3.0, 0.5, separate=label in classes, suspected=label in suspected)
            for label in range(10)
        ]
        findings = [ClassFinding(label, label in suspected, float(label in suspected), "told") for label in range(10)]
        return Detection(
            0.99 * carries,
            0.99 * carries,
            tuple(evidence),
            tuple(findings),
            trained_enough=trained_enough,
            unconfirmed_classes=unconfirmed,
        )

    detect.examined = []
    return detect


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
    assert {*robust.seconds, "confirmation"} == set(STAGES)
    assert robust.is_retrained and robust.rounds == 2 and robust.remark.startswith("The retrained model is returned")
    assert robust.trained_enough and robust.fit > 0.8
    assert [each.suspected for each in robust.findings] == [label == 1 for label in range(10)]
    assert robust.findings[1].pattern.shape == (1, 16, 16) and robust.findings[1].probability > 0.9
    assert len(robust.curves["detection"]) == 10
    assert robust.accused_labels == robust.suspected_classes
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
    config = quick_config.replace(**settings)
    whole = poisoned_digits.image_set.subset(torch.arange(400))
    first = AdvrBD(make_digits_model, config, detector=detector(1)).fit(whole)
    order = torch.randperm(400, generator=torch.Generator().manual_seed(1))
    shuffled_truth = dataclasses.replace(
        poisoned_digits, poisoned=poisoned_digits.poisoned[torch.randperm(len(poisoned_digits.poisoned))]
    )
    second = AdvrBD(make_digits_model, config, detector=detector(1)).fit(shuffled_truth.image_set.subset(order))
    assert settings or first.verdicts.poisoned.any()
    assert digest(*first.model.state_dict().values()) == digest(*second.model.state_dict().values())
    assert torch.equal(first.verdicts.score[order], second.verdicts.score)
    assert torch.equal(first.verdicts.poisoned[order], second.verdicts.poisoned)


def test_epochs_left_to_the_set_are_those_of_the_whole_set_in_every_training(
    poisoned_digits, make_digits_model, quick_config, monkeypatch
):
    monkeypatch.setattr("advrbd_plugin.defense.config._EPOCHS", 1)
    monkeypatch.setattr("advrbd_plugin.defense.config._BATCHES", 14)
    samples = poisoned_digits.image_set.subset(torch.arange(400))  # 7 batches, fewer without the poisoned ones
    config = quick_config.replace(epochs=0)
    result = AdvrBD(make_digits_model, config, detector=detector(1, 2, 3, 4)).fit(samples)
    assert int(result.verdicts.poisoned.sum()) > 16 and result.config.epochs == 2
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


@pytest.mark.parametrize("stage", STAGES)
def test_a_killed_run_resumes_to_the_same_result(poisoned_digits, make_digits_model, quick_config, tmp_path, stage):
    samples, found = poisoned_digits.image_set.subset(torch.arange(400)), detector(1, unconfirmed=(2,))

    def defense(**more):
        found.examined.clear()
        return AdvrBD(make_digits_model, quick_config, detector=found, **more)

    whole = defense().fit(samples)
    assert whole.verdicts.poisoned.any() and set(whole.seconds) == set(STAGES)
    with pytest.raises(Killed):
        defense(work_dir=tmp_path, progress=KilledAt(stage)).fit(samples)
    assert same(whole, defense(work_dir=tmp_path).fit(samples))
    assert same(whole, defense(work_dir=tmp_path).fit(samples))
    assert found.examined == []  # the second time everything was found in the folder


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


def test_the_partition_rate_plays_no_part_where_targets_are_detected(
    poisoned_digits, make_digits_model, quick_config, tmp_path
):
    """Cells of the grid that differ in alpha alone find each other's stages."""
    samples = poisoned_digits.image_set.subset(torch.arange(400))

    def fit(progress=None, **changes):
        config = quick_config.replace(**changes)
        found = detector(1)
        return AdvrBD(make_digits_model, config, work_dir=tmp_path, progress=progress, detector=found).fit(samples)

    first = fit(alpha=0.02)
    assert first.verdicts.poisoned.any() and "relearning" in first.curves
    cached, counted = sorted(tmp_path.iterdir()), Counted()
    found = fit(counted, alpha=0.2, rounds=3)
    assert same(first, found) and found.config.alpha == 0.2
    assert counted.done == {} and set(found.seconds) == {"training", "retraining", "relearning"}
    assert sorted(tmp_path.iterdir()) == cached


def test_the_partition_rate_of_the_paper_is_no_other_rates(poisoned_digits, make_digits_model, quick_config, tmp_path):
    samples = poisoned_digits.image_set.subset(torch.arange(200))
    config = quick_config.replace(**PAPER)
    for alpha in (0.05, 0.3):
        result = AdvrBD(make_digits_model, config.replace(alpha=alpha), work_dir=tmp_path).fit(samples)
        assert result.curves["enhancement"][0]["clean_share"] == pytest.approx(alpha)


def other_value(config, key):
    """Another allowed value of a setting, small enough to train with."""
    value = getattr(config, key)
    if isinstance(value, bool):
        return not value
    if isinstance(value, str):
        names = next(each for each in dataclasses.fields(config) if each.name == key).metadata["names"]
        return next(name for name in names if name != value)
    return value + 1 if isinstance(value, int) else value * 0.9


# Stage -> the settings that it reads first: changed, it and what follows are computed anew, and nothing before it.
READ_BY = {
    "training": ("epochs", "batch_size", "learning_rate", "momentum", "weight_decay", "crop_padding", "flip"),
    "scoring": ("epsilon", "patch_size", "num_patch_sizes", "num_masks", "reduction"),
    "detection": ("detection_gain",),
    "enhancement": ("enhancement_steps", "enhancement_learning_rate"),
    "relearning": ("relearn_epochs", "relearn_learning_rate"),
}


@pytest.mark.parametrize("stage", READ_BY)
def test_a_setting_names_the_result_of_the_stage_that_reads_it(
    poisoned_digits, make_digits_model, quick_config, tmp_path, stage
):
    samples = poisoned_digits.image_set.subset(torch.arange(120))

    def work_done(config):
        counted = Counted()
        defense = AdvrBD(make_digits_model, config, work_dir=tmp_path, progress=counted, detector=detector(1))
        defense.fit(samples)
        return set(counted.done)

    work_done(quick_config)
    before = set(STAGES[: STAGES.index(stage)])
    for key in READ_BY[stage]:
        worked = work_done(quick_config.replace(**{key: other_value(quick_config, key)}))
        assert stage in worked, key
        assert not worked & before, key


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


def test_without_a_suspected_class_the_set_is_clean_and_the_model_stays(
    poisoned_digits, make_digits_model, quick_config
):
    samples = poisoned_digits.image_set.subset(torch.arange(200))
    result = AdvrBD(make_digits_model, quick_config, detector=detector()).fit(samples)
    assert result.suspected_classes == () and not result.verdicts.poisoned.any()
    assert result.model is result.backdoored_model


def test_a_patch_larger_than_the_image_is_refused(make_digits_model, quick_config):
    tiny = ImageSet(torch.zeros(4, 1, 6, 6, dtype=torch.uint8), torch.tensor([0, 1, 0, 1]), ("a", "b"))
    with pytest.raises(AdvrBDError, match=r"patch_size must be in \[1, 6\] for images of this size, got 8"):
        AdvrBD(make_digits_model, quick_config).fit(tiny)


def test_a_model_with_too_few_outputs_is_refused(poisoned_digits, quick_config):
    def small():
        return make_model("resnet_narrow", num_classes=2, in_channels=1, image_size=16)

    with pytest.raises(AdvrBDError, match=r"gives outputs of shape \(1, 2\) for one picture; 10 classes need"):
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


def knows_no_digit():
    """A network whose logits never depend on the image: it predicts class 0 for everything."""

    class Constant(nn.Module):
        def __init__(self):
            super().__init__()
            self.last = nn.Linear(2, 10)
            nn.init.zeros_(self.last.weight)
            self.last.bias.data = torch.arange(10, 0, -1).float()
            self.last.requires_grad_(False)
            self.unused = nn.Parameter(torch.zeros(()))

        def forward(self, images):
            return self.last(images.mean((2, 3)).expand(-1, 2)) + 0 * self.unused

    return Constant()


def test_clusters_that_stand_apart_are_poison_only_where_another_model_puts_them_elsewhere(
    poisoned_digits, make_digits_model, quick_config, monkeypatch
):
    samples = poisoned_digits.image_set.subset(torch.arange(400))
    answers = []

    def predict(model, images, **settings):
        """A model that gives every picture of class 2 the class 5, and knows all others."""
        label = torch.where(samples.labels == answers[0], 5, samples.labels)
        return 10.0 * torch.nn.functional.one_hot(label, 10).float()

    monkeypatch.setattr("advrbd_plugin.defense.search.predict", predict)
    for wrong, suspected in ((2, (1, 2)), (3, (1,))):
        answers[:] = [wrong]
        found = AdvrBD(make_digits_model, quick_config, detector=detector(1, unconfirmed=(2,))).fit(samples)
        assert found.suspected_classes == suspected
        assert found.evidence[2].rejected == (wrong == 3) and found.findings[2].kind == "misplacement"
        assert bool(found.verdicts.poisoned[samples.labels == 2].any()) == (wrong == 2)


def test_what_a_clean_model_gives_away_is_removed_and_the_loop_goes_on(
    poisoned_digits, make_digits_model, quick_config, monkeypatch
):
    samples = poisoned_digits.image_set.subset(torch.arange(400))
    seen = []

    def examine(model, used, **settings):
        """The first clean model gives class 4 away, the second nothing. It is asked about labels as they came."""
        own = samples.labels[torch.searchsorted(samples.sample_ids, used.sample_ids)]
        assert torch.equal(used.labels, own) and len(used) < len(samples)
        found = detector(*((), (4,))[not seen])(Trained(model, []), used, Scores(torch.zeros(1, len(used))), None)
        seen.append(len(used))
        return found

    monkeypatch.setattr("advrbd_plugin.defense.cleaning.examine", examine)
    result = AdvrBD(make_digits_model, quick_config, detector=detector(1)).fit(samples)
    assert len(seen) == 2 and result.rounds == 3
    assert result.suspected_classes == (1, 4) and result.findings[4].round == 2
    carries = (samples.sample_ids % 3 == 0) & (samples.labels == 4)
    assert result.verdicts.poisoned[carries].float().mean() > 0.9
    assert result.findings[4].pattern is not None


def test_a_clean_model_that_is_worse_is_not_returned(poisoned_digits, make_digits_model, quick_config, monkeypatch):
    samples = poisoned_digits.image_set.subset(torch.arange(400))
    for name, value in (("is_worse", True), ("is_worse", False)):
        monkeypatch.setattr(f"advrbd_plugin.defense.cleaning.{name}", lambda accuracy, before, worse=value: worse)
        result = AdvrBD(make_digits_model, quick_config, detector=detector(1)).fit(samples)
        assert result.is_retrained != value and (result.model is result.backdoored_model) == value
        assert ("the latter is returned" in result.remark) == value
        assert result.verdicts.poisoned.any()


@pytest.mark.parametrize(("left", "returned"), [((1, 4), False), ((4, 5), True)], ids=["all and more", "others"])
def test_a_clean_model_with_all_backdoors_and_more_is_not_returned(
    left, returned, poisoned_digits, make_digits_model, quick_config, monkeypatch
):
    samples = poisoned_digits.image_set.subset(torch.arange(400))

    def examine(model, used, **settings):
        return detector(*left)(Trained(model, []), used, Scores(torch.zeros(1, len(used))), None)

    monkeypatch.setattr("advrbd_plugin.defense.cleaning.examine", examine)
    monkeypatch.setattr("advrbd_plugin.defense.cleaning.is_worse", lambda after, before: False)
    result = AdvrBD(make_digits_model, quick_config, detector=detector(1)).fit(samples)
    assert result.is_retrained == returned and result.rounds == 3
    assert ("still shows a backdoor" if returned else "the latter is returned") in result.remark


def test_a_model_that_fits_nothing_accuses_nobody(poisoned_digits, quick_config):
    samples = poisoned_digits.image_set.subset(torch.arange(200))
    result = AdvrBD(knows_no_digit, quick_config).fit(samples)
    assert not result.trained_enough and result.fit < 0.3
    assert result.suspected_classes == () and result.model is result.backdoored_model
    assert result.remark.startswith("No verdict: the model fits ")
    assert not result.verdicts.poisoned.any()


def test_a_scan_gives_the_verdicts_and_the_defense_goes_on_from_it(
    poisoned_digits, make_digits_model, quick_config, tmp_path
):
    samples, counted = poisoned_digits.image_set.subset(torch.arange(400)), Counted()
    scan = AdvrBD(make_digits_model, quick_config, work_dir=tmp_path, detector=detector(1)).scan(samples)
    assert scan.suspected_classes == (1,) and set(scan.seconds) == {"training", "scoring", "detection", "enhancement"}
    whole = AdvrBD(make_digits_model, quick_config, work_dir=tmp_path, detector=detector(1), progress=counted).fit(
        samples
    )
    assert not {"training", "scoring", "detection", "enhancement"} & set(counted.done)
    assert torch.equal(scan.verdicts.poisoned, whole.verdicts.poisoned)
