"""BackdoorBench's defenses as cells of the grid: one on a real checkout, and what can be said without one."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from advrbd_plugin.evaluation import process
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.methods.toolbox import _curves
from advrbd_plugin.evaluation.process import request
from advrbd_plugin.evaluation.result import read_result

from .conftest import small_cell, write_cifar10


@pytest.fixture
def checkout(clone_backdoorbench, tmp_path):
    """A clone of the user's checkout, which itself is never touched."""
    return clone_backdoorbench(tmp_path)


def test_a_defense_of_the_toolbox_faces_the_cells_own_model(tiny, checkout):
    write_cifar10(Path(tiny.data) / "cifar-10-batches-py", classes=10)  # the toolbox knows how many CIFAR-10 has
    tiny = replace(tiny, backdoorbench=str(checkout))
    cell = small_cell(method="clp", poison_ratio=0.1)
    assert process.main([request(cell, tiny)]) == 0
    result = read_result(tiny.out, cell)
    assert 0 <= result.figure("acc") <= 1 and 0 <= result.figure("asr") <= 1
    details = result.content["details"]
    # All twelve test images are in the record, so the toolbox's judgement and ours are of the same images.
    assert details["in_the_toolbox"]["acc"] == pytest.approx(result.figure("acc"))
    assert details["in_the_toolbox"]["asr"] == pytest.approx(result.figure("asr"))
    assert (checkout / "record" / details["record"] / "attack_result.pt").is_file()
    assert result.content["stage_seconds"]["clp"] > 0 and result.content["peak_memory_bytes"] > 2**20


def test_the_small_scale_has_fewer_epochs_and_the_full_one_the_toolboxs_own(options):
    cells = [small_cell(method="ft", scale=scale) for scale in ("small", "full")]
    small, full = (METHODS["ft"].configuration(cell, options) for cell in cells)
    assert small["arguments"][:4] == ["--epochs", "20", "--batch_size", "64"]
    assert "--epochs" not in full["arguments"] and "--random_seed" in full["arguments"]


def test_the_curves_are_the_numbers_of_the_scripts_table(tmp_path):
    (tmp_path / "ft_df.csv").write_text(
        ",epoch,batch,test_acc,test_asr,note\n0,0,1.0,0.5,0.9,x\n1,1,,0.6,0.1,\nexist_nan_value,,,True,nan,\n"
    )
    (tmp_path / "ft_df_summary.csv").write_text(",value\n0,1\n")
    first = {"epoch": 0, "batch": 1, "test_acc": 0.5, "test_asr": 0.9}
    assert _curves(tmp_path) == {"ft": [first, {"epoch": 1, "test_acc": 0.6, "test_asr": 0.1}]}
