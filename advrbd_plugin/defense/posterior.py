"""From evidence to a probability, and from the probabilities of all labels to those that are suspected. (Ours.)

How evidence falls for innocent clusters is known from sets without poison and from the set itself, whose clusters are
innocent for the most part. How it falls for poison is left open: a trigger may take any share of the recipients along,
so each value from 0 to 1 is taken as equally likely, and no attack teaches the decision. A backdoor need show itself
to one witness alone, and we do not know to which: the likelihood ratios of the witnesses are averaged.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from advrbd_plugin.defense.evidence import MIXTURE_WITNESSES, WITNESSES, ClusterEvidence

PRIOR = 0.05
FALSE_DISCOVERY = 0.05

_SHAPE = 6.0
_MOST_TIMES_DEFAULT = 2.0
_LEAST_VALUE = 0.005  # what lies below, next to no recipient, counts as this much


@dataclass(frozen=True)
class Null:
    """How evidence falls for innocent clusters: a Lomax distribution (an exponential with a heavy tail) each.

    Attributes:
        scales: witness -> scale; half of innocent clusters lie above 0.12 of it.
    """

    scales: Mapping[str, float]

    def likelihood_ratio(self, witness: str, value: float) -> float:
        """How much likelier the value is for poison (uniform over 0 to 1) than for an innocent cluster."""
        scale = self.scales[witness]
        return scale / _SHAPE * (1 + max(0.0, value) / scale) ** (_SHAPE + 1)

    def of_set(self, evidence: Sequence[ClusterEvidence]) -> Null:
        """The null of one set: wider where its own clusters spread more, by at most twice.

        The median is what counts, so that nearly half of the clusters may be poison (all-to-all).
        """
        mixtures = [each for each in evidence if each.source == "mixture"]
        if not mixtures:
            return self
        scales = {}
        for witness, scale in self.scales.items():
            median = float(np.median([getattr(each, witness) for each in mixtures]))
            scales[witness] = min(max(scale, median / (2 ** (1 / _SHAPE) - 1)), _MOST_TIMES_DEFAULT * scale)
        return Null(scales)


def fit_null(evidence: Sequence[ClusterEvidence]) -> Null:
    """The null that makes the evidence of innocent clusters likeliest."""
    scales = {}
    for witness in WITNESSES:
        asked = [each for each in evidence if each.source == "mixture" or witness not in MIXTURE_WITNESSES]
        scales[witness] = _fit_scale([getattr(each, witness) for each in asked])
    return Null(scales)


# Fitted by benchmarks/detection.py to the innocent clusters of the sets used for choosing (docs/detection.md).
DEFAULT_NULL = Null({"goes": 0.02, "goes_best": 0.05, "leaves": 0.04, "window": 0.12, "detail": 0.06, "colour": 0.1})


def cluster_ratio(evidence: ClusterEvidence, null: Null) -> float:
    """The likelihood ratio of one cluster, poison against innocent."""
    return sum(null.likelihood_ratio(each, getattr(evidence, each)) for each in WITNESSES) / len(WITNESSES)


def cluster_probability(evidence: ClusterEvidence, null: Null = DEFAULT_NULL, *, prior: float = PRIOR) -> float:
    """The probability that one cluster is poison, by itself."""
    odds = prior / (1 - prior) * cluster_ratio(evidence, null)
    return odds / (1 + odds)


def label_probabilities(
    evidence: Sequence[ClusterEvidence], *, null: Null = DEFAULT_NULL, prior: float = PRIOR
) -> dict[int, float]:
    """Label -> probability that one of its clusters is poison. Labels without a cluster are missing.

    Args:
        evidence: of all clusters of the set.
        null: of sets without poison; widened where this set's own clusters spread more.
        prior: probability of a label to be poisoned, before anything is seen; its clusters share it.
    """
    own = null.of_set(evidence)
    ratios: dict[int, list[float]] = {}
    for each in evidence:
        ratios.setdefault(each.label, []).append(cluster_ratio(each, own))
    odds = {label: prior / (1 - prior) * sum(some) / len(some) for label, some in ratios.items()}
    return {label: each / (1 + each) for label, each in odds.items()}


def discovered(probabilities: Mapping[int, float], *, rate: float = FALSE_DISCOVERY) -> tuple[int, ...]:
    """The labels that are suspected: the most likely ones, as long as few of them are expected to be innocent.

    Args:
        probabilities: from :func:`label_probabilities`.
        rate: the largest mean probability of innocence among the suspected labels (Bayesian false discovery rate).
    """
    suspected: list[int] = []
    innocent = 0.0
    for label in sorted(probabilities, key=lambda each: (-probabilities[each], each)):
        innocent += 1 - probabilities[label]
        if probabilities[label] <= 0.5 or innocent > rate * (len(suspected) + 1):
            break
        suspected.append(label)
    return tuple(sorted(suspected))


def _fit_scale(values: Sequence[float]) -> float:
    """Maximum likelihood by bisection of the score, which falls as the scale grows."""
    data = np.clip(np.asarray(values, dtype=float), _LEAST_VALUE, None)
    low, high = 1e-4, 10.0
    for _ in range(60):
        middle = math.sqrt(low * high)
        score = (_SHAPE + 1) * np.mean(data / (middle + data)) - 1
        low, high = (middle, high) if score > 0 else (low, middle)
    return math.sqrt(low * high)
