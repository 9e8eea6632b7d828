"""What every part keeps: its steps, each done, failed or skipped, in a JSON file that is whole at any moment."""

from __future__ import annotations

import argparse
import json
import os
import platform
import re
import subprocess
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

DONE, FAILED, SKIPPED = "done", "failed", "skipped"
NO_GPU = "no GPU"
_PATH = re.compile(r"(?<![\w.])(?:/[\w.+@-]+){2,}")
_REASON_CHARACTERS = 300


class Skip(Exception):
    """Ends a step that cannot be done here; its text says why."""


class PartFile:
    """The file of one part, written anew after each step.

    Args:
        path: where it lies.
        dry_run: whether sizes are tiny and the figures mean nothing.
    """

    def __init__(self, path: str | Path, dry_run: bool) -> None:
        self.path = Path(path)
        self.content: dict[str, Any] = {"dry_run": dry_run, "machine": machine(), "steps": []}
        write_json(self.path, self.content)

    @contextmanager
    def step(self, name: str) -> Iterator[dict[str, Any]]:
        """A step whose figures are put into the mapping that is given; an exception in it is recorded, not raised."""
        row: dict[str, Any] = {"name": name, "status": DONE, "reason": ""}
        began = time.monotonic()
        try:
            yield row
        except Skip as skip:
            row |= {"status": SKIPPED, "reason": public(str(skip))}
        except Exception as error:  # whatever it is, the next step is tried
            traceback.print_exc()
            row |= {"status": FAILED, "reason": public(f"{type(error).__name__}: {error}")}
        row["seconds"] = round(time.monotonic() - began, 2)
        print(f"{name}: {row['status']} {row['reason']}", flush=True)
        self.add(row)

    def add(self, row: dict[str, Any]) -> None:
        """Keep a step, in the place of an earlier one of its name."""
        steps = self.content["steps"]
        places = [place for place, step in enumerate(steps) if step["name"] == row["name"]]
        if places:
            steps[places[0]] = row
        else:
            steps.append(row)
        write_json(self.path, self.content)

    @property
    def failed(self) -> bool:
        return any(step["status"] == FAILED for step in self.content["steps"])


def part_parser(description: str) -> argparse.ArgumentParser:
    """The options that run.py gives every part."""
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("--out", required=True, help="JSON file of the figures")
    parser.add_argument("--work", required=True, help="folder for what is not kept")
    parser.add_argument("--seconds", type=float, default=600.0, help="time limit")
    parser.add_argument("--dry-run", action="store_true", help="tiny sizes")
    return parser


def machine() -> dict[str, Any]:
    """GPU, driver and versions."""
    import torch

    gpu = torch.cuda.is_available()
    properties = torch.cuda.get_device_properties(0) if gpu else None
    return {
        "gpu": properties.name if properties else None,
        "gpus": torch.cuda.device_count() if gpu else 0,
        "gpu_memory_bytes": properties.total_memory if properties else None,
        "l2_cache_bytes": getattr(properties, "L2_cache_size", None),
        "capability": ".".join(map(str, torch.cuda.get_device_capability())) if gpu else None,
        "driver": _driver() if gpu else None,
        "torch": torch.__version__,
        "cuda": torch.version.cuda,
        "python": platform.python_version(),
        "processor": platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
    }


def read_steps(path: Path) -> list[dict[str, Any]]:
    """The steps of a part's file; none where there is no such file."""
    try:
        return json.loads(path.read_text(encoding="utf-8"))["steps"]
    except FileNotFoundError:
        return []


def write_json(path: Path, content: Any) -> None:
    """Write a file that is whole at any moment; NaN and infinity, which no JSON has, become null."""
    text = json.dumps(_finite(content), indent=1, ensure_ascii=False, allow_nan=False)
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(text + "\n", encoding="utf-8")
    os.replace(beside, path)


def public(text: str) -> str:
    """A reason on one line, without the folders of this machine: figures are published."""
    line = _PATH.sub(lambda found: found[0].rsplit("/", 1)[-1], " ".join(text.split()))
    return line if len(line) <= _REASON_CHARACTERS else line[:_REASON_CHARACTERS] + "..."


def _finite(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return None if isinstance(value, float) and (value != value or value in (float("inf"), -float("inf"))) else value


def _driver() -> str | None:
    query = ["nvidia-smi", "--query-gpu=driver_version", "--format=csv,noheader"]
    try:
        done = subprocess.run(query, capture_output=True, text=True, timeout=20, check=True)
    except (OSError, subprocess.SubprocessError):
        return None
    return done.stdout.split("\n")[0].strip() or None
