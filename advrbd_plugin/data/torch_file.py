"""Reading a PyTorch file from a stranger: plain data, tensors, and the few other types BackdoorBench writes.

BackdoorBench's records hold, beside tensors, NumPy arrays, NumPy numbers (its dictionary keys) and PIL images (attacks
that keep their poisoned images in memory). All are built here from their bytes by
:mod:`advrbd_plugin.data.pickle_reader`: no type or function that a file names is called, and no size that a file claims
is believed.
"""

from __future__ import annotations

import contextlib
import os
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

import torch
from torch import Tensor

from advrbd_plugin.data.pickle_reader import (
    NUMBER_NAMES,
    Budget,
    Named,
    Unfinished,
    UnreadablePickle,
    element_count,
    read_pickle,
)
from advrbd_plugin.data.sources import DAMAGE, open_zip, read_entry, read_regular_file
from advrbd_plugin.plain import brief, one_reason

MAX_FILE_BYTES = 8 * 2**30  # a record holds a model, and perhaps the poisoned pictures
_MAGIC = 0x1950A86A20F9469CFC6C  # of the format that torch.save wrote before 1.6
_MOST_PIXELS = 64_000_000
_STORAGES = {
    "DoubleStorage": torch.float64,
    "FloatStorage": torch.float32,
    "HalfStorage": torch.float16,
    "BFloat16Storage": torch.bfloat16,
    "LongStorage": torch.int64,
    "IntStorage": torch.int32,
    "ShortStorage": torch.int16,
    "CharStorage": torch.int8,
    "ByteStorage": torch.uint8,
    "BoolStorage": torch.bool,
    "ComplexFloatStorage": torch.complex64,
    "ComplexDoubleStorage": torch.complex128,
}
_DTYPES = (*dict.fromkeys(_STORAGES.values()), torch.uint16, torch.uint32, torch.uint64)
# Bits of a pixel as PIL's tobytes() gives it, for the modes that a picture of a data set can have.
_BITS = {"1": 1, "L": 8, "P": 8, "LA": 16, "PA": 16, "I;16": 16, "RGB": 24, "YCbCr": 24, "HSV": 24}
_BITS |= {"LAB": 24, "RGBA": 32, "RGBX": 32, "CMYK": 32, "I": 32, "F": 32}


def read_torch(file: str | os.PathLike[str] | IO[bytes], map_location: Any = "cpu") -> Any:
    """What ``torch.save`` wrote, as ``torch.load`` would return it.

    Args:
        file: a path, or an open binary file.
        map_location: as for ``torch.load``; ``None`` is the device that a tensor came from, where there is such.

    Raises:
        UnreadablePickle: it is damaged, or holds another type.
        AdvrBDError: it is a zip that cannot be read.
        OSError, ValueError: it cannot be opened.
    """
    if hasattr(file, "read"):
        content = file.read(MAX_FILE_BYTES)
        if content[:4] == b"PK\x03\x04":
            import tempfile

            with tempfile.NamedTemporaryFile(suffix=".pt") as copy:
                copy.write(content)
                copy.flush()
                return _read_zip(Path(copy.name), map_location)
        return _read_legacy(content, map_location)
    path = Path(os.fspath(file))
    with path.open("rb") as handle:
        is_zip = path.is_file() and handle.read(4) == b"PK\x03\x04"
    if is_zip:
        return _read_zip(path, map_location)
    return _read_legacy(read_regular_file(path, limit=MAX_FILE_BYTES), map_location)


@dataclass(frozen=True)
class _Storage:
    """The numbers of a tensor, and of others that share them."""

    numbers: Tensor  # (numel,)


def _read_zip(path: Path, map_location: Any) -> Any:
    size = path.stat().st_size
    with open_zip(path) as archive:
        pickles = [name for name in archive.namelist() if name.endswith("/data.pkl") or name == "data.pkl"]
        if len(pickles) != 1:
            raise UnreadablePickle("it is a zip without one data.pkl")
        home = pickles[0].removesuffix("data.pkl")
        entries = {info.filename: info for info in archive.infolist()}
        if f"{home}constants.pkl" in entries:
            raise UnreadablePickle("it is a TorchScript model, which is code", refused="a TorchScript model")
        left = size  # the entries' sizes, together, cannot be more: torch.save compresses nothing

        def entry(name: str) -> bytes:
            nonlocal left
            info = entries.get(home + name)
            if info is None:
                raise UnreadablePickle(f"it lacks {brief(name)}")
            left -= info.file_size
            if info.compress_type != zipfile.ZIP_STORED or left < 0:
                raise UnreadablePickle("it is compressed, or its parts overlap, which torch.save does not write")
            try:
                return read_entry(archive, info)
            except (*DAMAGE, OSError, ValueError) as error:
                raise UnreadablePickle(one_reason(error)) from error

        if f"{home}byteorder" in entries and entry("byteorder") != b"little":
            raise UnreadablePickle("it was written on a big-endian computer")
        storages = _Storages(lambda key: entry(f"data/{key}"), map_location)
        return read_pickle(entry("data.pkl"), names=_NAMES, persistent=storages, budget=Budget(size))[0]


def _read_legacy(content: bytes, map_location: Any) -> Any:
    """Five pickles (magic number, version, system, the content, the storages' keys), then the storages."""
    budget = Budget(len(content))
    magic, place = read_pickle(content, budget=budget)
    if magic != _MAGIC:
        raise UnreadablePickle("it does not begin as a file of torch.save does")
    for _ in range(2):
        _, place = read_pickle(content, budget=budget, start=place)
    # The storages stand behind the content that refers to them, so that is gone through twice.
    found: dict[str, int] = {}
    first = _Storages(None, "cpu", found)
    _, end = read_pickle(content, names=_NAMES, persistent=first, budget=budget, start=place)
    keys, position = read_pickle(content, budget=budget, start=end)
    parts: dict[str, bytes] = {}
    for key in keys if isinstance(keys, list) else ():
        if not isinstance(key, str) or key not in found:
            raise UnreadablePickle("it is damaged")
        count = int.from_bytes(content[position : position + 8], "little")
        position += 8
        parts[key] = content[position : position + found[key]]
        if count > found[key] or len(parts[key]) != found[key]:
            raise UnreadablePickle("it is cut short")
        position += found[key]
    storages = _Storages(parts.__getitem__, map_location)
    return read_pickle(content, names=_NAMES, persistent=storages, budget=budget, start=place)[0]


class _Storages:
    """From a persistent id to the storage; each is read once.

    Args:
        read: from a storage's key to its bytes; ``None`` makes storages that hold nothing, for their sizes alone.
        sizes: takes each storage's bytes by key.
    """

    def __init__(
        self, read: Callable[[str], bytes] | None, map_location: Any, sizes: dict[str, int] | None = None
    ) -> None:
        self._read = read
        self._map_location = map_location
        self._sizes = sizes
        self._known: dict[str, tuple[torch.dtype, int, _Storage]] = {}

    def __call__(self, reference: Any) -> _Storage:
        if not isinstance(reference, tuple) or len(reference) not in (5, 6) or reference[0] != "storage":
            raise UnreadablePickle("it refers to something that is no storage")
        kind, key, location, count = reference[1:5]
        if not isinstance(kind, _StorageType) or not isinstance(key, str) or not isinstance(location, str):
            raise UnreadablePickle("it refers to a damaged storage")
        if len(reference) == 6 and reference[5] is not None:
            raise UnreadablePickle("it holds views of storages as torch.save wrote them before 0.4")
        if type(count) is not int or not 0 <= count < 2**48:
            raise UnreadablePickle("it refers to a damaged storage")
        known = self._known.get(key)
        if known is None:
            known = (kind.dtype, count, self._make(kind.dtype, key, count, location))
            self._known[key] = known
        if known[:2] != (kind.dtype, count):
            raise UnreadablePickle("it refers to one storage as two kinds")
        return known[2]

    def _make(self, dtype: torch.dtype, key: str, count: int, location: str) -> _Storage:
        size = count * dtype.itemsize
        if self._sizes is not None:
            self._sizes[key] = size
        if self._read is None:
            return _Storage(torch.empty(0, dtype=dtype, device="meta"))
        content = self._read(key)
        if len(content) != size:
            raise UnreadablePickle(f"it holds a storage of {size} bytes in {len(content)}")
        numbers = torch.frombuffer(bytearray(content), dtype=dtype) if count else torch.empty(0, dtype=dtype)
        return _Storage(numbers.to(_device(location, self._map_location)))


def _device(location: str, map_location: Any) -> torch.device:
    """Where a storage goes; the CPU wherever the file's own device is not here."""
    if isinstance(map_location, dict):
        map_location = map_location.get(location, location)
    if map_location is None:
        map_location = location
    elif not isinstance(map_location, (str, torch.device)):
        map_location = "cpu"  # a function of torch's storages, which do not exist here
    with contextlib.suppress(RuntimeError):
        device = torch.device(map_location)
        if device.type != "cuda" or (torch.cuda.is_available() and (device.index or 0) < torch.cuda.device_count()):
            return device if device.type in ("cpu", "cuda") else torch.device("cpu")
    return torch.device("cpu")


@dataclass(frozen=True)
class _StorageType:
    """A type of storage that a file names."""

    dtype: torch.dtype


def _make_tensor(arguments: tuple[Any, ...], budget: Budget) -> Tensor:
    """``torch._utils._rebuild_tensor_v2`` and its like: a view of a storage, inside it and no larger than it."""
    storage, offset, size, stride = arguments[:4]
    requires_grad = bool(arguments[4]) if len(arguments) > 4 and isinstance(arguments[4], bool) else False
    numbers = storage.numbers if isinstance(storage, _Storage) else None
    size, stride = tuple(size), tuple(stride)
    count = element_count(size)
    good = len(stride) == len(size) and all(type(step) is int for step in (*stride, offset))
    if numbers is None or not good or offset < 0 or min(stride, default=0) < 0:
        raise UnreadablePickle("it holds a damaged tensor")
    budget.spend(1000)
    if len(arguments) > 6 and isinstance(arguments[6], torch.dtype):  # _rebuild_tensor_v3
        if numbers.is_meta or numbers.numel() % arguments[6].itemsize:
            return torch.empty(0)
        numbers = numbers.view(arguments[6])
    if numbers.is_meta:  # the first pass through a file of old, whose numbers come later
        return torch.empty(0)
    if not count:
        return torch.empty(size, dtype=numbers.dtype, device=numbers.device)
    last = offset + sum((side - 1) * step for side, step in zip(size, stride, strict=True))
    if count > numbers.numel() or last >= numbers.numel():
        raise UnreadablePickle(f"it holds a tensor of {count} numbers in a storage of {numbers.numel()}")
    tensor = numbers.as_strided(size, stride, offset)
    return tensor.requires_grad_() if requires_grad and tensor.is_floating_point() else tensor


def _make_parameter(arguments: tuple[Any, ...], budget: Budget) -> Tensor:
    tensor, requires_grad = arguments[:2]
    if not isinstance(tensor, Tensor) or not isinstance(requires_grad, bool):
        raise UnreadablePickle("it holds a damaged parameter")
    return torch.nn.Parameter(tensor.detach(), requires_grad=requires_grad and tensor.is_floating_point())


def _make_size(arguments: tuple[Any, ...], budget: Budget) -> torch.Size:
    element_count(tuple(arguments[0]))
    return torch.Size(arguments[0])


def _make_device(arguments: tuple[Any, ...], budget: Budget) -> torch.device:
    kind, *index = arguments
    good = isinstance(kind, str) and kind in ("cpu", "cuda", "mps", "xpu", "meta")
    if not good or len(index) > 1 or not all(type(each) is int and 0 <= each < 128 for each in index):
        raise UnreadablePickle("it holds a damaged device")
    return torch.device(kind, *index)


@dataclass
class _Picture(Unfinished):
    """A picture of PIL, from its mode, size, palette and bytes; what else a file adds (``info``) is left away."""

    def finish(self, state: Any, budget: Budget) -> Any:
        from PIL import Image

        if not isinstance(state, (list, tuple)) or len(state) < 5:
            raise UnreadablePickle("it holds a damaged picture")
        mode, size, palette, content = state[1:5]
        if not isinstance(mode, str) or mode not in _BITS or not isinstance(size, (tuple, list)) or len(size) != 2:
            raise UnreadablePickle("it holds a damaged picture")
        width, height = size
        if element_count((width, height)) > _MOST_PIXELS or not isinstance(content, (bytes, bytearray)):
            raise UnreadablePickle("it holds a damaged picture")
        if len(content) != (width * _BITS[mode] + 7) // 8 * height or not len(content):
            raise UnreadablePickle("it holds a damaged picture")
        budget.spend(4 * width * height + 1000)
        picture = Image.frombytes(mode, (width, height), bytes(content))
        if mode in ("P", "PA") and palette is not None:
            if (
                not isinstance(palette, (list, bytes))
                or len(palette) > 768
                or not all(_is_byte(each) for each in palette)
            ):
                raise UnreadablePickle("it holds a damaged picture")
            picture.putpalette(list(palette))
        return picture


def _is_byte(value: Any) -> bool:
    return type(value) is int and 0 <= value < 256


def _names() -> Mapping[str, Any]:
    names: dict[str, Any] = dict(NUMBER_NAMES)
    names |= {f"torch.{name}": _StorageType(dtype) for name, dtype in _STORAGES.items()}
    names["torch.storage.UntypedStorage"] = _StorageType(torch.uint8)
    names |= {str(dtype): dtype for dtype in _DTYPES}
    makers: dict[str, Callable[[tuple[Any, ...], Budget], Any]] = {
        "torch._utils._rebuild_tensor": _make_tensor,
        "torch._utils._rebuild_tensor_v2": _make_tensor,
        "torch._utils._rebuild_tensor_v3": _make_tensor,
        "torch._utils._rebuild_parameter": _make_parameter,
        "torch.Size": _make_size,
        "torch.device": _make_device,
        "PIL.Image.Image": lambda arguments, budget: _Picture(),
    }
    return names | {name: Named(name, make) for name, make in makers.items()}


_NAMES = _names()
