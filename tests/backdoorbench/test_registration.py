"""register and unregister: exactly their files, no other."""

from __future__ import annotations

import argparse
import ast
import subprocess

import pytest
import yaml

from advrbd_plugin.backdoorbench.registration import register, unregister
from advrbd_plugin.backdoorbench.scripts import DEFENSES, methods_named, planned_files
from advrbd_plugin.errors import AdvrBDError

DATASET_CONFIGS = ("config", "cifar10", "cifar100", "gtsrb", "tiny", "imagenette")
ADVRBD = {
    "defense/advrbd.py",
    "detection_pretrain/advrbd.py",
    *(f"config/defense/advrbd/{name}.yaml" for name in DATASET_CONFIGS),
}
NEW_ATTACKS = ("physicalba", "tact", "adaptive_blend", "adaptive_patch")
ATTACK_FILES = {file for name in NEW_ATTACKS for file in (f"attack/{name}.py", f"config/attack/{name}/default.yaml")}
EXPECTED = set(planned_files())


def tree(folder):
    return {str(path.relative_to(folder)): path.is_file() and path.read_bytes() for path in folder.rglob("*")}


def test_what_is_written():
    files = planned_files()
    assert set(files) >= ADVRBD | ATTACK_FILES
    for row in DEFENSES:
        assert {f"config/defense/{row.name}/{name}.yaml" for name in DATASET_CONFIGS} <= set(files)
    for name, content in files.items():
        if name.endswith(".py"):
            (found,) = [node for node in ast.parse(content).body if isinstance(node, ast.ClassDef)]
            assert found.name == name.split("/")[1].removesuffix(".py")
            assert found.bases[-1].id == ("BadNet" if name.startswith("attack/") else "defense")
        else:
            assert isinstance(yaml.safe_load(content), dict)


@pytest.mark.parametrize("row", DEFENSES, ids=lambda row: row.name)
def test_every_defense_reads_its_configurations(row, tmp_path):
    methods = methods_named(row.name)
    assert methods.name == row.name and methods.takes_option("--result_file") and methods.takes_option("--epochs")
    assert not methods.takes_option("--cheese")
    configs = {name: content for name, content in row.planned_files().items() if name.endswith(".yaml")}
    assert f"config/defense/{row.name}/config.yaml" in configs
    for name, content in configs.items():
        path = tmp_path / name.rsplit("/", 1)[1]
        path.write_bytes(content)
        parser = argparse.ArgumentParser()
        methods.add_arguments(parser)
        made = methods(parser.parse_args(["--yaml_path", str(path)]))
        if path.stem == "cifar10":
            assert made.config == methods.config_class()


def test_a_name_of_the_toolbox_is_none_of_ours():
    assert methods_named("ft") is None


def test_register_twice_then_unregister_leaves_no_trace(fake_checkout):
    (fake_checkout / "config/defense/ft").mkdir(parents=True)
    before = tree(fake_checkout)
    assert set(register(fake_checkout)[0]) == EXPECTED
    after = tree(fake_checkout)
    assert {name: after[name] for name in before} == before
    assert register(fake_checkout) == ([], [])
    assert tree(fake_checkout) == after
    removed, kept = unregister(fake_checkout)
    assert set(removed) == EXPECTED and not kept
    assert tree(fake_checkout) == before
    assert unregister(fake_checkout) == ([], [])


def test_git_status_is_clean_afterwards(fake_checkout):
    def git(*arguments):
        command = ["git", "-c", "user.name=t", "-c", "user.email=t@example.org", "-C", str(fake_checkout), *arguments]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout

    git("init", "--quiet")
    git("add", ".")
    git("commit", "--quiet", "-m", "start")
    register(fake_checkout)
    assert "defense/advrbd.py" in git("status", "--porcelain")
    unregister(fake_checkout)
    assert git("status", "--porcelain") == ""


@pytest.mark.parametrize("name", ["defense/advrbd.py", "config/defense/advrbd/tiny.yaml"])
def test_a_strangers_file_is_not_overwritten(fake_checkout, name):
    path = fake_checkout / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("mine\n")
    before = tree(fake_checkout)
    with pytest.raises(AdvrBDError, match="in the way"):
        register(fake_checkout)
    assert tree(fake_checkout) == before


def test_a_changed_file_is_its_owners(fake_checkout):
    register(fake_checkout)
    path = fake_checkout / "config/defense/advrbd/cifar10.yaml"
    path.write_text("dataset: cifar10\nepochs: 3\n")
    assert register(fake_checkout) == ([], ["config/defense/advrbd/cifar10.yaml"])
    assert unregister(fake_checkout)[1] == ["config/defense/advrbd/cifar10.yaml"]
    assert path.read_text().endswith("epochs: 3\n")


def test_a_manifest_cannot_name_other_files(fake_checkout):
    register(fake_checkout)
    manifest = fake_checkout / "config/defense/advrbd/.advrbd_register.json"
    manifest.write_text('{"sha256": {"../victim.txt": "0", "defense/base.py": "0"}}')
    assert unregister(fake_checkout) == ([], [])
    assert (fake_checkout / "defense/base.py").exists()
    manifest.write_text("not json")
    with pytest.raises(AdvrBDError, match="damaged"):
        unregister(fake_checkout)
