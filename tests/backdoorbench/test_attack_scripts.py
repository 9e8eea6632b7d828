"""Our attacks as scripts of BackdoorBench: their options and configurations, and, with a checkout, their records."""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

import numpy
import pytest
import torch
import yaml

from advrbd_plugin.attacks import ATTACKS, make_attack
from advrbd_plugin.backdoorbench.attack_script import AttackScript, own_parameters
from advrbd_plugin.backdoorbench.cifar_writer import write_cifar
from advrbd_plugin.backdoorbench.record import read_record
from advrbd_plugin.backdoorbench.registration import register, unregister
from advrbd_plugin.backdoorbench.scripts import ATTACKS as ROWS
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.errors import AdvrBDError

ROOT = Path(__file__).resolve().parents[2]
NAMES = [row.name for row in ROWS]


def default_configuration(name):
    (row,) = [row for row in ROWS if row.name == name]
    return yaml.safe_load(row.planned_files()[f"config/attack/{name}/default.yaml"])


def script(name, **values):
    made = AttackScript()
    made.name = name
    made.args = argparse.Namespace(**(default_configuration(name) | values))
    return made


@pytest.mark.parametrize("name", NAMES)
def test_the_default_configuration_is_table_i(name):
    content = default_configuration(name)
    assert set(content) <= {"attack", "attack_label_trans", "attack_target", "pratio", *own_parameters(name)}
    attack = script(name).make_attack()
    assert attack == make_attack(name, target_label=1, poison_ratio=0.05)
    assert getattr(attack, "cover_rate", 0.01) == 0.01 and getattr(attack, "source_label", 0) == 0


def test_every_attack_that_the_toolbox_lacks_has_a_script():
    assert set(NAMES) == set(ATTACKS) - {"badnets", "blend", "sig", "wanet"}


def test_options_stand_over_the_configuration():
    attack = script("tact", attack_target=3, pratio=0.02, source_label=7, cover_labels=[1, 2]).make_attack()
    assert (attack.target_label, attack.poison_ratio) == (3, 0.02)
    assert (attack.source_label, attack.cover_labels) == (7, (1, 2))
    assert script("physicalba", picture="mine.png").make_attack().picture == "mine.png"


@pytest.mark.parametrize(
    "values, said",
    [
        ({"attack_label_trans": "all2all"}, "all2one"),
        ({"pratio": 1.5}, "poison_ratio must be in"),
        ({"source_label": 1}, "source_label must differ"),
    ],
)
def test_mistakes_are_said(values, said):
    with pytest.raises(AdvrBDError, match=said):
        script("tact", **values).make_attack()


@pytest.fixture(scope="module")
def checkout(clone_backdoorbench, tmp_path_factory):
    """A clone of the user's checkout with a CIFAR-10 of noise and our scripts."""
    clone = clone_backdoorbench(tmp_path_factory.mktemp("attacks"))
    write_cifar(clone / "data/cifar10", "cifar10", noise(200, 0), noise(40, 1))
    register(clone)
    return clone


def noise(count, seed):
    pixels = torch.randint(0, 256, (count, 3, 32, 32), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return ImageSet(pixels, torch.arange(count) % 10, tuple(f"class {label}" for label in range(10)))


def run(checkout, *command, status=0):
    settings = {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "CUDA_VISIBLE_DEVICES": "", "MPLBACKEND": "Agg"}
    done = subprocess.run(
        [sys.executable, *command], cwd=checkout, capture_output=True, text=True, env=os.environ | settings
    )
    assert done.returncode == status, done.stdout[-1000:] + done.stderr[-3000:]
    return done


def attack(checkout, name, *options, status=0):
    common = ["--dataset", "cifar10", "--model", "resnet_narrow", "--epochs", "1", "--batch_size", "50"]
    common += ["--num_workers", "0", "--save_folder_name", name, "--local_data"]
    return run(checkout, f"attack/{name}.py", *common, *options, status=status)


@pytest.fixture(scope="module")
def record(checkout):
    """TaCT with 10 poisoned samples and 2 covers, run as any script of the toolbox is."""
    attack(checkout, "tact", "--seed_of_nothing", "1", status=2)
    attack(checkout, "tact", "--pratio", "0.05", "--cover_rate", "0.01")
    return checkout / "record/tact"


def test_the_record_holds_what_the_attack_made(record):
    content = read_record(record)
    expected = make_attack("tact", target_label=1, poison_ratio=0.05).poison(noise(200, 0), seed=0)
    changed = (expected.poisoned | expected.covers).numpy()
    assert numpy.array_equal(content.bd_train["poison_indicator"].astype(bool), changed)
    for place in changed.nonzero()[0].tolist():
        entry = content.bd_train["bd_data_container"]["data_dict"][place]
        assert entry["other_info"] == [int(expected.image_set.labels[place]), int(expected.true_labels[place])]
        assert torch.equal(pixels_of(entry["path"]), expected.image_set.images[place])
    assert set(content.bd_test["original_index_array"].tolist()) == {0, 10, 20, 30}  # the source class alone


def pixels_of(path):
    from PIL import Image
    from torchvision.transforms.functional import pil_to_tensor

    return pil_to_tensor(Image.open(path))


def test_a_taken_name_is_one_line(checkout, record):
    assert "record/tact exists already" in attack(checkout, "tact", status=2).stderr


def test_a_defense_of_the_toolbox_faces_the_record(checkout, record):
    run(
        checkout, "-m", "advrbd_plugin.cli", "backdoorbench", "run", "--local-data", "defense/ft.py",
        "--result_file", "tact", "--yaml_path", "./config/defense/ft/cifar10.yaml", "--dataset", "cifar10",
        "--model", "resnet_narrow", "--epochs", "1", "--batch_size", "10", "--num_workers", "0", "--ratio", "0.2",
    )  # fmt: skip
    assert (record / "defense/ft/defense_result.pt").is_file()


def test_unregister_leaves_only_what_was_run(checkout, record):
    unregister(checkout)
    command = ["git", "-C", str(checkout), "status", "--porcelain", "--ignored"]
    status = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    assert {line[3:].split("/")[0] for line in status.splitlines()} <= {"data", "record"}
