"""Everything that is worth measuring on a GPU machine, one part after another, each in a process with a time limit.

    bash benchmarks/gpu/run.sh [--parts build,check,ops,scoring,train] [--budget-seconds 570] [--dry-run]

A part that fails or runs out of time is reported and the next one begins. Every part keeps a JSON file in ``--out``
($OUT) up to date while it works; report.md, the short table, is written anew after each part and printed last.
This file needs the standard library alone, so that a broken PyTorch is a failed part and no silence. docs/gpu.md
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path
from typing import IO, Any

from outcome import DONE, FAILED, SKIPPED, public, read_steps, write_json
from table import render
from train_cells import check_train_options

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[1]
_LEAST_SECONDS = 5.0  # with less than this left, a part is not begun
_GRACE_SECONDS = 3.0  # between asking a part to end and ending it
_LOG = "log.txt"


@dataclass(frozen=True)
class Part:
    """Attributes:
    name: as in ``--parts``; its figures go to ``NAME.json``.
    script: the file that is run, with ``--out``, ``--work``, ``--seconds`` and ``--dry-run``.
    seconds: its time limit; ``None`` takes all that is left.
    """

    name: str
    script: Path
    seconds: float | None


PARTS = (
    Part("build", HERE / "build_ops.py", 200.0),
    Part("check", HERE / "check_ops.py", 130.0),
    Part("ops", HERE / "time_ops.py", 100.0),
    Part("scoring", HERE / "time_scoring.py", 70.0),
    Part("train", HERE / "train_cells.py", None),
)


def main(arguments: Sequence[str] | None = None, parts: Sequence[Part] = PARTS) -> int:
    """Run the parts that were asked for; 1 if one of them failed."""
    options, more = _parser(parts).parse_known_args(arguments)
    chosen = _chosen(options.parts, parts)
    check_train_options(more)
    ends = time.monotonic() + options.budget_seconds
    out, work = Path(options.out).resolve(), Path(options.work or _scratch()).resolve()
    out.mkdir(parents=True, exist_ok=True)
    work.mkdir(parents=True, exist_ok=True)
    summary: dict[str, Any] = {"run": _run_facts(options), "parts": {}}
    with (out / _LOG).open("ab") as log:
        for part in chosen:
            given = more if part.name == "train" else []
            summary["parts"][part.name] = _run_part(part, ends - time.monotonic(), options, out, work, given, log)
            _write(out, summary)
    for left in out.glob(".*.part"):  # of a part that was ended while it wrote
        left.unlink()
    print((out / "report.md").read_text(encoding="utf-8"), end="", flush=True)
    return int(any(part["status"] == FAILED for part in summary["parts"].values()))


def _parser(parts: Sequence[Part]) -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="benchmarks/gpu/run.sh",
        allow_abbrev=False,
        description="Build, check, time and train on a GPU machine; other options are handed to the part train.",
    )
    names = ",".join(part.name for part in parts)
    parser.add_argument("--parts", default=os.environ.get("ADVRBD_GPU_PARTS", names), help=f"some of {names}")
    budget = float(os.environ.get("ADVRBD_GPU_BUDGET_SECONDS", "570"))
    parser.add_argument("--budget-seconds", type=float, default=budget, help="time for all parts together")
    parser.add_argument("--out", default=os.environ.get("OUT", "out/gpu"), help="where the results go; $OUT by default")
    parser.add_argument("--work", help="folder for what is not kept: photographs, checkpoints, objects")
    commit = os.environ.get("ADVRBD_COMMIT")
    parser.add_argument("--commit", default=commit, help="of this tree, where its .git did not come along")
    parser.add_argument(
        "--dry-run", action="store_true", help="tiny sizes, on the CPU: tries the script, measures nothing"
    )
    return parser


def _chosen(text: str, parts: Sequence[Part]) -> list[Part]:
    by_name = {part.name: part for part in parts}
    names = [name.strip() for name in text.split(",") if name.strip()]
    unknown = [name for name in names if name not in by_name]
    if unknown or not names:
        raise SystemExit(f"benchmarks/gpu: --parts must be some of {','.join(by_name)}, got {text!r}")
    return [by_name[name] for name in by_name if name in names]


def _run_part(
    part: Part, left: float, options: argparse.Namespace, out: Path, work: Path, more: Sequence[str], log: IO[bytes]
) -> dict[str, Any]:
    """Status, reason and seconds of one part; its file in ``out`` holds the rest."""
    file = out / f"{part.name}.json"
    file.unlink(missing_ok=True)
    if left < _LEAST_SECONDS:
        return _outcome(SKIPPED, f"no time was left of {options.budget_seconds:g} s", 0.0)
    limit = left if part.seconds is None else min(part.seconds, left)
    # The part is told a little less than its limit, so that it ends by itself with what it has.
    command = [sys.executable, str(part.script), "--out", str(file), "--work", str(work)]
    command += ["--seconds", f"{max(1.0, limit - 2 * _GRACE_SECONDS):.1f}", *(["--dry-run"] if options.dry_run else [])]
    log.write(f"\n===== {part.name}, at most {limit:.0f} s\n".encode())
    log.flush()
    print(f"{part.name}: at most {limit:.0f} s", flush=True)
    began, start = time.monotonic(), log.tell()
    try:
        status = _run(command + list(more), limit, log, options)
    except OSError as error:
        return _outcome(FAILED, f"it did not start: {error.strerror or error}", 0.0)
    seconds = time.monotonic() - began
    if status is None:
        return _outcome(FAILED, f"it was ended after {limit:.0f} s, its time limit", seconds)
    steps = read_steps(file)
    failed = [step for step in steps if step["status"] == FAILED]
    if failed:
        first = failed[0]
        return _outcome(
            FAILED, f"{len(failed)} of {len(steps)} steps failed: {first['name']}: {first['reason']}", seconds
        )
    if status != 0:
        return _outcome(FAILED, f"{_end_of(status)}: {_last_line(Path(log.name), start)}", seconds)
    if steps and all(step["status"] == SKIPPED for step in steps):
        return _outcome(SKIPPED, steps[0]["reason"], seconds)
    return _outcome(DONE, "", seconds)


def _run(command: Sequence[str], limit: float, log: IO[bytes], options: argparse.Namespace) -> int | None:
    """The exit status, or ``None`` where the time limit ended it and all that it had started."""
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])]),
        "PYTHONUNBUFFERED": "1",
        "PYTHONDONTWRITEBYTECODE": "1",
    }
    if options.dry_run:
        environment |= {"CUDA_VISIBLE_DEVICES": "", "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
    )
    try:
        return process.wait(timeout=limit)
    except subprocess.TimeoutExpired:
        return None
    finally:  # after Ctrl-C too
        _end_group(process)


def _end_group(process: subprocess.Popen[bytes]) -> None:
    """A part leads a process group, in which its children are."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(timeout=_GRACE_SECONDS)


def _write(out: Path, summary: dict[str, Any]) -> None:
    steps = {name: read_steps(out / f"{name}.json") for name in summary["parts"]}
    machines = [json.loads((out / f"{name}.json").read_text())["machine"] for name, found in steps.items() if found]
    summary["machine"] = next(iter(machines), None)
    write_json(out / "summary.json", summary)
    (out / "report.md").write_text(render(summary, steps), encoding="utf-8")


def _outcome(status: str, reason: str, seconds: float) -> dict[str, Any]:
    return {"status": status, "reason": public(reason), "seconds": round(seconds, 1)}


def _run_facts(options: argparse.Namespace) -> dict[str, Any]:
    return {
        "tool": "benchmarks/gpu/run.sh",
        "dry_run": options.dry_run,
        "date": datetime.now(timezone.utc).isoformat(timespec="seconds"),
        "commit": options.commit or _commit(),
        "sources": _digest_of_sources(),
        "budget_seconds": options.budget_seconds,
    }


def _commit() -> str | None:
    """The commit of this tree, ``+changes`` after it where tracked files differ; ``None`` outside a checkout."""

    def git(*words: str) -> str | None:
        with suppress(OSError, subprocess.SubprocessError):
            done = subprocess.run(["git", "-C", str(ROOT), *words], capture_output=True, text=True, timeout=20)
            return done.stdout.strip() if done.returncode == 0 else None
        return None

    if git("ls-files", "--error-unmatch", "setup.py") is None:
        return None  # a copy that merely lies inside another repository
    head = git("rev-parse", "HEAD")
    return f"{head}+changes" if head and git("status", "--porcelain", "--untracked-files=no") else head


def _digest_of_sources() -> str:
    """Tells which sources were measured also where no commit is known."""
    hasher = hashlib.sha256()
    files = [path for folder in ("csrc", "advrbd_plugin") for path in (ROOT / folder).rglob("*") if path.is_file()]
    for path in sorted(path for path in files if path.suffix in {".py", ".h", ".cuh", ".cu", ".cpp", ".inc", ".yaml"}):
        hasher.update(path.relative_to(ROOT).as_posix().encode() + b"\0" + path.read_bytes())
    return hasher.hexdigest()[:16]


def _scratch() -> str:
    """A folder in memory where there is room: no figure waits for a disk."""
    memory = Path("/dev/shm")
    with suppress(OSError):
        status = os.statvfs(memory)
        if status.f_bavail * status.f_frsize > 8 * 2**30 and os.access(memory, os.W_OK):
            return str(memory / "advrbd-gpu")
    return os.path.join(os.environ.get("TMPDIR", "/tmp"), "advrbd-gpu")


def _end_of(status: int) -> str:
    return f"it was killed by {signal.Signals(-status).name}" if status < 0 else f"it ended with status {status}"


def _last_line(log: Path, start: int) -> str:
    with log.open("rb") as handle:
        handle.seek(start)
        lines = [line.strip() for line in handle.read().decode("utf-8", "replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it said nothing"


if __name__ == "__main__":
    sys.exit(main())
