"""Builds the ops for the GPU that is there, in a copy of the sources, and puts the libraries beside the package.

A copy, because a build that fails leaves nothing in the tree then, and because a setuptools older than pyproject.toml
asks for does without that file. A dry run lets setup.py decide what it would build and compiles nothing.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

from outcome import NO_GPU, PartFile, Skip, part_parser, public

ROOT = Path(__file__).resolve().parents[2]
_SOURCES = ("setup.py", "pyproject.toml", "README.md", "LICENSE", "MANIFEST.in", "csrc", "configs", "advrbd_plugin")
_SETUPTOOLS = 77  # the first that reads pyproject.toml's licence
_SAYS = "advrbd_plugin: "  # before what setup.py has decided
_LIBRARIES = ("*.so", "_build.json")


def main() -> int:
    arguments = part_parser(__doc__).parse_args()
    part = PartFile(arguments.out, arguments.dry_run)
    tree = Path(arguments.work) / "build"
    environment = build_environment(part.content["machine"])
    part.content["environment"] = {name: environment.get(name) for name in ("TORCH_CUDA_ARCH_LIST", "ADVRBD_CUDA")}
    with part.step("configure") as row:
        copy_sources(tree)
        row["version"] = setup(tree, environment, 120, "--version")[-1]
    with part.step("compile") as row:
        if arguments.dry_run:
            raise Skip("dry run: nothing is compiled, the ops that are there serve")
        try:
            lines = setup(tree, environment, arguments.seconds, "build_ext", "--inplace")
            row["decided"] = [public(line.removeprefix(_SAYS)) for line in lines if line.startswith(_SAYS)]
        finally:
            row["libraries"] = install(tree)
    with part.step("kernels on CPU tensors") as row:
        row |= serving("cpu")
    with part.step("kernels on CUDA tensors") as row:
        if not part.content["machine"]["gpu"]:
            raise Skip(NO_GPU)
        row |= serving("cuda")
    return int(part.failed)


def build_environment(machine: dict[str, Any]) -> dict[str, str]:
    """Code for the GPU that is there alone, since each further architecture costs as long again."""
    chosen = {"MAX_JOBS": str(os.cpu_count() or 1)}
    if machine["gpu"]:
        chosen |= {"TORCH_CUDA_ARCH_LIST": machine["capability"], "ADVRBD_CUDA": "1"}
    return {**os.environ, **chosen}


def copy_sources(tree: Path) -> None:
    """The sources alone: no library, and no object of an earlier build."""
    import setuptools

    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    for name in _SOURCES:
        source = ROOT / name
        if name == "pyproject.toml" and int(setuptools.__version__.split(".")[0]) < _SETUPTOOLS:
            continue
        if source.is_dir():
            ignored = shutil.ignore_patterns("*.so", "__pycache__", "_build.json")
            shutil.copytree(source, tree / name, symlinks=True, ignore=ignored)
        elif source.exists():
            shutil.copy(source, tree / name)


def setup(tree: Path, environment: dict[str, str], seconds: float, *words: str) -> list[str]:
    """Run setup.py; the lines that it prints. RuntimeError with the last of them where it fails."""
    done = subprocess.run(
        [sys.executable, "setup.py", *words],
        cwd=tree,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        errors="replace",
        timeout=seconds,
        check=False,
    )
    print(done.stdout, flush=True)
    lines = [line.strip() for line in done.stdout.splitlines() if line.strip()]
    if done.returncode:
        raise RuntimeError(lines[-1] if lines else f"setup.py ended with status {done.returncode}")
    return lines


def install(tree: Path) -> list[str]:
    """Put what was built beside the package's sources, in the place of what was there."""
    built = [path for pattern in _LIBRARIES for path in (tree / "advrbd_plugin").glob(pattern)]
    for pattern in _LIBRARIES if built else ():
        for stale in (ROOT / "advrbd_plugin").glob(pattern):
            stale.unlink()
    for path in built:
        shutil.copy(path, ROOT / "advrbd_plugin" / path.name)
    return [path.name for path in built]


def serving(device: str) -> dict[str, Any]:
    """Which implementation serves, asked of a fresh process; RuntimeError where it is not the compiled one."""
    code = (
        "import json, torch\n"
        "from advrbd_plugin import ops\n"
        "from advrbd_plugin.ops.library import MISSING_CUDA, MISSING_EXTENSION, fact\n"
        f"tensor = torch.rand(2, 3, 8, 8, device={device!r})\n"
        "result = ops.perturb(tensor, tensor, epsilon=0.1, patch_size=4)\n"
        "assert result.shape == (1, 2, 3, 8, 8), result.shape\n"
        "facts = {'backend': ops.backend(tensor)}\n"
        "if not MISSING_EXTENSION:\n"
        "    facts['cpu_instruction_set'] = fact('libadvrbd_cpu', 'advrbd_cpu_instruction_set')\n"
        "if not MISSING_CUDA:\n"
        "    facts['cuda_architectures'] = fact('libadvrbd_cuda', 'advrbd_cuda_architectures')\n"
        "print(json.dumps(facts))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=90, check=False
    )
    print(done.stderr, flush=True)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["it said nothing"])[-1])
    facts: dict[str, Any] = json.loads(done.stdout.strip().splitlines()[-1])
    if facts["backend"] == "reference":
        raise RuntimeError("plain PyTorch serves: the kernels were not built, or do not load")
    return facts


if __name__ == "__main__":
    sys.exit(main())
