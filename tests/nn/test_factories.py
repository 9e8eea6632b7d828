"""What a user may hand over as a model, and the line for each thing that will not do."""

from __future__ import annotations

from collections import OrderedDict, namedtuple
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advrbd_plugin import AdvrBD, AdvrBDConfig, ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.factories import check_network, fresh_copy, logits_of, network_factory


def small(outputs: int = 3) -> nn.Module:
    return nn.Sequential(
        nn.Conv2d(3, 4, 3), nn.BatchNorm2d(4), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, outputs)
    )


class Wrapped(nn.Module):
    """Gives what ``form`` makes of the logits."""

    def __init__(self, form=lambda logits: logits) -> None:
        super().__init__()
        self.inner, self.form = small(), form

    def forward(self, images):
        return self.form(self.inner(images))


@pytest.fixture
def images() -> ImageSet:
    noise = torch.randint(0, 256, (12, 3, 8, 8), dtype=torch.uint8)
    return ImageSet(noise, torch.arange(12) % 3, ("ant", "bee", "cat"))


def test_a_network_is_made_anew_with_other_weights_and_its_own_buffers():
    network = small()
    network[1].running_mean.fill_(7)
    with torch.no_grad():
        network[4].weight.fill_(100)
    network.register_buffer("mean", torch.tensor([0.25]))
    make = network_factory(network)
    torch.manual_seed(1)
    first = make()
    torch.manual_seed(1)
    second, third = make(), make()
    assert type(first) is type(network) and first.state_dict().keys() == network.state_dict().keys()
    assert torch.equal(first[4].weight, second[4].weight) and not torch.equal(first[4].weight, third[4].weight)
    assert first[4].weight.abs().max() < 1 and first[1].running_mean.eq(0).all() and first.mean.tolist() == [0.25]
    assert network[4].weight.eq(100).all() and network[1].running_mean.eq(7).all()


def test_attention_layers_are_made_anew_too():
    layer = nn.TransformerEncoderLayer(8, 2, 16)
    assert not torch.equal(fresh_copy(layer).self_attn.in_proj_weight, layer.self_attn.in_proj_weight)


class OwnWeight(nn.Linear):
    """Its inherited reset_parameters knows nothing of ``scale``."""

    def __init__(self) -> None:
        super().__init__(4, 3)
        self.scale = nn.Parameter(torch.ones(3))


class Unresettable(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(2, 2)
        self.layer.reset_parameters = lambda needed: None


def test_a_network_that_cannot_be_made_anew_asks_for_a_function():
    frozen = small()
    frozen[0].weight.requires_grad_(False)
    derived = small()
    derived.saved = torch.ones(1, requires_grad=True) * 2  # no leaf of the graph, so it cannot be copied
    for network, line in (
        (OwnWeight(), "no reset_parameters draws scale"),
        (frozen, "0.weight is frozen"),
        (Unresettable(), "reset_parameters of Linear fails"),
        (derived, "cannot be copied"),
    ):
        with pytest.raises(AdvrBDError, match=line) as raised:
            AdvrBD(network)
        assert "give a function that makes one" in str(raised.value) and "\n" not in str(raised.value)


def test_what_makes_no_new_network_is_told():
    kept = small()
    with pytest.raises(AdvrBDError, match="must be a network or a function that makes one, got 'resnet18'"):
        AdvrBD("resnet18")
    with pytest.raises(AdvrBDError, match="gave 3, not a torch.nn.Module"):
        network_factory(lambda: 3)()
    with pytest.raises(AdvrBDError, match="Linear needs the argument in_features.*lambda: Linear"):
        network_factory(nn.Linear)()
    make = network_factory(lambda: nn.Sequential(kept, nn.Linear(3, 3)))
    make_first = make()
    with pytest.raises(AdvrBDError, match="gave the same weights twice"):
        make()
    assert len(make_first) == 2 and network_factory(make) is make


Outputs = namedtuple("Outputs", ["features", "logits"])


@pytest.mark.parametrize(
    "form",
    [
        lambda logits: {"loss": None, "logits": logits},
        lambda logits: OrderedDict(loss=logits.mean(), scores=logits),
        lambda logits: Outputs(logits[:, :1], logits),
        lambda logits: (logits, logits * 0),
        lambda logits: SimpleNamespace(logits=logits),
    ],
)
def test_logits_are_taken_from_dictionaries_and_tuples(form, images):
    network = network_factory(lambda: Wrapped(form))()
    assert network(torch.rand(2, 3, 8, 8)).shape == (2, 3)
    check_network(network_factory(lambda: Wrapped(form)), images, needs_features=True)


def test_outputs_without_logits_are_told():
    with pytest.raises(AdvrBDError, match="it must give logits"):
        logits_of({"loss": torch.tensor(1.0)})


def test_what_does_not_fit_is_told_before_the_training(images):
    def line(make) -> str:
        with pytest.raises(AdvrBDError) as raised:
            AdvrBD(make, AdvrBDConfig(patch_size=4, epochs=1)).fit(images)
        assert "\n" not in str(raised.value)
        return str(raised.value)

    assert "(1, 5) for one picture; 3 classes need (1, 3)" in line(lambda: small(5))
    assert "cannot take pictures of 3x8x8" in line(lambda: nn.Sequential(nn.Flatten(), nn.Linear(7, 3)))
    assert "no weights" in line(lambda: nn.Flatten())
    assert "no linear layer" in line(lambda: nn.Sequential(nn.Conv2d(3, 3, 8), nn.Flatten()))


def test_a_trial_draws_nothing_from_the_users_random_numbers(images):
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    check_network(network_factory(small), images)
    assert torch.equal(torch.rand(3), expected)


def test_an_instance_and_a_dictionary_go_through_the_whole_defense(images):
    config = AdvrBDConfig(epochs=1, relearn_epochs=1, enhancement_steps=1, crop_padding=1, patch_size=4, num_masks=2)
    network = Wrapped(lambda logits: {"logits": logits})
    result = AdvrBD(network, config, device="cpu").fit(images)
    assert isinstance(result.model.network, Wrapped) and len(result.verdicts.poisoned) == 12


def test_wrong_types_name_themselves_and_the_way_to_make_the_right_one(images):
    loader = torch.utils.data.DataLoader([(torch.rand(3, 8, 8), 0)] * 4)
    defense = AdvrBD(small)
    for value, line in (
        (loader, r"must be an ImageSet, got a DataLoader.*: ImageSet.from_dataset\(loader.dataset\)"),
        (loader.dataset, r"ImageSet.from_"),
        (images.images.numpy(), r"got a ndarray: ImageSet.from_numpy\(images, labels\)"),
        ("photos/", r"got 'photos/': ImageSet.from_folder\(PATH\)"),
    ):
        with pytest.raises(AdvrBDError, match=line):
            defense.fit(value)
    with pytest.raises(AdvrBDError, match=r"of the class AdvrBDConfig, got a dict of 1: .*AdvrBDConfig.from_mapping"):
        AdvrBD(small, {"epochs": 3})
    with pytest.raises(AdvrBDError, match="from_yaml"):
        AdvrBD(small, "own.yaml")
