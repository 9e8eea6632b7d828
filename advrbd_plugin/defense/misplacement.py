"""Two more kinds of evidence: a model that was not trained on the pictures, and the paper's consistency.

*Misplacement* asks whether a picture is in place under another label. It is the question of wrong labels, not of
backdoors: both folds of a poisoned set teach the trigger, so poison that was learned is in place under its target.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.training import TrainingOptions, train
from advrbd_plugin.randomness import derive_seed, shuffled

_FOLDS = 2


def cross_fitted_probabilities(
    make_model: Callable[[], nn.Module], samples: ImageSet, options: TrainingOptions, device: torch.device
) -> Tensor:
    """What two models say about the half that each was not trained on; together they cost one training of ``options``.

    Args:
        make_model: builds a freshly initialised network.
        samples: the training set.
        options: the recipe of each; its seed draws the halves, too.

    Returns:
        (N, num_classes) float32 probabilities.
    """
    order = shuffled(samples.sample_ids, derive_seed(options.seed, "folds"))
    fold = torch.empty(len(order), dtype=torch.int64)
    fold[order] = torch.arange(len(order)) % _FOLDS
    probabilities = torch.zeros(len(order), samples.num_classes)
    for number in range(_FOLDS):
        fitted, asked = (fold != number).nonzero().flatten(), (fold == number).nonzero().flatten()
        model = make_model().to(device)
        recipe = replace(options, seed=derive_seed(options.seed, "fold", number))
        half = samples.subset(fitted)
        train(model, half.images, half.labels, half.sample_ids, recipe)
        logits = predict(model, samples.subset(asked).images, mixed_precision=options.mixed_precision)
        probabilities[asked] = logits.softmax(dim=1)
    return probabilities


def misplaced(probabilities: Tensor, labels: Tensor) -> tuple[Tensor, Tensor]:
    """Which samples are in place under another label (confident learning, Northcutt et al., arXiv 1911.00068).

    A sample is in place under a class from the mean probability on that the class has on its own samples. Sees wrong
    labels, and poison that was not learned. Does not see poison that was; a hard picture may be taken for misplaced.

    Args:
        probabilities: (N, num_classes) float32, of models that were not trained on the sample they speak of.
        labels: (N,) int64.

    Returns:
        (N,) bool, and (N,) int64, the label under which each sample is in place (its own if none is).
    """
    classes = probabilities.shape[1]
    own = torch.stack(
        [
            probabilities[labels == each, each].mean() if (labels == each).any() else torch.tensor(torch.inf)
            for each in range(classes)
        ]
    )
    in_place = probabilities.masked_fill(probabilities < own, 0.0)
    better = in_place.argmax(dim=1)
    found = (in_place.amax(dim=1) > 0) & (better != labels)
    return found, torch.where(found, better, labels)


def consistency_of(ranks: Tensor, labels: Tensor, members: Tensor) -> float:
    """How consistent a cluster is beside the rest of its label, as the AUROC of the ranks: 0.5 no more, 1 above all.

    The paper's evidence (section IV): predictions on triggered pictures stand firm under adversarial perturbation. Sees
    dominant triggers; a label that is simply easy looks alike, so it cannot judge alone.

    Args:
        ranks: (N,) float32 in [0, 1], higher is more consistent.
        labels: (N,) int64.
        members: (M,) int64, positions of the cluster, all of one label.
    """
    inside = torch.zeros(len(labels), dtype=torch.bool)
    inside[members] = True
    rest = (labels == labels[members[0]]) & ~inside
    if not rest.any():
        return 0.5
    order = torch.cat([ranks[inside], ranks[rest]]).argsort(stable=True).argsort().double() + 1
    count, others = int(inside.sum()), int(rest.sum())
    return float((order[:count].sum() - count * (count + 1) / 2) / (count * others))
