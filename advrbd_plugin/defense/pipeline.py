"""AdvrBD from end to end: a poisoned set in, a clean model and a verdict on every sample out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import nn

from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense import cleaning
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detector, detect_targets
from advrbd_plugin.defense.findings import ClassFinding, slow_labels, trigger_pictures
from advrbd_plugin.defense.identification import Findings, Verdicts
from advrbd_plugin.defense.planning import SCANNED_OUT, STAGES, check_set, planned_work
from advrbd_plugin.defense.result import AdvrBDResult, AdvrBDScan, BackdooredModel, Rows
from advrbd_plugin.defense.search import find, find_as_paper
from advrbd_plugin.defense.stage_runner import StageRunner
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.nn.classifier import ImageClassifier
from advrbd_plugin.nn.factories import check_network, network_factory
from advrbd_plugin.processes import current
from advrbd_plugin.progress import LoggedProgress, Progress
from advrbd_plugin.randomness import derive_seed


class AdvrBD:
    """The defense (arXiv 2405.12719) with the additions that docs/choices.md and docs/detection.md explain.

    Args:
        make_model: builds a freshly initialised network that takes float images in pixel scale [0, 1]; or such a
            network, whose layout is taken and whose weights are not (:func:`advrbd_plugin.nn.factories.fresh_copy`).
        config: the settings; the preset ``robust`` by default.
        device: where to train; a GPU if there is one, by default.
        work_dir: a folder for finished stages. A run that was killed and is started again with the same folder, data
            and settings goes on where it was and ends with the same result. ``None`` stores nothing.
        progress: told of every batch; by default each stage is a record of the logger ``advrbd_plugin`` (INFO).
        detector: finds the target classes, as :func:`advrbd_plugin.defense.detection.detect_targets` does.

    Examples:
        >>> import torch
        >>> from advrbd_plugin import ImageSet
        >>> images = torch.randint(256, (20, 1, 8, 8), dtype=torch.uint8)
        >>> train_set = ImageSet(images, torch.arange(20) % 2, ("cat", "dog"))
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(64, 2))  # its layout is taken
        >>> quick = AdvrBDConfig(epochs=1, patch_size=4, mixed_precision=False)  # default: preset("robust")
        >>> result = AdvrBD(network, quick, device="cpu").fit(train_set)
        >>> result.verdicts.poisoned.shape, result.model.predict(train_set.images).shape
        (torch.Size([20]), torch.Size([20]))
    """

    def __init__(
        self,
        make_model: nn.Module | Callable[[], nn.Module],
        config: AdvrBDConfig | None = None,
        *,
        device: str | torch.device | None = None,
        work_dir: str | Path | None = None,
        progress: Progress | None = None,
        detector: Detector = detect_targets,
    ) -> None:
        self._make_model = network_factory(make_model)
        self.config = AdvrBDConfig.require(config)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._work_dir = work_dir
        self._progress = progress or LoggedProgress()
        self._detector = detector

    def fit(self, train_set: ImageSet) -> AdvrBDResult:
        """Defend a training set.

        The result does not depend on the order of the samples: they are taken in the order of their ids.

        Raises:
            AdvrBDError: the set does not suit the settings, or training diverges; one line says what to do.
        """
        check_set(train_set, self.config)
        check_network(self._make_model, train_set, needs_features=self.config.detect_targets)
        self._progress.plan(planned_work(len(train_set), train_set.num_classes, self.config))
        samples, run = train_set.by_id(), self._new_run()
        first = self._first(run, samples)
        outcome = self._clean(run, samples, first) if first.findings.verdicts.needs_cleaning else _nothing_found(first)
        scanned = self._scanned(train_set, samples, first, outcome, run)
        returns_first = outcome.model is first.model
        return AdvrBDResult(
            model=scanned["backdoored_model"] if returns_first else ImageClassifier.of(outcome.model.eval(), train_set),
            is_retrained=outcome.is_retrained,
            rounds=outcome.rounds,
            remark=outcome.remark,
            **scanned,
        )

    def scan(self, train_set: ImageSet) -> AdvrBDScan:
        """The verdicts of :meth:`fit` without the clean model, as far as they can be had without one.

        :meth:`fit` with the same ``work_dir``, data and settings goes on from here.

        Raises:
            AdvrBDError: as :meth:`fit`.
        """
        check_set(train_set, self.config)
        check_network(self._make_model, train_set, needs_features=self.config.detect_targets)
        plan = planned_work(len(train_set), train_set.num_classes, self.config)
        self._progress.plan({stage: work for stage, work in plan.items() if stage not in SCANNED_OUT})
        samples, run = train_set.by_id(), self._new_run()
        first = self._first(run, samples)
        return AdvrBDScan(**self._scanned(train_set, samples, first, _nothing_found(first), run))

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
        check_network(self._make_model, train_set)
        samples, run = train_set.by_id(), self._new_run()
        trained = self._train(run, samples, key_of(samples))
        return BackdooredModel(trained.model.eval(), trained.rows, run.seconds)

    def _new_run(self) -> StageRunner:
        return StageRunner(self._make_model, self.device, self._work_dir, self._progress)

    def _first(self, run: StageRunner, samples: ImageSet) -> _First:
        """Train on everything and find what is poisoned."""
        data_key = key_of(samples)
        trained = self._train(run, samples, data_key)
        key = digest(data_key, *trained.model.state_dict().values())
        if self.config.detect_targets:
            findings = find(run, samples, trained, key, self.config, self._detector)
        else:
            findings = find_as_paper(run, samples, trained.model, key, self.config)
        return _First(trained.model, findings, {"training": trained.rows, **findings.curves()}, key)

    def _clean(self, run: StageRunner, samples: ImageSet, first: _First) -> _Outcome:
        """Clean models, each examined like the first one, until nothing is found or the rounds are over."""
        config, verdicts = self.config, first.findings.verdicts
        found_in_first = first.findings.detection
        classes, findings, rounds = found_in_first.suspected_classes, found_in_first.findings, 1
        while True:
            slow = slow_labels(findings)
            cleaned = cleaning.clean_model(run, samples, verdicts, classes, first.key, config, slow=slow)
            if not config.detect_targets or rounds > config.examinations:
                left: tuple[int, ...] = ()
                break
            found, used = cleaning.examine_again(run, samples, cleaned, first.key, config)
            rounds, left = rounds + 1, found.suspected_classes
            if not left or rounds > config.examinations:
                break
            verdicts = cleaning.with_found(cleaned.verdicts, found, used)
            findings = cleaning.with_findings(findings, found, rounds)
            classes = tuple(sorted({*classes, *left}))
        outcome = _Outcome(cleaned.model, cleaned.verdicts, classes, findings, cleaned.curves, True, rounds)
        return self._not_worse(samples, first, outcome, left)

    def _not_worse(self, samples: ImageSet, first: _First, outcome: _Outcome, left: tuple[int, ...]) -> _Outcome:
        """The outcome, or the model trained on everything where the clean one is worse on the set itself."""
        names = ", ".join(samples.class_names[label] for label in left)
        if set(left) > set(first.findings.detection.suspected_classes):
            remark = f"The retrained model shows all backdoors of the one trained on everything and more ({names})"
            return replace(outcome, model=first.model, is_retrained=False, remark=f"{remark}: the latter is returned.")
        accuracy = cleaning.accuracy_on_trusted(
            outcome.model, samples, outcome.verdicts, mixed_precision=self.config.mixed_precision
        )
        before = cleaning.accuracy_on_trusted(
            first.model, samples, outcome.verdicts, mixed_precision=self.config.mixed_precision
        )
        if self.config.detect_targets and cleaning.is_worse(accuracy, before):
            remark = f"The retrained model fits {accuracy:.1%} of the trusted samples, the one trained on everything "
            remark += f"{before:.1%}: the latter is returned."
            return replace(outcome, model=first.model, is_retrained=False, remark=remark)
        remark = "The retrained model is returned"
        if left:
            return replace(outcome, remark=f"{remark}; it still shows a backdoor in {names}.")
        if outcome.rounds > 1:
            remark += ": it was examined like the first one, and nothing was found"
        return replace(outcome, remark=f"{remark}.")

    def _scanned(
        self, train_set: ImageSet, samples: ImageSet, first: _First, outcome: _Outcome, run: StageRunner
    ) -> dict[str, Any]:
        """The fields of :class:`AdvrBDScan`, samples in the order of ``train_set``."""
        detection, curves = first.findings.detection, {**first.curves, **outcome.curves}
        back = torch.argsort(torch.argsort(train_set.sample_ids))
        return {
            "train_set": train_set,
            "backdoored_model": ImageClassifier.of(first.model.eval(), train_set),
            "verdicts": outcome.verdicts.of(back),
            "suspected_classes": outcome.suspected_classes,
            "findings": trigger_pictures(outcome.findings, samples, outcome.verdicts.poisoned),
            "evidence": detection.evidence,
            "fit": detection.fit,
            "trained_enough": detection.trained_enough,
            "curves": {stage: curves[stage] for stage in STAGES if curves.get(stage)},
            "seconds": run.seconds,
            "config": self.config.for_samples(len(train_set)),
        }

    def _train(self, run: StageRunner, samples: ImageSet, data_key: str) -> Trained:
        """A network trained on everything, and what it said of each sample while it learned."""
        options = self.config.for_samples(len(samples)).training(derive_seed(self.config.seed, "training"))
        return run.train("training", samples, options, self.config.seed, data_key, record=True)


@dataclass(frozen=True, eq=False)
class _First:
    """The model trained on everything and what it gave away; the key names all that both depend on."""

    model: nn.Module
    findings: Findings
    curves: dict[str, Rows]
    key: str


@dataclass(frozen=True, eq=False)
class _Outcome:
    """What is returned, and why."""

    model: nn.Module
    verdicts: Verdicts
    suspected_classes: tuple[int, ...]
    findings: tuple[ClassFinding, ...]
    curves: dict[str, Rows]
    is_retrained: bool = False
    rounds: int = 1
    remark: str = ""


def _nothing_found(first: _First) -> _Outcome:
    """Another training on the same samples would give the same model."""
    detection = first.findings.detection
    remark = "Nothing was found, so the model trained on everything is returned."
    if not detection.trained_enough:
        remark = (
            f"No verdict: the model fits {detection.fit:.0%} of its own training data, too little to be asked about it."
        )
    return _Outcome(
        first.model, first.findings.verdicts, detection.suspected_classes, detection.findings, {}, remark=remark
    )


def key_of(samples: ImageSet) -> str:
    """Of the whole set, which is read for it once, by rank 0."""
    parts = samples.images, samples.labels, samples.sample_ids, samples.num_classes
    return str(current().receive(lambda: digest(*parts)))
