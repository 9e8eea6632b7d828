"""What is known of one defense on one record, and the file that stores it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_json
from advrbd_plugin.plain import read_json

UNDEFENDED = "none"


@dataclass(frozen=True)
class CompareCell:
    """One defense on one record; all shares are fractions, ``None`` where there is no figure.

    Attributes:
        record, defense: which one; the defense ``none`` is the attacked model itself.
        acc, asr, ra: clean accuracy, attack success rate and robust accuracy of the defended model.
        tpr, fpr: of the detection, where the method has one.
        seconds: wall time of the defense and its detection.
        peak_memory_bytes: the largest resident size of their processes.
        peak_cuda_bytes: the most that PyTorch had allocated on the GPU.
        problem: why there is no result, in one line.
        options: what the scripts were given; none where a person ran them.
        algorithm: which version of AdvrBD reached the verdicts, where they play a part and it is known.
    """

    record: str
    defense: str
    acc: float | None = None
    asr: float | None = None
    ra: float | None = None
    tpr: float | None = None
    fpr: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_cuda_bytes: int | None = None
    problem: str | None = None
    options: tuple[str, ...] = ()
    algorithm: Mapping[str, Any] | None = None

    @property
    def is_done(self) -> bool:
        return self.problem is None

    @property
    def reason(self) -> str:
        """Why there is no result."""
        return self.problem or ""

    @property
    def was_run_by_hand(self) -> bool:
        """Whether a person ran the script, with any options."""
        return not self.options


def read_cell(path: Path) -> CompareCell | None:
    """The cell that :func:`write_cell` stored; ``None`` where there is none that can be read."""
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        cell = CompareCell(**{**content, "options": tuple(content.get("options", ()))})
    except (AdvrBDError, TypeError, AttributeError):
        return None
    return cell if _is_sound(cell) else None


def _is_sound(cell: CompareCell) -> bool:
    """Whether each field has its type: the file lies in a record, which may come from anyone."""
    texts = (cell.record, cell.defense, *cell.options, "" if cell.problem is None else cell.problem)
    numbers = (cell.acc, cell.asr, cell.ra, cell.tpr, cell.fpr, cell.seconds, cell.peak_memory_bytes)
    return (
        all(isinstance(text, str) for text in texts)
        and all(value is None or type(value) in (int, float) for value in (*numbers, cell.peak_cuda_bytes))
        and (cell.algorithm is None or isinstance(cell.algorithm, dict))
    )


def write_cell(path: Path, cell: CompareCell) -> None:
    """Store a cell, whole or not at all."""
    write_json(path, asdict(cell))
