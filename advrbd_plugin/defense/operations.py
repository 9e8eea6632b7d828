"""Changes of a whole picture that many tools offer, each with what undoes it. (Ours.)

A trigger may be such a change: the picture is turned, blurred, toned. Then a cluster's pictures have nothing in common
that could be taken out of them and put into others, and the change itself is tried on the others.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Change = Callable[[Tensor], Tensor]
"""From (N, C, H, W) float32 pictures in [0, 1] to such pictures."""


@dataclass(frozen=True)
class Operation:
    """Attributes:
    name: what was done to a picture, such as ``blurred``.
    do: the change.
    undo: what comes closest to its inverse.
    """

    name: str
    do: Change
    undo: Change


def operations(picture: Tensor) -> tuple[Operation, ...]:
    """The operations for pictures like a (C, H, W) one: quarter turns need square ones, colours need three channels."""
    square, coloured = picture.shape[-1] == picture.shape[-2], len(picture) == 3
    return (
        *(_turned(degrees) for degrees in (20, -20, 45, -45)),
        *((_quarter_turned(1), _quarter_turned(-1)) if square else ()),
        Operation("turned by 180 degrees", lambda some: some.flip((2, 3)), lambda some: some.flip((2, 3))),
        Operation("upside down", lambda some: some.flip(2), lambda some: some.flip(2)),
        Operation("enlarged", _affine(0.75, 0, 0, 0.75), _affine(4 / 3, 0, 0, 4 / 3)),
        Operation("made smaller", _affine(4 / 3, 0, 0, 4 / 3), _affine(0.75, 0, 0, 0.75)),
        Operation("slanted to one side", _affine(1, 0.3, 0, 1), _affine(1, -0.3, 0, 1)),
        Operation("slanted to the other side", _affine(1, -0.3, 0, 1), _affine(1, 0.3, 0, 1)),
        Operation("blurred", blurred, sharpened),
        Operation("sharpened", sharpened, blurred),
        Operation("brightened", _power(0.6), _power(1 / 0.6)),
        Operation("darkened", _power(1 / 0.6), _power(0.6)),
        Operation("made flatter", _stretched(0.5, (1, 2, 3)), _stretched(2.0, (1, 2, 3))),
        Operation("made richer in contrast", _stretched(2.0, (1, 2, 3)), _stretched(0.5, (1, 2, 3))),
        Operation("turned to its negative", lambda some: 1 - some, lambda some: 1 - some),
        *(_COLOURED if coloured else ()),
    )


def blurred(pictures: Tensor) -> Tensor:
    """By the binomial filter of 5 pixels (1, 4, 6, 4, 1), edges repeated."""
    kernel = torch.tensor([1.0, 4.0, 6.0, 4.0, 1.0]) / 16
    channels = pictures.shape[1]
    for shape, padding in (((1, 1, 1, 5), (2, 2, 0, 0)), ((1, 1, 5, 1), (0, 0, 2, 2))):
        padded = functional.pad(pictures, padding, mode="replicate")
        pictures = functional.conv2d(padded, kernel.view(shape).expand(channels, *shape[1:]), groups=channels)
    return pictures


def sharpened(pictures: Tensor) -> Tensor:
    """The picture and once more what :func:`blurred` takes from it (unsharp masking)."""
    return (2 * pictures - blurred(pictures)).clamp(0, 1)


def _affine(a: float, b: float, c: float, d: float) -> Change:
    """Each place takes the value from (a x + b y, c x + d y), measured from the centre; bilinear, edges mirrored."""

    def change(pictures: Tensor) -> Tensor:
        matrix = torch.tensor([[a, b, 0.0], [c, d, 0.0]]).expand(len(pictures), 2, 3)
        places = functional.affine_grid(matrix, list(pictures.shape), align_corners=False)
        return functional.grid_sample(pictures, places, padding_mode="reflection", align_corners=False)

    return change


def _turned(degrees: float) -> Operation:
    cosine, sine = math.cos(math.radians(degrees)), math.sin(math.radians(degrees))
    turn, back = _affine(cosine, -sine, sine, cosine), _affine(cosine, sine, -sine, cosine)
    return Operation(f"turned by {degrees} degrees", turn, back)


def _quarter_turned(quarters: int) -> Operation:
    turn, back = (lambda some, times=times: some.rot90(times, (2, 3)) for times in (quarters, -quarters))
    return Operation(f"turned by {90 * quarters} degrees", turn, back)


def _power(exponent: float) -> Change:
    return lambda pictures: pictures.clamp_min(1e-6) ** exponent


def _stretched(factor: float, dims: tuple[int, ...]) -> Change:
    """Values are moved away from their mean over ``dims`` by a factor."""

    def change(pictures: Tensor) -> Tensor:
        mean = pictures.mean(dims, keepdim=True)
        return (mean + factor * (pictures - mean)).clamp(0, 1)

    return change


def _rolled(places: int) -> Change:
    return lambda pictures: pictures.roll(places, dims=1)


_COLOURED = (
    Operation("made greyer", _stretched(0.2, (1,)), _stretched(5.0, (1,))),
    Operation("made more colourful", _stretched(2.0, (1,)), _stretched(0.5, (1,))),
    Operation("given red for green, green for blue, blue for red", _rolled(1), _rolled(-1)),
    Operation("given green for red, blue for green, red for blue", _rolled(-1), _rolled(1)),
)
