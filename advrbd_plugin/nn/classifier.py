"""A trained network with what feeds it: pictures of any kind and size in, classes out."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from advrbd_plugin.data.fitting import check_fit, fit_pixels
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.plain import brief

_KINDS = "a PIL picture, uint8 of shape (H, W), (H, W, 3), (C, H, W) or (N, C, H, W), a list of them, or an ImageSet"


class ImageClassifier(nn.Module):
    """A network for images of one size, which prepares pictures itself.

    Called as a module it is its network: float images (N, C, H, W) in pixel scale [0, 1] to logits. Its state is its
    network's, so weights are saved and loaded under the names that they have without it.

    >>> from PIL import Image
    >>> from advrbd_plugin import make_model
    >>> model = ImageClassifier(make_model("resnet_narrow", num_classes=2), ModelDescription.default("cat", "dog"))
    >>> model
    ImageClassifier(resnet_narrow, 2 classes, pictures of 3x32x32, 307,794 weights)
    >>> model.predict([Image.new("RGB", (400, 300)), Image.new("L", (20, 20))]).shape
    torch.Size([2])
    >>> model(torch.zeros(1, 3, 300, 400))
    Traceback (most recent call last):
    advrbd_plugin.errors.AdvrBDError: this model takes images of 3x32x32, got 3x300x400: model.predict(pictures) ...

    Args:
        network: takes float images in pixel scale [0, 1], gives (N, num_classes) logits.
        description: of the network and its images.
        fit: how pictures of another shape come to the model's: ``pad``, ``crop`` or ``squeeze``
            (:data:`advrbd_plugin.data.fitting.FITS`); as the description says by default.
    """

    def __init__(self, network: nn.Module, description: ModelDescription, *, fit: str | None = None) -> None:
        super().__init__()
        check_fit(description.fit if fit is None else fit)
        self.network = network
        self.description = description if fit is None else replace(description, fit=fit)
        self.training = network.training

    @classmethod
    def of(cls, network: nn.Module, image_set: ImageSet) -> ImageClassifier:
        """``network``, which was trained on such images; one that is an :class:`ImageClassifier` stays as it is."""
        if isinstance(network, ImageClassifier):
            return network
        return cls(network, ModelDescription.of_network(network, image_set))

    @property
    def class_names(self) -> tuple[str, ...]:
        """In the order of the logits."""
        return self.description.class_names

    @property
    def fit(self) -> str:
        """How pictures of another shape come to its images."""
        return self.description.fit

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) of the images that it takes."""
        return self.description.image_size

    def forward(self, images: Tensor) -> Tensor:
        """Logits (N, num_classes).

        Args:
            images: (N, C, H, W) float in pixel scale [0, 1], of the model's own size.

        Raises:
            AdvrBDError: images of another size, number of channels or dtype.
        """
        expected = (self.description.in_channels, *self.image_size)
        if images.ndim != 4 or tuple(images.shape[1:]) != expected:
            got = _times(images.shape[1:] if images.ndim == 4 else images.shape)
            raise AdvrBDError(
                f"this model takes images of {_times(expected)}, got {got}: model.predict(pictures) takes any size"
            )
        if not images.is_floating_point():
            raise AdvrBDError(
                f"this model takes floats in [0, 1], got {images.dtype}: model.predict(pictures) takes uint8"
            )
        logits: Tensor = self.network(images)
        return logits

    def predict(self, pictures: Any) -> Tensor:
        """The class of each picture.

        Args:
            pictures: PIL pictures or uint8 arrays or tensors of any size; see :meth:`prepare`.

        Returns:
            (N,) int64 on the CPU: places in ``class_names``.

        Raises:
            AdvrBDError: no pictures, or a logit is not a finite number.
        """
        return predict(self, self.prepare(pictures)).argmax(dim=1)

    def predict_proba(self, pictures: Any) -> Tensor:
        """(N, num_classes) float32: the probability of each class, as :meth:`predict` sees the pictures."""
        return predict(self, self.prepare(pictures)).softmax(dim=1)

    def prepare(self, pictures: Any) -> Tensor:
        """Pictures as the network's images: upright, in its size and channels.

        Args:
            pictures: a PIL picture, an array or tensor of uint8 of shape (H, W), (H, W, 1 or 3), (1 or 3, H, W) or
                (N, 1 or 3, H, W), a list of these, or an :class:`~advrbd_plugin.ImageSet`.

        Returns:
            (N, C, H, W) uint8.

        Raises:
            AdvrBDError: something else.
        """
        if isinstance(pictures, ImageSet):
            pictures = pictures.images
        if isinstance(pictures, (Tensor, np.ndarray)) and pictures.ndim == 4:
            pictures = list(pictures)
        elif not isinstance(pictures, (list, tuple)):
            pictures = [pictures]
        if not pictures:
            raise AdvrBDError(f"there are no pictures: give {_KINDS}")
        return torch.stack([self._prepared(_pixels(each)) for each in pictures])

    def _prepared(self, pixels: np.ndarray) -> Tensor:
        channels = self.description.in_channels
        if pixels.shape[2] != channels:
            wide = np.repeat(pixels, 3, axis=2) if channels == 3 else pixels.mean(axis=2, keepdims=True).round()
            pixels = wide.astype(np.uint8)
        fitted = np.array(fit_pixels(pixels, self.image_size, self.fit))
        return torch.from_numpy(fitted).permute(2, 0, 1).contiguous()

    def export(self, path: str | os.PathLike[str]) -> Path:
        """Write the network for other programs; it takes floats in [0, 1] of the model's size, any number at once.

        Args:
            path: ``NAME.onnx`` (needs the packages onnx and onnxscript), or ``NAME.pt2`` for ``torch.export.load``.

        Raises:
            AdvrBDError: another ending, or a package is missing.
        """
        from advrbd_plugin.nn.export import export_network

        return export_network(self.network, (self.description.in_channels, *self.image_size), path)

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Write the weights (safetensors) and the description (JSON), for :func:`advrbd_plugin.load_model`."""
        from advrbd_plugin.nn.model_file import save_model

        save_model(folder, self.network, self.description)

    def state_dict(self, *args: Any, **kwargs: Any) -> Any:
        """The network's."""
        return self.network.state_dict(*args, **kwargs)

    def load_state_dict(self, state_dict: Mapping[str, Any], strict: bool = True, assign: bool = False) -> Any:
        """Load the network's."""
        return self.network.load_state_dict(state_dict, strict=strict, assign=assign)

    def __repr__(self) -> str:
        about = self.description
        weights = sum(parameter.numel() for parameter in self.network.parameters())
        shape = _times((about.in_channels, *about.image_size))
        return (
            f"ImageClassifier({about.name}, {len(about.class_names)} classes, pictures of {shape}, {weights:,} weights)"
        )


def _times(sides: Sequence[int]) -> str:
    return "x".join(map(str, sides))


def _pixels(picture: Any) -> np.ndarray:
    """(H, W, 1 or 3) uint8."""
    if hasattr(picture, "convert") and hasattr(picture, "mode"):
        from PIL import ImageOps

        grey = picture.mode in ("1", "L")
        picture = np.asarray(ImageOps.exif_transpose(picture).convert("L" if grey else "RGB"))
    channels_first = isinstance(picture, Tensor)
    if isinstance(picture, Tensor):
        picture = picture.detach().cpu().numpy()
    if not isinstance(picture, np.ndarray):
        raise AdvrBDError(f"a picture must be {_KINDS}, got {brief(picture)}")
    if picture.dtype != np.uint8:
        raise AdvrBDError(
            f"pictures must be uint8, got {picture.dtype}: floats of the model's size go to model(images)"
        )
    if picture.ndim == 2:
        picture = picture[:, :, None]
    elif picture.ndim == 3 and picture.shape[0] in (1, 3) and (channels_first or picture.shape[2] not in (1, 3)):
        picture = picture.transpose(1, 2, 0)
    if picture.ndim != 3 or picture.shape[2] not in (1, 3) or 0 in picture.shape:
        raise AdvrBDError(f"a picture must be {_KINDS}, got the shape {tuple(picture.shape)}")
    return picture
