"""torch.compile(fullgraph=True) of the ops with bounds of every kind, static and symbolic."""

import pytest
import torch

from advrbd_plugin import ops

IMAGES, GRAD = torch.rand(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
PATCHES = {"patch_size": 3, "num_masks": 2}
KINDS = {
    "float": lambda value: value,
    "list": lambda value: [value, 2 * value, 0.25],
    "list of one": lambda value: [value],
    "0-d tensor": torch.tensor,
    "1-d tensor": lambda value: torch.tensor([value, 2 * value, 0.25]),
}


def perturb(epsilon, low, high):
    return ops.perturb(IMAGES, GRAD, epsilon=epsilon, low=low, high=high, **PATCHES)


def score_step(epsilon, low, high):
    return ops.score_step(None, None, IMAGES, GRAD, epsilon=epsilon, low=low, high=high, **PATCHES).perturbed


@pytest.mark.parametrize("dynamic", [None, True])
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("op", [perturb, score_step])
def test_changing_bounds_stay_symbolic(op, kind, dynamic):
    torch._dynamo.reset()
    torch._dynamo.utils.counters.clear()
    compiled = torch.compile(op, fullgraph=True, dynamic=dynamic, backend="aot_eager")
    for step in range(1, 13):  # more than the 8 graphs that torch.compile makes of one function
        bounds = KINDS[kind](step / 64), -step / 32, 0.5 + step / 128
        torch.testing.assert_close(compiled(*bounds), op(*bounds), rtol=0, atol=0)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] <= 2


def test_low_and_high_may_be_tensors_too():
    torch._dynamo.reset()
    compiled = torch.compile(perturb, fullgraph=True, backend="aot_eager")
    bounds = torch.tensor(0.5), torch.tensor([-0.5, 0.0, 0.25]), torch.tensor(0.75)
    expected = perturb(0.5, [-0.5, 0.0, 0.25], 0.75)
    assert torch.equal(compiled(*bounds), expected)
    assert torch.equal(perturb(*bounds), expected)


def test_bad_bounds_in_tensors_are_named():
    for compiled in (perturb, torch.compile(perturb, backend="aot_eager")):
        torch._dynamo.reset()
        with pytest.raises(ValueError, match="epsilon must be finite and at least 0, got -1"):
            compiled(torch.tensor(-1.0), 0.0, 1.0)
        with pytest.raises(ValueError, match=r"low must be a number or one per channel \(3\), got 2 values"):
            compiled(0.1, torch.zeros(2), 1.0)
        with pytest.raises(Exception, match="high must be a number or one per channel, got 2 dimensions"):
            compiled(0.1, 0.0, torch.ones(1, 3))
