"""AdvrBD from end to end: a poisoned set in, a clean model and a verdict on every sample out."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import StageStore, StoredTraining, digest, kept_training
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detection, LabelEvidence
from advrbd_plugin.defense.enhancement import TRIGGER_BATCH_SIZE, enhance_trigger, unlearn_rounds
from advrbd_plugin.defense.examination import consistency_ranks, detect_targets, scoring_work
from advrbd_plugin.defense.identification import Verdicts, identify_misclassified, identify_suspected, reject
from advrbd_plugin.defense.retraining import (
    doubt_disagreement,
    rejected_classes,
    relabel,
    relearn,
    relearning_options,
    trusted_samples,
)
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.training import check_outputs, describe_training, predict, repeatable, train
from advrbd_plugin.progress import Progress, ScaledProgress, SilentProgress, timed_stage
from advrbd_plugin.randomness import derive_seed

# In the order in which they run; a preset leaves some of them out.
STAGES = ("training", "scoring", "detection", "enhancement", "retraining", "relearning")

# Raised whenever the same input would give another result, so that no old stage is mixed with a new one.
_ALGORITHM_VERSION = 7
# Settings that the stages up to the verdicts do not read, left out of what names their result: with detect_targets,
# without it, and in either case.
_UNREAD_WITH_ACCUSATION = ("alpha", "rounds", "unlearn_loss", "unlearn_weight", "gradient_clip")
_UNREAD_AS_PAPER = ("num_patch_sizes", "detection_gain", "enhancement_steps", "abstain_threshold")
_READ_LATER = ("strong_evidence", "relearn_epochs", "relearn_learning_rate")
# Training an image costs about three times as much as looking at it.
_TRAINING_WORK = 3


@dataclass(frozen=True, eq=False)
class AdvrBDResult:
    """What a run found.

    Attributes:
        model: the clean model, in eval mode, for images in pixel scale [0, 1].
        backdoored_model: the model trained on everything, before the defense.
        verdicts: a verdict and a score for each sample, in the order of the set that was given.
        suspected_classes: labels found to be attacked; empty where the set is called clean (always empty with
            ``detect_targets`` switched off).
        evidence: what spoke for or against each label; empty with ``detect_targets`` switched off.
        curves: stage -> rows, one a step.
        seconds: stage -> time, of this run alone where an earlier one was resumed.
        config: the settings.
    """

    model: nn.Module
    backdoored_model: nn.Module
    verdicts: Verdicts
    suspected_classes: tuple[int, ...]
    evidence: tuple[LabelEvidence, ...]
    curves: dict[str, list[dict[str, float]]]
    seconds: dict[str, float]
    config: AdvrBDConfig


@dataclass(frozen=True, eq=False)
class BackdooredModel:
    """What the first stage gives.

    Attributes:
        model: the model trained on everything, in eval mode, for images in pixel scale [0, 1].
        rows: one an epoch: ``epoch``, ``loss``, ``accuracy``.
        seconds: stage -> time; next to none where the model was found in ``work_dir``.
    """

    model: nn.Module
    rows: list[dict[str, float]]
    seconds: dict[str, float]


class AdvrBD:
    """The defense (arXiv 2405.12719) with the additions that docs/choices.md explains.

    Args:
        make_model: builds a freshly initialised network that takes float images in pixel scale [0, 1].
        config: the settings; the preset ``robust`` by default.
        device: where to train; a GPU if there is one, by default.
        work_dir: a folder for finished stages. A run that was killed and is started again with the same folder, data
            and settings goes on where it was and ends with the same result. ``None`` keeps nothing.
        progress: told of every batch.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        config: AdvrBDConfig | None = None,
        *,
        device: str | torch.device | None = None,
        work_dir: str | Path | None = None,
        progress: Progress | None = None,
    ) -> None:
        self._make_model = make_model
        self.config = config or AdvrBDConfig()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._store = StageStore(work_dir)
        self._progress = progress or SilentProgress()
        self._seconds: dict[str, float] = {}

    def fit(self, train_set: ImageSet) -> AdvrBDResult:
        """Defend a training set.

        The result does not depend on the order of the samples: they are taken in the order of their ids.

        Raises:
            AdvrBDError: the set does not suit the settings, or training diverges; one line says what to do.
        """
        _check_set(train_set, self.config)
        self._seconds = {}
        in_order = torch.argsort(train_set.sample_ids)
        ordered = train_set.subset(in_order)
        self._progress.plan(_planned_work(len(ordered), self.config))

        backdoored, training_rows = self._train_on_everything(ordered)
        model_key = digest(_data_key(ordered), *backdoored.state_dict().values())
        found = self._identify(ordered, backdoored, model_key)
        curves = {"training": training_rows}
        found, witness, witness_rows = self._retrain(ordered, found, model_key)
        # Without an detection, training again on the same samples would give the same model.
        model, verdicts = backdoored, found.verdicts
        if witness is not None:
            curves["retraining"] = witness_rows
            model, verdicts, more = self._relearn(ordered, found, witness, model_key)
            curves |= more
        curves |= found.curves
        curves = {stage: curves[stage] for stage in STAGES if stage in curves}
        back = torch.argsort(in_order)
        return AdvrBDResult(
            model=model.eval(),
            backdoored_model=backdoored.eval(),
            verdicts=Verdicts(*(getattr(verdicts, each.name)[back] for each in dataclasses.fields(Verdicts))),
            suspected_classes=found.suspected_classes,
            evidence=found.evidence,
            curves=curves,
            seconds=dict(self._seconds),
            config=self.config.for_samples(len(train_set)),
        )

    def train_backdoored(self, train_set: ImageSet) -> BackdooredModel:
        """The first stage of :meth:`fit` alone: train on everything, poison and all.

        :meth:`fit` with the same ``work_dir``, data and settings of the training finds the model, and the other way
        round. It does not depend on the order of the samples.

        Args:
            train_set: the set that the defender is given.

        Raises:
            AdvrBDError: as :meth:`fit`.
        """
        _check_set(train_set, self.config)
        self._seconds = {}
        model, rows = self._train_on_everything(train_set.by_id())
        return BackdooredModel(model.eval(), rows, dict(self._seconds))

    def _train_on_everything(self, samples: ImageSet) -> tuple[nn.Module, list[dict[str, float]]]:
        return self._train("training", samples, torch.arange(len(samples)), _data_key(samples))

    def _train(self, stage: str, samples: ImageSet, used: Tensor, key: str) -> tuple[nn.Module, list[dict[str, float]]]:
        """A network of its own initialisation, trained on ``used``; from the store if it is there."""
        options = self.config.for_samples(len(samples)).training(derive_seed(self.config.seed, stage))
        model = self._fresh_model(stage)
        check_outputs(model, samples.images, samples.num_classes)
        key = digest(key, used, describe_training(model, options), *model.state_dict().values())

        def work(checkpoint: StoredTraining) -> list[dict[str, float]]:
            return train(
                model,
                samples.images[used],
                samples.labels[used],
                samples.sample_ids[used],
                options,
                stage=stage,
                progress=ScaledProgress(self._progress, _TRAINING_WORK),
                checkpoint=checkpoint,
            )

        return model, self._trained(stage, key, model, work)

    def _trained(
        self, stage: str, key: str, model: nn.Module, work: Callable[[StoredTraining], list[dict[str, float]]]
    ) -> list[dict[str, float]]:
        """Run ``work``, which trains ``model``, or load what it gave before."""
        with self._stage(stage):
            return kept_training(self._store, stage, key, model, work)

    def _fresh_model(self, stage: str) -> nn.Module:
        with repeatable(self.device, derive_seed(self.config.seed, "weights", stage)):
            return self._make_model().to(self.device)

    def _identify(self, samples: ImageSet, backdoored: nn.Module, model_key: str) -> _Found:
        unread = _UNREAD_WITH_ACCUSATION if self.config.detect_targets else _UNREAD_AS_PAPER
        key = digest(model_key, self._settings_without({*unread, *_READ_LATER}), _ALGORITHM_VERSION)
        kept = self._store.load("identification", key)
        if kept is not None:
            return _Found.restore(*kept)
        find = self._identify_suspected if self.config.detect_targets else self._identify_as_paper
        found = find(samples, backdoored)
        self._store.save("identification", key, *found.kept())
        return found

    def _identify_suspected(self, samples: ImageSet, backdoored: nn.Module) -> _Found:
        config = self.config
        with self._stage("scoring"):
            ranks = consistency_ranks(backdoored, samples, config, on_batch=self._progress.advance)
        with self._stage("detection"):
            detection = detect_targets(backdoored, samples, ranks, config, on_batch=self._progress.advance)
        consistency = ranks.mean(dim=0)
        suspected = detection.suspected_classes
        curves = {"detection": [_evidence_row(each) for each in detection.evidence]}
        logits = None
        if config.enhancement == "trigger" and (detection.poison_probability > 0.5).any():
            logits, curves["enhancement"] = self._enhance_trigger(samples, backdoored, detection)
        verdicts = identify_suspected(
            detection.poison_probability,
            consistency,
            samples.labels,
            suspected,
            logits,
            abstain_threshold=config.abstain_threshold,
        )
        return _Found(verdicts, ranks, detection.evidence, curves)

    def _enhance_trigger(
        self, samples: ImageSet, backdoored: nn.Module, detection: Detection
    ) -> tuple[Tensor, list[dict[str, float]]]:
        with self._stage("enhancement"):
            enhanced, rows = enhance_trigger(
                backdoored,
                samples.images,
                samples.labels,
                samples.sample_ids,
                detection.poison_probability,
                detection.projection,
                detection.suspected_classes,
                self.config,
                progress=ScaledProgress(self._progress, _TRAINING_WORK),
            )
            logits = predict(
                enhanced,
                samples.images,
                mixed_precision=self.config.mixed_precision,
                on_batch=self._progress.advance,
            )
        return logits, rows

    def _identify_as_paper(self, samples: ImageSet, backdoored: nn.Module) -> _Found:
        with self._stage("enhancement"):
            enhanced, _, rows = unlearn_rounds(
                backdoored, samples.images, samples.labels, samples.sample_ids, self.config, progress=self._progress
            )
            logits = predict(enhanced, samples.images, mixed_precision=self.config.mixed_precision)
        verdicts = identify_misclassified(logits, samples.labels)
        return _Found(verdicts, torch.zeros(1, len(samples)), (), {"enhancement": rows})

    def _retrain(
        self, samples: ImageSet, found: _Found, model_key: str
    ) -> tuple[_Found, nn.Module | None, list[dict[str, float]]]:
        """Train on what is trusted, take back detections that the new model does not bear out, and so on until all
        that are left stand; with none left there is no model.
        """
        upheld: set[int] = set()
        while found.verdicts.poisoned.any():
            doubted = tuple(sorted(set(found.overshadowed_labels(self.config.strong_evidence)) - upheld))
            spared = found.reject(samples.labels, doubted)
            witness, rows = self._train("retraining", samples, trusted_samples(spared.verdicts), model_key)
            if doubted:
                again = self._suspected_again(samples, found, witness, doubted)
                upheld |= set(again)
                found = found.reject(samples.labels, tuple(set(doubted) - set(again)))
                if again:
                    continue  # the witness was trained on their suspects
            rejected = self._rejected(samples, found, witness)
            if not rejected:
                return found, witness, rows
            found = found.reject(samples.labels, rejected)
        return found, None, []

    def _suspected_again(
        self, samples: ImageSet, found: _Found, witness: nn.Module, doubted: tuple[int, ...]
    ) -> tuple[int, ...]:
        """The doubted labels that are suspected again by a model that was trained on all of their samples.

        What parts a label by chance in one model need not part it in another; a backdoor does.
        """
        config = self.config
        asked = torch.isin(samples.labels, torch.tensor(doubted, dtype=torch.int64))
        with self._stage("detection"):
            again = detect_targets(
                witness, samples.subset(asked), found.ranks[:, asked], config, on_batch=self._progress.advance
            )
        return again.suspected_classes

    def _rejected(self, samples: ImageSet, found: _Found, witness: nn.Module) -> tuple[int, ...]:
        weak = [each.label for each in found.evidence if each.suspected and each.gain < self.config.strong_evidence]
        precision = self.config.mixed_precision
        return rejected_classes(
            witness, samples.images, samples.labels, found.verdicts, weak, mixed_precision=precision
        )

    def _relearn(
        self, samples: ImageSet, found: _Found, model: nn.Module, model_key: str
    ) -> tuple[nn.Module, Verdicts, dict[str, list[dict[str, float]]]]:
        config, verdicts = self.config, found.verdicts
        suspected = torch.isin(samples.labels, torch.tensor(found.suspected_classes, dtype=torch.int64))
        precision = config.mixed_precision
        uncertain = doubt_disagreement(
            model, samples.images, samples.labels, verdicts, suspected, mixed_precision=precision
        )
        verdicts = dataclasses.replace(verdicts, uncertain=uncertain)
        verdicts = relabel(model, samples.images, samples.labels, verdicts, mixed_precision=precision)
        if not config.relearn_epochs:
            return model, verdicts, {}
        key = digest(
            model_key,
            describe_training(model, relearning_options(config)),
            verdicts.suggested_label,
            verdicts.uncertain,
            *model.state_dict().values(),
        )

        def work(checkpoint: StoredTraining) -> list[dict[str, float]]:
            return relearn(
                model,
                samples.images,
                samples.sample_ids,
                verdicts,
                config,
                progress=ScaledProgress(self._progress, _TRAINING_WORK),
                checkpoint=checkpoint,
            )

        return model, verdicts, {"relearning": self._trained("relearning", key, model, work)}

    def _settings_without(self, unread: Iterable[str]) -> dict[str, Any]:
        """The settings, those that play no part as if never set, so that they change no key."""
        defaults = type(self.config)().to_mapping()
        return self.config.to_mapping() | {name: defaults[name] for name in unread}

    def _stage(self, name: str) -> AbstractContextManager[None]:
        return timed_stage(self._progress, name, self._seconds)


@dataclass(frozen=True, eq=False)
class _Found:
    """What identification hands on to retraining."""

    verdicts: Verdicts
    ranks: Tensor  # (num_patch_sizes, N) float32, of the consistency scores
    evidence: tuple[LabelEvidence, ...]
    curves: dict[str, list[dict[str, float]]]

    @property
    def suspected_classes(self) -> tuple[int, ...]:
        return tuple(each.label for each in self.evidence if each.suspected)

    def overshadowed_labels(self, strong_evidence: float) -> tuple[int, ...]:
        """Suspected labels with weak evidence beside one whose evidence is beyond doubt."""
        weak = tuple(each.label for each in self.evidence if each.suspected and each.gain < strong_evidence)
        return weak if len(weak) < len(self.suspected_classes) else ()

    def reject(self, labels: Tensor, rejected: tuple[int, ...]) -> _Found:
        """The same with the detection of ``rejected`` labels taken back."""
        if not rejected:
            return self
        evidence = tuple(
            dataclasses.replace(each, suspected=False, rejected=True) if each.label in rejected else each
            for each in self.evidence
        )
        curves = self.curves | {"detection": [_evidence_row(each) for each in evidence]}
        verdicts = reject(self.verdicts, labels, self.ranks.mean(dim=0), rejected)
        return _Found(verdicts, self.ranks, evidence, curves)

    def kept(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        tensors = {each.name: getattr(self.verdicts, each.name) for each in dataclasses.fields(Verdicts)}
        return tensors | {"ranks": self.ranks}, {
            "evidence": [dataclasses.asdict(each) for each in self.evidence],
            "curves": self.curves,
        }

    @classmethod
    def restore(cls, tensors: dict[str, Tensor], rest: dict[str, Any]) -> _Found:
        evidence = tuple(LabelEvidence(**each) for each in rest["evidence"])
        ranks = tensors.pop("ranks")
        return cls(Verdicts(**tensors), ranks, evidence, rest["curves"])


def _data_key(samples: ImageSet) -> str:
    return digest(samples.images, samples.labels, samples.sample_ids, samples.num_classes)


def _planned_work(count: int, config: AdvrBDConfig) -> dict[str, float]:
    """Stage -> expected work, one unit for each image looked at once."""
    training = _TRAINING_WORK * config.for_samples(count).epochs * count
    work: dict[str, float] = {"training": training}
    if config.detect_targets:
        work["scoring"] = scoring_work(config) * count
        work["detection"] = count
        if config.enhancement == "trigger":
            work["enhancement"] = _TRAINING_WORK * config.enhancement_steps * TRIGGER_BATCH_SIZE + count
    else:
        suspect_shares = [1 - round_ * config.alpha for round_ in range(config.rounds)]
        work["enhancement"] = 3 * count * sum(share for share in suspect_shares if share > 0)
    work["retraining"] = training
    if config.relearn_epochs:
        work["relearning"] = _TRAINING_WORK * config.relearn_epochs * count
    return work


def _evidence_row(evidence: LabelEvidence) -> dict[str, float]:
    row = dataclasses.asdict(evidence)
    return {name: int(value) if isinstance(value, bool) else value for name, value in row.items()}


def _check_set(train_set: ImageSet, config: AdvrBDConfig) -> None:
    if len(train_set) < 2 or train_set.num_classes < 2:
        raise AdvrBDError(
            f"the training set needs at least 2 images and 2 classes, got {len(train_set)} and {train_set.num_classes}"
        )
    side = min(train_set.image_size)
    if config.patch_size > side:
        raise AdvrBDError(f"patch_size must be in [1, {side}] for images of this size, got {config.patch_size}")
