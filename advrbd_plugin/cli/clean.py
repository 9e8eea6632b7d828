"""``advrbd clean``: the data without its poisoned samples, as links, copies or a table. DATA itself stays as it is."""

from __future__ import annotations

import argparse
import csv
import io
import json
import os
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from advrbd_plugin.cli.cleaned_set import WAYS, CleanedSet, Kept
from advrbd_plugin.cli.data import DATA_HELP, add_data_options, read_data
from advrbd_plugin.cli.options import add_telling_options
from advrbd_plugin.errors import AdvrBDError

MISLABELLED = ("relabel", "drop", "keep")
_NEEDED = ("label", "verdict", "suggested_label")
_VERDICTS = ("clean", "poisoned", "mislabelled", "uncertain")
_MAX_CSV_BYTES = 2**30


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "clean",
        help="make a cleaned copy of a data set from the verdicts of a scan",
        description="Poisoned pictures are left out. DATA is only read: nothing in it is moved, changed or deleted.",
    )
    parser.add_argument("data", metavar="DATA", help=f"the set that was scanned: {DATA_HELP}")
    parser.add_argument("--verdicts", metavar="CSV", required=True, help="verdicts.csv of `advrbd scan` or `defend`")
    parser.add_argument("--out", metavar="DIR", required=True, help="a new or empty folder for the cleaned set")
    parser.add_argument(
        "--as",
        dest="way",
        choices=WAYS,
        help="symbolic links, copies, or manifest.csv with the columns path (or id) and label (default: links; copies "
        "where the pictures lie in an archive or an array)",
    )
    parser.add_argument(
        "--mislabelled",
        choices=MISLABELLED,
        default="relabel",
        help="give mislabelled pictures their suggested label, leave them out, or keep their label (default: relabel)",
    )
    parser.add_argument("--drop-uncertain", action="store_true", help="leave out uncertain pictures too")
    add_data_options(parser, sizes=False)
    add_telling_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Read the verdicts, check that all pictures are there, write the cleaned set."""
    from advrbd_plugin.data.reading import Listing
    from advrbd_plugin.data.sources import Source

    out = Path(arguments.out)
    _check_places(arguments.data, out)
    rows = list(read_verdicts(arguments.verdicts, folders=arguments.way != "manifest"))
    kept = list(select(rows, arguments.mislabelled, drop_uncertain=arguments.drop_uncertain))
    if not kept:
        raise AdvrBDError(f"{arguments.verdicts} leaves no picture: every row is poisoned or left out")
    made: list[tuple[str, int]] = []

    def make(source: Source, listing: Listing) -> None:
        cleaned = CleanedSet(arguments.data, source, listing, by_id="id" in rows[0])
        cleaned.check(rows, kept)
        made.append((cleaned.write(kept, out, arguments.way), cleaned.count_without(rows)))

    read_data(arguments.data, arguments, visit=make)
    ((way, unjudged),) = made
    _tell(arguments, way, rows, kept, unjudged)
    return 0


def read_verdicts(path: str, *, folders: bool = True) -> Iterator[dict[str, str]]:
    """The rows of a ``verdicts.csv``: ``path`` or ``id``, ``label``, ``verdict`` and ``suggested_label``.

    Args:
        path: the file.
        folders: whether the labels are to be the names of folders.

    Raises:
        AdvrBDError: it cannot be read, lacks a column, or a row has an unknown verdict or a path that leads elsewhere.
    """
    from advrbd_plugin.plain import one_reason, read_text

    text = read_text(path, limit=_MAX_CSV_BYTES)
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        columns = reader.fieldnames or ()
        named_by = "id" if "id" in columns and "path" not in columns else "path"
        missing = [name for name in (named_by, *_NEEDED) if name not in columns]
        if missing:
            raise AdvrBDError(f"{path} has no column {missing[0]}: give the verdicts.csv of a scan")
        for row in reader:
            where = f"{path}, line {reader.line_num}"
            if any(not isinstance(row[name], str) for name in (named_by, *_NEEDED)):
                raise AdvrBDError(f"{where}: the row is too short")
            found = {name: row[name].removeprefix("'") for name in (named_by, *_NEEDED)}
            _check_row(where, found, folders)
            yield found
    except csv.Error as error:
        raise AdvrBDError(f"{path} is no CSV table (line {reader.line_num}): {one_reason(error)}") from error


def _check_row(where: str, row: dict[str, str], folders: bool) -> None:
    from advrbd_plugin.data.sources import points_outside
    from advrbd_plugin.defense.result import NO_VERDICT
    from advrbd_plugin.plain import brief

    if row["verdict"] == NO_VERDICT:
        raise AdvrBDError(
            f"{where}: there is no verdict, since the model fitted too little: scan again with more --epochs"
        )
    if row["verdict"] not in _VERDICTS:
        raise AdvrBDError(f"{where}: verdict must be one of {', '.join(_VERDICTS)}, got {brief(row['verdict'])}")
    path = row.get("path", "x")
    if points_outside(path) or os.path.isabs(path) or "\0" in path:
        raise AdvrBDError(f"{where}: path must lie below DATA, got {brief(path)}")
    for name in ("label", "suggested_label"):
        if folders and PurePosixPath(row[name]).name != row[name]:
            raise AdvrBDError(
                f"{where}: {name} must be the name of a class that a folder can have, got {brief(row[name])}: "
                "--as manifest takes any name"
            )


def select(rows: Sequence[dict[str, str]], mislabelled: str, *, drop_uncertain: bool = False) -> Iterator[Kept]:
    """The pictures that stay, each with its label in the cleaned set."""
    for row in rows:
        verdict, label = row["verdict"], row["label"]
        if verdict == "poisoned" or (verdict == "uncertain" and drop_uncertain):
            continue
        if verdict == "mislabelled" and mislabelled == "drop":
            continue
        relabelled = verdict == "mislabelled" and mislabelled == "relabel"
        yield Kept(name_of(row), label, row["suggested_label"] if relabelled else label)


def name_of(row: dict[str, str]) -> str:
    """What a row of the verdicts calls its picture: the path, or the id."""
    return row["path"] if "path" in row else row["id"]


def _check_places(data: str, out: Path) -> None:
    root, place = Path(data).resolve(), out.resolve()
    if root.exists() and (place == root or root in place.parents or place in root.parents):
        raise AdvrBDError(f"--out {out} must lie beside DATA {data}, neither inside nor around it")
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise AdvrBDError(f"--out {out} holds something already: give a new or empty folder")


def _tell(
    arguments: argparse.Namespace, way: str, rows: Sequence[dict[str, str]], kept: Sequence[Kept], unjudged: int
) -> None:
    from advrbd_plugin.cli.defend import print_rows

    poisoned = sum(row["verdict"] == "poisoned" for row in rows)
    summary: dict[str, Any] = {
        "out": arguments.out,
        "as": way,
        "images": len(kept),
        "poisoned_left_out": poisoned,
        "others_left_out": len(rows) - len(kept) - poisoned,
        "relabelled": sum(each.label != each.new_label for each in kept),
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
        print_rows("Cleaned", [*shown, ("results", f"{arguments.out} ({way})")])
