"""The shortened run: all that is made to harm but the largest, and some random inputs of each kind.

The whole run is ``python -m tests.hostile`` (``make torture``), or these tests with ``ADVRBD_TORTURE=1``.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WHOLE = os.environ.get("ADVRBD_TORTURE") == "1"
# Each line of this program is one outcome. A process of its own, since every case is a fork of it.
PROGRAM = """
import json, sys
sys.path.insert(0, {root!r})
from dataclasses import asdict
from tests.hostile import cases, judge
judge.prepare()
{body}
"""

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="address space is limited and counted on Linux only")


def outcomes(body: str, seconds: float) -> list[dict]:
    program = PROGRAM.format(root=str(ROOT), body=body)
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, timeout=seconds, env=environment, cwd=ROOT
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [json.loads(line) for line in done.stdout.splitlines()]


def faults(found: list[dict]) -> str:
    return "\n".join(f"{each['name']}: {fault}" for each in found for fault in each["faults"])


@pytest.mark.skipif(WHOLE, reason="the whole run has them all")
def test_the_shortened_run_has_no_faults():
    body = (
        "made = [case for case in cases.made_to_harm() if not any(word in case.name for word in cases.HEAVY)]\n"
        "short = made[::8] + [cases.at_random(1, number) for number in range(64)]\n"
        "for case in short: print(json.dumps(asdict(judge.run(case))))"
    )
    found = outcomes(body, 600)
    assert len(found) > 100 and {each["status"] for each in found} <= {0, 2, 3, 4}
    assert faults(found) == ""


@pytest.mark.skipif(not WHOLE, reason="takes a quarter of an hour: set ADVRBD_TORTURE=1, or run make torture")
def test_the_whole_run_has_no_faults():
    done = subprocess.run([sys.executable, "-m", "tests.hostile"], cwd=ROOT, env=os.environ | {"PYTHONPATH": str(ROOT)})
    assert done.returncode == 0


def test_the_judge_sees_each_fault():
    """Commands that do what must not happen: each is found out, so that a run without faults means something."""
    body = """
import os, sys, time
from pathlib import Path
def told(text, status):
    print(text, file=sys.stderr)
    return status
def fill():
    held = [bytearray(os.urandom(2**20)) * 300 for _ in range(3)]
    return len(held) - 3
judge.SECONDS = 2.0
judge.MEMORY = 2**29
judge.COMMANDS |= {
    "raises": lambda: 1 / 0,
    "two lines": lambda: told("advrbd: error: a\\nadvrbd: error: b", 2),
    "no line": lambda: 2,
    "leaves a file": lambda: Path("left").write_text("half") and told("advrbd: error: a", 2),
    "runs": lambda: os.mkdir("ran") or 0,
    "crashes": lambda: os.kill(os.getpid(), 11),
    "waits": lambda: time.sleep(60),
    "works": lambda: [None for _ in iter(int, 1)],
    "fills": fill,
    "ends well": lambda: told("advrbd: error: a", 2),
}
for name in list(judge.COMMANDS)[4:]:
    print(json.dumps(asdict(judge.run(judge.Case(name, lambda folder, name=name: (name,))))))
"""
    found = {each["name"]: "; ".join(each["faults"]) for each in outcomes(body, 120)}
    assert found.pop("ends well") == ""
    expected = {
        "raises": "status 70",
        "two lines": "did not end in one line",
        "no line": "did not end in one line",
        "leaves a file": "it left ['left']",
        "runs": "it left ['ran']",
        "crashes": "ended by SIGSEGV",
        "waits": "waited for longer than 8 s",
        "works": "",
        "fills": "",
    }
    assert all(found[name] and expected[name] in found[name] for name in expected), found


def test_the_same_seed_gives_the_same_inputs(tmp_path):
    from tests.hostile.cases import at_random

    for number in (0, 2, 3, 6, 11):
        places = [tmp_path / f"{number}-{turn}" for turn in "ab"]
        for place in places:
            place.mkdir()
            at_random(5, number).build(place)
        one, other = (
            {path.relative_to(place): path.read_bytes() for path in sorted(place.rglob("*")) if path.is_file()}
            for place in places
        )
        assert one == other and one
