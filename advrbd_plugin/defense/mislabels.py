"""Which samples are mislabelled: errors, no attack. (Ours.)

A network learns a wrong label late, so that for most of a training it gives the sample's own label a low probability.
How low is known without a single clean sample: a label drawn at random gets what the network gives the labels that a
sample does *not* have. The observed probabilities are a mixture of those and of right labels', whose share of low ones
is unknown; the mixture's weight is bounded by the lowest of them (as in learning from positive and unlabelled data:
Scott, AISTATS 2015). Poison that was learned has its label's probability, and is not seen here.

Wrong labels that gather in one label raise that label's probability for all pictures, so the mixture does not show
them. They show by their direction instead (:func:`.placement.one_way_ratios`): an attack whose trigger was not learned,
or an annotator who takes one class for another.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from advrbd_plugin.defense.placement import one_way_ratios

_BINS = 40
_LEAST_TAIL, _MOST_TAIL = 0.1, 0.6  # of the labels that samples do not have, where the share of errors is read off
_LEAST_RATE = 0.02  # a smaller share cannot be told from hard pictures
_MISLABELLED = 0.5
_ONE_WAY = 3.5  # one-way ratio from which wrong labels gather in a label; see docs/detection.md


@dataclass(frozen=True, eq=False)
class Mislabels:
    """Attributes:
    probability: (N,) float32 in [0, 1] that the sample's label is an error; 0 where the rate is too low to tell.
    better_label: (N,) int64: the likeliest other label.
    rate: estimated share of errors in the set.
    gathered: labels in which wrong labels gather, in ascending order.
    """

    probability: Tensor
    better_label: Tensor
    rate: float
    gathered: tuple[int, ...] = ()

    @property
    def mislabelled(self) -> Tensor:
        """(N,) bool."""
        return self.probability > _MISLABELLED

    def to_stored(self) -> tuple[dict[str, Tensor], Any]:
        tensors = {"probability": self.probability, "better_label": self.better_label}
        return tensors, {"rate": self.rate, "gathered": list(self.gathered)}

    @classmethod
    def from_stored(cls, tensors: dict[str, Tensor], rest: Any) -> Mislabels:
        return cls(**tensors, rate=rest["rate"], gathered=tuple(rest["gathered"]))

    @classmethod
    def none(cls, labels: Tensor) -> Mislabels:
        """Where nothing was recorded."""
        return cls(torch.zeros(len(labels)), labels.clone(), 0.0)


def find_mislabelled(mean_probabilities: Tensor | None, labels: Tensor, *, suspected: Sequence[int] = ()) -> Mislabels:
    """Judge every label by what the network said of the sample on average while it learned.

    Args:
        mean_probabilities: (N, num_classes) float32, see :class:`advrbd_plugin.nn.trajectory.Trajectory`; ``None``
            where nothing was recorded.
        labels: (N,) int64.
        suspected: labels whose poison was found, which explains that they took pictures of others.
    """
    if mean_probabilities is None or mean_probabilities.shape[1] < 2 or not len(labels):
        return Mislabels.none(labels)
    scores = mean_probabilities.clamp(1e-7, 1 - 1e-7).logit()
    own = scores.gather(1, labels[:, None])[:, 0]
    others = scores.scatter(1, labels[:, None], torch.nan)
    better = others.nan_to_num(-torch.inf).argmax(dim=1)
    others = others.flatten()
    others = others[~others.isnan()]
    rate = error_rate(own, others)
    probability = torch.zeros(len(labels)) if rate < _LEAST_RATE else error_probability(own, others, rate)
    ratios = one_way_ratios(mean_probabilities, labels)
    gathered = tuple(each for each in (ratios >= _ONE_WAY).nonzero().flatten().tolist() if each not in suspected)
    for label in gathered:
        members = labels == label
        probability[members] = torch.maximum(probability[members], rather_another(mean_probabilities[members], label))
    return Mislabels(probability, better, rate, gathered)


def rather_another(mean_probabilities: Tensor, label: int) -> Tensor:
    """(M,) float32: probability of the likeliest other class, as far as it is that one or the label.

    Args:
        mean_probabilities: (M, num_classes) float32, of samples of the label.
    """
    own = mean_probabilities[:, label]
    other = mean_probabilities.masked_fill(torch.arange(mean_probabilities.shape[1]) == label, 0.0).amax(dim=1)
    return other / (own + other).clamp_min(1e-12)


def error_rate(own: Tensor, others: Tensor) -> float:
    """An upper bound of the share of wrong labels, tight where some right labels are never as low.

    Args:
        own: (N,) float32, scores of the labels that the samples have.
        others: (M,) float32, scores of labels that they do not have.
    """
    bounds = _quantiles(others, torch.linspace(_LEAST_TAIL, _MOST_TAIL, _BINS))
    below_own = torch.searchsorted(own.sort().values, bounds, right=True).double() / len(own)
    below_others = torch.searchsorted(others.sort().values, bounds, right=True).double() / len(others)
    return float((below_own / below_others.clamp_min(1e-9)).min().clamp_max(1.0))


def error_probability(own: Tensor, others: Tensor, rate: float) -> Tensor:
    """(N,) float32: the posterior of a wrong label, which never rises with the score.

    Args:
        own, others: as for :func:`error_rate`.
        rate: from there.
    """
    from sklearn.isotonic import IsotonicRegression

    edges = _quantiles(own, torch.linspace(0, 1, _BINS + 1))[1:-1]
    of_own, of_others = (
        torch.bincount(torch.searchsorted(edges, each.contiguous()), minlength=_BINS).double() / len(each)
        for each in (own, others)
    )
    ratio = (rate * of_others / of_own.clamp_min(1 / len(own))).clamp_max(1.0)
    places = torch.arange(_BINS)
    smooth = IsotonicRegression(increasing=False).fit(
        places.numpy(), ratio.numpy(), sample_weight=of_own.numpy() + 1e-9
    )
    fitted = torch.from_numpy(smooth.predict(places.numpy())).float()
    return fitted[torch.searchsorted(edges, own.contiguous())]


def _quantiles(values: Tensor, shares: Tensor) -> Tensor:
    """As torch.quantile, of any number of values."""
    ordered = values.sort().values
    return ordered[(shares * (len(ordered) - 1)).long()]
