"""Training in several processes: each takes a part of every batch, and the step is that of the whole batch.

Gradients are averaged by :class:`torch.nn.parallel.DistributedDataParallel`; batch normalisation takes its statistics
from the whole batch. What differs from one process is the order in which floats are added, and, in a network that draws
noise of its own (dropout), the noise.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.modules.batchnorm import _BatchNorm
from torch.nn.parallel import DistributedDataParallel

from advrbd_plugin.processes import Processes, current


class Replica:
    """A network that every process trains alike; in one process, the network itself.

    Args:
        model: on the device where it is trained; every process gets the weights of rank 0.
    """

    def __init__(self, model: nn.Module) -> None:
        self._processes = current()
        self._forward: nn.Module = model
        self._norms: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
        if self._processes.count > 1:
            device = next(model.parameters()).device
            ids = [device] if device.type == "cuda" else None
            with warnings.catch_warnings():  # later versions call the option otherwise
                warnings.simplefilter("ignore", FutureWarning)
                # Buffers are alike by themselves: they come from the statistics of the whole batch.
                self._forward = DistributedDataParallel(model, device_ids=ids, broadcast_buffers=False)
            self._norms = _synchronised(model, self._processes)

    def part_of(self, batch: Tensor) -> Tensor:
        """This process's part of a (N,) batch; the whole where it is too small to give each two samples."""
        return self._processes.part_of(batch) if self._is_shared(batch) else batch

    @contextmanager
    def step(self, batch: Tensor) -> Iterator[nn.Module]:
        """The network to call with this process's part of ``batch``, and to go back through, within the context."""
        norms = self._norms if self._is_shared(batch) else []
        for parent, name, _, synchronised in norms:
            setattr(parent, name, synchronised)
        try:
            yield self._forward
        finally:
            for parent, name, plain, _ in norms:
                setattr(parent, name, plain)

    def share_of_loss(self, batch: Tensor) -> float:
        """What the mean loss of this process's part counts for, so that the average over all is the batch's mean."""
        if not self._is_shared(batch):
            return 1.0
        return self._processes.count * len(self.part_of(batch)) / len(batch)

    def sums(self, *values: float) -> list[float]:
        """Of values that each process adds up over its parts; see :meth:`counts`."""
        return self._processes.sum(*values)

    def counts(self, batch: Tensor) -> bool:
        """Whether this process adds a batch to its sums: rank 0 alone, where every process does the whole of it."""
        return self._is_shared(batch) or self._processes.leads

    def _is_shared(self, batch: Tensor) -> bool:
        return len(batch) >= 2 * self._processes.count


def _synchronised(model: nn.Module, processes: Processes) -> list[tuple[nn.Module, str, nn.Module, nn.Module]]:
    """(parent, name, layer, the layer that stands for it within a step) of every batch normalisation."""
    found: list[tuple[nn.Module, str, nn.Module, nn.Module]] = []
    for parent in model.modules():
        for name, layer in parent.named_children():
            if isinstance(layer, _BatchNorm) and not isinstance(layer, nn.SyncBatchNorm):
                is_cuda = any(tensor.is_cuda for tensor in layer.state_dict().values())
                found.append((parent, name, layer, _on_gpu(layer) if is_cuda else _Norm(layer, processes)))
    return found


def _on_gpu(layer: _BatchNorm) -> nn.SyncBatchNorm:
    """PyTorch's own, which knows GPUs only, on the weights and the running statistics of ``layer``."""
    synchronised = nn.SyncBatchNorm(layer.num_features, layer.eps, layer.momentum, affine=False)
    _adopt(synchronised, layer)
    return synchronised


def _adopt(module: nn.Module, layer: _BatchNorm) -> None:
    for name in ("weight", "bias"):
        module.register_parameter(name, getattr(layer, name))
    for name in ("running_mean", "running_var", "num_batches_tracked"):
        module.register_buffer(name, getattr(layer, name))
    module.train()


class _Norm(nn.Module):
    """A batch normalisation in training whose statistics are those of all processes' inputs together."""

    def __init__(self, layer: _BatchNorm, processes: Processes) -> None:
        super().__init__()
        self._eps, self._momentum, self._processes = layer.eps, layer.momentum, processes
        self.weight: Tensor | None
        self.bias: Tensor | None
        self.running_mean: Tensor | None
        self.running_var: Tensor | None
        self.num_batches_tracked: Tensor | None
        _adopt(self, layer)

    def forward(self, inputs: Tensor) -> Tensor:
        """(N, C, ...) to the same."""
        outputs, mean, variance, count = _Normalisation.apply(
            inputs, self.weight, self.bias, self._eps, self._processes
        )
        if self.running_mean is not None and self.running_var is not None and self.num_batches_tracked is not None:
            self.num_batches_tracked.add_(1)
            rate = 1.0 / float(self.num_batches_tracked) if self._momentum is None else self._momentum
            self.running_mean.lerp_(mean.to(self.running_mean.dtype), rate)
            unbiased = variance * (count / (count - 1).clamp_min(1))
            self.running_var.lerp_(unbiased.to(self.running_var.dtype), rate)
        return outputs


class _Normalisation(torch.autograd.Function):
    """Batch normalisation (arXiv 1502.03167) whose sums are taken over all processes, in both directions."""

    @staticmethod
    def forward(
        ctx: Any, inputs: Tensor, weight: Tensor | None, bias: Tensor | None, eps: float, processes: Processes
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        dims = [dim for dim in range(inputs.dim()) if dim != 1]
        exact = inputs if inputs.dtype == torch.float64 else inputs.float()
        own_variance, own_mean = torch.var_mean(exact, dims, correction=0)
        own_count = own_mean.new_full((1,), inputs.numel() // inputs.shape[1])
        own = torch.cat([own_mean, own_variance, own_count])
        everyones = own.new_empty(processes.count, len(own))
        dist.all_gather(list(everyones.unbind()), own)
        means, variances, counts = everyones.split([len(own_mean), len(own_mean), 1], dim=1)
        # Moments of a whole from those of its parts; sums of squares would lose the digits that count (Chan et al.).
        count = counts.sum()
        mean = (counts * means).sum(dim=0) / count
        variance = (counts * (variances + (means - mean).square())).sum(dim=0) / count
        outputs = nn.functional.batch_norm(inputs, mean, variance, weight, bias, False, 0.0, eps)
        ctx.save_for_backward(inputs, weight, mean, variance, count)
        ctx.eps, ctx.dims = eps, dims
        ctx.mark_non_differentiable(mean, variance, count)
        return outputs, mean, variance, count

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        inputs, weight, mean, variance, count = ctx.saved_tensors
        shape = [1, -1] + [1] * (inputs.dim() - 2)
        scale = (variance + ctx.eps).rsqrt()
        grad = grads[0].to(mean.dtype)
        normalised = (inputs.to(mean.dtype) - mean.view(shape)) * scale.view(shape)
        grad_bias, grad_weight = grad.sum(ctx.dims), (grad * normalised).sum(ctx.dims)
        sums = torch.stack([grad_bias, grad_weight])
        dist.all_reduce(sums)  # the statistics depend on the inputs of all processes
        mean_grad, mean_product = (sums / count).view(2, *shape).unbind()
        grad_inputs = (grad - mean_grad - normalised * mean_product) * scale.view(shape)
        if weight is not None:
            grad_inputs = grad_inputs * weight.view(shape)
            return grad_inputs.to(inputs.dtype), grad_weight.to(weight.dtype), grad_bias.to(weight.dtype), None, None
        return grad_inputs.to(inputs.dtype), None, None, None, None
