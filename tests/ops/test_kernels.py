"""The compiled kernels against the reference, over dtype, memory format, strides, masks and empty batches."""

import math

import pytest
import torch

from advrbd_plugin import ops
from advrbd_plugin.ops import reference

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
LAYOUTS = ["contiguous", "channels_last", "sliced", "permuted"]


@pytest.fixture(autouse=True)
def need_kernels(device):
    if ops.backend(torch.empty(0, device=device)) == "reference":
        pytest.skip("the compiled kernels are not there: install a C++ compiler and run `pip install -e .` again")


def test_a_gpu_takes_part():
    if not torch.cuda.is_available():
        pytest.skip(
            "no GPU is visible, so only the CPU kernels are tested; on a machine with one, all tests here run on it"
        )
    assert ops.backend(torch.empty(0, device="cuda")) in ("cuda", "nvrtc")


def make_images(samples, channels, height, width, *, dtype, layout, device, seed=0):
    generator = torch.Generator().manual_seed(seed)
    if layout == "sliced":
        whole = torch.randn(2 * samples, channels, height + 3, width + 2, generator=generator)
        images = whole.to(device=device, dtype=dtype)[::2, :, 1 : height + 1, 2:]
    elif layout == "permuted":
        images = torch.randn(width, channels, samples, height, generator=generator).to(device=device, dtype=dtype)
        images = images.permute(2, 1, 3, 0)
    else:
        images = torch.randn(samples, channels, height, width, generator=generator).to(device=device, dtype=dtype)
        if layout == "channels_last":
            images = images.to(memory_format=torch.channels_last)
    assert images.shape == (samples, channels, height, width)
    return images


def same(actual, expected):
    torch.testing.assert_close(actual, expected, rtol=0, atol=0, equal_nan=True)
    assert actual.stride() == expected.stride()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("layout", LAYOUTS)
@pytest.mark.parametrize(
    ("samples", "channels", "height", "width", "patch_size", "num_masks"),
    [
        (5, 3, 9, 11, 4, 3),
        (4, 1, 8, 8, 8, 1),
        (3, 4, 16, 16, 1, 2),
        (0, 3, 8, 8, 3, 2),
        (2, 5, 1, 7, 1, 4),
        (1, 2, 6, 1, 1, 1),
    ],
)
def test_perturb_equals_the_reference_to_the_bit(
    device, dtype, layout, samples, channels, height, width, patch_size, num_masks
):
    images = make_images(samples, channels, height, width, dtype=dtype, layout=layout, device=device)
    grad = make_images(samples, channels, height, width, dtype=dtype, layout="contiguous", device=device, seed=1)
    if samples:
        grad[0, 0, 0, 0] = math.nan
        images[0, 0, -1, -1] = math.nan
        grad[-1] = 0
    before = images.clone(), grad.clone()
    options = {
        "epsilon": [0.3],
        "patch_size": patch_size,
        "num_masks": num_masks,
        "seed": 7,
        "low": [-0.5],
        "high": [0.75],
    }
    actual = ops.perturb(images, grad, **options)
    same(actual, reference.perturb(images, grad, **options))
    assert actual.dtype == dtype
    if layout == "channels_last" and samples:
        assert actual[0].is_contiguous(memory_format=torch.channels_last)
    else:
        assert actual.is_contiguous() or channels == 1 or layout in ("channels_last", "permuted")
    torch.testing.assert_close((images, grad), before, rtol=0, atol=0, equal_nan=True)


@pytest.mark.parametrize("layout", ["contiguous", "channels_last"])
def test_perturb_takes_values_per_channel(device, layout):
    images = make_images(6, 3, 12, 10, dtype=torch.float32, layout=layout, device=device)
    grad = make_images(6, 3, 12, 10, dtype=torch.float32, layout=layout, device=device, seed=1)
    options = {
        "patch_size": 5,
        "num_masks": 2,
        "epsilon": [0.1, 0.0, 0.7],
        "low": [-0.5, -1.0, 0.0],
        "high": [0.5, 1.0, 0.25],
    }
    actual = ops.perturb(images, grad, **options)
    same(actual, reference.perturb(images, grad, **options))
    inside = torch.zeros(2, 6, 12, 10, dtype=torch.bool, device=device)
    for mask, rows in enumerate(ops.patch_origins(torch.arange(6, device=device), (12, 10), 5, 2).tolist()):
        for sample, (row, column) in enumerate(rows):
            inside[mask, sample, row : row + 5, column : column + 5] = True
    outside = ~inside[:, :, None].expand_as(actual)
    assert torch.equal(actual[outside], images.expand_as(actual)[outside])
    assert actual[:, :, 2].movedim(2, 0)[:, inside.any(-2).any(-1)].isfinite().all()


def test_a_sixteen_bit_float_makes_the_round_trip(device):
    every = torch.arange(65536, dtype=torch.int32).to(torch.uint16)
    for dtype in (torch.bfloat16, torch.float16):
        images = every.view(dtype).reshape(1, 1, 256, 256).to(device)
        grad = torch.ones_like(images)
        options = {"epsilon": [0.0009765625], "patch_size": 256, "low": [-math.inf], "high": [math.inf]}
        same(ops.perturb(images, grad, **options), reference.perturb(images, grad, **options))


@pytest.mark.parametrize("image_size", [8, (8, 24), (224, 200)])
@pytest.mark.parametrize("seed", [0, 1, 2**31, 2**63, 2**64 - 1, -5])
def test_patch_origins_are_identical_everywhere(device, image_size, seed):
    ids = torch.cat([torch.arange(200), torch.tensor([-1, 2**31, 2**32, 2**62, -(2**63)])])
    height, width = (image_size, image_size) if isinstance(image_size, int) else image_size
    expected = reference.patch_origins(ids, height, width, 5, 3, seed if seed < 2**63 else seed - 2**64)
    assert torch.equal(ops.patch_origins(ids.to(device), image_size, 5, 3, seed).cpu(), expected)


@pytest.mark.parametrize("high", [1, 2, 10, 50_000, 2**31 - 1])
@pytest.mark.parametrize("seed", [0, 2**63, -5])
def test_philox_uniform_draws_what_patch_origins_draws_for_patches_of_one_pixel(device, high, seed):
    ids = torch.cat([torch.arange(9000), torch.tensor([-1, 2**31, 2**32, 2**62, -(2**63)])])
    actual = ops.philox_uniform(ids.to(device), high, seed).cpu()
    assert torch.equal(actual, ops.patch_origins(ids, high, 1, 1, seed)[0])
    assert torch.equal(actual, reference.philox_uniform(ids, high, seed if seed < 2**63 else seed - 2**64))
    assert torch.equal(ops.philox_uniform(ids.to(device)[::3], high, seed).cpu(), actual[::3])
    assert ops.philox_uniform(ids[:0].to(device), high, seed).shape == (0, 2)


def test_perturb_does_not_depend_on_the_batch(device):
    images = make_images(8, 3, 10, 10, dtype=torch.float32, layout="contiguous", device=device)
    grad = make_images(8, 3, 10, 10, dtype=torch.float32, layout="contiguous", device=device, seed=1)
    ids = torch.tensor([5, 9, 2**40, 3, 77, 0, 1, 2], device=device)
    options = {"epsilon": 0.2, "patch_size": 4, "num_masks": 3, "seed": 11}
    whole = ops.perturb(images, grad, sample_ids=ids, **options)
    order = torch.tensor([6, 0, 3], device=device)
    assert torch.equal(whole[:, order], ops.perturb(images[order], grad[order], sample_ids=ids[order], **options))
    by_default = ops.perturb(images, grad, **options)
    assert torch.equal(by_default, ops.perturb(images, grad, sample_ids=torch.arange(8, device=device), **options))
    assert torch.equal(whole, ops.perturb(images, grad, sample_ids=ids, **options))


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("rows", [0, 1, 17, 50])
@pytest.mark.parametrize("classes", [1, 2, 10, 16, 33, 200])
@pytest.mark.parametrize("num_masks", [0, 1, 3])
def test_kl_divergence_equals_the_reference(device, dtype, rows, classes, num_masks):
    generator = torch.Generator().manual_seed(classes)
    logits = (4 * torch.randn(classes, rows, generator=generator)).t().to(device=device, dtype=dtype)
    perturbed = (4 * torch.randn(num_masks, rows, classes, generator=generator)).to(device=device, dtype=dtype)
    actual = ops.kl_divergence(logits, perturbed)
    assert actual.dtype == torch.float32
    assert actual.shape == (num_masks, rows)
    torch.testing.assert_close(actual, reference.kl_divergence(logits, perturbed), rtol=2e-5, atol=5e-7)


def test_kl_divergence_is_stable_for_large_logits(device):
    logits = torch.tensor([[1e4, -1e4, 0.0], [-1e4, -1e4, -1e4], [1e4, 1e4, 1e4]], device=device)
    perturbed = torch.stack([logits, logits.flip(1), -logits])
    actual = ops.kl_divergence(logits, perturbed)
    torch.testing.assert_close(actual, torch.tensor([[0.0, 0, 0], [1e4, 0, 0], [2e4, 0, 0]], device=device))


def test_kl_divergence_keeps_tiny_values_apart(device):
    # 1 - p is 1e-9 to 1e-7: the divergences differ only beyond the digits that 1 + 1e-9 keeps in float32.
    logits = torch.tensor([[20.0, 0.0, -1.0]], device=device).expand(4, 3).contiguous()
    perturbed = torch.tensor([[[19.0, 0, 0], [18.0, 0, 0], [17.0, 0, 0], [16.0, 0, 0]]], device=device)
    actual = ops.kl_divergence(logits, perturbed)
    torch.testing.assert_close(actual, reference.kl_divergence(logits, perturbed), rtol=1e-3, atol=0)
    assert (actual[0, 1:] > actual[0, :-1]).all()


def exact_kl(logits, perturbed):
    """In float64, by terms that do not cancel."""
    log_p, log_q = logits.double().log_softmax(-1), perturbed.double().log_softmax(-1)
    ratio = log_q - log_p
    return (log_p.exp() * (ratio.expm1() - ratio)).sum(-1)


@pytest.mark.parametrize("classes", [2, 10, 100, 200, 1000])
@pytest.mark.parametrize("scale", [0.1, 1, 4, 20])
@pytest.mark.parametrize(("noise", "tolerance"), [(1e-4, 2e-2), (1e-3, 1e-3), (1e-2, 1e-4), (0.1, 1e-4), (1, 1e-4)])
def test_kl_divergence_of_near_identical_rows_does_not_cancel(device, classes, scale, noise, tolerance):
    generator = torch.Generator().manual_seed(classes)
    logits = scale * torch.randn(64, classes, generator=generator)
    perturbed = logits + noise * torch.randn(2, 64, classes, generator=generator)
    actual = ops.kl_divergence(logits.to(device), perturbed.to(device)).cpu().double()
    torch.testing.assert_close(actual, exact_kl(logits, perturbed), rtol=tolerance, atol=1e-13)
    torch.testing.assert_close(reference.kl_divergence(logits, perturbed).double(), exact_kl(logits, perturbed))


def test_kl_divergence_of_identical_rows_is_0_and_of_nearly_identical_ones_is_not(device):
    logits = torch.linspace(-1, 1, 200, device=device).expand(3, 200).contiguous()
    perturbed = logits[None].clone()
    perturbed[0, 1] += 5  # the softmax is the same
    perturbed[0, 2, 0] += 0.02
    actual = ops.kl_divergence(logits, perturbed)[0]
    assert actual[0] == 0
    assert actual[1] < 1e-12
    expected = exact_kl(logits[2:].cpu(), perturbed[:, 2:].cpu()).float()[0, 0]  # 3e-7
    torch.testing.assert_close(actual[2].cpu(), expected, rtol=1e-4, atol=0)


@pytest.mark.parametrize("bad", [math.nan, math.inf])
@pytest.mark.parametrize("where", ["logits", "perturbed_logits"])
@pytest.mark.parametrize("column", [0, 18])
def test_a_bad_row_spoils_that_row_only(device, bad, where, column):
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(20, 19, generator=generator).to(device)
    perturbed = torch.randn(2, 20, 19, generator=generator).to(device)
    good = ops.kl_divergence(logits, perturbed)
    if where == "logits":
        logits[3, column] = bad
        expected_bad = [[0, 3], [1, 3]]
    else:
        perturbed[1, 3, column] = bad
        expected_bad = [[1, 3]]
    actual = ops.kl_divergence(logits, perturbed)
    assert actual.isnan().nonzero().tolist() == expected_bad
    kept = ~actual.isnan()
    assert torch.equal(actual[kept], good[kept])


def test_impossible_classes_add_nothing(device):
    logits = torch.tensor([[1.0, 2.0, -math.inf], [0.0, 0.0, 0.0], [0.0, 1.0, -500.0]], device=device)
    perturbed = torch.tensor([[[1.0, 2.5, -math.inf], [0.0, 0.0, -math.inf], [0.0, 2.0, -math.inf]]], device=device)
    actual = ops.kl_divergence(logits, perturbed)
    torch.testing.assert_close(actual, reference.kl_divergence(logits, perturbed), rtol=1e-5, atol=1e-6)
    assert actual[0].isinf().tolist() == [False, True, False]


@pytest.mark.parametrize("image_dtype", DTYPES)
@pytest.mark.parametrize("logit_dtype", DTYPES)
@pytest.mark.parametrize(
    ("previous", "present"), [(None, 0), (None, 7), (0, None), (0, 0), (0, 7), (9, None), (9, 0), (9, 7)]
)
def test_score_step_halves_equal_the_ops(device, image_dtype, logit_dtype, previous, present):
    options = {"epsilon": 0.1, "patch_size": 3, "num_masks": 2, "seed": 4}
    logits = perturbed_logits = images = grad = None
    if previous is not None:
        logits = torch.randn(previous, 10, device=device, dtype=logit_dtype)
        perturbed_logits = torch.randn(2, previous, 10, device=device, dtype=logit_dtype)
    if present is not None:
        images = make_images(present, 3, 8, 8, dtype=image_dtype, layout="channels_last", device=device)
        grad = torch.randn_like(images)
    perturbed, divergence = ops.score_step(logits, perturbed_logits, images, grad, **options)
    if previous is None:
        assert divergence is None
    else:
        assert torch.equal(divergence, ops.kl_divergence(logits, perturbed_logits))
    if present is None:
        assert perturbed is None
    else:
        same(perturbed, ops.perturb(images, grad, **options))


@pytest.fixture
def two_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    yield
    torch.set_num_threads(before)


def test_large_batches_are_divided_among_threads_alike(device, two_threads):
    images = torch.rand(300, 3, 32, 32, device=device)
    grad = torch.randn_like(images)
    logits, perturbed_logits = torch.randn(300, 100, device=device), torch.randn(4, 300, 100, device=device)
    options = {"epsilon": [0.1], "patch_size": 8, "num_masks": 4}
    step = ops.score_step(logits, perturbed_logits, images, grad, **options)
    same(step.perturbed, reference.perturb(images, grad, **options))
    one_by_one = torch.cat(
        [ops.kl_divergence(logits[i : i + 1], perturbed_logits[:, i : i + 1]) for i in range(300)], 1
    )
    assert torch.equal(step.divergence, one_by_one)
