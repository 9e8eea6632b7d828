"""A network as a file that other programs run."""

from __future__ import annotations

import copy
import logging
import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import nn

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import explain_os_error, workspace_for

SUFFIXES = (".onnx", ".pt2")


def export_network(network: nn.Module, shape: tuple[int, int, int], path: str | os.PathLike[str]) -> Path:
    """Write a network in eval mode.

    Args:
        network: from (N, C, H, W) float32 to (N, num_classes).
        shape: (C, H, W).
        path: ends in one of :data:`SUFFIXES`.

    Returns:
        ``path``.

    Raises:
        AdvrBDError: another ending, a package is missing, or the network cannot be traced.
    """
    path = Path(path)
    if path.suffix not in SUFFIXES:
        raise AdvrBDError(f"a model is exported to a file that ends in {' or '.join(SUFFIXES)}, got {path}")
    plain = copy.deepcopy(network).cpu().eval().to(memory_format=torch.contiguous_format)
    example = (torch.zeros(2, *shape),)
    batch = ({0: torch.export.Dim("batch", min=1)},)
    with workspace_for(path) as workspace, _quietly():
        unfinished = workspace / path.name
        if path.suffix == ".onnx":
            _need_onnx()
            torch.onnx.export(
                plain,
                example,
                unfinished,
                input_names=["images"],
                output_names=["logits"],
                dynamic_shapes=batch,
                dynamo=True,
                external_data=False,
                verbose=False,
            )
        else:
            torch.export.save(torch.export.export(plain, example, dynamic_shapes=batch), unfinished)
        try:
            os.replace(unfinished, path)
        except OSError as error:
            raise explain_os_error(error, path) from error
    return path


def _need_onnx() -> None:
    from importlib.util import find_spec

    for package in ("onnx", "onnxscript"):
        if find_spec(package) is None:
            raise AdvrBDError(f"an export to ONNX needs the package {package}: pip install onnx onnxscript")


@contextmanager
def _quietly() -> Iterator[None]:
    """The exporters tell of their own inner workings."""
    before = logging.root.manager.disable
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(before)
