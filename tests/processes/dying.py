"""``advrbd`` in which rank 1 is killed once the second epoch of the first training is stored."""

from __future__ import annotations

import os
import signal
import sys

from advrbd_plugin.cli import console
from advrbd_plugin.nn.checkpoints import StoredTraining
from advrbd_plugin.processes import current

save = StoredTraining.save


def save_and_die(self: StoredTraining, epochs_done: int, tensors: dict) -> None:
    save(self, epochs_done, tensors)
    if epochs_done == 2:
        current().receive(lambda: None)  # rank 0 has stored it
        if current().rank == 1:
            os.kill(os.getpid(), signal.SIGKILL)


if __name__ == "__main__":
    StoredTraining.save = save_and_die  # type: ignore[method-assign]
    sys.exit(console())
