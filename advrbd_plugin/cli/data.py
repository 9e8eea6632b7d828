"""The options that say where data lies and how it is read, and the reading itself; BackdoorBench's records too."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrbd_plugin.cli.options import image_size, positive
from advrbd_plugin.errors import AdvrBDError

if TYPE_CHECKING:
    from advrbd_plugin.data import LoadedImages

# A copy, so that --help need not import torch with the data; a test compares the two.
FITS = ("pad", "crop", "squeeze")
DATA_HELP = (
    "a folder, zip or tar with one sub-folder of images a class; a CSV or Parquet table of path and label; an .npz; "
    "Parquet or a Hugging Face data set with pictures; WebDataset shards; torchvision:NAME; a poisoned set of "
    "BackdoorBench or backdoor-toolbox (docs/data.md)"
)


def add_data_options(parser: argparse.ArgumentParser, *, samples: str | None = None, sizes: bool = True) -> None:
    """How the pictures are read.

    Args:
        samples: what ``--samples`` does, in words; without it the option is not offered.
        sizes: whether to offer the size and the fit, which a trained model decides itself.
    """
    if sizes:
        parser.add_argument(
            "--image-size", type=image_size, metavar="N|HxW", help="size that all images are brought to"
        )
        parser.add_argument(
            "--fit",
            choices=FITS,
            default=FITS[0],
            help="images of another shape: keep all of them and fill up with the mirror image (pad), keep the middle "
            "(crop), or stretch (squeeze); default: %(default)s",
        )
    if samples is not None:
        parser.add_argument("--samples", type=positive, help=samples)
    parser.add_argument("--root", metavar="DIR", help="folder that a table's paths are below, or torchvision's root")
    parser.add_argument("--image-column", metavar="NAME", help="column of a table with the images or their paths")
    parser.add_argument(
        "--label-column", metavar="NAME", help="column of a table, or key of a WebDataset, with the label"
    )


def read_data(data: str, arguments: argparse.Namespace, part: str = "train", **options: Any) -> LoadedImages:
    """Read data of any kind with the options of :func:`add_data_options`.

    Args:
        data: as the user named it.
        arguments: of the command.
        part: ``train`` or ``test``, where the data set has both.
        options: those of :func:`advrbd_plugin.data.load_data`, in place of the command's.
    """
    from advrbd_plugin.data import Columns, load_data

    given: dict[str, Any] = {
        "root": arguments.root,
        "columns": Columns(arguments.image_column, arguments.label_column),
        "image_size": getattr(arguments, "image_size", None),
        "fit": getattr(arguments, "fit", FITS[0]),
        "samples": getattr(arguments, "samples", None),
    } | options
    if is_record(data):
        return _read_record(data, part, given)
    return load_data(data, part=part, **given)


def is_record(data: str) -> bool:
    """Whether ``data`` is the folder that an attack of BackdoorBench left."""
    return (Path(data) / "attack_result.pt").is_file()


def _read_record(data: str, part: str, options: dict[str, Any]) -> LoadedImages:
    """The poisoned training set of a record; the toolbox's own code, in its checkout, reads the clean pictures."""
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.backdoorbench.poisoned_set import load_poisoned_set

    if part != "train":
        raise AdvrBDError(
            f"{data} is a record of BackdoorBench, which is a training set: judge a model on other images"
        )
    checkout = str(find_checkout())
    if checkout not in sys.path:
        sys.path.insert(0, checkout)
    taken = ("root", "image_size", "fit", "class_names", "samples", "seed", "visit")
    return load_poisoned_set(Path(data), **{name: options[name] for name in taken if name in options})
