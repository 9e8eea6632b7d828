"""Loads the compiled ops, or defines them here, and gives every op its reference and its fake implementation."""

import ctypes
import json
import os
import warnings
from importlib import resources
from pathlib import Path

import torch

from . import fake, nvrtc, reference
from .autograd import autograd_kernel

NAMESPACE = "advrbd"


def reference_requested() -> bool:
    """True where the environment variable ADVRBD_REFERENCE=1 asks for plain PyTorch instead of the kernels."""
    return os.environ.get("ADVRBD_REFERENCE", "0") not in ("", "0")


def _file(library: str) -> Path:
    return Path(str(resources.files("advrbd_plugin"))) / f"{library}.so"


def _reason_of_build(library: str) -> str | None:
    """Why a library was not built, from what setup.py left beside the package."""
    record = _file(library).with_name("_build.json")
    return json.loads(record.read_text()).get(library) if record.is_file() else None


def _load(library: str) -> str | None:
    """Load one of the compiled libraries, which registers its kernels; the reason where that is impossible."""
    if reference_requested():
        return "ADVRBD_REFERENCE is set"
    if not _file(library).is_file():
        return _reason_of_build(library) or "advrbd_plugin was installed without it"
    try:
        torch.ops.load_library(_file(library))
    except (OSError, RuntimeError) as error:
        return str(error).splitlines()[0]
    return None


def _nvrtc_requested() -> bool:
    """True where ADVRBD_NVRTC=1 asks for kernels compiled at run time, though nvcc's may be there."""
    return os.environ.get("ADVRBD_NVRTC", "") == "1"


def _start_nvrtc() -> str | None:
    """Let the kernels of CUDA tensors be compiled when they are first used; the reason where that is impossible."""
    if os.environ.get("ADVRBD_NVRTC") == "0":
        return "ADVRBD_NVRTC=0"
    if torch.version.cuda is None:
        return "this PyTorch is built without CUDA"
    path = nvrtc.find_library()
    if path is None:
        return f"PyTorch's NVRTC (libnvrtc.so.{torch.version.cuda.split('.')[0]}) is not found"
    missing = _load("libadvrbd_nvrtc")
    if missing is None:
        _compilers.append(nvrtc.Compiler(_file("libadvrbd_nvrtc"), path))
    return missing


_compilers: list[nvrtc.Compiler] = []  # kept: the library calls it


def fact(library: str, name: str) -> str:
    """What a loaded library says of itself: ``advrbd_cpu_instruction_set``, ``advrbd_cuda_architectures``."""
    say = getattr(ctypes.CDLL(str(_file(library))), name)
    say.restype = ctypes.c_char_p
    return str(say().decode())


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

MISSING_EXTENSION = _load("libadvrbd_cpu")  # the schemas and the CPU kernels
MISSING_CUDA = MISSING_EXTENSION or ("ADVRBD_NVRTC is set" if _nvrtc_requested() else _load("libadvrbd_cuda"))
# Why no kernels are compiled at run time; None where they serve CUDA tensors.
MISSING_NVRTC = MISSING_EXTENSION or (_start_nvrtc() if MISSING_CUDA else "the kernels that nvcc compiled serve")
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
