"""What a run will cost, said before it begins."""

from __future__ import annotations

import argparse
import os
from collections.abc import Callable
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torch import nn

    from advrbd_plugin.cli.progress import BarProgress, PlainProgress
    from advrbd_plugin.data import ImageSet
    from advrbd_plugin.defense.config import AdvrBDConfig

_WORTH_SAYING = 60.0  # seconds
_LONG = 600.0


def tell_cost(
    progress: BarProgress | PlainProgress,
    arguments: argparse.Namespace,
    make_model: Callable[[], nn.Module],
    images: ImageSet,
    config: AdvrBDConfig,
) -> None:
    """Measure a few batches and say how long the run will take; nothing where it takes less than a minute.

    Args:
        arguments: of ``scan`` or ``defend``.
    """
    import torch

    from advrbd_plugin.defense.forecast import Forecast, foretell, smaller_size

    if os.environ.get("WORLD_SIZE", "1") != "1":  # one process's measurement says little about several
        return
    device = torch.device(arguments.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    def measure(image_size: tuple[int, int] | None = None) -> Forecast:
        return foretell(
            make_model, images, config, device=device, scan=arguments.command == "scan", image_size=image_size
        )

    whole = measure()
    if whole.seconds < _WORTH_SAYING:
        return
    memory = f", {whole.peak_bytes / 2**30:.1f} GiB of memory" if whole.peak_bytes else ""
    text = f"About {rough(whole.seconds)} on this machine{memory}"
    smaller = smaller_size(images.image_size)
    if whole.seconds >= _LONG and smaller is not None:
        height, width = smaller
        size = f"{height}" if height == width else f"{height}x{width}"
        text += f"; with --image-size {size} about {rough(measure(smaller).seconds)}"
    progress.note(f"{text}.")


def rough(seconds: float) -> str:
    """``40 s``, ``8 min`` or ``1 h 10 min``."""
    if seconds < 60:
        return f"{max(1, round(seconds, -1)):.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    minutes = 10 * round(minutes / 10)
    return f"{minutes // 60} h" + (f" {minutes % 60} min" if minutes % 60 else "")
