"""The file of a cell's result: its content, and how it is written and read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.files import write_json
from advrbd_plugin.plain import one_reason, parse_json

TOOL = "advrbd reproduce"
DONE, FAILED, NOT_RUN = "done", "failed", "not run"


@dataclass(frozen=True)
class Result:
    """A cell's file as read.

    Attributes:
        cell: which one.
        content: the whole file; ``status`` is done, failed or not run, ``figures`` are fractions.
        path: where it lies.
    """

    cell: Cell
    content: Mapping[str, Any]
    path: Path

    @property
    def is_done(self) -> bool:
        return bool(self.content["status"] == DONE)

    @property
    def reason(self) -> str:
        """Why there are no figures."""
        return self.content.get("reason") or ""

    def figure(self, name: str) -> float | None:
        """``acc``, ``asr``, ``ra``, ``tpr``, ``fpr``, ``auroc`` or ``poison_in_trusted``, if it was measured."""
        return self.content.get("figures", {}).get(name) if self.is_done else None


def write_result(out: str | Path, cell: Cell, content: Mapping[str, Any]) -> None:
    """Write the file of a cell that is done, whole or not at all."""
    write_json(Path(out) / cell.path, _headed(cell, content))
    _failed_again(out, cell).unlink(missing_ok=True)


def write_failure(out: str | Path, cell: Cell, status: str, reason: str, **more: Any) -> Result:
    """Record why a cell has no figures: it ``failed``, or was ``not run``.

    Figures of an earlier run stay; the reason is then written to ``METHOD.failed`` beside them.
    """
    before = read_result(out, cell)
    path = _failed_again(out, cell) if before is not None and before.is_done else Path(out) / cell.path
    content = _headed(cell, {"status": status, "reason": reason, **more})
    write_json(path, content)
    return Result(cell, content, path)


def read_result(out: str | Path, cell: Cell) -> Result | None:
    """A cell's result, or ``None`` where there is none; figures of an earlier run count though a later one failed."""
    return _read(Path(out) / cell.path)


def read_failure(out: str | Path, cell: Cell) -> Result | None:
    """The failure of a cell's last run, or ``None`` if that run was done."""
    again = _read(_failed_again(out, cell))
    result = read_result(out, cell) if again is None else again
    return None if result is None or result.is_done else result


def forget_failure(out: str | Path, cell: Cell) -> None:
    """Remove the record that a cell failed or was not run."""
    failure = read_failure(out, cell)
    if failure is not None:
        failure.path.unlink(missing_ok=True)


def read_results(out: str | Path) -> Iterator[Result]:
    """All results below a folder, in the order of their paths.

    Raises:
        AdvrBDError: a file is not what :func:`write_result` writes.
    """
    for path in sorted(Path(out).glob("*/*/*/*/*.json")):
        yield _parse(path)


def _failed_again(out: str | Path, cell: Cell) -> Path:
    return (Path(out) / cell.path).with_suffix(".failed")


def _headed(cell: Cell, content: Mapping[str, Any]) -> dict[str, Any]:
    return {"tool": TOOL, "cell": cell.to_mapping(), **content}


def _read(path: Path) -> Result | None:
    try:
        return _parse(path)
    except FileNotFoundError:
        return None


def _parse(path: Path) -> Result:
    text = path.read_text(encoding="utf-8")
    try:
        content = parse_json(text, str(path))
        if content["tool"] != TOOL or content["status"] not in (DONE, FAILED, NOT_RUN):
            raise ValueError("it was written by something else")
        return Result(Cell.from_mapping(content["cell"]), content, path)
    except (AdvrBDError, ValueError, KeyError, TypeError) as error:
        raise AdvrBDError(
            f"{path} is no result of advrbd reproduce ({one_reason(error)}): delete it and run its cell again"
        ) from error
