"""From evidence to a probability, and from the probabilities of all labels to those that are suspected. (Ours.)

How evidence falls for innocent clusters is known from sets without poison and from the set itself, whose clusters are
innocent for the most part. How it falls for poison is left open: a trigger may take any share of the recipients along,
so each value from 0 to 1 is taken as equally likely, and no attack teaches the decision.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean

import numpy as np

from advrbd_plugin.defense.candidates import COMPONENTS
from advrbd_plugin.defense.evidence import EVIDENCE, MIXTURE_EVIDENCE, RESIDUAL_EVIDENCE, TRANSPLANTS, ClusterEvidence

FALSE_DISCOVERY = 0.05

# Half of the sets that are examined are taken to be poisoned, in one label.
_POISONED_LABELS = 0.5
# So much more slowly than seen, on some hundreds of clusters, the evidence of innocent ones is taken to fall.
_CAUTION = 1.0
_MOST_RATIO = 1e6
_LEAST_SCALE = 0.015
# How the logarithm of the one-way ratio falls for innocent labels, and how far it may speak for poison.
_ONE_WAY_SCALE = 0.35
_MOST_PLACEMENT_RATIO = 20.0


@dataclass(frozen=True)
class Null:
    """How evidence falls for innocent clusters: half of it up to the median, the rest beyond it exponentially.

    Attributes:
        medians: kind of evidence -> median.
        scales: kind of evidence -> mean distance to the median of the clusters beyond it.
    """

    medians: Mapping[str, float]
    scales: Mapping[str, float]

    def likelihood_ratio(self, kind: str, value: float) -> float:
        """How much likelier the value is for poison (uniform over 0 to 1) than for an innocent cluster."""
        scale = _CAUTION * self.scales[kind]
        return min(_MOST_RATIO, 2 * scale * math.exp(min(50.0, max(0.0, value - self.medians[kind]) / scale)))

    def of_set(self, evidence: Sequence[ClusterEvidence]) -> Null:
        """The null of one set, stretched where its own clusters have more evidence.

        The median is what counts, so that nearly half of the clusters may be poison (all-to-all). What is read from the
        same transplant is stretched alike: content that takes digits to another label makes others leave theirs.
        """
        mixtures = [each for each in evidence if each.source == "mixture"]
        if not mixtures:
            return self
        own = {kind: float(np.median([each.value(kind) for each in mixtures])) for kind in self.medians}
        times = {
            kind: max(1.0, (own[kind] + self.scales[kind]) / (self.medians[kind] + self.scales[kind])) for kind in own
        }
        times |= dict.fromkeys(RESIDUAL_EVIDENCE, max(times[kind] for kind in RESIDUAL_EVIDENCE))
        return Null(
            {kind: max(median, own[kind]) for kind, median in self.medians.items()},
            {kind: times[kind] * scale for kind, scale in self.scales.items()},
        )


def fit_null(evidence: Sequence[ClusterEvidence]) -> Null:
    """The null of the clusters given, all of them innocent."""
    medians, scales = {}, {}
    for kind in EVIDENCE:
        asked = [each for each in evidence if was_asked(each, kind)]
        values = np.asarray([each.value(kind) for each in asked], dtype=float)
        medians[kind] = float(np.median(values)) if len(values) else 0.0
        beyond = values[values > medians[kind]] - medians[kind]
        scales[kind] = max(_LEAST_SCALE, float(beyond.mean()) if len(beyond) else 0.0)
    return Null(medians, scales)


def was_asked(evidence: ClusterEvidence, kind: str) -> bool:
    if kind == "marked":
        return evidence.marked is not None
    return evidence.source in COMPONENTS or kind not in MIXTURE_EVIDENCE


# Fitted to the innocent clusters of sets that are not in the suite, before candidates came from the learning and from
# marks (docs/detection.md).
DEFAULT_NULL = Null(
    medians={
        "goes": 0.0,
        "goes_best": 0.0,
        "leaves": 0.006,
        "window": 0.023,
        "detail": 0.0,
        "colour": 0.006,
        "slow": 0.008,
        "style": 0.008,
        "spectrum": 0.011,
        "operation": 0.004,
        "marked": 0.0,
    },
    scales={
        "goes": 0.015,
        "goes_best": 0.034,
        "leaves": 0.019,
        "window": 0.022,
        "detail": 0.023,
        "colour": 0.024,
        "slow": 0.03,
        "style": 0.03,
        "spectrum": 0.048,
        "operation": 0.007,
        "marked": 0.05,
    },
)


def cluster_ratio(evidence: ClusterEvidence, null: Null) -> float:
    """The likelihood ratio of one cluster, poison against innocent.

    A backdoor need show itself in one transplant alone, and we do not know in which: their ratios are averaged.
    Pictures with the same mark have a second witness, what the network said of them while it learned. A trigger may
    show in both ways or in either alone: labels that were kept, a trigger that was not learned.
    """
    transplants = fmean(null.likelihood_ratio(each, evidence.value(each)) for each in TRANSPLANTS)
    if evidence.marked is None:
        return transplants
    marked = null.likelihood_ratio("marked", evidence.marked)
    return (transplants * marked + transplants + marked) / 3


def cluster_probability(evidence: ClusterEvidence, null: Null = DEFAULT_NULL, *, prior: float = 0.01) -> float:
    """The probability that one cluster is poison, by itself."""
    odds = prior / (1 - prior) * cluster_ratio(evidence, null)
    return odds / (1 + odds)


def placement_ratio(one_way: float) -> float:
    """How much likelier such a :func:`.placement.one_way_ratios` is for poison than for an innocent label.

    Half of the attacks leave it as it is: those that keep the labels, and those whose triggers are learned at once. The
    other half makes any value up to ten times the innocent one equally likely. It cannot accuse by itself: wrong
    labels without a trigger look the same.
    """
    beyond = max(0.0, math.log(one_way))
    ratio = 2 * _ONE_WAY_SCALE / math.log(10) * math.exp(min(50.0, beyond / _ONE_WAY_SCALE))
    return 0.5 + 0.5 * min(_MOST_PLACEMENT_RATIO, ratio)


def label_probabilities(
    evidence: Sequence[ClusterEvidence],
    num_classes: int,
    *,
    null: Null = DEFAULT_NULL,
    one_way: Sequence[float] | None = None,
) -> dict[int, float]:
    """Label -> probability that one of its clusters is poison. Labels without a cluster are missing.

    Args:
        evidence: of all clusters of the set.
        num_classes: labels of the set; before anything is seen, each is poisoned with a probability of half of one by
            this number. The ways in which its clusters were found share that alike, and the clusters of one way too.
        null: of this set, see :meth:`Null.of_set`.
        one_way: of each label, from :func:`.placement.one_way_ratios`, where it is known.
    """
    prior = _POISONED_LABELS / max(1, num_classes)
    ratios: dict[int, dict[str, list[float]]] = {}
    for each in evidence:
        ratios.setdefault(each.label, {}).setdefault(each.source, []).append(cluster_ratio(each, null))
    odds = {label: prior / (1 - prior) * fmean(map(fmean, by_source.values())) for label, by_source in ratios.items()}
    if one_way is not None:
        odds = {label: each * placement_ratio(one_way[label]) for label, each in odds.items()}
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


def undecided(probabilities: Mapping[int, float], suspected: Sequence[int]) -> tuple[int, ...]:
    """The labels that are more likely poisoned than not, and are not suspected, in ascending order."""
    return tuple(label for label in sorted(probabilities) if probabilities[label] > 0.5 and label not in suspected)
