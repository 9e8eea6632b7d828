"""What the report says of results that are known: figures beside the paper's, means, marks, targets, links."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from advrbd_plugin.attacks import ATTACKS
from advrbd_plugin.cli import main
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.grid import EIGHT_ATTACKS, TABLES
from advrbd_plugin.evaluation.methods import METHODS
from advrbd_plugin.evaluation.result import read_result, read_results, write_failure, write_result
from advrbd_plugin.report.evaluation import write_report
from advrbd_plugin.report.evaluation.leaderboard import leaderboard_table
from advrbd_plugin.report.evaluation.measured import Measured, defense_effectiveness_rating
from advrbd_plugin.report.evaluation.paper import paper_figure
from advrbd_plugin.report.evaluation.paper_tables import ATTACK_TITLES
from advrbd_plugin.report.evaluation.targets import targets_of

from .conftest import small_cell

CURVES = {"training": [{"epoch": 1, "loss": 2.0, "accuracy": 0.3}, {"epoch": 2, "loss": 1.0, "accuracy": 0.6}]}
SAMPLES = {
    "counts": {
        "poisoned": {"all": 500, "flagged": 20, "trusted": 400},
        "covers": {"all": 0, "flagged": 0, "trusted": 0},
        "clean": {"all": 9500, "flagged": 7, "trusted": 9490},
    },
    "scores": {"edges": [0.0, 1.0, 2.0], "poisoned": [300, 200], "covers": [0, 0], "clean": [9000, 500]},
}


def put(out: Path, cell, **figures) -> None:
    content: dict = {"status": "done", "figures": figures, "seconds": 60.0, "cpu_seconds": 55.0, "curves": CURVES}
    content |= {"algorithm": current_algorithm()} if METHODS[cell.method].uses_algorithm else {}
    write_result(out, cell, content | {"samples": SAMPLES, "configuration": {}, "peak_memory_bytes": 2**30})


def put_advrbd(out: Path, attack: str, acc: float, asr: float, **more) -> None:
    put(out, small_cell(attack), acc=0.75, asr=0.9, ra=0.1)
    put(out, small_cell(attack, "clean_only"), acc=0.76, asr=0.01, ra=0.7)
    put(out, small_cell(attack, "advrbd"), acc=acc, asr=asr, ra=0.7, **more)


@pytest.fixture
def out(tmp_path) -> Path:
    """Two attacks of eight: BadNets is cleaned, TaCT is not; ABL failed on one, and could not be run on the other."""
    found = {"tpr": 0.9, "fpr": 0.01, "auroc": 0.99, "poison_in_trusted": 0.001}
    put_advrbd(tmp_path, "badnets", 0.74, 0.01, **found)
    put_advrbd(tmp_path, "tact", 0.70, 0.80, **found | {"poison_in_trusted": 0.04})
    write_failure(tmp_path, small_cell("badnets", "abl"), "failed", "the loss is NaN")
    write_failure(tmp_path, small_cell("tact", "abl"), "not run", "no checkout: advrbd backdoorbench install")
    return tmp_path


def test_the_defense_effectiveness_rating_by_hand():
    assert defense_effectiveness_rating(0.80, 0.10, 0.90, 1.00) == pytest.approx((0.9 - 0.1 + 1) / 2)
    assert defense_effectiveness_rating(0.95, 0.50, 0.90, 0.40) == 0.5  # a rise of either is no drop
    assert defense_effectiveness_rating(0.90, 0.00, 0.90, 1.00) == 1.0
    assert defense_effectiveness_rating(0.00, 1.00, 1.00, 1.00) == 0.0


def test_the_papers_figures_are_those_of_its_text():
    for figure, acc, asr in (
        (paper_figure("II", "sig", "advrbd"), 0.8769, 0.0264),
        (paper_figure("III", "adaptive_patch", "abl", dataset="tiny_imagenet"), 0.4278, 0.997),
        (paper_figure("V", "tact", "advrbd", ratio=0.2), 0.811, 0.0),
        (paper_figure("VI", "none", "advrbd", model="mobilenet_v2"), 0.8433, 0.0),
        (paper_figure("VII", "average", "advrbd"), 0.8429, 0.0033),
    ):
        assert (figure.acc, figure.asr) == pytest.approx((acc, asr))
    assert paper_figure("V", "sig", "advrbd", ratio=0.2) is None


@pytest.mark.parametrize("table", ["II", "III"])
def test_the_papers_averages_are_the_means_of_their_columns(table):
    for dataset in TABLES[table].datasets:
        for method in TABLES[table].defenses:
            rows = [paper_figure(table, attack, method, dataset=dataset) for attack in TABLES[table].attacks]
            average = paper_figure(table, "average", method, dataset=dataset)
            assert average.acc == pytest.approx(sum(row.acc for row in rows) / len(rows), abs=2e-4)
            if (dataset, method) != ("imagenette", "abl") or table == "II":  # printed as 32.92, the mean is 27.42
                assert average.asr == pytest.approx(sum(row.asr for row in rows) / len(rows), abs=2e-4)


def markdown_row(text: str, title: str, *labels: str) -> list[str]:
    """The values of one row of the table under a title, links taken away."""
    table = text[text.index(f"### {title}") :].split("\n### ")[0]
    row = next(line for line in table.splitlines() if line.startswith("| " + " | ".join(labels) + " |"))
    return [re.sub(r"\[(.*?)\]\(.*?\)", r"\1", cell.strip()) for cell in row.strip("|").split("|")][len(labels) :]


def test_our_figures_stand_beside_the_papers(out):
    write_report(out)
    text = (out / "report.md").read_text()
    row = markdown_row(text, "Table II: familiar attacks, ResNet-narrow (ours", "CIFAR10", "BadNets")
    assert row[:2] == ["75.0 (92.00)", "90.0 (95.20)"] and row[-2:] == ["74.0 (85.72)", "1.0 (0.00)"]
    assert row[-4:-2] == ["failed (71.98)", "failed (0.00)"] and row[2:4] == ["\u2013 (83.30)", "\u2013 (96.81)"]
    adaptive = markdown_row(text, "Table III: adaptive attacks, ResNet-narrow (ours", "CIFAR10", "TaCT")
    assert adaptive[-4:-2] == ["not run (85.16)", "not run (48.02)"]
    ratings = markdown_row(text, "Table II: familiar attacks, ResNet-narrow: DER", "CIFAR10", "BadNets")
    assert ratings[-1] == "94.0 (94.46)"


def test_means_are_marked_where_cells_are_missing(out):
    write_report(out)
    text = (out / "report.md").read_text()
    averages = markdown_row(text, "Table III: adaptive attacks, ResNet-narrow (ours", "CIFAR10", "Average")
    assert averages[-1] == "80.0* (0.00)"
    means = markdown_row(text, "Means over the eight attacks", "AdvrBD")
    # ACC, ASR, worst ASR, RA, DER: (94.0 + (0.1 - 0.05 + 1) / 2 = 52.5) / 2, ..., how many.
    assert means[:5] == ["72.0*", "40.5*", "80.0*", "70.0*", "73.2*"]
    assert means[-2] in ("2.0*", "2.1*") and means[-1] == "2/8"


def test_missed_targets_link_to_the_curves_of_their_cells(out):
    write_report(out)
    text = (out / "report.md").read_text()
    line = next(line for line in text.splitlines() if line.startswith("| worst ASR at most 5%"))
    picture = "curves/small-cifar10-resnet_narrow-tact-0.05-seed0-advrbd.svg"
    assert "80.0 (2 of 8 cells)" in line and "missed: curves of" in line and picture in line
    assert (out / picture).read_bytes().startswith(b"<?xml")
    page = (out / "report.html").read_text()
    assert 'href="#small/cifar10/resnet_narrow/tact-0.05-seed0/advrbd"' in page
    assert 'id="small/cifar10/resnet_narrow/tact-0.05-seed0/advrbd"' in page


def test_targets_are_judged_only_when_they_can_be(out):
    judged = {target.text: target for target in targets_of("small", Measured(read_results(out)))}
    assert judged["mean ASR at most 2%"].state == "not measured"  # six attacks are missing
    assert judged["worst ASR at most 5%"].state == "missed"  # whatever those six will say
    assert judged["at most 1% poison in D_c"].state == "missed"
    assert judged["ACC at most 2 points below training on the truly clean samples"].value == "6.0 (2 of 8 cells)"
    assert judged["the unpoisoned set loses at most 2 points of ACC"].value == "\u2013"
    for attack in EIGHT_ATTACKS:
        put_advrbd(out, attack, 0.745, 0.015, auroc=0.985, poison_in_trusted=0.002)
    judged = {target.text: target for target in targets_of("small", Measured(read_results(out)))}
    assert judged["mean ASR at most 2%"].state == judged["worst ASR at most 5%"].state == "reached"
    assert judged["mean AUROC at least 0.98"].value == "0.985"


def test_the_page_holds_everything_and_loads_nothing(out):
    put(out, small_cell(method="advrbd", partition_rate=0.02), acc=0.7, asr=0.02)
    put(out, small_cell(method="advrbd", partition_rate=0.2), acc=0.7, asr=0.03)
    write_report(out)
    page = (out / "report.html").read_text()
    assert "default-src 'none'" in page and "http" not in re.sub(r'http-equiv|data:[^"]*', "", page)
    assert page.count("data:image/svg+xml;base64,") == 1 + 2  # Fig. 7, and BadNets' and TaCT's cells beyond a target
    assert "equal by construction" in page and "equal by construction" in (out / "report.md").read_text()
    for title in ("Table II:", "Table III:", "Table IV:", "Table V:", "Table VII:", "Fig. 7", "All cells"):
        assert title in page
    assert (out / "figure7-small.svg").exists()


def test_what_no_cell_was_run_for_is_named_and_not_shown(out):
    left_out = "Left out, since no cell of theirs was run: "
    write_report(out)
    text = (out / "report.md").read_text()
    assert f"{left_out}Table VI, Fig. 7." in text and "### Table VII:" in text and "### Targets" in text
    assert (
        "### Table VI:" not in text
        and "### Fig. 7" not in text
        and "<h2>Fig. 7" not in (out / "report.html").read_text()
    )
    write_failure(out, small_cell(method="advrbd", model="mobilenet_v2"), "failed", "out of memory")
    write_report(out)
    text = (out / "report.md").read_text()
    assert f"{left_out}Fig. 7." in text and "### Table VI:" in text


def test_targets_of_which_nothing_was_run_are_left_out(tmp_path):
    put(tmp_path, small_cell(model="resnet18"), acc=0.7, asr=0.9)
    write_report(tmp_path)
    text = (tmp_path / "report.md").read_text()
    assert "run: the targets, Table II, Table III," in text and "### Targets" not in text
    assert "<h2>Targets" not in (tmp_path / "report.html").read_text()


def test_other_epochs_than_the_scales_are_named(tmp_path):
    for attack, training in (("badnets", {"epochs": 10}), ("blend", {"epochs": 20}), ("sig", None)):
        content = {"status": "done", "figures": {"acc": 0.7}, "training": training}
        write_result(tmp_path, small_cell(attack), content)
    write_report(tmp_path)
    assert (
        "have their figures. 1 of them were trained for 10 epochs, not 20. Left" in (tmp_path / "report.md").read_text()
    )


def test_latex_has_balanced_tables_and_escapes(out):
    write_report(out)
    text = (out / "report.tex").read_text()
    assert text.count(r"\begin{tabular}") == text.count(r"\end{tabular}") == 9
    assert r"Poison in D\_c" in text and "74.0 (85.72)" in text
    for block in re.findall(r"\\begin\{tabular\}\{(\w+)\}(.*?)\\end\{tabular\}", text, re.S):
        columns, body = block
        lines = [line for line in body.splitlines() if line.endswith(r"\\") and "multicolumn" not in line]
        assert lines and all(line.count("&") == len(columns) - 1 for line in lines)


def test_several_seeds_are_averaged(tmp_path):
    for seed, acc in ((0, 0.70), (1, 0.80)):
        put(tmp_path, small_cell(seed=seed), acc=acc, asr=0.9)
    write_report(tmp_path)
    row = markdown_row((tmp_path / "report.md").read_text(), "Table VII", "CIFAR10", "BadNets")
    assert row[0] == "75.0 (92.00)"


def test_a_seed_that_is_missing_is_marked(tmp_path):
    for seed in (0, 1):
        put(tmp_path, small_cell(seed=seed), acc=0.7 + 0.1 * seed, asr=0.9)
    put(tmp_path, small_cell(method="advrbd"), acc=0.6, asr=0.0)
    write_report(tmp_path)
    row = markdown_row((tmp_path / "report.md").read_text(), "Table VII", "CIFAR10", "BadNets")
    assert row[0] == "75.0 (92.00)" and row[2].startswith("60.0* (")
    write_failure(tmp_path, small_cell(method="advrbd", seed=1), "failed", "out of memory")
    write_report(tmp_path)
    means = markdown_row((tmp_path / "report.md").read_text(), "Means over the eight attacks", "AdvrBD")
    assert means[0] == "60.0*" and means[-1] == "1/9"


def test_means_of_cells_that_were_run_with_different_settings_say_so(tmp_path):
    content = {"status": "done", "figures": {"acc": 0.7, "asr": 0.1}}
    for attack in ("badnets", "tact"):
        for method in ("none", "advrbd"):
            write_result(tmp_path, small_cell(attack, method), content | {"configuration": {"seed": 0, "epochs": 20}})
    for seed in (0, 1):
        arguments = ["--epochs", "5", "--random_seed", str(seed)]
        write_result(
            tmp_path, small_cell(method="ft", seed=seed), content | {"configuration": {"arguments": arguments}}
        )
    write_report(tmp_path)
    assert "different settings" not in (tmp_path / "report.md").read_text()
    content |= {"configuration": {"seed": 0, "epochs": 3}, "training": {"epochs": 20}}
    write_result(tmp_path, small_cell("tact", "advrbd"), content)
    write_report(tmp_path)
    assert "Cells of AdvrBD were run with different settings." in (tmp_path / "report.md").read_text()


def test_cells_of_another_algorithm_bear_a_dagger(out):
    write_report(out)
    assert "\u2020" not in (out / "report.md").read_text()
    cell = small_cell("tact", "advrbd")
    content = read_result(out, cell).content
    for algorithm in ({"version": 0, "digest": "0" * 16}, None):
        write_result(out, cell, {**content, "algorithm": algorithm})
        write_report(out)
        text, page, latex = ((out / f"report.{ending}").read_text() for ending in ("md", "html", "tex"))
        row = markdown_row(text, "Table III: adaptive attacks, ResNet-narrow (ours", "CIFAR10", "TaCT")
        assert row[:2] == ["75.0 (82.10)", "90.0 (63.20)"] and row[-2:] == ["70.0\u2020 (82.42)", "80.0\u2020 (0.00)"]
        averages = markdown_row(text, "Table III: adaptive attacks, ResNet-narrow (ours", "CIFAR10", "Average")
        assert averages[-1] == "80.0*\u2020 (0.00)"
        familiar = markdown_row(text, "Table II: familiar attacks, ResNet-narrow (ours", "CIFAR10", "BadNets")
        assert not any("\u2020" in value for value in familiar)
        ratings = markdown_row(text, "Table III: adaptive attacks, ResNet-narrow: DER", "CIFAR10", "TaCT")
        assert ratings[-1].startswith("52.5\u2020 (")
        assert "80.0\u2020 (2 of 8 cells)" in text and r"80.0\dag{} (0.00)" in latex
        for title, made, done in (("Means over", 1, 2), ("Table III", 1, 1), ("All cells", 1, 2), ("Targets", 1, 2)):
            table = text[text.index(f"### {title}") :].split("\n### ")[0]
            cells = f"{made} of {done} cell{'s' if done > 1 else ''}"
            assert f"\u2020 {cells} with AdvrBD's verdicts: made by another or an unknown version" in table
        assert page.count("\u2020 1 of") == text.count("\u2020 1 of")


def test_settings_under_the_names_that_keys_had_before_count_as_the_same(tmp_path):
    content = {"status": "done", "figures": {"acc": 0.7, "asr": 0.1}}
    former = {"accuse_labels": True, "accusation_gain": 0.15, "doubt": 3.0, "epochs": 20}
    names = ("detect_targets", "detection_gain", "abstain_threshold", "epochs")
    now = dict(zip(names, former.values(), strict=True))
    for attack, configuration in (("badnets", former), ("tact", now)):
        write_result(tmp_path, small_cell(attack), content)
        write_result(tmp_path, small_cell(attack, "advrbd"), content | {"configuration": configuration})
    write_report(tmp_path)
    assert "different settings" not in (tmp_path / "report.md").read_text()
    write_result(tmp_path, small_cell("tact", "advrbd"), content | {"configuration": now | {"abstain_threshold": 2.0}})
    write_report(tmp_path)
    assert "Cells of AdvrBD were run with different settings." in (tmp_path / "report.md").read_text()


def test_the_papers_mean_rating_is_the_mean_of_its_ratings(out):
    write_report(out)
    title = "Table III: adaptive attacks, ResNet-narrow: DER"
    row = markdown_row((out / "report.md").read_text(), title, "CIFAR10", "Average")
    pairs = [[paper_figure("III", attack, method) for method in ("abl", "none")] for attack in TABLES["III"].attacks]
    ratings = [defense_effectiveness_rating(ours.acc, ours.asr, none.acc, none.asr) for ours, none in pairs]
    assert row[-2].endswith(f"({100 * sum(ratings) / 3:.2f})") and round(100 * sum(ratings) / 3, 1) == 60.6


def test_a_rating_that_lacks_the_undefended_model_says_so(tmp_path):
    write_failure(tmp_path, small_cell(), "failed", "the loss is NaN")
    put(tmp_path, small_cell(method="advrbd"), acc=0.7, asr=0.1)
    write_report(tmp_path)
    title = "Table II: familiar attacks, ResNet-narrow: DER"
    row = markdown_row((tmp_path / "report.md").read_text(), title, "CIFAR10", "BadNets")
    assert row[-1].startswith("failed (")


def test_the_plot_takes_the_papers_algorithms_alone(out):
    for rate in (0.02, 0.2):
        put(out, small_cell(method="advrbd-paper", partition_rate=rate), acc=0.7, asr=0.02)
    write_report(out)
    assert (out / "figure7-small.svg").exists()


def test_the_leaderboard_by_hand(tmp_path):
    path = tmp_path / "leaderboard.csv"
    rows = [
        ("cifar10", "preactresnet18", "badnet", "no defense", "0.05", "0.9", "1.0"),
        ("cifar10", "preactresnet18", "wanet", "no defense", "0.05", "0.9", "0.8"),
        ("cifar10", "preactresnet18", "badnet", "anp", "0.05", "0.8", "0.1"),
        ("cifar10", "preactresnet18", "wanet", "anp", "0.05", "0.9", "0.0"),
        ("cifar10", "preactresnet18", "wanet", "abl", "0.05", "", ""),
        ("cifar10", "preactresnet18", "wanet", "ft", "0.1", "0.1", "0.1"),
        ("cifar100", "preactresnet18", "wanet", "ft", "0.05", "0.1", "0.1"),
    ]
    header = "dataset,backbone,attack_name,defense_name,ratio,test_acc,test_asr"
    path.write_text("\n".join([header, *(",".join(row) for row in rows)]) + "\n")
    table = leaderboard_table(path)
    assert table.rows == (("anp", "85.0", "5.0", "90.0", "2"),)  # DER: 0.9 and 0.9
    assert leaderboard_table(tmp_path / "nothing.csv") is None


def test_the_command(out, capsys, tmp_path):
    assert main(["reproduce", "--report", "--out", str(out)]) == 0
    assert [line.rsplit("/", 1)[-1] for line in capsys.readouterr().out.splitlines()] == [
        "report.md",
        "report.tex",
        "report.html",
    ]
    assert main(["reproduce", "--report", "--out", str(tmp_path / "nothing")]) == 2
    assert "holds no results: run some cells first" in capsys.readouterr().err


def test_every_attack_has_a_title():
    assert set(ATTACK_TITLES) >= set(ATTACKS)
