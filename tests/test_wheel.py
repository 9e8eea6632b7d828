"""The wheel, built and installed in an empty environment from which the repository cannot be imported.

ADVRBD_WHEEL_PYTHONS names further interpreters, as PATH does folders, each with a torch, pytest and whatever else the
package needs: the same wheel is installed for them too.
"""

import os
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from pathlib import Path

import pytest

from advrbd_plugin import __version__

ROOT = Path(__file__).resolve().parents[1]
SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "csrc", "configs", "advrbd_plugin")
PYTHONS = [sys.executable, *filter(None, os.environ.get("ADVRBD_WHEEL_PYTHONS", "").split(os.pathsep))]
SAY_WHAT_SERVES = """
import advrbd_plugin, torch
from advrbd_plugin import ops
print(advrbd_plugin.__file__, ops.backend(torch.empty(0)), sep="\\n")
"""


def run(*command: object, folder: Path) -> str:
    clean = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "ADVRBD_REFERENCE")}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=clean | {"ADVRBD_CUDA": "0", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    assert done.returncode == 0, f"{command}:\n{done.stdout[-4000:]}"
    return done.stdout


@pytest.fixture(scope="module")
def wheel(tmp_path_factory) -> Path:
    if shutil.which("c++") is None and shutil.which("g++") is None:
        pytest.skip("no C++ compiler to build with: install g++")
    folder = tmp_path_factory.mktemp("wheel")
    for name in SOURCES:
        source = ROOT / name
        if source.is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__", "_build.json")
            shutil.copytree(source, folder / name, symlinks=True, ignore=ignored)
        else:
            shutil.copy(source, folder)
    # No isolation, because the torch that is there is taken: none is downloaded.
    run(
        sys.executable,
        "-m",
        "pip",
        "wheel",
        "-q",
        "--no-build-isolation",
        "--no-deps",
        "-w",
        "dist",
        ".",
        folder=folder,
    )
    (made,) = (folder / "dist").iterdir()
    return made


@pytest.fixture(scope="module", params=PYTHONS)
def environment(wheel, tmp_path_factory, request) -> Path:
    """A virtual environment with the wheel alone; what else it needs comes from the interpreter's own packages."""
    folder = tmp_path_factory.mktemp("environment")
    run(request.param, "-m", "venv", "--without-pip", folder, folder=folder)
    packages = run(folder / "bin/python", "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
    own = run(request.param, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))", folder=folder)
    # The folder of packages alone: an editable installation's finder, which knows the repository, is not started.
    Path(packages.strip(), "packages.pth").write_text(own)
    install = ("-m", "pip", "--python", folder / "bin/python", "install", "-q", "--no-deps", "--no-index")
    run(sys.executable, *install, "--ignore-installed", wheel, folder=folder)
    return folder


def test_it_serves_every_python_and_holds_what_is_needed(wheel):
    platform = sysconfig.get_platform().replace("-", "_").replace(".", "_")
    assert wheel.name == f"advrbd_plugin-{__version__}-py3-none-{platform}.whl"
    names = zipfile.ZipFile(wheel).namelist()
    compiled = [name for name in names if name.endswith(".so")]
    assert sorted(compiled) == ["advrbd_plugin/libadvrbd_cpu.so", "advrbd_plugin/libadvrbd_nvrtc.so"]  # ADVRBD_CUDA=0
    assert {"advrbd_plugin/_build.json", "advrbd_plugin/ops/schemas.inc", "advrbd_plugin/configs/robust.yaml"} <= set(
        names
    )
    library = zipfile.ZipFile(wheel).read(compiled[0])
    assert b"libpython" not in library and b"PyObject" not in library and b"libtorch_python" not in library


def test_the_kernels_serve_where_it_is_installed(environment):
    file, backend = run(environment / "bin/python", "-W", "error", "-c", SAY_WHAT_SERVES, folder=environment).split()
    assert Path(file).is_relative_to(environment)
    assert backend == "cpu"


def test_the_op_tests_pass_there(environment):
    shutil.copytree(ROOT / "tests/ops", environment / "tests/ops", ignore=shutil.ignore_patterns("__pycache__"))
    (environment / "tests/conftest.py").write_text(
        "import pytest, torch\n\n\n@pytest.fixture\ndef device():\n    return torch.device('cpu')\n"
    )
    tests = [f"tests/ops/test_{name}.py" for name in ("kernels", "gradients", "compile")]
    options = ("-q", "-x", "-p", "no:cacheprovider", "--import-mode=importlib")
    done = run(environment / "bin/python", "-m", "pytest", *options, *tests, folder=environment)
    assert " passed" in done and "failed" not in done


def test_the_command_runs_there(environment):
    if not (Path(environment) / "bin/advrbd").exists():
        pytest.fail("the wheel has no advrbd command")
    doctor = run(environment / "bin/advrbd", "doctor", folder=environment)
    assert "ops on CPU tensors" in doctor and "cpu (" in doctor
    options = ("--samples", "200", "--epochs", "1", "--set", "relearn_epochs=1", "--set", "enhancement_steps=2")
    run(environment / "bin/advrbd", "demo", "--out", "out", *options, folder=environment)
    assert (environment / "out/report.html").exists()
