"""The facts behind ``advrbd doctor``: versions, backend, GPU, compiler, and what to do about what is missing."""

import importlib.metadata
import os
import platform
import re
import shutil
import subprocess
import sys
import warnings
from dataclasses import dataclass
from typing import Literal

PACKAGES = (
    "torch",
    "torchvision",
    "numpy",
    "filelock",
    "jinja2",
    "matplotlib",
    "pillow",
    "platformdirs",
    "pyyaml",
    "rich",
    "safetensors",
    "scikit-learn",
)
REINSTALL = "pip install --no-build-isolation --force-reinstall --no-deps ."


@dataclass(frozen=True)
class Finding:
    """One line of the report; ``advice`` says what to do where ``state`` is not "ok"."""

    topic: str
    value: str
    state: Literal["ok", "note", "missing"] = "ok"
    advice: str = ""


def examine() -> list[Finding]:
    """Look at this installation; never raises for what is missing."""
    return [*_versions(), *_backends(), _gpu(), _compiler(), _nvcc(), _ninja(), _threads()]


def healthy(findings: list[Finding]) -> bool:
    """True where nothing that is needed is missing."""
    return all(finding.state != "missing" for finding in findings)


def _versions() -> list[Finding]:
    from advrbd_plugin import __version__

    findings = [Finding("advrbd_plugin", __version__), _python()]
    for package in PACKAGES:
        try:
            findings.append(Finding(package, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            findings.append(Finding(package, "not installed", "missing", f"pip install {package}"))
    return findings


def _python() -> Finding:
    version = platform.python_version()
    if (3, 10) <= sys.version_info < (3, 14):
        return Finding("Python", version)
    return Finding("Python", version, "note", "supported are Python 3.10 to 3.13")


def _backends() -> list[Finding]:
    import torch

    with warnings.catch_warnings():
        warnings.simplefilter("ignore", RuntimeWarning)
        from advrbd_plugin import ops
        from advrbd_plugin.ops.library import (
            MISSING_CUDA,
            MISSING_EXTENSION,
            MISSING_NVRTC,
            fact,
            reference_requested,
        )

    serving = ops.backend(torch.empty(0))
    if MISSING_EXTENSION:
        advice = "unset ADVRBD_REFERENCE" if reference_requested() else f"install a C++ compiler, then {REINSTALL}"
        return [Finding("ops on CPU tensors", f"{serving} ({MISSING_EXTENSION})", "note", advice)]
    instructions = fact("libadvrbd_cpu", "advrbd_cpu_instruction_set")
    return [Finding("ops on CPU tensors", f"{serving} ({instructions})"), _cuda_backend(MISSING_CUDA, MISSING_NVRTC)]


def _cuda_backend(missing: str | None, missing_nvrtc: str | None) -> Finding:
    """The CUDA kernels, or why nvcc's are ``missing`` and NVRTC compiles none."""
    import torch

    if torch.version.cuda is None:
        return Finding("ops on CUDA tensors", "none: this PyTorch has no CUDA")
    if missing and missing_nvrtc is None:
        return Finding("ops on CUDA tensors", f"nvrtc: each is compiled when it is first used ({missing})")
    if missing:
        advice = f"fix one of the two; for the first, then ADVRBD_CUDA=1 {REINSTALL}"
        return Finding("ops on CUDA tensors", f"reference (nvcc: {missing}; NVRTC: {missing_nvrtc})", "note", advice)
    from advrbd_plugin.ops.library import fact

    return _cuda_kernels(fact("libadvrbd_cuda", "advrbd_cuda_architectures"))


def _cuda_kernels(architectures: str) -> Finding:
    """Whether the compiled kernels run on every GPU here; no other backend serves a GPU."""
    import torch

    gpus = [torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())]
    unserved = sorted({f"{major}.{minor}" for major, minor in gpus if not runs_on(architectures, (major, minor))})
    if not unserved:
        return Finding("ops on CUDA tensors", f"cuda (built for {architectures})")
    advice = f'TORCH_CUDA_ARCH_LIST="{";".join(unserved)}" {REINSTALL}'
    return Finding("ops on CUDA tensors", f"built for {architectures}, not for this GPU", "missing", advice)


def runs_on(architectures: str, capability: tuple[int, int]) -> bool:
    """Whether code compiled for ``architectures``, a TORCH_CUDA_ARCH_LIST, runs on a GPU of this capability.

    ``8.0`` runs on 8.0 and 8.6, ``8.0+PTX`` on whatever came later, ``9.0a`` on 9.0 alone. Of a name, such as
    ``Ampere``, nothing is known here, and it counts as running.
    """
    for each in re.split("[; ]+", architectures.strip("; ")):
        parts = re.fullmatch(r"(\d+)\.(\d+)([af]?)(\+PTX)?", each)
        if parts is None:
            return True
        built = int(parts[1]), int(parts[2])
        if built == capability or (parts[4] and built <= capability):
            return True
        if not parts[3] and built[0] == capability[0] and built <= capability:
            return True
    return False


def _gpu() -> Finding:
    import torch

    if torch.cuda.is_available():
        names = [torch.cuda.get_device_name(index) for index in range(torch.cuda.device_count())]
        return Finding("GPU", ", ".join(names))
    if torch.version.cuda is None:
        return Finding(
            "GPU", f"none usable (PyTorch {torch.__version__} is a CPU build)", "note", "install a CUDA build of torch"
        )
    return Finding(
        "GPU", "none visible", "note", "runs on the CPU; if there is a GPU, check its driver with nvidia-smi"
    )


def _compiler() -> Finding:
    name = os.environ.get("CXX", "").split()[:1]
    compiler = shutil.which(name[0]) if name else shutil.which("c++") or shutil.which("g++")
    if compiler is None:
        return Finding("C++ compiler", "not found", "note", "install g++ (Debian, Ubuntu: apt install g++), or set CXX")
    return Finding("C++ compiler", f"{compiler}, {_first_line([compiler, '--version'])}")


def _nvcc() -> Finding:
    import torch

    home = os.environ.get("CUDA_HOME") or os.environ.get("CUDA_PATH")
    candidate = os.path.join(home, "bin", "nvcc") if home else "nvcc"
    nvcc = shutil.which(candidate) or shutil.which("/usr/local/cuda/bin/nvcc")
    if nvcc is None:
        advice = "only needed to build the CUDA kernels: install the CUDA toolkit, or set CUDA_HOME"
        return Finding("nvcc", "not found", "note", advice)
    release = re.search(r"release ([\d.]+)", _output([nvcc, "--version"]))
    version = release[1] if release else "unknown release"
    if release and torch.version.cuda and version.split(".")[0] != torch.version.cuda.split(".")[0]:
        advice = f"PyTorch needs CUDA {torch.version.cuda}: set CUDA_HOME to a toolkit of that major version"
        return Finding("nvcc", f"{nvcc}, {version}", "note", advice)
    return Finding("nvcc", f"{nvcc}, {version}")


def _ninja() -> Finding:
    try:
        return Finding("ninja", importlib.metadata.version("ninja"))
    except importlib.metadata.PackageNotFoundError:
        return Finding("ninja", "not installed", "note", "pip install ninja makes builds faster")


def _threads() -> Finding:
    import torch

    return Finding("threads", f"{torch.get_num_threads()} of {os.cpu_count()} CPUs")


def _first_line(command: list[str]) -> str:
    lines = _output(command).splitlines()
    return lines[0] if lines else "version unknown"


def _output(command: list[str]) -> str:
    try:
        return subprocess.run(command, capture_output=True, text=True, timeout=20, check=False).stdout
    except (OSError, subprocess.TimeoutExpired):
        return ""
