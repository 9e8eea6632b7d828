"""The report of benchmarks/detection.py, from judgements made up here."""

import json

import pytest

from advrbd_plugin.defense.evidence import EVIDENCE


@pytest.fixture(scope="module")
def detection(benchmark):
    return benchmark("detection")


@pytest.fixture(scope="module")
def tables(benchmark):
    return benchmark("detection_tables")


def judged(name, targets, suspected, value):
    def cluster(label, leaves, poison):
        numbers = dict.fromkeys(EVIDENCE, 0.0) | {"window": 0.02, "colour": 0.01, "leaves": leaves}
        rest = {
            "size": 90,
            "source": "mixture",
            "best_class": 0,
            "predicted_share": 0.9,
            "operation_name": "",
            "poison": poison,
            "mislabelled": 0.0,
        }
        seen = {name: value for name, value in rest.items() if name not in ("poison", "mislabelled")}
        return {"label": label, **numbers, **rest, "compared": {"label": label, **numbers, **seen}}

    return {
        "name": name,
        "acc": 0.75,
        "triggers": [{"name": "wave", "asr": 0.9, "labels": targets, "tpr": 0.97}] * bool(targets),
        "verdicts": {
            "targets": targets,
            "found": sorted({*targets} & {*suspected}),
            "falsely_suspected": sorted({*suspected} - {*targets}),
        },
        "probabilities": [0.999 if label in suspected else 0.004 for label in range(3)],
        "figures": {"fpr": 0.001},
        "seconds": {"detection": 20.0},
        "one_way": [1.0] * 3,
        "clusters": [
            cluster(label, value if label in targets else 0.02 * label, label in targets) for label in range(3)
        ],
    }


def test_the_report_counts_what_was_missed_and_what_was_falsely_suspected(detection, tmp_path, capsys):
    rows = [
        judged("clean-s2", [], [], 0.0),
        judged("composite-s3", [], [2], 0.0),
        judged("badnets-s1", [1], [1], 0.9),
        judged("wave-s4", [1], [], 0.9),
    ]
    detection.report(rows, tmp_path)
    lines = {row["name"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert lines["badnets-s1"]["left_out_suspected"] == [1] and lines["wave-s4"]["least_of_targets"] == 0.004
    text = (tmp_path / "table.md").read_text()
    assert "| badnets-s1 | 75.0% | 90.0% | 1 of 1 | 0 |" in text and "| wave-s4 | 75.0% | 90.0% | 0 of 1 | 0 |" in text
    assert "| composite-s3 | 75.0% | - | - | 1 |" in text and text in capsys.readouterr().out
    assert "labels found 1 of 2" in text and "labels falsely suspected 1" in text
    assert (tmp_path / "evidence.png").stat().st_size > 1000


def test_a_set_is_judged_without_what_was_seen_of_its_kind(tables):
    rows = [judged("clean-s2", [], [], 0.0), judged("composite-s3", [], [], 0.0), judged("composite-s4", [], [], 0.0)]
    rows[1]["clusters"][2]["leaves"] = rows[1]["clusters"][2]["compared"]["leaves"] = 0.5
    wide, narrow, of_the_same_kind = (tables._null_without(rows, row) for row in rows)
    assert wide.scales["leaves"] > 5 * narrow.scales["leaves"]
    assert of_the_same_kind.scales == narrow.scales


def test_shares_of_poison_make_no_kind_of_their_own(tables):
    assert tables._kind("badnets%2.5+wave%2.5-s123") == tables._kind("wave+badnets%3-s9") != tables._kind("wave-s9")


def test_clusters_that_were_not_asked_have_no_evidence_to_show(tables):
    row = judged("badnets-s1", [1], [1], 0.9)
    row["clusters"][0]["source"] = "runner-up"
    row["clusters"][0]["marked"] = None
    assert len(tables.values_of([row], "leaves", tables.is_innocent)) == 2
    assert len(tables.values_of([row], "window", tables.is_innocent)) == 1
    assert len(tables.values_of([row], "marked", tables.is_innocent)) == 1
    assert tables.values_of([row], "leaves", tables.is_poison).tolist() == pytest.approx([0.9])


def test_the_constants_come_back_after_they_were_tried(tables):
    from advrbd_plugin.defense import posterior

    before = {name: getattr(posterior, name) for name in vars(posterior) if name.isupper()}
    text = tables._constants([judged("badnets-s1", [1], [1], 0.9)])
    assert "`_CAUTION`" in text and {name: getattr(posterior, name) for name in before} == before
