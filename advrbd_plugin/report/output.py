"""The folder that a run writes: claimed before the work, filled at the end, all or nothing."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from torch import nn

from advrbd_plugin.errors import AdvrBDError, StorageError
from advrbd_plugin.files import explain_os_error, write_bytes, write_json, write_text
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.plain import read_json
from advrbd_plugin.report.figures import overview_png
from advrbd_plugin.report.model_file import save_model
from advrbd_plugin.report.page import report_html
from advrbd_plugin.report.record import TOOL, RunRecord, finite, summarise
from advrbd_plugin.report.tables import curves_csv, verdicts_csv
from advrbd_plugin.report.text import file_bytes

SUMMARY = "summary.json"
WORK_FOLDER = ".advrbd-work"
_UNFINISHED = ".advrbd-unfinished-"


class OutputFolder:
    """The folder given with ``--out``, with a hidden work folder from which a killed run goes on.

    Args:
        path: a new or empty folder, or one that advrbd wrote or began before.
        data: what is being defended; results must not lie among the images.

    Raises:
        AdvrBDError: ``path`` holds something else, lies inside ``data``, or cannot be written.
    """

    def __init__(self, path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None) -> None:
        self.path = Path(path)
        self.work = self.path / WORK_FOLDER
        self.check(path, data=data)
        self._made = [folder for folder in (self.work, self.path, *self.path.parents) if not folder.exists()]
        try:
            self.work.mkdir(parents=True, exist_ok=True)
            with tempfile.TemporaryFile(dir=self.work) as probe:  # find out now, not after an hour of training
                probe.write(bytes(4096))
        except OSError as error:
            self._remove_empty()
            raise explain_os_error(error, self.path) from error

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """After an error all stored stages stay for the next run; where nothing was stored, nothing is left behind."""
        if isinstance(error, AdvrBDError) and not isinstance(error, StorageError):
            self._remove_empty()

    @staticmethod
    def check(path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None) -> None:
        """Say early, and without making anything, whether ``path`` will do; raises as the constructor does."""
        _refuse_place_in_data(Path(path), data)
        _refuse_others_files(Path(path))

    def discard(self) -> None:
        """Remove the work folder with all stored stages, and those folders made for this run that hold nothing."""
        shutil.rmtree(self.work, ignore_errors=True)
        for leftover in self.path.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._remove_empty()

    def _remove_empty(self) -> None:
        """Remove the folders that were made for this run, as far as they hold nothing."""
        for folder in self._made:
            try:
                folder.rmdir()
            except FileNotFoundError:  # it could not be made, or is removed already
                continue
            except OSError:  # it holds stored stages or results
                break

    def write(
        self,
        record: RunRecord,
        *,
        truth: Mapping[str, Any] | None = None,
        comparison: Mapping[str, Any] | None = None,
        more: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """Write all results, ``summary.json`` last, then remove the work folder.

        Everything is first written whole beside its place: a full disk or a kill leaves the earlier results, or
        (while the files are being moved) a folder without ``summary.json``, never half a file.

        Args:
            truth: added to the summary under ``truth``, where the poison is known.
            comparison: a table for the page (see :func:`report_html`).
            more: further files by name.

        Returns:
            The summary.
        """
        summary = summarise(record) | ({"truth": finite(dict(truth))} if truth is not None else {})
        files = {
            "verdicts.csv": file_bytes(verdicts_csv(record)),
            "report.png": overview_png(record),
            "report.html": report_html(record, summary, comparison).encode(),
        }
        self.write_files(record.result.model, record.model, record.result.curves, files | dict(more or {}), summary)
        return summary

    def write_files(
        self,
        model: nn.Module,
        description: ModelDescription,
        curves: Mapping[str, Sequence[Mapping[str, float]]],
        files: Mapping[str, bytes],
        summary: Mapping[str, Any],
    ) -> None:
        """Write a model, its curves, ``files`` by name and ``summary.json``, as :meth:`write` does for the defense."""
        try:
            unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.path))
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        try:
            save_model(unfinished, model, description)
            write_text(unfinished / "curves.csv", curves_csv(curves))
            write_json(unfinished / "curves.json", finite(curves))
            for name, content in files.items():
                write_bytes(unfinished / name, content)
            write_json(unfinished / SUMMARY, summary)
            self._move_in(unfinished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        self.discard()

    def _move_in(self, unfinished: Path) -> None:
        try:
            (self.path / SUMMARY).unlink(missing_ok=True)
            names = sorted(file.name for file in unfinished.iterdir())
            for name in sorted(names, key=lambda name: name == SUMMARY):
                os.replace(unfinished / name, self.path / name)
        except OSError as error:
            raise explain_os_error(error, self.path) from error


def _refuse_place_in_data(path: Path, data: str | os.PathLike[str] | None) -> None:
    if data is None:
        return
    root, place = Path(data).resolve(), path.resolve()
    if place == root or root in place.parents:
        raise AdvrBDError(f"--out {path} lies inside the data {data}: results would be taken for images")


def _refuse_others_files(path: Path) -> None:
    """Only a new or empty folder, or one of our own, may be written to."""
    if not path.exists() and not path.is_symlink():
        return
    if not path.is_dir():
        raise AdvrBDError(f"--out {path} is a file: give a folder")
    try:
        names = sorted(entry.name for entry in path.iterdir())
    except OSError as error:
        raise explain_os_error(error, path) from error
    if not names or WORK_FOLDER in names or _is_ours(path / SUMMARY):
        return
    raise AdvrBDError(f"--out {path} holds files that advrbd did not write ({names[0]}): give a new or empty folder")


def _is_ours(summary: Path) -> bool:
    try:
        content = read_json(summary)
    except AdvrBDError:
        return False
    return isinstance(content, dict) and content.get("tool") == TOOL
