"""One real cell of each kind on a tiny data set: what its file holds, and what it says where it cannot be done."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation import process
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.experiment import Experiment, Options, work_folder
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.process import request, run_cell
from advrbd_plugin.evaluation.result import read_result

from .conftest import small_cell


def test_a_cells_file_holds_all_that_is_needed_to_judge_and_repeat_it(tiny):
    cell = small_cell(poison_ratio=0.1)
    assert process.main([request(cell, tiny)]) == 0
    result = read_result(tiny.out, cell)
    content = result.content
    assert result.is_done and 0 <= result.figure("acc") <= 1 and 0 <= result.figure("asr") <= 1
    assert content["data"] | {"fingerprint": ""} == {
        "train": 60,
        "test": 12,
        "triggered": 8,
        "image_size": [32, 32],
        "classes": 3,
        "fingerprint": "",
    }
    assert content["samples"]["counts"]["poisoned"] == {"all": 6} and content["attack"]["poison_ratio"] == 0.1
    assert [row["epoch"] for row in content["curves"]["training"]] == [1]
    assert content["configuration"]["epochs"] == 1 and content["configuration"]["seed"] == 0
    assert content["seconds"] > 0 and content["cpu_seconds"] > 0 and content["peak_memory_bytes"] > 2**20
    assert set(content) >= {"versions", "commit", "hardware", "started"}


def test_a_cell_is_never_run_by_two_processes(tiny):
    cell = small_cell(poison_ratio=0.1)
    with process.cell_lock(cell, tiny):
        assert process.main([request(cell, tiny)]) == 1
    assert read_result(tiny.out, cell).reason.startswith("another process is at work on this cell")
    assert process.main([request(cell, tiny)]) == 0


def test_cutmix_trains_as_long_as_the_scale():
    configuration = METHODS["cutmix"].configuration
    options = Options("data", "out", "work")
    assert configuration(small_cell(method="cutmix"), options)["epochs"] == 20
    full = configuration(small_cell(method="cutmix", scale="full"), options)
    assert (full["epochs"], full["batch_size"]) == (60, 128)


def test_the_defense_finds_the_model_that_the_undefended_cell_trained(tiny, monkeypatch):
    import advrbd_plugin.defense.stage_runner

    cell = small_cell(poison_ratio=0.1)
    run_cell(cell, tiny)
    stages = []
    train = advrbd_plugin.defense.stage_runner.train
    monkeypatch.setattr(
        advrbd_plugin.defense.stage_runner,
        "train",
        lambda *args, **more: stages.append(more["stage"]) or train(*args, **more),
    )
    content = run_cell(replace(cell, method="advrbd"), tiny)
    assert "training" not in stages
    assert {"tpr", "fpr", "auroc", "poison_in_trusted"} <= set(content["figures"])
    counts = content["samples"]["counts"]
    assert counts["poisoned"]["all"] == 6 and counts["clean"]["flagged"] + counts["clean"]["trusted"] <= 54
    assert sum(content["samples"]["scores"]["poisoned"]) == 6
    assert content["configuration"]["relearn_epochs"] == 1
    without = run_cell(replace(cell, method="advrbd-no-relearning"), tiny)
    assert without["configuration"]["relearn_epochs"] == 0


def test_training_on_the_clean_samples_leaves_the_poisoned_out(tiny, monkeypatch):
    from advrbd_plugin.evaluation.methods import clean_only

    seen = []
    monkeypatch.setattr(
        clean_only, "train", lambda model, images, labels, ids, *args, **more: seen.append(ids) or (model.eval() and [])
    )
    cell = small_cell(method="clean_only", poison_ratio=0.1)
    run_cell(cell, tiny)
    poisoned = Experiment(cell, tiny).poisoned
    assert len(seen[0]) == 54 and not torch.isin(seen[0], poisoned.image_set.sample_ids[poisoned.poisoned]).any()


def test_the_work_folders_are_those_of_the_benchmark():
    named = [work_folder(small_cell()), work_folder(small_cell("none", poison_ratio=0.0))]
    named += [work_folder(small_cell(poison_ratio=0.01)), work_folder(small_cell("none", poison_ratio=0.0, seed=1))]
    assert named == ["badnets", "none", "badnets-0.01", "none-0-seed1"]


def test_the_unpoisoned_set_is_shown_badnets_trigger(tiny):
    experiment = Experiment(small_cell("none", poison_ratio=0.0), tiny)
    assert not experiment.poisoned.poisoned.any()
    assert (experiment.triggered.images[:, :, -3:, -3:] == 255).all() and (experiment.triggered.labels != 1).all()


def test_a_partition_rate_is_the_defenses_alpha(tiny):
    from advrbd_plugin.evaluation.methods import METHODS

    cell = small_cell(method="advrbd", partition_rate=0.15)
    assert METHODS["advrbd"].configuration(cell, tiny)["alpha"] == 0.15


def test_an_attack_that_does_not_work_out_is_recorded(tiny):
    cell = small_cell("sig", poison_ratio=0.5)
    assert process.main([request(cell, tiny)]) == 1
    result = read_result(tiny.out, cell)
    assert result.content["status"] == "failed" and "sig can poison 20 of these 60 images" in result.reason


def test_pictures_in_zips_are_decoded_once(tmp_path, options):
    import io
    import zipfile

    from PIL import Image

    from advrbd_plugin.evaluation import image_store

    for part in ("train", "test"):
        with zipfile.ZipFile(Path(options.data) / f"{part}.zip", "w") as archive:
            for name, value in (("cat/0.png", 0), ("dog/0.png", 90), ("dog/1.png", 200)):
                buffer = io.BytesIO()
                Image.new("RGB", (32, 32), (value, 0, 0)).save(buffer, "PNG")
                archive.writestr(name, buffer.getvalue())
    (Path(options.data) / "cifar-10-batches-py" / "batches.meta").unlink()
    first = image_store.load_images("cifar10", options.data, None, 0, options.work)
    again = image_store.load_images("cifar10", options.data, None, 0, options.work)
    for one, other in zip(first, again, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.sample_ids, other.sample_ids)
        assert (one.paths, one.class_names) == (other.paths, other.class_names)
    assert len(list(Path(options.work, "images").iterdir())) == 1


def test_the_small_scale_draws_the_samples_of_the_benchmark(tmp_path):
    """benchmarks/small_scale.py's models are taken up by the grid, so its samples must be the same to the pixel."""
    import importlib.util

    from PIL import Image

    for part, count in (("train", 9), ("test", 3)):
        for name in ("cat", "dog"):
            for number in range(count):
                place = tmp_path / "cifar10" / part / name / f"{number}.png"
                place.parent.mkdir(parents=True, exist_ok=True)
                Image.new("RGB", (32, 32), (number, 0, 0)).save(place)
    path = Path(__file__).parents[2] / "benchmarks" / "small_scale.py"
    spec = importlib.util.spec_from_file_location("small_scale", path)
    benchmark = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(benchmark)
    from advrbd_plugin.evaluation.image_store import load_images

    theirs = benchmark.load(str(tmp_path / "cifar10"), 10, 3)
    ours = load_images("cifar10", str(tmp_path), 10, 3, str(tmp_path / "work"))
    for one, other in zip(ours, theirs, strict=True):
        assert torch.equal(one.images, other.images) and torch.equal(one.labels, other.labels)
        assert torch.equal(one.sample_ids, other.sample_ids)


def test_the_request_survives_the_command_line(options):
    cell = small_cell(method="advrbd", partition_rate=0.1)
    asked = json.loads(request(cell, options))
    assert type(cell).from_mapping(asked["cell"]) == cell and Options(**asked["options"]) == options


def test_a_missing_data_set_is_one_line(tiny, tmp_path):
    with pytest.raises(AdvrBDError, match="gtsrb is not in .*: put there gtsrb/ with GTSRB/Training"):
        run_cell(small_cell(dataset="gtsrb"), tiny)


@pytest.mark.parametrize("method", ["advrbd-paper", "cutmix", "scanft", "ulrl", "ulrl-clean"])
def test_every_method_of_this_package_gives_figures(tiny, method):
    cell = small_cell(method=method, poison_ratio=0.1)
    content = run_cell(cell, replace(tiny, settings=dict(tiny.settings) | {"rounds": 2}))
    assert 0 <= content["figures"]["acc"] <= 1 and 0 <= content["figures"]["asr"] <= 1
    assert content["configuration"]["seed"] == 0
    assert content.get("algorithm") == (current_algorithm() if method in ("advrbd-paper", "ulrl") else None)
