"""ULRL from end to end: a backdoored model and a few clean samples in, a repaired model and a verdict out.

The stages: search for attacked labels, unlearn, identify suspicious neurons, relearn.
"""

from __future__ import annotations

import copy
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.training import describe_network
from advrbd_plugin.progress import Progress, ScaledProgress, SilentProgress
from advrbd_plugin.ulrl.checks import check_clean_set, check_weights
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.label_search import LabelSearch, SuspectedLabels, planned_search
from advrbd_plugin.ulrl.neurons import LayerChange, identify, neuron_layers
from advrbd_plugin.ulrl.relearning import planned_steps, relearn
from advrbd_plugin.ulrl.stages import StageRunner, Stored
from advrbd_plugin.ulrl.unlearning import unlearn

STAGES = ("attraction", "waves", "squares", "warps", "unlearning", "relearning")
FOUND, LOOKS_CLEAN = "suspicious neurons found", "looks clean"

# Raised whenever the same input gives another result or a stage is stored in another form, so that no old stage is
# taken up by a new version.
_ALGORITHM_VERSION = 4
_TRAINING_WORK = 3  # a training step costs about three forward passes


@dataclass(frozen=True, eq=False, repr=False)
class ULRLResult:
    """The outcome of a repair.

    Attributes:
        model: the repaired model, in eval mode; an unchanged copy if the model looks clean.
        verdict: :data:`FOUND` or :data:`LOOKS_CLEAN`.
        layers: how unlearning changed the neurons of each layer; empty if no attacked label was found before.
        attacked_labels: labels that look attacked, or that were given; empty if ``attraction``, ``patterns`` and
            ``warps`` are off.
        evidence: kind of evidence (``attraction``, ``wave``, ``square``, ``warp``) -> (num_classes,) float32 in
            [-1, 1], how far the label stands out; higher is more suspicious. A kind that was not searched is missing.
            See :attr:`advrbd_plugin.ulrl.attraction.Attraction.excess` and :mod:`advrbd_plugin.ulrl.patterns`.
        curves: stage -> rows, one a step.
        seconds: stage -> time, of this run alone where an earlier one was resumed.
        config: the settings.
    """

    model: nn.Module
    verdict: str
    layers: tuple[LayerChange, ...]
    attacked_labels: tuple[int, ...]
    evidence: dict[str, Tensor]
    curves: dict[str, list[dict[str, float]]]
    seconds: dict[str, float]
    config: ULRLConfig

    @property
    def num_suspicious(self) -> int:
        """Number of suspicious neurons in all layers."""
        return sum(len(each.suspicious) for each in self.layers)

    def __repr__(self) -> str:
        return f"ULRLResult({self.verdict}: {self.num_suspicious} neurons in {len(self.layers)} layers)"


@dataclass(frozen=True, eq=False)
class _Task:
    """Attributes:
    model: a copy of the backdoored model on the device, in eval mode.
    clean_set, suspect_set: in the order of their ids.
    key: digest of all that the stages' results depend on.
    """

    model: nn.Module
    clean_set: ImageSet
    suspect_set: ImageSet | None
    key: str


class ULRL:
    """The repair of arXiv 2405.14781 with the additions that docs/ulrl.md explains.

    Args:
        config: the settings; the preset ``robust`` by default.
        device: where to work; a GPU if there is one, by default.
        work_dir: a folder for finished stages; a run that was killed resumes from it to the same result.
        progress: told of every batch.

    Examples:
        >>> import torch
        >>> from advrbd_plugin import ImageSet, make_model
        >>> clean = ImageSet(torch.randint(256, (8, 1, 8, 8), dtype=torch.uint8), torch.arange(8) % 2, ("cat", "dog"))
        >>> model = make_model("resnet_narrow", num_classes=2, in_channels=1, image_size=8)  # yours
        >>> quick = ULRLConfig(unlearn_epochs=1, relearn_steps=1, attraction=False, patterns=False, warps=False)
        >>> result = ULRL(quick, device="cpu").repair(model, clean)
        >>> result
        ULRLResult(...)
        >>> result.model is model  # a new one; the old one is untouched
        False
    """

    def __init__(
        self,
        config: ULRLConfig | None = None,
        *,
        device: str | torch.device | None = None,
        work_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self.config = config or ULRLConfig()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._work_dir, self._progress = work_dir, progress or SilentProgress()

    def repair(
        self,
        model: nn.Module,
        clean_set: ImageSet,
        *,
        suspect_set: ImageSet | None = None,
        attacked_labels: tuple[int, ...] | None = None,
    ) -> ULRLResult:
        """Repair a model.

        Args:
            model: takes (N, C, H, W) float images in pixel scale [0, 1]; it is not changed.
            clean_set: clean samples, at least one of each class.
            suspect_set: samples that are likely poisoned, with the labels they came with, where some are known.
            attacked_labels: suspected target classes, where they are known; they replace the search for them.

        Raises:
            AdvrBDError: a class has no clean sample, the model has other classes or weights that are not finite, or
                training diverges; the message says what to do.
        """
        runner = StageRunner(self._work_dir, self._progress)
        task = self._task(model, clean_set, suspect_set)
        self._progress.plan(self._planned_work(task.clean_set, search=attacked_labels is None))
        if attacked_labels is None:
            labels = LabelSearch(task.model, task.clean_set, self.config, runner, task.key).run()
        else:
            labels = SuspectedLabels.known(attacked_labels)
        curves = {"attraction": labels.rows()} if labels.evidence else {}
        if labels.attacked_labels == ():
            return self._result(task.model, (), labels, curves, runner)
        changes, curves["unlearning"] = self._unlearn(task, runner)
        if not any(each.suspicious for each in changes) and not labels.attacked_labels:
            return self._result(task.model, changes, labels, curves, runner)
        repaired, curves["relearning"] = self._relearn(task, changes, labels, runner)
        return self._result(repaired, changes, labels, curves, runner, verdict=FOUND)

    def _task(self, model: nn.Module, clean_set: ImageSet, suspect_set: ImageSet | None) -> _Task:
        """Check the inputs, and bring them into an order and onto the device."""
        config = self.config
        original = copy.deepcopy(model).to(self.device).to(memory_format=torch.channels_last).eval()
        layers = neuron_layers(original, config.layers)
        check_weights(original)
        check_clean_set(clean_set, predict(original, clean_set.images[:1]).shape[1])
        clean_set = clean_set.by_id()
        settings = (config.to_mapping(), list(layers), describe_network(original), _ALGORITHM_VERSION)
        weights = original.state_dict().values()
        key = digest(clean_set.images, clean_set.labels, clean_set.sample_ids, *weights, *settings)
        return _Task(original, clean_set, None if suspect_set is None else suspect_set.by_id(), key)

    def _unlearn(self, task: _Task, runner: StageRunner) -> tuple[tuple[LayerChange, ...], list[dict[str, float]]]:
        """Unlearn the clean samples and identify suspicious neurons; return these and the curve."""
        config = self.config

        def work() -> Stored:
            scaled = ScaledProgress(self._progress, _TRAINING_WORK)
            unlearned = unlearn(task.model, task.clean_set, config, progress=scaled)
            changes = identify(
                task.model,
                unlearned.model,
                which=config.layers,
                threshold=config.z_threshold,
                max_neurons=config.max_neurons,
                choose=config.choose,
            )
            return _stored_changes(changes, unlearned.rows)

        stored = runner.run("unlearning", task.key, work)
        return _loaded_changes(stored), stored[1]["rows"]

    def _relearn(
        self, task: _Task, changes: tuple[LayerChange, ...], labels: SuspectedLabels, runner: StageRunner
    ) -> tuple[nn.Module, list[dict[str, float]]]:
        """Relearn the clean samples; return the repaired model and the curve."""

        def work() -> Stored:
            relearned = relearn(
                task.model,
                task.clean_set,
                changes,
                self.config,
                suspect_set=task.suspect_set,
                adversaries=labels.adversaries,
                progress=ScaledProgress(self._progress, _TRAINING_WORK),
            )
            return relearned.model.state_dict(), relearned.rows

        weights, rows = runner.run("relearning", _relearning_key(task, labels), work)
        repaired = copy.deepcopy(task.model)
        repaired.load_state_dict(weights)
        return repaired, rows

    def _result(
        self,
        model: nn.Module,
        changes: tuple[LayerChange, ...],
        labels: SuspectedLabels,
        curves: dict[str, list[dict[str, float]]],
        runner: StageRunner,
        verdict: str = LOOKS_CLEAN,
    ) -> ULRLResult:
        attacked = labels.attacked_labels or ()
        return ULRLResult(model, verdict, changes, attacked, labels.evidence, curves, dict(runner.seconds), self.config)

    def _planned_work(self, clean_set: ImageSet, *, search: bool) -> dict[str, float]:
        """Stage -> expected work in forward passes of one image."""
        config, count = self.config, len(clean_set)
        work = planned_search(clean_set, config) if search else {}
        work["unlearning"] = _TRAINING_WORK * config.unlearn_epochs * count
        work["relearning"] = _TRAINING_WORK * planned_steps(count, config) * min(count, config.batch_size)
        return work


def _relearning_key(task: _Task, labels: SuspectedLabels) -> str:
    """The task's key with what relearning depends on besides."""
    key = task.key
    for each in labels.adversaries:
        key = digest(key, list(each.labels), each.warped, *([] if each.known is None else [each.known]))
    if task.suspect_set is not None:
        key = digest(key, task.suspect_set.images, task.suspect_set.labels, task.suspect_set.sample_ids)
    return key


def _stored_changes(changes: tuple[LayerChange, ...], rows: list[dict[str, float]]) -> Stored:
    tensors = {f"change.{each.layer}": each.change for each in changes}
    tensors |= {f"z_score.{each.layer}": each.z_score for each in changes}
    return tensors, {"rows": rows, "suspicious": [[each.layer, list(each.suspicious)] for each in changes]}


def _loaded_changes(stored: Stored) -> tuple[LayerChange, ...]:
    tensors, rest = stored
    return tuple(
        LayerChange(layer, tensors[f"change.{layer}"], tensors[f"z_score.{layer}"], tuple(indices))
        for layer, indices in rest["suspicious"]
    )
