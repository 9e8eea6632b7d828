"""What is known of one defense on one record, and the file that keeps it."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from pathlib import Path

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_json
from advrbd_plugin.plain import read_json

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
    if not path.is_file():
        return None
    try:
        content = read_json(path)
        cell = Cell(**{**content, "options": tuple(content.get("options", ()))})
    except (AdvrBDError, TypeError, AttributeError):
        return None
    return cell if _is_sound(cell) else None


def _is_sound(cell: Cell) -> bool:
    """Whether each field has its type: the file lies in a record, which may come from anyone."""
    texts = (cell.record, cell.defense, *cell.options)
    named = ("record", "defense", "options", "problem")
    numbers = {key: value for key, value in asdict(cell).items() if key not in named}
    return (
        all(isinstance(text, str) for text in texts)
        and (cell.problem is None or isinstance(cell.problem, str))
        and all(value is None or type(value) in (int, float) for value in numbers.values())
    )


def write_cell(path: Path, cell: Cell) -> None:
    """Keep a cell, whole or not at all."""
    write_json(path, asdict(cell))
