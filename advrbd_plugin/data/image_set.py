"""The only thing that the algorithm sees: images with the labels that they came with."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.data.stored_images import StoredImages
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import brief


@dataclass(frozen=True, eq=False)
class ImageSet:
    """Labelled images of one size. What is known about poison never stands here.

    Attributes:
        images: (N, C, H, W) uint8, C is 1 (grey) or 3 (RGB); :class:`StoredImages` for a set larger than memory
            (:mod:`advrbd_plugin.data.store`).
        labels: (N,) int64 in [0, num_classes).
        class_names: one distinct name for each label, in the order of the labels.
        sample_ids: (N,) int64, not negative and distinct. An image keeps its id in every subset and order,
            and everything random about it derives from (seed, sample id). ``None`` numbers them 0..N-1.
        paths: where each image lies, relative to the data set's root, or ``None`` if it came from no file.

    Raises:
        AdvrBDError: a field has the wrong shape, dtype or device, or a value out of range; the line names the field.

    Examples:
        >>> pictures = torch.zeros(4, 3, 8, 8, dtype=torch.uint8)
        >>> cats_and_dogs = ImageSet(pictures, torch.tensor([0, 1, 1, 0]), ("cat", "dog"))
        >>> len(cats_and_dogs), cats_and_dogs.num_classes, cats_and_dogs.subset([1, 2]).sample_ids
        (4, 2, tensor([1, 2]))
        >>> ImageSet.from_numpy(pictures.permute(0, 2, 3, 1) / 255, ["cat", "dog", "dog", "cat"]).labels
        tensor([0, 1, 1, 0])
    """

    images: Tensor
    labels: Tensor
    class_names: tuple[str, ...]
    sample_ids: Tensor = None  # type: ignore[assignment]  # never None once it is made
    paths: tuple[str, ...] | None = None

    def __post_init__(self) -> None:
        if self.sample_ids is None and isinstance(self.images, Tensor) and self.images.ndim:
            object.__setattr__(self, "sample_ids", torch.arange(len(self.images)))
        self._check_types()
        if isinstance(self.class_names, (str, bytes)) or not isinstance(self.class_names, Iterable):
            raise AdvrBDError(f"class_names must be names, one for each label, got {brief(self.class_names)}")
        object.__setattr__(self, "class_names", tuple(self.class_names))
        if self.paths is not None:
            object.__setattr__(self, "paths", tuple(self.paths))
        self._check_images()
        self._check_labels()
        self._check_sample_ids()
        if self.paths is not None and len(self.paths) != len(self):
            raise AdvrBDError(f"paths must name all {len(self)} images, got {len(self.paths)}")

    @classmethod
    def from_folder(cls, path: str | os.PathLike[str], **options: Any) -> ImageSet:
        """The set in a folder with one sub-folder a class, or in a zip or tar of one.

        Args:
            path: the folder, zip or tar.
            options: ``image_size``, ``fit``, ``samples`` and the others of
                :func:`advrbd_plugin.data.folder.load_folder`, which also tells what could not be read.

        Raises:
            AdvrBDError: it cannot be read; one line says what to do.
        """
        from advrbd_plugin.data.folder import load_folder

        return load_folder(path, **options).image_set

    @classmethod
    def from_numpy(
        cls,
        images: Any,
        labels: Any,
        class_names: Sequence[str] | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        fit: str = "pad",
    ) -> ImageSet:
        """The set of an array of pictures with their labels.

        Args:
            images: an array or tensor of shape (N, H, W), (N, H, W, 1 or 3) or (N, 1 or 3, H, W): uint8, other whole
                numbers in [0, 255], or fractions in [0, 1].
            labels: (N,) whole numbers, not negative, or names.
            class_names: of the labels 0, 1, ...; by default the numbers themselves.
            image_size: (height, width) to bring the pictures to; by default they stay as they are.
            fit: how, where that has another shape: ``pad``, ``crop`` or ``squeeze``.

        Raises:
            AdvrBDError: a wrong shape, type or value; the line names it.
        """
        from advrbd_plugin.data.arrays import from_arrays

        return from_arrays(images, labels, class_names, image_size=image_size, fit=fit)

    @classmethod
    def from_dataset(
        cls,
        dataset: Any,
        class_names: Sequence[str] | None = None,
        *,
        image_size: tuple[int, int] | None = None,
        fit: str = "pad",
    ) -> ImageSet:
        """The set of any PyTorch data set of (picture, label), or a list of such pairs; ids are the places in it.

        Args:
            dataset: pictures of PIL, or arrays or tensors as :meth:`from_numpy` takes (one picture each), of any sizes;
                without normalisation and random augmentation.
            class_names: of the labels 0, 1, ...; by default the data set's ``classes``, else the numbers themselves.
            image_size: (height, width) of all; by default the most common size, or a 64x64 square if that is larger.
            fit: how pictures of another shape come to it: ``pad``, ``crop`` or ``squeeze``.

        Raises:
            AdvrBDError: an item is no such pair, or a value is out of range; the line names the item.
        """
        from advrbd_plugin.data.wrapped import load_dataset_object

        return load_dataset_object(dataset, names=class_names, image_size=image_size, fit=fit).image_set

    def __len__(self) -> int:
        return self.images.shape[0]

    @property
    def num_classes(self) -> int:
        """The number of labels that can occur."""
        return len(self.class_names)

    @property
    def num_channels(self) -> int:
        """1 for grey images, 3 for RGB."""
        return self.images.shape[1]

    @property
    def image_size(self) -> tuple[int, int]:
        """(height, width) in pixels."""
        return self.images.shape[2], self.images.shape[3]

    def class_counts(self) -> Tensor:
        """(num_classes,) int64: how many images carry each label."""
        return torch.bincount(self.labels, minlength=self.num_classes)

    def subset(self, indices: Tensor | Sequence[int]) -> ImageSet:
        """The images at ``indices`` ((M,) int64, or (N,) bool), in that order, with their ids and paths."""
        indices = torch.as_tensor(indices)
        if indices.dtype == torch.bool:
            if indices.shape != (len(self),):
                raise ValueError(f"a mask must have shape ({len(self)},), got {tuple(indices.shape)}")
            indices = indices.nonzero().flatten()
        indices = indices.to(torch.int64)
        if len(indices) == len(self) and torch.equal(indices, torch.arange(len(self))):
            return self  # a copy would take as much memory again
        return ImageSet(
            images=self.images.pick(indices) if isinstance(self.images, StoredImages) else self.images[indices],
            labels=self.labels[indices],
            class_names=self.class_names,
            sample_ids=self.sample_ids[indices],
            paths=None if self.paths is None else tuple(self.paths[index] for index in indices.tolist()),
        )

    def by_id(self) -> ImageSet:
        """The same images in the order of their ids, for results that do not depend on the order they came in."""
        return self.subset(torch.argsort(self.sample_ids))

    def _check_types(self) -> None:
        wanted = "torch tensors: images (N, 1 or 3, H, W) uint8 and labels (N,) int64"
        for name, value in (("images", self.images), ("labels", self.labels), ("sample_ids", self.sample_ids)):
            if not isinstance(value, Tensor):
                raise AdvrBDError(
                    f"{name} must be a tensor, got {brief(value)}: ImageSet takes {wanted}; {_way_to_make(value)}"
                )

    def _check_images(self) -> None:
        images = self.images
        tensors = {"images": images, "labels": self.labels, "sample_ids": self.sample_ids}
        for name, tensor in tensors.items():
            if tensor.device.type != "cpu":
                raise AdvrBDError(f"{name} must be on the CPU, got {tensor.device}: batches go to the model's device")
        if images.dtype != torch.uint8:
            raise AdvrBDError(
                f"images must be torch.uint8, got {images.dtype}: ImageSet.from_numpy(images, labels) also takes "
                "fractions in [0, 1]"
            )
        if images.ndim != 4 or images.shape[1] not in (1, 3) or 0 in images.shape[2:]:
            raise AdvrBDError(f"images must have shape (N, 1 or 3, H, W), got {tuple(images.shape)}")

    def _check_labels(self) -> None:
        labels = self.labels
        not_names = next((name for name in self.class_names if not isinstance(name, str)), None)
        if not_names is not None:
            raise AdvrBDError(f"class_names must be texts, got {brief(not_names)}")
        if labels.dtype != torch.int64 or labels.shape != (len(self),):
            raise AdvrBDError(
                f"labels must be int64 of shape ({len(self)},), got {labels.dtype} of shape {tuple(labels.shape)}"
            )
        if not self.class_names or len(set(self.class_names)) != len(self.class_names):
            raise AdvrBDError(f"class_names must be distinct and at least one, got {brief(list(self.class_names))}")
        outside = ((labels < 0) | (labels >= self.num_classes)).nonzero().flatten()
        if len(outside):
            first = int(outside[0])
            raise AdvrBDError(
                f"labels must be in [0, {self.num_classes - 1}], got {int(labels[first])} for image {first}"
                + (f" ({self.paths[first]})" if self.paths is not None and first < len(self.paths) else "")
            )

    def _check_sample_ids(self) -> None:
        sample_ids = self.sample_ids
        if sample_ids.dtype != torch.int64 or sample_ids.shape != (len(self),):
            raise AdvrBDError(
                f"sample_ids must be int64 of shape ({len(self)},), got {sample_ids.dtype} of shape "
                f"{tuple(sample_ids.shape)}"
            )
        if len(self) and int(sample_ids.min()) < 0:
            raise AdvrBDError(f"sample_ids must not be negative, got {int(sample_ids.min())}")
        if len(sample_ids.unique()) != len(self):
            raise AdvrBDError(f"sample_ids must be distinct, got {len(sample_ids.unique())} for {len(self)} images")


def require_image_set(value: object) -> None:
    """Raise AdvrBDError, with the way to make one of it, unless ``value`` is an :class:`ImageSet`."""
    if not isinstance(value, ImageSet):
        raise AdvrBDError(f"the training set must be an ImageSet, got {brief(value)}: {_way_to_make(value)}")


def _way_to_make(value: object) -> str:
    """Which classmethod makes a set of such a thing."""
    if isinstance(value, (str, bytes, os.PathLike)):
        return "ImageSet.from_folder(PATH) makes one from a folder, zip or tar"
    if hasattr(value, "__array__") or isinstance(value, (Tensor, list)):
        return "ImageSet.from_numpy(images, labels) makes one from arrays"
    if hasattr(value, "dataset"):
        return "ImageSet.from_dataset(loader.dataset) makes one from a loader's data set"
    return "ImageSet.from_dataset(DATASET) makes one from a data set of (picture, label)"
