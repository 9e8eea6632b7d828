"""What a run will cost, and whether its set suits its settings, before it begins."""

from __future__ import annotations

from advrbd_plugin.data.image_set import ImageSet, require_image_set
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import CANDIDATE_WORK
from advrbd_plugin.defense.enhancement import TRIGGER_BATCH_SIZE
from advrbd_plugin.defense.scoring import scoring_work
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.training import TRAINING_WORK

# In the order in which they run; a preset leaves some of them out.
STAGES = (
    "training",
    "scoring",
    "detection",
    "confirmation",
    "enhancement",
    "retraining",
    "relearning",
    "examination",
)
SCANNED_OUT = ("retraining", "relearning", "examination")
"""Stages of a clean model, which a scan leaves out."""
_CANDIDATES_OF_A_CLASS = 12


def planned_work(count: int, num_classes: int, config: AdvrBDConfig) -> dict[str, float]:
    """Stage -> expected work for ``count`` samples of ``num_classes``, one unit for each image looked at once.

    Nobody knows beforehand what will be found: it is the work of a run that finds something at once.
    """
    training = TRAINING_WORK * config.for_samples(count).epochs * count
    work: dict[str, float] = {"training": training}
    if config.detect_targets:
        work["scoring"] = scoring_work(config) * count
        work["detection"] = detecting = count + CANDIDATE_WORK * _CANDIDATES_OF_A_CLASS * num_classes
        if config.enhancement == "trigger":
            work["enhancement"] = TRAINING_WORK * config.enhancement_steps * TRIGGER_BATCH_SIZE + count
    else:
        suspect_shares = [1 - round_ * config.alpha for round_ in range(config.rounds)]
        work["enhancement"] = TRAINING_WORK * count * sum(share for share in suspect_shares if share > 0)
    work["retraining"] = training
    if config.relearn_epochs:
        work["relearning"] = TRAINING_WORK * config.relearn_epochs * count
    if config.detect_targets and config.examinations:
        work["examination"] = detecting
    return work


def check_set(train_set: ImageSet, config: AdvrBDConfig) -> None:
    """Raise AdvrBDError if the set is no ImageSet or too small, or its images are smaller than the patch."""
    require_image_set(train_set)
    if len(train_set) < 2 or train_set.num_classes < 2:
        raise AdvrBDError(
            f"the training set needs at least 2 images and 2 classes, got {len(train_set)} and {train_set.num_classes}"
        )
    side = min(train_set.image_size)
    if config.patch_size > side:
        raise AdvrBDError(f"patch_size must be in [1, {side}] for images of this size, got {config.patch_size}")
