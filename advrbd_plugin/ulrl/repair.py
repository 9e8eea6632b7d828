"""ULRL from end to end: a backdoored model and a few clean samples in, a repaired model and a verdict out."""

from __future__ import annotations

import copy
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import StageStore, digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.training import describe_network
from advrbd_plugin.progress import Progress, ScaledProgress, SilentProgress, timed_stage
from advrbd_plugin.randomness import derive_seed
from advrbd_plugin.ulrl.attraction import SAMPLES_PER_HALF, Attraction, Change, added, attraction
from advrbd_plugin.ulrl.clean_samples import check_clean_set
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.neurons import LayerSuspicion, identify, neuron_layers
from advrbd_plugin.ulrl.patterns import KINDS, PatternSearch, planned_images, search_patterns
from advrbd_plugin.ulrl.relearning import Adversary, planned_steps, relearn
from advrbd_plugin.ulrl.unlearning import unlearn
from advrbd_plugin.ulrl.warps import field_norm, random_fields, warp

STAGES = ("attraction", "waves", "squares", "warps", "unlearning", "relearning")
FOUND, LOOKS_CLEAN = "suspicious neurons found", "looks clean"

# Raised whenever the same input would give another result, so that no old stage is mixed with a new one.
_ALGORITHM_VERSION = 3
_TRAINING_WORK = 3


@dataclass(frozen=True, eq=False)
class ULRLResult:
    """What a repair found.

    Attributes:
        model: the repaired model, in eval mode; a copy of the old one where it looks clean.
        verdict: :data:`FOUND` or :data:`LOOKS_CLEAN`.
        layers: what unlearning did to the neurons of each layer; empty where the model looked clean before.
        attacked_labels: labels that a backdoor seems to lead to; empty with ``attraction``, ``patterns`` and ``warps``
            switched off and none given.
        evidence: kind of road (``attraction``, ``wave``, ``square``, ``warp``) -> (num_classes,) float32 in [-1, 1], how
            far the label stands out; higher is more suspicious. A kind that was not looked for is missing. See
            :mod:`advrbd_plugin.ulrl.attraction` (less the median) and :mod:`advrbd_plugin.ulrl.patterns`.
        curves: stage -> rows, one a step.
        seconds: stage -> time, of this run alone where an earlier one was resumed.
        config: the settings.
    """

    model: nn.Module
    verdict: str
    layers: tuple[LayerSuspicion, ...]
    attacked_labels: tuple[int, ...]
    evidence: dict[str, Tensor]
    curves: dict[str, list[dict[str, float]]]
    seconds: dict[str, float]
    config: ULRLConfig

    @property
    def num_suspicious(self) -> int:
        """Suspicious neurons in all layers."""
        return sum(len(each.suspicious) for each in self.layers)


class ULRL:
    """The repair (arXiv 2405.14781) with the additions that docs/ulrl.md explains.

    Args:
        config: the settings; the preset ``robust`` by default.
        device: where to work; a GPU if there is one, by default.
        work_dir: a folder for finished stages, from which a run that was killed goes on to the same result.
        progress: told of every batch.
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
        self._store = StageStore(work_dir)
        self._progress = progress or SilentProgress()
        self._seconds: dict[str, float] = {}

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
            attacked_labels: labels known to be attacked; where given they stand for the search for them.

        Raises:
            AdvrBDError: the samples or the model do not suit, or training diverges; one line says what to do.
        """
        self._seconds = {}
        config = self.config
        original = copy.deepcopy(model).to(self.device, memory_format=torch.channels_last).eval()
        layers = neuron_layers(original, config.layers)
        check_weights(original)
        check_clean_set(clean_set, predict(original, clean_set.images[:1]).shape[1])
        clean_set = clean_set.by_id()
        if suspect_set is not None:
            suspect_set = suspect_set.by_id()
        self._progress.plan(self._planned_work(clean_set, attacked_labels))
        weights = original.state_dict().values()
        settings = (config.to_mapping(), list(layers), describe_network(original), _ALGORITHM_VERSION)
        key = digest(clean_set.images, clean_set.labels, clean_set.sample_ids, *weights, *settings)
        evidence: dict[str, Tensor] = {}
        adversaries = (Adversary(attacked_labels or ()),)
        curves: dict[str, list[dict[str, float]]] = {}
        if attacked_labels is None and (config.attraction or config.patterns or config.warps):
            evidence, adversaries = self._search(original, clean_set, key)
            attacked_labels = tuple(sorted({label for each in adversaries for label in each.labels}))
            curves["attraction"] = [
                {"label": label, "suspected": int(label in attacked_labels)}
                | {kind: float(values[label]) for kind, values in evidence.items()}
                for label in range(clean_set.num_classes)
            ]
        if attacked_labels == ():
            return self._result(original, (), (), evidence, curves)
        found, curves["unlearning"] = self._unlearn(original, clean_set, key)
        if not any(each.suspicious for each in found) and not attacked_labels:
            return self._result(original, found, (), evidence, curves)
        repaired, curves["relearning"] = self._relearn(original, clean_set, found, suspect_set, adversaries, key)
        return self._result(repaired, found, attacked_labels or (), evidence, curves, FOUND)

    def _result(
        self,
        model: nn.Module,
        layers: tuple[LayerSuspicion, ...],
        attacked_labels: tuple[int, ...],
        evidence: dict[str, Tensor],
        curves: dict[str, list[dict[str, float]]],
        verdict: str = LOOKS_CLEAN,
    ) -> ULRLResult:
        return ULRLResult(
            model.eval(), verdict, layers, attacked_labels, evidence, curves, dict(self._seconds), self.config
        )

    def _search(
        self, model: nn.Module, clean_set: ImageSet, key: str
    ) -> tuple[dict[str, Tensor], tuple[Adversary, ...]]:
        """How far each label stands out, and how to be led to those that do."""
        config, evidence, roads, adversaries = self.config, {}, [], []
        suspected = torch.zeros(clean_set.num_classes, dtype=torch.bool)
        if config.attraction:
            evidence["attraction"] = _excess(self._attraction(model, clean_set, key))
            suspected |= evidence["attraction"] > config.thresholds["attraction"]
        for kind in KINDS if config.patterns else ():
            found = self._patterns(model, clean_set, kind, key)
            evidence[kind] = found.excess
            standing_out = found.excess > config.thresholds[kind]
            roads.append(found.patterns[standing_out].flatten(0, 1))
            suspected |= standing_out
        if suspected.any():
            known = torch.cat(roads) if roads else torch.zeros(0)
            adversaries.append(Adversary(_labels(suspected), known=known if len(known) else None))
        if config.warps:
            warps = self._warps(model, clean_set, key)
            evidence["warp"] = _excess(warps)
            suspected = evidence["warp"] > config.thresholds["warp"]
            if suspected.any():
                adversaries.append(Adversary(_labels(suspected), warped=True, known=warps.roads[suspected]))
        return evidence, tuple(adversaries)

    def _attraction(self, model: nn.Module, clean_set: ImageSet, key: str) -> Attraction:
        config = self.config
        start = torch.zeros(1, clean_set.num_channels, *clean_set.image_size)
        return self._attracted(
            "attraction",
            model,
            clean_set,
            start,
            key,
            change=added,
            radius=config.attraction_radius,
            steps=config.attraction_steps,
        )

    def _warps(self, model: nn.Module, clean_set: ImageSet, key: str) -> Attraction:
        config, points = self.config, self.config.warp_points
        # Not from the image itself, where the slope of bilinear samples is not the same on both sides.
        start = random_fields(1, points, config.warp_radius / 2, derive_seed(config.seed, "warps"))
        return self._attracted(
            "warps",
            model,
            clean_set,
            start,
            key,
            change=warp,
            radius=field_norm(config.warp_radius, points),
            steps=config.warp_steps,
        )

    def _attracted(
        self,
        stage: str,
        model: nn.Module,
        clean_set: ImageSet,
        start: Tensor,
        key: str,
        *,
        change: Change,
        radius: float,
        steps: int,
    ) -> Attraction:
        with self._stage(stage):
            kept = self._store.load(stage, key)
            if kept is not None:
                return Attraction(**kept[0])
            found = attraction(
                model,
                clean_set,
                start,
                change=change,
                radius=radius,
                steps=steps,
                mixed_precision=self.config.mixed_precision,
                seed=self.config.seed,
                on_batch=self._progress.advance,
            )
            self._store.save(stage, key, {"probability": found.probability, "roads": found.roads})
        return found

    def _patterns(self, model: nn.Module, clean_set: ImageSet, kind: str, key: str) -> PatternSearch:
        config = self.config
        with self._stage(f"{kind}s"):
            kept = self._store.load(kind, key)
            if kept is not None:
                return PatternSearch(**kept[0])
            found = search_patterns(
                model,
                clean_set,
                kind,
                config,
                on_batch=self._progress.advance,
            )
            self._store.save(kind, key, {"excess": found.excess, "patterns": found.patterns})
        return found

    def _unlearn(
        self, model: nn.Module, clean_set: ImageSet, key: str
    ) -> tuple[tuple[LayerSuspicion, ...], list[dict[str, float]]]:
        config = self.config
        with self._stage("unlearning"):
            kept = self._store.load("unlearning", key)
            if kept is not None:
                return _restored(*kept), kept[1]["rows"]
            unlearned = unlearn(model, clean_set, config, progress=ScaledProgress(self._progress, _TRAINING_WORK))
            found = identify(
                model,
                unlearned.model,
                which=config.layers,
                threshold=config.z_threshold,
                max_neurons=config.max_neurons,
                choose=config.choose,
            )
            self._store.save("unlearning", key, *_kept(found, unlearned.rows))
        return found, unlearned.rows

    def _relearn(
        self,
        model: nn.Module,
        clean_set: ImageSet,
        found: tuple[LayerSuspicion, ...],
        suspect_set: ImageSet | None,
        adversaries: tuple[Adversary, ...],
        key: str,
    ) -> tuple[nn.Module, list[dict[str, float]]]:
        with self._stage("relearning"):
            for each in adversaries:
                key = digest(key, list(each.labels), each.warped, *([] if each.known is None else [each.known]))
            if suspect_set is not None:
                key = digest(key, suspect_set.images, suspect_set.labels, suspect_set.sample_ids)
            kept = self._store.load("relearning", key)
            if kept is not None:
                repaired = copy.deepcopy(model)
                repaired.load_state_dict(kept[0])
                return repaired, kept[1]
            relearned = relearn(
                model,
                clean_set,
                found,
                self.config,
                suspect_set=suspect_set,
                adversaries=adversaries,
                progress=ScaledProgress(self._progress, _TRAINING_WORK),
            )
            self._store.save("relearning", key, relearned.model.state_dict(), relearned.rows)
        return relearned.model, relearned.rows

    def _planned_work(self, clean_set: ImageSet, attacked_labels: tuple[int, ...] | None) -> dict[str, float]:
        """Stage -> expected work, one unit for each image looked at once."""
        config, count = self.config, len(clean_set)
        searched = clean_set.num_classes * min(count, 2 * SAMPLES_PER_HALF)
        work: dict[str, float] = {}
        if attacked_labels is None and config.attraction:
            work["attraction"] = searched * (config.attraction_steps + 1) / 2
        if attacked_labels is None and config.patterns:
            work |= {f"{kind}s": planned_images(clean_set, kind, config) for kind in KINDS}
        if attacked_labels is None and config.warps:
            work["warps"] = searched * (config.warp_steps + 1) / 2
        work["unlearning"] = _TRAINING_WORK * config.unlearn_epochs * count
        work["relearning"] = _TRAINING_WORK * planned_steps(count, config) * min(count, config.batch_size)
        return work

    def _stage(self, name: str) -> AbstractContextManager[None]:
        return timed_stage(self._progress, name, self._seconds)


def _excess(found: Attraction) -> Tensor:
    """(num_classes,) by how much each label attracts more than the middle one."""
    return found.probability - found.probability.quantile(0.5)


def _labels(suspected: Tensor) -> tuple[int, ...]:
    return tuple(suspected.nonzero().flatten().tolist())


def check_weights(model: nn.Module) -> None:
    """Raise AdvrBDError if a weight or buffer of the model is NaN or infinite; the line names it."""
    for name, tensor in model.state_dict().items():
        if tensor.is_floating_point() and not bool(torch.isfinite(tensor).all()):
            broken = int((~torch.isfinite(tensor)).sum())
            raise AdvrBDError(
                f"the model's {name} holds {broken} values that are NaN or infinite: a model that was trained to the "
                "end is needed"
            )


def _kept(found: tuple[LayerSuspicion, ...], rows: list[dict[str, float]]) -> tuple[dict[str, Tensor], dict[str, Any]]:
    tensors = {f"change.{each.layer}": each.change for each in found}
    tensors |= {f"z_score.{each.layer}": each.z_score for each in found}
    return tensors, {"rows": rows, "suspicious": [[each.layer, list(each.suspicious)] for each in found]}


def _restored(tensors: dict[str, Tensor], rest: dict[str, Any]) -> tuple[LayerSuspicion, ...]:
    return tuple(
        LayerSuspicion(layer, tensors[f"change.{layer}"], tensors[f"z_score.{layer}"], tuple(indices))
        for layer, indices in rest["suspicious"]
    )
