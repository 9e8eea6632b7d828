"""Loads the compiled ops, or defines them here, and gives every op its reference and its fake implementation."""

import importlib
import importlib.util
import json
import os
import warnings
from importlib import resources

import torch

from . import fake, reference
from .autograd import autograd_kernel

NAMESPACE = "advrbd"


def reference_requested() -> bool:
    """True where the environment variable ADVRBD_REFERENCE=1 asks for plain PyTorch instead of the kernels."""
    return os.environ.get("ADVRBD_REFERENCE", "0") not in ("", "0")


def _reason_of_build(library: str) -> str | None:
    """Why a library was not built, from what setup.py left beside the package."""
    record = resources.files("advrbd_plugin").joinpath("_build.json")
    return json.loads(record.read_text()).get(library) if record.is_file() else None


def _load(library: str) -> str | None:
    """Import one of the compiled libraries, which registers its kernels; the reason where that is impossible."""
    if reference_requested():
        return "ADVRBD_REFERENCE is set"
    if importlib.util.find_spec(f"advrbd_plugin.{library}") is None:
        return _reason_of_build(library) or "advrbd_plugin was installed without it"
    try:
        importlib.import_module(f"advrbd_plugin.{library}")
    except ImportError as error:
        return str(error).splitlines()[0]
    return None


def _define_schemas() -> torch.library.Library:
    text = resources.files("advrbd_plugin.ops").joinpath("schemas.inc").read_text()
    library = torch.library.Library(NAMESPACE, "DEF")
    for schema in json.loads(f"[{text}]"):
        library.define(schema)
    return library


OPS = (
    "patch_origins",
    "philox_uniform",
    "perturb",
    "perturb.tensor",
    "kl_divergence",
    "score_step",
    "score_step.tensor",
)

MISSING_EXTENSION = _load("_C")  # the schemas and the CPU kernels
MISSING_CUDA = MISSING_EXTENSION or _load("_C_cuda")
# The libraries are kept: PyTorch drops what they registered when they are collected.
_schemas = _define_schemas() if MISSING_EXTENSION else None
_implementations = torch.library.Library(NAMESPACE, "IMPL")
for _name in OPS:
    _packet, _, _overload = _name.partition(".")
    _op = getattr(getattr(torch.ops.advrbd, _packet), _overload or "default")
    _function = _name.replace(".", "_")
    # Serves every device for which no compiled kernel is registered.
    _implementations.impl(_name, getattr(reference, _function), "CompositeExplicitAutograd")
    _implementations.impl(_name, autograd_kernel(_op), "Autograd", with_keyset=True)
    torch.library.register_fake(f"{NAMESPACE}::{_name}", getattr(fake, _function), lib=_implementations)

if MISSING_EXTENSION and not reference_requested():
    warnings.warn(
        f"advrbd_plugin: the compiled ops are not available ({MISSING_EXTENSION}); slower plain PyTorch serves. "
        "`advrbd doctor` says what is missing.",
        RuntimeWarning,
        stacklevel=2,
    )
