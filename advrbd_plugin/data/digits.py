"""Hand-written digits that ship inside scikit-learn: real data with no download, small enough for a demonstration."""

from __future__ import annotations

import torch
import torch.nn.functional as F

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw_stratified

TEST_SHARE = 0.25


def load_digits(*, image_size: int = 16, seed: int = 0) -> tuple[ImageSet, ImageSet]:
    """The UCI digits (Alpaydin and Kaynak, 1998; 1,797 grey images of 8x8) upscaled, split into train and test.

    Args:
        image_size: side in pixels after bilinear upscaling; 16 leaves a 3x3 trigger room beside the digit.
        seed: for the split, in which each class keeps its share.

    Returns:
        (train, test) with one channel and 16 grey levels spread over 0 to 255.
    """
    from sklearn import datasets

    digits = datasets.load_digits()
    images = torch.from_numpy(digits.images).float()[:, None] * (255 / 16)
    images = F.interpolate(images, size=(image_size, image_size), mode="bilinear", align_corners=False)
    everything = ImageSet(
        images=images.round().clamp(0, 255).byte(),
        labels=torch.from_numpy(digits.target).long(),
        class_names=tuple(str(digit) for digit in range(10)),
    )
    return split(everything, seed=seed)


def split(image_set: ImageSet, *, seed: int, test_share: float = TEST_SHARE) -> tuple[ImageSet, ImageSet]:
    """(train, test) of a set that has no test part of its own, each class in proportion, drawn by (seed, sample id)."""
    count = round(test_share * len(image_set))
    is_test = torch.zeros(len(image_set), dtype=torch.bool)
    is_test[draw_stratified(image_set.sample_ids, image_set.labels, count, seed=seed)] = True
    return image_set.subset(~is_test), image_set.subset(is_test)
