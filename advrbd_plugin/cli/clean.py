"""``advrbd clean``: the data without its poisoned samples, as links, copies or a table. DATA itself stays as it is."""

from __future__ import annotations

import argparse
import csv
import io
import os
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

from advrbd_plugin.cli.options import add_telling_options
from advrbd_plugin.errors import AdvrBDError

WAYS = ("links", "copies", "manifest")
MISLABELLED = ("relabel", "drop", "keep")
_NEEDED = ("path", "label", "verdict", "suggested_label")
_VERDICTS = ("clean", "poisoned", "mislabelled", "uncertain")
_MAX_CSV_BYTES = 2**30
MANIFEST = "manifest.csv"


@dataclass(frozen=True)
class Kept:
    """A picture of the cleaned set: where it lies below DATA, its label there, and its label in the cleaned set."""

    path: str
    label: str
    new_label: str

    @property
    def place(self) -> PurePosixPath:
        """Where it goes: its own place, or the same in the folder of another class."""
        parts = list(PurePosixPath(self.path).parts)
        if self.label in parts[:-1]:
            parts[parts.index(self.label)] = self.new_label
            return PurePosixPath(*parts)
        return PurePosixPath(self.new_label, *parts)


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "clean",
        help="make a cleaned copy of a data set from the verdicts of a scan",
        description="Poisoned pictures are left out. DATA is only read: nothing in it is moved, changed or deleted.",
    )
    parser.add_argument("data", metavar="DATA", help="the image folder that was scanned")
    parser.add_argument("--verdicts", metavar="CSV", required=True, help="verdicts.csv of `advrbd scan` or `defend`")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder for the cleaned set")
    parser.add_argument(
        "--as",
        dest="way",
        choices=WAYS,
        default="links",
        help=f"symbolic links, copies, or {MANIFEST} with the columns path and label (default: %(default)s)",
    )
    parser.add_argument(
        "--mislabelled",
        choices=MISLABELLED,
        default="relabel",
        help="give mislabelled pictures their suggested label, leave them out, or keep their label (default: relabel)",
    )
    parser.add_argument("--drop-uncertain", action="store_true", help="leave out uncertain pictures too")
    add_telling_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read the verdicts, check that all pictures are there, write the cleaned set."""
    from advrbd_plugin.files import workspace_for

    data, out = Path(arguments.data), Path(arguments.out)
    _check_places(data, out)
    rows = list(read_verdicts(arguments.verdicts))
    kept = list(select(rows, arguments.mislabelled, drop_uncertain=arguments.drop_uncertain))
    if not kept:
        raise AdvrBDError(f"{arguments.verdicts} leaves no picture: every row is poisoned or left out")
    _refuse_missing(data, kept)
    with workspace_for(out) as workspace:
        made = workspace / "set"
        made.mkdir()
        if arguments.way == "manifest":
            (made / MANIFEST).write_bytes(_manifest(data, kept))
        else:
            _place(data, kept, made, copy=arguments.way == "copies")
        if out.is_dir():
            out.rmdir()
        os.replace(made, out)
    _tell(arguments, rows, kept, _unjudged(data, rows))
    return 0


def read_verdicts(path: str) -> Iterator[dict[str, str]]:
    """The rows of a ``verdicts.csv``.

    Raises:
        AdvrBDError: it cannot be read, lacks a column, or a row has an unknown verdict or a path that leads elsewhere.
    """
    from advrbd_plugin.data.sources import points_outside
    from advrbd_plugin.plain import brief, one_reason, read_text

    text = read_text(path, limit=_MAX_CSV_BYTES)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        missing = [name for name in _NEEDED if name not in (reader.fieldnames or ())]
        if missing:
            raise AdvrBDError(f"{path} has no column {missing[0]}: give the verdicts.csv of a scan of picture files")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if any(not isinstance(row[name], str) for name in _NEEDED):
                raise AdvrBDError(f"{where}: the row is too short")
            found = {name: row[name].removeprefix("'") for name in _NEEDED}
            if found["verdict"] not in _VERDICTS:
                raise AdvrBDError(
                    f"{where}: verdict must be one of {', '.join(_VERDICTS)}, got {brief(row['verdict'])}"
                )
            if points_outside(found["path"]) or os.path.isabs(found["path"]) or "\0" in found["path"]:
                raise AdvrBDError(f"{where}: path must lie below DATA, got {brief(found['path'])}")
            for name in ("label", "suggested_label"):
                if PurePosixPath(found[name]).name != found[name]:
                    raise AdvrBDError(f"{where}: {name} must be the name of a class, got {brief(found[name])}")
            yield found
    except csv.Error as error:
        raise AdvrBDError(f"{path} is no CSV table (line {reader.line_num}): {one_reason(error)}") from error


def select(rows: Sequence[dict[str, str]], mislabelled: str, *, drop_uncertain: bool = False) -> Iterator[Kept]:
    """The pictures that stay, each with its label in the cleaned set."""
    for row in rows:
        verdict, label = row["verdict"], row["label"]
        if verdict == "poisoned" or (verdict == "uncertain" and drop_uncertain):
            continue
        if verdict == "mislabelled" and mislabelled == "drop":
            continue
        relabelled = verdict == "mislabelled" and mislabelled == "relabel"
        yield Kept(row["path"], label, row["suggested_label"] if relabelled else label)


def _check_places(data: Path, out: Path) -> None:
    if not data.is_dir():
        raise AdvrBDError(f"DATA must be a folder, got {data}: unpack an archive first")
    root, place = data.resolve(), out.resolve()
    if place == root or root in place.parents or place in root.parents:
        raise AdvrBDError(f"--out {out} must lie beside DATA {data}, neither inside nor around it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AdvrBDError(f"--out {out} holds something already: give a new or empty folder")


def _refuse_missing(data: Path, kept: Sequence[Kept]) -> None:
    missing = [each.path for each in kept if not (data / each.path).is_file()]
    if missing:
        raise AdvrBDError(
            f"{len(missing):,} of {len(kept):,} pictures are not in {data} (first: {missing[0]}): give the folder that "
            "was scanned"
        )


def _place(data: Path, kept: Sequence[Kept], made: Path, *, copy: bool) -> None:
    root = data.resolve()
    for each in kept:
        place = _free(made / each.place)
        place.parent.mkdir(parents=True, exist_ok=True)
        if copy:
            shutil.copy2(root / each.path, place)
        else:
            place.symlink_to(root / each.path)


def _free(place: Path) -> Path:
    """``place``, or one beside it where a picture that came from another class has taken it."""
    number = 1
    found = place
    while found.is_symlink() or found.exists():
        found, number = place.with_name(f"{place.stem}-{number}{place.suffix}"), number + 1
    return found


def _manifest(data: Path, kept: Sequence[Kept]) -> bytes:
    from advrbd_plugin.report.text import file_bytes, spreadsheet_cell
    from advrbd_plugin.table import Table

    root = data.resolve()
    rows = tuple((spreadsheet_cell(str(root / each.path)), spreadsheet_cell(each.new_label)) for each in kept)
    return file_bytes(Table(("path", "label"), rows).csv())


def _unjudged(data: Path, rows: Sequence[dict[str, str]]) -> int:
    """How many pictures in DATA have no verdict."""
    from advrbd_plugin.data.decoding import EXTENSIONS

    known = {row["path"] for row in rows}
    found = (
        os.path.relpath(os.path.join(parent, name), data).replace(os.sep, "/")
        for parent, _, names in os.walk(data)
        for name in names
        if os.path.splitext(name)[1].lower() in EXTENSIONS
    )
    return sum(path not in known for path in found)


def _tell(arguments: argparse.Namespace, rows: Sequence[dict[str, str]], kept: Sequence[Kept], unjudged: int) -> None:
    import json

    from advrbd_plugin.cli.defend import print_rows

    relabelled = sum(each.label != each.new_label for each in kept)
    poisoned = sum(row["verdict"] == "poisoned" for row in rows)
    summary: dict[str, Any] = {
        "out": arguments.out,
        "as": arguments.way,
        "images": len(kept),
        "poisoned_left_out": poisoned,
        "others_left_out": len(rows) - len(kept) - poisoned,
        "relabelled": relabelled,
        "without_verdict": unjudged,
    }
    if arguments.json:
        print(json.dumps(summary))
    elif not arguments.quiet:
        words = {
            "images": "pictures in the cleaned set",
            "poisoned_left_out": "poisoned, left out",
            "others_left_out": "others left out",
            "relabelled": "relabelled",
            "without_verdict": "without a verdict, left out",
        }
        shown = [(text, f"{summary[name]:,}") for name, text in words.items()]
        print_rows("Cleaned", [*shown, ("results", f"{arguments.out} ({arguments.way})")])
