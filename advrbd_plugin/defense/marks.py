"""Pictures of a label that carry the same mark, found from a cluster that holds some of them. (Ours.)

A cluster of the features or of the learning rarely holds all poison, nor poison alone, and where it is a tenth of a
label it may be half innocent. But its :func:`.transplant.residual` shows the trigger all the same, and a matched filter
with that pattern parts the label's pictures in two where some carry it: 9 standard deviations for a picture blended in
by a fifth, 2.3 to 3 for a small patch, and less than 2 between the pictures of innocent labels. The network is not
asked, so a mark alone proves nothing: a watermark, a time stamp, a frame.

Sees what is added at the same place in every picture. Does not see what has no mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from advrbd_plugin.defense.candidates import COMPONENTS, LEAST, Candidate, same
from advrbd_plugin.defense.clusters import Split, split_along
from advrbd_plugin.defense.transplant import SetStatistics, at_once, residual, sharp

_ROUNDS = 2  # from a cluster to a pattern to a purer cluster
_SEPARATION = 2.0  # standard deviations; one Gaussian cut in two has less
_NOISE = 1e-4  # variance of a value that pictures of a label always have
_MOST = 2000  # pictures that a pattern is taken from
_FOLDS = 4  # parts of a cluster, each of which is asked about the pattern of the others


@dataclass(frozen=True, eq=False)
class _Label:
    """The pictures of one label, read in parts."""

    images: Tensor  # (M, C, H, W) uint8
    first: Tensor  # (M,) bool, see SetStatistics

    def details(self) -> Iterator[Tensor]:
        """(B, C, H, W) float32 each: the pictures less their blur."""
        for some in self.images.split(at_once(self.images)):
            yield sharp(some.float() / 255)

    def filtered(self, patterns: Tensor) -> Tensor:
        """(P, M) float32: how much of each of (P, C, H, W) patterns is in each picture.

        Where pictures of the label vary little, a value counts more.
        """
        mean, variance = self._moments
        weights = (patterns / variance).flatten(1)
        return torch.cat([(some - mean).flatten(1) @ weights.T for some in self.details()]).T

    @cached_property
    def _moments(self) -> tuple[Tensor, Tensor]:
        """(C, H, W) float32 each: mean and variance of the details."""
        total = torch.zeros(self.images.shape[1:], dtype=torch.float64)
        squares = torch.zeros_like(total)
        for some in self.details():
            total += some.double().sum(dim=0)
            squares += some.double().square().sum(dim=0)
        mean = total / len(self.images)
        return mean.float(), ((squares / len(self.images) - mean.square()).clamp_min(0) + _NOISE).float()


def marked_candidates(
    images: Tensor, labels: Tensor, candidates: Sequence[Candidate], statistics: SetStatistics
) -> list[Candidate]:
    """The pictures that carry what a component has in common, for the components that part their label in two so.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        candidates: of all labels.
        statistics: of the set.

    Returns:
        Candidates of the source ``mark``, no two of a label the same, nor the same as one of ``candidates``.
    """
    found: list[Candidate] = []
    for number in sorted({each.label for each in candidates}):
        members = (labels == number).nonzero().flatten()
        of_label = [each for each in candidates if each.label == number]
        label = _Label(images[members], statistics.first[members])
        clusters = [torch.isin(members, each.members) for each in of_label if each.source in COMPONENTS]
        known = [torch.isin(members, each.members) for each in of_label]
        for marked in _marked(label, clusters, statistics):
            if int(marked.sum()) >= LEAST and not any(same(marked, other) for other in known):
                known.append(marked)
                found.append(Candidate(number, members[marked], "mark"))
    return found


def unmarked_rests(labels: Tensor, candidates: Sequence[Candidate]) -> list[Candidate]:
    """The rest of the label for each candidate of the source ``mark``, as references of the source ``unmarked``.

    Where poison is most of a label, every component of a mixture may hold some, but those pictures hold little.
    """
    found = []
    for marked in candidates:
        if marked.source == "mark":
            members = (labels == marked.label).nonzero().flatten()
            rest = members[~torch.isin(members, marked.members)]
            if len(rest) >= LEAST:
                found.append(Candidate(marked.label, rest, "unmarked"))
    return found


def _marked(label: _Label, clusters: list[Tensor], statistics: SetStatistics) -> list[Tensor]:
    """(M,) bool each: the pictures with the pattern of a cluster, and then with the pattern of those."""
    for _ in range(_ROUNDS):
        patterns = [_patterns(label, cluster, statistics) for cluster in clusters]
        shown = [number for number, each in enumerate(patterns) if bool(each.any())]
        if not shown:
            return []
        scores = label.filtered(torch.cat([patterns[number] for number in shown])).view(len(shown), _FOLDS, -1)
        splits = [_parted(_held_out(each, clusters[number])) for each, number in zip(scores, shown, strict=True)]
        clusters = [each.suspicious for each in splits if each.separation >= _SEPARATION and each.has_two_clusters]
    return clusters


def _patterns(label: _Label, cluster: Tensor, statistics: SetStatistics) -> Tensor:
    """(_FOLDS, C, H, W) float32: what the cluster has in common without each of its parts in turn."""
    fold = _folds(cluster)
    found = []
    for part in range(_FOLDS):
        shown = (cluster & label.first & (fold != part)).nonzero().flatten()[:_MOST]
        pictures = label.images[shown].float() / 255
        found.append(residual(pictures, statistics) if len(shown) else torch.zeros_like(statistics.mean))
    return torch.stack(found)


def _folds(cluster: Tensor) -> Tensor:
    """(M,) int64: the part of each member, in turn; -1 outside."""
    return torch.where(cluster, (cluster.cumsum(dim=0) - 1) % _FOLDS, -1)


def _held_out(scores: Tensor, cluster: Tensor) -> Tensor:
    """(M,) float32 of (_FOLDS, M): a member's by the pattern that it had no part in, which would favour it.

    For all others, the mean.
    """
    own = scores.gather(0, _folds(cluster).clamp_min(0)[None])[0]
    return torch.where(cluster, own, scores.mean(dim=0))


def _parted(scores: Tensor) -> Split:
    return split_along(scores.double()[:, None], torch.ones(1, dtype=torch.float64))
