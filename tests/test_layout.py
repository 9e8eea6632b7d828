"""Rules of the layout: data flows one way, and the core knows nothing of the edges."""

import ast
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "advrbd_plugin"
# Floors of the package: a part may import those on its own floor or below, never above.
FLOORS = [
    {"errors", "limits"},
    {
        "files",
        "progress",
        "plain",
        "settings",
        "environment",
        "table",
        "statistics",
        "processes",
        "process_group",
    },
    {"ops"},
    {"randomness"},
    {"data"},
    {"nn", "cache"},
    {"defense"},
    {"ulrl", "attacks", "baselines"},
    {"backdoorbench"},
    {"evaluation"},
    {"report"},
    {"cli"},
]
# The same inside the defense, in the order in which a sample set passes its stages.
STAGES = [
    "version",
    "config",
    "scoring",
    "trained",
    "paper",
    "clusters",
    "splits",
    "candidates",
    "transplant",
    "operations",
    "marks",
    "evidence",
    "findings",
    "posterior",
    "placement",
    "poison_samples",
    "transplant_detection",
    "detection",
    "confirmation",
    "enhancement",
    "mislabels",
    "identification",
    "result_files",
    "result",
    "planning",
    "forecast",
    "inoculation",
    "retraining",
    "stage_runner",
    "search",
    "cleaning",
    "pipeline",
    "detector",
]
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


def floor_of(name: str) -> int:
    return next(number for number, parts in enumerate(FLOORS) if part(name) in parts)


def test_every_part_has_a_floor():
    found = {part(name) for name in module_files() if name}
    assert found - {"__main__"} == set().union(*FLOORS)


def test_no_part_imports_one_of_a_higher_floor():
    # The package's own __init__ offers names lazily and is judged by what it loads (below).
    for name, path in module_files().items():
        if name and name != "__main__":
            above = {
                other for other in imported_parts(name, path) if other[0].islower() and floor_of(other) > floor_of(name)
            }
            assert not above, f"{path} imports {sorted(above)}"


@pytest.mark.parametrize("stage", STAGES)
def test_no_stage_of_the_defense_imports_a_later_one(stage):
    later = {f"advrbd_plugin.defense.{other}" for other in STAGES[STAGES.index(stage) + 1 :]}
    assert not imports_of(f"defense.{stage}", PACKAGE / "defense" / f"{stage}.py") & later


def test_the_stages_are_all_of_the_defense():
    assert {path.stem for path in (PACKAGE / "defense").glob("*.py")} - {"__init__"} == set(STAGES)


def test_only_the_adapter_imports_backdoorbench():
    for name, path in module_files().items():
        if part(name) != "backdoorbench":
            assert not {target.split(".")[0] for target in imports_of(name, path)} & BACKDOORBENCH_MODULES, path


@pytest.mark.parametrize("first", ["import advrbd_plugin, torch", "import torch, advrbd_plugin"])
def test_the_ops_are_there_after_both_imports(first):
    code = f"{first}; print(torch.ops.advrbd.philox_uniform)"
    done = subprocess.run([sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=ROOT)
    assert done.stdout.strip() == "advrbd.philox_uniform", done.stderr


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
