"""One cell in a process of its own: ``python -m advrbd_plugin.evaluation.process JSON``."""

from __future__ import annotations

import datetime
import json
import resource
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock, Timeout

from advrbd_plugin.cache import digest
from advrbd_plugin.environment import commit, hardware, versions
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.cell import STRESS, Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, Outcome
from advrbd_plugin.evaluation.judge import figures_of, poison_learned, samples_of
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.methods.undefended import training_configuration
from advrbd_plugin.evaluation.result import DONE, FAILED, write_failure, write_result
from advrbd_plugin.evaluation.stress_experiment import StressExperiment
from advrbd_plugin.evaluation.stress_judge import judge_stress
from advrbd_plugin.files import finite


def request(cell: Cell, options: Options) -> str:
    """The command line's one argument."""
    return json.dumps({"cell": cell.to_mapping(), "options": asdict(options)})


def main(argv: Sequence[str] | None = None) -> int:
    """Run the cell and write its result: 0 if it has figures, 1 if it was recorded as failed."""
    signal.signal(signal.SIGTERM, _leave)
    asked = json.loads((argv or sys.argv[1:])[0])
    cell, options = Cell.from_mapping(asked["cell"]), Options(**asked["options"])
    try:
        with cell_lock(cell, options):
            write_result(options.out, cell, run_cell(cell, options))
    except Timeout:
        return _record_failure(cell, options, "another process is at work on this cell: wait for it, or end it")
    except AdvrBDError as error:
        return _record_failure(cell, options, str(error))
    return 0


def cell_lock(cell: Cell, options: Options) -> FileLock:
    """The lock of the process at work on a cell. It is released however that process ends; nobody waits for it."""
    folder = Path(options.work) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    return FileLock(folder / f"{cell.file_name}.lock", timeout=0)


def _record_failure(cell: Cell, options: Options, reason: str) -> int:
    write_failure(options.out, cell, FAILED, reason)
    print(f"advrbd: error: {reason}", file=sys.stderr)
    return 1


def run_cell(cell: Cell, options: Options) -> dict[str, Any]:
    """Run a cell's method and judge it.

    Raises:
        AdvrBDError: the data, the attack or the method does not work out; one line says why.
    """
    spent = _Spending()
    method = METHODS[cell.method]
    experiment = StressExperiment(cell, options) if cell.scale == STRESS else Experiment(cell, options)
    outcome = method.run(experiment)
    cost = spent.to_mapping()
    judged = (
        judge_stress(experiment, outcome) if isinstance(experiment, StressExperiment) else _judge(experiment, outcome)
    )
    content: dict[str, Any] = finite(
        {
            "status": DONE,
            **judged,
            "details": outcome.details,
            "attack": experiment.poisoned.parameters,
            "data": _describe_data(experiment),
            "configuration": method.configuration(cell, options),
            "training": training_configuration(cell, options) if method.uses_backdoored_model else None,
            **({"algorithm": current_algorithm()} if method.uses_algorithm else {}),
            "curves": outcome.curves,
            **cost,
            "stage_seconds": {stage: round(value, 2) for stage, value in outcome.stage_seconds.items()},
            "peak_memory_bytes": _peak_memory(),
            "peak_cuda_bytes": _peak_cuda_memory(experiment.device, outcome.peak_cuda_bytes),
            "versions": versions(),
            "commit": commit(),
            "hardware": hardware(),
        }
    )
    return content


def _judge(experiment: Experiment, outcome: Outcome) -> dict[str, Any]:
    samples = samples_of(experiment, outcome)
    if experiment.cell.is_prerequisite:
        samples["poison_learned"] = poison_learned(experiment)
    return {"figures": figures_of(experiment, outcome), "samples": samples}


class _Spending:
    """Time since it was made, on the wall and of the processor."""

    def __init__(self) -> None:
        self._began, self._busy = time.perf_counter(), _cpu_seconds()
        self._started = datetime.datetime.now(datetime.timezone.utc)

    def to_mapping(self) -> dict[str, Any]:
        return {
            "started": self._started.isoformat(timespec="seconds"),
            "seconds": round(time.perf_counter() - self._began, 2),
            "cpu_seconds": round(_cpu_seconds() - self._busy, 2),
        }


def _describe_data(experiment: Experiment) -> dict[str, Any]:
    """Numbers of images and classes, and a digest of the poisoned training set."""
    train = experiment.train_set
    return {
        "train": len(train),
        "test": len(experiment.test),
        "triggered": experiment.num_triggered,
        "image_size": list(train.image_size),
        "classes": train.num_classes,
        "fingerprint": digest(train.images, train.labels, train.sample_ids)[:16],
    }


def _cpu_seconds() -> float:
    """Processor seconds of this process and its children."""
    return sum(usage.ru_utime + usage.ru_stime for usage in _usages())


def _peak_memory() -> int:
    """The largest resident size of this process or one of its children, in bytes."""
    return max(usage.ru_maxrss for usage in _usages()) * (1 if sys.platform == "darwin" else 1024)


def _peak_cuda_memory(device: torch.device, of_others: int | None) -> int | None:
    """The peak of PyTorch's memory on the GPU, of this process or one of its children, in bytes."""
    own = torch.cuda.max_memory_allocated(device) if device.type == "cuda" else None
    return max((each for each in (own, of_others) if each is not None), default=None)


def _usages() -> list[resource.struct_rusage]:
    return [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]


def _leave(*_: object) -> None:
    """Unwind on SIGTERM, so that half-written files are removed."""
    raise SystemExit(128 + signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main())
