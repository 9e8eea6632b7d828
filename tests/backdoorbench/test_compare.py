"""compare on a folder of scripts that are none of BackdoorBench's: what is run, kept, told and written."""

from __future__ import annotations

import csv
import io
import json
import os
import sys

import pytest
import torch

from advrbd_plugin.backdoorbench import classifiers
from advrbd_plugin.backdoorbench.tables import layout, show, to_csv, to_latex, to_markdown, write_tables
from advrbd_plugin.cli import main
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation import compare as package
from advrbd_plugin.evaluation.compare import Cell, Plan, compare, judge, left_files

GOOD = """
import argparse, os, torch
parser = argparse.ArgumentParser()
for name in ('--result_file', '--dataset', '--model', '--yaml_path', '--epochs', '--device', '--extra'):
    parser.add_argument(name)
args = parser.parse_args()
folder = f"record/{args.result_file}/defense/good"
os.makedirs(folder, exist_ok=True)
with open(folder + "/runs", "a") as file:
    file.write(f"{args.epochs} {args.extra}\\n")
torch.save({"model_name": args.model, "num_classes": 3, "model": {}}, folder + "/defense_result.pt")
"""
DETECTS = """
import argparse, os
parser = argparse.ArgumentParser()
for name in ('--result_file', '--dataset', '--model', '--device'):
    parser.add_argument(name)
args = parser.parse_args()
folder = f"record/{args.result_file}/detection/good_pretrain"
os.makedirs(folder, exist_ok=True)
with open(folder + "/detection_info.csv", "a") as file:
    file.write("record,TN,FP,FN,TP,TPR,FPR,target\\n")
    file.write("x,90,10,1,9,0.9,0.1,None\\n")
"""


@pytest.fixture
def checkout(fake_checkout, records, monkeypatch):
    (fake_checkout / "defense/good.py").write_text(GOOD)
    (fake_checkout / "detection_pretrain/good.py").write_text(DETECTS)
    (fake_checkout / "defense/bad.py").write_text("# '--epochs'\nprint('working')\nraise RuntimeError('no luck')\n")
    records.home = fake_checkout
    for name in ("badnet", "sig"):
        records.write(records.content(name), name)
    figures = {"test_acc": 0.75, "test_asr": 0.25, "test_ra": 0.5}
    undefended = {"test_acc": 0.8, "test_asr": 1.0, "test_ra": 0.0}

    # A model is its figures here.
    monkeypatch.setattr(classifiers, "attacked_model", lambda record: undefended)
    monkeypatch.setattr(classifiers, "load_defended_model", lambda path, record, *, trust: figures)
    monkeypatch.setattr(judge.Judge, "_figures", lambda self, load: load())
    return fake_checkout


def plan(checkout, **changes):
    given = {"records": ("badnet",), "defenses": ("good", "bad"), "arguments": ("--epochs", "3")} | changes
    return Plan(checkout=checkout, **given)


def runs(checkout, record="badnet"):
    return (checkout / f"record/{record}/defense/good/runs").read_text().splitlines()


def test_one_fails_the_other_goes_on_and_is_kept(checkout):
    told = []
    none, good, bad = compare(plan(checkout), told.append)
    assert (none.defense, none.asr, none.problem) == ("none", 1.0, None)
    assert (good.acc, good.asr, good.ra, good.tpr, good.fpr) == (0.75, 0.25, 0.5, 0.9, 0.1)
    assert good.seconds > 0 and good.peak_memory_bytes > 2**20
    assert bad.acc is None and "defense/bad.py failed: RuntimeError: no luck" in bad.problem
    assert "compare_defense.log" in bad.problem
    assert runs(checkout) == ["3 None"]
    assert any("badnet / bad: running, about" in line for line in told)

    again = compare(plan(checkout), told.append)
    assert runs(checkout) == ["3 None"] and again[1] == good
    assert any("kept" in line for line in told)
    compare(plan(checkout, rerun=True, arguments_for={"good": ("--extra", "7")}), told.append)
    assert runs(checkout) == ["3 None", "3 7"]


def test_a_finished_cell_of_other_options_is_run_again(checkout):
    told = []
    compare(plan(checkout, defenses=("good",)), told.append)
    again = plan(checkout, defenses=("good",), arguments=("--epochs", "20"), detect=False)
    good = compare(again, told.append)[1]
    assert runs(checkout) == ["3 None", "20 None"]
    assert told[2] == "badnet / good: run again, its options were others"
    assert good.tpr is None and good.fpr is None  # what lies there is of the detection with the other options
    assert compare(again, told.append)[1] == good
    assert told[4:] == ["badnet / good: kept, it was finished before"] and len(runs(checkout)) == 2


def test_a_result_from_before_is_judged_but_not_run(checkout):
    folder = checkout / "record/badnet/defense/good"
    folder.mkdir(parents=True)
    torch.save({"model_name": "x", "num_classes": 3, "model": {}}, folder / "defense_result.pt")
    told = []
    good = compare(plan(checkout, defenses=("good",)), told.append)[1]
    assert good.acc == 0.75 and good.seconds is None
    assert compare(plan(checkout, defenses=("good",), arguments=("--epochs", "4")), told.append)[1] == good
    assert told == 2 * ["badnet / good: kept, it was run by hand"]
    assert not (folder / "runs").exists()


def test_a_result_that_is_newer_than_its_notes_was_made_by_hand(checkout):
    folder = checkout / "record/badnet/defense/good"
    folder.mkdir(parents=True)
    (folder / "compare.json").write_text('{"record": "badnet", "defense": "good", "acc": 0.1, "options": ["--old"]}')
    os.utime(folder / "compare.json", (1, 1))
    torch.save({"model_name": "x", "num_classes": 3, "model": {}}, folder / "defense_result.pt")
    told = []
    assert compare(plan(checkout, defenses=("good",)), told.append)[1].acc == 0.75
    assert told == ["badnet / good: kept, it was run by hand"]


def test_an_empty_result_is_no_result(checkout):
    folder = checkout / "record/badnet/defense/good"
    folder.mkdir(parents=True)
    torch.save({}, folder / "defense_result.pt")  # what the toolbox leaves when the loss is NaN
    compare(plan(checkout, defenses=("good",)), lambda line: None)
    assert runs(checkout) == ["3 None"]


@pytest.mark.parametrize(
    "changes, said",
    [
        ({"defenses": ("nothing",)}, "has no nothing; it has bad, good"),
        ({"defenses": ("../evil",)}, "has no ../evil"),
        ({"defenses": ("advrbd",)}, "advrbd is not registered"),
        ({"records": ("nothing",)}, "no record nothing"),
        ({"arguments": ("--epoch", "3")}, "none of good, bad takes --epoch"),
        ({"arguments_for": {"fp": ("--epochs", "3")}}, "--for fp: it is not among --defenses"),
        (
            {"arguments_for": {"good": ("--epochs", "3", "--extar", "7")}},
            "--for good: defense/good.py, detection_pretrain/good.py takes no --extar",
        ),
        ({"arguments_for": {"bad": ("--extra", "7")}}, "--for bad: defense/bad.py takes no --extra"),
        ({"arguments_for": {"good": ("3",)}}, "3 belongs to no option"),
    ],
)
def test_mistakes_are_said_before_anything_runs(checkout, changes, said):
    with pytest.raises(AdvrBDError, match=said.replace("../", r"\.\./")):
        compare(plan(checkout, **changes), lambda line: None)
    assert not (checkout / "record/badnet/defense").exists()


def compare_command(checkout, *more):
    command = ["compare", "--backdoorbench", str(checkout), "--any-version", "--result_file", "badnet,sig"]
    return main([*command, "--defenses", "good,bad", "--out", str(checkout / "table"), *more])


def test_options_for_one_defense_may_come_in_parts(checkout, monkeypatch):
    plans = []
    monkeypatch.setattr(package, "compare", lambda plan, tell: plans.append(plan) or CELLS)
    parts = ["--for", "good: --epochs 1", "--for", "bad: --epochs 2", "--for", "good: --extra 7"]
    assert compare_command(checkout, *parts) == 0
    assert plans[0].arguments_for == {"good": ("--epochs", "1", "--extra", "7"), "bad": ("--epochs", "2")}


@pytest.mark.parametrize("problem, status", [("no luck", 1), (None, 0)])
def test_the_exit_status_says_whether_every_defense_failed(checkout, monkeypatch, capsys, problem, status):
    records = [[Cell(name, "none", acc=0.8), Cell(name, "good", problem=problem)] for name in ("badnet", "sig")]
    monkeypatch.setattr(package, "compare", lambda plan, tell: sum(records, []))
    assert compare_command(checkout) == status


def test_what_judging_needs_and_is_not_installed_is_named(fake_checkout, records, monkeypatch):
    records.home = fake_checkout
    records.write(records.content("badnet"))
    (fake_checkout / "defense/good.py").write_text(GOOD)
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not there

    def judge_with_pandas(self, load):
        pass

    monkeypatch.setattr(judge.Judge, "_figures", judge_with_pandas)
    with pytest.raises(AdvrBDError, match=r"scripts import .*pandas.*: pip install 'advrbd_plugin\[backdoorbench\]'"):
        compare(plan(fake_checkout, defenses=("good",)), lambda line: None)


def test_the_last_row_of_a_detection_counts():
    lines = ["record,TN,TPR,FPR", "a,1,0.1,0.2", "record,TN,TPR,FPR,AUC", "a,1,0.3,0.4,0.9"]
    assert left_files._rates(lines) == (0.3, 0.4)
    assert left_files._rates(["record,Threshold,AUC", "a,1,2"]) is None


CELLS = [
    Cell("a", "none", acc=0.9, asr=1.0, ra=0.0),
    Cell("a", "ft_x", acc=0.85, asr=0.1, ra=0.7, tpr=0.5, fpr=0.01, seconds=61.2, peak_memory_bytes=3 * 2**20),
    Cell("a", "bad", problem="it | broke", seconds=1.0),
]


def test_one_record():
    header, rows = layout(CELLS)
    assert header == ["defense", "ACC", "ASR", "RA", "TPR", "FPR", "time", "memory"]
    assert rows[0] == ["no defense", "90.0", "100.0", "0.0", "-", "-", "-", "-"]
    assert rows[1] == ["ft_x", "85.0 (-5.0)", "10.0 (-90.0)", "70.0 (+70.0)", "50.0", "1.0", "61 s", "3 MiB"]
    assert rows[2][:2] == ["bad (failed)", "-"]


def test_several_records_have_averages():
    cells = [
        *CELLS,
        Cell("b", "none", acc=0.8, asr=0.9, ra=0.1),
        Cell("b", "ft_x", acc=0.75, asr=0.2, ra=0.6),
        Cell("b", "bad", acc=0.7, asr=0.0, ra=0.7),
    ]
    header, rows = layout(cells)
    assert [row[0] for row in rows] == ["a", "b", "average"]
    assert header == ["attack (ACC / ASR / RA)", "no defense", "ft_x", "bad"]
    assert rows[0][3] == "failed"
    assert rows[2][1:] == ["85.0 / 95.0 / 5.0", "80.0 / 15.0 / 65.0", "70.0 / 0.0 / 70.0 (1 of 2)"]


def test_a_method_that_only_detects_has_its_rates_in_the_papers_layout():
    cells = [Cell(record, "scan", tpr=0.5 + shift, fpr=0.1) for record, shift in (("a", 0.1), ("b", 0.3))]
    rows = layout(cells)[1]
    assert [row[1] for row in rows] == ["TPR 60.0 FPR 10.0", "TPR 80.0 FPR 10.0", "TPR 70.0 FPR 10.0"]


def test_many_defenses_are_printed_whole_where_there_is_no_terminal(capsys):
    names = [f"defense{number}" for number in range(12)]
    show([Cell(record, name, acc=0.75, asr=0.5, ra=0.25) for record in "ab" for name in names])
    printed = capsys.readouterr().out
    assert printed.count("75.0 / 50.0 / 25.0") == 3 * 12 and "change against" not in printed


def test_names_are_printed_as_they_are(capsys):
    for records in (("[/x]",), ("[/x]", "[red]:smile:")):
        show([Cell(record, name, acc=0.75, asr=0.5, ra=0.25) for record in records for name in ("[bold]", "[/y]")])
        printed = capsys.readouterr().out
        assert "[bold]" in printed and "[/y]" in printed
    assert "[/x]" in printed and "[red]:smile:" in printed


def test_files(tmp_path):
    rows = list(csv.DictReader(io.StringIO(to_csv(CELLS))))
    assert (rows[1]["ACC"], rows[1]["peak_memory_MiB"], rows[0]["ASR_change"]) == ("0.85", "3", "")
    assert float(rows[1]["ASR_change"]) == pytest.approx(-0.9)
    assert rows[2]["problem"] == "it | broke"
    header, table = layout(CELLS)
    assert to_markdown(header, [["a|b", "1"]]).splitlines()[2] == "| a\\|b | 1 |"
    assert r"ft\_x & 85.0 (-5.0)" in to_latex(header, table)
    assert [path.name for path in write_tables(CELLS, tmp_path)] == [
        "comparison.csv",
        "comparison.md",
        "comparison.tex",
    ]


def test_notes_are_json(checkout):
    compare(plan(checkout, defenses=("good",)), lambda line: None)
    notes = json.loads((checkout / "record/badnet/defense/good/compare.json").read_text())
    assert notes["acc"] == 0.75 and "--epochs" in notes["options"]
