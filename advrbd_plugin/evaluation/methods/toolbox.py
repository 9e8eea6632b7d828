"""BackdoorBench's own defenses: their unchanged scripts run on a record of the cell, and their model is judged here."""

from __future__ import annotations

import csv
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock

from advrbd_plugin.cache import digest
from advrbd_plugin.data import draw_images
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.cell import TARGET_LABEL, Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, Outcome
from advrbd_plugin.evaluation.methods.base import Method

# What the toolbox calls a data set, where it has a name of its own.
_DATASET_NAMES = {"tiny_imagenet": "tiny"}
# At the small scale these stand over the toolbox's configurations, whose epochs are for a GPU.
_SMALL: Mapping[str, tuple[str, ...]] = {
    "ft": ("--epochs", "20", "--batch_size", "64"),
    "fp": ("--epochs", "20", "--batch_size", "64"),
    "clp": (),
    "d-br": ("--epochs", "10", "--batch_size", "64"),
    "abl": (
        *("--tuning_epochs", "10", "--finetuning_epochs", "20", "--unlearning_epochs", "5"),
        *("--batch_size", "64"),
    ),
}
# The scripts judge their model after every epoch or pruning step. At the small scale their record holds so many test
# images, each class in proportion; the model that they leave is judged on all.
_SMALL_TESTS = 1000
_ALWAYS = ("--num_workers", "0", "--frequency_save", "0")


def run(experiment: Experiment, defense: str) -> Outcome:
    """Run one of the toolbox's defenses on this cell's poisoned set and backdoored model.

    Raises:
        AdvrBDError: there is no checkout, the toolbox does not know the data set or network, or its script fails.
    """
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.backdoorbench.classifiers import load_defended_model
    from advrbd_plugin.backdoorbench.record import read_record
    from advrbd_plugin.evaluation.compare import Plan, compare

    checkout = find_checkout(experiment.options.backdoorbench)
    record = _record(experiment, checkout)
    plan = Plan(
        checkout=checkout,
        records=(record.name,),
        defenses=(defense,),
        arguments=tuple(_arguments(experiment.cell, experiment.options, defense)),
        detect=False,
        rerun=True,
        local_data=True,
    )
    _, judged = compare(plan, nested=True)
    if judged.problem is not None:
        raise AdvrBDError(judged.problem)
    folder = record / "defense" / defense
    return Outcome(
        model=load_defended_model(folder / "defense_result.pt", read_record(record)).to(experiment.device),
        tpr=judged.tpr,
        fpr=judged.fpr,
        curves=_curves(folder),
        stage_seconds={} if judged.seconds is None else {defense: judged.seconds},
        peak_cuda_bytes=judged.peak_cuda_bytes,
        details={
            "record": record.name,
            "options": list(judged.options),
            "in_the_toolbox": {"acc": judged.acc, "asr": judged.asr, "ra": judged.ra},
        },
    )


def _arguments(cell: Cell, options: Options, defense: str) -> list[str]:
    device = ["--device", options.device] if options.device else []
    small = _SMALL[defense] if cell.scale == "small" else ()
    return [*small, *_ALWAYS, "--random_seed", str(cell.seed), *device]


def _record(experiment: Experiment, checkout: Path) -> Path:
    """The record of this cell's model, written by the first defense that needs it."""
    from advrbd_plugin.backdoorbench.record_writer import write_record

    cell, model = experiment.cell, experiment.backdoored
    test = draw_images(experiment.test, _SMALL_TESTS if cell.scale == "small" else None, seed=cell.seed)
    triggered = experiment.triggered
    triggered = triggered.subset(torch.isin(triggered.sample_ids, test.sample_ids))
    train = experiment.train_set
    key = digest(train.images, train.labels, len(test), *model.state_dict().values())
    name = f"reproduce-{cell.scale}-{cell.setting.replace('/', '-')}-{key[:8]}"
    locks = Path(experiment.options.work) / "logs"
    locks.mkdir(parents=True, exist_ok=True)
    with FileLock(locks / f"{name}.lock"):  # other cells may want to write it too
        if not (checkout / "record" / name).is_dir():
            write_record(
                checkout,
                name,
                poisoned=experiment.poisoned,
                clean_train=experiment.clean_train,
                clean_test=test,
                triggered_test=triggered,
                model_name=cell.model,
                model=model,
                dataset=_DATASET_NAMES.get(cell.dataset, cell.dataset),
                target_label=TARGET_LABEL,
            )
    return checkout / "record" / name


def _curves(folder: Path) -> dict[str, list[dict[str, float]]]:
    """The rows of the tables that the script wrote, one an epoch."""
    tables = sorted(path for path in folder.glob("*_df.csv"))
    return {path.stem.removesuffix("_df"): list(_rows(path)) for path in tables}


def _rows(path: Path) -> Iterator[dict[str, float]]:
    with path.open(encoding="utf-8", newline="") as handle:
        for row in csv.DictReader(handle):
            numbers = {name: float(value) for name, value in row.items() if name and _is_number(value)}
            if numbers:
                yield numbers


def _is_number(text: str | None) -> bool:
    try:
        return text is not None and float(text) == float(text)
    except ValueError:
        return False


def _missing(options: Options) -> str | None:
    """Why the toolbox cannot be used here, with the command that helps."""
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.backdoorbench.requirements import INSTALL_REQUIREMENTS, missing_requirements

    absent = missing_requirements()
    if absent:
        return f"BackdoorBench imports {', '.join(absent)}: {INSTALL_REQUIREMENTS}"
    try:
        find_checkout(options.backdoorbench)
    except AdvrBDError as error:
        return str(error)
    return None


def _method(defense: str, title: str, cost: float) -> Method:
    def configuration(cell: Cell, options: Options) -> dict[str, Any]:
        return {"defense": defense, "arguments": _arguments(cell, options, defense)}

    run_it: Callable[[Experiment], Outcome] = partial(run, defense=defense)
    return Method(defense, title, run_it, configuration, cost=cost, needs_attack=True, missing=_missing)


TOOLBOX_METHODS = (
    _method("ft", "FineTuning", 1.0),
    _method("fp", "FinePruning", 1.5),
    _method("clp", "CLP", 0.3),
    _method("d-br", "D-BR", 4.8),
    _method("abl", "ABL", 4.3),
)
