"""The networks that the command line offers. Every one takes pixel-scale images and normalises them itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.named import WAYS, build_named, is_built_elsewhere, takes_normalised

# From this side on, the first layers halve the picture as they do for ImageNet; below it they keep every pixel.
_LARGE_IMAGE_SIZE = 96


class Normalize(nn.Module):
    """Subtract a mean and divide by a standard deviation, one of each per channel.

    Standing inside the model, it lets attacks, scores and users speak in pixel scale [0, 1] alone.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, mean: Sequence[float], std: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("mean", torch.tensor(mean, dtype=torch.float32).view(1, -1, 1, 1))
        self.register_buffer("std", torch.tensor(std, dtype=torch.float32).view(1, -1, 1, 1))

    def forward(self, images: Tensor) -> Tensor:
        return (images - self.mean) / self.std


class PreActivationBlock(nn.Module):
    """Two 3x3 convolutions, each behind its normalisation and ReLU (He et al., arXiv 1603.05027)."""

    def __init__(self, in_channels: int, out_channels: int, stride: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(in_channels)
        self.conv1 = nn.Conv2d(in_channels, out_channels, 3, stride, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(out_channels)
        self.conv2 = nn.Conv2d(out_channels, out_channels, 3, 1, 1, bias=False)
        same_shape = stride == 1 and in_channels == out_channels
        self.shortcut = None if same_shape else nn.Conv2d(in_channels, out_channels, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        activated = functional.relu(self.norm1(x))
        shortcut = x if self.shortcut is None else self.shortcut(activated)
        out = self.conv1(activated)
        return self.conv2(functional.relu(self.norm2(out))) + shortcut


def make_model(
    name: str,
    *,
    num_classes: int,
    in_channels: int = 3,
    image_size: int | tuple[int, int] = 32,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
) -> nn.Module:
    """Build a freshly initialised network.

    Args:
        name: one of :data:`MODELS`; or ``torchvision:NAME``, ``timm:NAME`` or your own ``module:function``
            (:mod:`advrbd_plugin.nn.named`).
        num_classes: number of logits.
        in_channels: 1 or 3.
        image_size: side, or (height, width), in pixels; decides between the small-image and the ImageNet stem.
        mean, std: per channel, of images in pixel scale [0, 1]; 0.5 and 0.25 where not given.

    Returns:
        A module from (N, in_channels, H, W) float in [0, 1] to (N, num_classes) logits.

    Raises:
        AdvrBDError: no such model, or ``mean``/``std`` of another length than ``in_channels``.

    Examples:
        >>> make_model("resnet_narrow", num_classes=10)(torch.rand(4, 3, 32, 32)).shape
        torch.Size([4, 10])
        >>> make_model("resnet_wide", num_classes=10)
        Traceback (most recent call last):
        advrbd_plugin.errors.AdvrBDError: model must be one of ...
    """
    if name not in MODELS and not is_built_elsewhere(name):
        raise AdvrBDError(f"model must be one of {', '.join(MODELS)}; {WAYS}; got {name!r}")
    mean = [0.5] * in_channels if mean is None else list(mean)
    std = [0.25] * in_channels if std is None else list(std)
    for key, values in (("mean", mean), ("std", std)):
        if len(values) != in_channels:
            raise AdvrBDError(f"{key} must have one value for each of the {in_channels} channels, got {len(values)}")
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    if name in MODELS:
        network = MODELS[name](num_classes, in_channels, min(height, width) < _LARGE_IMAGE_SIZE)
    else:
        network = build_named(name, num_classes=num_classes, in_channels=in_channels, image_size=(height, width))
    model = nn.Sequential(Normalize(mean, std), network) if takes_normalised(name) else network
    model.__dict__["made_as"] = name  # no class of its own: stored stages are named after the text of the model
    return model


def _resnet_narrow(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    """Four stages of one block each, 16 to 128 channels: trained on 2 CPU cores in a minute."""
    from torchvision.models.resnet import BasicBlock

    def stage(channels_in: int, channels: int, stride: int) -> nn.Module:
        shortcut = None
        if stride != 1 or channels_in != channels:
            shortcut = nn.Sequential(nn.Conv2d(channels_in, channels, 1, stride, bias=False), nn.BatchNorm2d(channels))
        return BasicBlock(channels_in, channels, stride, shortcut)

    return _convolutional(num_classes, in_channels, small_image, width=16, stages=[stage], norm_last=False)


def _preactresnet18(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    def first(channels_in: int, channels: int, stride: int) -> nn.Module:
        return PreActivationBlock(channels_in, channels, stride)

    def second(_: int, channels: int, __: int) -> nn.Module:
        return PreActivationBlock(channels, channels, 1)

    return _convolutional(num_classes, in_channels, small_image, width=64, stages=[first, second], norm_last=True)


def _convolutional(
    num_classes: int,
    in_channels: int,
    small_image: bool,
    *,
    width: int,
    stages: Sequence[Callable[[int, int, int], nn.Module]],
    norm_last: bool,
) -> nn.Module:
    layers: list[nn.Module] = [nn.Conv2d(in_channels, width, 3, 1 if small_image else 2, 1, bias=False)]
    if not norm_last:
        layers += [nn.BatchNorm2d(width), nn.ReLU(inplace=True)]
    channels_in = width
    for level in range(4):
        channels = width * 2**level
        for make_block in stages:
            layers.append(make_block(channels_in, channels, 1 if level == 0 else 2))
            channels_in = channels
    if norm_last:
        layers += [nn.BatchNorm2d(channels_in), nn.ReLU(inplace=True)]
    return nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels_in, num_classes))


def _torchvision_resnet(constructor: str) -> Callable[[int, int, bool], nn.Module]:
    def build(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
        import torchvision

        network = getattr(torchvision.models, constructor)(num_classes=num_classes)
        if small_image:
            network.conv1 = nn.Conv2d(in_channels, 64, 3, 1, 1, bias=False)
            network.maxpool = nn.Identity()
        elif in_channels != 3:
            network.conv1 = nn.Conv2d(in_channels, 64, 7, 2, 3, bias=False)
        return network

    return build


def _mobilenet_v2(num_classes: int, in_channels: int, small_image: bool) -> nn.Module:
    from torchvision.models import mobilenet_v2

    network = mobilenet_v2(num_classes=num_classes)
    stem = network.features[0]
    stem[0] = nn.Conv2d(in_channels, stem[0].out_channels, 3, 1 if small_image else 2, 1, bias=False)
    if small_image:
        # The second stage's first block, the next place that halves the picture.
        network.features[2].conv[1][0].stride = (1, 1)
    return network


MODELS: dict[str, Callable[[int, int, bool], nn.Module]] = {
    "resnet_narrow": _resnet_narrow,
    "resnet18": _torchvision_resnet("resnet18"),
    "resnet34": _torchvision_resnet("resnet34"),
    "preactresnet18": _preactresnet18,
    "mobilenet_v2": _mobilenet_v2,
}
"""Name of every network on offer -> its constructor from (num_classes, in_channels, small_image)."""
