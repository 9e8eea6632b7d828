"""The versions, commit and hardware that made a result."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import subprocess
from pathlib import Path
from typing import Any

import torch

import advrbd_plugin

_PACKAGES = ("torch", "torchvision", "numpy", "pillow", "scikit-learn")


def versions() -> dict[str, str]:
    """The versions of this package, Python and the packages that the figures depend on."""
    found = {"advrbd_plugin": advrbd_plugin.__version__, "python": platform.python_version()}
    for package in _PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str | None:
    """The git commit of this package's checkout, with ``+changes`` if tracked files differ; ``None`` elsewhere."""
    package = Path(advrbd_plugin.__file__).parent
    if _git(package, "ls-files", "--error-unmatch", "__init__.py") is None:
        return None  # installed somewhere that merely lies inside another repository
    revision = _git(package, "rev-parse", "HEAD")
    if revision is None:
        return None
    return f"{revision}+changes" if _git(package, "status", "--porcelain", "--untracked-files=no", ".") else revision


def hardware() -> dict[str, Any]:
    """Processor, cores, threads that torch uses, and the GPU where there is one."""
    return {
        "processor": _processor(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "gpu": torch.cuda.get_device_name(0) if torch.cuda.is_available() else None,
    }


def _git(folder: Path, *arguments: str) -> str | None:
    try:
        done = subprocess.run(["git", "-C", str(folder), *arguments], capture_output=True, text=True, timeout=10)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _processor() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
