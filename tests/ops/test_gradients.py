"""No op has a gradient: whoever asks for one is told so, and inputs that merely require gradients are served."""

import pytest
import torch
from torch.autograd import forward_ad

from advrbd_plugin import ops

IMAGES, GRAD = torch.rand(4, 3, 8, 8), torch.randn(4, 3, 8, 8)
LOGITS, PERTURBED_LOGITS = torch.randn(4, 10), torch.randn(2, 4, 10)
OPTIONS = {"epsilon": 0.1, "patch_size": 3, "num_masks": 2}
CALLS = {
    "perturb": (IMAGES, lambda images: ops.perturb(images, GRAD, **OPTIONS)),
    "perturb's gradient": (GRAD, lambda grad: ops.perturb(IMAGES, grad, **OPTIONS)),
    "perturb's epsilon": (torch.tensor(0.1), lambda epsilon: ops.perturb(IMAGES, GRAD, epsilon=epsilon, patch_size=3)),
    "kl_divergence": (PERTURBED_LOGITS, lambda logits: ops.kl_divergence(LOGITS, logits)),
    "score_step": (IMAGES, lambda images: ops.score_step(None, None, images, GRAD, **OPTIONS).perturbed),
    "score_step's logits": (
        PERTURBED_LOGITS,
        lambda logits: ops.score_step(LOGITS, logits, IMAGES, GRAD, **OPTIONS).divergence,
    ),
}
REFUSED = pytest.raises(NotImplementedError, match=r"advrbd::\w+(\.tensor)? has no gradient: detach its inputs")


@pytest.fixture(params=CALLS)
def call(request):
    value, function = CALLS[request.param]
    return value.clone(), function


def test_inputs_that_require_gradients_are_served_and_a_backward_pass_is_refused(call):
    value, function = call
    needing = value.clone().requires_grad_()
    output = function(needing)
    assert torch.equal(output.detach(), function(value))
    assert output.requires_grad and not function(value).requires_grad
    with REFUSED:
        output.sum().backward()
    with REFUSED:  # also where another path has a gradient
        (needing.sum() + function(needing).sum()).backward()


def test_nothing_is_recorded_without_grad_mode(call):
    value, function = call
    with torch.no_grad():
        assert not function(value.clone().requires_grad_()).requires_grad
    with torch.inference_mode():
        assert not function(value.clone()).requires_grad


@pytest.mark.parametrize("transform", ["grad", "vmap of grad", "jacrev", "jacfwd", "jvp", "dual"])
def test_transforms_are_refused(call, transform):
    value, function = call

    def summed(value):
        return function(value).sum()

    with REFUSED:
        if transform == "grad":
            torch.func.grad(summed)(value)
        elif transform == "vmap of grad":
            torch.vmap(torch.func.grad(summed))(torch.stack([value, value]))
        elif transform == "jvp":
            torch.func.jvp(function, (value,), (value,))
        elif transform == "dual":
            with forward_ad.dual_level():
                function(forward_ad.make_dual(value, value))
        else:
            getattr(torch.func, transform)(function)(value)


def test_a_gradient_around_an_op_is_right():
    def loss(images):
        return (images * ops.perturb(images.detach(), GRAD, **OPTIONS)).sum()

    expected = ops.perturb(IMAGES, GRAD, **OPTIONS).sum(0)
    torch.testing.assert_close(torch.func.grad(loss)(IMAGES), expected)
    needing = IMAGES.clone().requires_grad_()
    loss(needing).backward()
    torch.testing.assert_close(needing.grad, expected)


def test_a_compiled_backward_pass_is_refused_too():
    torch._dynamo.reset()
    compiled = torch.compile(lambda images: ops.perturb(images, GRAD, **OPTIONS), backend="aot_eager")
    with pytest.raises(Exception, match="has no gradient"):
        compiled(IMAGES.clone().requires_grad_()).sum().backward()
    with torch.no_grad():
        assert torch.equal(compiled(IMAGES), ops.perturb(IMAGES, GRAD, **OPTIONS))
