"""How consistent a model's prediction stays under small adversarial perturbations (paper, Section V-B1, equation 3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from numbers import Integral
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin import ops
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import ScoringConfig
from advrbd_plugin.nn.inference import as_input, autocast, broken_rows, frozen, refuse_broken
from advrbd_plugin.nn.transfer import Results, upload
from advrbd_plugin.processes import current
from advrbd_plugin.randomness import derive_seed

_SMALLEST_DIVERGENCE = 1e-12
# The backward pass keeps every layer's output of a batch. On a CPU it holds no more than a training step; on a GPU
# larger batches pay, but of larger images fewer are scored at a time.
_BATCH_SIZE, _CPU_BATCH_SIZE, _SMALLEST_BATCH, _BATCH_PIXELS = 500, 128, 16, 500 * 64 * 64


@dataclass(frozen=True, eq=False)
class Scores:
    """What :func:`score_samples` gives.

    Attributes:
        ranks: (K, N) float32 in [0, 1], for each of K patch sizes: 1 is the most consistent sample, hence the most
            suspicious.
    """

    ranks: Tensor

    @property
    def consistency(self) -> Tensor:
        """(N,) float32 in [0, 1], the mean of the ranks; higher is more suspicious."""
        return self.ranks.mean(dim=0)

    def of(self, chosen: Tensor) -> Scores:
        """Those of some samples, chosen by index or by a (N,) bool."""
        return Scores(self.ranks[:, chosen])

    def to_stored(self) -> tuple[dict[str, Tensor], None]:
        return {"ranks": self.ranks}, None

    @classmethod
    def from_stored(cls, tensors: dict[str, Tensor], _rest: None) -> Scores:
        return cls(**tensors)


def score_samples(
    model: nn.Module, samples: ImageSet, config: ScoringConfig, *, on_batch: Callable[[int], None] | None = None
) -> Scores:
    """Score a set with several patch sizes; a patch size suits some triggers and not others.

    Args:
        model: takes images in pixel scale [0, 1].
        samples: the training set.
        config: the settings.
        on_batch: told of the work done, see :func:`scoring_work`.

    Raises:
        AdvrBDError: a logit is not finite.
    """
    device = next(model.parameters()).device
    scores = score_shared_out(
        model,
        samples,
        epsilon=config.epsilon,
        patch_size=patch_sizes(config),
        num_masks=config.num_masks,
        reduction=config.reduction,
        seed=derive_seed(config.seed, "patches"),
        batch_size=scoring_batch_size(samples.image_size, device),
        mixed_precision=config.mixed_precision,
        on_batch=None if on_batch is None else lambda done: on_batch(scoring_work(config) * done),
    )
    return Scores(torch.stack([consistency_ranks(each) for each in scores]))


def scoring_batch_size(image_size: tuple[int, int], device: torch.device) -> int:
    """How many images of (height, width) are scored at a time."""
    height, width = image_size
    most = _CPU_BATCH_SIZE if device.type == "cpu" else _BATCH_SIZE
    return max(_SMALLEST_BATCH, min(most, _BATCH_PIXELS // (height * width)))


def score_shared_out(
    model: nn.Module,
    samples: ImageSet,
    *,
    batch_size: int = _BATCH_SIZE,
    on_batch: Callable[[int], None] | None = None,
    **arguments: Any,
) -> Tensor:
    """:func:`consistency_scores` of a set, which several processes share out (:mod:`advrbd_plugin.processes`).

    All processes take the weights of rank 0 and get the scores of all samples. A batch holds the same samples however
    many processes there are, so the same weights give the same scores, bit for bit on the same hardware.

    Args:
        arguments: of :func:`consistency_scores`, but for the images and what belongs to each.
    """
    current().equalise(model)
    share = current().share(len(samples), batch_size)
    own = torch.empty(0)
    if share.own.start < share.own.stop or not len(samples):
        own = consistency_scores(
            model,
            samples.images[share.own],
            samples.labels[share.own],
            sample_ids=samples.sample_ids[share.own],
            batch_size=batch_size,
            on_batch=share.scaled(on_batch),
            **arguments,
        )
    return share.merge(own.movedim(-1, 0)).movedim(0, -1)


def patch_sizes(config: ScoringConfig) -> list[int]:
    """The sides of the patches in pixels: ``patch_size``, half of it, and so on, none below 1 or twice the same."""
    sizes = [config.patch_size // 2**halvings for halvings in range(config.num_patch_sizes)]
    return list(dict.fromkeys(max(1, size) for size in sizes))


def scoring_work(config: ScoringConfig) -> int:
    """Passes over the set that :func:`score_samples` costs."""
    return 2 + len(patch_sizes(config)) * config.num_masks


def consistency_ranks(scores: Tensor) -> Tensor:
    """(N,) float32 in [0, 1]: 1 for the most consistent sample (the lowest score), hence the most suspicious.

    Args:
        scores: (N,) float, from :func:`consistency_scores`.

    Raises:
        ValueError: a score is NaN.
    """
    ranks = torch.empty(len(scores))
    ranks[least_consistent_first(scores)] = torch.arange(len(scores), dtype=torch.float32) / max(1, len(scores) - 1)
    return ranks


def least_consistent_first(scores: Tensor) -> Tensor:
    """(N,) int64 indices in the order of falling scores. Raises ValueError if a score is NaN."""
    if torch.isnan(scores).any():
        raise ValueError(f"scores must not be NaN, got {int(torch.isnan(scores).sum())} of them")
    return torch.argsort(scores, descending=True, stable=True)


def consistency_scores(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    epsilon: float | Sequence[float] = 32 / 255,
    patch_size: int | Sequence[int] = 8,
    num_masks: int = 4,
    reduction: str = "median",
    seed: int = 0,
    sample_ids: Tensor | None = None,
    low: float | Sequence[float] = 0.0,
    high: float | Sequence[float] = 1.0,
    batch_size: int = 500,
    mixed_precision: bool = True,
    on_batch: Callable[[int], None] | None = None,
) -> Tensor:
    """Higher is more likely clean: KL(f(x) || f(x + m * epsilon * sign(grad))) under random patches m.

    One forward, one backward to the input alone, and one forward per mask (and patch size) for each batch; a GPU is
    waited for at the end alone. ``model`` is in eval mode afterwards; its parameters and their gradients are untouched.

    Args:
        model: from (N, C, H, W) float images to (N, num_classes) logits.
        images: (N, C, H, W) uint8, which the model gets in pixel scale [0, 1]; or floating point, which it gets as it
            is, so that any normalisation can be used.
        labels: (N,) int64, the labels that the samples came with.
        epsilon, low, high: step and bounds in the units that the model gets; a number or one per channel.
        patch_size: side of the square patch in pixels; or several, which share the forward and the backward pass.
        num_masks: patches per sample.
        reduction: "median", "geometric_mean" or "mean" over the masks.
        seed, sample_ids: where the patches come from; ``sample_ids`` (N,) int64 is 0..N-1 by default.
        batch_size: samples at once. Another size changes scores within rounding only.
        mixed_precision: bfloat16 where it is faster.
        on_batch: called with the number of samples done.

    Returns:
        (N,) float32 on the CPU, at least 0; (K, N) for a sequence of K patch sizes.

    Raises:
        ValueError: no such reduction, labels out of range, or an argument that :func:`advrbd_plugin.ops.perturb`
            refuses.
        AdvrBDError: a logit is NaN or infinite.

    Examples:
        >>> import torch
        >>> network = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(3 * 8 * 8, 2))
        >>> images, labels = torch.randint(256, (6, 3, 8, 8), dtype=torch.uint8), torch.tensor([0, 1, 0, 1, 0, 1])
        >>> scores = consistency_scores(network, images, labels, patch_size=4)
        >>> scores.shape, bool((scores >= 0).all())
        (torch.Size([6]), True)
    """
    if reduction not in _REDUCTIONS:
        raise ValueError(f"reduction must be one of {', '.join(_REDUCTIONS)}, got {reduction!r}")
    device = next(model.parameters()).device
    if sample_ids is None:
        sample_ids = torch.arange(len(images))
    single = isinstance(patch_size, Integral)
    sizes: list[int] = [patch_size] if single else list(patch_size)  # type: ignore[list-item, arg-type]
    perturbation = {"epsilon": epsilon, "num_masks": num_masks, "seed": seed, "low": low, "high": high}
    known, ids = _Labels(labels, device), upload(sample_ids, device)
    divergences, broken = [Results(dim=1) for _ in sizes], Results()
    pending: _Pending | None = None
    model.eval()
    with frozen(model):
        for start in range(0, len(images), batch_size):
            batch = slice(start, start + batch_size)
            ended, flags, pending = _score_batch(
                model,
                _model_input(images[batch], device),
                known,
                batch,
                pending,
                sizes,
                mixed_precision,
                sample_ids=ids[batch],
                **perturbation,
            )
            broken.add(flags)
            # The first is that of the batch before under patches of the last size, once there is a batch before.
            for place, divergence in enumerate(ended, start=-1 if start else 0):
                divergences[place].add(divergence)
            if on_batch is not None:
                on_batch(len(flags))
    if pending is None:
        return torch.empty(0) if single else torch.empty(len(sizes), 0)
    divergences[-1].add(ops.kl_divergence(pending.logits, pending.perturbed_logits))
    refuse_broken(broken.whole())
    scores = [_REDUCTIONS[reduction](each.whole()) for each in divergences]
    return scores[0] if single else torch.stack(scores)


class _Labels:
    """The labels of a set, looked at once on the host, where that makes no device wait."""

    def __init__(self, labels: Tensor, device: torch.device) -> None:
        self._on_host, self._on_device = labels.cpu(), upload(labels, device)
        self._lowest, self._highest = map(int, self._on_host.aminmax()) if len(labels) else (0, 0)

    def of(self, batch: slice, num_classes: int) -> Tensor:
        """(B,) int64 on the device. Raises ValueError where a label of the set is not in [0, num_classes)."""
        if not 0 <= self._lowest <= self._highest < num_classes:
            outside = self._on_host[(self._on_host < 0) | (self._on_host >= num_classes)]
            raise ValueError(f"labels must be in [0, {num_classes - 1}], got {int(outside[0])}")
        return self._on_device[batch]


class _Pending(NamedTuple):
    """A batch, under patches of one size, whose divergence the next launch takes."""

    logits: Tensor  # (N, num_classes) float32
    perturbed_logits: Tensor  # (num_masks, N, num_classes) float32


def _score_batch(
    model: nn.Module,
    inputs: Tensor,
    labels: _Labels,
    batch: slice,
    pending: _Pending | None,
    sizes: Sequence[int],
    mixed_precision: bool,
    **perturbation: Any,
) -> tuple[list[Tensor], Tensor, _Pending]:
    """End what is pending and do this batch, all but the divergence of its last size.

    The second is (N,) bool: which of the batch's images have an output that is no number. All stays on the device.

    A function of its own, so that the images, their gradient and their perturbed copies are gone before the next batch
    asks for memory.
    """
    logits, grad = _input_gradient(model, inputs, labels, batch, mixed_precision)
    ended, broken = [], broken_rows(logits)
    for patch_size in sizes:
        ending, ending_perturbed = pending or (None, None)
        step = ops.score_step(ending, ending_perturbed, inputs, grad, patch_size=patch_size, **perturbation)
        if step.divergence is not None:
            ended.append(step.divergence)
        assert step.perturbed is not None
        pending = _Pending(logits, _perturbed_logits(model, step.perturbed, mixed_precision))
        broken |= broken_rows(pending.perturbed_logits).any(dim=0)
        del step  # and with it the perturbed copies, before those of the next size are made
    assert pending is not None  # there is at least one size
    return ended, broken, pending


def _model_input(images: Tensor, device: torch.device) -> Tensor:
    if images.dtype == torch.uint8:
        return as_input(images, device)
    return upload(images, device).contiguous(memory_format=torch.channels_last)


def _input_gradient(
    model: nn.Module, inputs: Tensor, labels: _Labels, batch: slice, mixed_precision: bool
) -> tuple[Tensor, Tensor]:
    """Logits (N, num_classes) float32 and the gradient of the summed cross entropy with respect to ``inputs``."""
    inputs = inputs.detach().requires_grad_(True)
    with torch.enable_grad():
        with autocast(inputs.device, mixed_precision):
            logits = model(inputs)
        logits = logits.float()
        loss = functional.cross_entropy(logits, labels.of(batch, logits.shape[1]), reduction="sum")
        (grad,) = torch.autograd.grad(loss, inputs)
    return logits.detach(), grad


@torch.no_grad()
def _perturbed_logits(model: nn.Module, perturbed: Tensor, mixed_precision: bool) -> Tensor:
    """(num_masks, N, num_classes) float32, a mask at a time, so that no more activations live than one batch needs."""
    outputs = []
    for images in perturbed:
        with autocast(images.device, mixed_precision):
            outputs.append(model(images).float())
    return torch.stack(outputs)


def _median(divergences: Tensor) -> Tensor:
    """The middle value, and the mean of the middle two where their number is even."""
    ordered = divergences.sort(dim=0).values
    count = len(ordered)
    return (ordered[(count - 1) // 2] + ordered[count // 2]) / 2


def _geometric_mean(divergences: Tensor) -> Tensor:
    return divergences.clamp_min(_SMALLEST_DIVERGENCE).log().mean(dim=0).exp()


_REDUCTIONS: dict[str, Callable[[Tensor], Tensor]] = {
    "median": _median,
    "geometric_mean": _geometric_mean,
    "mean": lambda divergences: divergences.mean(dim=0),
}
