"""Which labels of a set are poisoned, and which of their samples: candidates, evidence, posterior, samples. (Ours.)"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense import transplant
from advrbd_plugin.defense.candidates import LEAST_PROBABILITY, Candidate, find_candidates
from advrbd_plugin.defense.evidence import (
    EVIDENCE,
    MIXTURE_EVIDENCE,
    ClusterEvidence,
    Questions,
    as_floats,
    less_reference,
)
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.marks import marked_candidates, unmarked_rests
from advrbd_plugin.defense.placement import one_way_ratios
from advrbd_plugin.defense.poison_samples import Extension, LabelSamples, extend
from advrbd_plugin.defense.posterior import (
    DEFAULT_NULL,
    FALSE_DISCOVERY,
    Null,
    cluster_probability,
    discovered,
    label_probabilities,
    undecided,
)
from advrbd_plugin.defense.transplant import Recipients, SetStatistics
from advrbd_plugin.nn.inference import log_odds

_LEAST_FIT = 0.3  # of what lies between chance and a perfect fit
_CLEAR = 0.3  # of a kind of evidence: from here on a label's samples may be put to it one by one
_COMMON = 0.5  # of that evidence: a residual that carries as much is what the samples are asked about instead
_MOST_CLUSTERS = 6  # of a label that are extended, strongest first
_LEAST_LEFT = 12  # samples that a further trigger must have left
_EXPLAINED = 0.1  # probability from which a sample belongs to a trigger that was found
_KEPT = 0.5  # share of the cluster's evidence that its extension must keep, and what it leaves out must not have


@dataclass(frozen=True, eq=False)
class TransplantDetection:
    """Attributes:
    poison_probability: (N,) float32 in [0, 1]; 0 for every sample of a label that is neither suspected nor undecided.
    projection: (N,) float32, higher is more suspicious; comparable within a label only, 0 outside those labels.
    findings: one for each label, in their order.
    undecided: labels more likely poisoned than not, but not likely enough to be suspected, where that was asked for.
    candidates, evidence: every cluster that was looked at, and what was seen.
    compared: the evidence less that of the rest of the label, by which it was judged.
    """

    poison_probability: Tensor
    projection: Tensor
    findings: tuple[ClassFinding, ...]
    undecided: tuple[int, ...] = ()
    candidates: tuple[Candidate, ...] = ()
    evidence: tuple[ClusterEvidence, ...] = ()
    compared: tuple[ClusterEvidence, ...] = ()

    @property
    def suspected_classes(self) -> tuple[int, ...]:
        """Labels held to be poisoned, in ascending order."""
        return tuple(each.label for each in self.findings if each.suspected)


def detect_by_transplant(
    model: nn.Module,
    samples: ImageSet,
    features: Tensor,
    logits: Tensor,
    *,
    mean_probabilities: Tensor | None = None,
    splits: Mapping[int, Tensor] | None = None,
    null: Null = DEFAULT_NULL,
    with_undecided: bool = False,
    seed: int = 0,
    mixed_precision: bool = True,
    on_candidate: Callable[[int, int], None] | None = None,
) -> TransplantDetection:
    """Judge a set by the model that was trained on it.

    Args:
        model: takes (N, C, H, W) float pictures in [0, 1], in eval mode.
        samples: the training set.
        features: (N, num_features) float32, see :func:`advrbd_plugin.nn.features.layered_features`.
        logits: (N, num_classes) float32, the model's own.
        mean_probabilities: (N, num_classes) float32, what the network said while it learned, where that was recorded.
        splits: label -> (N,) bool, suspicious clusters found with consistency ranks, as further candidates.
        null: how evidence falls for innocent clusters.
        with_undecided: whether the samples of undecided labels are judged, too, so that another witness may decide.
        seed: of mixtures, recipients and donors.
        on_candidate: told of (done, all) candidates.
    """
    labels = samples.labels
    predicted = logits.argmax(dim=1) == labels
    nothing = torch.zeros(len(labels))
    statistics = SetStatistics.of(samples.images)
    candidates = find_candidates(
        features, logits, labels, mean_probabilities=mean_probabilities, splits=dict(splits or {}), seed=seed
    )
    candidates += marked_candidates(samples.images, labels, candidates, statistics)
    asked = candidates + unmarked_rests(labels, candidates)
    done = iter(range(1, len(asked) + 1))
    questions = Questions.of(
        model,
        samples,
        logits,
        statistics,
        mean_probabilities=mean_probabilities,
        seed=seed,
        mixed_precision=mixed_precision,
    )
    evidence = questions.put_to(
        asked,
        on_candidate=None if on_candidate is None else lambda: on_candidate(next(done), len(asked)),
    )
    # Where innocent content acts in other pictures (digits), all clusters have evidence: that is this set's null.
    null = null.of_set(evidence)
    compared = less_reference(evidence, asked)[: len(candidates)]
    evidence = evidence[: len(candidates)]
    one_way = None if mean_probabilities is None else one_way_ratios(mean_probabilities, labels).tolist()
    probabilities = label_probabilities(compared, samples.num_classes, null=null, one_way=one_way)
    suspected = discovered(probabilities)
    in_doubt = undecided(probabilities, suspected) if with_undecided else ()
    probability, projection, patterns = nothing, nothing.clone(), {}
    recipients = transplant.draw_recipients(samples.images, labels, predicted, seed=seed, most=20)
    ask = _Transplants(questions, null)
    for label in (*suspected, *in_doubt):
        members = (labels == label).nonzero().flatten()
        of_label = LabelSamples(
            label,
            as_floats(samples.images[members]),
            features[members],
            statistics.first[members],
            log_odds(logits[members], labels[members]),
            None if mean_probabilities is None else mean_probabilities[members, label].logit(eps=LEAST_PROBABILITY),
        )
        clusters = [
            (candidate, each) for candidate, each in zip(candidates, compared, strict=True) if candidate.label == label
        ]
        found = _judge_samples(ask, of_label, members, clusters, recipients.outside(label))
        probability[members], projection[members], patterns[label] = found
    findings = tuple(
        _finding(label, samples.class_names, compared, probabilities, suspected, patterns, null)
        for label in range(samples.num_classes)
    )
    return TransplantDetection(
        probability, projection, findings, in_doubt, tuple(candidates), tuple(evidence), tuple(compared)
    )


def is_trained_enough(fit: float, class_counts: Tensor) -> bool:
    """Whether a model that gives a share ``fit`` of its training set their labels can be asked about the set."""
    chance = float(class_counts.max()) / max(1, int(class_counts.sum()))
    return chance < 1 and (fit - chance) / (1 - chance) >= _LEAST_FIT


@dataclass(frozen=True, eq=False)
class _Transplants:
    """Whatever is needed to put further clusters to the same transplants."""

    questions: Questions
    null: Null

    def about(self, label: int, members: Tensor) -> ClusterEvidence:
        (evidence,) = self.questions.put_to([Candidate(label, members, "mixture")])
        return evidence

    def probability(self, evidence: ClusterEvidence) -> float:
        return cluster_probability(evidence, self.null)


def _judge_samples(
    ask: _Transplants,
    samples: LabelSamples,
    members: Tensor,
    clusters: list[tuple[Candidate, ClusterEvidence]],
    recipients: Recipients,
) -> tuple[Tensor, Tensor, Tensor]:
    """Probability and projection of one label's samples and the first pattern, from all its clusters that are poison.

    A label may be the target of several triggers: what the first did not explain is asked again, and begins again where
    it still is poison.
    """
    probability, projection, pattern = torch.zeros(len(members)), torch.zeros(len(members)), None
    for candidate, evidence in sorted(clusters, key=lambda each: -_strength(each[1]))[:_MOST_CLUSTERS]:
        cluster = torch.isin(members, candidate.members)
        if pattern is not None:
            cluster &= probability < _EXPLAINED
            if int(cluster.sum()) < max(_LEAST_LEFT, len(candidate.members) // 2):
                continue
            evidence = ask.about(samples.label, members[cluster])
        if ask.probability(evidence) < 1 - FALSE_DISCOVERY and pattern is not None:
            continue
        found = _extended(ask, samples, members, cluster, evidence, recipients)
        probability = torch.maximum(probability, found.probability)
        projection = torch.maximum(projection, found.projection)
        pattern = found.pattern if pattern is None else pattern
    assert pattern is not None  # a suspected label has a cluster
    return probability, projection, pattern


def _extended(
    ask: _Transplants,
    samples: LabelSamples,
    members: Tensor,
    cluster: Tensor,
    evidence: ClusterEvidence,
    recipients: Recipients,
) -> Extension:
    """The cluster extended to the label's other samples, or left as it is where the extension has less evidence."""
    kinds = _asked_of_samples(evidence, ask.null)
    found = extend(
        ask.questions.model,
        samples,
        cluster,
        ask.questions.statistics,
        recipients,
        by_donor=kinds,
        operation=evidence.operation_name,
        mixed_precision=ask.questions.mixed_precision,
    )
    flagged, enough = found.probability > 0.5, _KEPT * _strength(evidence)
    if int(flagged.sum()) >= _LEAST_LEFT and _strength(ask.about(samples.label, members[flagged])) >= enough:
        left = cluster & ~flagged
        if float(found.probability[cluster].mean()) > 0.5 or int(left.sum()) < _LEAST_LEFT:
            return found
        if _strength(ask.about(samples.label, members[left])) < enough:  # most of the cluster was innocent
            return found
    alone = cluster.float()
    pattern = transplant.residual(samples.pictures[cluster & samples.first], ask.questions.statistics)
    return Extension(alone, alone, pattern)


def _asked_of_samples(evidence: ClusterEvidence, null: Null) -> tuple[str, ...]:
    """What each sample is asked for, too: the clear and the loudest kind of evidence that the residual has not half of.

    A pattern that the poison has in common is the better question. It has a measure for an answer, where a sample's own
    window is tried on 8 recipients, and takes to the label with what an innocent picture shows, too.
    """
    by_residual = max(evidence.goes_best, evidence.leaves)
    loudest = max(EVIDENCE, key=lambda kind: null.likelihood_ratio(kind, evidence.value(kind)))
    asked = [kind for kind in MIXTURE_EVIDENCE if kind == loudest or evidence.value(kind) > _CLEAR]
    asked = [kind for kind in asked if by_residual < _COMMON * evidence.value(kind)]
    return tuple(dict.fromkeys(map(evidence.told_as, asked)))


def _strength(evidence: ClusterEvidence) -> float:
    return max(evidence.value(kind) for kind in EVIDENCE)


_SAYS = {
    "goes": "what they have in common takes {share:.0%} of other classes' pictures to this label",
    "goes_best": "what they have in common takes {share:.0%} of {best}'s pictures to this label",
    "leaves": "what they have in common makes {share:.0%} of other pictures leave their class",
    "window": "a small part of each, put into other pictures, takes {share:.0%} of them to this label",
    "detail": "their finest detail, put into other pictures, takes {share:.0%} more of them to this label than that "
    "of the label's other pictures",
    "colour": "their colours, given to other pictures, take {share:.0%} of them to this label",
    "slow": "their brightness from place to place, put into other pictures, takes them to this label, and without it "
    "they go home to many classes (both shares multiplied: {share:.0%})",
    "style": "their contrast and texture, given to other pictures, take them to this label, and without them they go "
    "home to many classes (both shares multiplied: {share:.0%})",
    "spectrum": "their sharpness, given to other pictures, takes {share:.0%} of them to this label",
    "operation": "other pictures, {operation}, go to this label, and where that is undone, theirs go home to many "
    "classes (both shares multiplied: {share:.0%})",
    "marked": "they carry the same mark, and while the network learned, it put {share:.0%} more of them into other "
    "classes than of the label's other pictures",
}


def _finding(
    label: int,
    names: tuple[str, ...],
    evidence: Sequence[ClusterEvidence],
    probabilities: Mapping[int, float],
    suspected: tuple[int, ...],
    patterns: Mapping[int, Tensor],
    null: Null,
) -> ClassFinding:
    of_label = [each for each in evidence if each.label == label]
    probability = probabilities.get(label, 0.0)
    if not of_label:
        return ClassFinding(label, False, 0.0, f"{names[label]}: too few pictures to judge")
    strongest = max(of_label, key=lambda each: cluster_probability(each, null))
    kind = strongest.told_as(max(EVIDENCE, key=lambda each: null.likelihood_ratio(each, strongest.value(each))))
    share = strongest.value(kind)
    if label not in suspected:
        sentence = f"{names[label]}: nothing that its pictures have in common acts in other pictures"
        return ClassFinding(label, False, probability, sentence, kind, share)
    best = names[strongest.best_class] if strongest.best_class >= 0 else "other classes"
    says = _SAYS[kind].format(share=share, best=best, operation=strongest.operation_name)
    sentence = f"{names[label]}: {strongest.size} of its pictures stand apart; {says}"
    return ClassFinding(label, True, probability, sentence, kind, share, pattern=patterns[label])
