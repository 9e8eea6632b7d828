"""Adaptive-Patch: several faint patches, each sample with one (Qi et al., "Revisiting the assumption of latent
separability for backdoor defenses", ICLR 2023, Adap-Patch)."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

from advrbd_plugin.attacks.base import CoverAttack
from advrbd_plugin.attacks.patch import Corner, Layer, check_size, in_proportion
from advrbd_plugin.attacks.picture import checkers_picture, flower_picture, load_patch, rings_picture, star_picture
from advrbd_plugin.attacks.sampling import uniform
from advrbd_plugin.errors import AdvrBDError

_SMALLEST = 8  # pixels a side; on smaller images the patches overlap
_ALL_CORNERS: tuple[Corner, ...] = (("top", "left"), ("top", "right"), ("bottom", "left"), ("bottom", "right"))


@dataclass(frozen=True, kw_only=True)
class AdaptivePatch(CoverAttack):
    """Each training sample or cover shows one of four faint patches; a triggered test image shows two opaque ones.

    Sides, places and opacities are those of the paper's code for CIFAR-10, in proportion to the image: a star of 5/32
    of the side in the bottom right corner (opacity 0.5), a flower of 13/32 in the top right (0.2), checkers of 3/32 in
    all four corners (0.5), rings of 8/32 towards the bottom right (0.3); at test time stars in both bottom corners
    and the checkers, opaque. With a picture of the user's the four patches are its quarters, where the flower would be
    ("Firefox*4" in the AdvrBD paper), and a test image shows them all.

    Attributes:
        opacities: of the four patches in the training set (star, flower, checkers, rings; or the quarters of the
            picture, row by row), in (0, 1].
        test_opacity: of the patches at test time, in (0, 1].
        picture: path of the user's own picture, transparent where it is to leave the image alone.
    """

    name = "adaptive_patch"

    opacities: tuple[float, ...] = (0.5, 0.2, 0.5, 0.3)
    test_opacity: float = 1.0
    picture: str | None = None

    def __post_init__(self) -> None:
        super().__post_init__()
        object.__setattr__(self, "opacities", tuple(self.opacities))
        if len(self.opacities) != 4 or not all(0 < opacity <= 1 for opacity in self.opacities):
            raise AdvrBDError(f"opacities must be four numbers in (0, 1], got {list(self.opacities)}")
        if not 0 < self.test_opacity <= 1:
            raise AdvrBDError(f"test_opacity must be in (0, 1], got {self.test_opacity}")

    def trigger(self, images: Tensor) -> Tensor:
        for layer in self._test_layers(images):
            images = layer.over(images, self.test_opacity)
        return images

    def training_trigger(self, images: Tensor, sample_ids: Tensor, *, seed: int) -> Tensor:
        layers = self._training_layers(images)
        drawn = uniform(sample_ids, 1, seed=seed, purpose="adaptive_patch/patch")[:, 0] * len(layers)
        triggered = images.clone()
        for number, (layer, opacity) in enumerate(zip(layers, self.opacities, strict=True)):
            chosen = drawn.long() == number
            triggered[chosen] = layer.over(images[chosen], opacity)
        return triggered

    def _training_layers(self, images: Tensor) -> tuple[Layer, ...]:
        check_size(images, _SMALLEST, self.name)
        if self.picture is not None:
            return _quarters(self.picture, images)
        star = star_picture(in_proportion(5, images, least=2))
        flower = flower_picture(in_proportion(13, images, least=3))
        rings = rings_picture(in_proportion(8, images, least=2))
        return (
            Layer.place(star, ("bottom", "right"), margin=0, like=images),
            Layer.place(flower, ("top", "right"), margin=in_proportion(1, images, least=0), like=images),
            _checkers(images),
            Layer.place(rings, ("bottom", "right"), margin=in_proportion(3, images, least=0), like=images),
        )

    def _test_layers(self, images: Tensor) -> tuple[Layer, ...]:
        check_size(images, _SMALLEST, self.name)
        if self.picture is not None:
            return _quarters(self.picture, images)
        star = star_picture(in_proportion(5, images, least=2))
        stars = Layer.place(star, ("bottom", "left"), ("bottom", "right"), margin=0, like=images)
        return stars, _checkers(images)


def _quarters(picture: str, images: Tensor) -> tuple[Layer, ...]:
    """The four quarters of the user's picture as layers, row by row."""
    patch = load_patch(picture, in_proportion(13, images, least=4))
    half = (patch.shape[-1] + 1) // 2
    layers = []
    for rows in (slice(None, half), slice(half, None)):
        for columns in (slice(None, half), slice(half, None)):
            quarter = patch.clone()
            quarter[3] = 0
            quarter[3, rows, columns] = patch[3, rows, columns]
            margin = in_proportion(1, images, least=0)
            layers.append(Layer.place(quarter, ("top", "right"), margin=margin, like=images))
    return tuple(layers)


def _checkers(images: Tensor) -> Layer:
    patch = checkers_picture(in_proportion(3, images, least=2))
    return Layer.place(patch, *_ALL_CORNERS, margin=0, like=images)
