"""Properties of the ops over drawn shapes, strides, offsets, dtypes and values; CI runs the same cases each time."""

import math
import os

import pytest
import torch

from advrbd_plugin import ops
from advrbd_plugin.ops import reference

hypothesis = pytest.importorskip("hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

CASES = 2000 if os.environ.get("ADVRBD_TORTURE", "0") not in ("", "0") else 60
checked = settings(
    max_examples=CASES,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=list(hypothesis.HealthCheck),
)
DTYPES = st.sampled_from([torch.float32, torch.bfloat16, torch.float16])
SPECIALS = [math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, -6e-8, 65504.0, -3e38]
INT64 = st.integers(-(2**63), 2**63 - 1)


@st.composite
def placed(draw, shape: tuple[int, ...], dtype: torch.dtype, specials: list[float]) -> torch.Tensor:
    """Values, some of them special, with any order of dims in memory, any steps between them, and any offset."""
    dims = len(shape)
    order = draw(st.permutations(range(dims)))
    steps = draw(st.lists(st.integers(1, 2), min_size=dims, max_size=dims))
    offset = draw(st.integers(0, 5))
    generator = torch.Generator().manual_seed(draw(st.integers(0, 2**32)))
    whole = torch.randn([shape[dim] * steps[dim] for dim in order] or [1], generator=generator)
    for place, value in draw(st.lists(st.tuples(st.integers(0, 2**20), st.sampled_from(specials)), max_size=6)):
        if whole.numel():
            whole.view(-1)[place % whole.numel()] = value
    flat = torch.empty(whole.numel() + offset, dtype=dtype)
    flat[offset:] = whole.flatten().to(dtype)
    tensor = flat[offset:].view(whole.shape).permute([order.index(dim) for dim in range(dims)])
    tensor = tensor[tuple(slice(None, None, step) for step in steps)]
    if draw(st.booleans()) and dims == 4:
        tensor = tensor.contiguous(memory_format=torch.channels_last)
    assert tensor.shape == shape
    return tensor


@st.composite
def perturb_arguments(draw):
    samples, channels = draw(st.integers(0, 4)), draw(st.sampled_from([1, 2, 3, 4, 17]))
    height, width = draw(st.integers(1, 19)), draw(st.integers(1, 19))
    dtype = draw(DTYPES)
    tensors = [draw(placed((samples, channels, height, width), dtype, SPECIALS)) for _ in range(2)]
    bounds = {}
    for name, low, high in (("epsilon", 0, 1), ("low", -2, 0), ("high", 0, 2)):
        count = draw(st.sampled_from([1, channels]))
        bounds[name] = draw(st.lists(st.floats(low, high, width=32), min_size=count, max_size=count))
    ids = draw(st.none() | st.lists(INT64, min_size=samples, max_size=samples))
    return tensors, bounds | {
        "patch_size": draw(st.integers(1, min(height, width))),
        "num_masks": draw(st.integers(1, 4)),
        "seed": draw(INT64),
        "sample_ids": None if ids is None else torch.tensor(ids, dtype=torch.int64),
    }


@st.composite
def kl_arguments(draw):
    rows, num_masks = draw(st.integers(0, 35)), draw(st.integers(0, 3))
    classes = draw(st.sampled_from([1, 2, 3, 10, 15, 16, 17, 33, 100, 130]))
    dtype, specials = draw(DTYPES), [*SPECIALS[:4], 1e4, -1e4, 87.0, -87.5]
    logits = draw(placed((rows, classes), dtype, specials))
    perturbed = draw(placed((num_masks, rows, classes), dtype, specials))
    if draw(st.booleans()):  # nearly identical
        perturbed = (logits + draw(st.sampled_from([0.0, 1e-3])) * perturbed).to(dtype)
    return logits, perturbed


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert actual.stride() == expected.stride()


@checked
@given(perturb_arguments())
def test_perturb_equals_the_reference_to_the_bit(arguments):
    tensors, options = arguments
    before = [tensor.clone() for tensor in tensors]
    same(ops.perturb(*tensors, **options), reference.perturb(*tensors, **options))
    for tensor, kept in zip(tensors, before):
        torch.testing.assert_close(tensor, kept, rtol=0, atol=0, equal_nan=True)


@checked
@given(kl_arguments())
def test_kl_divergence_equals_the_reference(arguments):
    logits, perturbed = arguments
    actual, expected = ops.kl_divergence(logits, perturbed), reference.kl_divergence(logits, perturbed)
    torch.testing.assert_close(actual, expected, rtol=5e-5, atol=1e-9, equal_nan=True)
    assert not (actual < 0).any()


@checked
@given(kl_arguments(), perturb_arguments())
def test_score_step_is_both_ops(logits, arguments):
    images, options = arguments
    step = ops.score_step(*logits, *images, **options)
    same(step.perturbed, ops.perturb(*images, **options))
    same(step.divergence, ops.kl_divergence(*logits))


@checked
@given(st.lists(INT64, max_size=40), st.integers(1, 2**31 - 1), st.integers(1, 2**31 - 1), st.data())
def test_random_numbers_equal_the_reference_and_lie_in_range(ids, height, width, data):
    ids = torch.tensor(ids, dtype=torch.int64)
    patch_size, num_masks = data.draw(st.integers(1, min(height, width))), data.draw(st.integers(1, 5))
    seed = data.draw(INT64)
    origins = ops.patch_origins(ids, (height, width), patch_size, num_masks, seed)
    same(origins, reference.patch_origins(ids, height, width, patch_size, num_masks, seed))
    assert ((origins >= 0) & (origins + patch_size <= torch.tensor([height, width]))).all()
    drawn = ops.philox_uniform(ids.repeat_interleave(2)[::2], height, seed)
    same(drawn, reference.philox_uniform(ids, height, seed))
    assert ((drawn >= 0) & (drawn < height)).all()
