"""What is needed to build a network and to feed it: its name, its classes, the images that it takes."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.data.fitting import DEFAULT_FIT
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.processes import current

_COUNTED_AT_ONCE = 1024


@dataclass(frozen=True)
class ModelDescription:
    """What is needed to build a model and to feed it.

    Attributes:
        name: one of ``advrbd_plugin.nn.models.MODELS``, or one that ``advrbd_plugin.nn.named`` builds.
        class_names: in the order of the model's outputs.
        in_channels: 1 or 3.
        image_size: (height, width) that it was trained on.
        mean, std: per channel, in pixel scale [0, 1]; the model's first layer normalises with them.
        fit: how pictures of another shape come to ``image_size``, one of :data:`advrbd_plugin.data.fitting.FITS`.

    Examples:
        >>> description = ModelDescription("resnet_narrow", ("cat", "dog"), 3, (32, 48), (0.5,) * 3, (0.25,) * 3)
        >>> description.build()(torch.rand(1, 3, 32, 48)).shape
        torch.Size([1, 2])
    """

    name: str
    class_names: tuple[str, ...]
    in_channels: int
    image_size: tuple[int, int]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    fit: str = DEFAULT_FIT

    @classmethod
    def for_images(cls, name: str, image_set: ImageSet, *, fit: str = DEFAULT_FIT) -> ModelDescription:
        """The model called ``name`` for these images, normalising with their own mean and standard deviation.

        ``fit`` is how pictures of another shape were brought to their size.
        """
        mean, std = map(tuple, current().receive(lambda: channel_statistics(image_set.images)))
        return cls(name, image_set.class_names, image_set.num_channels, image_set.image_size, mean, std, fit)

    @classmethod
    def of_network(cls, network: nn.Module, image_set: ImageSet) -> ModelDescription:
        """Of a network that was trained on such images.

        One that :func:`advrbd_plugin.make_model` made can be built again; any other bears the name of its class.
        """
        from advrbd_plugin.nn.models import Normalize

        channels, name = image_set.num_channels, network.__dict__.get("made_as")
        mean, std = (0.0,) * channels, (1.0,) * channels
        if isinstance(network, nn.Sequential) and isinstance(first := network[0], Normalize):
            mean, std = tuple(first.mean.flatten().tolist()), tuple(first.std.flatten().tolist())
        if not isinstance(name, str):
            name = type(network).__name__
        return cls(name, image_set.class_names, channels, image_set.image_size, mean, std)

    @classmethod
    def default(cls, *class_names: str, name: str = "resnet_narrow") -> ModelDescription:
        """Of ``make_model(name, num_classes=...)`` with its default arguments."""
        return cls(name, class_names, 3, (32, 32), (0.5,) * 3, (0.25,) * 3)

    def build(self) -> nn.Module:
        """A freshly initialised model."""
        from advrbd_plugin.nn.models import make_model

        return make_model(
            self.name,
            num_classes=len(self.class_names),
            in_channels=self.in_channels,
            image_size=self.image_size,
            mean=self.mean,
            std=self.std,
        )


def channel_statistics(images: Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation of each channel of (N, C, H, W) uint8 images, in pixel scale, to four digits."""
    counts = torch.zeros(images.shape[1], 256, dtype=torch.int64)
    for some in images.split(_COUNTED_AT_ONCE):
        counts += torch.stack([torch.bincount(channel.flatten(), minlength=256) for channel in some.unbind(dim=1)])
    levels = torch.arange(256, dtype=torch.float64) / 255
    share = counts.double() / counts.sum(dim=1, keepdim=True)
    mean = share @ levels
    std = (share @ levels.square() - mean.square()).clamp(min=1e-6).sqrt()
    return tuple(round(value, 4) for value in mean.tolist()), tuple(
        round(max(value, 0.001), 4) for value in std.tolist()
    )
