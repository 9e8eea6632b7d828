"""This package's networks in the form that BackdoorBench's scripts expect.

They take normalised images, since the toolbox normalises in its transforms, and their layers have the names that its
scripts look for. A normalisation layer precedes the first convolution. In a new network it changes nothing; in a
network that was trained on pixel-scale images it turns the toolbox's normalisation into the model's own
(:func:`to_toolbox`).
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence

import torch
from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.models import MODELS, Normalize, make_model

_SMALL, _LARGE = 32, 224

# Name in the toolbox -> (name in advrbd_plugin.nn.models, an image size with its first layers). The toolbox calls
# generate_cls_model without the image's size, so the name must say which first layers are meant.
NETWORKS: dict[str, tuple[str, int]] = {
    "resnet_narrow": ("resnet_narrow", _SMALL),
    **{f"{name}_cifar": (name, _SMALL) for name in MODELS if name != "resnet_narrow"},
    **{f"{name}_imagenet": (name, _LARGE) for name in MODELS},
}


def make_network(name: str, num_classes: int) -> nn.Module:
    """A new, untrained network of :data:`NETWORKS`, from normalised images (N, 3, H, W) to logits."""
    base, image_size = NETWORKS[name]
    model = make_model(base, num_classes=num_classes, image_size=image_size, mean=(0, 0, 0), std=(1, 1, 1))
    normalize, network = model.children()
    if isinstance(network, nn.Sequential):
        network = _with_torchvision_names(network, last="linear" if "preactresnet" in base else "fc")
    stem = next(name for name, module in network.named_modules() if isinstance(module, nn.Conv2d))
    parent, _, child = stem.rpartition(".")
    holder = network.get_submodule(parent)
    setattr(holder, child, nn.Sequential(normalize, getattr(holder, child)))
    normalize.register_forward_pre_hook(_lay_out_channels_last)
    return network


def _lay_out_channels_last(module: nn.Module, inputs: tuple[Tensor]) -> Tensor:
    """Give a CPU's convolutions channels_last images, which take two thirds of the time; the scripts never ask for it.

    The layout carries through the network, while its weights stay contiguous for scripts that view them.
    """
    (images,) = inputs
    return images.contiguous(memory_format=torch.channels_last) if images.device.type == "cpu" else images


def to_toolbox(
    model: nn.Module, name: str, *, num_classes: int, mean: Sequence[float], std: Sequence[float]
) -> dict[str, Tensor]:
    """The state dict that makes the network ``name`` equal to ``model``, for normalised instead of pixel-scale images.

    Args:
        model: as :func:`advrbd_plugin.nn.models.make_model` builds it.
        name: a key of :data:`NETWORKS`.
        mean, std: of the toolbox's transforms, per channel.

    Raises:
        AdvrBDError: the model is no such network.
    """
    network = make_network(name, num_classes)
    own, given = network.state_dict(), model.state_dict()
    shapes = [value.shape for value in own.values()]
    if [value.shape for value in given.values()] != shapes or not isinstance(next(model.children(), None), Normalize):
        raise AdvrBDError(f"the model is no {NETWORKS[name][0]} of {num_classes} classes as make_model builds it")
    state = {key: value.detach().cpu().clone() for key, value in zip(own, given.values(), strict=True)}
    prefix = next(key for key, module in network.named_modules() if isinstance(module, Normalize))
    pixel_mean, pixel_std = state[f"{prefix}.mean"], state[f"{prefix}.std"]
    toolbox_mean, toolbox_std = (torch.tensor(values).view(1, -1, 1, 1) for values in (mean, std))
    state[f"{prefix}.mean"] = (pixel_mean - toolbox_mean) / toolbox_std
    state[f"{prefix}.std"] = pixel_std / toolbox_std
    return state


def toolbox_name(name: str, image_size: int) -> str:
    """The toolbox's name of the network that ``make_model(name, image_size=image_size)`` builds.

    Raises:
        AdvrBDError: no such network.
    """
    if name not in MODELS:
        raise AdvrBDError(f"model must be one of {', '.join(MODELS)}, got {name!r}")
    wanted = _stem_strides(make_model(name, num_classes=2, image_size=image_size))
    for known, (base, size) in NETWORKS.items():
        if base == name and _stem_strides(make_model(base, num_classes=2, image_size=size)) == wanted:
            return known
    raise AdvrBDError(f"{name} for images of {image_size} pixels is not known to the toolbox")


def _stem_strides(model: nn.Module) -> list[tuple[int, ...]]:
    return [tuple(module.stride) for module in model.modules() if isinstance(module, nn.Conv2d)]


def _with_torchvision_names(network: nn.Sequential, *, last: str) -> nn.Sequential:
    """The same layers: conv1, bn1, relu, layer1 to layer4, avgpool, flatten, and the last one."""
    names = {nn.Conv2d: "conv1", nn.BatchNorm2d: "bn1", nn.ReLU: "relu", nn.Flatten: "flatten", nn.Linear: last}
    names[nn.AdaptiveAvgPool2d] = "avgpool"
    blocks = [layer for layer in network if type(layer) not in names]
    share = len(blocks) // 4
    layers: OrderedDict[str, nn.Module] = OrderedDict()
    for layer in network:
        if type(layer) in names:
            layers[names[type(layer)]] = layer
        elif layer is blocks[0]:
            layers |= {f"layer{n + 1}": nn.Sequential(*blocks[n * share : (n + 1) * share]) for n in range(4)}
    return nn.Sequential(layers)
