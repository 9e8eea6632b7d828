"""Several processes give what one gives, name the one that dies, and go on where another number of them stopped."""

from __future__ import annotations

import csv
import importlib.util
import os
import re
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file

from advrbd_plugin.cli import main
from advrbd_plugin.nn.checkpoints import StoredTraining
from advrbd_plugin.nn.distributed import _on_gpu
from advrbd_plugin.processes import Processes, Share, current

HERE = Path(__file__).parent
FEW = ["--epochs", "3", "--device", "cpu"]
for key in ("batch_size=16", "relearn_epochs=1", "mixed_precision=false"):
    FEW += ["--set", key]


@pytest.fixture(scope="module")
def small_run():
    spec = importlib.util.spec_from_file_location("small_run", HERE / "small_run.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["small_run"] = module  # pickled by nobody, but dataclasses ask for it
    spec.loader.exec_module(module)
    return module


@pytest.fixture
def images(tmp_path) -> Path:
    """Two classes of 24 pictures of 8x8."""
    noise = np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (tmp_path / "images" / name).mkdir(parents=True)
        for index in range(24):
            pixels = noise.integers(0, 128, (8, 8, 3), np.uint8) + 100 * label
            Image.fromarray(pixels.astype(np.uint8)).save(tmp_path / "images" / name / f"{index:02d}.png")
    return tmp_path / "images"


def verdicts(folder: Path) -> dict[str, dict[str, str]]:
    with open(folder / "verdicts.csv", newline="") as file:
        return {row["path"]: row for row in csv.DictReader(file)}


def errors(text: str) -> list[str]:
    return [line for line in text.splitlines() if line.startswith("advrbd: error: ")]


def test_two_processes_give_what_one_gives(small_run, start, tmp_path):
    alone = small_run.contents(small_run.defend(tmp_path / "alone"))
    alone["evidence"] = small_run.evidence(small_run.make_set())
    for said in start(2, "small_run.py", tmp_path / "work", tmp_path / "out"):
        assert said.returncode == 0, said.stderr
    first, second = (load_file(tmp_path / f"out.{rank}") for rank in range(2))
    assert alone["poisoned"].any()
    for name, value in alone.items():
        assert torch.equal(first[name], second[name]), name
        # The loss of a batch is a float32; all else is within the rounding of float64.
        torch.testing.assert_close(first[name], value, rtol=0, atol=1e-6 if name == "loss" else 1e-11)
    for name in ("poisoned", "uncertain", "suggested_label", "score", "evidence"):
        assert torch.equal(first[name], alone[name])
    (recorded,) = (tmp_path / "work").glob("trajectory-*")
    theirs, ours = load_file(recorded)["trajectory"], load_file(tmp_path / "alone" / recorded.name)["trajectory"]
    torch.testing.assert_close(theirs, ours, rtol=0, atol=1e-6)


def test_rank_0_stays_until_the_others_are_done(start):
    """It holds the store: where it left first, the others failed while they said that they were done."""
    for said in start(2, "leaving.py", 1.5):
        assert (said.returncode, said.stderr) == (0, "")


def test_on_a_gpu_pytorchs_own_synchronised_layer_takes_the_place_of_ours():
    layer = torch.nn.BatchNorm2d(3, eps=0.1, momentum=0.2)
    synchronised = _on_gpu(layer)
    assert synchronised.weight is layer.weight and synchronised.running_var is layer.running_var
    assert (synchronised.eps, synchronised.momentum, synchronised.training) == (0.1, 0.2, True)


def test_a_process_that_dies_is_named_and_one_process_goes_on_from_there(images, torchrun, tmp_path, monkeypatch):
    out = tmp_path / "out"
    ended = torchrun(HERE / "dying.py", "defend", images, "--out", out, *FEW)
    assert ended.returncode != 0
    (line,) = errors(ended.stderr)
    assert re.fullmatch(
        r"advrbd: error: rank 1 \(\S+, process \d+\) died: run the same command again to go on .*", line
    )
    assert [path.name for path in (out / ".advrbd-work").glob("*-unfinished-*")]

    trained = []
    save = StoredTraining.save
    monkeypatch.setattr(
        StoredTraining, "save", lambda self, done, tensors: (trained.append(done), save(self, done, tensors))[1]
    )
    assert main(["defend", str(images), "--out", str(out), *FEW]) in (0, 3, 4)
    assert trained[0] == 3  # two epochs were there
    assert main(["defend", str(images), "--out", str(tmp_path / "alone"), *FEW]) in (0, 3, 4)
    resumed, alone = verdicts(out), verdicts(tmp_path / "alone")
    assert len(alone) == 48 and resumed.keys() == alone.keys()
    assert all(resumed[path]["verdict"] == row["verdict"] for path, row in alone.items())


def test_the_command_in_two_processes_writes_the_results_once(images, torchrun, tmp_path):
    out = tmp_path / "out"
    done = torchrun("-m", "advrbd_plugin", "defend", images, "--out", out, *FEW)
    assert done.returncode == 0, done.stderr
    assert done.stdout.count("flagged as poisoned") == 1 and done.stderr.count("images of 8x8") == 1
    assert len(verdicts(out)) == 48 and not (out / ".advrbd-work").exists()
    again = torchrun("-m", "advrbd_plugin", "defend", images, "--out", out, *FEW)
    assert again.returncode == 0 and again.stderr.count("This run was finished before") == 1


def test_an_error_is_said_once(torchrun, tmp_path):
    ended = torchrun("-m", "advrbd_plugin", "defend", tmp_path / "nowhere", "--out", tmp_path / "out")
    (line,) = errors(ended.stderr)
    assert ended.returncode != 0 and "nowhere" in line


@pytest.mark.parametrize("rank", [0, 1])
def test_other_commands_are_refused_in_several_processes(monkeypatch, capsys, rank):
    monkeypatch.setitem(os.environ, "WORLD_SIZE", "2")
    monkeypatch.setitem(os.environ, "RANK", str(rank))
    assert main(["doctor"]) == 2
    said = errors(capsys.readouterr().err)
    assert said == ([] if rank else ["advrbd: error: " + said[0].removeprefix("advrbd: error: ")])
    assert rank or "only `defend` and `scan` share" in said[0]


@pytest.mark.parametrize(("count", "batch", "processes"), [(10, 3, 2), (1, 5, 3), (0, 5, 2), (7, 1, 4), (12, 4, 3)])
def test_shares_are_whole_batches_and_cover_all(count, batch, processes):
    shares = [Share(Processes(rank, processes), count, batch).own for rank in range(processes)]
    assert [index for share in shares for index in range(share.start, share.stop)] == list(range(count))
    assert all(share.start % batch == 0 or share.start == count for share in shares)
    batches = [-(-(share.stop - share.start) // batch) for share in shares]
    assert max(batches) - min(batches) <= 1 and batches[0] == max(batches)


def test_parts_of_a_batch_make_the_batch():
    batch = torch.randperm(11)
    parts = [Processes(rank, 3).part_of(batch) for rank in range(3)]
    assert torch.equal(torch.cat(parts), batch) and {len(part) for part in parts} == {3, 4}


def test_one_process_needs_no_exchange():
    assert current().count == 1 and current().leads
    assert current().receive(lambda: {"a": 1}) == {"a": 1} and current().sum(1.5, 2) == [1.5, 2]
    share = current().share(7, 3)
    part = torch.rand(7, 2)
    assert share.own == slice(0, 7) and share.merge(part) is part
