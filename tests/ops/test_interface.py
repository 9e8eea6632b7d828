"""Bad arguments, opcheck, torch.compile, autocast, and what serves where nothing is compiled."""

import os
import subprocess
import sys

import pytest
import torch

from advrbd_plugin import ops

IMAGES = torch.rand(4, 3, 8, 8)
LOGITS = torch.randn(4, 10)
OPTIONS = {"epsilon": 0.1, "patch_size": 3, "num_masks": 2}


def perturb_with(**changes):
    arguments = dict(images=IMAGES, grad=IMAGES, **OPTIONS) | changes
    return lambda: ops.perturb(arguments.pop("images"), arguments.pop("grad"), **arguments)


BAD = {
    "images dtype": (
        perturb_with(images=IMAGES.double()),
        TypeError,
        "images must be float32, bfloat16 or float16, got float64",
    ),
    "images dimensions": (
        perturb_with(images=IMAGES[0]),
        ValueError,
        r"images must have 4 dimensions \(N, C, H, W\), got 3",
    ),
    "no channels": (
        perturb_with(images=IMAGES[:, :0], grad=IMAGES[:, :0]),
        ValueError,
        "images must have at least 1 channel",
    ),
    "grad dtype": (
        perturb_with(grad=IMAGES.half()),
        TypeError,
        r"grad must have the dtype of images \(float32\), got float16",
    ),
    "grad shape": (perturb_with(grad=IMAGES[:2]), ValueError, "grad must have the shape of images"),
    "grad device": (perturb_with(grad=IMAGES.to("meta")), ValueError, "grad must be on the device of images"),
    "patch too large": (perturb_with(patch_size=40), ValueError, r"patch_size must be in \[1, 8\], got 40"),
    "patch 0": (perturb_with(patch_size=0), ValueError, r"patch_size must be in \[1, 8\], got 0"),
    "no masks": (perturb_with(num_masks=0), ValueError, r"num_masks must be in \[1, 4096\], got 0"),
    "many masks": (perturb_with(num_masks=4097), ValueError, r"num_masks must be in \[1, 4096\], got 4097"),
    "epsilon negative": (perturb_with(epsilon=-1), ValueError, "epsilon must be finite and at least 0, got -1"),
    "epsilon nan": (perturb_with(epsilon=float("nan")), ValueError, "epsilon must be finite and at least 0, got nan"),
    "epsilon count": (
        perturb_with(epsilon=[0.1, 0.2]),
        ValueError,
        r"epsilon must be a number or one per channel \(3\), got 2",
    ),
    "low above high": (perturb_with(low=2.0), ValueError, "low must be at most high, got low 2 and high 1"),
    "high count": (perturb_with(high=[]), ValueError, "high must be a number or one per channel"),
    "ids dtype": (perturb_with(sample_ids=torch.arange(4.0)), TypeError, "sample_ids must be int64, got float32"),
    "ids length": (perturb_with(sample_ids=torch.arange(5)), ValueError, "sample_ids must have length 4"),
    "ids dimensions": (
        perturb_with(sample_ids=torch.zeros(4, 1, dtype=torch.int64)),
        ValueError,
        "sample_ids must have 1 dimension",
    ),
    "seed": (perturb_with(seed=2**64), ValueError, "seed must have at most 64 bits"),
    "image size": (lambda: ops.patch_origins(torch.arange(2), (0, 4), 1), ValueError, "image_size must be at least 1"),
    "high 0": (lambda: ops.philox_uniform(torch.arange(2), 0), ValueError, r"high must be in \[1, 2147483647\], got 0"),
    "high 2^31": (
        lambda: ops.philox_uniform(torch.arange(2), 2**31),
        ValueError,
        r"high must be in .*, got 2147483648",
    ),
    "uniform ids": (
        lambda: ops.philox_uniform(torch.arange(2.0), 5),
        TypeError,
        "sample_ids must be int64, got float32",
    ),
    "logits dtype": (lambda: ops.kl_divergence(LOGITS.long(), LOGITS[None]), TypeError, "logits must be float32"),
    "logits dimensions": (
        lambda: ops.kl_divergence(LOGITS[0], LOGITS[None]),
        ValueError,
        "logits must have 2 dimensions",
    ),
    "logits dtypes": (
        lambda: ops.kl_divergence(LOGITS, LOGITS[None].half()),
        TypeError,
        "perturbed_logits must have the dtype of logits",
    ),
    "perturbed dimensions": (
        lambda: ops.kl_divergence(LOGITS, LOGITS),
        ValueError,
        "perturbed_logits must have 3 dimensions",
    ),
    "perturbed shape": (
        lambda: ops.kl_divergence(LOGITS, LOGITS[None, :, :5]),
        ValueError,
        "perturbed_logits must have shape",
    ),
    "no classes": (
        lambda: ops.kl_divergence(LOGITS[:, :0], LOGITS[None, :, :0]),
        ValueError,
        "logits must have at least 1 class",
    ),
    "half a pair": (
        lambda: ops.score_step(LOGITS, None, None, None, **OPTIONS),
        ValueError,
        "logits and perturbed_logits must be given together",
    ),
    "half another pair": (
        lambda: ops.score_step(None, None, IMAGES, None, **OPTIONS),
        ValueError,
        "images and grad must be given together",
    ),
    "nothing to do": (
        lambda: ops.score_step(None, None, None, None, **OPTIONS),
        (ValueError, NotImplementedError),
        "images|score_step",
    ),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_arguments_are_named(case):
    call, error, message = BAD[case]
    with pytest.raises(error, match=message):
        call()


TENSOR_OPTIONS = dict(
    OPTIONS, epsilon=torch.tensor(0.1), low=torch.zeros(3, dtype=torch.float64), high=torch.ones(1, dtype=torch.int64)
)
OPCHECKS = {
    "patch_origins": (torch.ops.advrbd.patch_origins, (torch.arange(5), 8, 9, 3, 2, -1), {}),
    "philox_uniform": (torch.ops.advrbd.philox_uniform, (torch.arange(5), 2**31 - 1, -1), {}),
    "perturb": (torch.ops.advrbd.perturb, (IMAGES, IMAGES), dict(OPTIONS, epsilon=[0.1])),
    "perturb channels_last": (
        torch.ops.advrbd.perturb,
        (IMAGES.to(memory_format=torch.channels_last), IMAGES),
        dict(OPTIONS, epsilon=[0.1, 0.2, 0.3], sample_ids=torch.arange(4)),
    ),
    "perturb empty": (torch.ops.advrbd.perturb, (IMAGES[:0], IMAGES[:0]), dict(OPTIONS, epsilon=[0.1])),
    "perturb bfloat16": (
        torch.ops.advrbd.perturb,
        (IMAGES.bfloat16(), IMAGES.bfloat16()),
        dict(OPTIONS, epsilon=[0.1]),
    ),
    "perturb.tensor": (torch.ops.advrbd.perturb.tensor, (IMAGES, IMAGES), TENSOR_OPTIONS),
    "kl_divergence": (torch.ops.advrbd.kl_divergence, (LOGITS, LOGITS[None] + 1), {}),
    "score_step": (torch.ops.advrbd.score_step, (LOGITS, LOGITS[None], IMAGES, IMAGES), dict(OPTIONS, epsilon=[0.1])),
    "score_step.tensor": (
        torch.ops.advrbd.score_step.tensor,
        (LOGITS, LOGITS[None], IMAGES, IMAGES),
        TENSOR_OPTIONS,
    ),
    "score_step first": (torch.ops.advrbd.score_step, (None, None, IMAGES, IMAGES), dict(OPTIONS, epsilon=[0.1])),
    "score_step last": (torch.ops.advrbd.score_step, (LOGITS, LOGITS[None], None, None), dict(OPTIONS, epsilon=[0.1])),
}


@pytest.mark.parametrize("requires_grad", [False, True])
@pytest.mark.parametrize("case", OPCHECKS)
def test_opcheck(case, requires_grad):
    op, arguments, options = OPCHECKS[case]
    arguments = tuple(
        argument.detach().requires_grad_()
        if requires_grad and torch.is_tensor(argument) and argument.is_floating_point()
        else argument
        for argument in arguments
    )
    # A backward pass, which opcheck would compare, is refused (test_gradients.py).
    utilities = {"test_schema", "test_autograd_registration", "test_faketensor", "test_aot_dispatch_dynamic"}
    if any(torch.is_tensor(argument) and argument.requires_grad for argument in arguments):
        utilities.remove("test_aot_dispatch_dynamic")
    op = op if isinstance(op, torch._ops.OpOverload) else op.default
    torch.library.opcheck(op, arguments, options, test_utils=sorted(utilities))


def scoring(images, grad, weight, seed):
    """A scoring step with a linear model, all ops in one graph."""
    logits = images.flatten(1) @ weight
    perturbed = ops.perturb(images, grad, seed=seed, **OPTIONS)
    perturbed_logits = (perturbed.flatten(2) @ weight).to(logits.dtype)
    step = ops.score_step(logits, perturbed_logits, images, grad, seed=seed, **OPTIONS)
    ids = torch.arange(len(images))
    drawn = ops.patch_origins(ids, 8, 3), ops.philox_uniform(ids, 1 + len(images), seed)
    return perturbed, ops.kl_divergence(logits, perturbed_logits), step.perturbed, step.divergence, *drawn


def test_compile_without_a_graph_break_and_for_changing_seeds_and_sizes():
    torch._dynamo.reset()
    compiled = torch.compile(scoring, fullgraph=True, backend="aot_eager")
    weight = torch.randn(192, 10)
    for samples, seed in ((4, 0), (3, 1), (2, 2), (4, 3)):
        images, grad = torch.rand(samples, 3, 8, 8), torch.randn(samples, 3, 8, 8)
        for actual, expected in zip(
            compiled(images, grad, weight, seed), scoring(images, grad, weight, seed), strict=True
        ):
            torch.testing.assert_close(actual, expected)


def test_autocast():
    images, grad, weight = torch.rand(4, 3, 8, 8), torch.randn(4, 3, 8, 8), torch.randn(192, 10)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        perturbed, divergence, *_ = scoring(images, grad, weight, 0)
        logits = images.flatten(1) @ weight
    assert logits.dtype == torch.bfloat16
    assert perturbed.dtype == torch.float32
    assert divergence.dtype == torch.float32
    assert divergence.isfinite().all()


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    return subprocess.run(
        [sys.executable, "-W", "always", "-c", code],
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        capture_output=True,
        text=True,
        check=False,
    )


USE_REFERENCE = """
import torch
from advrbd_plugin import ops
images = torch.rand(4, 3, 8, 8)
print(ops.backend(images))
assert ops.perturb(images, images, epsilon=0.1, patch_size=3, num_masks=2).shape == (2, 4, 3, 8, 8)
assert torch.ops.advrbd.kl_divergence(torch.zeros(4, 5), torch.zeros(2, 4, 5)).tolist() == [[0.0] * 4] * 2
torch.library.opcheck(torch.ops.advrbd.perturb.default, (images, images), dict(epsilon=[0.1], patch_size=3))
"""


def test_the_reference_serves_on_request():
    done = run_python(USE_REFERENCE, ADVRBD_REFERENCE="1")
    assert done.stdout.strip() == "reference", done.stderr
    assert "compiled ops are not available" not in done.stderr


def test_the_reference_serves_without_the_extension_and_one_warning_says_so():
    hide = "import torch\ndef refuse(path): raise OSError('it is hidden')\ntorch.ops.load_library = refuse\n"
    done = run_python(hide + USE_REFERENCE + "import advrbd_plugin.ops.functions\n")
    assert done.stdout.strip() == "reference", done.stderr
    assert done.stderr.count("the compiled ops are not available") == 1
    assert "advrbd doctor" in done.stderr


def test_backend_names_what_serves():
    assert ops.backend(IMAGES) in ("cpu", "reference")
    assert ops.backend(IMAGES.to("meta")) == "reference"
