"""Clean images that are written here, read by the toolbox's own dataset classes, and a defense on such a record.

The checkout is found as the command line finds it and cloned, so that it is never touched.
"""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from advrbd_plugin.backdoorbench.record_writer import write_record

from .conftest import IN_CLASS_FOLDERS, record_parts

ROOT = Path(__file__).resolve().parents[2]
READ = """
import sys
from pathlib import Path
import torch
from advrbd_plugin.backdoorbench.compat import apply_patches_for_modules, use_local_data
from advrbd_plugin.backdoorbench.datasets import load_result, test_sets, training_set
from advrbd_plugin.backdoorbench.record import read_record

apply_patches_for_modules()
use_local_data()
record = read_record(Path(sys.argv[1]))
result = load_result(record)
images, truth = training_set(result, record)
torch.save([vars(images), vars(truth), vars(test_sets(result, record))], sys.argv[2])
"""
DEFEND = """
import sys
from pathlib import Path
from advrbd_plugin.evaluation.compare import Plan, compare

arguments = ("--num_workers", "0", "--frequency_save", "0", "--device", "cpu")
plan = Plan(checkout=Path.cwd(), records=(sys.argv[1],), defenses=("clp",), arguments=arguments,
            arguments_for={"clp": ("--yaml_path", sys.argv[2])}, detect=False, local_data=True)
undefended, defended = compare(plan)
assert defended.problem is None, defended.problem
print(undefended.acc, undefended.asr, undefended.ra, defended.acc, defended.asr, defended.ra)
"""


@pytest.fixture(scope="session")
def checkout(clone_backdoorbench, tmp_path_factory):
    return clone_backdoorbench(tmp_path_factory.mktemp("layouts"))


def run(checkout, code, *arguments):
    """In a process of its own: the toolbox's modules have names that others have too."""
    paths = filter(None, [str(ROOT), str(checkout), os.environ.get("PYTHONPATH")])
    settings = {"PYTHONPATH": os.pathsep.join(paths), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": ""}
    command = [sys.executable, "-W", "ignore", "-B", "-c", code, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=checkout, env=os.environ | settings)
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-3000:]
    return done.stdout


@pytest.mark.parametrize("dataset", IN_CLASS_FOLDERS)
def test_the_toolbox_reads_what_was_written(checkout, tmp_path, dataset):
    parts = record_parts(dataset)
    folder = write_record(checkout, f"blend_{dataset}", **parts)
    run(checkout, READ, folder, tmp_path / "read.pt")
    images, truth, tests = torch.load(tmp_path / "read.pt", weights_only=True)
    poisoned, clean_test, triggered = parts["poisoned"], parts["clean_test"], parts["triggered_test"]

    order = parts["clean_train"].labels.argsort(stable=True)
    assert torch.equal(images["images"], poisoned.image_set.images[order])
    assert torch.equal(images["labels"], poisoned.image_set.labels[order])
    assert images["sample_ids"].tolist() == list(range(len(order)))
    assert torch.equal(truth["poisoned"], (poisoned.poisoned | poisoned.covers)[order])
    assert torch.equal(truth["original_labels"], poisoned.true_labels[order])

    order = clean_test.labels.argsort(stable=True)
    assert torch.equal(tests["clean_images"], clean_test.images[order])
    assert torch.equal(tests["clean_labels"], clean_test.labels[order])
    assert torch.equal(tests["triggered_images"], triggered.images)
    assert torch.equal(tests["original_labels"], triggered.labels)
    assert tests["attack_labels"].unique().tolist() == [1]


def share(model, images, labels):
    """Of the images that the model gives these labels, uint8 and in pixel scale."""
    with torch.no_grad():
        return float((model(images / 255).argmax(dim=1) == labels).double().mean())


@pytest.mark.parametrize("dataset", ["imagenette"])
def test_a_defense_faces_the_same_model_and_images(checkout, tmp_path, dataset):
    parts = record_parts(dataset)
    test, triggered, model = parts["clean_test"], parts["triggered_test"], parts["model"]
    write_record(checkout, f"clp_{dataset}", **parts)
    quick = tmp_path / "clp.yaml"  # two steps of pruning, where the toolbox has 21
    quick.write_text((checkout / "config/defense/clp/config.yaml").read_text().replace("u_num: 21", "u_num: 2"))
    figures = [float(word) for word in run(checkout, DEFEND, f"clp_{dataset}", quick).split()[-6:]]
    expected = [
        share(model, test.images, test.labels),
        share(model, triggered.images, torch.ones(len(triggered), dtype=torch.int64)),
        share(model, triggered.images, triggered.labels),
    ]
    assert figures[:3] == pytest.approx(expected)
    assert all(0 <= figure <= 1 for figure in figures[3:])
