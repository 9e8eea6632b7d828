"""From a list of image files with labels to pixels: which are drawn, at what size, and what could not be read."""

from __future__ import annotations

import hashlib
import os
import threading
import unicodedata
import warnings
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace
from itertools import islice
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

from advrbd_plugin import limits
from advrbd_plugin.data.decoding import (
    DecodedImage,
    UnreadableImage,
    bit_range,
    decode,
    may_be_picture,
    memory_needed,
    read_size,
    to_8_bits,
)
from advrbd_plugin.data.fitting import DEFAULT_FIT, check_fit, placement
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import check_samples, draw, draw_stratified
from advrbd_plugin.data.sources import Source
from advrbd_plugin.data.store import release_room, room_for
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import one_reason

Item = TypeVar("Item")
Done = TypeVar("Done")

LARGEST_DEFAULT_SIDE = 64  # larger pictures are shrunk to this unless a size is asked for
_SIZES_READ = 1000
_RELEASED_EVERY = 1024
_LARGE_FILE = 2**24  # bytes of a file that is read only if it begins as a picture does


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
        sample_ids: (N,) int64, see :func:`path_ids`.
        class_names: in the order of the labels.
        notes: whole sentences on what was taken for what, and what was passed over.
    """

    paths: list[str]
    labels: Tensor
    sample_ids: Tensor
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()


Visit = Callable[[Source, Listing], None]
"""What wants the pictures as they are stored: it is given them in place of a decoding, while their source is open."""


def visited(listing: Listing) -> LoadedImages:
    """What a reader returns after a :data:`Visit`: the listing as a set, every picture one black pixel."""
    black = torch.zeros(1, 1, 1, 1, dtype=torch.uint8).expand(len(listing.labels), 1, 1, 1)
    return LoadedImages(ImageSet(black, listing.labels, listing.class_names, listing.sample_ids))


def read_listing(
    source: Source,
    listing: Listing,
    *,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
    samples: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    must_be_complete: bool = True,
    visit: Visit | None = None,
) -> LoadedImages:
    """Decode the files of a listing.

    Args:
        image_size: (height, width) for all. By default the most common size, or a 64x64 square if that is larger.
        fit: how pictures of another shape come to it, one of :data:`advrbd_plugin.data.fitting.FITS`.
        samples: how many images to take, each class in proportion, drawn by (seed, sample id); all if there are fewer.
        seed: for that draw.
        on_progress: called with (files done, files in all).
        must_be_complete: whether every class must keep a readable image.
        visit: is given the source and the whole listing; then nothing is decoded (:func:`visited`).

    Raises:
        AdvrBDError: a wrong size, too few samples, nothing readable, or a class with no readable image.
    """
    check_fit(fit)
    if visit is not None:
        visit(source, listing)
        return visited(listing)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", module="PIL")  # a word on each odd file would drown all else
        if samples is not None:
            listing = _draw_samples(listing, samples, seed)
        report = on_progress or (lambda done, total: None)
        gate = _Gate()
        with _threads() as pool:
            size, notes = _choose_size(source, listing, image_size, pool, gate)
            images, kept, left_out, seen = _decode_all(source, listing, size, fit, pool, gate, report)
    _check_readable(source, listing, kept, left_out, must_be_complete=must_be_complete)
    image_set = ImageSet(
        images=images,
        labels=listing.labels[kept],
        class_names=listing.class_names,
        sample_ids=listing.sample_ids[kept],
        paths=tuple(listing.paths[index] for index in kept.tolist()),
    )
    all_notes = (*listing.notes, *source.notes, *notes, *_describe(seen, size, fit))
    return LoadedImages(image_set, tuple(left_out), all_notes)


@contextmanager
def _threads() -> Iterator[ThreadPoolExecutor]:
    """Threads that read; after an error none of those that wait begins."""
    pool = ThreadPoolExecutor(max_workers=min(16, 2 * (os.cpu_count() or 1)))
    try:
        yield pool
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def path_ids(paths: Sequence[str]) -> Tensor:
    """(N,) int64 sample ids of distinct paths: 63 bits of each path's digest, all distinct.

    A path counts in one Unicode form (NFC), since file systems differ in it. Where several of the paths have the same
    form, the one that is written in it keeps its id (else the first), and each of the others has that of its own bytes.
    """
    forms: dict[str, list[str]] = {}
    for path in paths:
        forms.setdefault(unicodedata.normalize("NFC", path), []).append(path)
    ids: dict[str, int] = {}
    taken: set[int] = set()
    for form, written in forms.items():
        first = form if form in written else min(written)
        for path in sorted(written, key=lambda path: (path != first, path)):
            text = form if path == first else f"{path}\0"
            while (number := _digest(text)) in taken:
                text += "\0"
            taken.add(number)
            ids[path] = number
    return torch.tensor([ids[path] for path in paths], dtype=torch.int64)


def _digest(text: str) -> int:
    digest = hashlib.blake2b(text.encode("utf-8", "surrogateescape"), digest_size=8)
    return int.from_bytes(digest.digest(), "little") >> 1


def _draw_samples(listing: Listing, samples: int, seed: int) -> Listing:
    check_samples(samples, len(listing.class_names))
    if samples >= len(listing.paths):
        return listing
    chosen = draw_stratified(listing.sample_ids, listing.labels, samples, seed=seed)
    return replace(
        listing,
        paths=[listing.paths[index] for index in chosen.tolist()],
        labels=listing.labels[chosen],
        sample_ids=listing.sample_ids[chosen],
    )


def _choose_size(
    source: Source,
    listing: Listing,
    asked: tuple[int, int] | None,
    pool: ThreadPoolExecutor,
    gate: _Gate,
) -> tuple[tuple[int, int], list[str]]:
    """The size for all images, and a sentence if it is not simply theirs."""
    if asked is not None:
        if min(asked) < 1:
            raise AdvrBDError(f"image_size must be at least 1, got {asked[0]}x{asked[1]}")
        return asked, []
    looked_at = draw(listing.sample_ids, min(_SIZES_READ, len(listing.paths)), seed=0, purpose="sizes")
    sizes: Counter[tuple[int, int]] = Counter()
    for size in pool.map(lambda index: _size_or_none(source, gate, listing.paths[index]), looked_at.tolist()):
        if size is not None:
            sizes[size] += 1
    return common_size(sizes)


def common_size(sizes: Counter[tuple[int, int]]) -> tuple[tuple[int, int], list[str]]:
    """The size for pictures of these (height, width), and a sentence if it is not simply theirs.

    The most common one, or a 64x64 square if that is larger.
    """
    if not sizes:
        return (LARGEST_DEFAULT_SIDE, LARGEST_DEFAULT_SIDE), []
    height, width = min(sizes, key=lambda size: (-sizes[size], size))
    if max(height, width) <= LARGEST_DEFAULT_SIDE:
        return (height, width), []
    side = LARGEST_DEFAULT_SIDE
    note = (
        f"The images are large (most often {height}x{width}); they are shrunk to {side}x{side}. "
        "--image-size changes that."
    )
    return (side, side), [note]


def _size_or_none(source: Source, gate: _Gate, path: str) -> tuple[int, int] | None:
    try:
        size = source.size(path)
        if size > _LARGE_FILE and not may_be_picture(source.head(path)):
            return None
        with gate.hold_file(size):
            return read_size(source.read(path))
    except Exception as error:  # whatever is wrong with it is told when it is decoded
        if is_out_of_memory(error):
            raise out_of_memory("reading pictures") from error
        return None


def _decode_all(
    source: Source,
    listing: Listing,
    size: tuple[int, int],
    fit: str,
    pool: ThreadPoolExecutor,
    gate: _Gate,
    report: Callable[[int, int], None],
) -> tuple[Tensor, Tensor, list[tuple[str, str]], list[DecodedImage]]:
    """(images, positions that were kept, what was left out, one record without pixels for each that was kept)."""
    total = len(listing.paths)
    images = room_for((total, 3, *size))
    kept: list[int] = []
    left_out: list[tuple[str, str]] = []
    seen: list[DecodedImage] = []
    deep: dict[int, DecodedImage] = {}
    tasks = _in_order(pool, lambda path: _decode_or_reason(source, gate, path, size, fit), listing.paths)
    for index, outcome in enumerate(tasks):
        if isinstance(outcome, str):
            left_out.append((listing.paths[index], outcome))
        else:
            if outcome.depth is not None:
                deep[len(kept)] = outcome
            else:
                images[len(kept)] = _channels_first(outcome.pixels)
            kept.append(index)
            seen.append(replace(outcome, pixels=np.empty(0, np.uint8)))
        report(index + 1, total)
        if index % _RELEASED_EVERY == 0:
            release_room()
    if deep:
        low, high = deep_range(seen)
        for place, image in deep.items():
            images[place] = _channels_first(to_8_bits(image.pixels, low, high))
    return images[: len(kept)], torch.tensor(kept, dtype=torch.int64), left_out, seen


def _channels_first(pixels: np.ndarray) -> Tensor:
    return torch.from_numpy(np.ascontiguousarray(pixels.transpose(2, 0, 1)))


def deep_range(seen: Sequence[DecodedImage]) -> tuple[int, int]:
    """The lowest and the highest value in all pictures of 16 and 32 bits."""
    depths = [image.depth for image in seen if image.depth is not None]
    return min(low for low, _ in depths), max(high for _, high in depths)


def _decode_or_reason(source: Source, gate: _Gate, path: str, size: tuple[int, int], fit: str) -> DecodedImage | str:
    try:
        size_in_file = source.size(path)
        if size_in_file > _LARGE_FILE and not may_be_picture(source.head(path)):
            return "not an image"
        with gate.hold_file(size_in_file):
            content = source.read(path)
            with gate.hold_picture(memory_needed(content)):
                return decode(content, size, fit)
    except Exception as error:  # damage inside an archive: zlib.error, BadZipFile and their like
        if is_out_of_memory(error):
            raise out_of_memory("reading pictures", "give fewer or smaller images, or end other programs") from error
        if isinstance(error, OSError):
            return error.strerror or one_reason(error)
        return (
            one_reason(error) if isinstance(error, (UnreadableImage, ValueError)) else f"damaged: {one_reason(error)}"
        )


class _Gate:
    """Lets threads wait until what they hold together fits in the memory that reading may take.

    Files and pictures have their own share: a thread that holds a file waits for its picture, never the other way
    round, so that no two wait for one another.
    """

    def __init__(self) -> None:
        self._files = _Share(limits.FILES_IN_FLIGHT)
        self._pictures = _Share(limits.PICTURES_IN_FLIGHT)

    def hold_file(self, size: int) -> AbstractContextManager[None]:
        return self._files.hold(size)

    def hold_picture(self, size: int) -> AbstractContextManager[None]:
        return self._pictures.hold(size)


class _Share:
    def __init__(self, size: int) -> None:
        self._size = size
        self._held = 0
        self._changed = threading.Condition()

    @contextmanager
    def hold(self, size: int) -> Iterator[None]:
        size = min(size, self._size)  # what is larger than the share is let through alone
        with self._changed:
            self._changed.wait_for(lambda: self._held + size <= self._size)
            self._held += size
        try:
            yield
        finally:
            with self._changed:
                self._held -= size
                self._changed.notify_all()


def _in_order(pool: ThreadPoolExecutor, work: Callable[[Item], Done], items: Iterable[Item]) -> Iterator[Done]:
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


_FITTED = {
    "pad": "keep their shape and are filled up with their mirror image",
    "crop": "keep their shape and lose their edges",
    "squeeze": "are stretched",
}


def describe_sizes(sizes: Sequence[tuple[int, int]], size: tuple[int, int], fit: str) -> list[str]:
    """Sentences on pictures of other (height, width) than the set's ``size``."""
    notes = []
    others = sum(each != size for each in sizes)
    if others:
        notes.append(f"{others} of {len(sizes)} images were resized to {size[0]}x{size[1]} pixels.")
    shapes = sum(placement(each, size, "pad").size != size for each in sizes)
    if shapes:
        notes.append(f"{shapes} of {len(sizes)} images have another shape; they {_FITTED[fit]} (--fit changes that).")
    return notes


def _describe(seen: list[DecodedImage], size: tuple[int, int], fit: str) -> list[str]:
    """One sentence on sizes and one on modes, where anything was changed."""
    notes = describe_sizes([image.size for image in seen], size, fit)
    deep = sum(image.depth is not None for image in seen)
    if deep:
        low, high = deep_range(seen)
        bottom, top = bit_range(low, high)
        notes.append(
            f"{deep} of {len(seen)} images have 16 or 32 bits a value; their values, {low} to {high} over all of them, "
            f"were scaled from {bottom} to {top} down to 0 to 255."
        )
    modes = Counter(image.mode for image in seen if image.mode != "RGB")
    if modes:
        listed = ", ".join(f"{count} {mode}" for mode, count in sorted(modes.items()))
        notes.append(f"{sum(modes.values())} of {len(seen)} images were converted to RGB ({listed}).")
    return notes
