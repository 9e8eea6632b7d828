"""The objective that relearning minimises: v1's (arXiv 2405.14781) and three terms of ours."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.inference import as_input, autocast, frozen, log_odds
from advrbd_plugin.randomness import derive_seed, shuffled, uniform_integers
from advrbd_plugin.ulrl.adversary import Adversary, PerturbationSearch
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.neurons import LayerChange, neuron_weight

_TEMPERATURE = 2.0
_MIXING_LEVELS = 1000


@dataclass(frozen=True, eq=False)
class _Batch:
    """Attributes:
    parts: inputs by name: ``clean``, and where they are used ``mixed``, ``adversary``, ``suspect``; pixel scale.
    targets: labels of the clean inputs.
    suspect_labels: labels of the suspicious inputs, or ``None``.
    """

    parts: dict[str, Tensor]
    targets: Tensor
    suspect_labels: Tensor | None


class RelearningObjective:
    """Computes the loss of one batch.

    Args:
        original: the backdoored model; put into eval mode.
        repaired: the model that is trained.
        changes: the layers' suspicious neurons.
        config: the weights of the terms.
        clean_set: the clean samples.
        suspect_set: samples that are likely poisoned; they replace the adversary, since they show the trigger itself.
        adversaries: what to train against; they share the samples. Without one, perturbations lead away from the true
            label.
    """

    def __init__(
        self,
        original: nn.Module,
        repaired: nn.Module,
        changes: tuple[LayerChange, ...],
        config: ULRLConfig,
        clean_set: ImageSet,
        suspect_set: ImageSet | None,
        adversaries: tuple[Adversary, ...],
    ) -> None:
        self._original, self._repaired = original.eval(), repaired
        self._config, self._clean_set, self._suspect_set = config, clean_set, suspect_set
        self._device = next(repaired.parameters()).device
        self._augmentation = config.augmentation(derive_seed(config.seed, "relearning crops"))
        self._suspect_batches = iter(()) if suspect_set is None else _endless_batches(suspect_set, config)
        self._adversary_weight = config.adversary_weight if suspect_set is None else 0.0
        self._searches = [PerturbationSearch(each, config, self._device) for each in adversaries or (Adversary(),)]
        layers, old_layers = dict(repaired.named_modules()), dict(original.named_modules())
        self._neurons = [
            (neuron_weight(layers[each.layer]), list(each.suspicious), neuron_weight(old_layers[each.layer]).detach())
            for each in changes
            if each.suspicious
        ]

    def __call__(self, positions: Tensor, epoch: int, step: int) -> tuple[Tensor, int]:
        """The loss of the clean samples at ``positions``, and how many of them the model classifies right."""
        batch = self._batch(positions, epoch, step)
        self._repaired.train()
        if self._config.freeze_statistics:
            freeze_statistics(self._repaired)
        outputs = self._outputs(self._repaired, batch.parts)
        right = int((outputs["clean"].argmax(1) == batch.targets).sum())
        return self._loss(batch, outputs), right

    def _batch(self, positions: Tensor, epoch: int, step: int) -> _Batch:
        config, suspect_labels = self._config, None
        inputs, targets = self._inputs(self._clean_set, positions, epoch)
        parts = {"clean": inputs}
        if config.distillation:
            parts["mixed"] = self._mixed(inputs, positions, epoch)
        if self._adversary_weight:
            parts["adversary"] = self._perturbed(inputs, targets, step)
        if self._suspect_set is not None and config.forget_weight:
            parts["suspect"], suspect_labels = self._inputs(self._suspect_set, next(self._suspect_batches), step)
        return _Batch(parts, targets, suspect_labels)

    def _loss(self, batch: _Batch, outputs: dict[str, Tensor]) -> Tensor:
        config, old = self._config, dict[str, Tensor]()
        loss = functional.cross_entropy(outputs["clean"], batch.targets)
        if config.distillation or self._adversary_weight:
            with torch.no_grad():
                unperturbed = {name: part for name, part in batch.parts.items() if name in ("clean", "mixed")}
                old = self._outputs(self._original, unperturbed)
        if config.distillation:
            divergences = _divergence(outputs["clean"], old["clean"]) + _divergence(outputs["mixed"], old["mixed"])
            loss = loss + config.distillation * divergences
        if self._adversary_weight:
            loss = loss + self._adversary_weight * _divergence(outputs["adversary"], old["clean"])
        if batch.suspect_labels is not None:
            odds = log_odds(outputs["suspect"], batch.suspect_labels)
            loss = loss + config.forget_weight * functional.softplus(odds).mean()
        return loss + config.alpha * self._similarity() if config.alpha else loss

    def _inputs(self, samples: ImageSet, positions: Tensor, turn: int) -> tuple[Tensor, Tensor]:
        images = augment(samples.images[positions], samples.sample_ids[positions], self._augmentation, turn)
        return as_input(images, self._device), samples.labels[positions].to(self._device)

    def _outputs(self, model: nn.Module, parts: dict[str, Tensor]) -> dict[str, Tensor]:
        """Float32 logits of all parts from one forward pass, so that batch statistics cover all of them."""
        with autocast(self._device, self._config.mixed_precision):
            logits: Tensor = model(torch.cat(list(parts.values())))
        sizes = [len(part) for part in parts.values()]
        return dict(zip(parts, logits.float().split_with_sizes(sizes), strict=True))

    def _mixed(self, inputs: Tensor, positions: Tensor, epoch: int) -> Tensor:
        """Blend each image with up to one half of another one."""
        ids = self._clean_set.sample_ids[positions]
        levels = uniform_integers(ids, _MIXING_LEVELS, derive_seed(self._config.seed, "mixing", epoch))[:, 0]
        share = (levels.to(self._device).float() / (2 * _MIXING_LEVELS)).view(-1, 1, 1, 1)
        partner = shuffled(ids, derive_seed(self._config.seed, "partners", epoch)).to(self._device)
        return (1 - share) * inputs + share * inputs[partner]

    def _perturbed(self, inputs: Tensor, targets: Tensor, step: int) -> Tensor:
        """Perturb each image by one of the adversaries, in turn."""
        count = len(self._searches)
        perturbed = torch.empty_like(inputs)
        self._repaired.eval()
        with frozen(self._repaired):
            for place, search in enumerate(self._searches):
                part = slice(place, None, count)
                if len(inputs[part]):
                    perturbed[part] = search(self._repaired, inputs[part], targets[part], step)
        return perturbed

    def _similarity(self) -> Tensor:
        """Sum the cosine similarities of the suspicious neurons' new and old weights (v1, relearning)."""
        total = torch.zeros((), device=self._device)
        for new, indices, old in self._neurons:
            similarity = functional.cosine_similarity(new[indices].flatten(1), old[indices].flatten(1), dim=1)
            total = total + similarity.sum()
        return total


def freeze_statistics(model: nn.Module) -> None:
    """Put batch normalisation layers into eval mode: they use their running statistics and do not change them."""
    for module in model.modules():
        if isinstance(module, nn.modules.batchnorm._BatchNorm):
            module.eval()


def _divergence(logits: Tensor, wanted: Tensor) -> Tensor:
    """KL(wanted || logits) at a temperature at which small probabilities count (Hinton et al., arXiv 1503.02531)."""
    return _TEMPERATURE**2 * functional.kl_div(
        functional.log_softmax(logits / _TEMPERATURE, dim=1),
        functional.log_softmax(wanted / _TEMPERATURE, dim=1),
        log_target=True,
        reduction="batchmean",
    )


def _endless_batches(samples: ImageSet, config: ULRLConfig) -> Iterator[Tensor]:
    """Yield positions in batches of half the clean batch size; each pass is shuffled afresh."""
    passes = 0
    while True:
        order = shuffled(samples.sample_ids, derive_seed(config.seed, "suspects", passes))
        yield from torch.split(order, max(1, config.batch_size // 2))
        passes += 1
