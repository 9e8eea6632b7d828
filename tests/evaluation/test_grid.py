"""Which cells a selection asks for."""

from __future__ import annotations

import pytest

from advrbd_plugin.cli import main
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.grid import EIGHT_ATTACKS, Selection, make_grid, select


def cells(scale: str = "small", tables=(), figures=(), **sides) -> list[Cell]:
    return make_grid(scale, select(scale, tables, figures, Selection(**sides)))


def test_without_options_the_eight_attacks_meet_three_methods():
    grid = cells()
    assert [(cell.attack, cell.method) for cell in grid[:4]] == [
        ("badnets", "none"),
        ("badnets", "clean_only"),
        ("badnets", "advrbd"),
        ("blend", "none"),
    ]
    assert len(grid) == 3 * len(EIGHT_ATTACKS) == 24
    assert {(cell.dataset, cell.model, cell.poison_ratio, cell.seed) for cell in grid} == {
        ("cifar10", "resnet_narrow", 0.05, 0)
    }


def test_every_cell_stands_behind_the_one_that_trains_its_model():
    grid = cells(attacks=("tact", "none"), defenses=("advrbd",), seeds=(0, 1))
    assert len(grid) == 8
    for place, cell in enumerate(grid):
        assert grid.index(cell.prerequisite) <= place


def test_the_unpoisoned_set_has_no_ratio_and_no_truly_clean_training():
    grid = cells(attacks=("none",), poison_ratios=(0.1, 0.2))
    assert [(cell.method, cell.poison_ratio) for cell in grid] == [("none", 0.0), ("advrbd", 0.0)]


@pytest.mark.parametrize(
    ("table", "small", "full"),
    # By hand: (5 attacks x 9 methods) x data sets; 3 attacks; 8 x (2 + no defense); 7 x 3 ratios x 2 + the unpoisoned
    # set's 2; 9 sets x 2 networks x 2; 9 x 2.
    [("II", 45, 180), ("III", 27, 108), ("IV", 24, 24), ("V", 44, 44), ("VI", 36, 36), ("VII", 18, 18)],
)
def test_the_size_of_the_papers_tables(table, small, full):
    assert len(cells("small", [table])) == small
    assert len(cells("full", [table])) == full


def test_a_tables_sides_and_the_users_over_them():
    assert {cell.model for cell in cells("small", ["VI"])} == {"resnet34", "mobilenet_v2"}
    assert {cell.model for cell in cells("full", ["VII"])} == {"resnet18"}
    narrowed = cells("full", ["VI"], models=("preactresnet18",), attacks=("blend",))
    assert {cell.model for cell in narrowed} == {"preactresnet18"}
    assert [cell.method for cell in narrowed] == ["none", "advrbd"]


def test_the_ablation_varies_the_partition_rate_of_advrbd_alone():
    grid = cells(figures=["7"], attacks=("badnets",), defenses=("none", "advrbd"))
    assert [cell.partition_rate for cell in grid] == [None, 0.02, 0.05, 0.10, 0.15, 0.20]
    assert grid[1].name.endswith("badnets-0.05-seed0/advrbd-alpha0.02")


def test_tables_share_their_cells():
    both = cells("small", ["IV", "VII"])
    assert len(both) == len(set(both)) == len(set(cells("small", ["IV"])) | set(cells("small", ["VII"])))


@pytest.mark.parametrize(
    ("sides", "expected"),
    [
        ({"attacks": ("badnet",)}, "--attacks must be of badnets, blend"),
        ({"defenses": ("xyz",)}, "--defenses must be of none, clean_only, advrbd"),
        ({"datasets": ("mnist",)}, "--datasets must be of cifar10, cifar100"),
        ({"models": ("vgg",)}, "--models must be of resnet_narrow"),
        ({"poison_ratios": (1.5,)}, "--poison-ratios must lie between 0 and 1, got 1.5"),
        ({"partition_rates": (0.0,)}, "--partition-rates must lie between 0 and 1, got 0"),
    ],
)
def test_a_wrong_side_is_named(sides, expected):
    with pytest.raises(AdvrBDError, match=expected):
        cells(**sides)


def test_the_dry_run_lists_the_cells(capsys, tmp_path):
    command = ["reproduce", "--dry-run", "--attacks", "tact,wanet", "--defenses", "advrbd", "--out", str(tmp_path)]
    assert main(command) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "cifar10/resnet_narrow/tact-0.05-seed0/none  [to run]"
    assert lines[-1] == "4 cells, 4 to run" and len(lines) == 5
    assert not list(tmp_path.iterdir())


def test_the_dry_run_of_a_rerun_lists_what_is_done_too(capsys, tmp_path, monkeypatch):
    from advrbd_plugin.evaluation import grid_job

    monkeypatch.setattr(grid_job, "current_result", lambda cell, options: object())
    command = ["reproduce", "--dry-run", "--attacks", "tact", "--defenses", "advrbd", "--out", str(tmp_path)]
    assert main(command) == 0 and "2 cells, 0 to run" in capsys.readouterr().out
    assert main([*command, "--rerun"]) == 0 and "2 cells, 2 to run" in capsys.readouterr().out


def test_a_grid_without_cells_is_refused(capsys, tmp_path):
    assert main(["reproduce", "--attacks", "none", "--defenses", "ft", "--out", str(tmp_path)]) == 2
    assert "none of --defenses has anything to do on the unpoisoned set" in capsys.readouterr().err


def test_the_words_of_the_command_line_are_those_there_are():
    from advrbd_plugin.cli import reproduce
    from advrbd_plugin.evaluation.grid import FIGURES, TABLES
    from advrbd_plugin.evaluation.scales import SCALES

    assert tuple(TABLES) == reproduce.TABLES and tuple(FIGURES) == reproduce.FIGURES
    assert tuple(SCALES) == reproduce.SCALES
