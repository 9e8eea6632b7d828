"""How well a model and a detection did, as BackdoorBench defines it (arXiv 2206.12654). All figures are fractions."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.inference import predict


@dataclass(frozen=True)
class Performance:
    """A model judged on test images.

    Attributes:
        acc: share of the clean test images that are given their true label. Higher is better.
        asr: share of the triggered images, none of them of the target class, that are given the target label.
            Lower is better. ``None`` where there is no attack to measure.
        ra: share of the same triggered images that are given their true label. Higher is better.

    Examples:
        >>> Performance(acc=0.75, asr=0.01, ra=0.74).asr
        0.01
    """

    acc: float
    asr: float | None = None
    ra: float | None = None


@dataclass(frozen=True)
class Detection:
    """Verdicts judged against the truth.

    Attributes:
        tpr: share of the poisoned samples that were flagged; ``None`` if there are none.
        fpr: share of the clean samples that were flagged.
        auroc: chance that a poisoned sample has a higher score than a clean one; ``None`` if either kind is absent.
    """

    tpr: float | None
    fpr: float | None
    auroc: float | None


@dataclass(frozen=True, eq=False)
class Triggered:
    """What an attack is measured on.

    Attributes:
        images: (N, C, H, W) uint8, with the trigger; none of the class that it is to bring about.
        true_labels: (N,) int64, what they show.
        target_labels: (N,) int64, what the attack wants them to be called.
    """

    images: Tensor
    true_labels: Tensor
    target_labels: Tensor


def evaluate(
    model: nn.Module,
    clean: ImageSet,
    triggered: ImageSet | None = None,
    target_label: int | None = None,
) -> Performance:
    """Clean accuracy and, where triggered images are given, attack success rate and robust accuracy.

    Args:
        model: see :func:`evaluate_images`.
        clean: test images with their true labels.
        triggered: test images with the trigger and their *true* labels; those of the target class are left out, since
            giving them the target label is no success of the attack.
        target_label: the label that the trigger is to bring about; needed with ``triggered``.

    Raises:
        AdvrBDError: as :func:`evaluate_images`.

    Examples:
        >>> from advrbd_plugin import ImageSet
        >>> images = torch.randint(256, (4, 3, 8, 8), dtype=torch.uint8)
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> performance = evaluate(network, ImageSet(images, torch.tensor([0, 1, 0, 1]), ("cat", "dog")))
        >>> 0 <= performance.acc <= 1, performance.asr
        (True, None)
    """
    if triggered is None:
        return evaluate_images(model, clean.images, clean.labels)
    if target_label is None:
        raise ValueError("triggered images need a target_label")
    victims = triggered.subset(triggered.labels != target_label)
    targets = torch.full_like(victims.labels, target_label)
    return evaluate_images(model, clean.images, clean.labels, Triggered(victims.images, victims.labels, targets))


def evaluate_images(
    model: nn.Module, images: Tensor, labels: Tensor, triggered: Triggered | None = None
) -> Performance:
    """The same for plain tensors, and for an attack with more than one target class.

    Args:
        model: takes float images in [0, 1]; judged in float32 (on a GPU as PyTorch is set: with TF32 convolutions, by
            default), in eval mode, on the device that it is on.
        images: (N, C, H, W) uint8, clean test images.
        labels: (N,) int64, their true labels.

    Raises:
        AdvrBDError: nothing to judge on, or the model's output is not finite.
    """
    if not len(images):
        raise AdvrBDError("there are no clean test images to judge the model on")
    acc = _share(_predicted_labels(model, images) == labels)
    if triggered is None:
        return Performance(acc)
    if not len(triggered.images):
        raise AdvrBDError("all triggered images are of the target class: the attack success rate is not defined")
    predicted = _predicted_labels(model, triggered.images)
    asr, ra = _share(predicted == triggered.target_labels), _share(predicted == triggered.true_labels)
    return Performance(acc, asr=asr, ra=ra)


def judge_detection(poisoned: Tensor, verdicts: Tensor, scores: Tensor) -> Detection:
    """Compare verdicts and scores with the truth.

    Args:
        poisoned: (N,) bool, the truth.
        verdicts: (N,) bool, which samples were called poisoned.
        scores: (N,) float, higher is more suspicious.

    Examples:
        >>> poisoned, scores = torch.tensor([True, True, False, False]), torch.tensor([0.9, 0.4, 0.2, 0.1])
        >>> judge_detection(poisoned, scores > 0.5, scores)
        Detection(tpr=0.5, fpr=0.0, auroc=1.0)
    """
    from sklearn.metrics import roc_auc_score

    poisoned, verdicts = poisoned.cpu().bool(), verdicts.cpu().bool()
    both = bool(poisoned.any()) and not bool(poisoned.all())
    return Detection(
        tpr=_share(verdicts[poisoned]) if bool(poisoned.any()) else None,
        fpr=_share(verdicts[~poisoned]) if not bool(poisoned.all()) else None,
        auroc=float(roc_auc_score(poisoned.numpy(), scores.cpu().double().numpy())) if both else None,
    )


def _predicted_labels(model: nn.Module, images: Tensor) -> Tensor:
    """(N,) int64 for (N, C, H, W) uint8, without the rounding of mixed precision."""
    return predict(model, images, mixed_precision=False).argmax(dim=1)


def _share(flags: Tensor) -> float:
    """The share of (N,) bool flags that are set."""
    return float(flags.double().mean())
