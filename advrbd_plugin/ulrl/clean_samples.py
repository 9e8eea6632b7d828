"""The few clean samples that a repair needs: checked, or taken from an untrusted training set."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw, draw_images
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import detect_targets
from advrbd_plugin.defense.scoring import score_samples, scoring_work
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.progress import Progress, SilentProgress

_TRUSTED_SUSPICION = 0.1
_POISONED_SUSPICION = 0.9
# Among a label's samples that nothing speaks against, this share with the least poison_probability is drawn from.
_TRUSTED_SHARE = 0.5
# A repair is to cost a few epochs, so a sample gets one patch of each size, and half of a set is looked at whose labels
# stay large enough to be judged.
_NUM_MASKS = 1
_EXAMINED_SHARE, _EXAMINED_PER_LABEL = 0.5, 50
_PICKED_SHARE = 0.2


@dataclass(frozen=True, eq=False)
class CleanSamples:
    """What AdvrBD's scores of a backdoored model say about its untrusted training set.

    Attributes:
        clean_set: samples taken as clean, equally many of each label.
        suspect_set: samples of suspected labels that are likely poisoned; ``None`` where no label is suspected.
        suspected_classes: labels found to be attacked, in ascending order.
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
    """Take clean samples from what the victim has: a partition of the untrusted set by the backdoored model itself.

    The stages are AdvrBD's: consistency scores, their ranks, the detection of labels. Samples are then drawn at
    random, as many of each label, from the less suspicious half of those that are trusted.

    Args:
        model: the backdoored model, trained on ``train_set``.
        train_set: the untrusted set.
        count: how many clean samples to take in all, a fifth of the set where not given; fewer come back where a
            label has not enough.
        config: AdvrBD's settings; those of :func:`picking_config` where not given.

    Raises:
        AdvrBDError: a label has no sample that can be trusted, or a logit is not finite.
    """
    config, progress = config or picking_config(seed), progress or SilentProgress()
    train_set = train_set.by_id()
    count = count or max(train_set.num_classes, round(_PICKED_SHARE * len(train_set)))
    if _EXAMINED_SHARE * len(train_set) >= _EXAMINED_PER_LABEL * train_set.num_classes:
        train_set = draw_images(train_set, round(_EXAMINED_SHARE * len(train_set)), seed=config.seed)
    if config.patch_size > min(train_set.image_size):
        config = config.replace(patch_size=max(1, min(train_set.image_size) // 4))
    progress.plan({"scoring": (scoring_work(config) + 1) * len(train_set)})
    progress.start("scoring")
    scores = score_samples(model, train_set, config, on_batch=progress.advance)
    detection = detect_targets(model, train_set, scores, config, progress.advance)
    progress.finish()
    suspected = torch.isin(train_set.labels, torch.tensor(detection.suspected_classes, dtype=torch.int64))
    order = torch.where(suspected, detection.projection, scores.consistency)
    trusted = _trusted(train_set.labels, detection.poison_probability, order, train_set.num_classes)
    chosen = _balanced(train_set, trusted, count, config.seed)
    suspects = suspected & (detection.poison_probability > _POISONED_SUSPICION)
    return CleanSamples(
        clean_set=train_set.subset(chosen),
        suspect_set=train_set.subset(suspects) if suspects.any() else None,
        suspected_classes=detection.suspected_classes,
    )


def check_clean_set(clean_set: ImageSet, num_outputs: int) -> None:
    """Raise AdvrBDError unless every class has a sample and the model has an output for each class."""
    if num_outputs != clean_set.num_classes:
        raise AdvrBDError(f"the model has {num_outputs} classes, the clean samples {clean_set.num_classes}")
    if len(clean_set) < clean_set.num_classes:
        raise AdvrBDError(
            f"a repair needs at least one clean sample of each of the {clean_set.num_classes} classes, got "
            f"{len(clean_set)} samples"
        )
    empty = (clean_set.class_counts() == 0).nonzero().flatten().tolist()
    if empty:
        names = ", ".join(repr(clean_set.class_names[label]) for label in empty[:5])
        more = f" and {len(empty) - 5} more" if len(empty) > 5 else ""
        raise AdvrBDError(f"there is no clean sample of the class {names}{more}: give at least one of each class")


def _trusted(labels: Tensor, poison_probability: Tensor, order: Tensor, num_classes: int) -> Tensor:
    """(N,) bool: of each label the less suspicious half, by ``order``, of the samples that nothing speaks against."""
    trusted = torch.zeros_like(labels, dtype=torch.bool)
    for label in range(num_classes):
        members = ((labels == label) & (poison_probability < _TRUSTED_SUSPICION)).nonzero().flatten()
        least_suspicious_first = members[torch.argsort(order[members], stable=True)]
        trusted[least_suspicious_first[: max(1, round(_TRUSTED_SHARE * len(members)))]] = True
    return trusted


def _balanced(train_set: ImageSet, trusted: Tensor, count: int, seed: int) -> Tensor:
    """Positions of as many trusted samples of each label as ``count`` allows and the rarest label has."""
    members = [((train_set.labels == label) & trusted).nonzero().flatten() for label in range(train_set.num_classes)]
    rarest = min(range(len(members)), key=lambda label: len(members[label]))
    if not len(members[rarest]):
        raise AdvrBDError(
            f"no sample of the class {train_set.class_names[rarest]!r} can be trusted: give clean samples of it"
        )
    each = min(len(members[rarest]), max(1, count // len(members)))
    return torch.cat(
        [which[draw(train_set.sample_ids[which], each, seed=seed, purpose="clean samples")] for which in members]
    )
