"""A grid whose cells are done at once, by a script in place of the real process, and cells to run it on."""

from __future__ import annotations

import pickle
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.experiment import Options
from advrbd_plugin.evaluation.grid_job import GridJob
from advrbd_plugin.evaluation.process import request
from advrbd_plugin.evaluation.result import Result

# Follows the attack's name: sig fails with a reason, wanet crashes, blend waits for ever, all others have figures.
FAKE_PROCESS = """
import json, os, sys, time
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.result import write_failure, write_result
asked = json.loads(sys.argv[1])
cell, out, work = Cell.from_mapping(asked["cell"]), asked["options"]["out"], asked["options"]["work"]
with open(os.path.join(work, "ran"), "a") as ran:
    ran.write(cell.name + " " + os.environ.get("OMP_NUM_THREADS", "") + chr(10))
if cell.attack == "sig":
    write_failure(out, cell, "failed", "sig can poison 10 of these 20 images")
    sys.exit(1)
if cell.attack == "wanet":
    sys.exit("RuntimeError: a tensor is of the wrong size")
if cell.attack == "blend":
    time.sleep(600)
figures = {"acc": 0.8, "asr": 0.1}
write_result(out, cell, {"status": "done", "figures": figures, "seconds": 2.0, **json.loads(sys.argv[2])})
"""


def small_cell(attack: str = "badnets", method: str = "none", **changes) -> Cell:
    values = {"scale": "small", "dataset": "cifar10", "model": "resnet_narrow", "poison_ratio": 0.05, "seed": 0}
    return Cell(**{**values, "attack": attack, "method": method, **changes})


class RecordingDisplay:
    """Records what the grid tells."""

    def __init__(self) -> None:
        self.events: list[str] = []
        self.remaining: list[float | None] = []

    def begin(self, waiting, cached) -> None:
        self.events.append(f"{len(waiting)} waiting, {len(cached)} cached")

    def started(self, job: GridJob) -> None:
        self.events.append(f"started {job.cell.attack}/{job.cell.method}")

    def ended(self, job: GridJob, result: Result) -> None:
        self.events.append(f"{result.content['status']} {job.cell.attack}/{job.cell.method}")

    def tick(self, running, remaining) -> None:
        self.remaining.append(remaining)


def fake_command(cell: Cell, options: Options) -> list[str]:
    import json

    from advrbd_plugin.evaluation.algorithm import current_algorithm
    from advrbd_plugin.evaluation.methods import METHODS
    from advrbd_plugin.evaluation.methods.undefended import training_configuration

    configuration, training = METHODS[cell.method].configuration(cell, options), training_configuration(cell, options)
    settings = json.dumps({"configuration": configuration, "training": training, "algorithm": current_algorithm()})
    return [sys.executable, "-c", FAKE_PROCESS, request(cell, options), settings]


@pytest.fixture
def options(tmp_path: Path) -> Options:
    """Folders for a grid; the data set is there in name only."""
    (tmp_path / "data" / "cifar-10-batches-py").mkdir(parents=True)
    (tmp_path / "data" / "cifar-10-batches-py" / "batches.meta").touch()
    (tmp_path / "work").mkdir()
    return Options(data=str(tmp_path / "data"), out=str(tmp_path / "results"), work=str(tmp_path / "work"))


@pytest.fixture
def display() -> RecordingDisplay:
    return RecordingDisplay()


def write_cifar10(folder: Path, train: int = 60, classes: int = 3) -> None:
    """Classes of noise, each around its own grey."""
    folder.mkdir(parents=True, exist_ok=True)
    generator = np.random.default_rng(0)

    def batch(count: int) -> bytes:
        labels = [place % classes for place in range(count)]
        noise = generator.integers(0, 60, (count, 3072)) + 180 * np.array(labels)[:, None] // classes
        return pickle.dumps({"data": noise.astype(np.uint8), "labels": labels})

    for number in range(1, 6):
        (folder / f"data_batch_{number}").write_bytes(batch(train // 5))
    (folder / "test_batch").write_bytes(batch(12))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": list("abcdefghij"[:classes])}))


@pytest.fixture(scope="session")
def make_tiny() -> Callable[[Path], Options]:
    """In a folder: three classes of 20 pictures, and the shortest settings."""

    def made(folder: Path) -> Options:
        write_cifar10(folder / "data" / "cifar-10-batches-py")
        settings = {"epochs": 1, "batch_size": 32, "enhancement_steps": 1, "relearn_epochs": 1}
        data, out, work = (str(folder / name) for name in ("data", "results", "work"))
        return Options(data=data, out=out, work=work, settings=settings, device="cpu")

    return made


@pytest.fixture
def tiny(make_tiny, options, tmp_path) -> Options:
    return make_tiny(tmp_path)
