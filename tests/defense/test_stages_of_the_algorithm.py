"""Each stage on small inputs whose right answer is known."""

import pytest
import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense import examination
from advrbd_plugin.defense.clusters import Shares, discriminate, held_out_gain, sharpen, whiten
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import detect, runner_up_classes
from advrbd_plugin.defense.enhancement import enhance_trigger, log_odds, unlearn_rounds
from advrbd_plugin.defense.identification import Verdicts, identify_misclassified, identify_suspected, reject
from advrbd_plugin.defense.paper import partition
from advrbd_plugin.defense.retraining import doubt_disagreement, rejected_classes, relabel, trusted_samples
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.features import layered_features, penultimate_features
from advrbd_plugin.nn.models import make_model


def test_partition_takes_the_highest_scores():
    found = partition(torch.tensor([0.1, 0.9, 0.5, 0.9, 0.0]), 0.4)
    assert found.clean.tolist() == [False, True, False, True, False]
    assert found.suspect.tolist() == [True, False, True, False, True]
    assert found.consistency.tolist() == [0.75, 0.0, 0.5, 0.25, 1.0]


@pytest.mark.parametrize(("scores", "alpha", "line"), [([1.0], 1.0, "alpha"), ([float("nan"), 1.0], 0.5, "NaN")])
def test_partition_refuses(scores, alpha, line):
    with pytest.raises(ValueError, match=line):
        partition(torch.tensor(scores), alpha)


def heaps(poison_share, shift, seed=0, count=600, dims=24):
    """Features of one label: a broad heap, and a share of it moved by ``shift``; ranks that only hint at which."""
    generator = torch.Generator().manual_seed(seed)
    features = torch.randn(count, dims, generator=generator) * torch.linspace(3, 0.2, dims)
    poisoned = torch.rand(count, generator=generator) < poison_share
    features[poisoned, 5] += shift
    consistency = torch.randn(count, generator=generator) + 1.5 * poisoned
    return features, poisoned, consistency.argsort().argsort() / (count - 1)


def answers(labels, poisoned, num_classes):
    """Logits of a model that gives every sample its label; a trigger's samples have rivals of every kind."""
    generator = torch.Generator().manual_seed(11)
    logits = torch.zeros(len(labels), num_classes)
    logits[torch.arange(len(labels)), (labels + 1) % num_classes] = 1.0
    varied = (labels + torch.randint(1, num_classes, labels.shape, generator=generator)) % num_classes
    logits[poisoned.nonzero().flatten(), varied[poisoned]] = 2.0
    logits[torch.arange(len(labels)), labels] = 5.0
    return logits


def detect_one(features, poisoned, ranks, gain):
    """One label of six, all of whose samples are given."""
    labels = torch.zeros(len(features), dtype=torch.int64)
    return detect(features, answers(labels, poisoned, 6), labels, ranks, gain=gain)


def test_an_attacked_label_is_suspected_and_an_easy_one_is_not():
    attacked, poisoned, attacked_rank = heaps(0.3, 25.0)
    clean, none, clean_rank = heaps(0.0, 0.0, seed=1)
    labels = torch.cat([torch.zeros(600), torch.ones(600)]).long()
    # Label 1's samples are all more consistent than label 0's: ease alone must not accuse.
    consistency = torch.cat([attacked_rank / 2, 0.5 + clean_rank / 2])
    logits = answers(labels, torch.cat([poisoned, none]), 3)
    found = detect(torch.cat([attacked, clean]), logits, labels, consistency, gain=0.15)
    assert found.suspected_classes == (0,)
    assert found.evidence[0].gain > 0.8 > 0.1 > found.evidence[1].gain
    assert (found.evidence[2].samples, found.evidence[2].suspected) == (0, False)
    flagged = found.poison_probability[:600] > 0.5
    assert (flagged == poisoned).float().mean() > 0.99
    assert found.poison_probability[600:].max() == 0


def test_suspicion_never_falls_with_the_projection():
    features, poisoned, rank = heaps(0.3, 12.0)
    found = detect_one(features, poisoned, rank, gain=0.0)
    by_projection = found.poison_probability[found.projection.argsort()]
    assert (by_projection.diff() >= 0).all() and by_projection[-1] > 0.99


def test_too_few_samples_accuse_nobody():
    features, poisoned, rank = heaps(0.3, 25.0, count=30)
    assert detect_one(features, poisoned, rank, gain=0.0).suspected_classes == ()


def test_the_start_that_splits_best_counts():
    features, poisoned, rank = heaps(0.3, 12.0)
    misleading = torch.rand(600, generator=torch.Generator().manual_seed(3))
    found = detect_one(features, poisoned, torch.stack([misleading, rank, misleading.flip(0)]), gain=0.15)
    assert found.suspected_classes == (0,)
    assert ((found.poison_probability > 0.5) == poisoned).float().mean() > 0.98


def test_the_half_with_the_more_varied_rivals_is_the_suspicious_one():
    features, poisoned, _ = heaps(0.3, 25.0)
    inverted = torch.rand(600, generator=torch.Generator().manual_seed(5)) + 2.0 * (~poisoned)
    found = detect_one(features, poisoned, inverted, gain=0.15)
    assert ((found.poison_probability > 0.5) == poisoned).float().mean() > 0.98
    assert found.evidence[0].share == pytest.approx(float(poisoned.float().mean()), abs=0.02)
    assert found.evidence[0].variety > 1.0
    undecided = detect_one(features, torch.zeros_like(poisoned), inverted, gain=0.15)
    assert (
        (undecided.poison_probability > 0.5) == ~poisoned
    ).float().mean() > 0.98  # by its ranks, where rivals are alike


def test_poison_that_comes_from_one_class_is_not_taken_for_the_clean_half():
    features, poisoned, rank = heaps(0.3, 25.0)
    generator = torch.Generator().manual_seed(7)
    common = torch.where(poisoned, 3, 1)
    often = torch.rand(600, generator=generator) < torch.where(poisoned, 0.72, 0.42)
    rivals = torch.where(often, common, torch.randint(1, 6, (600,), generator=generator))
    logits = torch.zeros(600, 6).scatter(1, rivals[:, None], 1.0)
    logits[:, 0] = 5.0
    found = detect(features, logits, torch.zeros(600, dtype=torch.int64), rank, gain=0.15)
    assert -0.7 < found.evidence[0].variety < -0.3
    assert ((found.poison_probability > 0.5) == poisoned).float().mean() > 0.98


def test_a_small_part_is_suspected():
    features, poisoned, _ = heaps(0.06, 25.0)
    rank = (torch.rand(600, generator=torch.Generator().manual_seed(7)) + 0.3 * poisoned).argsort().argsort() / 599
    found = detect_one(features, poisoned, rank, gain=0.15)
    assert found.suspected_classes == (0,) and found.evidence[0].share == pytest.approx(0.06, abs=0.02)
    assert ((found.poison_probability > 0.5) == poisoned).float().mean() > 0.98


def test_few_samples_need_a_larger_gain():
    features, poisoned, rank = heaps(0.35, 15.0, count=90)
    found = detect_one(features, poisoned, rank, gain=0.15)
    assert 0.15 < found.evidence[0].gain < 0.48 and found.suspected_classes == ()
    features, poisoned, rank = heaps(0.35, 10.0)
    found = detect_one(features, poisoned, rank, gain=0.15)
    assert 0.2 < found.evidence[0].gain < 0.48 and found.suspected_classes == (0,)


@pytest.mark.parametrize(
    ("distance", "disowned", "suspected"),
    [
        *[(8.25, "none", ()), (8.25, "poisoned", (0,)), (8.25, "all", ())],
        (8.0, "poisoned", ()),  # a gain of 0.05, as 600 samples may have by chance
    ],
)
def test_samples_that_the_model_disowns_need_hardly_a_gain_unless_it_disowns_the_rest_too(
    distance, disowned, suspected
):
    features, poisoned, rank = heaps(0.35, distance)
    logits = answers(torch.zeros(600, dtype=torch.int64), poisoned, 6)
    lost = {"none": torch.zeros_like(poisoned), "poisoned": poisoned, "all": torch.ones_like(poisoned)}[disowned]
    logits[lost, 0] = 0.0
    found = detect(features, logits, torch.zeros(600, dtype=torch.int64), rank, gain=0.15)
    assert 0.04 < found.evidence[0].gain < 0.1 and found.suspected_classes == suspected


@pytest.mark.parametrize("seed", range(3))
def test_a_gain_counts_only_on_samples_that_did_not_teach_it(seed):
    generator = torch.Generator().manual_seed(seed)
    whitened, ranks = whiten(torch.randn(200, 60, generator=generator)), torch.rand(200, generator=generator)
    shares = Shares(first=(0.3, 0.15), later=(0.4, 0.2))
    taught = sharpen(whitened, discriminate(whitened, ranks, shares))
    assert taught.gain > 0 > held_out_gain(whitened, ranks, shares)


def test_second_choices_leave_the_label_out():
    logits = torch.tensor([[3.0, 2.0, 1.0], [3.0, 2.0, 1.0], [0.0, 0.0, 9.0]])
    assert runner_up_classes(logits, torch.tensor([0, 1, 1])).tolist() == [1, 0, 2]


def test_features_are_what_the_last_linear_layer_gets(poisoned_digits, make_digits_model):
    model, images = make_digits_model(), poisoned_digits.image_set.images[:7]
    features, logits = penultimate_features(model, images, mixed_precision=False)
    torch.testing.assert_close(model[1][-1](features), logits, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("network", ["resnet_narrow", "resnet18", "preactresnet18", "mobilenet_v2"])
def test_layered_features_add_two_earlier_layers(network):
    torch.manual_seed(0)
    model = make_model(network, num_classes=3).eval()
    images = torch.randint(0, 256, (9, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    batches = []
    together, logits = layered_features(model, images, mixed_precision=False, on_batch=batches.append)
    last, same_logits = penultimate_features(model, images, mixed_precision=False)
    torch.testing.assert_close(logits, same_logits)
    assert sum(batches) == 9 and len(together) == 9 and together.shape[1] > last.shape[1]
    spread = last.std(dim=0, correction=0).mean()
    torch.testing.assert_close(together[:, -last.shape[1] :], (last - last.mean(dim=0)) / spread, rtol=1e-3, atol=1e-3)
    assert not any(module._forward_hooks for module in model.modules())


def test_layered_features_are_the_pooled_maps_of_the_stages_before_the_last():
    torch.manual_seed(0)
    model = make_model("resnet_narrow", num_classes=3).eval()
    images = torch.randint(0, 256, (6, 3, 32, 32), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))
    together, _ = layered_features(model, images, mixed_precision=False)
    with torch.no_grad():
        second = model[1][:5](model[0](images.float() / 255)).mean(dim=(2, 3))
    expected = (second - second.mean(dim=0)) / second.std(dim=0, correction=0).mean()
    assert together.shape[1] == 32 + 64 + 128
    torch.testing.assert_close(together[:, :32], expected, rtol=1e-3, atol=1e-3)


def test_a_model_without_feature_maps_gives_its_last_features_alone():
    model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 5), torch.nn.ReLU(), torch.nn.Linear(5, 2))
    together, _ = layered_features(model, torch.zeros(4, 3, 2, 2, dtype=torch.uint8))
    assert together.shape == (4, 5)


def test_features_need_a_linear_layer():
    with pytest.raises(AdvrBDError, match="no linear layer"):
        penultimate_features(torch.nn.Conv2d(1, 2, 1), torch.zeros(1, 1, 4, 4, dtype=torch.uint8))


def test_log_odds_stay_exact_where_probabilities_round_to_one():
    logits = torch.tensor([[100.0, 0.0, 0.0], [0.0, 0.0, 0.0]])
    torch.testing.assert_close(log_odds(logits, torch.tensor([0, 1])), torch.tensor([100 - 0.693147, -0.693147]))


def test_misclassified_by_the_enhanced_model_is_clean():
    logits = torch.tensor([[3.0, 0.0, 0.0], [0.0, 3.0, 0.0], [0.5, 0.0, 0.0]])
    verdicts = identify_misclassified(logits, torch.tensor([0, 0, 0]))
    assert verdicts.poisoned.tolist() == [True, False, True]
    assert verdicts.score[0] > verdicts.score[2] > 0.5 > verdicts.score[1]


def test_only_suspected_labels_hold_poison():
    poison_probability = torch.tensor([0.9, 0.1, 0.1, 0.0])
    consistency = torch.tensor([0.0, 0.5, 0.2, 1.0])
    labels = torch.tensor([1, 1, 1, 0])
    logits = torch.tensor([[0.0, -9.0], [0.0, 4.0], [0.0, -1.0], [9.0, 0.0]])
    verdicts = identify_suspected(poison_probability, consistency, labels, (1,), logits, abstain_threshold=3.0)
    # By its features; by the enhanced model; uncertain; of a label that nobody accuses.
    assert verdicts.poisoned.tolist() == [True, True, False, False]
    assert verdicts.uncertain.tolist() == [False, False, True, False]
    assert verdicts.score[3] == pytest.approx(0.01)
    nobody = identify_suspected(poison_probability, consistency, labels, (), None, abstain_threshold=3.0)
    assert not nobody.poisoned.any() and nobody.score.argsort().tolist() == consistency.argsort().tolist()


def test_a_withdrawn_detection_leaves_its_label_clean():
    verdicts = Verdicts(
        torch.tensor([True, True]), torch.tensor([0.9, 0.8]), torch.tensor([1, 2]), torch.zeros(2, dtype=torch.bool)
    )
    left = reject(verdicts, torch.tensor([1, 2]), torch.tensor([0.5, 0.5]), (1,))
    assert left.poisoned.tolist() == [False, True]
    assert left.score.tolist() == pytest.approx([0.005, 0.8])


class Colour(torch.nn.Module):
    """Classifies by which channel is brightest."""

    def __init__(self):
        super().__init__()
        self.scale = torch.nn.Parameter(torch.tensor(10.0))

    def forward(self, images):
        return self.scale * images.mean((2, 3))


def coloured(*channels):
    images = torch.zeros(len(channels), 3, 4, 4, dtype=torch.uint8)
    images[torch.arange(len(channels)), torch.tensor(channels)] = 255
    return images


def verdicts_for(poisoned, labels):
    poisoned = torch.tensor(poisoned)
    return Verdicts(poisoned, poisoned.float(), labels.clone(), torch.zeros_like(poisoned))


def test_relabelling_excludes_a_label_that_the_attack_gave():
    """Two of three show another class: the third, which still looks like the target, must not keep it."""
    labels = torch.tensor([1, 1, 1, 0])
    images = coloured(0, 2, 1, 0)
    images[2, 2] = 100
    found = relabel(Colour(), images, labels, verdicts_for([True, True, True, False], labels))
    assert found.suggested_label.tolist() == [0, 2, 2, 0]


def test_relabelling_lets_a_clean_label_attacks_labels_stand():
    labels = torch.tensor([1, 1, 1])
    found = relabel(Colour(), coloured(1, 1, 0), labels, verdicts_for([True, True, True], labels))
    assert found.suggested_label.tolist() == [1, 1, 0]


def test_acquittal_needs_a_majority():
    labels = torch.tensor([1, 1, 1, 2, 2])
    verdicts = verdicts_for([True] * 5, labels)
    assert rejected_classes(Colour(), coloured(1, 1, 0, 0, 0), labels, verdicts, [1, 2]) == (1,)
    assert rejected_classes(Colour(), coloured(1, 1, 0, 0, 0), labels, verdicts, []) == ()


def test_disagreement_raises_doubt_in_suspected_labels_only():
    labels = torch.tensor([1, 1, 0])
    uncertain = doubt_disagreement(
        Colour(), coloured(0, 1, 2), labels, verdicts_for([False] * 3, labels), torch.tensor([True, True, False])
    )
    assert uncertain.tolist() == [True, False, False]


def test_nothing_left_to_train_on_is_said():
    labels = torch.tensor([0, 1])
    with pytest.raises(AdvrBDError, match="2 of 2 samples were called poisoned"):
        trusted_samples(verdicts_for([True, True], labels))


def test_trigger_enhancement_keeps_the_trigger_alone(poisoned_digits, make_digits_model, quick_config):
    """Even a fresh network learns to answer to the trigger, and to nothing else of that label."""
    samples, poisoned = poisoned_digits.image_set, poisoned_digits.poisoned
    target = samples.labels == 1
    poison_probability = (poisoned & target).float()
    config = quick_config.replace(enhancement_steps=60, enhancement_learning_rate=0.05)
    model = make_digits_model()
    before = [parameter.clone() for parameter in model.parameters()]
    enhanced, rows = enhance_trigger(
        model, samples.images, samples.labels, samples.sample_ids, poison_probability, poison_probability, (1,), config
    )
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
    with torch.no_grad():
        odds = log_odds(
            enhanced(samples.images[target].float() / 255), torch.ones(int(target.sum()), dtype=torch.int64)
        )
    assert (odds[poisoned[target]] > 0).float().mean() > 0.9
    assert (odds[~poisoned[target]] > 0).float().mean() < 0.1
    assert rows[0]["step"] == 1 and rows[-1]["step"] == 60


def test_a_trigger_cannot_be_learned_from_no_sample(poisoned_digits, make_digits_model, quick_config):
    samples, nothing = poisoned_digits.image_set, torch.zeros(len(poisoned_digits.poisoned))
    with pytest.raises(ValueError, match="no trigger to learn from"):
        enhance_trigger(
            make_digits_model(),
            samples.images,
            samples.labels,
            samples.sample_ids,
            nothing,
            nothing,
            (1,),
            quick_config,
        )


@pytest.mark.parametrize(("size", "batch_size"), [(32, 500), (64, 500), (128, 125), (224, 40), (2000, 16)])
def test_large_images_are_scored_in_smaller_batches(size, batch_size, monkeypatch):
    asked = []

    def score(model, images, labels, **settings):
        asked.append(settings["batch_size"])
        return torch.zeros(3, len(images))

    monkeypatch.setattr(examination, "consistency_scores", score)
    samples = ImageSet(torch.zeros(2, 1, size, size, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    examination.consistency_ranks(None, samples, AdvrBDConfig())
    assert asked == [batch_size]


@pytest.mark.parametrize("loss", ["gradient_ascent", "one_minus_probability"])
def test_algorithm_2_grows_its_clean_part(poisoned_digits, make_digits_model, quick_config, loss):
    samples = poisoned_digits.image_set.subset(torch.arange(300))
    config = quick_config.replace(
        detect_targets=False,
        enhancement="unlearn",
        unlearn_loss=loss,
        rounds=3,
        alpha=0.2,
        num_masks=1,
        reduction="mean",
    )
    enhanced, clean, rows = unlearn_rounds(
        make_digits_model(), samples.images, samples.labels, samples.sample_ids, config
    )
    assert [row["clean_share"] for row in rows] == pytest.approx([0.2, 0.4, 0.6])
    assert int(clean.sum()) == 180
    assert not enhanced.training


@pytest.mark.parametrize("name", ["resnet_narrow", "resnet18", "resnet34", "preactresnet18", "mobilenet_v2"])
@pytest.mark.parametrize(("channels", "size"), [(1, 16), (3, 32), (3, 96)])
def test_every_model_takes_every_kind_of_image(name, channels, size):
    model = make_model(name, num_classes=7, in_channels=channels, image_size=size, mean=[0.4] * channels).eval()
    with torch.no_grad():
        assert model(torch.rand(2, channels, size, size)).shape == (2, 7)


@pytest.mark.parametrize(
    ("arguments", "line"),
    [({"name": "vgg"}, "model must be one of"), ({"name": "resnet18", "mean": [0.5]}, "mean must have one value")],
)
def test_unknown_models_are_refused(arguments, line):
    with pytest.raises(AdvrBDError, match=line):
        make_model(**{"num_classes": 2} | arguments)
