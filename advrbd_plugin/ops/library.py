"""Loads the compiled ops, or defines them here, and gives every op its reference and its fake implementation."""

import importlib
import importlib.util
import json
import os
import warnings
from importlib import resources

import torch
from torch import Tensor

from . import reference
from .autograd import autograd_kernel
from .checks import check_halves, check_high, check_kl_divergence, check_patch, check_perturb, check_sample_ids

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


def _fake_patch_origins(sample_ids, height, width, patch_size, num_masks=1, seed=0) -> Tensor:
    check_sample_ids(sample_ids)
    check_patch(height, width, patch_size, num_masks)
    return sample_ids.new_empty(num_masks, sample_ids.shape[0], 2)


def _fake_philox_uniform(sample_ids, high, seed=0) -> Tensor:
    check_sample_ids(sample_ids)
    check_high(high)
    return sample_ids.new_empty(sample_ids.shape[0], 2)


def _fake_perturb(
    images, grad, *, epsilon, patch_size, num_masks=1, seed=0, sample_ids=None, low=0.0, high=1.0
) -> Tensor:
    check_perturb(images, grad, epsilon, patch_size, num_masks, sample_ids, low, high)
    return reference.empty_perturbed(images, num_masks)


def _fake_kl_divergence(logits, perturbed_logits) -> Tensor:
    check_kl_divergence(logits, perturbed_logits)
    return logits.new_empty(perturbed_logits.shape[:2], dtype=torch.float32)


def _fake_score_step(logits, perturbed_logits, images, grad, **options) -> tuple[Tensor, Tensor]:
    check_halves(logits, perturbed_logits, images, grad)
    nothing = (logits if images is None else images).new_empty(0, dtype=torch.float32)
    perturbed = nothing if images is None else _fake_perturb(images, grad, **options)
    divergence = nothing.clone() if logits is None else _fake_kl_divergence(logits, perturbed_logits)
    return perturbed, divergence


_FAKES = {
    "patch_origins": _fake_patch_origins,
    "philox_uniform": _fake_philox_uniform,
    "perturb": _fake_perturb,
    "kl_divergence": _fake_kl_divergence,
    "score_step": _fake_score_step,
}

MISSING_EXTENSION = _load("_C")  # the schemas and the CPU kernels
MISSING_CUDA = MISSING_EXTENSION or _load("_C_cuda")
# The libraries are kept: PyTorch drops what they registered when they are collected.
_schemas = _define_schemas() if MISSING_EXTENSION else None
_implementations = torch.library.Library(NAMESPACE, "IMPL")
for _name, _fake in _FAKES.items():
    # Serves every device for which no compiled kernel is registered.
    _implementations.impl(_name, getattr(reference, _name), "CompositeExplicitAutograd")
    _op = getattr(torch.ops.advrbd, _name).default
    _implementations.impl(_name, autograd_kernel(_op), "Autograd", with_keyset=True)
    torch.library.register_fake(f"{NAMESPACE}::{_name}", _fake, lib=_implementations)

if MISSING_EXTENSION and not reference_requested():
    warnings.warn(
        f"advrbd_plugin: the compiled ops are not available ({MISSING_EXTENSION}); slower plain PyTorch serves. "
        "`advrbd doctor` says what is missing.",
        RuntimeWarning,
        stacklevel=2,
    )
