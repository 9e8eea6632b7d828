"""Refuses gradients: no op can be differentiated, and none gives silent zeros."""

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.autograd import forward_ad


class _Undifferentiable(torch.autograd.Function):
    """Gives what ``call`` gives, with a backward pass that says why there is none.

    The input tensors are arguments only so that autograd connects them to the outputs.
    """

    @staticmethod
    def forward(ctx: Any, name: str, call: Callable[[], Any], *tensors: Tensor) -> Any:
        ctx.name = name
        return call()

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> Any:
        raise _refusal(ctx.name)


def autograd_kernel(op: torch._ops.OpOverload) -> Callable[..., Any]:
    """The kernel for the dispatch key Autograd, to be registered ``with_keyset=True``.

    Inputs that merely require gradients are served, and a backward pass through the outputs is refused. Under
    torch.func's transforms, and in forward mode, a derivative is sure to be asked for, so the call itself is refused.
    """
    name = op.name()

    def kernel(keyset: Any, *args: Any, **kwargs: Any) -> Any:
        def call() -> Any:
            with torch._C._AutoDispatchBelowAutograd():
                return op.redispatch(keyset & torch._C._after_autograd_keyset, *args, **kwargs)

        tensors = [value for value in (*args, *kwargs.values()) if isinstance(value, Tensor)]
        if any(map(_has_tangent, tensors)):
            raise _refusal(name)
        if not torch.is_grad_enabled() or not any(tensor.requires_grad for tensor in tensors):
            return call()
        if torch._C._are_functorch_transforms_active():
            raise _refusal(name)
        return _Undifferentiable.apply(name, call, *tensors)

    return kernel


def _has_tangent(tensor: Tensor) -> bool:
    return forward_ad._current_level >= 0 and forward_ad.unpack_dual(tensor).tangent is not None


def _refusal(name: str) -> NotImplementedError:
    return NotImplementedError(
        f"{name} has no gradient: detach its inputs, or call it under torch.no_grad(), and differentiate around it"
    )
