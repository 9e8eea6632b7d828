"""Reading the pictures of a command's DATA: into memory, or into a store where they are too many or the user asks."""

from __future__ import annotations

import argparse
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from advrbd_plugin.data import LoadedImages
    from advrbd_plugin.report import OutputFolder

# Beside the results of an unfinished run, so that the run goes on from them; a finished one needs them no more.
AUTOMATIC_STORE = ".advrbd-pictures"
_SHARE_OF_MEMORY = 0.5


def add_store_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--store",
        metavar="DIR",
        help="keep the decoded pictures in DIR and read them from there, in this run and later ones; without it, a set "
        "that would take more than half of the free memory is kept in --out until the run is finished",
    )


def read_pictures(
    arguments: argparse.Namespace, out: OutputFolder, load: Callable[[], LoadedImages], **made_of: Any
) -> LoadedImages:
    """What ``load`` reads; through a store if it is large or ``--store`` asks.

    Args:
        out: where a store is kept that nobody asked for.
        load: decodes the pictures.
        made_of: what the pictures depend on beside the data and the options that say how to read it, ready for JSON.

    Raises:
        AdvrBDError: as ``load``; or ``--store`` holds something else.
    """
    from advrbd_plugin.cache import digest
    from advrbd_plugin.data.store import read_through_store

    options = ("image_size", "fit", "samples", "root", "image_column", "label_column")
    made_of |= {name: getattr(arguments, name) for name in options}
    name = "" if Path(arguments.data).exists() else arguments.data  # torchvision's, or of several shards
    key = digest(name, [_state(place) for place in _places(arguments)], made_of)
    if arguments.store is not None:
        return read_through_store(load, arguments.store, key)
    place = out.path / AUTOMATIC_STORE
    if not _is_of(place, key):
        remove_automatic_store(out)
    return read_through_store(load, place, key, above=int(_SHARE_OF_MEMORY * _free_memory()))


def remove_automatic_store(out: OutputFolder) -> None:
    """Forget the pictures that a run kept beside its results, and what a killed one left of them half made."""
    for place in (out.path / AUTOMATIC_STORE, *out.path.glob(f".{AUTOMATIC_STORE}-*")):
        shutil.rmtree(place, ignore_errors=True)


def _is_of(place: Path, key: str) -> bool:
    from advrbd_plugin.data.store import open_store
    from advrbd_plugin.errors import AdvrBDError

    with suppress(AdvrBDError):
        return open_store(place, key) is not None
    return False


def _places(arguments: argparse.Namespace) -> list[Path]:
    """Where the files of DATA lie: there, and for a table or a name below ``--root`` or beside it."""
    data, root = Path(arguments.data), arguments.root
    places = [data] if data.exists() else []
    if root is not None:
        places.append(Path(root))
    elif arguments.data.startswith("torchvision:"):
        places.append(Path())
    elif not data.is_dir() and (not data.exists() or data.suffix.lower() in (".csv", ".tsv", ".parquet")):
        places.append(data.parent)
    return places


def _state(data: Path) -> list[list[Any]]:
    """Names, sizes and times of all files, by which a changed set is known without reading it."""
    return list(_files(str(data), len(str(data)), set())) if data.is_dir() else [_entry(data.name, data)]


def _files(folder: str, prefix: int, seen: set[tuple[int, int]]) -> Iterator[list[Any]]:
    """Of a folder and all below it, links followed, each folder once."""
    with suppress(OSError):
        status = os.stat(folder)
        if (status.st_dev, status.st_ino) in seen:
            return
        seen.add((status.st_dev, status.st_ino))
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.is_dir():
                    yield from _files(entry.path, prefix, seen)
                else:
                    yield _entry(entry.path[prefix:], entry)


def _entry(name: str, place: Any) -> list[Any]:
    try:
        status = place.stat()
    except OSError:  # a link to nowhere; what reads the set says so
        return [name, 0, 0]
    return [name, status.st_size, status.st_mtime_ns]


def _free_memory() -> int:
    """Bytes that programs can take now: of the machine, or of the container if that has fewer."""
    free = [2**33]  # where nothing says
    with suppress(OSError, ValueError, IndexError):
        lines = Path("/proc/meminfo").read_text().splitlines()
        free = [int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:")]
    with suppress(OSError, ValueError):
        limit, used = (int(Path(f"/sys/fs/cgroup/memory.{name}").read_text()) for name in ("max", "current"))
        free.append(max(0, limit - used))
    return min(free)
