"""Kernels compiled at run time, without a GPU: NVRTC needs none. tests/emulation runs what is launched by name."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from advrbd_plugin.ops import library, nvrtc

TYPES = ("float", "__nv_bfloat16", "__half")


@pytest.fixture(scope="module")
def compiler() -> nvrtc.Nvrtc:
    path = nvrtc.find_library()
    if path is None:
        pytest.skip("no NVRTC is here: it comes with PyTorch's builds for CUDA")
    return nvrtc.Nvrtc(path)


@pytest.fixture
def cache(tmp_path, monkeypatch) -> Path:
    monkeypatch.setenv("ADVRBD_KERNEL_CACHE", str(tmp_path / "kernels"))
    return tmp_path / "kernels"


def compile_for(compiler: nvrtc.Nvrtc, target: str, function: str, arguments: str = "") -> tuple[bytes, bytes]:
    expression = f"advrbd::cuda::{function}" + (f"<{arguments}>" if arguments else "")
    return nvrtc.compiled(compiler, function, expression, target)


@pytest.mark.parametrize("target", ["sm_80", "sm_90"])
def test_every_kind_of_kernel_compiles_to_machine_code(compiler, cache, target):
    kernels = [("patch_origins_kernel", ""), ("philox_uniform_kernel", "")]
    kernels += [("kl_divergence_kernel", scalar) for scalar in TYPES]
    kernels += [("perturb_kernel", "float, 4, true"), ("perturb_kernel", "__nv_bfloat16, 8, false")]
    kernels += [("perturb_kernel", "__half, 1, false"), ("score_step_kernel", "float, __half, 8, true")]
    for function, arguments in kernels:
        name, code = compile_for(compiler, target, function, arguments)
        assert code.startswith(b"\x7fELF") and function.encode() in name and name in code
    assert len(list(cache.iterdir())) == len(kernels)


def test_a_newer_gpu_gets_code_that_its_driver_compiles(compiler, cache):
    assert b".target sm_90" in compile_for(compiler, "compute_90", "philox_uniform_kernel")[1]


@pytest.mark.parametrize(
    ("capability", "target"),
    [((9, 0), "sm_90"), ((8, 6), "sm_80"), ((9, 9), "sm_90"), ((12, 0), "compute_90"), ((8, 0), "sm_80")],
)
def test_the_target_is_the_nearest_that_the_gpu_runs(capability, target):
    assert nvrtc.target_for(capability, [75, 80, 90]) == target


def test_a_gpu_older_than_all_targets_is_named():
    with pytest.raises(ValueError, match=r"compiles for capability 7\.5 and later, the GPU has 7\.0"):
        nvrtc.target_for((7, 0), [75, 80, 90])


def test_a_kernel_is_compiled_once(compiler, cache, monkeypatch):
    first = compile_for(compiler, "sm_90", "philox_uniform_kernel")
    monkeypatch.setattr(nvrtc.Nvrtc, "compile", lambda *arguments: pytest.fail("it is compiled again"))
    assert compile_for(compiler, "sm_90", "philox_uniform_kernel") == first


@pytest.mark.parametrize("damage", [lambda content: content[:-1], lambda content: b"", lambda content: content + b"x"])
def test_a_damaged_file_is_compiled_anew(compiler, cache, damage):
    first = compile_for(compiler, "sm_90", "philox_uniform_kernel")
    (kept,) = cache.iterdir()
    whole = kept.read_bytes()
    kept.write_bytes(damage(whole))
    assert compile_for(compiler, "sm_90", "philox_uniform_kernel") == first
    assert kept.read_bytes() == whole


def test_a_place_that_cannot_be_written_keeps_nothing(compiler, tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("ADVRBD_KERNEL_CACHE", str(tmp_path / "file" / "kernels"))
    assert compile_for(compiler, "sm_90", "philox_uniform_kernel")[1].startswith(b"\x7fELF")


def test_what_does_not_compile_is_told_in_the_compilers_words(compiler, cache):
    with pytest.raises(RuntimeError, match="error: .*no_such_type"):
        compile_for(compiler, "sm_90", "kl_divergence_kernel", "no_such_type")
    assert not cache.exists() or not list(cache.iterdir())


def test_parameters_are_as_large_for_the_gpu_as_for_the_host(compiler, cache):
    """The driver copies as many bytes as the kernel's code says; a task with 64-bit pointers, packed by hand."""
    code = compile_for(compiler, "compute_90", "kl_divergence_kernel", "float")[1].decode()
    sizes = [int(size) for size in re.findall(r"\.param \.align 8 \.b8 \w+_param_0\[(\d+)\]", code)]
    assert sizes == [8 * 7]  # dtype (padded), three pointers, three sizes


def run_python(code: str, **environment: str) -> list[str]:
    clean = {name: value for name, value in os.environ.items() if not name.startswith("ADVRBD_")}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        env=clean | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


SAY = """
import torch
from advrbd_plugin.ops import library
key = torch._C._dispatch_has_kernel_for_dispatch_key("advrbd::perturb", "CUDA")
print(library.MISSING_CUDA, library.MISSING_NVRTC, key, sep="\\n")
"""


def test_what_serves_cuda_tensors_can_be_chosen(compiler):
    if library.MISSING_EXTENSION:
        pytest.skip(f"the compiled ops are not there ({library.MISSING_EXTENSION})")
    assert run_python(SAY, ADVRBD_NVRTC="1") == ["ADVRBD_NVRTC is set", "None", "True"]
    missing, nvrtc_missing, served = run_python(SAY, ADVRBD_NVRTC="0")
    assert (missing == "None") == (served == "True")
    assert nvrtc_missing in ("ADVRBD_NVRTC=0", "the kernels that nvcc compiled serve")


def test_without_nvrtc_the_reason_is_told(monkeypatch):
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(library.nvrtc, "find_library", lambda: None)
    assert library._start_nvrtc() == "PyTorch's NVRTC (libnvrtc.so.13) is not found"
    monkeypatch.setattr(torch.version, "cuda", None)
    assert library._start_nvrtc() == "this PyTorch is built without CUDA"
