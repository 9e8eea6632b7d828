"""From a list of image files with labels to pixels: which are drawn, at what size, and what could not be read."""

from __future__ import annotations

import hashlib
import os
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice

import numpy as np
import torch
from torch import Tensor

from advrbd_plugin.data.decoding import DecodedImage, UnreadableImage, decode, read_size
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import check_samples, draw, draw_stratified
from advrbd_plugin.data.sources import Source
from advrbd_plugin.errors import AdvrBDError

LARGEST_DEFAULT_SIDE = 64  # larger pictures are shrunk to this unless a size is asked for
_SIZES_READ = 1000


@dataclass(frozen=True)
class LoadedImages:
    """A data set that was read, and what a person should know about the reading.

    Attributes:
        image_set: what could be read, in the order of the paths.
        left_out: (path, reason) of every file that could not.
        notes: whole sentences on what was done to the pictures (resized, converted).
    """

    image_set: ImageSet
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """What lies in a source before anything is decoded.

    Attributes:
        paths: of the image files, sorted.
        labels: (N,) int64.
        sample_ids: (N,) int64, see :func:`path_id`.
        class_names: in the order of the labels.
    """

    paths: list[str]
    labels: Tensor
    sample_ids: Tensor
    class_names: tuple[str, ...]


def read_listing(
    source: Source,
    listing: Listing,
    *,
    image_size: tuple[int, int] | None = None,
    samples: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    must_be_complete: bool = True,
) -> LoadedImages:
    """Decode the files of a listing.

    Args:
        image_size: (height, width) for all. By default the most common size, or a 64x64 square if that is larger.
        samples: how many images to take, each class in proportion, drawn by (seed, sample id); all if there are fewer.
        seed: for that draw.
        on_progress: called with (files done, files in all).
        must_be_complete: whether every class must keep a readable image.

    Raises:
        AdvrBDError: a wrong size, too few samples, nothing readable, or a class with no readable image.
    """
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # a word on each odd file would drown all else
        if samples is not None:
            listing = _draw_samples(listing, samples, seed)
        report = on_progress or (lambda done, total: None)
        with ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1))) as pool:
            size, notes = _choose_size(source, listing, image_size, pool)
            images, kept, left_out, seen = _decode_all(source, listing, size, pool, report)
    _check_readable(source, listing, kept, left_out, must_be_complete=must_be_complete)
    image_set = ImageSet(
        images=images,
        labels=listing.labels[kept],
        class_names=listing.class_names,
        sample_ids=listing.sample_ids[kept],
        paths=tuple(listing.paths[index] for index in kept.tolist()),
    )
    return LoadedImages(image_set, tuple(left_out), (*notes, *_describe(seen, size)))


def path_id(path: str) -> int:
    """63 bits of the path's digest; the path in one Unicode form, since file systems differ in it."""
    digest = hashlib.blake2b(unicodedata.normalize("NFC", path).encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 1


def _draw_samples(listing: Listing, samples: int, seed: int) -> Listing:
    check_samples(samples, len(listing.class_names))
    if samples >= len(listing.paths):
        return listing
    chosen = draw_stratified(listing.sample_ids, listing.labels, samples, seed=seed)
    return Listing(
        [listing.paths[index] for index in chosen.tolist()],
        listing.labels[chosen],
        listing.sample_ids[chosen],
        listing.class_names,
    )


def _choose_size(
    source: Source, listing: Listing, asked: tuple[int, int] | None, pool: ThreadPoolExecutor
) -> tuple[tuple[int, int], list[str]]:
    """The size for all images, and a sentence if it is not simply theirs."""
    if asked is not None:
        if min(asked) < 1:
            raise AdvrBDError(f"image_size must be at least 1, got {asked[0]}x{asked[1]}")
        return asked, []
    looked_at = draw(listing.sample_ids, min(_SIZES_READ, len(listing.paths)), seed=0, purpose="sizes")
    sizes = Counter()
    for size in pool.map(lambda index: _size_or_none(source, listing.paths[index]), looked_at.tolist()):
        if size is not None:
            sizes[size] += 1
    if not sizes:
        return (LARGEST_DEFAULT_SIDE, LARGEST_DEFAULT_SIDE), []
    height, width = min(sizes, key=lambda size: (-sizes[size], size))
    if max(height, width) <= LARGEST_DEFAULT_SIDE:
        return (height, width), []
    side = LARGEST_DEFAULT_SIDE
    note = f"The images are large (most often {height}x{width}); they are shrunk to {side}x{side}. --image-size changes that."
    return (side, side), [note]


def _size_or_none(source: Source, path: str) -> tuple[int, int] | None:
    try:
        return read_size(source.read(path))
    except Exception:  # whatever is wrong with it is told when it is decoded
        return None


def _decode_all(
    source: Source,
    listing: Listing,
    size: tuple[int, int],
    pool: ThreadPoolExecutor,
    report: Callable[[int, int], None],
) -> tuple[Tensor, Tensor, list[tuple[str, str]], list[DecodedImage]]:
    """(images, positions that were kept, what was left out, one record without pixels for each that was kept)."""
    total = len(listing.paths)
    try:
        images = torch.empty((total, 3, *size), dtype=torch.uint8)
    except RuntimeError as error:
        gigabytes = total * 3 * size[0] * size[1] / 1e9
        raise AdvrBDError(f"{total} images of {size[0]}x{size[1]} need {gigabytes:.1f} GB: use --image-size") from error
    kept: list[int] = []
    left_out: list[tuple[str, str]] = []
    seen: list[DecodedImage] = []
    tasks = _in_order(pool, lambda path: _decode_or_reason(source, path, size), listing.paths)
    for index, outcome in enumerate(tasks):
        if isinstance(outcome, str):
            left_out.append((listing.paths[index], outcome))
        else:
            images[len(kept)] = torch.from_numpy(np.ascontiguousarray(outcome.pixels.transpose(2, 0, 1)))
            kept.append(index)
            seen.append(DecodedImage(np.empty(0, np.uint8), outcome.mode, outcome.size))
        report(index + 1, total)
    return images[: len(kept)], torch.tensor(kept, dtype=torch.int64), left_out, seen


def _decode_or_reason(source: Source, path: str, size: tuple[int, int]) -> DecodedImage | str:
    try:
        return decode(source.read(path), size)
    except (UnreadableImage, ValueError) as error:
        return str(error)
    except OSError as error:
        return error.strerror or str(error)
    except Exception as error:  # damage inside an archive: zlib.error, BadZipFile and their like
        return f"damaged: {' '.join(str(error).split())[:120]}"


def _in_order(pool: ThreadPoolExecutor, work: Callable, items: Iterable) -> Iterator:
    """``pool.map`` with a bounded look-ahead: a data set's decoded pictures must not pile up in memory."""
    items = iter(items)
    waiting = [pool.submit(work, item) for item in islice(items, 256)]
    while waiting:
        batch, waiting = waiting[:128], waiting[128:]
        waiting += [pool.submit(work, item) for item in islice(items, 128)]
        for future in batch:
            yield future.result()


def _check_readable(
    source: Source, listing: Listing, kept: Tensor, left_out: list[tuple[str, str]], *, must_be_complete: bool
) -> None:
    if not len(kept):
        path, reason = left_out[0]
        raise AdvrBDError(
            f"none of the {len(left_out)} files in {source.root} can be read; the first, {path}: {reason}"
        )
    counts = torch.bincount(listing.labels[kept], minlength=len(listing.class_names))
    if must_be_complete and int(counts.min()) == 0:
        name = listing.class_names[int(counts.argmin())]
        raise AdvrBDError(f"{source.root} holds a class with no readable image: {name!r}")


def _describe(seen: list[DecodedImage], size: tuple[int, int]) -> list[str]:
    """One sentence on sizes and one on modes, where anything was changed."""
    notes = []
    others = sum(image.size != size for image in seen)
    if others:
        notes.append(f"{others} of {len(seen)} images were resized to {size[0]}x{size[1]} pixels.")
    modes = Counter(image.mode for image in seen if image.mode != "RGB")
    if modes:
        listed = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        notes.append(f"{sum(modes.values())} of {len(seen)} images were converted to RGB ({listed}).")
    return notes
