"""From a model to what is known of its training set: score, detect, confirm, enhance, identify."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import digest
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import (
    AdvrBDConfig,
    ConfirmationConfig,
    DetectionConfig,
    EnhancementConfig,
    IdentificationConfig,
    PaperConfig,
    ScoringConfig,
)
from advrbd_plugin.defense.confirmation import confirm, leave_out
from advrbd_plugin.defense.detection import Detection, Detector
from advrbd_plugin.defense.enhancement import Enhancement, enhance
from advrbd_plugin.defense.identification import Findings, identify, identify_misclassified
from advrbd_plugin.defense.mislabels import find_mislabelled
from advrbd_plugin.defense.paper import unlearn_rounds
from advrbd_plugin.defense.scoring import Scores, score_samples
from advrbd_plugin.defense.stage_runner import StageRunner, shared
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.defense.version import ALGORITHM_VERSION
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.randomness import derive_seed


def find(
    run: StageRunner, samples: ImageSet, trained: Trained, key: str, config: AdvrBDConfig, detector: Detector
) -> Findings:
    """Find the target classes and their poisoned samples.

    Args:
        run: runs each stage, or takes it from the cache.
        samples: the training set.
        trained: the model that was trained on it, and what it said of each sample while it learned.
        key: names all that the findings depend on so far; each stage adds its own settings.
        config: the settings.
        detector: as :func:`advrbd_plugin.defense.detection.detect_targets`.
    """
    model, advance = trained.model, run.progress.advance
    scoring, detecting = config.part(ScoringConfig), config.part(DetectionConfig)
    key = digest(key, "scoring", scoring.to_mapping(), ALGORITHM_VERSION)
    scores = run.cached(Scores, "scoring", key, lambda: score_samples(model, samples, scoring, on_batch=advance))
    key = digest(key, "detection", detecting.to_mapping(), detector.__qualname__)
    detection = run.cached(Detection, "detection", key, lambda: detector(trained, samples, scores, detecting, advance))
    if detection.unconfirmed_classes:
        key = digest(key, "confirmation", config.part(ConfirmationConfig).to_mapping())
        detection = _confirmed(run, samples, detection, key, config.part(ConfirmationConfig).for_samples(len(samples)))
    enhancement, teachable = None, detection.teachable
    if config.enhancement == "trigger" and _has_poison(teachable, samples.labels):
        enhancing = config.part(EnhancementConfig)
        key = digest(key, "enhancement", enhancing.to_mapping())
        enhancement = run.cached(
            Enhancement,
            "enhancement",
            key,
            lambda: enhance(model, samples, teachable, enhancing, progress=run.progress),
        )
    verdicts = identify(detection, scores, samples.labels, enhancement, config.part(IdentificationConfig))
    if detection.trained_enough:
        suspected = detection.suspected_classes
        mislabels = shared(find_mislabelled(trained.mean_probabilities, samples.labels, suspected=suspected))
        verdicts = verdicts.with_mislabels(mislabels)
        detection = detection.told_of_errors(samples, verdicts.mislabelled, mislabels.gathered)
    return Findings(scores, detection, enhancement, verdicts)


def find_as_paper(run: StageRunner, samples: ImageSet, model: nn.Module, key: str, config: AdvrBDConfig) -> Findings:
    """Algorithm 2, whose rounds score by themselves; what the enhanced model misclassifies is clean."""
    settings = config.part(PaperConfig)

    def work() -> Enhancement:
        enhanced, _, rows = unlearn_rounds(model, samples, settings, progress=run.progress)
        return Enhancement(predict(enhanced, samples.images, mixed_precision=settings.mixed_precision), rows)

    key = digest(key, "unlearning", settings.to_mapping(), ALGORITHM_VERSION)
    enhancement = run.cached(Enhancement, "enhancement", key, work)
    verdicts = identify_misclassified(enhancement.logits, samples.labels)
    unscored = Scores(torch.zeros(1, len(samples)))
    return Findings(unscored, Detection.none(len(samples)), enhancement, verdicts)


def _has_poison(detection: Detection, labels: Tensor) -> bool:
    """Whether there is a trigger to learn."""
    suspected = torch.isin(labels, torch.tensor(detection.suspected_classes, dtype=torch.int64))
    return bool((suspected & (detection.poison_probability > 0.5)).any())


def _confirmed(
    run: StageRunner, samples: ImageSet, detection: Detection, key: str, config: ConfirmationConfig
) -> Detection:
    """Every unconfirmed class suspected or rejected, by a short training without its suspicious cluster."""
    left_out = leave_out(samples, detection, seed=config.seed)
    options = config.training(derive_seed(config.seed, "confirmation"), epochs=config.confirming_epochs)
    subset = samples.subset(left_out.kept)
    model = run.train("confirmation", subset, options, config.seed, digest(key, left_out.kept)).model
    with run.timed("confirmation"):
        logits = predict(model, samples.images, mixed_precision=config.mixed_precision)
    return shared(confirm(logits.softmax(dim=1), samples, detection, left_out))
