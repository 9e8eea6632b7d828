"""Algorithms 1 and 2."""

import pytest
import torch

from advrbd_plugin.defense.paper import partition, unlearn_rounds


def test_partition_takes_the_highest_scores():
    found = partition(torch.tensor([0.1, 0.9, 0.5, 0.9, 0.0]), 0.4)
    assert found.clean.tolist() == [False, True, False, True, False]
    assert found.suspect.tolist() == [True, False, True, False, True]
    assert found.consistency.tolist() == [0.75, 0.0, 0.5, 0.25, 1.0]


@pytest.mark.parametrize(("scores", "alpha", "line"), [([1.0], 1.0, "alpha"), ([float("nan"), 1.0], 0.5, "NaN")])
def test_partition_refuses(scores, alpha, line):
    with pytest.raises(ValueError, match=line):
        partition(torch.tensor(scores), alpha)


@pytest.mark.parametrize("loss", ["gradient_ascent", "one_minus_probability"])
def test_algorithm_2_grows_its_clean_part(poisoned_digits, make_digits_model, quick_config, loss):
    samples = poisoned_digits.image_set.subset(torch.arange(300))
    config = quick_config.replace(
        detect_targets=False,
        enhancement="unlearn",
        unlearn_loss=loss,
        rounds=3,
        alpha=0.2,
        num_masks=1,
        reduction="mean",
    )
    enhanced, clean, rows = unlearn_rounds(make_digits_model(), samples, config)
    assert [row["clean_share"] for row in rows] == pytest.approx([0.2, 0.4, 0.6])
    assert int(clean.sum()) == 180
    assert not enhanced.training
