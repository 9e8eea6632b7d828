"""A run that is killed at any moment, as often as you like, ends with the same bytes as one that is left alone."""

from __future__ import annotations

import json
import os
import random
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from .processes import TORTURE, finish, start

# The paper's settings go through training, enhancement, retraining and relearning on any set.
SETTINGS = ("epochs=2", "rounds=2", "relearn_epochs=1", "crop_padding=1", "patch_size=4", "batch_size=32")
OPTIONS = ["--preset", "paper", "--seed", "3", *(part for each in SETTINGS for part in ("--set", each))]
RESULTS = ("verdicts.csv", "model.safetensors", "model.json", "curves.csv")
KILLS = 40 if TORTURE else 6
DONE = (0, 3, 4)  # exit statuses: nothing found, something found, no verdict
CHAIN = 4  # kills of one run

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")


class Server:
    """Runs commands in children of `fork_server.py`."""

    def __init__(self, log: Path) -> None:
        self._log, self._errors = log, log.open("w")
        self._process = subprocess.Popen(
            [sys.executable, str(Path(__file__).with_name("fork_server.py"))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._errors,
            text=True,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )
        assert self._process.stdout.readline() == "ready\n"

    def begin(self, *arguments: object, die_at: int = 0) -> int:
        """Start a command; its process id."""
        self._process.stdin.write(json.dumps([[str(each) for each in arguments], die_at]) + "\n")
        self._process.stdin.flush()
        return int(self._process.stdout.readline())

    def end(self) -> int:
        """Wait for the command to end; its exit status, negative for a signal."""
        return int(self._process.stdout.readline())

    def run(self, *arguments: object, die_at: int = 0) -> int:
        self.begin(*arguments, die_at=die_at)
        return self.end()

    def told(self) -> list[str]:
        """The lines that all commands so far wrote to stderr."""
        return self._log.read_text().splitlines()

    def close(self) -> None:
        self._process.stdin.close()
        assert self._process.wait(60) == 0
        self._errors.close()


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    server = Server(tmp_path_factory.mktemp("server") / "stderr.txt")
    yield server
    server.close()


@pytest.fixture(scope="module")
def data(tmp_path_factory) -> Path:
    """Three classes of 24 noisy pictures."""
    root, generator = tmp_path_factory.mktemp("data"), np.random.default_rng(0)
    for label, name in enumerate(("ape", "bee", "cat")):
        (root / name).mkdir()
        for number in range(24):
            pixels = generator.integers(0, 120, (16, 16, 3)) + 60 * label
            Image.fromarray(pixels.astype(np.uint8)).save(root / name / f"{number:02d}.png")
    return root


@pytest.fixture(scope="module")
def undisturbed(server, data, tmp_path_factory) -> tuple[Path, float]:
    """A run that was left alone, and the seconds that it took."""
    out, began = tmp_path_factory.mktemp("undisturbed") / "out", time.monotonic()
    assert server.run("defend", data, "--out", out, *OPTIONS) in DONE
    seconds = time.monotonic() - began
    assert set(json.loads((out / "summary.json").read_text())["seconds"]) >= {"training", "enhancement", "relearning"}
    return out, seconds


def assert_same_results(out: Path, undisturbed: Path) -> None:
    assert sorted(os.listdir(out)) == sorted(os.listdir(undisturbed))  # no work folder, nothing half-written
    for name in RESULTS:
        assert (out / name).read_bytes() == (undisturbed / name).read_bytes(), name


@pytest.mark.parametrize("chain", range(max(1, KILLS // CHAIN)))
def test_kills_at_random_moments(server, data, undisturbed, tmp_path, chain):
    whole, seconds = undisturbed
    dice, out, killed = random.Random(chain), tmp_path / "out", 0
    for _ in range(CHAIN):
        child = server.begin("defend", data, "--out", out, *OPTIONS)
        time.sleep(dice.uniform(0.02, 0.7) * seconds)
        with suppress(ProcessLookupError):  # it had ended
            os.kill(child, signal.SIGKILL)
        killed += server.end() == -signal.SIGKILL
    assert server.run("defend", data, "--out", out, *OPTIONS) in DONE
    assert killed and not list(out.glob(".*"))
    assert_same_results(out, whole)


@pytest.mark.parametrize("after", [False, True])
def test_kills_around_a_move_of_a_file_to_its_place(server, data, undisturbed, tmp_path, after):
    """One run is killed at its first moved file, goes on, is killed at its second, and so on to the last."""
    whole, out, number = undisturbed[0], tmp_path / "out", 1
    step = 1 if TORTURE else 5
    while True:
        status = server.run("defend", data, "--out", out, *OPTIONS, die_at=-number if after else number)
        if status in DONE:
            break
        assert status == -signal.SIGKILL
        number += step
    assert number > 8  # it was killed many times, until it had fewer files to move than that
    assert_same_results(out, whole)


def test_damaged_stages_are_computed_again(server, data, undisturbed, tmp_path):
    """Each stored file of a killed run has one byte flipped or its end cut off; the results are the same."""
    out, dice = tmp_path / "out", random.Random(7)
    assert server.run("defend", data, "--out", out, *OPTIONS, die_at=9) == -signal.SIGKILL
    stages = sorted((out / ".advrbd-work").glob("*.safetensors"))
    assert len(stages) >= 2
    for number, stage in enumerate(stages):
        content = bytearray(stage.read_bytes())
        content[dice.randrange(len(content) // 2, len(content))] ^= 1 << dice.randrange(8)
        stage.write_bytes(content[: len(content) // 2] if number % 3 == 2 else content)
    before = len(server.told())
    assert server.run("defend", data, "--out", out, *OPTIONS) in DONE
    notes = [line for line in server.told()[before:] if line.startswith("advrbd: note: ")]
    assert notes and all("is damaged or of an earlier version: it is computed again" in note for note in notes)
    assert_same_results(out, undisturbed[0])


def test_two_runs_into_one_folder_at_the_same_time(server, data, undisturbed, tmp_path):
    """The second is refused in one line, and the first is not disturbed."""
    out = tmp_path / "out"
    server.begin("defend", data, "--out", out, *OPTIONS)
    second = start("defend", data, "--out", out, *OPTIONS, "--set", "epochs=9")
    status, _, lines = finish(second)
    assert server.end() in DONE
    assert status == 2 and lines[-1].startswith(f"advrbd: error: --out {out} "), lines
    assert "in use by another run" in lines[-1] or "holds the finished results" in lines[-1]
    assert_same_results(out, undisturbed[0])
