"""The report of benchmarks/detection.py, from judgements made up here."""

import importlib.util
import json
from pathlib import Path

import pytest


@pytest.fixture(scope="module")
def detection():
    path = Path(__file__).parents[1] / "benchmarks" / "detection.py"
    spec = importlib.util.spec_from_file_location("detection_benchmark", path)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def judged(name, choosing, targets, suspected, value):
    def cluster(label, leaves, poison):
        numbers = {
            "goes": 0.0,
            "goes_best": 0.0,
            "window": 0.02,
            "detail": 0.0,
            "colour": 0.01,
            "spectrum": 0.0,
            "marked": 0.0,
            "leaves": leaves,
        }
        rest = {
            "size": 90,
            "source": "mixture",
            "best_class": 0,
            "predicted_share": 0.9,
            "poison": poison,
            "mislabelled": 0.0,
        }
        seen = {name: value for name, value in rest.items() if name not in ("poison", "mislabelled")}
        return {"label": label, **numbers, **rest, "compared": {"label": label, **numbers, **seen}}

    return {
        "name": name,
        "choosing": choosing,
        "acc": 0.75,
        "triggers": [{"name": "wave", "asr": 0.9, "labels": targets, "tpr": 0.97}] * bool(targets),
        "suspected": suspected,
        "probabilities": [0.999 if label in suspected else 0.004 for label in range(3)],
        "fpr": 0.001,
        "detection_seconds": 20.0,
        "one_way": [1.0] * 3,
        "clusters": [
            cluster(label, value if label in targets else 0.02 * label, label in targets) for label in range(3)
        ],
    }


def test_the_report_counts_what_was_missed_and_what_was_falsely_suspected(detection, tmp_path, capsys):
    rows = [
        judged("clean-s2", True, [], [], 0.0),
        judged("composite-s3", False, [], [2], 0.0),
        judged("badnets-s1", True, [1], [1], 0.9),
        judged("wave-s4", False, [1], [], 0.9),
    ]
    detection.report(rows, tmp_path)
    lines = {row["name"]: row for row in json.loads((tmp_path / "table.json").read_text())}
    assert lines["composite-s3"]["false_labels"] == [2] and lines["wave-s4"]["missed_labels"] == [1]
    assert lines["badnets-s1"]["missed_labels"] == [] and lines["badnets-s1"]["left_out_suspected"] == [1]
    text = (tmp_path / "table.md").read_text()
    assert "| badnets-s1 | yes | 75.0% | 90.0% | 1 of 1 | 0 |" in text and text in capsys.readouterr().out
    assert (tmp_path / "evidence.png").stat().st_size > 1000


def test_a_set_is_judged_without_what_was_seen_of_its_kind(detection):
    rows = [judged("clean-s2", True, [], [], 0.0), judged("composite-s3", True, [], [], 0.0)]
    rows[1]["clusters"][2]["leaves"] = rows[1]["clusters"][2]["compared"]["leaves"] = 0.5
    wide, narrow = (detection._null_without(rows, row) for row in rows)
    assert wide.scales["leaves"] > 5 * narrow.scales["leaves"]


def test_the_constants_come_back_after_they_were_tried(detection):
    from advrbd_plugin.defense import posterior

    before = {name: getattr(posterior, name) for name in vars(posterior) if name.isupper()}
    text = detection._constants([judged("badnets-s1", True, [1], [1], 0.9)])
    assert "`_CAUTION`" in text and {name: getattr(posterior, name) for name in before} == before
