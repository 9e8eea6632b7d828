"""WebDataset: tars in which the files of one sample share a name, ``key.jpg`` with ``key.cls`` or ``key.json``."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from advrbd_plugin.data.decoding import EXTENSIONS
from advrbd_plugin.data.reading import LoadedImages, read_listing
from advrbd_plugin.data.sources import DAMAGE, Source
from advrbd_plugin.data.tables import LABEL_COLUMNS, Columns, label_or_fault, list_rows, several
from advrbd_plugin.data.tar import TarSource
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.plain import brief, one_reason, parse_json

_LABEL_FILES = ("cls", "label", "cls.txt", "label.txt", "class")
_BRACES = re.compile(r"\{(\d+)\.\.(\d+)\}")
_MOST_SHARDS = 10_000
_LABEL_BYTES = 2**20


class ShardSource(Source):
    """Several tars as one source: ``shard-000.tar/key.jpg``."""

    def __init__(self, root: Path, shards: Sequence[Path]) -> None:
        self._tars: dict[str, TarSource] = {}
        try:
            for shard in shards:
                self._tars[shard.name] = TarSource(shard)
                if not self._tars[shard.name].files:
                    raise AdvrBDError(f"{shard} is an empty shard: it holds no files")
        except BaseException:
            self.close()
            raise
        super().__init__(root, (), ())
        self.files = [f"{name}/{path}" for name, tar in self._tars.items() for path in tar.files]
        for tar in self._tars.values():
            self.notes += tar.notes

    def read(self, path: str) -> bytes:
        name, _, inner = path.partition("/")
        return self._tars[name].read(inner)

    def head(self, path: str) -> bytes:
        name, _, inner = path.partition("/")
        return self._tars[name].head(inner)

    def size(self, path: str) -> int:
        name, _, inner = path.partition("/")
        return self._tars[name].size(inner)

    def close(self) -> None:
        for tar in self._tars.values():
            tar.close()


def find_shards(data: str) -> list[Path] | None:
    """The tars that ``photos-{000..012}.tar`` or a folder of tars stands for; ``None`` if it stands for none.

    Raises:
        AdvrBDError: the braces name shards that are missing, or too many.
    """
    braces = _BRACES.search(data)
    if braces and not Path(data).exists():
        first, last = int(braces[1]), int(braces[2])
        if not 0 <= last - first < _MOST_SHARDS:
            raise AdvrBDError(f"{data} must name 1 to {_MOST_SHARDS} shards, from the lower number to the higher")
        width = len(braces[1])
        shards = [Path(_BRACES.sub(f"{number:0{width}d}", data, count=1)) for number in range(first, last + 1)]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise AdvrBDError(f"{data}: {len(missing)} of {len(shards)} shards are missing: {', '.join(missing[:5])}")
        return shards
    folder = Path(data)
    if not folder.is_dir():
        return None
    shards = sorted(folder.glob("*.tar"))
    return shards[:_MOST_SHARDS] or None


def is_shard(path: Path) -> bool:
    """Whether a tar holds the samples of a WebDataset, as the names of its files say."""
    with TarSource(path) as source:
        pictures = {key for key, kind in map(_parts, source.files) if f".{kind}" in EXTENSIONS}
        return any(key in pictures and kind in (*_LABEL_FILES, "json") for key, kind in map(_parts, source.files))


def load_shards(
    data: str,
    shards: Sequence[Path],
    *,
    columns: Columns = Columns(),  # noqa: B008 - frozen
    class_names: Sequence[str] | None = None,
    **reading: Any,
) -> LoadedImages:
    """The samples of a WebDataset.

    Args:
        data: as the user named it.
        shards: the tars.
        columns: ``label`` names the kind of file with the label (``cls``), or the key in ``key.json``.
        class_names: the classes of a model that is to be judged.
        reading: as :func:`advrbd_plugin.data.reading.read_listing`.

    Raises:
        AdvrBDError: a shard is empty or damaged, or a sample has no label; the line names them.
    """
    with ShardSource(Path(data), shards) as source:
        samples: dict[str, dict[str, str]] = {}
        for path in source.files:
            key, kind = _parts(path)
            samples.setdefault(key, {})[kind] = path
        paths: list[str] = []
        values: list[int | str] = []
        faults: list[str] = []
        for key, files in samples.items():
            picture = next((files[kind] for kind in files if f".{kind}" in EXTENSIONS), None)
            if picture is None:
                continue  # what lies beside the samples, such as a README
            value = _label(source, files, columns.label)
            if value is None:
                faults.append(f"{brief(key)} has no label")
                continue
            paths.append(picture)
            values.append(value)
        if faults:
            wanted = "key.cls with a number or name, or key.json with label (--label-column)"
            raise AdvrBDError(
                f"{several(data, faults, len(samples))}: each sample needs {wanted}".replace("row", "sample")
            )
        listing = list_rows(
            data, paths, values, lambda index: f"{data}, sample {brief(paths[index])}", class_names=class_names
        )
        return read_listing(source, listing, must_be_complete=class_names is None, **reading)


def _parts(path: str) -> tuple[str, str]:
    """(key, kind): WebDataset cuts at the first dot of the file's name."""
    folder, slash, name = path.rpartition("/")
    key, _, kind = name.partition(".")
    return f"{folder}{slash}{key}", kind.lower()


def _label(source: Source, files: dict[str, str], asked: str | None) -> int | str | None:
    """The label in a sample's own text file or JSON; ``None`` where there is none."""
    kinds = _LABEL_FILES if asked is None else (asked,)
    kind = next((kind for kind in kinds if kind in files), None)
    if kind is not None:
        text = _text(source, files[kind]).strip()
        return (
            int(text)
            if text.removeprefix("-").isascii() and text.removeprefix("-").isdigit() and len(text) < 20
            else label_or_fault(text)
        )
    if "json" not in files:
        return None
    content = parse_json(_text(source, files["json"]), f"{source.root} ({files['json']})")
    if not isinstance(content, dict):
        return None
    keys = LABEL_COLUMNS if asked is None else (asked,)
    return next((label_or_fault(content[key]) for key in keys if key in content), None)


def _text(source: Source, path: str) -> str:
    try:
        if source.size(path) > _LABEL_BYTES:
            raise ValueError(f"{source.size(path)} bytes are no label")
        return source.read(path).decode("utf-8")
    except (*DAMAGE, OSError, ValueError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {path}") from error
        raise AdvrBDError(f"{source.root} ({brief(path)}) cannot be read: {one_reason(error)}") from error
