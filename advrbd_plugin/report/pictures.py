"""Pictures for the page: single samples with what is known of them, and galleries of those worth a look."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.report.figures import as_rgb
from advrbd_plugin.report.links import Links
from advrbd_plugin.report.record import VERDICTS, RunRecord, surest, verdict_codes
from advrbd_plugin.report.text import one_line
from advrbd_plugin.table import percentage

_LARGEST = 256  # pixels: larger pictures are shrunk for the page
_ENLARGED_BELOW = 128  # pixels: smaller ones are shown with visible pixels
_SHOWN = 18
_BORDERLINE = 0.4  # from 0.5


@dataclass(frozen=True)
class Tile:
    """One sample on the page; all texts are fit to be shown.

    Attributes:
        image: the picture as a data URI.
        pixelated: whether it is small, so that its pixels should stay visible when it is enlarged.
        alt: what a reader who does not see the picture is told.
        label, suggestion: class names; the second is empty where it is the first.
        verdict, probability: its verdict, and that it is poisoned.
        name: its path or id; long names may break after a slash.
        link: a relative link to its file; ``""`` where there is none.
    """

    image: str
    pixelated: bool
    alt: str
    label: str
    suggestion: str
    verdict: str
    probability: str
    name: str
    link: str


@dataclass(frozen=True)
class Gallery:
    """Attributes:
    place: its address on the page.
    title, about: for its reader.
    tiles: of its pictures.
    total: how many there are in all.
    """

    place: str
    title: str
    about: str
    tiles: list[Tile]
    total: int


def tiles_of(record: RunRecord, positions: list[int], links: Links) -> list[Tile]:
    """The samples at ``positions``."""
    names = [one_line(name) for name in record.image_set.class_names]
    verdicts, images = record.result.verdicts, record.image_set
    codes = verdict_codes(verdicts)
    made = []
    for index in positions:
        label, suggested = names[int(images.labels[index])], names[int(verdicts.suggested_label[index])]
        verdict, probability = VERDICTS[int(codes[index])], percentage(float(verdicts.score[index]))
        name = one_line(record.path(index))
        made.append(
            Tile(
                image=png_uri(images.images[index]),
                pixelated=max(images.image_size) < _ENLARGED_BELOW,
                alt=f"Picture labelled {label}, called {verdict}: {name}",
                label=label,
                suggestion="" if suggested == label else suggested,
                verdict=verdict,
                probability=probability,
                name=name,
                link=links.to(images.paths[index]) if images.paths is not None else "",
            )
        )
    return made


def galleries(record: RunRecord, links: Links) -> list[Gallery]:
    """The surest, the borderline and the mislabelled samples."""
    verdicts = record.result.verdicts
    wrong = verdicts.mislabelled.nonzero().flatten()
    sure = surest(verdicts.score, verdicts.poisoned, _SHOWN)
    guessed = bool((verdicts.suggested_label[sure] != record.image_set.labels[sure]).any())
    return [
        _gallery(
            record,
            links,
            sure,
            "surest",
            "The surest poisoned pictures",
            "With the probability that each is poisoned. They should share something that the other pictures of their "
            "class lack: if they do not, doubt the verdict." + (" The better label is a guess." if guessed else ""),
            int(verdicts.poisoned.sum()),
        ),
        _gallery(
            record,
            links,
            borderline(verdicts.score, verdicts.mislabelled),
            "borderline",
            "Borderline pictures",
            "Those whose probability of being poisoned is nearest to 50%: decide about these yourself. Uncertain ones "
            "are not called poisoned, but no clean model is trained on them either.",
        ),
        _gallery(
            record,
            links,
            wrong,
            "mislabelled",
            "Mislabelled pictures",
            "They seem to belong to another class and carry no trigger: errors, no attack.",
        ),
    ]


def borderline(score: Tensor, mislabelled: Tensor) -> Tensor:
    """(M,) int64: positions of the scores nearest to 0.5, nearest first, without the clear ones.

    Args:
        score: (N,) float in [0, 1].
        mislabelled: (N,) bool, left out.
    """
    distance = (score.double() - 0.5).abs()
    near = ((distance < _BORDERLINE) & ~mislabelled).nonzero().flatten()
    return near[torch.argsort(distance[near], stable=True)]


def png(image: Tensor, largest: int | None = None) -> bytes:
    """A (C, H, W) uint8 picture as stored, pixel for pixel; shrunk where a side is longer than ``largest``."""
    from PIL import Image

    picture = Image.fromarray(as_rgb(image))
    if largest is not None:
        picture.thumbnail((largest, largest), Image.Resampling.LANCZOS)
    buffer = io.BytesIO()
    picture.save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def png_uri(image: Tensor) -> str:
    """The same for a page: at most 256 pixels long."""
    return data_uri(png(image, _LARGEST), "image/png")


def data_uri(content: bytes, kind: str) -> str:
    """``content`` as an address that a page can hold."""
    return f"data:{kind};base64,{base64.b64encode(content).decode('ascii')}"


def _gallery(
    record: RunRecord, links: Links, found: Tensor, place: str, title: str, about: str, total: int | None = None
) -> Gallery:
    tiles = tiles_of(record, found[:_SHOWN].tolist(), links)
    return Gallery(place, title, about, tiles, len(found) if total is None else total)
