"""Tars, tables, arrays, shards and Parquet files: honest ones to be damaged, and those that are made to harm."""

from __future__ import annotations

import gzip
import io
import random
import tarfile
import zipfile
from collections.abc import Callable

import numpy as np
import torch

from tests.hostile import files


def _pictures() -> dict[str, bytes]:
    return {f"{name}/{number}.png": files.large_png(8, 8, 8, 2, number) for name in "ab" for number in (1, 2, 3)}


def tar_of(held: dict[str, bytes]) -> bytes:
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for name, content in held.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return buffer.getvalue()


def _shard() -> bytes:
    pictures = list(_pictures().values())
    held = {f"{number}.png": content for number, content in enumerate(pictures)}
    return tar_of(held | {f"{number}.cls": str(number % 2).encode() for number in range(len(pictures))})


def _npz() -> bytes:
    buffer = io.BytesIO()
    np.savez(buffer, images=np.zeros((6, 8, 8, 3), np.uint8), labels=np.arange(6) % 2, class_names=["a", "b"])
    return buffer.getvalue()


def _table() -> bytes:
    return b"path,label\n" + b"".join(f"a/{number}.png,{number % 2}\n".encode() for number in range(6))


def _parquet() -> bytes:
    try:
        import pyarrow
        from pyarrow import parquet
    except ImportError:
        return _table()
    pictures = [{"bytes": content, "path": name} for name, content in _pictures().items()]
    buffer = io.BytesIO()
    parquet.write_table(pyarrow.table({"image": pictures, "label": [0, 1] * 3}), buffer)
    return buffer.getvalue()


def _tensor(tensor: torch.Tensor) -> bytes:
    buffer = io.BytesIO()
    torch.save(tensor, buffer)
    return buffer.getvalue()


HONEST: dict[str, Callable[[], bytes]] = {
    "data.tar": lambda: tar_of(_pictures()),
    "data.tar.gz": lambda: gzip.compress(tar_of(_pictures())),
    "shard.tar": _shard,
    "data.npz": _npz,
    "data.csv": _table,
    "data.parquet": _parquet,
    "set/labels": lambda: _tensor(torch.arange(6) % 2),
    "set/imgs": lambda: _tensor(torch.rand(6, 3, 8, 8)),
}
"""Name -> content; a CSV table's pictures and the other file of ``set`` are written beside it."""


def damaged(rng: random.Random) -> tuple[str, dict[str, bytes]]:
    """(what to defend, files): one kind of data with random damage."""
    name = rng.choice(list(HONEST))
    return named(name, files.mutated(rng, HONEST[name]()))


def named(name: str, content: bytes) -> tuple[str, dict[str, bytes]]:
    """(what to defend, files) of one kind of data with this content."""
    beside: dict[str, bytes] = {}
    if name == "data.csv":
        beside = {f"a/{number}.png": files.large_png(8, 8, 8, 2, number) for number in range(6)}
    if name.startswith("set/"):
        beside = {each: HONEST[each]() for each in HONEST if each.startswith("set/")}
    return name.split("/")[0], beside | {name: content}


def to_harm() -> dict[str, Callable[[], tuple[str, dict[str, bytes]]]]:
    """Name of what is made to harm -> what makes it."""

    def long_header() -> bytes:
        entry = tarfile.TarInfo("x")
        entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**34
        return entry.tobuf(tarfile.GNU_FORMAT) + bytes(2**16)

    def chain() -> bytes:
        entry = tarfile.TarInfo("x")
        entry.type, entry.size = tarfile.XHDTYPE, 0
        return entry.tobuf(tarfile.GNU_FORMAT) * 5000 + bytes(1024)

    def huge_array() -> bytes:
        buffer = io.BytesIO()
        header = b"{'descr': '|u1', 'fortran_order': False, 'shape': (1000000, 1000, 1000), }"
        header += b" " * (118 - len(header) - 1) + b"\n"
        with zipfile.ZipFile(buffer, "w") as archive:
            for name in ("images", "labels"):
                archive.writestr(f"{name}.npy", b"\x93NUMPY\x01\x00" + len(header).to_bytes(2, "little") + header)
        return buffer.getvalue()

    def objects() -> bytes:
        buffer = io.BytesIO()
        np.savez(buffer, images=np.array([files.Sentinel()] * 2, dtype=object), labels=[0, 1])
        return buffer.getvalue()

    return {
        "a tar whose name would fill the memory": lambda: named("data.tar", long_header()),
        "a tar of headers of headers": lambda: named("data.tar", chain()),
        "a tar that points outside": lambda: named("data.tar", tar_of(_pictures() | {"../../made": b"x"})),
        "a gzip bomb": lambda: named("data.tar.gz", gzip.compress(bytes(2**30 + 2**28), compresslevel=1)),
        "an array larger than any memory": lambda: named("data.npz", huge_array()),
        "an array of objects": lambda: named("data.npz", objects()),
        "a table of files outside": lambda: named("data.csv", b"path,label\n../../etc/passwd,a\n/etc/passwd,b\n"),
        "a table of one endless cell": lambda: named("data.csv", b"path,label\n" + b"a" * 2**24),
        "a label that asks for a million classes": lambda: named("set/labels", _tensor(torch.arange(6) * 10**9)),
        "a shard with an endless label": lambda: named(
            "shard.tar", tar_of({"x.png": files.large_png(8, 8, 8, 2), "x.cls": b"1" * 2**24})
        ),
    }
