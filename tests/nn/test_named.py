"""Networks of the user's own, of torchvision and of timm, and weights to begin with."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from advrbd_plugin import make_model
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.nn.models import Normalize
from advrbd_plugin.nn.named import check_named
from advrbd_plugin.nn.weights import StartingWeights
from advrbd_plugin.report import load_model, save_model

OWN = """
import torch
from torch import nn

def net(num_classes, image_size):
    height, width = image_size
    return nn.Sequential(nn.Flatten(), nn.Linear(3 * height * width, num_classes))

class Named(nn.Module):
    def __init__(self, **given):
        super().__init__()
        self.layer = nn.Linear(3, given["num_classes"])
    def forward(self, images):
        return {"logits": self.layer(images.mean(dim=(2, 3)))}

def greedy(depth):
    return nn.Linear(1, 1)

def broken(num_classes):
    raise KeyError("depth")

number = 3
ready = nn.Linear(1, 1)
made = lambda: 3
"""


@pytest.fixture
def own(tmp_path, monkeypatch):
    (tmp_path / "own_networks_of_a_test.py").write_text(OWN)
    (tmp_path / "own_broken_of_a_test.py").write_text("1 / 0")
    (tmp_path / "own_missing_of_a_test.py").write_text("import not_there_at_all")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", [each for each in sys.path if each])
    yield "own_networks_of_a_test"
    for name in [each for each in sys.modules if each.endswith("_of_a_test")]:
        del sys.modules[name]


def test_a_function_of_the_users_own_is_given_what_it_asks_for(own):
    network = make_model(f"{own}:net", num_classes=4, image_size=(5, 6))
    assert network(torch.rand(2, 3, 5, 6)).shape == (2, 4) and not isinstance(network[0], Normalize)
    assert make_model(f"{own}:Named", num_classes=4)(torch.rand(2, 3, 8, 8)).shape == (2, 4)


@pytest.mark.parametrize(
    ("name", "line"),
    [
        ("{own}:nothing", "has no nothing; it has .*net"),
        ("{own}:greedy", "needs the argument depth; it may take num_classes"),
        ("{own}:broken", "cannot be built for 2 classes of 3x32x32 .KeyError.: 'depth'"),
        ("{own}:number", "must be a function that makes a network, got 3"),
        ("{own}:ready", "must be a function that makes a network, got a Linear"),
        ("{own}:made", "gave 3, not a torch.nn.Module"),
        ("own_broken_of_a_test:net", "importing own_broken_of_a_test fails .ZeroDivisionError."),
        ("own_missing_of_a_test:net", "imports not_there_at_all, which is not installed"),
        ("own_nowhere:net", "there is no module own_nowhere in"),
        ("os; print(1):net", "must be module:function"),
        ("a:", "must be module:function"),
        (":net", "must be module:function"),
    ],
)
def test_functions_that_will_not_do(own, name, line):
    with pytest.raises(AdvrBDError, match=line) as raised:
        make_model(name.format(own=own), num_classes=2)
    assert "\n" not in str(raised.value)


def test_a_model_file_never_chooses_code(own, tmp_path):
    name = f"{own}:net"
    description = ModelDescription(name, ("a", "b"), 3, (8, 8), (0.5,) * 3, (0.25,) * 3)
    save_model(tmp_path, description.build(), description)
    del sys.modules[own]
    with pytest.raises(AdvrBDError, match="names the network .*, which is not built in: if you know it, name it"):
        load_model(tmp_path)
    assert own not in sys.modules
    model = load_model(tmp_path, model=name)
    assert model.description.name == name and model(torch.rand(1, 3, 8, 8)).shape == (1, 2)


def small(num_classes: int) -> nn.Module:
    return nn.Sequential(nn.Conv2d(3, 4, 3), nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(4, num_classes))


@pytest.fixture
def libraries(monkeypatch):
    """Stand-ins, so that these tests need neither library."""
    torchvision, models, timm = ModuleType("torchvision"), ModuleType("torchvision.models"), ModuleType("timm")
    models.list_models = lambda module: ["tiny_net", "vit_tiny"]
    models.get_model = lambda name, weights, num_classes, **more: small(
        num_classes if name != "vit_tiny" else more["image_size"]
    )
    torchvision.models = models
    timm.list_models = lambda: ["tiny_net"]

    def create_model(name, pretrained, num_classes, in_chans, **more):
        if more:
            raise TypeError("unexpected keyword argument 'img_size'")
        assert not pretrained and in_chans == 3
        return small(num_classes)

    timm.create_model = create_model
    for module in (torchvision, models, timm):
        monkeypatch.setitem(sys.modules, module.__name__, module)


def test_networks_of_torchvision_and_timm(libraries, monkeypatch):
    for name in ("torchvision:tiny_net", "timm:tiny_net"):
        check_named(name)
        network = make_model(name, num_classes=5, mean=[0.1] * 3)
        assert isinstance(network[0], Normalize) and network(torch.rand(2, 3, 8, 8)).shape == (2, 5)
    grey = make_model("torchvision:tiny_net", num_classes=5, in_channels=1)
    assert grey(torch.rand(2, 1, 8, 8)).shape == (2, 5)
    assert make_model("torchvision:vit_tiny", num_classes=5, image_size=48)(torch.rand(2, 3, 8, 8)).shape == (2, 48)
    for name, line in (
        ("torchvision:tiny_nett", "torchvision has no classifier 'tiny_nett': did you mean tiny_net?"),
        ("timm:hf-hub:someone/net", "timm has no network 'hf-hub:someone/net'"),
    ):
        with pytest.raises(AdvrBDError, match=line):
            check_named(name)
    monkeypatch.setitem(sys.modules, "torchvision", None)
    monkeypatch.setitem(sys.modules, "timm", None)
    for name in ("torchvision:tiny_net", "timm:tiny_net"):
        with pytest.raises(AdvrBDError, match="cannot be imported .*: pip install"):
            check_named(name)


def test_the_real_torchvision_where_it_is_installed():
    pytest.importorskip("torchvision", reason="torchvision is not installed")
    network = make_model("torchvision:shufflenet_v2_x0_5", num_classes=3, image_size=64).eval()
    assert network(torch.rand(1, 3, 64, 64)).shape == (1, 3)


def test_weights_to_begin_with(tmp_path):
    source = small(7)
    save_file(source.state_dict(), tmp_path / "w.safetensors")
    weights = StartingWeights(tmp_path / "w.safetensors")
    same, other = small(7), nn.Sequential(Normalize([0.5] * 3, [0.25] * 3), small(2))
    assert weights.into(same) is None and torch.equal(same[3].weight, source[3].weight)
    head = other[1][3].weight.clone()
    note = weights.into(other)
    assert "3.weight, 3.bias begin at random" in note
    assert torch.equal(other[1][0].weight, source[0].weight) and torch.equal(other[1][3].weight, head)
    save_file(other.state_dict(), tmp_path / "whole.safetensors")
    fresh = nn.Sequential(Normalize([0.5] * 3, [0.25] * 3), small(2))
    assert StartingWeights(tmp_path / "whole.safetensors").into(fresh) is None
    assert torch.equal(fresh[1][3].weight, other[1][3].weight)


def test_weights_that_do_not_fit_are_named(tmp_path):
    def line(change) -> str:
        tensors = dict(small(2).state_dict())
        change(tensors)
        save_file(tensors, tmp_path / "w.safetensors")
        with pytest.raises(AdvrBDError) as raised:
            StartingWeights(tmp_path / "w.safetensors").into(small(2))
        return str(raised.value)

    assert "it lacks 0.weight" in line(lambda tensors: tensors.pop("0.weight"))
    assert "it holds extra, which the network has not" in line(lambda tensors: tensors.update(extra=torch.zeros(1)))
    assert "it has 0.bias (9,) in place of (4,)" in line(lambda tensors: tensors.update({"0.bias": torch.zeros(9)}))
    for name, content, expected in (
        ("w.pth", b"x", "files of torch.save can hold code"),
        ("x.safetensors", b"nonsense", "no safetensors file, or damaged"),
    ):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(AdvrBDError, match=expected):
            StartingWeights(tmp_path / name)
    with pytest.raises(AdvrBDError, match="does not exist"):
        StartingWeights(tmp_path / "nowhere")


def test_a_file_of_options_never_chooses_code(tmp_path):
    from advrbd_plugin.cli import option_file
    from advrbd_plugin.cli.command import build_parser

    (tmp_path / "own.yaml").write_text("model: os:abort\n")
    parser = build_parser()._subparsers._group_actions[0].choices["defend"]
    words = ["data", "--out", "out", "--config", str(tmp_path / "own.yaml")]
    with pytest.raises(AdvrBDError, match="names code of your own, 'os:abort', which no file may choose"):
        option_file.apply(parser, words)
    option_file.apply(parser, [*words, "--model", "os:abort"])
    assert option_file.is_own_code("os:abort") and not option_file.is_own_code("torchvision:resnet18")
