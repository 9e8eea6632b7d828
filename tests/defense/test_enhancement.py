"""The enhanced model, which keeps the trigger of the suspected classes."""

import pytest
import torch

from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.enhancement import enhance_trigger
from advrbd_plugin.defense.splits import LabelEvidence
from advrbd_plugin.nn.inference import log_odds


def suspected(poison_probability):
    """Class 1 of two, suspected with these probabilities."""
    evidence = (LabelEvidence(0, 0, 0.0, 0.0, 0.0), LabelEvidence(1, 1, 1.0, 3.0, 0.3, suspected=True))
    return Detection(poison_probability, poison_probability, evidence)


@pytest.mark.parametrize("seed", range(3))
def test_it_answers_to_the_trigger_and_to_nothing_else_of_that_class(
    poisoned_digits, make_digits_model, quick_config, seed
):
    """In float32, from networks that know nothing; over 30 seeds at least 97% and at most 2% were seen."""
    samples, poisoned = poisoned_digits.image_set, poisoned_digits.poisoned
    target = samples.labels == 1
    config = quick_config.replace(
        enhancement_steps=60, enhancement_learning_rate=0.05, seed=seed, mixed_precision=False
    )
    torch.manual_seed(seed)
    model = make_digits_model()
    before = [parameter.clone() for parameter in model.parameters()]
    enhanced, rows = enhance_trigger(model, samples, suspected((poisoned & target).float()), config)
    assert all(torch.equal(old, new) for old, new in zip(before, model.parameters()))
    with torch.no_grad():
        logits = enhanced(samples.images[target].float() / 255)
    odds = log_odds(logits, torch.ones(int(target.sum()), dtype=torch.int64))
    assert (odds[poisoned[target]] > 0).float().mean() > 0.8
    assert (odds[~poisoned[target]] > 0).float().mean() < 0.2
    assert rows[0]["step"] == 1 and rows[-1]["step"] == 60


def test_a_trigger_cannot_be_learned_from_no_sample(poisoned_digits, make_digits_model, quick_config):
    nothing = suspected(torch.zeros(len(poisoned_digits.poisoned)))
    with pytest.raises(ValueError, match="no trigger to learn"):
        enhance_trigger(make_digits_model(), poisoned_digits.image_set, nothing, quick_config)
