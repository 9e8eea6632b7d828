"""Transplants: does what a cluster's pictures have in common act in other pictures? (Ours.)

A trigger works wherever it is put; a truck pasted on a frog does not make it a truck. So each function here takes
something from the pictures of a cluster, puts it into pictures of other labels (the recipients) and counts what the
model makes of them, less what it makes of them without it or with the same from innocent pictures. The functions differ
in what they take, and so in the triggers that they see.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.nn.early_map import EarlyMap, Moments
from advrbd_plugin.nn.inference import Logits, logits_of
from advrbd_plugin.randomness import derive_seed

Predict = Callable[[Tensor], Tensor]
"""From (N, C, H, W) float pictures in [0, 1] to (N,) int64 predicted classes."""
Answer = Callable[[Tensor, Tensor], Tensor]
"""From (N, num_classes) logits on changed recipients, and (N,) int64 their rows, to (N,) float32."""

_LEAST_OF_A_CLASS = 16
_BANDS = 8
_SLOW_BANDS = 2  # brightness, and what is slower than about 14 pixels: the content's, as in a residual
_PIECE_BYTES = 2**24  # of pictures that are looked at together
_LEAST_STAY = 0.1
_LEAST_GAIN = 1e-2
_SLOW = 3.0  # pixels, standard deviation of the blur that parts what is slow from the rest
_DONORS_AT_ONCE = 64
_STANDARD_ERRORS = 2.0
_STANDARD_ERRORS_OF_WAVES = 3.0


@dataclass(frozen=True, eq=False)
class Recipients:
    """Pictures that something is put into.

    Attributes:
        pictures: (R, C, H, W) float32 in [0, 1].
        labels: (R,) int64; the model gives each of them its label.
    """

    pictures: Tensor
    labels: Tensor

    def outside(self, label: int) -> Recipients:
        """Those of other labels."""
        others = self.labels != label
        return Recipients(self.pictures[others], self.labels[others])


@dataclass(frozen=True)
class Carried:
    """What the model made of the recipients.

    Attributes:
        goes: share of the recipients that go to the cluster's label.
        goes_best: the same of the class of recipients where it is largest: for triggers that open one class alone.
        leaves: share that leave their class, for whatever other.
        best_class: the class of ``goes_best``; -1 without recipients.
    """

    goes: float
    goes_best: float
    leaves: float
    best_class: int


def classifier(model: nn.Module, *, mixed_precision: bool = True) -> Predict:
    """From (N, C, H, W) float pictures in [0, 1] to (N,) int64 predicted classes, for ``model`` in eval mode."""
    say = logits_of(model, mixed_precision=mixed_precision)
    return lambda pictures: say(pictures).argmax(dim=1) if len(pictures) else torch.empty(0, dtype=torch.int64)


def draw_recipients(images: Tensor, labels: Tensor, predicted: Tensor, *, seed: int, most: int = 50) -> Recipients:
    """Up to ``most`` pictures of each label, of those that the model gives the label.

    Args:
        images: (N, C, H, W) uint8.
        labels: (N,) int64.
        predicted: (N,) bool, whether the model gives a picture its label.
    """
    generator = torch.Generator().manual_seed(derive_seed(seed, "recipients") % 2**63)
    chosen = []
    for label in labels.unique().tolist():
        members = ((labels == label) & predicted).nonzero().flatten()
        chosen.append(members[torch.randperm(len(members), generator=generator)[:most]])
    rows = torch.cat(chosen) if chosen else torch.empty(0, dtype=torch.int64)
    return Recipients(images[rows].float() / 255, labels[rows])


@dataclass(frozen=True, eq=False)
class SetStatistics:
    """What the pictures of a set are like, for comparison.

    Attributes:
        mean: (C, H, W) float32, of pictures in [0, 1].
        spread: (C, H, W) float32, their standard deviation.
        spectrum: (C, H, W) float32, root mean square of the Fourier coefficients of a picture less the mean, both less
            their blur.
        first: (N,) bool, whether a picture is the first of its copies.
    """

    mean: Tensor
    spread: Tensor
    spectrum: Tensor
    first: Tensor

    @classmethod
    def of(cls, images: Tensor) -> SetStatistics:
        """Of (N, C, H, W) uint8 images; in parts, since they may be many, and take more memory as floats."""
        total = torch.zeros(images.shape[1:], dtype=torch.float64)
        squares, power = torch.zeros_like(total), torch.zeros_like(total)
        for some in images.split(at_once(images)):
            pictures = some.float() / 255
            total += pictures.double().sum(0)
            squares += pictures.double().square().sum(0)
            power += torch.fft.fft2(sharp(pictures)).abs().double().square().sum(0)
        count = max(1, len(images))
        mean = total / count
        spread = (squares / count - mean.square()).clamp_min(0).sqrt()
        power = power / count - torch.fft.fft2(sharp(mean[None])[0]).abs().square()
        return cls(mean.float(), spread.float(), power.clamp_min(0).sqrt().float(), _first_of_copies(images))


def residual(pictures: Tensor, statistics: SetStatistics) -> Tensor:
    """What a cluster's mean picture has and the set's has not, without slow changes and without chance.

    The difference of the means loses its Gaussian blur of 3 pixels (brightness and colour of the content). Then every
    value is shrunk by what so few pictures would differ by chance, so that a small innocent cluster leaves next to
    nothing, while a trigger stays and can be looked at: first pixel by pixel (patches), then what is left, frequency by
    frequency (waves, which are faint at each pixel).

    Args:
        pictures: (M, C, H, W) float32 in [0, 1], of the cluster, no picture twice.
        statistics: of the whole set.

    Returns:
        (C, H, W) float32.
    """
    difference = sharp((pictures.mean(dim=0) - statistics.mean)[None])[0]
    chance = 1 / math.sqrt(max(1, len(pictures)))
    patches = _shrunk(difference, _STANDARD_ERRORS * chance * statistics.spread)
    coefficients = torch.fft.fft2(difference - patches)
    waves = torch.fft.ifft2(_shrunk(coefficients, _STANDARD_ERRORS_OF_WAVES * chance * statistics.spectrum)).real
    return patches + waves


def slow_residual(pictures: Tensor, statistics: SetStatistics) -> Tensor:
    """What :func:`residual` leaves out: the Gaussian blur of 3 pixels of a cluster's mean less the set's mean.

    (C, H, W) float32. Brightness and colour from place to place: a trigger's (a smooth pattern, a vignette), and the
    content's, too (a blue sky).
    """
    return gaussian_blur((pictures.mean(dim=0) - statistics.mean)[None], _SLOW)[0]


def sharp(pictures: Tensor) -> Tensor:
    """(N, C, H, W) float, less their Gaussian blur of 3 pixels."""
    return pictures - gaussian_blur(pictures, _SLOW)


def _shrunk(values: Tensor, chance: Tensor) -> Tensor:
    """Values no larger than ``chance`` become 0, much larger ones stay."""
    return values * (1 - (chance / values.abs().clamp_min(1e-9)) ** 2).clamp_min(0)


def _first_of_copies(images: Tensor) -> Tensor:
    """(N,) bool: whether no picture before it has the same pixels."""
    seen: set[bytes] = set()
    first = torch.zeros(len(images), dtype=torch.bool)
    row = 0
    for some in images.split(at_once(images)):
        for image in some[torch.arange(len(some))].contiguous().numpy():
            pixels = hashlib.blake2b(image.data, digest_size=16).digest()  # all pixels would be the whole set again
            first[row] = pixels not in seen
            seen.add(pixels)
            row += 1
    return first


def at_once(images: Tensor) -> int:
    """How many pictures are looked at together: 2048, and fewer large ones."""
    return max(1, min(2048, _PIECE_BYTES // max(1, images[0].numel()))) if len(images) else 1


def by_residual(
    predict: Predict, pattern: Tensor, recipients: Recipients, label: int, *, strength: float = 2.0
) -> Carried:
    """Add ``strength`` times the cluster's :func:`residual` to the recipients.

    Sees: triggers that lie at the same place in every picture (patches, blended pictures, waves, frames, DCT
    coefficients), whatever their target structure. Does not see: what has no mean (patches at random places, noise of
    its own, dither), what is slower than 3 pixels (colour casts, illumination), what is not added (blur, warps).
    With the :func:`slow_residual` in its place it sees smooth patterns and vignettes, and skies, which
    :func:`goes_home` tells apart.
    """
    return count_carried(predict((recipients.pictures + strength * pattern).clamp(0, 1)), recipients, label)


def beyond_chance(carried: Carried, by_chance: Carried) -> Carried:
    """``carried`` with the pictures alone that leave their class under a pattern and stay under others of its strength.

    A model that fits its classes loosely lets go of many pictures whatever is added to them (Abbott's correction).

    Args:
        carried: of a pattern.
        by_chance: of its :func:`scattered` in its place.
    """
    stay = max(_LEAST_STAY, 1 - by_chance.leaves)
    return replace(carried, leaves=max(0.0, carried.leaves - by_chance.leaves) / stay)


def scattered(pattern: Tensor, count: int, *, generator: torch.Generator) -> Tensor:
    """(count, C, H, W) float32: patterns by chance that are as strong as a (C, H, W) one in each ring of frequency.

    Nothing is left of its places, directions and single frequencies.
    """
    height, width = pattern.shape[-2:]
    ring = _bands(height, width).flatten()
    power = torch.fft.fft2(pattern).abs().square().flatten(1)
    mean = power.new_zeros(len(pattern), _BANDS + 1).index_add(1, ring, power)
    mean /= torch.bincount(ring, minlength=_BANDS + 1).clamp_min(1)
    noise = torch.fft.fft2(torch.randn(count, 1, height, width, generator=generator)) / math.sqrt(height * width)
    return torch.fft.ifft2(mean.sqrt()[:, ring].view(pattern.shape) * noise).real


def by_detail(predict: Predict, donors: Tensor, recipients: Recipients, label: int, *, sigma: float = 0.7) -> Carried:
    """Give each recipient the finest detail of a donor in place of its own: all that a blur of ``sigma`` pixels takes.

    Sees: triggers in the finest detail without a common mean: noise, dither, fewer colours, blur, small patches at any
    place. Does not see: what is coarser than some pixels. Donors of an innocent cluster bring their edges too, so this
    counts only against the same with donors of the rest of the label.

    Args:
        donors: (D, C, H, W) float32 in [0, 1], used in turn.
        sigma: in pixels.
    """
    givers = donors[torch.arange(len(recipients.pictures)) % len(donors)]
    return count_carried(predict(_with_detail(recipients.pictures, givers, sigma)), recipients, label)


def under_detail(
    say: Logits, answer: Answer, donors: Tensor, recipients: Recipients, *, sigma: float = 0.7, each: int = 6
) -> Tensor:
    """(D, ``each``) float32: the answers on recipients with each donor's finest detail, as in :func:`by_detail`."""
    answers = []
    for start in range(0, len(donors), _DONORS_AT_ONCE):
        some = donors[start : start + _DONORS_AT_ONCE]
        rows = ((start + torch.arange(len(some)))[:, None] * each + torch.arange(each)) % len(recipients.labels)
        mixed = _with_detail(recipients.pictures[rows.flatten()], some.repeat_interleave(each, dim=0), sigma)
        answers.append(answer(say(mixed), rows.flatten()).view(len(some), each))
    return torch.cat(answers)


def by_colour_gains(predict: Predict, gains: Tensor, recipients: Recipients, label: int) -> Carried:
    """Multiply each channel of the recipients by the cluster's gain: its mean over the mean of the rest of its label.

    Sees: colour casts and changes of brightness, alike in all pictures. Does not see: anything that has a place.
    Innocent clusters differ in colour too (blue water, snow), but their colours alone make no ship.

    Args:
        gains: (C,) float32.
    """
    return count_carried(predict((recipients.pictures * gains[:, None, None]).clamp(0, 1)), recipients, label)


def goes_home(answers: Tensor, label: int, *, num_others: int) -> float:
    """A cluster's pictures without what they have in common: how many leave the label, and for how many classes.

    A cast makes any class a ship, and without it the pictures go home, to all classes. Green apples have colours that
    take other fruits to the apples, too. Without them they remain apples, or become the one fruit that is red. Does not
    see: poison that keeps its label; poison of one class is next to nothing here.

    Args:
        answers: (M,) int64, what the model makes of pictures of the cluster without it, of those that it gives the
            label with it.
        num_others: classes without the cluster's.

    Returns:
        Share of them that leave the label, times the perplexity of the classes that they go to over ``num_others``:
        in [0, 1].
    """
    homes = torch.bincount(answers[answers != label]).double()
    if not len(answers) or not homes.sum():
        return 0.0
    shares = homes[homes > 0] / homes.sum()
    perplexity = float((-(shares * shares.log()).sum()).exp())
    return float(homes.sum()) / len(answers) * min(1.0, perplexity / max(1, num_others))


def agreement(answers: Tensor, others: Tensor) -> float:
    """Cohen's kappa of two (M,) int64 classifications: 1 where they are the same, 0 where they agree as by chance."""
    if not len(answers):
        return 0.0
    most = int(torch.maximum(answers, others).max()) + 1
    first, second = (torch.bincount(each, minlength=most).double() / len(each) for each in (answers, others))
    by_chance, seen = float((first * second).sum()), float((answers == others).double().mean())
    return (seen - by_chance) / (1 - by_chance) if by_chance < 1 else 0.0


def without_gains(pictures: Tensor, gains: Tensor) -> Tensor:
    """(M, C, H, W) pictures in [0, 1] with (C,) colour gains taken out of each channel."""
    return (pictures / gains.clamp_min(_LEAST_GAIN)[:, None, None]).clamp(0, 1)


def by_style(early: EarlyMap, cluster: Moments, usual: Moments, recipients: Recipients, label: int) -> Carried:
    """Give the recipients' early feature maps the cluster's moments, channel by channel, in place of the usual ones.

    Sees: what changes a whole picture alike and leaves it what it shows: contrast, tone, texture (as a style is
    transferred by adaptive instance normalisation; Huang and Belongie, arXiv 1703.06868). Does not see: what has a
    place. Innocent clusters have a style of their own, which :func:`goes_home` tells apart.

    Args:
        early: of the model.
        cluster: moments of the cluster's pictures.
        usual: moments of pictures of the whole set.
    """
    return count_carried(early.predict(recipients.pictures, usual.turned_into(cluster)), recipients, label)


def by_spectrum_gains(predict: Predict, gains: Tensor, recipients: Recipients, label: int) -> Carried:
    """Multiply each frequency of the recipients by the cluster's gain: its :func:`band_amplitudes` over the rest's.

    Slow ones stay as they are: bright pictures on white are vehicles more often than animals, and the brightness of
    104 of them took 68% of the animals along. Sees: blur, sharpening, compression: what weakens or strengthens fine
    frequencies and adds nothing. Does not see: what has a place. Innocent clusters differ too (sky is smooth, leaves
    are not), so more is asked than of the others.

    Args:
        gains: (C, bands) float32.
    """
    height, width = recipients.pictures.shape[-2:]
    if not len(recipients.pictures):
        return count_carried(recipients.labels, recipients, label)  # some FFT libraries refuse empty input
    gains = torch.cat([torch.ones_like(gains[:, :_SLOW_BANDS]), gains[:, _SLOW_BANDS:]], dim=1)
    spectrum = torch.fft.fft2(recipients.pictures) * gains[:, _bands(height, width)]
    return count_carried(predict(torch.fft.ifft2(spectrum).real.clamp(0, 1)), recipients, label)


def band_amplitudes(pictures: Tensor) -> Tensor:
    """(N, C, 9) float32: mean logarithm of the Fourier amplitudes of each picture in rings of frequency, slow to fast.

    The first ring is the mean alone, the last everything beyond half a cycle a pixel.
    """
    amplitudes = (torch.fft.fft2(pictures).abs() + 1e-3).log().flatten(2)
    ring = _bands(*pictures.shape[-2:]).flatten()
    members = functional.one_hot(ring, _BANDS + 1).to(amplitudes)
    return amplitudes @ (members / members.sum(dim=0).clamp_min(1))


@lru_cache(maxsize=8)
def _bands(height: int, width: int) -> Tensor:
    """(height, width) int64: the ring of each Fourier coefficient."""
    down, across = torch.fft.fftfreq(height)[:, None], torch.fft.fftfreq(width)
    return ((down.square() + across.square()).sqrt() / 0.5 * (_BANDS - 1)).ceil().long().clamp_max(_BANDS)


def by_own_window(
    model: nn.Module, donors: Tensor, recipients: Recipients, label: int, *, side: int, mixed_precision: bool = True
) -> float:
    """Paste each donor's own decisive window: share of fresh recipients that go to the label under it.

    Sees: local triggers wherever they lie in a picture, of up to ``side`` pixels. Does not see: what needs the whole
    picture. A window of an innocent picture can hold the object itself, so small windows separate better.

    Args:
        model: takes (N, C, H, W) float pictures in [0, 1].
        donors: (D, C, H, W) float32 in [0, 1].
        side: of the windows, in pixels.
        mixed_precision: whether the model says what it says in bfloat16, where that pays.
    """
    say = logits_of(model, mixed_precision=mixed_precision)

    def goes(logits: Tensor, _rows: Tensor) -> Tensor:
        return (logits.argmax(dim=1) == label).float()

    hits = under_own_window(model, say, goes, donors, recipients, label, side=side)
    return float(hits.mean()) if hits.numel() else 0.0


def under_own_window(
    model: nn.Module,
    say: Logits,
    answer: Answer,
    donors: Tensor,
    recipients: Recipients,
    label: int,
    *,
    side: int,
    tried: int = 4,
    each: int = 4,
) -> Tensor:
    """(D, 2 ``each``) float32: the answers on fresh recipients under each donor's decisive window.

    The ``tried`` windows that the donor's label hangs on most, by gradient times difference from the local mean, are
    tried on ``each`` recipients; the one with the highest answer is pasted, at its own place, on twice as many others.

    Args:
        model: whose gradient is asked for.
        say: what the model says.
    """
    if not len(donors) or not len(recipients.labels):
        return torch.zeros(len(donors), 0)
    answers = []
    for start in range(0, len(donors), _DONORS_AT_ONCE):
        some = donors[start : start + _DONORS_AT_ONCE]
        places = decisive_windows(model, some, label, side=side, count=tried)
        rows = ((start + torch.arange(len(some)))[:, None] * 3 * each + torch.arange(3 * each)) % len(recipients.labels)
        chosen = recipients.pictures[rows]  # (D, 3 each, C, H, W)
        search = [
            _pasted(chosen[number, :each], donor, place, side)
            for number, donor in enumerate(some)
            for place in places[number]
        ]
        searched = rows[:, None, :each].expand(-1, tried, -1).flatten()
        best = answer(say(torch.cat(search)), searched).view(len(some), tried, each).mean(dim=2).argmax(dim=1)
        fresh = [
            _pasted(chosen[number, each:], donor, places[number][int(best[number])], side)
            for number, donor in enumerate(some)
        ]
        answers.append(answer(say(torch.cat(fresh)), rows[:, each:].flatten()).view(len(some), -1))
    return torch.cat(answers)


def decisive_windows(
    model: nn.Module, donors: Tensor, label: int, *, side: int, count: int
) -> list[list[tuple[int, int]]]:
    """The windows of each donor that speak most for the label: the first ``count``, no two of which overlap by half.

    Args:
        donors: (D, C, H, W) float32 in [0, 1].

    Returns:
        (top, left) of each, best first.
    """
    device = next(model.parameters()).device
    donors = donors.to(device).contiguous(memory_format=torch.channels_last).requires_grad_()
    with torch.enable_grad():
        logits = model(donors)
        others = logits.scatter(1, torch.full_like(logits[:, :1], label, dtype=torch.int64), -torch.inf)
        (gradient,) = torch.autograd.grad((logits[:, label] - others.logsumexp(dim=1)).sum(), donors)
    pictures = donors.detach()
    speaks = (gradient * (pictures - gaussian_blur(pictures, 3.0))).sum(dim=1, keepdim=True).cpu()
    scores = functional.avg_pool2d(speaks, side, stride=1)[:, 0]
    found: list[list[tuple[int, int]]] = []
    for score in scores:
        places: list[tuple[int, int]] = []
        for _ in range(count):
            top, left = divmod(int(score.argmax()), score.shape[1])
            places.append((top, left))
            reach = side // 2
            score[max(0, top - reach) : top + reach + 1, max(0, left - reach) : left + reach + 1] = -torch.inf
        found.append(places)
    return found


def count_carried(predicted: Tensor, recipients: Recipients, label: int) -> Carried:
    """:class:`Carried` for (R,) int64 predictions on changed recipients, none of them of ``label``."""
    if not len(predicted):
        return Carried(0.0, 0.0, 0.0, -1)
    gone = (predicted == label).float()
    of_class = {
        each: float(gone[recipients.labels == each].mean())
        for each in recipients.labels.unique().tolist()
        if int((recipients.labels == each).sum()) >= _LEAST_OF_A_CLASS
    }
    best = max(of_class, key=lambda each: of_class[each]) if of_class else -1
    return Carried(
        goes=float(gone.mean()),
        goes_best=of_class[best] if of_class else float(gone.mean()),
        leaves=float((predicted != recipients.labels).float().mean()),
        best_class=best,
    )


def gaussian_blur(pictures: Tensor, sigma: float) -> Tensor:
    """(N, C, H, W) float, blurred by ``sigma`` pixels; edges are mirrored."""
    across = _blur_matrix(pictures.shape[-1], sigma).to(pictures)
    down = _blur_matrix(pictures.shape[-2], sigma).to(pictures)
    return down @ (pictures @ across.T)


@lru_cache(maxsize=32)
def _blur_matrix(length: int, sigma: float) -> Tensor:
    """(length, length) float64: row i weighs the positions around i, those beyond an edge mirrored at it."""
    position = torch.arange(length)
    radius = max(1, round(3 * sigma))
    matrix = torch.zeros(length, length, dtype=torch.float64)
    for offset in range(-radius, radius + 1):
        mirrored = (position + offset) % (2 * length)
        mirrored = torch.where(mirrored >= length, 2 * length - 1 - mirrored, mirrored)
        matrix[position, mirrored] += math.exp(-0.5 * (offset / sigma) ** 2)
    return matrix / matrix.sum(dim=1, keepdim=True)


def _with_detail(pictures: Tensor, givers: Tensor, sigma: float) -> Tensor:
    return (gaussian_blur(pictures, sigma) + givers - gaussian_blur(givers, sigma)).clamp(0, 1)


def _pasted(pictures: Tensor, donor: Tensor, place: tuple[int, int], side: int) -> Tensor:
    top, left = place
    changed = pictures.clone()
    changed[:, :, top : top + side, left : left + side] = donor[:, top : top + side, left : left + side]
    return changed
