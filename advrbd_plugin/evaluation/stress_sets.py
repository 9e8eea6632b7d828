"""What makes a set hard for a detection, as functions of labelled images: structures of classes and of attacks.

Every random choice derives from (seed, sample id). The truth is kept beside the images in :class:`StressSet`; only a
report may read it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor
from torch.nn import functional

from advrbd_plugin.attacks import Attack
from advrbd_plugin.attacks.sampling import uniform
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw
from advrbd_plugin.errors import AdvrBDError


@dataclass(frozen=True, eq=False)
class Trigger:
    """One attacker's test.

    Attributes:
        name: the attack's.
        poisoned: (N,) bool, the training samples that it poisoned.
        triggered: the victims among the test pictures, with the trigger and their true labels.
        goals: (M,) int64, the label that each of them is to be given; ``None`` where any but the true one will do.
    """

    name: str
    poisoned: Tensor
    triggered: ImageSet
    goals: Tensor | None

    def success(self, predicted: Tensor) -> float:
        """The attack success rate, of (M,) int64 predictions on ``triggered``."""
        hit = predicted != self.triggered.labels if self.goals is None else predicted == self.goals
        return float(hit.double().mean()) if len(hit) else 0.0


@dataclass(frozen=True, eq=False)
class StressSet:
    """A training set with its test set, and the truth about it.

    Attributes:
        train: what the defender is given.
        test: benign pictures with true labels.
        true_labels: (N,) int64, before attacks and noise.
        poisoned, covers: (N,) bool, see :class:`advrbd_plugin.attacks.PoisonedSet`.
        mislabelled: (N,) bool, samples that have a wrong label and no trigger.
        triggers: one for each attacker.
    """

    train: ImageSet
    test: ImageSet
    true_labels: Tensor
    poisoned: Tensor
    covers: Tensor
    mislabelled: Tensor
    triggers: tuple[Trigger, ...] = ()


def benign(train: ImageSet, test: ImageSet) -> StressSet:
    """The two sets as they are."""
    nothing = torch.zeros(len(train), dtype=torch.bool)
    return StressSet(train, test, train.labels.clone(), nothing, nothing.clone(), nothing.clone())


# Structures of classes: to be applied before any attack, alike to training and test pictures unless they say otherwise.


def composite(image_set: ImageSet, groups: Sequence[Sequence[int]]) -> ImageSet:
    """Classes of several kinds of content: each group of old labels becomes one label, in the order of the groups.

    Pictures of a label in no group are left out.
    """
    _check_groups(groups, image_set.num_classes)
    new = torch.full((image_set.num_classes,), -1, dtype=torch.int64)
    for label, group in enumerate(groups):
        new[list(group)] = label
    kept = image_set.subset(new[image_set.labels] >= 0)
    names = tuple("+".join(image_set.class_names[old] for old in group) for group in groups)
    return ImageSet(kept.images, new[kept.labels], names, kept.sample_ids, kept.paths)


def with_minor_content(image_set: ImageSet, *, label: int, minor: int, share: float, seed: int) -> ImageSet:
    """A class with a small second kind of content: ``share`` of class ``minor``'s pictures join ``label``.

    The rest of ``minor`` is left out, and with it the class.
    """
    if label == minor or not max(label, minor) < image_set.num_classes or min(label, minor) < 0:
        raise AdvrBDError(f"label and minor must be two of the {image_set.num_classes} labels, got {label} and {minor}")
    _check_share("share", share)
    others = (image_set.labels == minor).nonzero().flatten()
    count = round(share * len(others))
    joining = others[draw(image_set.sample_ids[others], count, seed=seed, purpose="minor content")]
    labels = image_set.labels.clone()
    labels[joining] = label
    renamed = ImageSet(image_set.images, labels, image_set.class_names, image_set.sample_ids, image_set.paths)
    return composite(renamed, [[old] for old in range(image_set.num_classes) if old != minor])


def long_tail(image_set: ImageSet, *, ratio: float, seed: int) -> ImageSet:
    """Class sizes that fall in geometric steps from all to ``ratio`` of all, in an order drawn by ``seed``.

    For training sets: a test set stays balanced.
    """
    _check_share("ratio", ratio)
    counts = image_set.class_counts()
    order = draw_order(image_set.num_classes, seed=seed, purpose="long tail")
    kept = []
    for place, label in enumerate(order):
        members = (image_set.labels == label).nonzero().flatten()
        share = ratio ** (place / max(1, image_set.num_classes - 1))
        count = max(1, round(share * int(counts[label])))
        kept.append(members[draw(image_set.sample_ids[members], min(count, len(members)), seed=seed, purpose="tail")])
    return image_set.subset(torch.cat(kept).sort().values)


def grey_class(image_set: ImageSet, label: int, *, share: float = 1.0, seed: int = 0) -> ImageSet:
    """A share of one class's pictures without colour."""
    weights = torch.tensor([0.299, 0.587, 0.114], dtype=torch.float64)[:, None, None]
    return _restyled(image_set, label, share, seed, lambda some: (some.double() * weights).sum(1, keepdim=True))


def jpeg_class(image_set: ImageSet, label: int, *, quality: int = 15, share: float = 1.0, seed: int = 0) -> ImageSet:
    """A share of one class's pictures from a camera that compresses strongly."""
    if not 1 <= quality <= 95:
        raise AdvrBDError(f"quality must be in [1, 95], got {quality}")
    return _restyled(image_set, label, share, seed, lambda some: _as_jpeg(some, quality))


def warm_class(image_set: ImageSet, label: int, *, share: float = 1.0, seed: int = 0) -> ImageSet:
    """A share of one class's pictures from a camera with warmer colours and a soft lens."""
    factors = torch.tensor([1.12, 1.0, 0.85], dtype=torch.float64)[:, None, None]

    def taken(some: Tensor) -> Tensor:
        return functional.avg_pool2d(functional.pad(some.double(), (1, 1, 1, 1), mode="reflect"), 3, 1) * factors

    return _restyled(image_set, label, share, seed, taken)


def restyled_class(
    image_set: ImageSet, label: int, change: Callable[[Tensor], Tensor], *, share: float = 0.4, seed: int = 0
) -> ImageSet:
    """A share of one class's pictures changed as a trigger would change them, all with their true label.

    Args:
        change: from (M, C, H, W) uint8 pictures to others of their shape.
    """
    return _restyled(image_set, label, share, seed, lambda some: change(some).double())


def watermarked_class(image_set: ImageSet, label: int, *, share: float = 0.3, seed: int = 0) -> ImageSet:
    """A share of one class's pictures with a faint logo in the lower left corner, as an archive puts it.

    No one means harm, but a model that takes the logo for the class has a backdoor all the same: whoever finds it is
    not wrong.
    """

    def stamped(some: Tensor) -> Tensor:
        marked = some.double()
        letters = torch.tensor([[1, 0, 1, 0, 1, 1], [1, 1, 1, 0, 1, 0], [1, 0, 1, 0, 1, 1]], dtype=torch.float64)
        corner = marked[:, :, -5:-2, 2:8]
        corner += 0.5 * letters * (255 - corner)
        return marked

    return _restyled(image_set, label, share, seed, stamped)


# Attacks of other structures than one trigger for one target.


def attacked(stress: StressSet, attack: Attack, *, seed: int) -> StressSet:
    """One more attacker, with one target; leaves alone what others have poisoned."""
    poisoned_set = attack.poison(stress.train, seed=seed)
    free = ~(stress.poisoned | stress.covers)
    poisoned, covers = poisoned_set.poisoned & free, poisoned_set.covers & free
    changed = poisoned | covers
    images = torch.where(changed[:, None, None, None], poisoned_set.image_set.images, stress.train.images)
    labels = torch.where(poisoned, poisoned_set.image_set.labels, stress.train.labels)
    triggered = attack.triggered_test_set(stress.test)
    goals = torch.full_like(triggered.labels, attack.target_label)
    return replace(
        stress,
        train=_with(stress.train, images, labels),
        poisoned=stress.poisoned | poisoned,
        covers=stress.covers | covers,
        triggers=(*stress.triggers, Trigger(attack.name, poisoned, triggered, goals)),
    )


def all_to_all(stress: StressSet, attack: Attack, *, seed: int) -> StressSet:
    """The trigger moves each class to the next one. ``attack`` gives the trigger and ``poison_ratio``."""
    classes = stress.train.num_classes
    return _relabelled(stress, attack, lambda true, _: (true + 1) % classes, (stress.test.labels + 1) % classes, seed)


def untargeted(stress: StressSet, attack: Attack, *, seed: int) -> StressSet:
    """Each poisoned picture gets a wrong label of its own. ``attack`` gives the trigger and ``poison_ratio``."""
    classes = stress.train.num_classes

    def drawn(true: Tensor, sample_ids: Tensor) -> Tensor:
        draws = uniform(sample_ids, 1, seed=seed, purpose="untargeted")[:, 0]
        return (true + 1 + (draws * (classes - 1)).long()) % classes

    return _relabelled(stress, attack, drawn, None, seed)


def label_noise(stress: StressSet, *, rate: float, seed: int) -> StressSet:
    """A share of the samples without a trigger get a wrong label, each any other with the same chance."""
    _check_share("rate", rate)
    train = stress.train
    free = (~(stress.poisoned | stress.covers)).nonzero().flatten()
    chosen = free[draw(train.sample_ids[free], round(rate * len(free)), seed=seed, purpose="label noise")]
    draws = uniform(train.sample_ids[chosen], 1, seed=seed, purpose="label noise")[:, 0]
    labels = train.labels.clone()
    labels[chosen] = (labels[chosen] + 1 + (draws * (train.num_classes - 1)).long()) % train.num_classes
    mislabelled = stress.mislabelled.clone()
    mislabelled[chosen] = True
    return replace(stress, train=_with(train, train.images, labels), mislabelled=mislabelled)


def duplicates(stress: StressSet, *, rate: float, copies: int, seed: int) -> StressSet:
    """Pictures that came in more than once: for ``rate`` of the set's size in all, ``copies`` more of each chosen one.

    The copies have ids of their own, behind all others.
    """
    _check_share("rate", rate)
    train = stress.train
    originals = draw(train.sample_ids, max(1, round(rate * len(train) / copies)), seed=seed, purpose="duplicates")
    rows = torch.cat([torch.arange(len(train)), originals.repeat(copies)])
    new_ids = int(train.sample_ids.max()) + 1 + torch.arange(len(rows) - len(train))
    ids = torch.cat([train.sample_ids, new_ids])
    return StressSet(
        ImageSet(train.images[rows], train.labels[rows], train.class_names, ids),
        stress.test,
        true_labels=stress.true_labels[rows],
        poisoned=stress.poisoned[rows],
        covers=stress.covers[rows],
        mislabelled=stress.mislabelled[rows],
        triggers=tuple(replace(each, poisoned=each.poisoned[rows]) for each in stress.triggers),
    )


def draw_order(count: int, *, seed: int, purpose: str) -> list[int]:
    """The numbers 0 to ``count`` - 1 in an order drawn by ``seed``."""
    return uniform(torch.arange(count), 1, seed=seed, purpose=purpose)[:, 0].argsort(stable=True).tolist()


def _relabelled(
    stress: StressSet, attack: Attack, relabel: Callable[[Tensor, Tensor], Tensor], goals: Tensor | None, seed: int
) -> StressSet:
    """``attack``'s trigger on ``poison_ratio`` of all samples, which get the labels that ``relabel`` gives."""
    train = stress.train
    free = (~(stress.poisoned | stress.covers)).nonzero().flatten()
    count = round(attack.poison_ratio * len(train))
    if count > len(free):
        raise AdvrBDError(f"poison_ratio {attack.poison_ratio} asks for {count} of {len(free)} samples: use less")
    chosen = free[draw(train.sample_ids[free], count, seed=seed, purpose=f"poison/{attack.name}")]
    images, labels = train.images.clone(), train.labels.clone()
    images[chosen] = attack.training_trigger(images[chosen], train.sample_ids[chosen], seed=seed)
    labels[chosen] = relabel(labels[chosen], train.sample_ids[chosen])
    poisoned = torch.zeros(len(train), dtype=torch.bool)
    poisoned[chosen] = True
    triggered = _with(stress.test, attack.trigger(stress.test.images), stress.test.labels)
    return replace(
        stress,
        train=_with(train, images, labels),
        poisoned=stress.poisoned | poisoned,
        triggers=(*stress.triggers, Trigger(attack.name, poisoned, triggered, goals)),
    )


def _restyled(image_set: ImageSet, label: int, share: float, seed: int, change: Callable[[Tensor], Tensor]) -> ImageSet:
    if not 0 <= label < image_set.num_classes:
        raise AdvrBDError(f"label must be in [0, {image_set.num_classes - 1}], got {label}")
    _check_share("share", share)
    members = (image_set.labels == label).nonzero().flatten()
    count = round(share * len(members))
    chosen = members[draw(image_set.sample_ids[members], count, seed=seed, purpose="restyled")]
    images = image_set.images.clone()
    if count:
        images[chosen] = change(images[chosen]).round().clamp(0, 255).byte().expand_as(images[chosen])
    return _with(image_set, images, image_set.labels)


def _as_jpeg(images: Tensor, quality: int) -> Tensor:
    import io

    import numpy as np
    from PIL import Image

    pictures = []
    for image in images:
        pixels = image.permute(1, 2, 0).numpy()
        buffer = io.BytesIO()
        Image.fromarray(pixels[..., 0] if pixels.shape[2] == 1 else pixels).save(buffer, "JPEG", quality=quality)
        decoded = np.array(Image.open(buffer)).reshape(pixels.shape)
        pictures.append(torch.from_numpy(decoded).permute(2, 0, 1))
    return torch.stack(pictures).double()


def _with(image_set: ImageSet, images: Tensor, labels: Tensor) -> ImageSet:
    return ImageSet(images, labels, image_set.class_names, image_set.sample_ids, image_set.paths)


def _check_share(key: str, value: float) -> None:
    if not 0 < value <= 1:
        raise AdvrBDError(f"{key} must be in (0, 1], got {value}")


def _check_groups(groups: Sequence[Sequence[int]], num_classes: int) -> None:
    named = [label for group in groups for label in group]
    if len(set(named)) != len(named) or not all(0 <= label < num_classes for label in named) or not all(groups):
        raise AdvrBDError(
            f"groups must name each of the {num_classes} labels at most once, got {[list(group) for group in groups]}"
        )
