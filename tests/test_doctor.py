"""What `advrbd doctor` finds, here and where something is missing."""

import shutil

import pytest

from advrbd_plugin import ops
from advrbd_plugin.cli import installation as doctor


def by_topic() -> dict[str, doctor.Finding]:
    return {finding.topic: finding for finding in doctor.examine()}


def test_it_names_versions_and_the_backend_that_serves():
    import torch

    findings = by_topic()
    assert torch.__version__.startswith(findings["torch"].value)
    assert findings["ops on CPU tensors"].value.startswith(ops.backend(torch.empty(0)))
    assert doctor.healthy(list(findings.values()))


def test_whatever_is_not_ok_comes_with_advice():
    for finding in doctor.examine():
        assert (finding.state == "ok") == (finding.advice == ""), finding


@pytest.mark.parametrize(
    ("capability", "runs"), [((7, 5), False), ((8, 0), True), ((8, 6), True), ((9, 0), True), ((12, 0), True)]
)
def test_which_gpus_compiled_kernels_run_on(capability, runs):
    assert doctor.runs_on("8.0;9.0+PTX", capability) == runs


@pytest.mark.parametrize(
    ("architectures", "capability", "runs"),
    [
        ("8.0 9.0", (9, 0), True),
        ("9.0a", (9, 0), True),
        ("9.0a", (9, 1), False),
        ("7.5;", (8, 0), False),
        ("Ampere", (8, 0), True),
    ],
)
def test_every_form_of_a_list_of_architectures_is_read(architectures, capability, runs):
    assert doctor.runs_on(architectures, capability) == runs


def test_the_reason_why_there_are_no_cuda_kernels_is_told(monkeypatch):
    import torch

    monkeypatch.setattr(torch.version, "cuda", "13.0")
    found = doctor._cuda_backend("it does not compile: Unsupported gpu architecture 'compute_101'", "ADVRBD_NVRTC=0")
    assert found.state == "note" and "compute_101" in found.value and "ADVRBD_CUDA=1" in found.advice
    found = doctor._cuda_backend("nvcc is not found", None)
    assert found.state == "ok" and found.value.startswith("nvrtc") and "nvcc is not found" in found.value
    monkeypatch.setattr(torch.version, "cuda", None)
    assert doctor._cuda_backend("nvcc is not found", "this PyTorch is built without CUDA").state == "ok"


def test_the_reasons_of_the_build_are_read(monkeypatch, tmp_path):
    from advrbd_plugin.ops import library

    monkeypatch.setattr(library.resources, "files", lambda package: tmp_path)
    monkeypatch.delenv("ADVRBD_REFERENCE", raising=False)
    assert library._load("libadvrbd_cuda") == "advrbd_plugin was installed without it"
    (tmp_path / "_build.json").write_text('{"libadvrbd_cpu": "", "libadvrbd_cuda": "nvcc is not found"}')
    assert library._load("libadvrbd_cuda") == "nvcc is not found"


def test_a_gpu_that_the_kernels_do_not_run_on_is_missing_them(monkeypatch):
    import torch

    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setattr(torch.cuda, "get_device_capability", lambda index: (7, 5))
    found = doctor._cuda_kernels("8.0;9.0+PTX")
    assert found.state == "missing" and 'TORCH_CUDA_ARCH_LIST="7.5"' in found.advice


def test_it_says_what_to_do_without_compiler_toolkit_and_package(monkeypatch):
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr(doctor, "PACKAGES", ("no-such-package",))
    findings = by_topic()
    assert "g++" in findings["C++ compiler"].advice
    assert "CUDA_HOME" in findings["nvcc"].advice
    assert findings["no-such-package"].state == "missing"
    assert not doctor.healthy(list(findings.values()))
