"""Networks by name beyond the built-in ones: torchvision's, timm's, and the user's own ``module:function``.

A name comes from the command line or from the user's own call, never from a file: the model files that advrbd reads may
name built-in networks alone (:func:`advrbd_plugin.report.load_model`). No weights are downloaded.
"""

from __future__ import annotations

import importlib
import inspect
import os
import sys
from collections.abc import Callable
from typing import Any

from torch import Tensor, nn

from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.nn.factories import NetworkFactory
from advrbd_plugin.plain import brief, one_reason

TORCHVISION, TIMM = "torchvision:", "timm:"
WAYS = "torchvision:NAME, timm:NAME, or module:function of your own"
_NORMALISED = (TORCHVISION, TIMM)


class RepeatGrey(nn.Module):
    """Grey images for a network that takes three channels."""

    def forward(self, images: Tensor) -> Tensor:
        return images.expand(-1, 3, -1, -1)


def is_built_elsewhere(name: str) -> bool:
    """Whether a name is none of the built-in networks' but one that this module builds."""
    return ":" in name


def check_named(name: str) -> None:
    """Refuse a name before any work is done: import what it names, and look it up there.

    Raises:
        AdvrBDError: the library or the module cannot be imported, or has nothing of that name.
    """
    if name.startswith(TORCHVISION):
        _torchvision_models(name)
    elif name.startswith(TIMM):
        _timm(name)
    else:
        own_function(name)


def build_named(name: str, *, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """A freshly initialised network.

    Args:
        name: ``torchvision:NAME``, ``timm:NAME`` or ``module:function``.
        num_classes: number of logits.
        in_channels: 1 or 3.
        image_size: (height, width).

    Returns:
        A module from (N, in_channels, H, W) float to (N, num_classes) logits. Those of the two libraries expect images
        that are normalised, see :func:`takes_normalised`; the user's own takes pixel scale [0, 1].

    Raises:
        AdvrBDError: as :func:`check_named`; or the constructor fails.
    """
    try:
        if name.startswith(TORCHVISION):
            return _build_torchvision(name, num_classes, in_channels, image_size)
        if name.startswith(TIMM):
            return _build_timm(name, num_classes, in_channels, image_size)
        return _build_own(name, num_classes, in_channels, image_size)
    except AdvrBDError:
        raise
    except Exception as error:  # the code of others
        if is_out_of_memory(error):
            raise out_of_memory(f"building {name}") from error
        raise AdvrBDError(
            f"{name} cannot be built for {num_classes} classes of {in_channels}x{image_size[0]}x{image_size[1]} "
            f"({type(error).__name__}): {one_reason(error)}"
        ) from error


def takes_normalised(name: str) -> bool:
    """Whether the network expects images that are normalised, so that a first layer must do so."""
    return not is_built_elsewhere(name) or name.startswith(_NORMALISED)


def _torchvision_models(name: str) -> tuple[Any, str]:
    """(torchvision.models, the name there)."""
    try:
        from torchvision import models
    except ImportError as error:
        raise AdvrBDError(
            f"{name} needs torchvision, which cannot be imported ({one_reason(error)}): pip install torchvision"
        ) from error
    wanted = name.removeprefix(TORCHVISION)
    known = models.list_models(module=models)
    if wanted not in known:
        raise AdvrBDError(f"torchvision has no classifier {brief(wanted)}: {_some(known, wanted)}")
    return models, wanted


def _build_torchvision(name: str, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    models, wanted = _torchvision_models(name)
    more: dict[str, Any] = {}
    if wanted.startswith("vit_"):
        more = {"image_size": image_size[0]}
    elif wanted.startswith("maxvit"):
        more = {"input_size": image_size}
    elif wanted in ("googlenet", "inception_v3"):
        more = {"aux_logits": False, "init_weights": True}
    network = models.get_model(wanted, weights=None, num_classes=num_classes, **more)
    return network if in_channels == 3 else nn.Sequential(RepeatGrey(), network)


def _timm(name: str) -> tuple[Any, str]:
    """(timm, the name there). Only names of its own list: others may name a place to download from."""
    try:
        import timm
    except ImportError as error:
        raise AdvrBDError(
            f"{name} needs timm, which cannot be imported ({one_reason(error)}): pip install 'advrbd_plugin[timm]'"
        ) from error
    wanted = name.removeprefix(TIMM)
    known = timm.list_models()
    if wanted not in known:
        raise AdvrBDError(f"timm has no network {brief(wanted)}: {_some(known, wanted)}")
    return timm, wanted


def _build_timm(name: str, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    timm, wanted = _timm(name)
    given = {"pretrained": False, "num_classes": num_classes, "in_chans": in_channels}
    try:
        return timm.create_model(wanted, img_size=image_size, **given)
    except TypeError:  # convolutional networks take every size and no such argument
        return timm.create_model(wanted, **given)


def _some(known: list[str], wanted: str) -> str:
    import difflib

    close = difflib.get_close_matches(wanted[:100], known, n=3)
    return f"did you mean {' or '.join(close)}?" if close else f"it has {', '.join(known[:8])}, ..."


def own_function(name: str) -> Callable[..., Any]:
    """The function ``module:function``, imported from the current folder or from where Python finds modules.

    Raises:
        AdvrBDError: the module fails when it is imported, or has no such function.
    """
    module_name, _, attribute = name.partition(":")
    if not all(part.isidentifier() for part in (*module_name.split("."), *attribute.split("."))):
        raise AdvrBDError(f"the model {brief(name)} must be module:function, such as my_networks:small_net")
    here = os.getcwd()
    if here not in sys.path and "" not in sys.path:
        sys.path.insert(0, here)  # as `python -m` does; installed commands have it not
    try:
        found: Any = importlib.import_module(module_name)
    except ModuleNotFoundError as error:
        if error.name == module_name.split(".")[0] or error.name == module_name:
            raise AdvrBDError(
                f"the model {name}: there is no module {module_name} in {here} or among Python's modules"
            ) from error
        raise AdvrBDError(f"the model {name}: {module_name} imports {error.name}, which is not installed") from error
    except Exception as error:  # the user's own code
        if is_out_of_memory(error):
            raise out_of_memory(f"importing {module_name}") from error
        raise AdvrBDError(
            f"the model {name}: importing {module_name} fails ({type(error).__name__}): {one_reason(error)}"
        ) from error
    for part in attribute.split("."):
        if not hasattr(found, part):
            names = [each for each, value in vars(found).items() if callable(value) and not each.startswith("_")]
            raise AdvrBDError(f"the model {name}: {module_name} has no {part}; it has {', '.join(names[:8]) or 'none'}")
        found = getattr(found, part)
    if isinstance(found, nn.Module) or not callable(found):
        raise AdvrBDError(f"the model {name} must be a function that makes a network, got {brief(found)}")
    return found


def _build_own(name: str, num_classes: int, in_channels: int, image_size: tuple[int, int]) -> nn.Module:
    """Call the user's function with those of our arguments that it knows."""
    function = own_function(name)
    offered = {"num_classes": num_classes, "in_channels": in_channels, "image_size": image_size}
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        parameters = {}  # type: ignore[assignment]
    all_of_them = any(each.kind is inspect.Parameter.VAR_KEYWORD for each in parameters.values())
    given = {key: value for key, value in offered.items() if key in parameters or all_of_them}
    needed = [
        key
        for key, each in parameters.items()
        if each.default is each.empty and key not in given and each.kind not in (each.VAR_POSITIONAL, each.VAR_KEYWORD)
    ]
    if needed:
        raise AdvrBDError(f"the model {name} needs the argument {needed[0]}; it may take {', '.join(offered)}")
    return NetworkFactory(lambda: function(**given))()
