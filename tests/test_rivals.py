"""The detectors of benchmarks/rivals.py on features made up here, and its tables."""

import pytest
import torch


@pytest.fixture(scope="module")
def rules(benchmark):
    return benchmark("rival_rules")


@pytest.fixture(scope="module")
def rival_tables(benchmark):
    return benchmark("rival_tables")


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


def test_a_large_set_is_overlaid_in_batches(rules):
    sizes = []

    def predict(images):
        sizes.append(len(images))
        sure = images[:, 0, 0, 0].float()
        return torch.stack([sure, torch.zeros_like(sure)], 1)

    images = torch.arange(1001).remainder(200).to(torch.uint8).view(-1, 1, 1, 1)
    entropies = rules.overlay_entropies(predict, images, torch.zeros(2, 1, 1, 1, dtype=torch.uint8))
    assert len(entropies) == 1001 and max(sizes) <= 500
    # The same picture has the same entropy in whichever batch it is; the surer one has less.
    assert torch.equal(entropies[:200], entropies[800:1000]) and entropies[0] == 1.0 > entropies[1] > entropies[5]


def row(name, triggers, **methods):
    methods = {
        method: {"tpr": tpr, "fpr": fpr, "auroc": None, "settings": {}, "seconds": 1.0}
        for method, (tpr, fpr) in methods.items()
    }
    whole = {"name": name, "data": "d", "epochs": 12, "acc": 0.7, "samples": 100, "methods": methods}
    return whole | {"poison": sum(each["samples"] for each in triggers), "triggers": triggers}


def result(fpr, tpr=(), version=10, acc=0.7, auroc=0.9):
    """What AdvrBD's file of the suite says."""
    return {
        "algorithm": {"version": version},
        "data": {"fingerprint": "d"},
        "set": {"epochs": 12},
        "undefended": {"acc": acc},
        "figures": {"fpr": fpr, "auroc": auroc},
        "triggers": [{"tpr": each} for each in tpr],
    }


LEARNED = {"name": "wave", "asr": 0.9, "samples": 6}
NOT_LEARNED = {"name": "sig", "asr": 0.1, "samples": 4}


def test_the_table_names_who_is_ahead_and_leaves_other_models_out(rival_tables):
    learned = [LEARNED, NOT_LEARNED]
    rows = [
        row("clean-s1", [], flare=(None, 0.0), scan=(None, 0.5)),
        row("wave-s2", learned, flare=(1.0, 0.1), scan=(0.25, 0.0)),
        row("wave-s3", learned, flare=(0.5, 0.0)),
        row("wave-s4", [LEARNED]),
    ]
    defended = {"clean-s1": result(0.0), "wave-s2": result(0.01, (0.75, 0.0))}
    defended["wave-s3"] = result(0.0, (0.75, 0.0), acc=0.6)
    text = rival_tables.tables(rows, defended)
    assert "| `wave-s2` | 90%, 10% | 75.0 / 1.00 | 100.0 / 10.00 |" in text
    assert "| `wave-s3` | 90%, 10% |  | 50.0 / 0.00 |" in text and "| `wave-s4` | 90% |  |  |" in text
    assert "at its TPR, on the 2 clean or learned sets that it judged:\n\n- FLARE on `wave-s2`: 100.0 / 10.00" in text
    assert "SCAn on" not in text and "on `clean-s1`" not in text and "on `wave-s3`" not in text
    assert "| **mean** |  | 75.0 / 0.5 (2) | 75.0 / 3.3 (3) |" in text
    assert "AdvrBD is the whole defense, version 10." in text


def test_a_method_that_ranks_nothing_has_no_column_among_the_rankings(rival_tables):
    text = rival_tables.tables([row("wave-s2", [LEARNED], spectre=(0.5, 0.01), scan=(0.25, 0.0))], {})
    flagging, ranking = text.split("AUROC, of the same samples")
    assert "| SPECTRE |" in flagging and "50.0 / 1.00" in flagging
    assert "SCAn" in ranking and "SPECTRE" not in ranking and "FLARE" not in ranking


def test_a_lower_fpr_is_named_where_half_of_the_poison_was_found(rival_tables):
    rows = [row("wave-s2", [LEARNED], scan=(0.6, 0.0), strip=(0.4, 0.0))]
    text = rival_tables.tables(rows, {"wave-s2": result(0.01, (1.0,))})
    assert "at least 50%:\n\n- SCAn on `wave-s2`: 60.0 / 0.00 against 100.0 / 1.00" in text and "STRIP on" not in text
    assert "judged: none." in text


def test_the_auroc_of_the_defense_is_given_where_it_is_of_the_same_samples(rival_tables):
    rows = [row("wave-s2", [LEARNED]), row("wave-s3", [LEARNED, NOT_LEARNED]), row("sig-s4", [NOT_LEARNED])]
    defended = {"wave-s2": result(0.0, (1.0,)), "wave-s3": result(0.0, (1.0, 0.0)), "sig-s4": result(0.0, (0.0,), 9)}
    text = rival_tables.tables(rows, defended)
    assert "| `wave-s2` | 90% | 0.900 |" in text and "| `wave-s3` | 90%, 10% |  |" in text
    assert "| `sig-s4` | 10% | 0.900 |" in text and "version 9 and 10." in text
    assert "no result of AdvrBD yet." in rival_tables.tables(rows, {})
