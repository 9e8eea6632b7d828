"""The trigger made visible: what the poisoned pictures of a class have in common, where, and in which pictures."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.defense.findings import ClassFinding, Window
from advrbd_plugin.report.links import Links
from advrbd_plugin.report.pictures import Tile, png, png_uri, tiles_of
from advrbd_plugin.report.record import RunRecord, pattern_file, surest
from advrbd_plugin.report.text import one_line
from advrbd_plugin.report.wording import in_words, suspected_findings, what_they_share
from advrbd_plugin.table import percentage

_CLASSES = 12
_EXAMPLES = 4
_COMPARED = 6


@dataclass(frozen=True)
class Frame:
    """A window in per cent of a picture's width and height, as a page places it."""

    left: float
    top: float
    width: float
    height: float


@dataclass(frozen=True)
class Example:
    """A poisoned picture.

    Attributes:
        tile: the picture as stored.
        enlarged: the window and its surroundings as a data URI; ``""`` without a window.
        inner: the window within that part.
    """

    tile: Tile
    enlarged: str
    inner: Frame | None


@dataclass(frozen=True)
class Trigger:
    """What is shown of one suspected class.

    Attributes:
        name: of the class.
        place: its address on the page.
        sentence: what was found and how sure it is.
        certainty: the same in few words.
        shared: "carry the same small mark", say.
        file: name of the pattern's picture beside the page; ``""`` where there is none.
        pattern: that picture as a data URI.
        frame: the window; ``None`` where the pattern is spread.
        examples: the surest poisoned pictures.
        compared: other pictures of the class.
        poisoned: how many there are.
    """

    name: str
    place: str
    sentence: str
    certainty: str
    shared: str
    file: str
    pattern: str
    frame: Frame | None
    examples: list[Example]
    compared: list[Tile]
    poisoned: int


def triggers(record: RunRecord, links: Links) -> list[Trigger]:
    """Those of the suspected classes, the most probable first; at most twelve."""
    return [_trigger(record, each, links) for each in suspected_findings(record)[:_CLASSES]]


def pattern_picture(pattern: Tensor) -> Tensor:
    """A pattern made visible: grey where it changes nothing, its largest change black or white.

    Args:
        pattern: (C, H, W) float in pixel scale.

    Returns:
        (C, H, W) uint8.
    """
    pattern = torch.nan_to_num(pattern.detach().cpu().float())
    largest = float(pattern.abs().max())
    return (127.5 + 127.5 * pattern / (largest or 1.0)).round().to(torch.uint8)


def pattern_files(record: RunRecord) -> dict[str, bytes]:
    """The patterns of the suspected classes as PNG, by the names of their files."""
    named = ((pattern_file(each), each.pattern) for each in record.result.findings)
    return {name: png(pattern_picture(pattern)) for name, pattern in named if name and pattern is not None}


def _trigger(record: RunRecord, finding: ClassFinding, links: Links) -> Trigger:
    verdicts, images = record.result.verdicts, record.image_set
    of_class = images.labels == finding.label
    poisoned = of_class & verdicts.poisoned
    clean = (of_class & verdicts.trusted).nonzero().flatten()
    spread = torch.linspace(0, max(0, len(clean) - 1), min(_COMPARED, len(clean))).round().long()
    name, window = one_line(images.class_names[finding.label]), finding.window
    chosen = surest(verdicts.score, poisoned, _EXAMPLES if window is not None else _COMPARED).tolist()
    tiles = tiles_of(record, chosen, links)
    return Trigger(
        name=name,
        place=f"class-{finding.label}",
        sentence=one_line(finding.sentence),
        certainty=f"{in_words(finding.probability)} ({percentage(finding.probability)})",
        shared=what_they_share(record, finding),
        file=pattern_file(finding) or "",
        pattern="" if finding.pattern is None else png_uri(pattern_picture(finding.pattern)),
        frame=None if window is None else _frame(window, images.image_size),
        examples=[_example(tile, images.images[at], window) for tile, at in zip(tiles, chosen, strict=True)],
        compared=tiles_of(record, clean[spread].tolist(), links),
        poisoned=int(poisoned.sum()),
    )


def _example(tile: Tile, image: Tensor, window: Window | None) -> Example:
    if window is None:
        return Example(tile, "", None)
    height, width = image.shape[1:]
    margin = max(1, window.side // 2)
    side = min(window.side + 2 * margin, height, width)
    top = min(max(0, window.top - margin), height - side)
    left = min(max(0, window.left - margin), width - side)
    inner = _frame(Window(window.top - top, window.left - left, window.side), (side, side))
    return Example(tile, png_uri(image[:, top : top + side, left : left + side]), inner)


def _frame(window: Window, size: tuple[int, int]) -> Frame:
    height, width = size
    values = (window.left / width, window.top / height, window.side / width, window.side / height)
    return Frame(*(round(100 * value, 2) for value in values))
