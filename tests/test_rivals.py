"""The detectors of benchmarks/rivals.py on features made up here, and its tables."""

import importlib
import sys
from pathlib import Path

import pytest
import torch

BENCHMARKS = Path(__file__).parents[1] / "benchmarks"


@pytest.fixture(scope="module")
def rules():
    return imported("rival_rules")


@pytest.fixture(scope="module")
def rival_tables():
    return imported("rival_tables")


def imported(name):
    sys.path.insert(0, str(BENCHMARKS))
    try:
        return importlib.import_module(name)
    finally:
        sys.path.remove(str(BENCHMARKS))
        sys.modules.pop(name, None)


def features(shares, seed=0):
    """200 samples a label in 16 dimensions; of label i the first ``shares[i]`` stand far off in one direction."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(len(shares)).repeat_interleave(200)
    poisoned = torch.cat([torch.arange(200) < share * 200 for share in shares])
    points = torch.randn(len(labels), 16, generator=generator) + 4 * torch.eye(16)[labels]
    points[poisoned, 9] += 12
    return points, labels, poisoned


def test_activation_clustering_flags_a_small_distinct_cluster_alone(rules):
    points, labels, poisoned = features([0.0, 0.2, 0.0])
    flagged = rules.activation_clustering(points, labels, components=3)
    assert torch.equal(flagged.poisoned & (labels == 1), poisoned)
    assert flagged.score[poisoned].min() > flagged.score[(labels == 1) & ~poisoned].max()


def test_activation_clustering_takes_half_of_a_label_for_clean(rules):
    points, labels, _ = features([0.5])
    assert not rules.activation_clustering(points, labels, components=3).poisoned.any()


def test_spectral_signatures_flag_one_and_a_half_times_the_bound_of_every_label(rules):
    points, labels, poisoned = features([0.0, 0.1])
    flagged = rules.spectral_signatures(points, labels, bound=0.1)
    assert torch.bincount(labels[flagged.poisoned]).tolist() == [30, 30]
    assert flagged.poisoned[poisoned].all()


def test_strip_flags_what_lies_below_the_quantile_of_clean_entropies(rules):
    clean = torch.tensor([0.9, 1.0, 1.1, 1.0])
    edge = float(clean.mean() - 2.3263 * clean.std())
    flagged = rules.strip(torch.tensor([edge - 0.01, edge + 0.01, 2.0]), clean)
    assert flagged.poisoned.tolist() == [True, False, False] and flagged.score.argmax() == 0


def test_overlays_are_added_and_clipped(rules):
    seen = []

    def predict(images):
        seen.append(images)
        return torch.zeros(len(images), 4)

    images = torch.full((2, 1, 1, 1), 200, dtype=torch.uint8)
    overlays = torch.tensor([[[[100]]], [[[10]]]], dtype=torch.uint8)
    assert rules.overlay_entropies(predict, images, overlays).tolist() == [2.0, 2.0]
    assert [int(each[0]) for each in seen] == [255, 210]


def row(name, triggers, **methods):
    methods = {
        method: {"tpr": tpr, "fpr": fpr, "auroc": None, "settings": {}, "seconds": 1.0}
        for method, (tpr, fpr) in methods.items()
    }
    whole = {"name": name, "set": "s", "model": "m", "epochs": 12, "acc": 0.7, "samples": 100, "methods": methods}
    return whole | {"poison": sum(each["samples"] for each in triggers), "triggers": triggers}


def judgement(name, fpr, triggers):
    return {"name": name, "set": "s", "epochs": 12, "acc": 0.7, "fpr": fpr, "triggers": triggers}


def test_the_table_names_who_is_ahead_and_leaves_other_models_out(rival_tables):
    learned = [{"name": "wave", "asr": 0.9, "samples": 6}, {"name": "sig", "asr": 0.1, "samples": 4}]
    rows = [
        row("clean-s1", [], flare=(None, 0.0), scan=(None, 0.5)),
        row("wave-s2", learned, flare=(1.0, 0.1), scan=(0.25, 0.0)),
        row("wave-s3", learned, flare=(0.5, 0.0)),
    ]
    found = [{"name": "wave", "tpr": 0.75}, {"name": "sig", "tpr": 0.0}]
    judged = {"clean-s1": judgement("clean-s1", 0.0, []), "wave-s2": judgement("wave-s2", 0.01, found)}
    judged["wave-s3"] = judgement("wave-s3", 0.0, found) | {"acc": 0.6}
    text = rival_tables.tables(rows, judged)
    assert "| `wave-s2` | 90%, 10% | 75.0 / 1.00 | 100.0 / 10.00 |" in text
    assert "| `wave-s3` | 90%, 10% |  | 50.0 / 0.00 |" in text
    assert "at its TPR, on the 2 clean or learned sets that it judged:\n\n- FLARE on `wave-s2`: 100.0 / 10.00" in text
    assert "SCAn on" not in text and "on `clean-s1`" not in text and "on `wave-s3`" not in text
    assert "| **mean** |  | 75.0 / 0.5 (2) | 75.0 / 3.3 (3) |" in text


def test_a_lower_fpr_is_named_where_half_of_the_poison_was_found(rival_tables):
    learned = [{"name": "wave", "asr": 0.9, "samples": 10}]
    rows = [row("wave-s2", learned, scan=(0.6, 0.0), strip=(0.4, 0.0))]
    judged = {"wave-s2": judgement("wave-s2", 0.01, [{"name": "wave", "tpr": 1.0}])}
    text = rival_tables.tables(rows, judged)
    assert "at least 50%:\n\n- SCAn on `wave-s2`: 60.0 / 0.00 against 100.0 / 1.00" in text and "STRIP on" not in text
    assert "judged: none." in text
