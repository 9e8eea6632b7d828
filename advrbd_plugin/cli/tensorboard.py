"""``--tensorboard DIR``: the figures of every stage while they come about, for TensorBoard."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.progress import Progress


class TensorBoardProgress:
    """Passes everything on to another progress, and writes each figure as ``STAGE/FIGURE`` by its step in the stage.

    Args:
        progress: the other one.
        folder: for the event files.

    Raises:
        AdvrBDError: TensorBoard is not installed, or the folder cannot be written.
    """

    def __init__(self, progress: Progress, folder: str) -> None:
        try:
            from torch.utils.tensorboard import SummaryWriter
        except ImportError as error:
            raise AdvrBDError("--tensorboard needs the package tensorboard: pip install tensorboard") from error
        self._progress, self._stage, self._steps = progress, "", dict[str, int]()
        self._writer = SummaryWriter(folder)

    def plan(self, work: Mapping[str, float]) -> None:
        self._progress.plan(work)

    def start(self, stage: str) -> None:
        self._stage = stage
        self._progress.start(stage)

    def advance(self, work: float, **figures: float) -> None:
        step = self._steps.get(self._stage, 0)
        for name, value in figures.items():
            self._writer.add_scalar(f"{self._stage}/{name}", value, step)
        self._steps[self._stage] = step + 1
        self._progress.advance(work, **figures)

    def finish(self) -> None:
        self._progress.finish()

    def close(self) -> None:
        """Write what is left to the disk."""
        self._writer.close()


@contextmanager
def watched(progress: Progress, folder: str | None) -> Iterator[Progress]:
    """``progress``, with its figures in TensorBoard's ``folder`` too, if there is one."""
    if folder is None:
        yield progress
        return
    board = TensorBoardProgress(progress, folder)
    try:
        yield board
    finally:
        board.close()
