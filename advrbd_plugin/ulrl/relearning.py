"""Relearning: from the old weights, suspicious neurons begun anew, back to the clean samples alone."""

from __future__ import annotations

import copy
import math
from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.batches import batches_of, count_batches
from advrbd_plugin.nn.inference import as_input, autocast, frozen, log_odds
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.progress import Progress, SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled, uniform_integers
from advrbd_plugin.ulrl.attraction import Change, added, unit, within_norm
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.neurons import LayerSuspicion, neuron_weight, reinitialise
from advrbd_plugin.ulrl.unlearning import check_finite_loss
from advrbd_plugin.ulrl.warps import field_norm, warp

_TEMPERATURE = 2.0
_MIXING_LEVELS = 1000
# The adversary begins anew after so many batches, so that it does not stay where the model has learned to resist.
_ADVERSARY_LIFE = 10


@dataclass(frozen=True, eq=False)
class Relearned:
    """Attributes:
    model: the repaired model, in eval mode.
    rows: one an epoch: ``epoch``, ``loss`` (the whole objective), ``accuracy`` on the clean batches as they went by.
    """

    model: nn.Module
    rows: list[dict[str, float]]


@dataclass(frozen=True, eq=False)
class Adversary:
    """How clean samples are led to the attacked labels while the model learns to stay where it was.

    Attributes:
        labels: where to; without one, away from the true label.
        warped: by warps of the image, in place of perturbations added to it.
        known: (P, 1, H, W) float32 perturbations in pixel scale, or (P, 2, points, points) float32 warps in pixels, that
            are known to lead there; every second image is under one of them. The others are searched.
    """

    labels: tuple[int, ...] = ()
    warped: bool = False
    known: Tensor | None = None


def relearn(
    model: nn.Module,
    clean_set: ImageSet,
    suspicions: tuple[LayerSuspicion, ...],
    config: ULRLConfig,
    *,
    suspect_set: ImageSet | None = None,
    adversaries: tuple[Adversary, ...] = (),
    progress: Progress | None = None,
) -> Relearned:
    """Fine-tune on the clean samples with the suspicious neurons re-initialised and kept from turning back.

    The objective is v1's (arXiv 2405.14781), cross entropy plus ``alpha`` times the cosine similarity of the suspicious
    neurons' new and old weights, and, where their weights are above 0, three terms of ours: the old model's answers
    on clean samples and on mixtures of two (so that little is forgotten), the same answers under universal
    perturbations or warps that lead to the attacked labels (so that the roads open to all are closed), and, in its place where
    there are some, the unlearning of samples known to be suspicious.

    Args:
        model: the backdoored model; it is not changed.
        clean_set: clean samples.
        suspicions: of :func:`advrbd_plugin.ulrl.neurons.identify`.
        suspect_set: samples that are likely poisoned, with the labels they came with; may be ``None``.
        adversaries: where the perturbations are to lead, and what is known of them. Several share the samples; without
            one, perturbations lead away from the true label.

    Raises:
        AdvrBDError: the loss stops being a number.
    """
    progress = progress or SilentProgress()
    repaired = copy.deepcopy(model)
    if config.reinitialise:
        reinitialise(repaired, suspicions, derive_seed(config.seed, "neurons"))
    optimizer = torch.optim.SGD(
        repaired.parameters(),
        lr=config.relearn_learning_rate,
        momentum=config.momentum,
        weight_decay=config.relearn_weight_decay,
    )
    objective = _Objective(model, repaired, suspicions, config, clean_set, suspect_set, adversaries)
    batches_per_epoch = count_batches(len(clean_set), config.batch_size)
    steps = planned_steps(len(clean_set), config)
    rows: list[dict[str, float]] = []
    with repeatable(next(repaired.parameters()).device, derive_seed(config.seed, "relearning noise")):
        for epoch in range(math.ceil(steps / batches_per_epoch)):
            total_loss, right, seen = 0.0, 0, 0
            order = shuffled(clean_set.sample_ids, derive_seed(config.seed, "relearning", epoch))
            for number, batch in enumerate(batches_of(order, config.batch_size)):
                step = epoch * batches_per_epoch + number
                if step >= steps:
                    break
                for group in optimizer.param_groups:
                    group["lr"] = config.relearn_learning_rate * _rate(step, steps, config.relearn_warm_up)
                loss, hits = objective(batch, epoch, step)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                norm = nn.utils.clip_grad_norm_(repaired.parameters(), config.relearn_gradient_clip or math.inf)
                check_finite_loss(
                    "relearning", "relearn_learning_rate", config.relearn_learning_rate, loss.detach(), norm
                )
                optimizer.step()
                total_loss += float(loss.detach()) * len(batch)
                right, seen = right + hits, seen + len(batch)
                progress.advance(len(batch), epoch=epoch + 1, loss=float(loss.detach()))
            rows.append({"epoch": epoch + 1, "loss": total_loss / seen, "accuracy": right / seen})
    for parameter in repaired.parameters():
        parameter.grad = None
    return Relearned(repaired.eval(), rows)


def freeze_statistics(model: nn.Module) -> None:
    """Let batch normalisation use its running statistics and leave them as they are, also in training mode."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def planned_steps(count: int, config: ULRLConfig) -> int:
    """Batches that relearning takes with ``count`` clean samples."""
    steps = config.relearn_epochs * count_batches(count, config.batch_size)
    return min(steps, config.relearn_steps) if config.relearn_steps else steps


class _Objective:
    """What relearning minimises in one batch."""

    def __init__(
        self,
        original: nn.Module,
        repaired: nn.Module,
        suspicions: tuple[LayerSuspicion, ...],
        config: ULRLConfig,
        clean_set: ImageSet,
        suspect_set: ImageSet | None,
        adversaries: tuple[Adversary, ...],
    ) -> None:
        self._original, self._repaired = original.eval(), repaired
        self._config, self._clean_set, self._suspect_set = config, clean_set, suspect_set
        self._device = next(repaired.parameters()).device
        self._augmentation = config.augmentation(derive_seed(config.seed, "relearning crops"))
        self._suspect_batches = _endless(suspect_set, config) if suspect_set is not None else iter(())
        # Samples that carry the trigger show the road itself, so none has to be searched.
        self._adversary_weight = 0.0 if suspect_set is not None else config.adversary_weight
        self._leads = [_Lead(each, config, self._device) for each in adversaries or (Adversary(),)]
        layers, old_layers = dict(repaired.named_modules()), dict(original.named_modules())
        self._neurons = [
            (neuron_weight(layers[each.layer]), list(each.suspicious), neuron_weight(old_layers[each.layer]).detach())
            for each in suspicions
            if each.suspicious
        ]

    def __call__(self, batch: Tensor, epoch: int, step: int) -> tuple[Tensor, int]:
        """The loss, and how many of the batch the model gets right."""
        config = self._config
        inputs, targets = self._inputs(self._clean_set, batch, epoch)
        parts = {"clean": inputs}
        if config.distillation:
            parts["mixed"] = self._mixed(inputs, batch, epoch)
        if self._adversary_weight:
            parts["adversary"] = self._perturbed(inputs, targets, step)
        if self._suspect_set is not None and config.forget_weight:
            suspects = next(self._suspect_batches)
            parts["suspect"], suspect_labels = self._inputs(self._suspect_set, suspects, step)
        self._repaired.train()
        if config.freeze_statistics:
            freeze_statistics(self._repaired)
        outputs = self._answers(self._repaired, parts)
        loss = functional.cross_entropy(outputs["clean"], targets)
        if config.distillation or self._adversary_weight:
            with torch.no_grad():
                wanted = self._answers(self._original, {n: parts[n] for n in ("clean", "mixed") if n in parts})
        if config.distillation:
            divergence = sum(_divergence(outputs[name], wanted[name]) for name in ("clean", "mixed"))
            loss = loss + config.distillation * divergence
        if self._adversary_weight:
            loss = loss + self._adversary_weight * _divergence(outputs["adversary"], wanted["clean"])
        if "suspect" in parts:
            odds = log_odds(outputs["suspect"], suspect_labels)
            loss = loss + config.forget_weight * functional.softplus(odds).mean()
        if config.alpha:
            loss = loss + config.alpha * self._similarity()
        return loss, int((outputs["clean"].argmax(1) == targets).sum())

    def _inputs(self, samples: ImageSet, batch: Tensor, turn: int) -> tuple[Tensor, Tensor]:
        images = augment(samples.images[batch], samples.sample_ids[batch], self._augmentation, turn)
        return as_input(images, self._device), samples.labels[batch].to(self._device)

    def _answers(self, model: nn.Module, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Logits of several inputs from one pass, as batch normalisation wants it."""
        with autocast(self._device, self._config.mixed_precision):
            logits = model(torch.cat(list(parts.values())))
        sizes = [len(part) for part in parts.values()]
        return dict(zip(parts, logits.float().split(sizes), strict=True))

    def _mixed(self, inputs: Tensor, batch: Tensor, epoch: int) -> Tensor:
        """Each image with up to half of another one in it."""
        ids = self._clean_set.sample_ids[batch]
        levels = uniform_integers(ids, _MIXING_LEVELS, derive_seed(self._config.seed, "mixing", epoch))[:, 0]
        share = (levels.to(self._device).float() / (2 * _MIXING_LEVELS)).view(-1, 1, 1, 1)
        partner = shuffled(ids, derive_seed(self._config.seed, "partners", epoch)).to(self._device)
        return (1 - share) * inputs + share * inputs[partner]

    def _perturbed(self, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """The batch, each image as one of the adversaries changes it."""
        count = len(self._leads)
        perturbed = torch.empty_like(inputs)
        self._repaired.eval()
        with frozen(self._repaired):
            for place, lead in enumerate(self._leads):
                part = slice(place, None, count)
                if len(inputs[part]):
                    perturbed[part] = lead(self._repaired, inputs[part], targets[part], step)
        return perturbed

    def _similarity(self) -> Tensor:
        """Summed cosine similarity of the suspicious neurons' new and old weights (v1, relearning)."""
        total = torch.zeros((), device=self._device)
        for new, indices, old in self._neurons:
            similarity = functional.cosine_similarity(new[indices].flatten(1), old[indices].flatten(1), dim=1)
            total = total + similarity.sum()
        return total


class _Lead:
    """One adversary at work; its perturbations follow the model from batch to batch."""

    def __init__(self, adversary: Adversary, config: ULRLConfig, device: torch.device) -> None:
        self._config, self._warped = config, adversary.warped
        self._attacked = torch.tensor(adversary.labels, dtype=torch.int64, device=device)
        self._known = None if adversary.known is None else adversary.known.to(device)
        self._change: Change = warp if adversary.warped else added
        self._radius = (
            field_norm(config.warp_radius, config.warp_points) if adversary.warped else config.adversary_radius
        )
        self._searched: Tensor | None = None

    def __call__(self, model: nn.Module, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """The images, each under a searched perturbation or, if there are any, every second under a known one."""
        perturbations = self._search(model, inputs, targets, step)
        if self._known is not None:
            # Which one an image meets changes from batch to batch.
            places = torch.arange(len(inputs), device=inputs.device)
            known = self._known[(places // 2 + step) % len(self._known)]
            perturbations = torch.where((places % 2 == 0).view(-1, 1, 1, 1), known, perturbations)
        return self._change(inputs, perturbations)

    def _search(self, model: nn.Module, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """For each image one of the universal perturbations, which first follow the model."""
        config = self._config
        group = torch.arange(len(inputs), device=inputs.device) % config.adversary_count
        steps, direction, wanted = config.adversary_steps, 1.0, targets
        if len(self._attacked):
            direction, wanted = -1.0, self._attacked[group % len(self._attacked)]
        if self._searched is None or step % _ADVERSARY_LIFE == 0:
            self._searched = self._fresh(inputs, step)
            steps *= 5
        for _ in range(steps):
            current = self._searched.requires_grad_(True)
            with autocast(inputs.device, config.mixed_precision):
                logits = model(self._change(inputs, current[group]))
            (grad,) = torch.autograd.grad(functional.cross_entropy(logits.float(), wanted), current)
            moved = current.detach() + direction * self._radius / 3 * unit(grad)
            self._searched = within_norm(moved, self._radius)
        return self._searched[group]

    def _fresh(self, inputs: Tensor, step: int) -> Tensor:
        """Where a search begins: random perturbations, well within the radius."""
        config = self._config
        shape = (2, config.warp_points, config.warp_points) if self._warped else inputs.shape[1:]
        generator = torch.Generator().manual_seed(derive_seed(config.seed, "adversary", step))
        fresh = torch.randn(config.adversary_count, *shape, generator=generator).to(inputs.device)
        return 0.3 * self._radius * unit(fresh)


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """KL(wanted || answer) at a temperature that lets the small probabilities count (Hinton et al., 1503.02531)."""
    return _TEMPERATURE**2 * functional.kl_div(
        functional.log_softmax(logits / _TEMPERATURE, dim=1),
        functional.log_softmax(wanted / _TEMPERATURE, dim=1),
        log_target=True,
        reduction="batchmean",
    )


def _rate(step: int, steps: int, warm_up: int) -> float:
    """A straight rise over ``warm_up`` batches, under half a cosine down to zero."""
    return min(1.0, (step + 1) / (warm_up + 1)) * (1 + math.cos(math.pi * step / steps)) / 2


def _endless(samples: ImageSet, config: ULRLConfig) -> Iterator[Tensor]:
    """Batches of positions, half as large as those of the clean samples, shuffled anew for each pass."""
    passes = 0
    while True:
        order = shuffled(samples.sample_ids, derive_seed(config.seed, "suspects", passes))
        yield from order.split(max(1, config.batch_size // 2))
        passes += 1
