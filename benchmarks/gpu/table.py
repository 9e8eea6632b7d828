"""The short table: what a person reads first, and all that the end of a terminal shows."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

_MOST_LINES = 60
_FIGURES = ("acc", "asr", "ra", "tpr", "fpr", "auroc")

Steps = Sequence[Mapping[str, Any]]


def render(summary: Mapping[str, Any], steps: Mapping[str, Steps]) -> str:
    """Markdown of at most 60 lines.

    Args:
        summary: ``run``, ``machine`` and ``parts`` as run.py keeps them.
        steps: part -> its steps.
    """
    lines = [*_head(summary), "", *_parts(summary["parts"], steps)]
    tables = {"ops": _ops, "scoring": _scoring, "train": _train}
    for name, table in tables.items():
        done = [step for step in steps.get(name, ()) if step["status"] == "done"]
        rows = table(done)
        if len(rows) > 2:
            lines += ["", *rows]
    for name, found in steps.items():
        lines += [f"{name}, failed: {step['name']}: {step['reason']}" for step in found if step["status"] == "failed"]
    if len(lines) > _MOST_LINES:
        lines = [*lines[: _MOST_LINES - 1], f"... {len(lines) - _MOST_LINES + 1} more lines are in the JSON files"]
    return "\n".join(lines) + "\n"


def _head(summary: Mapping[str, Any]) -> list[str]:
    run, machine = summary["run"], summary["machine"] or {}
    made = f"{run['date']}, commit {run['commit'] or 'unknown'}, sources {run['sources']}"
    if run["dry_run"]:
        return ["DRY RUN on a CPU with tiny sizes: nothing here is a figure.", made]
    if not machine.get("gpu"):
        return [f"No GPU was found: the figures are of {machine.get('processor', 'an unknown processor')}.", made]
    return [
        f"{machine['gpu']}, driver {machine['driver']}, PyTorch {machine['torch']}, CUDA {machine['cuda']}, "
        f"Python {machine['python']}",
        made,
    ]


def _parts(parts: Mapping[str, Mapping[str, Any]], steps: Mapping[str, Steps]) -> list[str]:
    rows = []
    for name, part in parts.items():
        found = steps.get(name, ())
        counts = [sum(step["status"] == status for step in found) for status in ("done", "failed", "skipped")]
        rows.append((name, part["status"], f"{part['seconds']:g}", "/".join(map(str, counts)), part["reason"]))
    return _table(("part", "status", "seconds", "steps done/failed/skipped", "reason"), rows)


def _ops(done: Steps) -> list[str]:
    rows = []
    for step in done:
        taken = {name: times["median"] for name, times in step["microseconds"].items()}
        ours = taken["advrbd"]
        others = [f"{taken[name] / ours:.2f}x" if name in taken else "-" for name in ("eager", "compile", "two ops")]
        share = f"{100 * step['share_of_copy']:.0f}%"
        l2 = "yes" if step["larger_than_l2"] else "no"
        rows.append((step["name"], f"{ours:.1f}", f"{step['gigabytes_per_second']:.0f}", share, *others, l2))
    return _table(("op", "us", "GB/s", "of copy", "eager", "compile", "two ops", "exceeds L2"), rows)


def _scoring(done: Steps) -> list[str]:
    rows = [
        (step["name"], *(f"{step[key]:.4f}" for key in ("bare_seconds", "scoring_seconds", "ratio")))
        for step in done
        if "ratio" in step
    ]
    stalls = [
        f"{step['name']} of the GPU in a batch: {step['stalls_per_batch_one_patch_size']:g} with one patch size, "
        f"{step['stalls_per_batch_three_patch_sizes']:g} with three"
        for step in done
        if "stalls_per_batch_one_patch_size" in step
    ]
    idle = [
        f"{step['name']}: {100 * step['idle_share']:.0f}% of {step['ms_a_step']:.2f} ms a step, "
        f"{step['kernels_a_step']:g} kernels"
        for step in done
        if step.get("idle_share") is not None
    ]
    more = [*stalls, *idle]
    return [*_table(("scoring", "bare s", "scoring s", "ratio"), rows), *([""] if more else []), *more]


def _train(done: Steps) -> list[str]:
    rows = []
    for step in done:
        if "figures" not in step:
            continue
        figures = [_percent(step["figures"].get(name)) for name in _FIGURES]
        rate = f"{step['training_images_per_second']:.0f}"
        rows.append((step["name"], *figures, f"{step['seconds']:.1f}", rate, step["cells_beside"]))
    heads = ("model:attack:method", *(name.upper() for name in _FIGURES), "seconds", "images/s", "cells beside")
    return _table(heads, rows)


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.2f}"


def _table(heads: Sequence[str], rows: Iterable[Sequence[object]]) -> list[str]:
    return [
        f"| {' | '.join(heads)} |",
        f"|{' --- |' * len(heads)}",
        *(f"| {' | '.join(str(cell).replace('|', '/') for cell in row)} |" for row in rows),
    ]
