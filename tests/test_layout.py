"""Rules of the layout: data flows one way, and the core knows nothing of the edges."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "advrbd_plugin"
# Each stage may import those before it.
STAGES = [
    "ops",
    "scoring",
    "partition",
    "discriminant",
    "accusation",
    "examination",
    "enhancement",
    "identification",
    "retraining",
    "stages",
    "advrbd",
]
EDGES = ["attacks", "backdoorbench", "cli", "doctor", "report", "reproduce"]
# BackdoorBench's own top-level modules, which only its adapter may import.
BACKDOORBENCH_MODULES = {"analysis", "attack", "bd_dataset", "defense", "detection_pretrain", "utils"}


def module_files() -> dict[str, Path]:
    """Dotted name below the package -> file."""
    names = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        parts = path.relative_to(PACKAGE).with_suffix("").parts
        names[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path
    return names


def imports_of(name: str, path: Path) -> set[str]:
    """Absolute names of what a file imports, wherever in it; relative imports are resolved."""
    found = set()
    package = ["advrbd_plugin", *name.split(".")] if name else ["advrbd_plugin"]
    if path.name != "__init__.py":
        package = package[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found.update(alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) + 1 - node.level] if node.level else []
            target = ".".join([*base, *([node.module] if node.module else [])])
            found.add(target)
            found.update(f"{target}.{alias.name}" for alias in node.names)
    return found


def part(name: str) -> str:
    return name.split(".")[0]


def imported_parts(name: str, path: Path) -> set[str]:
    """First names below advrbd_plugin that a file imports."""
    return {target.split(".")[1] for target in imports_of(name, path) if target.startswith("advrbd_plugin.")}


def test_the_walk_sees_relative_and_nested_imports(tmp_path):
    file = tmp_path / "module.py"
    file.write_text("from ..report import page\ndef f():\n    from . import x\n    import yaml.nodes\n")
    assert imports_of("cli.module", file) >= {"advrbd_plugin.report.page", "advrbd_plugin.cli.x", "yaml.nodes"}


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_imports_a_later_one(stage):
    later = set(STAGES[STAGES.index(stage) + 1 :])
    for name, path in module_files().items():
        if part(name) == stage:
            assert not imported_parts(name, path) & later, path


def test_the_core_imports_no_edge():
    # The package's own __init__ offers names lazily and is judged by what it loads (below).
    for name, path in module_files().items():
        if name and part(name) not in EDGES:
            assert not imported_parts(name, path) & set(EDGES), path


def test_only_the_adapter_imports_backdoorbench():
    for name, path in module_files().items():
        if part(name) != "backdoorbench":
            assert not {target.split(".")[0] for target in imports_of(name, path)} & BACKDOORBENCH_MODULES, path


def test_importing_the_package_needs_only_torch_and_numpy():
    heavy = [
        "torchvision",
        "rich",
        "matplotlib",
        "pandas",
        "yaml",
        "jinja2",
        "sklearn",
        "safetensors",
        "platformdirs",
        "PIL",
    ]
    # torch itself may load some of these.
    code = (
        "import sys, torch, numpy; before = set(sys.modules); import advrbd_plugin, advrbd_plugin.ops; "
        f"print([name for name in {heavy!r} if name in sys.modules and name not in before])"
    )
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code],
        capture_output=True,
        text=True,
        cwd=ROOT,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
        check=False,
    )
    assert done.stdout.strip() == "[]", done.stderr
