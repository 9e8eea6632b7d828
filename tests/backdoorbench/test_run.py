"""Running a script of a checkout: as Python would, the checkout unchanged, mistakes in one line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from advrbd_plugin.backdoorbench import requirements
from advrbd_plugin.backdoorbench.run import run_script, value_of
from advrbd_plugin.errors import AdvrBDError

ROOT = Path(__file__).resolve().parents[2]

SCRIPT = """
import argparse, json, os, sys
parser = argparse.ArgumentParser()
parser.add_argument("--device")
parser.add_argument("--name")
args = parser.parse_args()
import neighbour, numpy
print(json.dumps([os.getcwd(), sys.argv, args.device, args.name, neighbour.__name__, numpy.infty, __name__]))
"""


@pytest.fixture
def checkout(fake_checkout):
    (fake_checkout / "attack").mkdir()
    (fake_checkout / "attack/probe.py").write_text(SCRIPT)
    (fake_checkout / "attack/neighbour.py").write_text("")
    (fake_checkout / "defense/evil.py").write_text("import torch\ntorch.load('evil.pt')\n")
    (fake_checkout / "defense/broken.py").write_text("raise KeyError('what is wrong')\n")
    return fake_checkout


def run(checkout, *arguments, start=("-m", "advrbd_plugin.cli")):
    command = [sys.executable, *start, "backdoorbench", "run"]
    command += ["--any-version", "--backdoorbench", str(checkout), *arguments]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    return subprocess.run(command, capture_output=True, text=True, env=environment, cwd=checkout.parent)


def test_a_script_runs_as_it_would_there(checkout, tmp_path):
    before = sorted(checkout.rglob("*"))
    done = run(checkout, "--report", "report.json", "attack/probe.py", "--name", "x y")
    assert done.returncode == 0, done.stderr
    where, arguments, device, name, neighbour, infinity, module = json.loads(done.stdout)
    assert where == str(checkout)
    assert arguments[0] == "attack/probe.py"
    assert (name, neighbour, infinity, module) == ("x y", "neighbour", float("inf"), "__main__")
    assert device == "cpu" and "--device cpu is added" in done.stderr
    assert sorted(checkout.rglob("*")) == before
    report = json.loads((checkout.parent / "report.json").read_text())
    assert report["seconds"] > 0 and report["peak_memory_bytes"] > 2**20
    assert "record-types" in report["patches"]


def test_a_strangers_file_is_refused_in_one_line(checkout):
    import torch

    class Refused:
        def __reduce__(self):
            return os.mkdir, ("made",)

    torch.save(Refused(), checkout / "evil.pt")
    done = run(checkout, "defense/evil.py")
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert last.startswith("advrbd: error: a file that defense/evil.py loads holds") and "mkdir" in last
    assert not (checkout / "made").exists()
    assert run(checkout, "--trust-record", "defense/evil.py").returncode == 0
    assert (checkout / "made").is_dir()


def test_a_scripts_own_error_keeps_its_traceback(checkout):
    done = run(checkout, "defense/broken.py")
    assert done.returncode == 1 and "KeyError: 'what is wrong'" in done.stderr


def test_what_a_script_imports_and_is_not_installed_is_one_line(checkout):
    (checkout / "defense/painting.py").write_text("import cv2\n")
    program = "import sys; sys.modules['cv2'] = None; from advrbd_plugin.cli import main; "
    program += "sys.exit(main(sys.argv[1:]))"
    done = run(checkout, "defense/painting.py", start=("-c", program))
    last = done.stderr.strip().splitlines()[-1]
    assert done.returncode == 2 and "Traceback" not in done.stderr
    assert "scripts import cv2" in last and last.endswith("pip install 'advrbd_plugin[backdoorbench]'")


def test_what_is_missing_is_seen_without_an_import(monkeypatch):
    monkeypatch.setattr(requirements, "IMPORTED", ("numpy", "no_such_module", "this"))
    assert requirements.missing_requirements() == ["no_such_module"] and "this" not in sys.modules
    with pytest.raises(ModuleNotFoundError), requirements.explained_requirements():
        import no_such_file_of_the_script  # noqa: F401
    named = pytest.raises(AdvrBDError, match="scripts import no_such_module, which")
    with named, requirements.explained_requirements():
        import no_such_module.part  # noqa: F401


@pytest.mark.parametrize(
    "arguments, said",
    [
        (["attack/probe.py", "--device", "cuda:0"], "--device cuda:0: this PyTorch sees no CUDA device"),
        (["attack/prob.py"], "has no script attack/prob.py; attack/ holds neighbour.py, probe.py"),
        (["../outside.py"], r"has no script \.\./outside.py"),
        (["attack"], "has no script attack"),
    ],
)
def test_mistakes_stop_before_anything_runs(checkout, monkeypatch, arguments, said):
    import torch

    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(AdvrBDError, match=said):
        run_script(checkout, arguments[0], arguments[1:])


def test_value_of():
    assert value_of(["--a", "1", "--b=2", "--a", "3"], "--a") == "3"
    assert value_of(["--a", "1", "--b=2"], "--b") == "2"
    assert value_of(["--a"], "--a") is None
