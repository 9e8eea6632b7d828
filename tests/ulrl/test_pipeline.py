import dataclasses

import pytest
import torch
import yaml

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.ulrl import ULRL, ULRLConfig
from advrbd_plugin.ulrl.attraction import attraction
from advrbd_plugin.ulrl.neurons import LayerChange
from advrbd_plugin.ulrl.perturbations import within_norm
from advrbd_plugin.ulrl.pipeline import FOUND, LOOKS_CLEAN
from advrbd_plugin.ulrl.relearning import relearn
from advrbd_plugin.ulrl.unlearning import unlearn


def states_equal(one, other):
    return all(torch.equal(a, b) for a, b in zip(one.state_dict().values(), other.state_dict().values(), strict=True))


def test_presets_and_yaml_round_trip(tmp_path):
    assert ULRLConfig.preset("robust") == ULRLConfig()
    paper = ULRLConfig.preset("paper")
    assert (paper.layers, paper.max_neurons, paper.choose, paper.alpha) == ("last", 2, "index", 0.7)
    assert (paper.relearn_learning_rate, paper.z_threshold, paper.gradient_clip) == (0.005, 3.5, 20)
    path = tmp_path / "ulrl.yaml"
    path.write_text(yaml.safe_dump(paper.to_mapping()))
    assert ULRLConfig.from_yaml(path) == paper


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        ({"layers": "some"}, "layers must be one of all, last, got 'some'"),
        ({"unlearn_accuracy": 2}, "unlearn_accuracy must be a number in [0.0, 1.0], got 2"),
        ({"alfa": 1}, "unknown key 'alfa'; did you mean alpha?"),
        ({"preset": "v1"}, "preset must be one of robust, paper, got 'v1'"),
    ],
)
def test_wrong_settings_are_named(changes, line):
    with pytest.raises(AdvrBDError) as caught:
        ULRLConfig.from_mapping(changes)
    assert str(caught.value) == line


def test_unlearning_raises_the_loss_on_a_copy_and_stops_at_the_accuracy(model, clean_set, quick_config):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    config = quick_config.replace(unlearn_epochs=6, unlearn_learning_rate=0.1)
    unlearned = unlearn(model, clean_set, config)
    assert unlearned.rows[-1]["loss"] > unlearned.rows[0]["loss"]
    assert len(unlearned.rows) == 6
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert len(unlearn(model, clean_set, config.replace(unlearn_accuracy=1.0)).rows) == 1


def test_alpha_turns_a_suspicious_neuron_away_from_its_old_weights(model, clean_set, quick_config):
    found = (LayerChange("5", torch.zeros(3), torch.zeros(3), (1,)),)
    plain = quick_config.replace(distillation=0, adversary_weight=0, relearn_epochs=20, relearn_learning_rate=0.02)

    def similarity(alpha):
        repaired = relearn(model, clean_set, found, plain.replace(alpha=alpha)).model
        with torch.no_grad():
            return float(torch.cosine_similarity(repaired[5].weight[1], model[5].weight[1], dim=0))

    assert similarity(5.0) < similarity(0.0) - 0.1


def test_relearning_stops_after_the_steps_allowed(model, clean_set, quick_config):
    found = ()
    assert len(relearn(model, clean_set, found, quick_config.replace(relearn_steps=4)).rows) == 2  # 3 batches an epoch
    assert len(relearn(model, clean_set, found, quick_config.replace(relearn_steps=0)).rows) == 2
    assert len(relearn(model, clean_set, found, quick_config.replace(relearn_steps=3)).rows) == 1


def test_suspects_lose_their_label(model, clean_set, quick_config):
    suspects = ImageSet(255 - clean_set.images, torch.full((12,), 1), clean_set.class_names)
    config = quick_config.replace(relearn_epochs=10, adversary_weight=0, forget_weight=5.0)

    def probability(suspect_set):
        repaired = relearn(model, clean_set, (), config, suspect_set=suspect_set).model
        with torch.no_grad():
            return float(repaired(suspects.images / 255).softmax(1)[:, 1].mean())

    assert probability(suspects) < probability(None)


def test_attraction_finds_the_target_class(clean_set):
    class Backdoored(torch.nn.Module):
        """Sees brightness, and label 2 in whatever has a bright corner."""

        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            brightness = images.mean(dim=(1, 2, 3))
            scores = torch.stack([-((brightness - centre) ** 2) for centre in (0.08, 0.39, 0.7)], dim=1)
            corner = images[:, :, :2, :2].mean(dim=(1, 2, 3)) - brightness
            trigger = torch.nn.functional.one_hot(torch.tensor(2), 3) * corner[:, None].clamp_min(0)
            return self.weight * (60 * scores + 40 * trigger)

    start = torch.zeros(1, 3, 8, 8)
    found = attraction(Backdoored(), clean_set, start, radius=1.5, steps=8, mixed_precision=False).probability
    assert found.argmax() == 2 and found[2] - found.median() > 0.3


def test_attraction_asks_samples_of_every_other_label_though_ids_go_label_by_label(clean_set):
    seen = []

    class Watching(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.weight = torch.nn.Parameter(torch.ones(1))

        def forward(self, images):
            seen.append(images.detach().mean(dim=(1, 2, 3)))
            return self.weight * images.mean(dim=(2, 3))

    by_label = clean_set.subset(torch.argsort(clean_set.labels, stable=True))
    by_label = ImageSet(by_label.images, by_label.labels, by_label.class_names)  # ids 0..N-1
    start = torch.zeros(1, 3, 8, 8)
    attraction(Watching(), by_label, start, radius=0.01, steps=1, samples=2, seed=1, mixed_precision=False)
    of_first_label = torch.cat(seen[:2])  # what label 0 was searched for with: grey and bright samples
    assert len(of_first_label) == 4
    assert (of_first_label < 0.5).any() and (of_first_label > 0.55).any()


def test_norms_are_bounded_and_shorter_ones_kept():
    values = torch.tensor([3.0, 0.1]).view(2, 1, 1, 1)
    assert within_norm(values, 2.0).flatten().tolist() == pytest.approx([2.0, 0.1])


def test_a_repair_returns_a_new_model_and_leaves_the_old_one(model, clean_set, quick_config):
    before = {name: value.clone() for name, value in model.state_dict().items()}
    result = ULRL(quick_config).repair(model, clean_set, attacked_labels=(2,))
    assert result.verdict == FOUND
    assert not result.model.training and not states_equal(result.model, model)
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    assert list(result.seconds) == ["unlearning", "relearning"]
    assert [each.layer for each in result.layers] == ["0", "5"]


def test_a_model_that_looks_clean_is_left_as_it_is(model, clean_set, quick_config):
    by_labels = ULRL(quick_config.replace(attraction_threshold=1.0, warp_threshold=1.0)).repair(model, clean_set)
    by_neurons = ULRL(quick_config.replace(attraction=False, patterns=False, warps=False, z_threshold=1000)).repair(
        model, clean_set
    )
    for result in (by_labels, by_neurons):
        assert result.verdict == LOOKS_CLEAN and result.num_suspicious == 0
        assert states_equal(result.model, model)


def test_the_order_of_the_clean_samples_does_not_matter(model, clean_set, quick_config):
    order = torch.randperm(12, generator=torch.Generator().manual_seed(5))
    one = ULRL(quick_config).repair(model, clean_set, attacked_labels=(0,))
    other = ULRL(quick_config).repair(model, clean_set.subset(order), attacked_labels=(0,))
    assert states_equal(one.model, other.model)


def test_a_finished_stage_is_not_done_again(model, clean_set, quick_config, tmp_path):
    first = ULRL(quick_config, work_dir=tmp_path).repair(model, clean_set, attacked_labels=(1,))
    second = ULRL(quick_config, work_dir=tmp_path).repair(model, clean_set, attacked_labels=(1,))
    fresh = ULRL(quick_config).repair(model, clean_set, attacked_labels=(1,))
    assert states_equal(first.model, second.model) and states_equal(first.model, fresh.model)
    assert second.curves == first.curves
    assert [each.suspicious for each in second.layers] == [each.suspicious for each in first.layers]


@pytest.mark.parametrize(
    ("keep", "line"),
    [
        ([0, 1], "at least one clean sample of each of the 3 classes, got 2 samples"),
        ([0, 1, 3, 4], "no clean sample of the class 'bright'"),
    ],
)
def test_too_few_clean_samples_are_refused(model, clean_set, quick_config, keep, line):
    with pytest.raises(AdvrBDError, match=line):
        ULRL(quick_config).repair(model, clean_set.subset(torch.tensor(keep)))


def test_weights_that_are_no_numbers_are_refused(model, clean_set, quick_config):
    with torch.no_grad():
        model[0].weight[1, 0, 0, 0] = float("nan")
    with pytest.raises(AdvrBDError, match="0.weight holds 1 values that are NaN or infinite"):
        ULRL(quick_config).repair(model, clean_set)


def test_another_number_of_classes_is_refused(model, clean_set, quick_config):
    more = dataclasses.replace(clean_set, class_names=("dark", "grey", "bright", "white"))
    with pytest.raises(AdvrBDError, match="the model has 3 classes, the clean samples 4"):
        ULRL(quick_config).repair(model, more)
