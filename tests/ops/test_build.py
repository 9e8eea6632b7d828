"""setup.py where something is missing or fails: what can be built is, and the reason for the rest is kept.

It builds small stand-ins for csrc, with the real compiler and toolkits that are scripts.
"""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

ROOT = Path(__file__).resolve().parents[2]
MODULE = '#include <Python.h>\nextern "C" PyObject* PyInit__C() { return nullptr; }\n'
BUILT = {"_C", "libadvrbd_cpu", "libadvrbd_nvrtc"}
NVCC = """#!/bin/sh
case "$*" in
  *--version*) echo "Cuda compilation tools, release {release}, V{release}.0" ;;
  *--dryrun*) ;;
  *) echo "host_config.h:143:2: error: #error -- unsupported GNU version!" >&2; exit 1 ;;
esac
"""


@pytest.fixture
def project(tmp_path) -> Path:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler to build with: install g++")
    shutil.copy(ROOT / "setup.py", tmp_path)
    for name in ("advrbd_plugin/ops", "csrc/cpu/kernels", "csrc/cuda", "csrc/nvrtc"):
        (tmp_path / name).mkdir(parents=True)
    (tmp_path / "advrbd_plugin/ops/schemas.inc").touch()
    (tmp_path / "csrc/module.cpp").write_text(MODULE)
    for name in (
        "checks.cpp",
        "prepare.cpp",
        "cpu/register.cpp",
        "cuda/register.cpp",
        "cuda/kernel.cu",
        "nvrtc/register.cpp",
    ):
        (tmp_path / "csrc" / name).touch()
    return tmp_path


def toolkit(project: Path, release: str) -> dict[str, str]:
    """A CUDA toolkit whose nvcc gives its version, and refuses the C++ compiler when it should compile."""
    nvcc = project / "cuda/bin/nvcc"
    nvcc.parent.mkdir(parents=True)
    nvcc.write_text(NVCC.format(release=release))
    nvcc.chmod(0o755)
    (project / "cuda/lib64").mkdir()
    return {"CUDA_HOME": str(project / "cuda")}


def build(project: Path, **environment: str) -> tuple[dict[str, str], set[str], subprocess.CompletedProcess]:
    """Reasons, names of the libraries that are there, and the process."""
    names = ("ADVRBD_CUDA", "CUDA_HOME", "CUDA_PATH", "TORCH_CUDA_ARCH_LIST", "CXX")
    clean = {name: value for name, value in os.environ.items() if name not in names}
    done = subprocess.run(
        [sys.executable, "setup.py", "build_ext", "--inplace"],
        cwd=project,
        env=clean | {"PATH": f"{Path(sys.executable).parent}{os.pathsep}{clean['PATH']}"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )
    record = project / "advrbd_plugin/_build.json"
    libraries = {path.name.partition(".")[0] for path in (project / "advrbd_plugin").glob("*.so")}
    return json.loads(record.read_text()) if record.exists() else {}, libraries, done


def matching() -> str:
    if torch.version.cuda is None:
        pytest.skip("this PyTorch is built without CUDA, so no toolkit is tried")
    return torch.version.cuda


def test_an_nvcc_that_refuses_the_compiler_leaves_the_cpu_kernels(project):
    stale = project / "advrbd_plugin/libadvrbd_cuda.so"
    stale.touch()
    reasons, libraries, done = build(project, **toolkit(project, matching()))
    assert done.returncode == 0, done.stdout + done.stderr
    assert libraries == BUILT
    assert reasons["libadvrbd_cpu"] == ""
    assert (
        "it does not compile: " in reasons["libadvrbd_cuda"] and "unsupported GNU version" in reasons["libadvrbd_cuda"]
    )
    assert f"CUDA kernels: no ({reasons['libadvrbd_cuda']})" in done.stdout


def test_an_architecture_that_nobody_knows_leaves_the_cpu_kernels(project):
    reasons, libraries, done = build(project, TORCH_CUDA_ARCH_LIST="77.7", **toolkit(project, matching()))
    assert (done.returncode, libraries) == (0, BUILT), done.stdout + done.stderr
    assert "77.7" in reasons["libadvrbd_cuda"]


def test_a_blank_list_of_architectures_is_none(project):
    reasons, libraries, done = build(project, TORCH_CUDA_ARCH_LIST=" ", **toolkit(project, matching()))
    assert (done.returncode, libraries) == (0, BUILT), done.stdout + done.stderr
    assert "unsupported GNU version" in reasons["libadvrbd_cuda"]  # the compiler was called


def test_another_release_of_cuda_is_named(project):
    matching()
    reasons, libraries, _ = build(project, **toolkit(project, "9.2"))
    assert libraries == BUILT
    assert reasons["libadvrbd_cuda"] == f"nvcc 9.2 does not match PyTorch's CUDA {torch.version.cuda}"


def test_cuda_that_was_asked_for_by_name_is_an_error_where_it_fails(project):
    reasons, _, done = build(project, ADVRBD_CUDA="1", **toolkit(project, matching()))
    assert done.returncode != 0
    assert f"ADVRBD_CUDA=1, but {reasons['libadvrbd_cuda']}" in done.stderr


def test_cuda_can_be_left_out(project):
    reasons, libraries, done = build(project, ADVRBD_CUDA="0", **toolkit(project, "9.2"))
    assert (done.returncode, libraries) == (0, BUILT), done.stdout + done.stderr
    assert reasons == {"libadvrbd_cpu": "", "libadvrbd_cuda": "ADVRBD_CUDA=0", "libadvrbd_nvrtc": "", "_C": ""}


def test_without_a_compiler_and_with_one_that_fails_plain_pytorch_serves(project):
    reasons, libraries, done = build(project, ADVRBD_CUDA="0", CXX="/no/such/compiler")
    assert (done.returncode, libraries) == (0, set()), done.stdout + done.stderr
    assert reasons["libadvrbd_cpu"] == "no C++ compiler is found (install g++ or set CXX)"
    (project / "csrc/cpu/register.cpp").write_text("#error it is broken\n")
    reasons, libraries, done = build(project, ADVRBD_CUDA="0")
    assert (done.returncode, libraries) == (0, set()), done.stdout + done.stderr
    assert "it is broken" in reasons["libadvrbd_cpu"]


def test_a_module_that_fails_leaves_the_ops(project):
    (project / "csrc/module.cpp").write_text("#error it is broken\n")
    reasons, libraries, done = build(project, ADVRBD_CUDA="0")
    assert (done.returncode, libraries) == (0, BUILT - {"_C"}), done.stdout + done.stderr
    assert reasons["libadvrbd_cpu"] == "" and "it is broken" in reasons["_C"]


def test_a_build_of_another_layout_leaves_nothing_behind(project):
    (project / "advrbd_plugin/_C_cuda.cpython-311-x86_64-linux-gnu.so").touch()
    assert build(project, ADVRBD_CUDA="0")[1] == BUILT
