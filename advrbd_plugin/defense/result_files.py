"""A result on the disk: tensors, JSON, and a folder for each model. Nothing in it can run code."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import explain_os_error, finite, write_bytes, write_json
from advrbd_plugin.nn.classifier import ImageClassifier
from advrbd_plugin.nn.model_file import load_model
from advrbd_plugin.plain import brief, one_reason, read_json

_JSON, _TENSORS = "result.json", "result.safetensors"
_FORMAT, _VERSION = "advrbd-result", 1
_MODELS = ("backdoored_model", "model")


@dataclass(frozen=True, eq=False)
class SampleList:
    """What is known of a set beside its pictures.

    Attributes:
        labels: (N,) int64.
        class_names: in the order of the labels.
        sample_ids: (N,) int64.
        paths: where each picture lies, or ``None`` if it came from no file.
    """

    labels: Tensor
    class_names: tuple[str, ...]
    sample_ids: Tensor
    paths: tuple[str, ...] | None = None

    @classmethod
    def of(cls, image_set: ImageSet) -> SampleList:
        """Those of a set."""
        return cls(image_set.labels, image_set.class_names, image_set.sample_ids, image_set.paths)

    def __repr__(self) -> str:
        return f"SampleList({len(self.labels):,} samples, {len(self.class_names)} classes)"


@dataclass(frozen=True, eq=False)
class Parts:
    """What a result consists of: named tensors, what is ready for JSON, the models and the samples."""

    tensors: dict[str, Tensor]
    rest: dict[str, Any]
    models: dict[str, ImageClassifier]
    samples: SampleList


def write(folder: str | os.PathLike[str], kind: str, parts: Parts) -> None:
    """Write a result; ``result.json`` comes last, so that a folder without it is unfinished.

    Args:
        folder: new, empty, or with an earlier result.
        kind: name of the result's class.
    """
    from safetensors.torch import save

    folder = Path(folder)
    _refuse_others(folder)
    tensors = {**parts.tensors, "labels": parts.samples.labels, "sample_ids": parts.samples.sample_ids}
    with suppress(FileNotFoundError, NotADirectoryError):
        (folder / _JSON).unlink()
    for name, model in parts.models.items():
        model.save(folder / name)
    write_bytes(folder / _TENSORS, save({name: tensor.cpu().contiguous() for name, tensor in tensors.items()}))
    about = {
        "format": _FORMAT,
        "version": _VERSION,
        "kind": kind,
        "models": list(parts.models),
        "class_names": list(parts.samples.class_names),
        "paths": None if parts.samples.paths is None else list(parts.samples.paths),
    }
    write_json(folder / _JSON, about | {"rest": finite(parts.rest)})


def read(folder: str | os.PathLike[str], kind: str, make_model: Callable[[], nn.Module] | None) -> Parts:
    """What :func:`write` wrote.

    Raises:
        AdvrBDError: a file is missing or damaged, or holds another kind of result.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    folder = Path(folder)
    if not (folder / _JSON).is_file():
        raise AdvrBDError(f"{folder} holds no {_JSON}: give a folder that result.save wrote")
    content = read_json(folder / _JSON)
    if not isinstance(content, dict) or content.get("format") != _FORMAT or content.get("version") != _VERSION:
        raise AdvrBDError(f"{folder / _JSON} is no result that this advrbd wrote")
    if content.get("kind") != kind:
        raise AdvrBDError(f"{folder} holds {brief(content.get('kind'))}, not {kind}: load it with that class")
    try:
        tensors = load_file(folder / _TENSORS)
    except (SafetensorError, OSError, ValueError, RuntimeError) as error:
        raise AdvrBDError(f"{folder / _TENSORS} is damaged or missing: {one_reason(error)}") from error
    try:
        names, paths = tuple(map(str, content["class_names"])), content["paths"]
        known = None if paths is None else tuple(map(str, paths))
        samples = SampleList(tensors.pop("labels"), names, tensors.pop("sample_ids"), known)
        models = {
            str(name): load_model(folder / name, make_model=make_model) for name in content["models"] if name in _MODELS
        }
        _check(samples, tensors)
        return Parts(tensors, dict(content["rest"]), models, samples)
    except (KeyError, TypeError, ValueError) as error:
        raise AdvrBDError(f"{folder} holds a damaged result ({type(error).__name__})") from error


def _check(samples: SampleList, tensors: dict[str, Tensor]) -> None:
    count = len(samples.labels)
    of_samples = [tensor for name, tensor in tensors.items() if name.startswith("verdicts.")]
    labels = (samples.labels, tensors["verdicts.suggested_label"])
    if any(tensor.shape != (count,) for tensor in (samples.sample_ids, *of_samples)):
        raise ValueError("tensors of different lengths")
    if any(each.dtype != torch.int64 for each in labels) or (samples.paths and len(samples.paths) != count):
        raise ValueError("labels or paths")
    for each in labels:
        if count and not 0 <= int(each.min()) <= int(each.max()) < len(samples.class_names):
            raise ValueError("labels out of range")


def _refuse_others(folder: Path) -> None:
    try:
        names = sorted(entry.name for entry in folder.iterdir()) if folder.exists() else []
    except OSError as error:
        raise explain_os_error(error, folder) from error
    ours = {_JSON, _TENSORS, *_MODELS}
    foreign = [name for name in names if name not in ours]
    if foreign:
        raise AdvrBDError(f"{folder} holds other files ({foreign[0]}): give a new or empty folder")
