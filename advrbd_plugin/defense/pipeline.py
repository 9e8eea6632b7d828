"""AdvrBD from end to end: a poisoned set in, a clean model and a verdict on every sample out."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import (
    AdvrBDConfig,
    DetectionConfig,
    EnhancementConfig,
    IdentificationConfig,
    PaperConfig,
    RetrainingConfig,
    ScoringConfig,
)
from advrbd_plugin.defense.detection import Detection, Detector, detect_targets
from advrbd_plugin.defense.enhancement import Enhancement, enhance
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.identification import Findings, Verdicts, identify, identify_misclassified
from advrbd_plugin.defense.paper import unlearn_rounds
from advrbd_plugin.defense.planning import STAGES, check_set, planned_work
from advrbd_plugin.defense.result import AdvrBDResult, AdvrBDScan, BackdooredModel, Rows
from advrbd_plugin.defense.retraining import (
    abstain_on_disagreement,
    relabel,
    relearn,
    relearning_options,
    trusted_samples,
    unconfirmed_classes,
)
from advrbd_plugin.defense.scoring import Scores, score_samples
from advrbd_plugin.defense.stage_runner import StageRunner, Trained, shared
from advrbd_plugin.defense.version import ALGORITHM_VERSION
from advrbd_plugin.nn.checkpoints import StoredTraining
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.training import TRAINING_WORK
from advrbd_plugin.processes import current
from advrbd_plugin.progress import Progress, ScaledProgress, SilentProgress
from advrbd_plugin.randomness import derive_seed


class AdvrBD:
    """The defense (arXiv 2405.12719) with the additions that docs/choices.md explains.

    Args:
        make_model: builds a freshly initialised network that takes float images in pixel scale [0, 1].
        config: the settings; the preset ``robust`` by default.
        device: where to train; a GPU if there is one, by default.
        work_dir: a folder for finished stages. A run that was killed and is started again with the same folder, data
            and settings goes on where it was and ends with the same result. ``None`` stores nothing.
        progress: told of every batch.
        detector: finds the target classes, as :func:`advrbd_plugin.defense.detection.detect_targets` does.
    """

    def __init__(
        self,
        make_model: Callable[[], nn.Module],
        config: AdvrBDConfig | None = None,
        *,
        device: str | torch.device | None = None,
        work_dir: str | Path | None = None,
        progress: Progress | None = None,
        detector: Detector = detect_targets,
    ) -> None:
        self._make_model = make_model
        self.config = config or AdvrBDConfig()
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._work_dir = work_dir
        self._progress = progress or SilentProgress()
        self._detector = detector

    def fit(self, train_set: ImageSet) -> AdvrBDResult:
        """Defend a training set.

        The result does not depend on the order of the samples: they are taken in the order of their ids.

        Raises:
            AdvrBDError: the set does not suit the settings, or training diverges; one line says what to do.
        """
        check_set(train_set, self.config)
        self._progress.plan(planned_work(len(train_set), self.config))
        samples, run = train_set.by_id(), self._new_run()
        backdoored, rows, findings, key = self._examine(run, samples)
        findings, retrained, retraining_rows = self._retrain(run, samples, findings, key)
        curves = {"training": rows, **findings.curves()}
        if retrained is None:  # nothing was found: another training on the same samples would give the same model
            model, verdicts = backdoored, findings.verdicts
        else:
            model, verdicts, relearning_rows = self._relearn(run, samples, findings, retrained, key)
            curves |= {"retraining": retraining_rows, "relearning": relearning_rows}
        return AdvrBDResult(
            model=model.eval(),
            is_retrained=retrained is not None,
            rounds=1,
            remark="",
            **self._scanned(train_set, backdoored, findings, verdicts, curves, run),
        )

    def scan(self, train_set: ImageSet) -> AdvrBDScan:
        """The verdicts of :meth:`fit` without the clean model, as far as they can be had without one.

        :meth:`fit` with the same ``work_dir``, data and settings goes on from here.

        Raises:
            AdvrBDError: as :meth:`fit`.
        """
        check_set(train_set, self.config)
        plan = planned_work(len(train_set), self.config)
        self._progress.plan({stage: work for stage, work in plan.items() if stage not in ("retraining", "relearning")})
        samples, run = train_set.by_id(), self._new_run()
        backdoored, rows, findings, _ = self._examine(run, samples)
        curves = {"training": rows, **findings.curves()}
        return AdvrBDScan(**self._scanned(train_set, backdoored, findings, findings.verdicts, curves, run))

    def _examine(self, run: StageRunner, samples: ImageSet) -> tuple[nn.Module, Rows, Findings, str]:
        """Train on everything and find what is poisoned; the key names all that the findings depend on."""
        data_key = _data_key(samples)
        backdoored, rows, _ = self._train(run, "training", samples, torch.arange(len(samples)), data_key)
        key = digest(data_key, *backdoored.state_dict().values())
        find = self._find if self.config.detect_targets else self._find_as_paper
        return backdoored, rows, find(run, samples, backdoored, key), key

    def _scanned(
        self,
        train_set: ImageSet,
        backdoored: nn.Module,
        findings: Findings,
        verdicts: Verdicts,
        curves: dict[str, Rows],
        run: StageRunner,
    ) -> dict[str, Any]:
        """The fields of :class:`AdvrBDScan`, samples in the order of ``train_set``."""
        back = torch.argsort(torch.argsort(train_set.sample_ids))
        detection = findings.detection
        return {
            "backdoored_model": backdoored.eval(),
            "verdicts": verdicts.of(back),
            "suspected_classes": detection.suspected_classes,
            "findings": tuple(
                ClassFinding(each.label, each.suspected, float(each.suspected), "") for each in detection.evidence
            ),
            "evidence": detection.evidence,
            "fit": curves["training"][-1]["accuracy"],
            "trained_enough": True,
            "curves": {stage: curves[stage] for stage in STAGES if curves.get(stage)},
            "seconds": run.seconds,
            "config": self.config.for_samples(len(train_set)),
        }

    def train_backdoored(self, train_set: ImageSet) -> BackdooredModel:
        """The first stage of :meth:`fit` alone: train on everything, poison and all.

        :meth:`fit` with the same ``work_dir``, data and settings of the training finds the model, and the other way
        round. It does not depend on the order of the samples.

        Args:
            train_set: the set that the defender is given.

        Raises:
            AdvrBDError: as :meth:`fit`.
        """
        check_set(train_set, self.config)
        samples, run = train_set.by_id(), self._new_run()
        model, rows, _ = self._train(run, "training", samples, torch.arange(len(samples)), _data_key(samples))
        return BackdooredModel(model.eval(), rows, run.seconds)

    def _new_run(self) -> StageRunner:
        return StageRunner(self._make_model, self.device, self._work_dir, self._progress)

    def _find(self, run: StageRunner, samples: ImageSet, model: nn.Module, key: str) -> Findings:
        """Score, detect, enhance, identify; each stage's cache key is the one before and its own settings."""
        config, advance = self.config, self._progress.advance
        scoring, detecting = config.part(ScoringConfig), config.part(DetectionConfig)
        key = digest(key, "scoring", scoring.to_mapping(), ALGORITHM_VERSION)
        scores = run.cached(Scores, "scoring", key, lambda: score_samples(model, samples, scoring, on_batch=advance))
        key = digest(key, "detection", detecting.to_mapping(), self._detector.__qualname__)
        detection = run.cached(
            Detection, "detection", key, lambda: self._detector(model, samples, scores, detecting, advance)
        )
        enhancement = None
        if config.enhancement == "trigger" and (detection.poison_probability > 0.5).any():
            enhancing = config.part(EnhancementConfig)
            key = digest(key, "enhancement", enhancing.to_mapping())
            enhancement = run.cached(
                Enhancement,
                "enhancement",
                key,
                lambda: enhance(model, samples, detection, enhancing, progress=self._progress),
            )
        verdicts = identify(detection, scores, samples.labels, enhancement, config.part(IdentificationConfig))
        return Findings(scores, detection, enhancement, verdicts)

    def _find_as_paper(self, run: StageRunner, samples: ImageSet, model: nn.Module, key: str) -> Findings:
        """Algorithm 2, whose rounds score by themselves; what the enhanced model misclassifies is clean."""
        config = self.config.part(PaperConfig)

        def work() -> Enhancement:
            enhanced, _, rows = unlearn_rounds(model, samples, config, progress=self._progress)
            return Enhancement(predict(enhanced, samples.images, mixed_precision=config.mixed_precision), rows)

        key = digest(key, "unlearning", config.to_mapping(), ALGORITHM_VERSION)
        enhancement = run.cached(Enhancement, "enhancement", key, work)
        verdicts = identify_misclassified(enhancement.logits, samples.labels)
        unscored = Scores(torch.zeros(1, len(samples)))
        return Findings(unscored, Detection.none(len(samples)), enhancement, verdicts)

    def _retrain(
        self, run: StageRunner, samples: ImageSet, findings: Findings, key: str
    ) -> tuple[Findings, nn.Module | None, Rows]:
        """Train on what is trusted and reject the suspected classes that the new model does not confirm, until it
        confirms all that are left; with none left there is no model.
        """
        config, confirmed = self.config.part(RetrainingConfig), set[int]()
        while findings.verdicts.poisoned.any():
            weak = tuple(sorted({*findings.detection.weak_beside_strong(config.strong_evidence)} - confirmed))
            trusted = trusted_samples(findings.reject(samples.labels, weak).verdicts)
            model, rows, _ = self._train(run, "retraining", samples, trusted, key)
            if weak:
                again = self._detect_again(run, samples, findings, model, weak)
                confirmed |= {*again}
                findings = findings.reject(samples.labels, tuple({*weak} - {*again}))
                if again:
                    continue  # the model was trained on their poisoned samples
            unconfirmed = unconfirmed_classes(
                model,
                samples,
                findings.verdicts,
                findings.detection.weak_classes(config.strong_evidence),
                mixed_precision=config.mixed_precision,
            )
            if not unconfirmed:
                return findings, model, rows
            findings = findings.reject(samples.labels, unconfirmed)
        return findings, None, []

    def _detect_again(
        self, run: StageRunner, samples: ImageSet, findings: Findings, model: nn.Module, classes: tuple[int, ...]
    ) -> tuple[int, ...]:
        """Those of ``classes`` that are suspected again by a model that was trained on all of their samples.

        Two models need not split a class in the same way by chance; a backdoor splits it in both.
        """
        asked = torch.isin(samples.labels, torch.tensor(classes, dtype=torch.int64))
        config, scores = self.config.part(DetectionConfig), findings.scores.of(asked)
        with run.timed("detection"):
            again = shared(self._detector(model, samples.subset(asked), scores, config, self._progress.advance))
        return again.suspected_classes

    def _relearn(
        self, run: StageRunner, samples: ImageSet, findings: Findings, model: nn.Module, key: str
    ) -> tuple[nn.Module, Verdicts, Rows]:
        """Relabel what is poisoned and train ``model`` on everything that is certain."""
        config = self.config.part(RetrainingConfig)
        precision, suspected = config.mixed_precision, findings.detection.suspected_classes
        verdicts = abstain_on_disagreement(model, samples, findings.verdicts, suspected, mixed_precision=precision)
        verdicts = relabel(model, samples, verdicts, mixed_precision=precision)
        if not config.relearn_epochs:
            return model, verdicts, []
        options = relearning_options(config)
        key = digest(key, verdicts.suggested_label, verdicts.uncertain)
        progress = ScaledProgress(self._progress, TRAINING_WORK)

        def work(checkpoint: StoredTraining) -> Rows:
            return relearn(model, samples, verdicts, options, progress=progress, checkpoint=checkpoint)

        return model, verdicts, run.train_on("relearning", model, options, key, work)

    def _train(self, run: StageRunner, stage: str, samples: ImageSet, used: Tensor, key: str) -> Trained:
        """A new network, trained on the samples at ``used`` with the epochs of the whole set.

        What it says of each sample while it learns is recorded in the first training alone.
        """
        options = self.config.for_samples(len(samples)).training(derive_seed(self.config.seed, stage))
        key, record = digest(key, used), stage == "training"
        return run.train(stage, samples.subset(used), options, self.config.seed, key, record=record)


def _data_key(samples: ImageSet) -> str:
    """Of the whole set, which is read for it once, by rank 0."""
    parts = samples.images, samples.labels, samples.sample_ids, samples.num_classes
    return str(current().receive(lambda: digest(*parts)))
