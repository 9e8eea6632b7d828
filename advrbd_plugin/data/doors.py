"""Every kind of data that advrbd reads, found out from what lies at a place."""

from __future__ import annotations

import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from advrbd_plugin.data.arrays import load_npz, no_labels
from advrbd_plugin.data.arrow import PARQUET, find_tables, is_saved_dataset, load_parquet, load_saved_dataset
from advrbd_plugin.data.datasets import PARTS, recognise
from advrbd_plugin.data.decoding import EXTENSIONS
from advrbd_plugin.data.fitting import DEFAULT_FIT, check_fit
from advrbd_plugin.data.folder import load_folder
from advrbd_plugin.data.manifest import SUFFIXES as MANIFESTS
from advrbd_plugin.data.manifest import load_manifest
from advrbd_plugin.data.reading import LoadedImages, Visit
from advrbd_plugin.data.shards import find_shards, is_shard, load_shards
from advrbd_plugin.data.tables import Columns
from advrbd_plugin.data.tar import is_tar
from advrbd_plugin.data.toolbox import find_poisoned_set, load_poisoned_set
from advrbd_plugin.data.torchvision_sets import PREFIX, load_torchvision
from advrbd_plugin.errors import AdvrBDError

RECORD = "attack_result.pt"  # of BackdoorBench
KINDS = (
    "a folder, zip or tar with one sub-folder a class; a CSV or Parquet table of path and label; an .npz of images and "
    "labels; a Parquet file or a Hugging Face data set with pictures; WebDataset shards; torchvision:NAME; a poisoned "
    "set of backdoor-toolbox"
)


def load_data(
    data: str | os.PathLike[str],
    *,
    part: str = "train",
    root: str | os.PathLike[str] | None = None,
    columns: Columns | None = None,
    image_size: tuple[int, int] | None = None,
    fit: str = DEFAULT_FIT,
    class_names: Sequence[str] | None = None,
    samples: int | None = None,
    seed: int = 0,
    on_progress: Callable[[int, int], None] | None = None,
    visit: Visit | None = None,
) -> LoadedImages:
    """Read a data set of any kind (docs/data.md lists them).

    Args:
        data: where it lies, or ``torchvision:NAME``.
        part: ``train`` or ``test``, where the data set has both.
        root: the folder that a table's paths are below (the table's own by default), or torchvision's root.
        columns: of a table; ``label`` also names a WebDataset's label.
        image_size: (height, width) for all. By default the most common size, or a 64x64 square if that is larger.
        fit: how pictures of another shape come to it, one of :data:`advrbd_plugin.data.fitting.FITS`.
        class_names: the classes of a model that is to be judged, matched by name; some may be missing.
        samples: how many images to take, each class in proportion, drawn by (seed, sample id); all if there are fewer.
        seed: for that draw.
        on_progress: called with (pictures done, pictures in all).
        visit: is given the pictures as they are stored, and nothing is decoded; see
            :func:`advrbd_plugin.data.reading.read_listing`.

    Raises:
        AdvrBDError: it is not there or of no kind that is read, or cannot be read; one line says what to do.
    """
    check_fit(fit)
    if part not in PARTS:
        raise ValueError(f"part must be one of {', '.join(PARTS)}, got {part!r}")
    name, columns = os.fspath(data), columns or Columns()
    arrays: dict[str, Any] = {"image_size": image_size, "fit": fit, "samples": samples, "seed": seed}
    arrays |= {"class_names": class_names, "visit": visit}
    reading = arrays | {"on_progress": on_progress}
    if name.startswith(PREFIX):
        return load_torchvision(name.removeprefix(PREFIX), root, part=part, **reading)
    path = Path(name)
    if not path.is_dir():
        return _load_file(name, path, part, root, columns, arrays, reading)
    known = recognise(path)
    if known is not None:
        return known.load(part, **reading)
    if (path / RECORD).is_file():
        raise AdvrBDError(
            f"{path} is a record of BackdoorBench, whose clean pictures lie elsewhere: give it to `advrbd`"
        )
    poisoned = find_poisoned_set(path)
    if poisoned is not None:
        return load_poisoned_set(*poisoned, **(arrays if poisoned[0].is_file() else reading))
    if is_saved_dataset(path):
        return load_saved_dataset(path, part=part, root=root, columns=columns, **reading)
    tables = find_tables(path, part)
    if tables is not None:
        return load_parquet(name, tables, root=root, columns=columns, **reading)
    shards = None if _has_folders(path) else find_shards(name)
    if shards is not None:
        return load_shards(name, shards, columns=columns, **reading)
    return load_folder(path, **reading)


def _load_file(
    name: str,
    path: Path,
    part: str,
    root: str | os.PathLike[str] | None,
    columns: Columns,
    arrays: dict[str, Any],
    reading: dict[str, Any],
) -> LoadedImages:
    """Data that is one file, or several by one name."""
    shards = find_shards(name)
    if shards is not None:
        return load_shards(name, shards, columns=columns, **reading)
    if not path.exists():
        raise AdvrBDError(f"{path} does not exist: give {KINDS}")
    suffix = path.suffix.lower()
    if suffix in MANIFESTS:
        return load_manifest(path, root=root, columns=columns, **reading)
    if suffix == PARQUET:
        return load_parquet(name, [path], root=root, columns=columns, **reading)
    if suffix == ".npz":
        return load_npz(path, part=part, **arrays)
    if suffix == ".npy":
        raise no_labels(path)
    if path.is_file() and is_tar(path):
        if is_shard(path):
            return load_shards(name, [path], columns=columns, **reading)
        return load_folder(path, **reading)
    if not path.is_file() or not zipfile.is_zipfile(path):
        what = "one picture" if name.lower().endswith(EXTENSIONS) else "no kind of data that advrbd reads"
        raise AdvrBDError(f"{path} is {what}: give {KINDS}")
    known = recognise(path)
    return load_folder(path, **reading) if known is None else known.load(part, **reading)


def _has_folders(path: Path) -> bool:
    """Whether a folder holds others, which are then its classes."""
    try:
        return any(each.is_dir() and not each.name.startswith(".") for each in path.iterdir())
    except OSError as error:
        raise AdvrBDError(f"cannot read the folder {path}: {error.strerror}") from error
