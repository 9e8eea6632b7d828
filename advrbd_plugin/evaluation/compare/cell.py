"""What is known of one defense on one record, and the file that keeps it."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path

from advrbd_plugin.files import write_json

UNDEFENDED = "none"


@dataclass(frozen=True)
class Cell:
    """One defense on one record; all shares are fractions, ``None`` where there is no figure.

    Attributes:
        record, defense: which one; the defense ``none`` is the attacked model itself.
        acc, asr, ra: clean accuracy, attack success rate and robust accuracy of the defended model.
        tpr, fpr: of the detection, where the method has one.
        seconds: wall time of the defense and its detection.
        peak_memory_bytes: the largest resident size of their processes.
        peak_cuda_bytes: the most that PyTorch had allocated on the GPU.
        problem: why there is no result, in one line.
        options: what the scripts were given.
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


def read_cell(path: Path) -> Cell | None:
    """The cell that :func:`write_cell` kept; ``None`` where there is none that can be read."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Cell(**{**content, "options": tuple(content.get("options", ()))})
    except (OSError, ValueError, TypeError):
        return None


def write_cell(path: Path, cell: Cell) -> None:
    """Keep a cell, whole or not at all."""
    write_json(path, asdict(cell))
