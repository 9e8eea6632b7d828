"""A classifier's early feature map: what it is like, and what the classifier says once it is changed."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.nn.inference import EVALUATION_BATCH_SIZE, autocast

Change = Callable[[Tensor], Tensor]
"""From a (B, F, h, w) float32 map to another of its shape."""

_LEAST_SPREAD = 1e-5
_AT_ONCE = 2**22  # values of pictures; an early map has many more


@dataclass(frozen=True)
class Moments:
    """Mean and standard deviation of each channel of a map.

    Attributes:
        mean, spread: (F,) float32.
    """

    mean: Tensor
    spread: Tensor

    def turned_into(self, other: Moments) -> Change:
        """What gives maps with these moments the ``other`` ones: an affine change of each channel."""
        factor = other.spread / self.spread
        shift = other.mean - self.mean * factor
        return lambda maps: maps * factor.to(maps)[:, None, None] + shift.to(maps)[:, None, None]


class EarlyMap:
    """The last feature map of the first resolution at which there are more channels than the picture has.

    There the network has seen what a picture is made of (edges, texture, contrast), and little of what it shows.

    Args:
        model: takes (N, C, H, W) float pictures in pixel scale [0, 1]; put into eval mode.
        picture: (1, C, H, W) float32, any one that it takes.

    Attributes:
        exists: whether the model's modules give such a map.
    """

    def __init__(self, model: nn.Module, picture: Tensor, *, mixed_precision: bool = True) -> None:
        self._model, self._mixed_precision = model.eval(), mixed_precision
        self._device = next(model.parameters()).device
        self._place = self._find(picture)
        self.exists = self._place is not None

    def moments(self, pictures: Tensor) -> Moments:
        """Of all of (N, C, H, W) float32 pictures together, N at least 1."""
        means, squares = self._moments(pictures)
        mean = means.mean(dim=0)
        spread = (squares.mean(dim=0) - mean.square()).clamp_min(0).sqrt()
        return Moments(mean.float(), spread.float().clamp_min(_LEAST_SPREAD))

    def moments_of_each(self, pictures: Tensor) -> Tensor:
        """(N, 2 F) float32: means, then logarithms of standard deviations of each picture's channels."""
        means, squares = self._moments(pictures)
        spreads = (squares - means.square()).clamp_min(0).sqrt().clamp_min(_LEAST_SPREAD)
        return torch.cat([means, spreads.log()], dim=1).float()

    def logits(self, pictures: Tensor, change: Change | None = None) -> Tensor:
        """(N, num_classes) float32 on the CPU, with the map changed."""
        return torch.cat(list(self._forward(pictures, change))) if len(pictures) else torch.empty(0, 0)

    def predict(self, pictures: Tensor, change: Change | None = None) -> Tensor:
        """(N,) int64 predicted classes, with the map changed."""
        return self.logits(pictures, change).argmax(dim=1) if len(pictures) else torch.empty(0, dtype=torch.int64)

    def _moments(self, pictures: Tensor) -> tuple[Tensor, Tensor]:
        """(N, F) float64 each: means and mean squares of each picture's channels."""
        means, squares = list[Tensor](), list[Tensor]()

        def note(maps: Tensor) -> Tensor:
            variance, mean = (each.double().cpu() for each in torch.var_mean(maps, dim=(2, 3), correction=0))
            means.append(mean)
            squares.append(variance + mean.square())
            return maps

        self.logits(pictures, note)
        return torch.cat(means), torch.cat(squares)

    @torch.no_grad()
    def _forward(self, pictures: Tensor, change: Change | None) -> Iterator[Tensor]:
        at_once = max(1, min(EVALUATION_BATCH_SIZE, _AT_ONCE // pictures[0].numel()))
        for batch in pictures.split(at_once):
            batch = batch.to(self._device).contiguous(memory_format=torch.channels_last)
            with ExitStack() as stack, autocast(self._device, self._mixed_precision):
                if change is not None and self._place is not None:
                    stack.enter_context(_changed(*self._place, change))
                yield self._model(batch).float().cpu()

    @torch.no_grad()
    def _find(self, picture: Tensor) -> tuple[nn.Module, int] | None:
        """The module whose output is the map, and at which of its calls (a ReLU may serve several places)."""
        calls: dict[nn.Module, int] = {}
        met: list[tuple[nn.Module, int, torch.Size]] = []

        def note(module: nn.Module, _inputs: tuple[Tensor, ...], output: object) -> None:
            calls[module] = calls.get(module, 0) + 1
            if isinstance(output, Tensor) and output.dim() == 4 and output.shape[1] > picture.shape[1]:
                met.append((module, calls[module], output.shape[2:]))

        with ExitStack() as stack, autocast(self._device, self._mixed_precision):
            for module in self._model.modules():
                stack.callback(module.register_forward_hook(note).remove)
            self._model(picture.to(self._device))
        places = [(module, call) for module, call, size in met if size == met[0][2] and min(size) > 1]
        return places[-1] if places else None


def _changed(module: nn.Module, call: int, change: Change) -> ExitStack:
    """While it is entered, the output of the module's ``call``-th call in a forward pass is changed."""
    count = 0

    def replace(_module: nn.Module, _inputs: tuple[Tensor, ...], output: Tensor) -> Tensor | None:
        nonlocal count
        count += 1
        return change(output.float()).to(output.dtype) if count == call else None

    stack = ExitStack()
    stack.callback(module.register_forward_hook(replace).remove)
    return stack
