"""Clean samples for a repair, picked from the untrusted training set by AdvrBD's scores. (Ours.)"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw, draw_images
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import detect_targets
from advrbd_plugin.defense.scoring import score_samples, scoring_work
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.progress import Progress, SilentProgress

# Poison probability below which a sample may count as clean, and above which it counts as poisoned.
_CLEAN_BELOW = 0.1
_POISONED_ABOVE = 0.9
# Clean samples are drawn from this share of a label's possible ones, those with the lowest score.
_TRUSTED_SHARE = 0.5
# A repair costs a few epochs only, so each sample gets one mask, and half of the set is scored if its labels stay large
# enough to be judged.
_NUM_MASKS = 1
_SCORED_SHARE, _SCORED_PER_LABEL = 0.5, 50
_PICKED_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class CleanSamples:
    """Samples of an untrusted training set, sorted by AdvrBD's scores under the backdoored model.

    Attributes:
        clean_set: samples taken as clean, equally many of each label.
        suspect_set: samples of suspected target classes that are likely poisoned; ``None`` if there are none.
        suspected_classes: suspected target classes, in ascending order.
    """

    clean_set: ImageSet
    suspect_set: ImageSet | None
    suspected_classes: tuple[int, ...]


def picking_config(seed: int) -> AdvrBDConfig:
    """AdvrBD's settings as :func:`clean_from_poisoned` uses them."""
    return AdvrBDConfig(seed=seed, num_masks=_NUM_MASKS)


def clean_from_poisoned(
    model: nn.Module,
    train_set: ImageSet,
    count: int | None = None,
    config: AdvrBDConfig | None = None,
    *,
    seed: int = 0,
    progress: Progress | None = None,
) -> CleanSamples:
    """Pick clean samples from the untrusted set with the backdoored model itself.

    The stages are AdvrBD's: consistency scores, their ranks, the detection of target classes. Samples are then drawn at
    random, equally many of each label, from the less suspicious half of those that look clean.

    Args:
        model: the backdoored model, trained on ``train_set``.
        train_set: the untrusted set.
        count: number of clean samples in all, a fifth of the set by default; fewer come back if a label has too few.
        config: AdvrBD's settings; :func:`picking_config` by default.
        seed: of the default settings.
        progress: told of every batch.

    Raises:
        AdvrBDError: no sample of a label looks clean, or a logit is not finite.
    """
    config, progress = config or picking_config(seed), progress or SilentProgress()
    train_set = train_set.by_id()
    count = count or max(train_set.num_classes, round(_PICKED_SHARE * len(train_set)))
    if _SCORED_SHARE * len(train_set) >= _SCORED_PER_LABEL * train_set.num_classes:
        train_set = draw_images(train_set, round(_SCORED_SHARE * len(train_set)), seed=config.seed)
    if config.patch_size > min(train_set.image_size):
        config = config.replace(patch_size=max(1, min(train_set.image_size) // 4))
    progress.plan({"scoring": (scoring_work(config) + 1) * len(train_set)})
    progress.start("scoring")
    scores = score_samples(model, train_set, config, on_batch=progress.advance)
    detection = detect_targets(Trained(model, []), train_set, scores, config, progress.advance)
    progress.finish()
    suspected = torch.isin(train_set.labels, torch.tensor(detection.suspected_classes, dtype=torch.int64))
    order = torch.where(suspected, detection.projection, scores.consistency)
    trusted = _trusted(train_set.labels, detection.poison_probability, order, train_set.num_classes)
    chosen = _balanced(train_set, trusted, count, config.seed)
    suspects = suspected & (detection.poison_probability > _POISONED_ABOVE)
    return CleanSamples(
        clean_set=train_set.subset(chosen),
        suspect_set=train_set.subset(suspects) if suspects.any() else None,
        suspected_classes=detection.suspected_classes,
    )


def _trusted(labels: Tensor, poison_probability: Tensor, order: Tensor, num_classes: int) -> Tensor:
    """(N,) bool: of each label the half with the lowest ``order`` of the samples with a low poison probability."""
    trusted = torch.zeros_like(labels, dtype=torch.bool)
    for label in range(num_classes):
        members = ((labels == label) & (poison_probability < _CLEAN_BELOW)).nonzero().flatten()
        least_suspicious_first = members[torch.argsort(order[members], stable=True)]
        trusted[least_suspicious_first[: max(1, round(_TRUSTED_SHARE * len(members)))]] = True
    return trusted


def _balanced(train_set: ImageSet, trusted: Tensor, count: int, seed: int) -> Tensor:
    """Draw equally many trusted samples of each label: ``count`` in all, or what the rarest label has."""
    members = [((train_set.labels == label) & trusted).nonzero().flatten() for label in range(train_set.num_classes)]
    rarest = min(range(len(members)), key=lambda label: len(members[label]))
    if not len(members[rarest]):
        raise AdvrBDError(
            f"no sample of the class {train_set.class_names[rarest]!r} can be trusted: give clean samples instead"
        )
    each = min(len(members[rarest]), max(1, count // len(members)))
    return torch.cat(
        [which[draw(train_set.sample_ids[which], each, seed=seed, purpose="clean samples")] for which in members]
    )
