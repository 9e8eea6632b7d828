"""Trained models as files that can be opened without trust: ``model.safetensors`` and ``model.json``.

``backdoored_model.safetensors``, of the model before the defense, has the same description.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from torch import nn

from advrbd_plugin.data.fitting import FITS
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.files import write_bytes, write_json
from advrbd_plugin.nn.classifier import ImageClassifier
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.nn.models import MODELS
from advrbd_plugin.plain import brief, one_reason, read_json

MODEL_WEIGHTS = "model.safetensors"
BACKDOORED_WEIGHTS = "backdoored_model.safetensors"
MODEL_DESCRIPTION = "model.json"
_FORMAT = "advrbd-model"
_VERSION = 1
_LONGEST_NAME = 1000
_MOST_CLASSES = 65_536  # a model is built before its weights are read: its size must not come from a short list


def save_model(
    folder: str | os.PathLike[str], model: nn.Module, description: ModelDescription, weights: str = MODEL_WEIGHTS
) -> None:
    """Write ``weights`` and ``model.json`` into ``folder``.

    Raises:
        StorageError: the disk is full or the folder cannot be written.
    """
    from safetensors.torch import save

    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in model.state_dict().items()}
    write_bytes(Path(folder) / weights, save(tensors))
    about = {"format": _FORMAT, "version": _VERSION, "input": "float (N, C, H, W) in [0, 1]"}
    write_json(Path(folder) / MODEL_DESCRIPTION, about | asdict(description))


def load_model(
    folder: str | os.PathLike[str],
    weights: str = MODEL_WEIGHTS,
    *,
    model: str | None = None,
    make_model: Callable[[], nn.Module] | None = None,
) -> ImageClassifier:
    """The model that ``advrbd defend``, :meth:`ImageClassifier.save` or :func:`save_model` wrote.

    Nothing in the two files is executed: JSON and safetensors hold data only.

    Args:
        folder: holds ``weights`` and ``model.json``.
        weights: :data:`BACKDOORED_WEIGHTS` for the model before the defense.
        model: the network's name (:func:`advrbd_plugin.make_model`), where it is none of the built-in ones: the files,
            which may come from anyone, do not choose code that is run.
        make_model: builds the network, where it is your own.

    Returns:
        The model in eval mode on the CPU.

    Raises:
        AdvrBDError: a file is missing, damaged, or does not fit the other.

    Examples:
        >>> import tempfile
        >>> from advrbd_plugin import ImageClassifier, make_model
        >>> model = ImageClassifier(make_model("resnet_narrow", num_classes=2), ModelDescription.default("cat", "dog"))
        >>> with tempfile.TemporaryDirectory() as folder:
        ...     _ = model.save(folder)
        ...     load_model(folder)
        ImageClassifier(resnet_narrow, 2 classes, pictures of 3x32x32, 307,794 weights)
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    for name in (MODEL_DESCRIPTION, weights):
        if not (folder / name).is_file():
            scanned = (folder / BACKDOORED_WEIGHTS).is_file()
            why = " (`advrbd scan`, which wrote this one, trains no clean model)" if scanned else ""
            raise AdvrBDError(f"{folder} holds no {name}: give a folder that `advrbd defend` wrote{why}")
    description = _read_description(folder / MODEL_DESCRIPTION)
    if model is not None:
        description = replace(description, name=model)
    elif make_model is None and description.name not in MODELS:
        raise AdvrBDError(
            f"{folder / MODEL_DESCRIPTION} names the network {brief(description.name)}, which is not built in: if you "
            "know it, name it yourself (--network, or load_model(..., model=NAME or make_model=FUNCTION))"
        )
    try:
        tensors = load_file(folder / weights)
    except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {folder / weights}") from error
        raise AdvrBDError(f"{folder / weights} is damaged: {one_reason(error)}") from error
    network = description.build() if make_model is None else make_model()
    try:
        network.load_state_dict(tensors)
    except RuntimeError as error:
        if is_out_of_memory(error):
            raise out_of_memory(f"reading {folder / weights}") from error
        raise AdvrBDError(f"{folder / weights} does not fit {MODEL_DESCRIPTION} ({description.name})") from error
    return ImageClassifier(network.eval(), description)


def _read_description(path: Path) -> ModelDescription:
    content = read_json(path)
    if not isinstance(content, dict) or content.get("format") != _FORMAT:
        raise AdvrBDError(f"{path} does not describe a model that advrbd wrote")
    if content.get("version") != _VERSION:
        raise AdvrBDError(f"{path} has version {brief(content.get('version'))}, this advrbd reads {_VERSION}")
    return _checked_description(path, content)


def _checked_description(path: Path, content: Mapping[str, Any]) -> ModelDescription:
    """The fields, each of the type and range it must have: the file may come from anyone."""

    def wrong(field: str, allowed: str) -> AdvrBDError:
        return AdvrBDError(f"{path}: {field} must be {allowed}, got {brief(content.get(field))}")

    def numbers(field: str, kinds: tuple[type, ...], count: int, low: float, high: float) -> tuple[Any, ...]:
        values = content.get(field)
        right_count = isinstance(values, list) and len(values) == count
        if not right_count or not all(type(value) in kinds and low <= value <= high for value in values or ()):
            raise wrong(field, f"{count} numbers in [{low}, {high}]")
        return tuple(values or ())

    name, names, channels = (content.get(field) for field in ("name", "class_names", "in_channels"))
    if not isinstance(name, str) or len(name) > _LONGEST_NAME:
        raise wrong("name", "a model's name")
    if not isinstance(names, list) or not 0 < len(names) <= _MOST_CLASSES:
        raise wrong("class_names", "distinct names")
    if not all(isinstance(each, str) and len(each) <= _LONGEST_NAME for each in names) or len(set(names)) < len(names):
        raise wrong("class_names", "distinct names")
    if type(channels) is not int or channels not in (1, 3):
        raise wrong("in_channels", "1 or 3")
    if content.get("fit", FITS[0]) not in FITS:
        raise wrong("fit", f"one of {', '.join(FITS)}")
    return ModelDescription(
        name=name,
        class_names=tuple(names),
        in_channels=channels,
        image_size=numbers("image_size", (int,), 2, 1, 4096),
        mean=numbers("mean", (int, float), channels, 0, 1),
        std=numbers("std", (int, float), channels, 0.001, 1),
        fit=content.get("fit", "squeeze"),
    )
