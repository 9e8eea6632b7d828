"""The sets, models and results that ``advrbd reproduce --suite stress`` left, for benches that ask more about them.

Nothing is trained here, and nothing is written into the suite's folders: a set is made again from its name, its
undefended model is read from the suite's ``--work``, its figures from the suite's ``--out``.
"""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any, NoReturn

from torch import Tensor, nn

from advrbd_plugin.cache import StageStore, digest
from advrbd_plugin.defense.pipeline import AdvrBD, key_of
from advrbd_plugin.defense.stage_runner import StageRunner
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.cell import STRESS
from advrbd_plugin.evaluation.experiment import Options, advrbd_config, work_folder
from advrbd_plugin.evaluation.result import Result, read_result, read_results
from advrbd_plugin.evaluation.stress_experiment import StressExperiment
from advrbd_plugin.evaluation.stress_grid import DEFENSE
from advrbd_plugin.evaluation.stress_sets import StressSet
from advrbd_plugin.nn.features import layered_features
from advrbd_plugin.nn.training import TrainingOptions
from advrbd_plugin.nn.trajectory import Trajectory
from advrbd_plugin.progress import SilentProgress


@dataclass(frozen=True)
class Folders:
    """Attributes:
    data: with the data set.
    results: the suite's ``--out``; read.
    models: the suite's ``--work``; read.
    work: the bench's own.
    """

    data: str
    results: str
    models: str
    work: str

    @staticmethod
    def add_options(parser: argparse.ArgumentParser) -> None:
        parser.add_argument("--data", default="../shared/data", metavar="DIR", help="holds the data sets (%(default)s)")
        parser.add_argument("--results", default="results", metavar="DIR", help="the suite's --out (%(default)s)")
        parser.add_argument("--models", default="out/benchmark", metavar="DIR", help="the suite's --work (%(default)s)")
        parser.add_argument("--work", default="out/bench", metavar="DIR", help="the bench's own folder (%(default)s)")
        parser.add_argument(
            "--sets", help="by name, such as tact-s141,clean-s102 (default: all of the suite's results)"
        )

    @classmethod
    def of(cls, arguments: argparse.Namespace) -> Folders:
        return cls(arguments.data, arguments.results, arguments.models, arguments.work)


class SuiteSet:
    """A set of the suite and the model that was trained on it; each part is read or made at its first use.

    Args:
        undefended: the set's result without a defense.
        folders: where everything is.

    Attributes:
        name: such as ``tact-s141``.
        undefended: the content of that result.
        asr: of each trigger without a defense.
        defended: the content of AdvrBD's result; ``None`` where there is none yet, or one of another set.
        config: AdvrBD's settings in the suite.
    """

    def __init__(self, undefended: Result, folders: Folders) -> None:
        self.cell, self.undefended, self.name = undefended.cell, undefended.content, undefended.cell.set_name
        self.asr = [float(each["asr"]) for each in self.undefended["triggers"]]
        self.folders = folders
        result = read_result(folders.results, replace(self.cell, method=DEFENSE))
        is_usable = result is not None and result.is_done and result.content["set"] == self.undefended["set"]
        self.defended = result.content if result is not None and is_usable else None
        # The pictures are decoded into the bench's folder, since the suite's is only read.
        settings = (self.defended or self.undefended)["configuration"]
        options = Options(folders.data, folders.results, folders.work, settings=settings)
        self.config = advrbd_config(self.cell, options)
        self.experiment = StressExperiment(self.cell, options)

    @property
    def stress(self) -> StressSet:
        """The set, in the order of its samples' ids, and the truth about it."""
        return self.experiment.stress

    @cached_property
    def trained(self) -> Trained:
        """The undefended model, and what it said of each sample while it learned.

        Raises:
            AdvrBDError: the suite's folder has it not; the line says how to get it.
        """
        defense = AdvrBD(self.experiment.make_model, self.config, device=self.experiment.device)
        return defense._train(self.new_run(), self.stress.train, self._data)

    @cached_property
    def answers(self) -> tuple[Tensor, Tensor]:
        """(N, num_features) float32 layered features and (N, num_classes) float32 logits of the training set."""
        store = StageStore(self.own_stages)
        kept = store.load("answers", self.key)
        if kept is not None:
            return kept[0]["features"], kept[0]["logits"]
        features, logits = layered_features(
            self.trained.model, self.stress.train.images, mixed_precision=self.config.mixed_precision
        )
        store.save("answers", self.key, {"features": features, "logits": logits})
        return features, logits

    @cached_property
    def key(self) -> str:
        """Names set and model as :class:`AdvrBD` does for the stages after the training."""
        return digest(self._data, *self.trained.model.state_dict().values())

    @cached_property
    def fingerprint(self) -> str:
        """Of the pictures and labels that the model was trained on."""
        hasher = hashlib.sha256(self.stress.train.images.numpy().tobytes())
        hasher.update(self.stress.train.labels.numpy().tobytes())
        return hasher.hexdigest()[:16]

    @cached_property
    def model_fingerprint(self) -> str:
        """Of the model's weights and buffers."""
        hasher = hashlib.sha256()
        for name, value in sorted(self.trained.model.state_dict().items()):
            hasher.update(name.encode() + value.cpu().contiguous().numpy().tobytes())
        return hasher.hexdigest()[:16]

    @property
    def own_stages(self) -> Path:
        return Path(self.folders.work) / "stages" / self.name

    def new_run(self, *, anew: Iterable[str] = ()) -> StageRunner:
        """For AdvrBD's stages: what the suite finished is read there, but for the stages ``anew``; the rest is kept
        in the bench's folder. The training itself is refused."""
        return _Run(self, frozenset(anew))

    @cached_property
    def _data(self) -> str:
        return key_of(self.stress.train)


def find_sets(folders: Folders, names: str | None) -> list[SuiteSet]:
    """The sets called ``names``, or all, that the results have without a defense; in the order of their seeds.

    Raises:
        AdvrBDError: a set has no such result, or several.
    """
    found: dict[str, list[Result]] = {}
    for result in read_results(folders.results):
        if result.cell.scale == STRESS and result.cell.is_prerequisite and result.is_done:
            found.setdefault(result.cell.set_name, []).append(result)
    for name in names.split(",") if names else found:
        if name not in found:
            raise AdvrBDError(f"no result of {name} in {folders.results}: run {_command(name, folders)}")
        if len(found[name]) > 1:
            paths = ", ".join(str(each.path) for each in found[name])
            raise AdvrBDError(f"{name} has several results ({paths}): keep one of them in a folder for --results")
    chosen = [found[name][0] for name in (names.split(",") if names else found)]
    return [SuiteSet(each, folders) for each in sorted(chosen, key=lambda each: (each.cell.seed, each.cell.name))]


def each_set(sets: Iterable[SuiteSet], work: Callable[[SuiteSet], None], program: str) -> int:
    """Do ``work`` on each set; one that cannot be done is one line, and the others go on. Returns the exit status."""
    failed = 0
    for each in sets:
        try:
            work(each)
        except AdvrBDError as error:
            print(f"{program}: {each.name}: {error}", file=sys.stderr, flush=True)
            failed = 1
    return failed


class _Run(StageRunner):
    """A run that reads what the suite finished and never trains the undefended model."""

    def __init__(self, owner: SuiteSet, anew: frozenset[str]) -> None:
        super().__init__(owner.experiment.make_model, owner.experiment.device, None, SilentProgress())
        self._owner = owner
        self._store = _Stages(owner.own_stages, Path(owner.folders.models) / work_folder(owner.cell), anew)

    def train_on(
        self,
        stage: str,
        model: nn.Module,
        options: TrainingOptions,
        key: str,
        work: Callable[..., Any],
        trajectory: Trajectory | None = None,
    ) -> list[dict[str, float]]:
        work = self._refuse if stage == "training" else work
        return super().train_on(stage, model, options, key, work, trajectory)

    def _refuse(self, _checkpoint: object) -> NoReturn:
        cell, folders = self._owner.cell, self._owner.folders
        command = _command(f"{cell.set_name}@{cell.samples}", folders)
        raise AdvrBDError(f"its undefended model is not in {folders.models}: run {command}")


class _Stages(StageStore):
    """The bench's stages, and those of the suite where the bench has none.

    Args:
        own: written to.
        suite: only read.
        anew: stages that are not read anywhere.
    """

    def __init__(self, own: Path, suite: Path, anew: frozenset[str]) -> None:
        super().__init__(own)
        self._suite, self._anew = StageStore(suite), anew

    def load(self, stage: str, key: str) -> tuple[dict[str, Tensor], Any] | None:
        if stage in self._anew:
            return None
        found = super().load(stage, key)
        return self._suite.load(stage, key) if found is None else found


def _command(entry: str, folders: Folders) -> str:
    return (
        f"advrbd reproduce --suite stress --sets {entry} --defenses none --data {folders.data} --out {folders.results} "
        f"--work {folders.models}"
    )
