"""From a cluster that gave a backdoor away to all of the label's poison: a probability for each sample. (Ours.)

The cluster is rarely all of the poison, nor poison alone. But it shows the trigger, and with the trigger at hand each
sample can be asked: is the pattern in the picture (matched filter), does the label go when the pattern is taken out
(removal), does the picture's own window or finest detail carry the label (for triggers without a common pattern)? The
answers stand beside the features, a linear discriminant begins with the cluster, and its answer gives a purer cluster
and a clearer trigger for the next round. Where the learning was recorded, it is an answer, too: poison of other classes
is learned later than the label's own pictures, and a trigger that was learned weakly shows there more than anywhere.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.defense import transplant
from advrbd_plugin.defense.clusters import Split, sharpen, shrunk_covariance, split_between, split_of, whiten
from advrbd_plugin.defense.evidence import window_side
from advrbd_plugin.defense.operations import operations
from advrbd_plugin.defense.transplant import Recipients, SetStatistics
from advrbd_plugin.nn.early_map import EarlyMap
from advrbd_plugin.nn.inference import Logits, log_odds, logits_of

_ROUNDS_ON_COLUMNS, _ROUNDS_WITH_FEATURES = 2, 3
_OUTLIERS = 0.005  # of a column, at either end, are clipped
_BORNE_OUT = 0.05  # probability by model and features below which the pixels stand alone
_LEAST_SPREAD = 1 / 255  # of a pixel's values over the cluster
_COARSE = 4  # cells on a side of the grid on which slow patterns are looked for


@dataclass(frozen=True, eq=False)
class LabelSamples:
    """The samples of one label.

    Attributes:
        label: the label.
        pictures: (M, C, H, W) float32 in [0, 1].
        features: (M, num_features) float32, layered.
        first: (M,) bool, whether a picture is the first of its copies.
        margin: (M,) float32, the label's log-odds for the pictures as they are.
        learned: (M,) float32, the label's log-odds in what the network said on average while it learned, where that was
            recorded.
    """

    label: int
    pictures: Tensor
    features: Tensor
    first: Tensor
    margin: Tensor
    learned: Tensor | None = None


@dataclass(frozen=True, eq=False)
class Extension:
    """Attributes:
    probability: (M,) float32 in [0, 1] of carrying the trigger; near 0.5 where the picture shows it by its pixels, but
        the model and the features do not bear it out (a white corner that was there before the attack).
    projection: (M,) float32, higher is more suspicious.
    pattern: (C, H, W) float32, what the suspicious samples have in common, see :func:`transplant.residual`.
    """

    probability: Tensor
    projection: Tensor
    pattern: Tensor


def extend(
    model: nn.Module,
    samples: LabelSamples,
    cluster: Tensor,
    statistics: SetStatistics,
    recipients: Recipients,
    *,
    by_donor: tuple[str, ...] = (),
    operation: str = "",
    mixed_precision: bool = True,
) -> Extension:
    """How likely each of the label's samples carries what the cluster gave away.

    The first rounds go by the answers about the trigger alone: in the features, the cluster may stand apart for a
    reason of its own (its brightness, say). The later ones have the features beside them. At last the pixels are asked,
    which need a pure cluster to compare with.

    Args:
        model: in eval mode.
        samples: all samples of the label.
        cluster: (M,) bool, where to begin.
        statistics: of the whole set.
        recipients: of other labels.
        by_donor: ``window``, ``detail``, ``colour``, ``slow``, ``style``, ``spectrum``, ``operation``: what each sample
            is asked for besides.
        operation: the name of the one of :mod:`.operations` that is undone for it.
        mixed_precision: whether the model says what it says in bfloat16, where that pays.
    """
    say = logits_of(model, mixed_precision=mixed_precision)
    if int((~cluster).sum()) < 2:  # the whole label: those that show most of what it has in common
        shown = matched_filter(samples.pictures, transplant.residual(samples.pictures[samples.first], statistics))
        cluster = shown > shown.median()
    asked = list[Tensor]()
    if "window" in by_donor:
        asked.append(window_gain(model, say, samples, recipients))
    if "detail" in by_donor:
        asked.append(detail_gain(say, samples, recipients))
    if "operation" in by_donor:
        asked.append(operation_removal(say, samples, operation))
    if samples.learned is not None:
        asked.append(-samples.learned)
    suspicious, split = cluster, split_of(cluster)
    styles = _Styles.of(model, samples, mixed_precision) if "style" in by_donor else None
    pattern, columns = None, list[Tensor]()
    for number in range(_ROUNDS_ON_COLUMNS + _ROUNDS_WITH_FEATURES):
        pattern = transplant.residual(samples.pictures[suspicious & samples.first], statistics)
        columns = [matched_filter(samples.pictures, pattern), removal(say, samples, pattern), *asked]
        if "colour" in by_donor:
            columns += [colour_likelihood(samples.pictures, suspicious), colour_removal(say, samples, suspicious)]
        if "slow" in by_donor:
            slow = transplant.slow_residual(samples.pictures[suspicious & samples.first], statistics)
            columns += [slow_filter(samples.pictures, slow), removal(say, samples, slow)]
        if styles is not None:
            columns += [styles.likelihood(suspicious), styles.removal(samples, suspicious)]
        if "spectrum" in by_donor or "operation" in by_donor:
            columns.append(spectrum_likelihood(samples.pictures, suspicious))
        following = _split(samples, columns, suspicious, with_features=number >= _ROUNDS_ON_COLUMNS)
        if not following.has_two_clusters:
            break
        split, suspicious = following, following.suspicious
    pattern = transplant.residual(samples.pictures[suspicious & samples.first], statistics)
    columns.append(pixel_likelihood(samples.pictures, suspicious, pattern))
    by_pixels = _split(samples, columns, suspicious, with_features=True)
    return Extension(_agreed(split, by_pixels), split.projection, pattern)


def _agreed(split: Split, by_pixels: Split) -> Tensor:
    """The split's probability, or the mean of both where it is larger; at most 0.5 where the pixels stand alone."""
    if not by_pixels.has_two_clusters:
        return split.probability
    mean = 0.5 * (split.probability + by_pixels.probability)
    alone = split.probability < _BORNE_OUT
    return torch.maximum(split.probability, torch.where(alone, mean.clamp_max(0.5), mean))


def _split(samples: LabelSamples, columns: list[Tensor], suspicious: Tensor, *, with_features: bool) -> Split:
    features = samples.features if with_features else samples.features[:, :0]
    points = whiten(_beside(features, columns))
    return sharpen(points, split_between(points, ~suspicious, suspicious))


def matched_filter(pictures: Tensor, pattern: Tensor) -> Tensor:
    """(M,) float32: how much of the pattern is in each picture, where pictures vary little counting more.

    Sees triggers that are added at a fixed place, learned by the model or not. Blind where there is no pattern.
    """
    detail = transplant.sharp(pictures)
    weights = pattern / (detail.var(dim=0) + 1e-4)
    return ((detail - detail.mean(dim=0)) * weights).flatten(1).sum(dim=1)


def slow_filter(pictures: Tensor, pattern: Tensor) -> Tensor:
    """(M,) float32: how much of a slow pattern is in each picture, on a coarse grid.

    As :func:`matched_filter`, but the cells of a picture vary together (a sky, a shadow), so their covariance takes the
    place of each one's variance, a tenth of it that of independent cells.
    """
    coarse = functional.adaptive_avg_pool2d(pictures, _COARSE).flatten(1)
    centred = (coarse - coarse.mean(dim=0)).double()
    covariance = shrunk_covariance(centred, 0.1)
    wanted = functional.adaptive_avg_pool2d(pattern[None], _COARSE).flatten().double()
    return (centred @ torch.linalg.solve(covariance, wanted)).float()


@dataclass(frozen=True, eq=False)
class _Styles:
    """The samples' early feature maps.

    Attributes:
        early: of the model.
        points: (M, dims) float64, the whitened moments of each sample's map.
    """

    early: EarlyMap
    points: Tensor

    @classmethod
    def of(cls, model: nn.Module, samples: LabelSamples, mixed_precision: bool) -> _Styles:
        early = EarlyMap(model, samples.pictures[:1], mixed_precision=mixed_precision)
        return cls(early, whiten(early.moments_of_each(samples.pictures)))

    def likelihood(self, suspicious: Tensor) -> Tensor:
        """(M,) float32: how much better the moments of the suspicious samples fit than the rest's."""
        return split_between(self.points, ~suspicious, suspicious).projection

    def removal(self, samples: LabelSamples, suspicious: Tensor) -> Tensor:
        """(M,) float32: by how much the label's log-odds fall when each picture gets the style of the rest."""
        rest, own = (self.early.moments(samples.pictures[part]) for part in (~suspicious, suspicious))
        return samples.margin - _of_label(self.early.logits(samples.pictures, own.turned_into(rest)), samples.label)


def pixel_likelihood(pictures: Tensor, suspicious: Tensor, pattern: Tensor) -> Tensor:
    """(M,) float32: how much better the suspicious samples' values fit a picture than the rest's, where the pattern is.

    Normal distributions at each pixel, independent. Sees triggers that replace what was there, even under a picture
    that nearly had it.
    """
    places = (pattern.abs() > 0.1 * pattern.abs().max()).flatten()
    values = pictures.flatten(1)[:, places]
    if not values.shape[1] or not 2 <= int(suspicious.sum()) <= len(suspicious) - 2:
        return torch.zeros(len(pictures))
    likelihoods = []
    for part in (suspicious, ~suspicious):
        mean, spread = values[part].mean(dim=0), values[part].std(dim=0).clamp_min(_LEAST_SPREAD)
        likelihoods.append(-0.5 * ((values - mean) / spread).square().clamp_max(25) - spread.log())
    return (likelihoods[0] - likelihoods[1]).mean(dim=1)


def colour_gains(pictures: Tensor, suspicious: Tensor) -> Tensor:
    """(C,) float32: the suspicious samples' mean over the rest's, channel by channel."""
    return pictures[suspicious].mean((0, 2, 3)) / pictures[~suspicious].mean((0, 2, 3)).clamp_min(1e-3)


def colour_likelihood(pictures: Tensor, suspicious: Tensor) -> Tensor:
    """(M,) float32: how much better the suspicious samples' colours fit each picture than the rest's.

    Fisher's discriminant of the logarithms of the channels' means.
    """
    colours = pictures.mean((2, 3)).clamp_min(1e-3).log()
    points = whiten(colours)
    return split_between(points, ~suspicious, suspicious).projection


def spectrum_likelihood(pictures: Tensor, suspicious: Tensor) -> Tensor:
    """(M,) float32: how much better the suspicious samples' amplitudes in rings of frequency fit than the rest's."""
    points = whiten(transplant.band_amplitudes(pictures).flatten(1))
    return split_between(points, ~suspicious, suspicious).projection


def colour_removal(say: Logits, samples: LabelSamples, suspicious: Tensor) -> Tensor:
    """(M,) float32: by how much the label's log-odds fall when the colour gains are taken out of each picture."""
    gains = colour_gains(samples.pictures, suspicious).clamp_min(1e-2)
    return samples.margin - _of_label(say((samples.pictures / gains[:, None, None]).clamp(0, 1)), samples.label)


def operation_removal(say: Logits, samples: LabelSamples, name: str) -> Tensor:
    """(M,) float32: by how much the label's log-odds fall when the operation of that name is undone."""
    (undo,) = (each.undo for each in operations(samples.pictures[0]) if each.name == name)
    return samples.margin - _of_label(say(undo(samples.pictures)), samples.label)


def removal(say: Logits, samples: LabelSamples, pattern: Tensor) -> Tensor:
    """(M,) float32: by how much the label's log-odds fall when the pattern is taken out of each picture.

    Sees poison whose label hangs on the trigger. A picture that the model knows anyway keeps its label.
    """
    return samples.margin - _of_label(say((samples.pictures - pattern).clamp(0, 1)), samples.label)


def window_gain(model: nn.Module, say: Logits, samples: LabelSamples, recipients: Recipients) -> Tensor:
    """(M,) float32: by how much recipients' log-odds of the label rise under each picture's own decisive window."""
    side, gain = window_side(samples.pictures), _gain(say, recipients, samples.label)
    answers = transplant.under_own_window(model, say, gain, samples.pictures, recipients, samples.label, side=side)
    return answers.mean(dim=1)


def detail_gain(say: Logits, samples: LabelSamples, recipients: Recipients) -> Tensor:
    """(M,) float32: by how much recipients' log-odds of the label rise with each picture's finest detail."""
    gain = _gain(say, recipients, samples.label)
    return transplant.under_detail(say, gain, samples.pictures, recipients).mean(dim=1)


def _gain(say: Logits, recipients: Recipients, label: int) -> transplant.Answer:
    """By how much the label's log-odds rise: a measure, where the few recipients of one donor give coarse shares."""
    before = _of_label(say(recipients.pictures), label)
    return lambda logits, rows: _of_label(logits, label) - before[rows]


def _of_label(logits: Tensor, label: int) -> Tensor:
    """(N,) float32: the label's log-odds."""
    return log_odds(logits, torch.full((len(logits),), label))


def _beside(features: Tensor, columns: list[Tensor]) -> Tensor:
    """Features and columns, each column weighing as much as the widest direction of the features."""
    centred = features - features.mean(dim=0)
    widest = float(torch.linalg.svdvals(centred.double())[0]) / len(centred) ** 0.5 if centred.numel() else 1.0
    scaled = []
    for column in columns:
        low, high = column.quantile(_OUTLIERS), column.quantile(1 - _OUTLIERS)
        clipped = column.clamp(low, high)
        scaled.append((clipped - clipped.mean()) / clipped.std().clamp_min(1e-9) * widest)
    return torch.cat([centred, torch.stack(scaled, dim=1)], dim=1)
