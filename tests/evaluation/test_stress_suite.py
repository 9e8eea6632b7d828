"""The stress suite as cells: which there are, how they are judged by hand, one real set, and the table."""

from __future__ import annotations

import json
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from advrbd_plugin.attacks import make_attack
from advrbd_plugin.cli import main
from advrbd_plugin.data import ImageSet
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation import stress_judge, stress_sets
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.cell import STRESS, Cell
from advrbd_plugin.evaluation.experiment import Options, Outcome
from advrbd_plugin.evaluation.grid_job import current_result, run_grid
from advrbd_plugin.evaluation.process import run_cell
from advrbd_plugin.evaluation.result import Result, read_result, read_results, write_result
from advrbd_plugin.evaluation.stress_bars import bars_of, collect_rows
from advrbd_plugin.evaluation.stress_experiment import StressExperiment, set_of
from advrbd_plugin.evaluation.stress_grid import SUITE, SuiteSelection, make_suite
from advrbd_plugin.evaluation.stress_suite import CHOOSING, HELD_OUT, split_name
from advrbd_plugin.report.evaluation import write_report, write_stress_report


def stress_cell(recipe: str = "wave%10+noise10", method: str = "none", seed: int = 3, samples: int = 60) -> Cell:
    return Cell(STRESS, "cifar10", "resnet_narrow", recipe, 0.0, seed, method, samples=samples)


def test_the_default_suite_holds_sets_of_seeds_that_nothing_was_chosen_by():
    cells = make_suite(SuiteSelection(reference=True))
    sets = {(cell.set_name, cell.samples) for cell in cells}
    assert len(sets) == len(SUITE) and {samples for _, samples in sets} == {2000, 5000, 10_000, 20_000, 50_000}
    seen = {split_name(name)[1] for name in (*CHOOSING, *HELD_OUT)}
    assert not seen & {cell.seed for cell in cells}
    clean = [cell for cell in cells if cell.method == "none" and {*split_name(cell.set_name)[0]} <= CLEAN_PARTS]
    assert len(clean) >= 12
    # A reference is trained where something is wrong, and only there.
    assert not [cell for cell in cells if cell.method == "clean_only" and cell.attack in ("clean", "duplicates")]
    assert [cell for cell in cells if cell.method == "clean_only" and cell.attack == "noise10"]


CLEAN_PARTS = {"composite", "long_tail", "noise10", "noise20", "duplicates", "minor", "camera", "half_grey", "grey"}
CLEAN_PARTS |= {"jpeg", "watermark"}


def named(**selection) -> list[str]:
    return [
        f"{cell.set_name}@{cell.samples}" for cell in make_suite(SuiteSelection(**selection)) if cell.is_prerequisite
    ]


def test_a_set_may_carry_its_seed_and_its_size():
    sets = ("composite+badnets-s3", "clean@2000", "clean-s2@5000")
    assert named(sets=sets) == ["composite+badnets-s3@10000", "clean-s0@2000", "clean-s2@5000"]
    assert named(sets=sets, samples=400, seeds=(7, 8)) == [
        *("composite+badnets-s3@400", "clean-s7@2000", "clean-s8@2000", "clean-s2@5000"),
    ]
    assert {each.split("@")[1] for each in named(samples=400)} == {"400"}
    assert {each.split("-s")[1] for each in named(samples=400, seeds=(7,))} == {"7@400"}


@pytest.mark.parametrize(
    ("selection", "said"),
    [
        ({"sets": ("badnet-s1",)}, "'badnet' is no part of a stress set; there are clean, composite, "),
        ({"sets": ("badnets%200-s1",)}, "must be a percentage below 100, got '200'"),
        ({"sets": ("clean-s1@many",)}, "--sets must name sets such as"),
        ({"models": ("resnet19",)}, "--model must be of "),
        ({"defenses": ("ft",)}, "--defenses of the stress suite must be of none, clean_only, advrbd"),
    ],
)
def test_what_is_unknown_is_refused(selection, said):
    with pytest.raises(AdvrBDError, match=said.replace("[", "\\[")):
        make_suite(SuiteSelection(**selection))


def test_options_of_the_other_suite_are_refused(capsys, tmp_path):
    for command, said in (
        (["--suite", "stress", "--table", "VII"], "--table is an option of the paper's grid"),
        (["--sets", "clean-s1"], "--sets is an option of --suite stress"),
    ):
        assert main(["reproduce", *command, "--out", str(tmp_path)]) == 2
        assert said in capsys.readouterr().err


def test_the_dry_run_lists_the_sets_cells(capsys, tmp_path):
    command = ["reproduce", "--suite", "stress", "--dry-run", "--sets", "sig%1-s4", "--samples", "500", "--reference"]
    assert main([*command, "--out", str(tmp_path)]) == 0
    lines = capsys.readouterr().out.splitlines()
    cells = [f"cifar10/resnet_narrow/sig%1-s4-n500/{method}  [to run]" for method in ("none", "clean_only", "advrbd")]
    assert lines == [*cells, "3 cells, 3 to run"]


class Brightness(nn.Module):
    """Says class 0, and class 1 of pictures whose corner is white."""

    def __init__(self) -> None:
        super().__init__()
        self.scale = nn.Parameter(torch.tensor(1.0))

    def forward(self, images):
        corner = (images[:, :, -3:, -3:].flatten(1) > 0.99).all(1).float()
        return self.scale * torch.stack([torch.full_like(corner, 0.5), corner, torch.zeros_like(corner)], 1)


def drawn_set(labels: list[int]) -> ImageSet:
    return ImageSet(torch.zeros(len(labels), 3, 8, 8, dtype=torch.uint8), torch.tensor(labels), ("a", "b", "c"))


def test_a_cell_is_judged_as_by_hand(tmp_path):
    stress = stress_sets.benign(drawn_set([0] * 40 + [1] * 10 + [2] * 10), drawn_set([0, 0, 1, 2]))
    attack = make_attack("badnets", target_label=1, poison_ratio=0.2)
    stress = stress_sets.label_noise(stress_sets.attacked(stress, attack, seed=0), rate=0.125, seed=0)
    poisoned, mislabelled = stress.poisoned, stress.mislabelled
    assert (int(poisoned.sum()), int(mislabelled.sum())) == (12, 6)
    clean = ~poisoned & ~mislabelled
    flagged, called_mislabelled = torch.zeros(60, dtype=torch.bool), torch.zeros(60, dtype=torch.bool)
    flagged[poisoned.nonzero().flatten()[:9]] = True
    flagged[clean.nonzero().flatten()[:6]] = True
    flagged[mislabelled.nonzero().flatten()[0]] = True
    called_mislabelled[mislabelled.nonzero().flatten()[1:5]] = True
    called_mislabelled[clean.nonzero().flatten()[-1]] = True
    suggested = torch.where(called_mislabelled, stress.true_labels, stress.train.labels)
    suggested[mislabelled.nonzero().flatten()[1]] = stress.train.labels[mislabelled.nonzero().flatten()[1]]
    outcome = Outcome(
        Brightness(),
        flagged=flagged,
        score=flagged.float(),
        trusted=~flagged,
        mislabelled=called_mislabelled,
        suggested_label=suggested,
        details={"suspected_classes": [1, 2]},
    )
    experiment = SimpleNamespace(
        cell=stress_cell(method="advrbd"),
        options=SimpleNamespace(out=str(tmp_path), settings={"epochs": 1}),
        stress=stress,
        kinds={"poisoned": poisoned, "mislabelled": mislabelled, "clean": clean},
    )
    judged = stress_judge.judge_stress(experiment, outcome)
    figures = judged["figures"]
    assert (figures["acc"], figures["asr"], figures["ra"]) == (0.5, 1.0, 0.0)
    assert (figures["tpr"], figures["fpr"], figures["poison_in_trusted"]) == (0.75, 6 / 42, 3 / 44)
    verdicts = judged["verdicts"]
    assert (verdicts["suspected"], verdicts["targets"], verdicts["falsely_suspected"]) == ([1, 2], [1], [2])
    assert verdicts["mislabelled"] == {"true": 6, "found": 5, "right": 4, "relabelled": 3, "called_poisoned": 1}
    (trigger,) = judged["triggers"]
    assert (trigger["tpr"], trigger["labels"], trigger["clean_label"]) == (0.75, [1], False)
    assert judged["samples"]["counts"]["mislabelled"] == {"all": 6, "flagged": 1, "trusted": 5}
    assert judged["set"]["epochs"] == 1 and judged["undefended"]["triggers"] == []


def test_an_untargeted_trigger_counts_beyond_what_is_wrong_without_it():
    stress = stress_sets.benign(drawn_set([0] * 40 + [1] * 10 + [2] * 10), drawn_set([0, 0, 1, 2]))
    stress = stress_sets.untargeted(stress, make_attack("badnets", poison_ratio=0.1), seed=0)
    judged = stress_judge._judge_trigger(stress.triggers[0], stress, Outcome(Brightness()), acc=0.5)
    # All are called 1, which is wrong of three in four; without the trigger two in four are wrong.
    assert (judged["asr"], judged["ra"], judged["targeted"]) == (0.25, 0.25, False)


def content_of(cell: Cell, acc: float, asr: tuple[float, ...], **more) -> dict:
    names = ("badnets", "blend")[: len(asr)]
    kinds = {"clean_label": False, "sample_specific": False, "labels": [1], "poisoned": 50, "ra": 0.5}
    triggers = [{"name": name, "asr": each, **kinds, **more.get("trigger", {})} for name, each in zip(names, asr)]
    figures = {"acc": acc, "asr": max(asr, default=None), **more.get("figures", {})}
    verdicts = {"suspected": [1], "targets": [1], "found": [1], "falsely_suspected": []} if asr else {"suspected": []}
    content = {
        "status": "done",
        "figures": figures,
        "triggers": triggers,
        "set": set_of(cell, Options("", "", "", settings={"epochs": 1}), 60),
        "data": {"fingerprint": "0"},
        "details": {"rounds": 2},
        "seconds": 2.0,
        "stage_seconds": {},
        "algorithm": current_algorithm(),
    }
    return content if cell.is_prerequisite else content | {"verdicts": verdicts | more.get("verdicts", {})}


def row_of(undefended: dict, defended: dict, reference: dict | None = None, recipe: str = "badnets"):
    contents = {"none": undefended, "advrbd": defended, "clean_only": reference}
    results = {
        cell: Result(cell, contents[cell.method], None)
        for cell in (stress_cell(recipe, method) for method in contents)
        if contents[cell.method] is not None
    }
    (row,) = collect_rows(results)
    return row


def test_each_bar_is_met_or_missed_by_itself():
    none, cell = stress_cell("badnets"), stress_cell("badnets", "advrbd")
    undefended, reference = content_of(none, 0.80, (0.99,)), content_of(none, 0.81, ())
    good = {"figures": {"fpr": 0.01}, "trigger": {"tpr": 0.95}}
    met = {"ASR": True, "TPR": True, "FPR": True, "ACC": True, "labels": True, "not worse": True}
    assert bars_of(row_of(undefended, content_of(cell, 0.80, (0.05,), **good), reference)) == met
    missed = {
        "ASR": content_of(cell, 0.80, (0.051,), **good),
        "TPR": content_of(cell, 0.80, (0.05,), **{**good, "trigger": {"tpr": 0.949}}),
        "FPR": content_of(cell, 0.80, (0.05,), **{**good, "figures": {"fpr": 0.011}}),
        "ACC": content_of(cell, 0.794, (0.05,), **good),
        "labels": content_of(cell, 0.80, (0.05,), **good, verdicts={"falsely_suspected": [2]}),
    }
    for name, defended in missed.items():
        assert bars_of(row_of(undefended, defended, reference)) == met | {name: False}
    assert bars_of(row_of(undefended, content_of(cell, 0.80, (0.05,), **good)))["ACC"] is None
    hidden = {**good, "trigger": {"tpr": 0.9, "clean_label": True}}
    assert bars_of(row_of(undefended, content_of(cell, 0.80, (0.05,), **hidden), reference))["TPR"] is True


def test_a_set_with_several_triggers_is_judged_by_the_worst():
    none, cell = stress_cell("badnets+blend"), stress_cell("badnets+blend", "advrbd")
    undefended = content_of(none, 0.80, (0.99, 0.06))
    # The second trigger was not learned before and is after: the defense made it worse.
    defended = content_of(cell, 0.80, (0.01, 0.80), figures={"fpr": 0.0}, trigger={"tpr": 1.0})
    row = row_of(undefended, defended, recipe="badnets+blend")
    assert bars_of(row)["ASR"] is True and bars_of(row)["not worse"] is False
    row = row_of(content_of(none, 0.80, (0.99, 0.5)), defended, recipe="badnets+blend")
    assert bars_of(row)["ASR"] is False


def test_a_clean_set_is_compared_with_its_own_training():
    none, cell = stress_cell("composite"), stress_cell("composite", "advrbd")
    undefended = content_of(none, 0.80, ())
    met = content_of(cell, 0.791, (), figures={"fpr": 0.002})
    unknown = {"ASR": None, "TPR": None}
    expected = unknown | {"FPR": True, "ACC": True, "labels": True, "not worse": True}
    assert bars_of(row_of(undefended, met, recipe="composite")) == expected
    missed = content_of(cell, 0.78, (), figures={"fpr": 0.003}, verdicts={"suspected": [4], "falsely_suspected": [4]})
    expected = unknown | {"FPR": False, "ACC": False, "labels": False, "not worse": False}
    assert bars_of(row_of(undefended, missed, recipe="composite")) == expected


def test_the_report_has_a_row_for_each_set(tmp_path, capsys):
    out = tmp_path / "results"
    for recipe, before, after in (("badnets%1", (0.99, 0.9), (0.01, 0.2)), ("composite", (), ())):
        none, cell = stress_cell(recipe), stress_cell(recipe, "advrbd")
        write_result(out, none, content_of(none, 0.80, before))
        write_result(out, cell, content_of(cell, 0.79, after, figures={"tpr": 0.97, "fpr": 0.0}, trigger={"tpr": 0.97}))
    reference = stress_cell("badnets%1", "clean_only")
    write_result(out, reference, content_of(reference, 0.81, (0.02, 0.04)))
    assert main(["reproduce", "--suite", "stress", "--report", "--out", str(out)]) == 0
    assert capsys.readouterr().out.count("written: ") == 4
    text = (out / "stress" / "report.md").read_text()
    assert "| badnets%1-s3 | 60 | 80.0 | 79.0 | 81.0 | 99.0 | 20.0 | 4.0 | 97.0 | 0.00 | 1 of 1 | 0 | 2 | 2 |" in text
    assert "| composite-s3 | 60 | 80.0 | 79.0 | 80.0 | \u2013 | \u2013 |" in text
    assert (
        "Sets with a learned backdoor: 1; mean ASR 20.0 (at most 1%: \u2717)" in text
        and "Of 1 of these, clean training is known: its mean ASR is 4.0, after the defense 20.0." in text
        and "blend | 50 | 90.0 | 20.0" in text
    )
    lines = (out / "stress" / "report.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[0].startswith("name,method,") and lines[0].endswith("reaches not worse")
    report = json.loads((out / "stress" / "report.json").read_text())
    assert report["algorithm"] == current_algorithm() and len(report["sets"]) == 2
    assert "<td>composite-s3</td>" in (out / "stress" / "report.html").read_text()
    with pytest.raises(AdvrBDError, match="holds no results"):  # the paper's report knows nothing of them
        write_report(out)
    assert len(list(read_results(out))) == 5


def test_a_report_on_nothing_is_refused(tmp_path):
    with pytest.raises(AdvrBDError, match="run `advrbd reproduce --suite stress`"):
        write_stress_report(tmp_path)


def test_a_small_set_goes_from_photographs_to_its_row(tiny, monkeypatch):
    """Whatever this short training learns, the cells say of which set they are and which samples have what label."""
    cells = [stress_cell(method=method) for method in ("none", "clean_only", "advrbd")]
    for cell in cells:
        write_result(tiny.out, cell, run_cell(cell, tiny))
    none, reference, defended = (read_result(tiny.out, cell).content for cell in cells)
    assert none["set"] == reference["set"] == defended["set"] and none["data"] == defended["data"]
    assert none["set"] | {"made_by": ""} == {
        "name": "wave%10+noise10-s3",
        "seed": 3,
        "drawn": 60,
        "samples": 60,
        "model": "resnet_narrow",
        "epochs": 1,
        "made_by": "",
    }
    counts = defended["samples"]["counts"]
    assert {kind: each["all"] for kind, each in counts.items()} == {
        "poisoned": 6,
        "covers": 0,
        "mislabelled": 5,
        "clean": 49,
    }
    assert defended["undefended"]["acc"] == none["figures"]["acc"]
    assert defended["undefended"]["triggers"][0]["asr"] == none["triggers"][0]["asr"]
    assert {"rounds", "is_retrained", "remark", "findings"} <= set(defended["details"])
    assert defended["algorithm"] == current_algorithm() and "algorithm" not in none
    assert write_stress_report(tiny.out)
    assert all(current_result(cell, tiny) is not None for cell in cells)
    monkeypatch.setattr("advrbd_plugin.evaluation.grid_job.stress_sets_digest", lambda: "another")
    assert all(current_result(cell, tiny) is None for cell in cells)


def test_the_clean_reference_leaves_out_what_has_no_true_label(tiny, monkeypatch):
    from advrbd_plugin.evaluation.methods import clean_only

    seen = []
    monkeypatch.setattr(
        clean_only, "train", lambda model, images, labels, ids, *args, **more: seen.append(ids) or (model.eval() and [])
    )
    run_cell(stress_cell(method="clean_only"), tiny)
    stress = StressExperiment(stress_cell(), tiny).stress
    wrong = stress.train.labels != stress.true_labels
    assert torch.equal(seen[0].sort().values, stress.train.sample_ids[~wrong & ~stress.poisoned].sort().values)


def test_the_suite_runs_in_processes_and_is_not_run_again(tiny, display):
    cells = [stress_cell("clean"), stress_cell("clean", "advrbd")]
    options = replace(tiny, settings={**tiny.settings, "epochs": 1})
    assert all(result.is_done for result in run_grid(cells, options, display)), display.events
    again = run_grid(cells, options, display)
    assert display.events[-1] == "0 waiting, 2 cached" and all(result.is_done for result in again)
