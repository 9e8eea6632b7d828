"""compare on a folder of scripts that are none of BackdoorBench's: what is run, cached, told and written."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
import sys
import threading
import time

import pytest
import torch

from advrbd_plugin.backdoorbench import classifiers
from advrbd_plugin.cli import main
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation import compare as package
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.compare import CompareCell, Plan, compare, judge, left_files, read_cell
from advrbd_plugin.evaluation.compare.tables import figures_table, how_to_measure, layout, show, write_tables
from advrbd_plugin.evaluation.metrics import Performance

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
    figures = Performance(acc=0.75, asr=0.25, ra=0.5)
    undefended = Performance(acc=0.8, asr=1.0, ra=0.0)

    # A model is its figures here.
    monkeypatch.setattr(classifiers, "attacked_model", lambda record: undefended)
    monkeypatch.setattr(classifiers, "load_defended_model", lambda path, record, *, trust: figures)
    monkeypatch.setattr(judge.Judge, "_performance", lambda self, record, load: load())
    return fake_checkout


def plan(checkout, **changes):
    given = {"records": ("badnet",), "defenses": ("good", "bad"), "arguments": ("--epochs", "3")} | changes
    return Plan(checkout=checkout, **given)


def runs(checkout, record="badnet"):
    return (checkout / f"record/{record}/defense/good/runs").read_text().splitlines()


def test_one_fails_the_other_goes_on_and_is_cached(checkout):
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
    assert any("cached" in line for line in told)
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
    assert told[4:] == ["badnet / good: cached, it was finished before"] and len(runs(checkout)) == 2


def test_a_result_from_before_is_judged_but_not_run(checkout):
    folder = checkout / "record/badnet/defense/good"
    folder.mkdir(parents=True)
    torch.save({"model_name": "x", "num_classes": 3, "model": {}}, folder / "defense_result.pt")
    told = []
    good = compare(plan(checkout, defenses=("good",)), told.append)[1]
    assert good.acc == 0.75 and good.seconds is None
    assert compare(plan(checkout, defenses=("good",), arguments=("--epochs", "4")), told.append)[1] == good
    assert told == 2 * ["badnet / good: cached, it was run by hand"]
    assert not (folder / "runs").exists()


def test_a_result_that_is_newer_than_its_notes_was_made_by_hand(checkout):
    folder = checkout / "record/badnet/defense/good"
    folder.mkdir(parents=True)
    (folder / "compare.json").write_text('{"record": "badnet", "defense": "good", "acc": 0.1, "options": ["--old"]}')
    os.utime(folder / "compare.json", (1, 1))
    torch.save({"model_name": "x", "num_classes": 3, "model": {}}, folder / "defense_result.pt")
    told = []
    assert compare(plan(checkout, defenses=("good",)), told.append)[1].acc == 0.75
    assert told == ["badnet / good: cached, it was run by hand"]


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
    defenses = [{"defense": "none", "acc": 0.8}, {"defense": "good", "problem": problem}]
    cells = [CompareCell(record, **figures) for record in ("badnet", "sig") for figures in defenses]
    monkeypatch.setattr(package, "compare", lambda plan, tell: cells)
    assert compare_command(checkout) == status


def test_what_judging_needs_and_is_not_installed_is_named(fake_checkout, records, monkeypatch):
    records.home = fake_checkout
    records.write(records.content("badnet"))
    (fake_checkout / "defense/good.py").write_text(GOOD)
    monkeypatch.setitem(sys.modules, "pandas", None)  # as if it were not there

    def judge_with_pandas(self, record, load):
        import pandas  # noqa: F401

    monkeypatch.setattr(judge.Judge, "_performance", judge_with_pandas)
    with pytest.raises(AdvrBDError, match=r"scripts import .*pandas.*: pip install 'advrbd_plugin\[backdoorbench\]'"):
        compare(plan(fake_checkout, defenses=("good",)), lambda line: None)


def test_the_last_row_of_a_detection_counts():
    lines = ["record,TN,TPR,FPR", "a,1,0.1,0.2", "record,TN,TPR,FPR,AUC", "a,1,0.3,0.4,0.9"]
    assert left_files._rates(lines) == (0.3, 0.4)
    assert left_files._rates(["record,Threshold,AUC", "a,1,2"]) is None


CELLS = [
    CompareCell("a", "none", acc=0.9, asr=1.0, ra=0.0),
    CompareCell("a", "ft_x", acc=0.85, asr=0.1, ra=0.7, tpr=0.5, fpr=0.01, seconds=61.2, peak_memory_bytes=3 * 2**20),
    CompareCell("a", "bad", problem="it | broke", seconds=1.0),
]


def test_one_record():
    table = layout(CELLS)
    assert table.columns == ("defense", "ACC", "ASR", "RA", "TPR", "FPR", "time", "memory")
    assert table.rows[0] == ("no defense", "90.0%", "100.0%", "0.0%", "-", "-", "-", "-")
    assert table.rows[1] == (
        "ft_x",
        "85.0% (-5.0)",
        "10.0% (-90.0)",
        "70.0% (+70.0)",
        "50.0%",
        "1.0%",
        "61 s",
        "3 MiB",
    )
    assert table.rows[2][:2] == ("bad (failed)", "-")


def test_several_records_have_averages():
    cells = [
        *CELLS,
        CompareCell("b", "none", acc=0.8, asr=0.9, ra=0.1),
        CompareCell("b", "ft_x", acc=0.75, asr=0.2, ra=0.6),
        CompareCell("b", "bad", acc=0.7, asr=0.0, ra=0.7),
    ]
    table = layout(cells)
    assert [row[0] for row in table.rows] == ["a", "b", "average"]
    assert table.columns == ("attack (ACC / ASR / RA)", "no defense", "ft_x", "bad")
    assert table.rows[0][3] == "failed"
    assert table.rows[2][1:] == (
        "85.0% / 95.0% / 5.0%",
        "80.0% / 15.0% / 65.0%",
        "70.0% / 0.0% / 70.0% (1 of 2)",
    )


def test_a_method_that_only_detects_has_its_rates_in_the_papers_layout():
    cells = [CompareCell(record, "scan", tpr=0.5 + shift, fpr=0.1) for record, shift in (("a", 0.1), ("b", 0.3))]
    rows = layout(cells).rows
    assert [row[1] for row in rows] == ["TPR 60.0% FPR 10.0%", "TPR 80.0% FPR 10.0%", "TPR 70.0% FPR 10.0%"]


def test_many_defenses_are_printed_whole_where_there_is_no_terminal(capsys):
    names = [f"defense{number}" for number in range(12)]
    show([CompareCell(record, name, acc=0.75, asr=0.5, ra=0.25) for record in "ab" for name in names])
    printed = capsys.readouterr().out
    assert printed.count("75.0% / 50.0% / 25.0%") == 3 * 12 and "points against" not in printed


def test_names_are_printed_as_they_are(capsys):
    figures = {"acc": 0.75, "asr": 0.5, "ra": 0.25}
    for records in (("[/x]",), ("[/x]", "[red]:smile:")):
        show([CompareCell(record, name, **figures) for record in records for name in ("[bold]", "[/y]")])
        printed = capsys.readouterr().out
        assert "[bold]" in printed and "[/y]" in printed
    assert "[/x]" in printed and "[red]:smile:" in printed


def test_how_to_measure_what_was_run_by_hand_is_said(capsys):
    by_hand = [CompareCell("a", "ft", acc=0.75, asr=0.5, ra=0.25), CompareCell("b", "fp", acc=0.75, asr=0.5, ra=0.25)]
    show([*CELLS, *by_hand[:1]])
    assert "not known: ft. The same command with --defenses ft --rerun" in capsys.readouterr().out
    assert "--defenses ft,fp --rerun" in how_to_measure(by_hand)
    show(CELLS)
    assert "by hand" not in capsys.readouterr().out


def test_files(tmp_path):
    rows = list(csv.DictReader(io.StringIO(figures_table(CELLS).csv())))
    assert (rows[1]["ACC"], rows[1]["peak_memory_MiB"], rows[0]["ASR_change"]) == ("0.85", "3", "")
    assert float(rows[1]["ASR_change"]) == pytest.approx(-0.9)
    assert rows[2]["problem"] == "it | broke"
    latex = layout(CELLS).latex(booktabs=True)
    assert r"ft\_x & 85.0\% (-5.0)" in latex and latex.startswith("\\begin{tabular}{lrrrrrrr}\n\\toprule\n")
    assert [path.name for path in write_tables(CELLS, tmp_path)] == [
        "comparison.csv",
        "comparison.md",
        "comparison.tex",
    ]


def test_notes_are_json(checkout):
    compare(plan(checkout, defenses=("good",)), lambda line: None)
    notes = json.loads((checkout / "record/badnet/defense/good/compare.json").read_text())
    assert notes["acc"] == 0.75 and "--epochs" in notes["options"] and notes["algorithm"] is None


def test_a_cell_of_another_version_of_advrbd_is_run_again(checkout, monkeypatch):
    (checkout / "defense/advrbd.py").write_text(GOOD.replace("defense/good", "defense/advrbd"))
    told = []
    assert compare(plan(checkout, defenses=("advrbd",)), told.append)[1].algorithm == current_algorithm()
    again = plan(checkout, defenses=("advrbd",))
    compare(again, told.append)
    assert told[-1] == "badnet / advrbd: cached, it was finished before"
    notes = checkout / "record/badnet/defense/advrbd/compare.json"
    content = json.loads(notes.read_text())
    for algorithm in ({"version": 0, "digest": "0"}, None):
        notes.write_text(json.dumps(content | {"algorithm": algorithm}))
        compare(again, told.append)
        assert any(line.startswith("badnet / advrbd: run again, AdvrBD's version was another") for line in told[-2:])


@pytest.mark.parametrize("change", [{"acc": "0.9"}, {"options": 3}, {"algorithm": [1]}, {"more": 1}, {"problem": {}}])
def test_notes_that_are_none_of_ours_are_not_believed(tmp_path, change):
    path = tmp_path / "compare.json"
    path.write_text(json.dumps({"record": "a", "defense": "b", "acc": 0.9}))
    assert read_cell(path) == CompareCell("a", "b", acc=0.9)
    path.write_text(json.dumps({"record": "a", "defense": "b"} | change))
    assert read_cell(path) is None
    path.write_text("[1, 2]")
    assert read_cell(path) is None and read_cell(tmp_path / "nothing.json") is None


def test_a_stopped_comparison_goes_on_with_the_cells_that_are_left(checkout):
    """Ctrl-C ends the script at work, and what was finished before it is not run again."""
    (checkout / "defense/slow.py").write_text("import time\nprint('working', flush=True)\ntime.sleep(600)\n")
    told = []

    def interrupt(line):
        told.append(line)
        if line.startswith("badnet / slow: running"):
            threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT)).start()

    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    began = time.monotonic()
    try:
        with pytest.raises(KeyboardInterrupt):
            compare(plan(checkout, defenses=("good", "slow")), interrupt)
    finally:
        signal.signal(signal.SIGINT, before)
    assert time.monotonic() - began < 300
    (checkout / "defense/slow.py").write_text(GOOD.replace("defense/good", "defense/slow"))
    compare(plan(checkout, defenses=("good", "slow")), told.append)
    assert "badnet / good: cached, it was finished before" in told and runs(checkout) == ["3 None"]
