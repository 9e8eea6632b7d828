"""Attacks whose trigger differs from picture to picture: a patch at random places, noise of its own, a reflection."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

from advrbd_plugin.attacks.base import Attack
from advrbd_plugin.attacks.patch import check_size
from advrbd_plugin.attacks.picture import blend_picture, checkers_picture, overlay
from advrbd_plugin.attacks.sampling import uniform
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError

_TEST_SEED = 2**31  # the draws of test pictures, whatever seed the training set was poisoned with


@dataclass(frozen=True, kw_only=True)
class SampleSpecificAttack(Attack):
    """An attack whose trigger derives from (seed, sample id): the subclasses give :meth:`training_trigger`."""

    def trigger(self, images: Tensor) -> Tensor:
        return self.training_trigger(images, torch.arange(len(images)), seed=_TEST_SEED)

    def triggered_test_set(self, image_set: ImageSet) -> ImageSet:
        self._check_labels(image_set)
        victims = image_set.subset(self.victims(image_set.labels))
        images = self.training_trigger(victims.images, victims.sample_ids, seed=_TEST_SEED)
        return ImageSet(images, victims.labels, victims.class_names, victims.sample_ids, victims.paths)


@dataclass(frozen=True, kw_only=True)
class RandomPatch(SampleSpecificAttack):
    """A black and white checkerboard at a place drawn for each picture: it has no common mean residual.

    Attributes:
        patch_size: side in pixels.
    """

    name = "random_patch"

    patch_size: int = 5

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.patch_size < 3:
            raise AdvrBDError(f"patch_size must be at least 3, got {self.patch_size}")

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        check_size(images, self.patch_size, self.name)
        patch = checkers_picture(self.patch_size)[:3].round().byte()
        patch = patch if images.shape[1] == 3 else patch[:1]
        draws = uniform(sample_ids, 2, seed=seed, purpose="random_patch/place")
        height, width = images.shape[-2:]
        triggered = images.clone()
        for row, (vertical, horizontal) in enumerate(draws.tolist()):
            top = int(vertical * (height - self.patch_size + 1))
            left = int(horizontal * (width - self.patch_size + 1))
            triggered[row, :, top : top + self.patch_size, left : left + self.patch_size] = patch
        return triggered


@dataclass(frozen=True, kw_only=True)
class SampleNoise(SampleSpecificAttack):
    """Each picture gets noise of its own, plus or minus ``amplitude`` at every value: only its strength is shared.

    Attributes:
        amplitude: in grey levels of 0 to 255.
    """

    name = "sample_noise"

    amplitude: float = 10.0

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.amplitude <= 255:
            raise AdvrBDError(f"amplitude must be in (0, 255], got {self.amplitude}")

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        draws = uniform(sample_ids, images[0].numel(), seed=seed, purpose="sample_noise").view(images.shape)
        noise = self.amplitude * (2.0 * (draws < 0.5).double() - 1.0)
        return (images.double() + noise).round().clamp(0, 255).to(torch.uint8)


@dataclass(frozen=True, kw_only=True)
class Reflection(SampleSpecificAttack):
    """A blurred picture with its ghost, mixed in at a place and with a strength drawn for each picture.

    Like Refool (Liu et al., arXiv 2007.02343), with one drawn picture in place of photographs of reflections.

    Attributes:
        least, most: the strength, uniform between them, in (0, 1].
        shift: the reflected picture is moved by up to so many pixels.
    """

    name = "reflection"

    least: float = 0.2
    most: float = 0.45
    shift: int = 6

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 < self.least <= self.most <= 1:
            raise AdvrBDError(f"least and most must be 0 < least <= most <= 1, got {self.least} and {self.most}")
        if self.shift < 0:
            raise AdvrBDError(f"shift must not be negative, got {self.shift}")

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        channels, height, width = images.shape[1:]
        check_size(images, 4, self.name)
        margin = self.shift + 2
        picture = blend_picture(height + 2 * margin, width + 2 * margin, channels=channels)
        picture = functional.avg_pool2d(picture[None], 3, stride=1, padding=1)[0]
        picture = 0.6 * picture + 0.4 * picture.roll((2, 2), dims=(1, 2))  # the ghost of the second pane
        draws = uniform(sample_ids, 3, seed=seed, purpose="reflection")
        moves = ((2 * draws[:, :2] - 1) * (self.shift + 0.5)).round().clamp(-self.shift, self.shift).long() + margin
        reflected = torch.stack(
            [picture[:, top : top + height, left : left + width] for top, left in moves.tolist()]
            or [picture[:, :height, :width]]
        )[: len(images)]
        strength = self.least + (self.most - self.least) * draws[:, 2]
        return overlay(images, reflected, strength[:, None, None, None])
