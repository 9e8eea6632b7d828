"""Any data set of PyTorch, or list of (picture, label), to an :class:`ImageSet`."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import chain, islice
from typing import Any

import numpy as np
import torch
from torch import Tensor

from advrbd_plugin.data.arrays import images_from_array
from advrbd_plugin.data.fitting import DEFAULT_FIT, check_fit, fit_pixels
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.labels import MAX_CLASSES, number_labels
from advrbd_plugin.data.originals import PixelSource, list_pixels
from advrbd_plugin.data.reading import LoadedImages, Visit, common_size, describe_sizes, visited
from advrbd_plugin.data.selection import draw_images
from advrbd_plugin.data.store import release_room, room_for
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason

_LOOKED_AT = 256  # pictures, for the size of all
_RELEASED_EVERY = 1024
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
    visit: Visit | None = None,
) -> LoadedImages:
    """The (picture, label) pairs of a data set as images; a sample's id is its place.

    Args:
        dataset: has a length and items, or can be gone through once. A picture is one of PIL, or an array or tensor as
            :func:`advrbd_plugin.data.arrays.images_from_array` takes, one of them; a label is a whole number or a name.
        names: of the labels; the data set's own ``classes`` by default.
        class_names, image_size, fit, samples, seed, on_progress, visit: as
            :func:`advrbd_plugin.data.reading.read_listing`.
        where: begins the line of an error.

    Raises:
        AdvrBDError: it holds something else, nothing, or a label out of range.
    """
    check_fit(fit)
    if visit is not None:
        return _visit(dataset, visit, names, class_names, where)
    total = len(dataset) if _has_places(dataset) else 0
    items = _items(dataset, where)
    size, notes, channels, items = _choose(dataset, items, image_size, where)
    shape = (channels, *size)
    fitted: Tensor | list[Tensor] = room_for((total, *shape)) if total else []
    values: list[int | str] = []
    sizes: list[tuple[int, int]] = []
    for index, item in enumerate(items):
        pixels = _pixels(_pair(item, index, where)[0], f"{where}, picture {index}")
        values.append(_label(item[1], f"{where}, item {index}"))
        sizes.append((pixels.shape[0], pixels.shape[1]))
        image = torch.from_numpy(np.ascontiguousarray(fit_pixels(pixels, size, fit))).permute(2, 0, 1)
        if len(image) > channels:  # the first pictures were grey
            channels = len(image)
            fitted = [each.expand(channels, -1, -1) for each in fitted[:index]]
        if isinstance(fitted, list):
            fitted.append(image.expand(channels, -1, -1))
        else:
            fitted[index] = image
        if on_progress is not None:
            on_progress(index + 1, max(total, index + 1))
        if index % _RELEASED_EVERY == 0:
            release_room()
    if not values:
        raise AdvrBDError(f"{where} holds no pictures")
    images = torch.stack(fitted) if isinstance(fitted, list) else fitted[: len(values)]
    numbers, known = number_labels(
        values,
        lambda index: f"{where}, item {index}",
        names=_names(dataset, names, values),
        class_names=class_names,
    )
    image_set = draw_images(ImageSet(images, numbers, known), samples, seed=seed)
    sizes = [sizes[index] for index in image_set.sample_ids.tolist()]
    return LoadedImages(image_set, (), (*notes, *describe_sizes(sizes, size, fit)))


def _visit(
    dataset: Any, visit: Visit, names: Sequence[str] | None, class_names: Sequence[str] | None, where: str
) -> LoadedImages:
    """Hand over the pictures one at a time, each in its own size. The data set must have places."""
    values = [
        _label(_pair(item, index, where)[1], f"{where}, item {index}")
        for index, item in enumerate(_items(dataset, where))
    ]
    if not values:
        raise AdvrBDError(f"{where} holds no pictures")
    numbers, known = number_labels(
        values,
        lambda index: f"{where}, item {index}",
        names=_names(dataset, names, values),
        class_names=class_names,
    )
    listing = list_pixels(numbers, torch.arange(len(values)), known)

    def pixels(index: int) -> np.ndarray:
        return _pixels(_pair(_item_at(dataset, index, where), index, where)[0], f"{where}, picture {index}")

    with PixelSource(where, listing.paths, pixels) as source:
        visit(source, listing)
    return visited(listing)


def _has_places(dataset: Any) -> bool:
    return hasattr(dataset, "__len__") and hasattr(dataset, "__getitem__")


def _choose(
    dataset: Any, items: Iterator[Any], asked: tuple[int, int] | None, where: str
) -> tuple[tuple[int, int], list[str], int, Iterator[Any]]:
    """The size of all, a sentence on it, their channels, and the items, of which some were looked at for that.

    Never are all pictures held as large as they come.
    """
    if _has_places(dataset):
        step = max(1, len(dataset) // _LOOKED_AT)
        looked_at = [_item_at(dataset, index, where) for index in range(0, len(dataset), step)]
    else:
        step = 1
        looked_at = list(islice(items, _LOOKED_AT))
        items = chain(looked_at, items)
    sizes: Counter[tuple[int, int]] = Counter()
    channels = 1
    for number, item in enumerate(looked_at):
        pixels = _pixels(_pair(item, number * step, where)[0], f"{where}, picture {number * step}")
        sizes[pixels.shape[0], pixels.shape[1]] += 1
        channels = max(channels, pixels.shape[2])
    size, notes = (asked, []) if asked is not None else common_size(sizes)
    return size, notes, channels, items


def _pair(item: Any, index: int, where: str) -> Any:
    if not isinstance(item, (tuple, list)) or len(item) < 2:
        raise AdvrBDError(f"{where}, item {index}, must be (picture, label), got {brief(item)}")
    return item


def _items(dataset: Any, where: str) -> Iterator[Any]:
    """Its items by place, or as it gives them where it has no places."""
    if hasattr(dataset, "batch_sampler"):
        raise AdvrBDError(f"{where} is a DataLoader, which gives batches: {_LOADER}")
    if not isinstance(dataset, Iterable) and not hasattr(dataset, "__getitem__"):
        raise AdvrBDError(f"{where} must be a data set of (picture, label), got {brief(dataset)}")
    if _has_places(dataset):
        yield from (_item_at(dataset, index, where) for index in range(len(dataset)))
        return
    try:
        yield from dataset
    except Exception as error:  # the user's own code
        raise _failure(error, where) from error


def _item_at(dataset: Any, index: int, where: str) -> Any:
    try:
        return dataset[index]
    except Exception as error:  # the user's own code
        raise _failure(error, where) from error


def _failure(error: Exception, where: str) -> Exception:
    if isinstance(error, AdvrBDError):
        return error
    if is_out_of_memory(error):
        return out_of_memory("reading pictures")
    return AdvrBDError(f"{where} fails while it is read ({type(error).__name__}): {one_reason(error)}")


def _pixels(picture: Any, where: str) -> np.ndarray:
    """(H, W, 1 or 3) uint8."""
    if hasattr(picture, "convert") and hasattr(picture, "mode"):  # PIL's
        picture = np.array(picture.convert("L" if picture.mode in ("1", "L") else "RGB"))
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
