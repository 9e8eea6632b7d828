"""The CUDA kernels on a CPU: csrc/cuda as it is, compiled for an emulated GPU, against the CPU ops.

ADVRBD_TORTURE=1 runs ten times the cases and more planted bugs.
"""

import ctypes
import importlib.util
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from advrbd_plugin import ops
from advrbd_plugin.ops.nvrtc import find_library

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
TORTURE = os.environ.get("ADVRBD_TORTURE", "0") not in ("", "0")

spec = importlib.util.spec_from_file_location("emulation", HERE / "emulation.py")
emulation = importlib.util.module_from_spec(spec)
spec.loader.exec_module(emulation)


def python(*arguments: object) -> subprocess.CompletedProcess:
    path = os.pathsep.join([str(HERE.parents[1]), os.environ.get("PYTHONPATH", "")])
    return subprocess.run(
        [sys.executable, "-W", "ignore", *map(str, arguments)],
        env=os.environ | {"PYTHONPATH": path},
        capture_output=True,
        text=True,
        check=False,
    )


def processor_flags() -> set[str]:
    path = Path("/proc/cpuinfo")
    return set(path.read_text().split()) if path.exists() else set()


def has_driver() -> bool:
    try:
        ctypes.CDLL("libcuda.so.1")
    except OSError:
        return False
    return True


@pytest.fixture(scope="module")
def library() -> Path:
    if platform.machine() != "x86_64" or sys.platform != "linux":
        pytest.skip("the emulated GPU switches between threads by x86-64 instructions, for Linux")
    if not {"fma", "f16c"} <= processor_flags():
        pytest.skip("the emulated GPU needs a processor with FMA and F16C")
    if emulation.compiler() is None:
        pytest.skip("no C++ compiler builds the emulated GPU: install g++ or set CXX")
    if ops.backend(torch.empty(0)) == "reference":
        pytest.skip("the compiled CPU ops, which the emulated GPU is compared with, are not there")
    return emulation.build_once()


def test_the_kernels_equal_the_cpu_ops(library):
    done = python(HERE / "fuzz.py", library, "--cases", 3000 if TORTURE else 300)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cases equal" in done.stdout


def test_launches_by_name_run_the_same_kernels(library, tmp_path, monkeypatch):
    """csrc/nvrtc from the op's task to the driver: NVRTC names and compiles each kernel, the emulated GPU runs it."""
    nvrtc = find_library()
    if nvrtc is None:
        pytest.skip("no NVRTC is here: it comes with PyTorch's builds for CUDA")
    if has_driver():
        pytest.skip("CUDA's driver is here: run tests/ops with ADVRBD_NVRTC=1 on the GPU")
    launches = emulation.build_nvrtc(tmp_path, library.parent)
    monkeypatch.setenv("ADVRBD_KERNEL_CACHE", str(tmp_path / "kernels"))
    done = python(HERE / "fuzz.py", launches, "--cases", 300 if TORTURE else 12, "--nvrtc", nvrtc)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "cases equal" in done.stdout
    assert len(list((tmp_path / "kernels").iterdir())) > 8


# Kernel file, its text, and the bug that is planted in its place.
BUGS = {
    "no barrier before origins are drawn again": (
        "perturb",
        "    __syncthreads();  // the origins before these are no longer read\n",
        "",
    ),
    "a reduction that leaves out half a warp": ("kl_divergence", "kWarp / 2", "kWarp / 4"),
    "a value beyond the batch": ("perturb", "if (first < size)", "if (first <= size)"),
    "a vector that ends in the next sample, with this one's patches": ("perturb", "++next.sample;", ""),
}
MORE_BUGS = {
    "no barrier after origins are drawn": ("perturb", "    __syncthreads();\n    const", "    const"),
    "a whole vector where the batch ends inside it": ("perturb", "count >= kValues &&", "count > 0 &&"),
    "a vector that is not aligned": ("perturb", "% sizeof(Values) == 0", "% 1 == 0"),
    "the first masks' patches for the later ones, too": ("perturb", "first_mask + i", "i"),
    "the next row's values left out": ("perturb", "|| (!kRegular && other.contains(i))", ""),
    "a shuffle that some lanes leave out": (
        "kl_divergence",
        "divergence = terms.divergence(warp_sum(sum));",
        "divergence = lane == 0 ? terms.divergence(warp_sum(sum)) : 0.0f;",
    ),
    "a patch that ends a value early": ("perturb", "begin + width > 0", "begin + width > 1"),
    "a division that is off by one": ("perturb", "/ divisor + 1;", "/ divisor;"),
    "the channel of the row before": ("perturb", "place.plane : next_plane", "place.plane : place.plane"),
    "the channel of a neighbour": ("perturb", "channel + 1 < interleaved", "channel + 2 < interleaved"),
}


@pytest.mark.parametrize("bug", BUGS | (MORE_BUGS if TORTURE else {}))
def test_a_planted_bug_is_caught(library, tmp_path, bug):
    kernel, text, planted = (BUGS | MORE_BUGS)[bug]
    sources = shutil.copytree(CSRC, tmp_path / "csrc")
    header = sources / "cuda" / f"{kernel}.cuh"
    assert header.read_text().count(text) >= 1, f"{header.name} has changed: plant this bug elsewhere"
    header.write_text(header.read_text().replace(text, planted, 1))
    built = python(HERE / "emulation.py", tmp_path, sources, kernel, library.parent)
    assert built.returncode == 0, built.stdout + built.stderr
    done = python(HERE / "fuzz.py", tmp_path / emulation.LIBRARY, "--cases", 150)
    assert done.returncode < 0 or done.stdout.startswith("case "), done.stdout + done.stderr  # a crash, or a difference
