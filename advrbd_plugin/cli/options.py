"""Options that several commands share, and the configuration that follows from them."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING, Any, TypeVar

from advrbd_plugin.errors import AdvrBDError

if TYPE_CHECKING:
    from collections.abc import Callable

    from torch import nn

    from advrbd_plugin.defense.config import AdvrBDConfig
    from advrbd_plugin.nn.description import ModelDescription
    from advrbd_plugin.nn.weights import StartingWeights
    from advrbd_plugin.settings import Settings

SettingsT = TypeVar("SettingsT", bound="Settings")

PRESETS = ("robust", "paper")


def add_defense_options(parser: argparse.ArgumentParser) -> None:
    """The configuration, what overrides it, and the network to train."""
    parser.add_argument("--preset", choices=PRESETS, help="a built-in configuration (default: robust)")
    parser.add_argument("--epochs", type=int, help="epochs of each training (default: 20, and more for a small set)")
    parser.add_argument("--seed", type=int, help="same seed, same result (default: the configuration's)")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=setting,
        help="override any configuration key; may be given several times",
    )
    parser.add_argument(
        "--model",
        default="resnet_narrow",
        metavar="NAME",
        help="network to train: resnet_narrow, resnet18, resnet34, preactresnet18, mobilenet_v2, torchvision:NAME, "
        "timm:NAME, or module:function of your own (default: %(default)s)",
    )
    parser.add_argument("--weights", metavar="FILE", help="begin each training with these weights (safetensors)")
    add_device_option(parser)


def add_network_option(parser: argparse.ArgumentParser) -> None:
    """``--network`` of a command that reads a model, whose files must not say which code to run."""
    parser.add_argument(
        "--network",
        metavar="NAME",
        help="the network, where it is none of the built-in ones: as --model of `advrbd defend`",
    )


def add_output_options(parser: argparse.ArgumentParser, **out: Any) -> None:
    """``--out`` with what ``out`` says of it, and what replaces earlier results there."""
    parser.add_argument("--out", metavar="DIR", **out)
    parser.add_argument(
        "--overwrite",
        action="store_true",
        help="replace the results of another run in --out, or make those of the same run again",
    )


def add_telling_options(parser: argparse.ArgumentParser) -> None:
    """How a command tells what it does and what came of it."""
    parser.add_argument("--json", action="store_true", help="print the results as one JSON object and nothing else")
    parser.add_argument("--quiet", action="store_true", help="say nothing but errors; see the exit status")


def add_device_option(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--device", help="cpu, cuda or cuda:N (default: the GPU where there is one)")


def setting(text: str) -> tuple[str, Any]:
    """``key=value`` with the value read as YAML."""
    from advrbd_plugin.plain import parse_yaml

    key, separator, value = text.partition("=")
    if not separator or not key.strip():
        raise argparse.ArgumentTypeError(f"expected KEY=VALUE, got {text!r}")
    try:
        return key.strip(), parse_yaml(value, f"the value of {key}")
    except AdvrBDError as error:
        raise argparse.ArgumentTypeError(str(error)) from error


def image_size(text: str) -> tuple[int, int]:
    """``32`` for a square or ``48x64`` for height and width."""
    parts = text.lower().split("x")
    if len(parts) > 2 or not all(part.isdigit() and 1 <= int(part) <= 4096 for part in parts):
        raise argparse.ArgumentTypeError(f"expected a size such as 32 or 48x64, up to 4096, got {text!r}")
    return int(parts[0]), int(parts[-1])


def positive(text: str) -> int:
    """A whole number above zero."""
    if not text.isdigit() or int(text) < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text!r}")
    return int(text)


def make_config(arguments: argparse.Namespace, **defaults: Any) -> AdvrBDConfig:
    """The configuration: a preset, then ``defaults``, then the file of ``--config``, then the command line.

    Raises:
        AdvrBDError: an unknown key, or a value out of its range; the line names the key.
    """
    from advrbd_plugin.defense.config import AdvrBDConfig

    config = AdvrBDConfig.preset(arguments.preset or PRESETS[0])
    config = with_file_settings(config.replace(**defaults), arguments)
    given = {"epochs": arguments.epochs, "seed": arguments.seed}
    changes = {key: value for key, value in given.items() if value is not None} | dict(arguments.settings)
    return config.replace(**changes) if changes else config


def with_file_settings(config: SettingsT, arguments: argparse.Namespace) -> SettingsT:
    """``config`` with the settings in the file of ``--config``.

    Raises:
        AdvrBDError: an unknown key, or a value out of its range; the line names the file and the key.
    """
    try:
        return config.replace(**arguments.file_settings)
    except AdvrBDError as error:
        raise AdvrBDError(f"{arguments.config}: {error}") from error


def fit_patch(
    config: AdvrBDConfig, arguments: argparse.Namespace, image_size: tuple[int, int]
) -> tuple[AdvrBDConfig, list[str]]:
    """The configuration with a patch that fits images of (height, width), and a sentence if it is another.

    Half the image's side, as the presets' patch is of 32x32 images. A patch that the user asked for stays.
    """
    side = min(image_size)
    asked_for = {**arguments.file_settings, **dict(arguments.settings)}
    if config.patch_size <= side or "patch_size" in asked_for:
        return config, []
    fitting = max(1, side // 2)
    note = f"The images are smaller than the patch of {config.patch_size} pixels; it is {fitting} (--set patch_size=N)."
    return config.replace(patch_size=fitting), [note]


def check_model(name: str) -> None:
    """Refuse an unknown network before any work is done."""
    from advrbd_plugin.nn.models import MODELS
    from advrbd_plugin.nn.named import WAYS, check_named, is_built_elsewhere

    if is_built_elsewhere(name):
        check_named(name)
    elif name not in MODELS:
        raise AdvrBDError(f"--model must be one of {', '.join(sorted(MODELS))}; {WAYS}; got {name!r}")


def starting_weights(arguments: argparse.Namespace) -> StartingWeights | None:
    """The weights of ``--weights``; a wrong file is refused before any work is done."""
    from advrbd_plugin.nn.weights import StartingWeights

    return None if arguments.weights is None else StartingWeights(arguments.weights)


def model_maker(
    description: ModelDescription, weights: StartingWeights | None, tell: Callable[[str], None]
) -> Callable[[], nn.Module]:
    """A function that makes the network, with the weights that each training begins with.

    Args:
        tell: is given a sentence where a part of the network begins at random all the same.

    Raises:
        AdvrBDError: the weights do not fit the network.
    """
    if weights is None:
        return description.build
    note = weights.into(description.build())
    if note is not None:
        tell(note)

    def make() -> nn.Module:
        network = description.build()
        weights.into(network)
        return network

    return make


def check_device(name: str | None) -> None:
    """Refuse a device that is not there before any work is done."""
    if name is None:
        return
    if not re.fullmatch(r"cpu|cuda(:\d+)?", name):
        raise AdvrBDError(f"--device must be cpu, cuda or cuda:N, got {name!r}")
    import torch

    try:
        device = torch.device(name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise AdvrBDError(f"--device {name} cannot be used: {reason}") from error


def no_detection(detect_targets: bool) -> str:
    """What is shown in place of the suspected target classes where there is none."""
    return "none" if detect_targets else "not examined (these settings judge samples, not classes)"
