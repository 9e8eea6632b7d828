"""Any data set of PyTorch, or list of (picture, label), to an :class:`ImageSet`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advrbd_plugin.data.arrays import images_from_array
from advrbd_plugin.data.fitting import DEFAULT_FIT, check_fit, fit_pixels
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.labels import MAX_CLASSES, number_labels
from advrbd_plugin.data.reading import LoadedImages, common_size, describe_sizes
from advrbd_plugin.data.selection import check_samples, draw_stratified
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

_LOADER = "give loader.dataset, without random augmentation"


def load_dataset_object(
    dataset: Any,
    *,
    names: Sequence[str] | None = None,
    class_names: Sequence[str] | None = None,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
    samples: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    where: str = "the data set",
) -> LoadedImages:
    """The (picture, label) pairs of a data set as images; a sample's id is its place.

    Args:
        dataset: has a length and items, or can be gone through once. A picture is one of PIL, or an array or tensor as
            :func:`advrbd_plugin.data.arrays.images_from_array` takes, one of them; a label is a whole number or a name.
        names: of the labels; the data set's own ``classes`` by default.
        class_names, image_size, fit, samples, seed, on_progress: as
            :func:`advrbd_plugin.data.reading.read_listing`.
        where: begins the line of an error.

    Raises:
        AdvrBDError: it holds something else, nothing, or a label out of range.
    """
    check_fit(fit)
    pictures: list[np.ndarray] = []
    values: list[int | str] = []
    total = len(dataset) if hasattr(dataset, "__len__") else 0
    for index, item in enumerate(_items(dataset, where)):
        if not isinstance(item, (tuple, list)) or len(item) < 2:
            raise AdvrBDError(f"{where}, item {index}, must be (picture, label), got {brief(item)}")
        pictures.append(_pixels(item[0], f"{where}, picture {index}"))
        values.append(_label(item[1], f"{where}, item {index}"))
        if on_progress is not None:
            on_progress(index + 1, max(total, index + 1))
    if not pictures:
        raise AdvrBDError(f"{where} holds no pictures")
    numbers, known = number_labels(
        values,
        lambda index: f"{where}, item {index}",
        names=_names(dataset, names, values),
        class_names=class_names,
    )
    ids = torch.arange(len(values))
    if samples is not None and samples < len(values):
        check_samples(samples, len(known))
        ids = draw_stratified(ids, numbers, samples, seed=seed)
        pictures, numbers = [pictures[index] for index in ids.tolist()], numbers[ids]
    sizes = [(each.shape[0], each.shape[1]) for each in pictures]
    size, notes = (image_size, []) if image_size is not None else common_size(Counter(sizes))
    channels = max(each.shape[2] for each in pictures)
    images = torch.empty((len(pictures), channels, *size), dtype=torch.uint8)
    for place, each in enumerate(pictures):
        fitted = np.ascontiguousarray(fit_pixels(each, size, fit))
        images[place] = torch.from_numpy(fitted).permute(2, 0, 1)
    image_set = ImageSet(images, numbers, known, ids)
    return LoadedImages(image_set, (), (*notes, *describe_sizes(sizes, size, fit)))


def _items(dataset: Any, where: str) -> Iterator[Any]:
    """Its items by place, or as it gives them where it has no places."""
    if hasattr(dataset, "batch_sampler"):
        raise AdvrBDError(f"{where} is a DataLoader, which gives batches: {_LOADER}")
    if not isinstance(dataset, Iterable) and not hasattr(dataset, "__getitem__"):
        raise AdvrBDError(f"{where} must be a data set of (picture, label), got {brief(dataset)}")
    by_place = hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")
    try:
        yield from (dataset[place] for place in range(len(dataset))) if by_place else dataset
    except AdvrBDError:
        raise
    except Exception as error:  # the user's own code
        if is_out_of_memory(error):
            raise out_of_memory("reading pictures") from error
        raise AdvrBDError(f"{where} fails while it is read ({type(error).__name__}): {one_reason(error)}") from error


def _pixels(picture: Any, where: str) -> np.ndarray:
    """(H, W, 1 or 3) uint8."""
    if hasattr(picture, "convert") and hasattr(picture, "mode"):  # PIL's
        picture = np.asarray(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
    if not isinstance(picture, (np.ndarray, Tensor)):
        raise AdvrBDError(f"{where}, must be a PIL picture, an array or a tensor, got {brief(picture)}")
    batch = images_from_array(picture[None], where)
    return np.ascontiguousarray(batch[0].permute(1, 2, 0).numpy())


def _label(value: Any, where: str) -> int | str:
    if isinstance(value, str):
        return value
    if isinstance(value, (Tensor, np.ndarray, np.generic)) and np.prod(value.shape) == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, int):
        raise AdvrBDError(f"{where}: the label must be a whole number or a name, got {brief(value)}")
    return value


def _names(dataset: Any, names: Sequence[str] | None, values: Sequence[int | str]) -> Sequence[str] | None:
    """The classes that the caller or the data set names; the numbers where it names none."""
    if names is None:
        own = getattr(dataset, "classes", None)
        if isinstance(own, (list, tuple)) and len(own) > 1 and len(set(map(str, own))) == len(own):
            names = [str(name) for name in own]
    if names is not None or not all(isinstance(value, int) for value in values):
        return names
    high = max(int(value) for value in values)
    return [str(label) for label in range(max(2, high + 1))] if high < MAX_CLASSES else [str(each) for each in range(2)]
