"""Where samples belong by what a network says of them, and labels that take pictures one way only. (Ours.)

Innocent classes are confused both ways: some dogs look like cats, and some cats like dogs. So are labels that are wrong
by chance. An attack takes pictures of other classes into its target, and none the other way; while the network learns,
it puts those pictures where they came from. An annotator who takes one class for another looks the same.
"""

from __future__ import annotations

import torch
from torch import Tensor

_ROUNDING = 1e-6  # of a mean of equal numbers
# Of a class, and pictures at the least, that are added to both directions: fewer say nothing.
_FEW, _LEAST_FEW = 0.01, 10.0


def belonging(probabilities: Tensor, labels: Tensor, controls: Tensor) -> Tensor:
    """(N,) int64: the class that each sample belongs to, -1 for none.

    A sample belongs to a class where its probability is at least the controls' mean for their own class, as in
    confident learning (Northcutt et al., arXiv 1911.00068).

    Args:
        probabilities: (N, num_classes) float32.
        labels: (N,) int64.
        controls: (N,) bool, samples whose labels are taken to be right for the most part.
    """
    bars = torch.full((probabilities.shape[1],), torch.inf)
    for label in labels[controls].unique().tolist():
        bars[label] = probabilities[controls & (labels == label), label].double().mean() - _ROUNDING
    reached = probabilities.masked_fill(probabilities < bars, 0.0)
    most, best = reached.max(dim=1)
    return torch.where(most > 0, best, -1)


def one_way_ratios(mean_probabilities: Tensor, labels: Tensor) -> Tensor:
    """(num_classes,) float64: how many samples of a label belong elsewhere for each of other labels that belongs to it.

    About 1 for innocent classes; high for labels into which pictures of others were put. A hundredth of the class,
    and ten at the least, is added to both, so that a label without either has 1, and a small class cannot stand out.

    Args:
        mean_probabilities: (N, num_classes) float32, see :class:`advrbd_plugin.nn.trajectory.Trajectory`.
        labels: (N,) int64.
    """
    num_classes = mean_probabilities.shape[1]
    belongs = belonging(mean_probabilities, labels, torch.ones_like(labels, dtype=torch.bool))
    moved = (belongs >= 0) & (belongs != labels)
    leaving = torch.bincount(labels[moved], minlength=num_classes).double()
    coming = torch.bincount(belongs[moved], minlength=num_classes).double()
    few = (_FEW * torch.bincount(labels, minlength=num_classes)).clamp_min(_LEAST_FEW)
    return (leaving + few) / (coming + few)
