import copy
import math

import pytest
import torch
from torch import nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.models import make_model
from advrbd_plugin.ulrl.neurons import LayerChange, identify, neuron_layers, reinitialise, robust_z_scores


def test_z_scores_by_hand():
    # Median 3, distances 2 1 0 1 7, their median 1: one standard deviation is 1.4826.
    scores = robust_z_scores(torch.tensor([1.0, 2.0, 3.0, 4.0, 10.0]))
    assert scores.tolist() == pytest.approx([value / 1.4826 for value in (-2, -1, 0, 1, 7)])


def test_z_scores_where_half_of_the_values_are_equal():
    # The median absolute deviation is 0; the mean one is 8 / 5.
    scores = robust_z_scores(torch.tensor([1.0, 1.0, 1.0, 1.0, 9.0]))
    assert scores.tolist() == pytest.approx([0, 0, 0, 0, 8 / (1.2533 * 1.6)])


def test_z_scores_where_all_values_are_equal():
    assert robust_z_scores(torch.full((4,), 2.0)).tolist() == [0, 0, 0, 0]


def linear_pair(changes):
    """Two linear layers; neuron i of the second differs by changes[i] in each of two weights."""
    before, after = nn.Linear(2, len(changes)), nn.Linear(2, len(changes))
    after.load_state_dict(before.state_dict())
    with torch.no_grad():
        after.weight += torch.tensor(changes)[:, None]
    return nn.Sequential(before), nn.Sequential(after)


CHANGES = [0.01, -0.02, 0.03, 5.0, -9.0, 7.0, 0.02, 0.03, 0.01, -0.02]


def test_neurons_are_chosen_by_score_or_by_index():
    before, after = linear_pair(CHANGES)
    by_score = identify(before, after, max_neurons=2, choose="score")
    by_index = identify(before, after, max_neurons=2, choose="index")
    assert (by_score[0].suspicious, by_index[0].suspicious) == ((4, 5), (3, 4))
    assert identify(before, after)[0].suspicious == (4, 5, 3)
    assert by_score[0].change[4] == pytest.approx(18, rel=1e-5)


def test_a_neuron_that_changed_little_is_never_suspicious():
    before, after = linear_pair([5.0, 5.1, 5.2, 4.9, 0.0])
    assert identify(before, after)[0].suspicious == ()


def test_reinitialised_neurons_are_fresh_and_all_others_untouched(model):
    old = {name: value.clone() for name, value in model.state_dict().items()}
    found = (
        LayerChange("0", torch.zeros(8), torch.zeros(8), (2,)),
        LayerChange("5", torch.zeros(3), torch.zeros(3), (1,)),
    )
    reinitialise(model, found, seed=3)
    new = model.state_dict()
    assert [i for i in range(8) if not torch.equal(new["0.weight"][i], old["0.weight"][i])] == [2]
    assert [i for i in range(3) if not torch.equal(new["5.weight"][i], old["5.weight"][i])] == [1]
    assert new["0.weight"][2].abs().max() <= math.sqrt(2 / 27)
    assert (new["0.bias"][2], new["5.bias"][1]) == (0, 0)
    first = new["0.weight"].clone()
    reinitialise(model, found, seed=3)
    assert torch.equal(model.state_dict()["0.weight"], first)


@pytest.mark.parametrize(
    ("build", "last"),
    [
        (lambda zoo: make_model("preactresnet18", num_classes=3), "1.13"),
        (lambda zoo: zoo.mobilenet_v2(num_classes=3), "classifier.1"),
        (lambda zoo: zoo.vit_b_16(num_classes=3), "heads.head"),
        (lambda zoo: zoo.vgg19_bn(num_classes=3, init_weights=False), "classifier.6"),
    ],
    ids=["PreAct-ResNet-18", "MobileNetV2", "ViT-B/16", "VGG19-BN"],
)
def test_layers_of_the_architectures_are_found_without_code_for_them(build, last):
    import torchvision.models

    with torch.device("meta"):  # shapes and names alone
        model = build(torchvision.models)
    kinds = (nn.Conv2d, nn.Linear, nn.MultiheadAttention)
    wanted = [name for name, module in model.named_modules() if isinstance(module, kinds)]
    assert list(neuron_layers(model)) == wanted
    assert list(neuron_layers(model, "last")) == [last]


def test_queries_keys_and_values_of_attention_are_neurons_that_can_be_reinitialised():
    before = nn.Sequential(nn.MultiheadAttention(4, num_heads=2), nn.Linear(4, 3))
    after = copy.deepcopy(before)
    with torch.no_grad():
        after[0].in_proj_weight += 0.01
        after[0].in_proj_weight[7] += 1.0
    found = identify(before, after)
    assert [each.layer for each in found] == ["0", "0.out_proj", "1"]
    assert (found[0].suspicious, len(found[0].change)) == ((7,), 12)
    reinitialise(after, found, seed=0)
    others = torch.arange(12) != 7
    assert torch.allclose(after[0].in_proj_weight[others], before[0].in_proj_weight[others] + 0.01)
    assert after[0].in_proj_weight[7].abs().max() <= math.sqrt(2 / 4)


@pytest.mark.parametrize(("which", "wanted"), [("all", "convolution or linear"), ("last", "linear layer")])
def test_a_model_without_neurons_is_refused_in_one_line(which, wanted):
    with pytest.raises(AdvrBDError, match=wanted) as caught:
        neuron_layers(nn.Sequential(nn.Flatten(), nn.BatchNorm1d(3)), which)
    assert "\n" not in str(caught.value)
