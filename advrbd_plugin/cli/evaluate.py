"""``advrbd evaluate``: accuracy and attack success rate of a model that ``advrbd defend`` wrote."""

from __future__ import annotations

import argparse
import dataclasses
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrbd_plugin.cli.data import add_data_options, read_data
from advrbd_plugin.cli.options import add_device_option, add_network_option, check_device
from advrbd_plugin.errors import AdvrBDError

if TYPE_CHECKING:
    from advrbd_plugin.data import LoadedImages
    from advrbd_plugin.report import ModelDescription


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "evaluate",
        help="measure a cleaned model on labelled images",
        description="Clean accuracy on --clean; with --triggered (images that carry the trigger, in folders of their "
        "true class) also the attack success rate and the robust accuracy. The figures are percentages, with --json "
        "fractions. FOLDER may be data of any other kind (docs/data.md); of a set with several parts the test part is "
        "read.",
    )
    parser.add_argument("model", metavar="DIR", help="a folder that `advrbd defend` or `repair` wrote")
    parser.add_argument("--clean", metavar="FOLDER", required=True, help="clean test images, one sub-folder a class")
    parser.add_argument("--triggered", metavar="FOLDER", help="triggered test images in folders of their true class")
    parser.add_argument("--target", metavar="CLASS", help="the target class of the attack")
    parser.add_argument("--json", action="store_true", help="print one JSON object and nothing else")
    add_network_option(parser)
    add_data_options(parser, sizes=False)
    add_device_option(parser)
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors and the figures")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load the model and the images, measure, print."""
    if (arguments.triggered is None) != (arguments.target is None):
        arguments.parser.error("--triggered and --target belong together")
    from advrbd_plugin.evaluation.metrics import evaluate
    from advrbd_plugin.report import load_model

    check_device(arguments.device)
    model = load_model(model_folder(arguments.model), model=arguments.network)
    description = model.description
    target = _target_label(description, arguments.target)
    loaded = load_for_model(arguments.clean, arguments, "test", description)
    clean, left_out = loaded.image_set, len(loaded.left_out)
    triggered, attacked = None, None
    if arguments.triggered is not None:
        loaded = load_for_model(arguments.triggered, arguments, "test", description)
        triggered, left_out = loaded.image_set, left_out + len(loaded.left_out)
        attacked = sum(label != target for label in triggered.labels.tolist())
    model.to(arguments.device or _default_device())
    performance = evaluate(model, clean, triggered, target)
    figures = {
        "acc": performance.acc,
        "asr": performance.asr,
        "ra": performance.ra,
        "clean_images": len(clean),
        "triggered_images": attacked,
        "left_out": left_out,
    }
    if arguments.json:
        print(json.dumps(figures, allow_nan=False))
    else:
        _print_table(figures)
    return 0


def _target_label(description: ModelDescription, name: str | None) -> int | None:
    if name is None:
        return None
    if name not in description.class_names:
        known = ", ".join(description.class_names[:20])
        raise AdvrBDError(f"--target must be one of the model's classes ({known}), got {name!r}")
    return description.class_names.index(name)


def model_folder(place: str) -> Path:
    """The folder of a model, which may be given by its weights file.

    Raises:
        AdvrBDError: another file, which would not be the one that is loaded.
    """
    from advrbd_plugin.nn.model_file import MODEL_WEIGHTS

    path = Path(place)
    if not path.is_file():
        return path
    if path.name != MODEL_WEIGHTS:
        raise AdvrBDError(f"the model must be a folder or its file {MODEL_WEIGHTS}, got {place}")
    return path.parent


def load_for_model(
    data: str, arguments: argparse.Namespace, part: str, description: ModelDescription, **reading: Any
) -> LoadedImages:
    """Labelled images in the model's size and channels; their classes must be among the model's.

    Args:
        data: of any kind that is read.
        arguments: of the command, with the options of :func:`advrbd_plugin.cli.data.add_data_options`.
        part: ``train`` or ``test``, where the data set has both.
        reading: goes to :func:`advrbd_plugin.data.load_data`.
    """
    import torch

    fixed = {"image_size": description.image_size, "fit": description.fit, "class_names": description.class_names}
    loaded = read_data(data, arguments, part, **fixed, **reading)
    if description.in_channels == 3:
        return loaded
    images = loaded.image_set
    grey = images.images.float().mean(dim=1, keepdim=True).round().to(torch.uint8)
    return dataclasses.replace(loaded, image_set=dataclasses.replace(images, images=grey))


def _default_device() -> str:
    import torch

    return "cuda" if torch.cuda.is_available() else "cpu"


def _print_table(figures: Mapping[str, Any]) -> None:
    from rich.console import Console
    from rich.table import Table

    from advrbd_plugin.table import percentage

    table = Table("figure", "value", "images")
    table.add_row("clean accuracy (ACC)", percentage(figures["acc"]), f"{figures['clean_images']:,}")
    if figures["asr"] is not None:
        table.add_row("attack success rate (ASR)", percentage(figures["asr"]), f"{figures['triggered_images']:,}")
        table.add_row("robust accuracy (RA)", percentage(figures["ra"]), f"{figures['triggered_images']:,}")
    console = Console(file=sys.stdout)
    console.print(table)
    if figures["left_out"]:
        console.print(f"{figures['left_out']} files could not be read and are left out.")
