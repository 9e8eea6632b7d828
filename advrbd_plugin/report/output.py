"""The folder that a run writes: locked before the work, filled at the end, all or nothing."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any

from torch import nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import explain_os_error, finite, write_bytes, write_json, write_text
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.nn.model_file import BACKDOORED_WEIGHTS, MODEL_WEIGHTS, save_model
from advrbd_plugin.plain import read_json
from advrbd_plugin.report.before_after import before_and_after
from advrbd_plugin.report.figures import overview_png
from advrbd_plugin.report.identity import RunIdentity
from advrbd_plugin.report.page import report_html
from advrbd_plugin.report.record import TOOL, RunRecord, summarise
from advrbd_plugin.report.tables import curves_csv, verdicts_csv
from advrbd_plugin.report.text import file_bytes, one_line
from advrbd_plugin.report.trigger import pattern_files

if TYPE_CHECKING:
    from filelock import BaseFileLock

SUMMARY = "summary.json"
WORK_FOLDER = ".advrbd-work"
_UNFINISHED = ".advrbd-unfinished-"
# In the work folder, beside the stored stages.
_LOCK = "lock"
_RUN = "run.json"
_TRIES = 10
_OWN_FILE = re.compile(r"(report|curves|verdicts|(backdoored_)?model|demo|neurons|trigger-\d+|config)\.(\w+)")


class OutputFolder:
    """The folder given with ``--out``, with a hidden work folder from which a killed run goes on.

    One process at a time has it: a lock is held from here until the results are written or the ``with`` block ends.

    Args:
        path: a new or empty folder, or one that advrbd wrote or began before.
        data: what is being defended; results must not lie among the images.
        overwrite: replace finished results, and drop the stages of an unfinished run on other data.

    Raises:
        AdvrBDError: ``path`` holds something else, lies inside ``data``, is in use by another process, or cannot be
            written.
    """

    def __init__(
        self, path: str | os.PathLike[str], *, data: str | os.PathLike[str] | None = None, overwrite: bool = False
    ) -> None:
        if not os.fspath(path):
            raise AdvrBDError("--out is empty: give a folder")
        self.path = Path(path)
        self.work = self.path / WORK_FOLDER
        self._data, self._overwrite = data, overwrite
        self._run: RunIdentity | None = None
        _refuse_place_in_data(self.path, data)
        _refuse_others_files(self.path)
        self._made = [folder for folder in (self.path, *self.path.parents) if not folder.exists()]
        self._lock = _locked(self.work)
        try:
            with tempfile.TemporaryFile(dir=self.work) as probe:  # find out now, not after an hour of training
                probe.write(bytes(4096))
        except OSError as error:
            self._close()
            raise explain_os_error(error, self.path) from error

    def __enter__(self) -> OutputFolder:
        return self

    def __exit__(self, kind: type | None, error: BaseException | None, trace: TracebackType | None) -> None:
        """Whatever ended the block, stored stages stay for the next run; without any, nothing new is left behind."""
        self._close()

    def begin(self, run: RunIdentity) -> dict[str, Any] | None:
        """Say which run is about to be made here.

        Returns:
            The summary, where this very run (or, for a scan, a defense that holds it) was finished before and its
            results are whole; ``None`` where it is to be made.

        Raises:
            AdvrBDError: the folder holds the results of another run, results that were changed since, or the stages
                of an unfinished run on other data; not with ``overwrite``.
            StorageError: the disk is full or the folder cannot be written.
        """
        finished = _read_summary(self.path / SUMMARY)
        if finished is not None and not self._overwrite and not run.goes_on_from(finished):
            if not run.is_answered_by(finished):
                raise AdvrBDError(
                    f"--out {self.path} holds the finished results of {run.difference(finished)}: "
                    "give another folder, or --overwrite to replace them"
                )
            self._refuse_changed_results(finished)
            begun = (_read_json(self.work / _RUN) or {}).get("fingerprint")
            if begun == run.fingerprint and not run.is_followed:
                self.discard()  # a kill after the results were moved in left the stages
            return finished
        self._settle_unfinished(run)
        begun = {
            "command": run.command,
            "data": self._place_of_data(run),
            "contents": run.contents,
            "fingerprint": run.fingerprint,
        }
        write_json(self.work / _RUN, begun)
        self._run = run
        return None

    def discard(self) -> None:
        """Remove the work folder with all stored stages, and those folders made for this run that hold nothing."""
        for leftover in self.path.glob(f"{_UNFINISHED}*"):
            shutil.rmtree(leftover, ignore_errors=True)
        self._remove_stages()
        self._close()

    def _refuse_changed_results(self, summary: Mapping[str, Any]) -> None:
        files = summary["run"].get("files")
        for name, checksum in files.items() if isinstance(files, dict) else ((SUMMARY, None),):
            if not _has_checksum(self.path / name, checksum):
                raise AdvrBDError(
                    f"{self.path / name} is missing or was changed since this run finished: give another folder, or "
                    "--overwrite to make the results again"
                )

    def _settle_unfinished(self, run: RunIdentity) -> None:
        """Keep the stages of an unfinished run on the same data: those that still fit are used."""
        begun = _read_json(self.work / _RUN)
        if begun is None:
            return
        same = begun.get("contents") == run.contents or begun.get("data") == self._place_of_data(run)
        if run.shares_stages_with(begun.get("command")) and same:
            return
        if not self._overwrite and self._holds_stages():
            raise AdvrBDError(
                f"--out {self.path} holds an unfinished run of `advrbd {one_line(str(begun.get('command')))}` on "
                f"{one_line(str(begun.get('data')))}: finish it, give another folder, or --overwrite to drop it"
            )
        self._remove_stages()

    def _place_of_data(self, run: RunIdentity) -> str:
        return run.data if self._data is None else str(Path(self._data).resolve())

    def _holds_stages(self) -> bool:
        return any(file.name not in (_LOCK, _RUN) for file in self.work.iterdir())

    def _remove_stages(self) -> None:
        with suppress(FileNotFoundError):
            for each in self.work.iterdir():
                if each.is_dir() and not each.is_symlink():
                    shutil.rmtree(each, ignore_errors=True)
                elif each.name != _LOCK:
                    each.unlink(missing_ok=True)

    def _close(self) -> None:
        """Release the lock, after removing what was made here as far as it holds nothing. A second call is idle."""
        if not self._lock.is_locked:
            return
        with suppress(OSError):
            if not self._holds_stages():
                (self.work / _RUN).unlink(missing_ok=True)
                (self.work / _LOCK).unlink(missing_ok=True)  # who waits for it finds it gone and makes another
                for folder in (self.work, *self._made):
                    folder.rmdir()
        self._lock.release()

    def write(
        self,
        record: RunRecord,
        *,
        truth: Mapping[str, Any] | None = None,
        comparison: Mapping[str, Any] | None = None,
        more: Mapping[str, bytes] | None = None,
    ) -> dict[str, Any]:
        """Write all results, ``summary.json`` last, then remove the work folder (not after a scan).

        Everything is first written whole beside its place: a full disk or a kill leaves the earlier results, or
        (while the files are being moved) a folder without ``summary.json``, never half a file.

        Args:
            truth: added to the summary under ``truth``, where the poison is known.
            comparison: a table for the page (see :func:`report_html`).
            more: further files by name.

        Returns:
            The summary.
        """
        result, defended = record.result, record.defended
        models = {BACKDOORED_WEIGHTS: result.backdoored_model}
        summary: dict[str, Any] = summarise(record) | {"models": before_and_after(record)}
        if defended is not None:
            models[MODEL_WEIGHTS] = defended.model
        if truth is not None:
            summary["truth"] = finite(dict(truth))
        files = {
            "verdicts.csv": file_bytes(verdicts_csv(record)),
            "report.png": overview_png(record),
            "report.html": report_html(record, summary, self.path, comparison).encode(),
        } | pattern_files(record)
        return self.write_files(models, record.model, result.curves, files | dict(more or {}), summary)

    def write_files(
        self,
        models: Mapping[str, nn.Module],
        description: ModelDescription,
        curves: Mapping[str, Sequence[Mapping[str, float]]],
        files: Mapping[str, bytes],
        summary: Mapping[str, Any],
    ) -> dict[str, Any]:
        """Write models, curves, ``files`` by name and ``summary.json``, as :meth:`write` does for the defense.

        The stages of a run that another command goes on with stay.

        Args:
            models: by the name of the file of their weights; all are built from ``description``.
        """
        try:
            unfinished = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=self.path))
        except OSError as error:
            raise explain_os_error(error, self.path) from error
        try:
            for weights, model in models.items():
                save_model(unfinished, model, description, weights)
            write_text(unfinished / "curves.csv", curves_csv(curves))
            write_json(unfinished / "curves.json", finite(curves))
            for name, content in files.items():
                write_bytes(unfinished / name, content)
            complete = dict(summary)
            if self._run is not None:
                checksums = {
                    file.name: hashlib.sha256(file.read_bytes()).hexdigest() for file in sorted(unfinished.iterdir())
                }
                complete["run"] = self._run.to_mapping() | {"files": checksums}
            write_json(unfinished / SUMMARY, complete)
            self._move_in(unfinished)
        finally:
            shutil.rmtree(unfinished, ignore_errors=True)
        if self._run is None or not self._run.is_followed:
            self.discard()
        return complete

    def _move_in(self, unfinished: Path) -> None:
        try:
            names = sorted(file.name for file in unfinished.iterdir())
            earlier = _files_of(_read_summary(self.path / SUMMARY))
            (self.path / SUMMARY).unlink(missing_ok=True)
            for name in set(earlier) - set(names):
                (self.path / name).unlink(missing_ok=True)
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
    if not names or (WORK_FOLDER in names and SUMMARY not in names) or _read_summary(path / SUMMARY) is not None:
        return
    foreign = SUMMARY if SUMMARY in names else names[0]
    raise AdvrBDError(f"--out {path} holds files that advrbd did not write ({foreign}): give a new or empty folder")


def _read_summary(path: Path) -> dict[str, Any] | None:
    """A summary of ours; ``None`` for anything else."""
    content = _read_json(path)
    return content if content is not None and content.get("tool") == TOOL else None


def _files_of(summary: Mapping[str, Any] | None) -> list[str]:
    """Names of the files of an earlier run here, of those that such a run may write: a summary may be edited."""
    run = (summary or {}).get("run")
    files = run.get("files") if isinstance(run, dict) else None
    return [name for name in files or () if _OWN_FILE.fullmatch(name)] if isinstance(files, dict) else []


def _read_json(path: Path) -> dict[str, Any] | None:
    try:
        content = read_json(path)
    except AdvrBDError:
        return None
    return content if isinstance(content, dict) else None


def _has_checksum(file: Path, expected: Any) -> bool:
    try:
        return bool(hashlib.sha256(file.read_bytes()).hexdigest() == expected)
    except (OSError, ValueError):  # a name with a null byte, say
        return False


def _locked(work: Path) -> BaseFileLock:
    """The work folder's lock, held; the folder is made where it is missing."""
    from filelock import FileLock, Timeout

    lock = FileLock(work / _LOCK, timeout=0)
    for _ in range(_TRIES):
        try:
            work.mkdir(parents=True, exist_ok=True)
            lock.acquire()
            return lock
        except Timeout:
            raise AdvrBDError(
                f"--out {work.parent} is in use by another run of advrbd: wait until it ends, or give another folder"
            ) from None
        except FileNotFoundError:  # another run ended here at this moment
            continue
        except OSError as error:
            raise explain_os_error(error, work.parent) from error
    raise AdvrBDError(f"--out {work.parent} cannot be locked: other runs begin and end there")
