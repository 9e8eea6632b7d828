"""Weights to begin a training with, from a safetensors file."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from torch import Tensor, nn

from advrbd_plugin.cache import digest
from advrbd_plugin.errors import AdvrBDError, is_out_of_memory, out_of_memory
from advrbd_plugin.nn.models import Normalize
from advrbd_plugin.plain import brief, one_reason

_NAMED = 4


class StartingWeights:
    """Weights by name.

    Args:
        path: a safetensors file, which holds numbers alone. Formats that can hold code (``.pt``, ``.pth``) are refused.

    Attributes:
        digest: of the weights.

    Raises:
        AdvrBDError: the file is missing, damaged or of another format.
    """

    def __init__(self, path: str | os.PathLike[str]) -> None:
        from safetensors import SafetensorError
        from safetensors.torch import load_file

        self.path = Path(path)
        if not self.path.is_file():
            raise AdvrBDError(f"--weights {self.path} does not exist: give a safetensors file")
        if self.path.suffix.lower() in (".pt", ".pth", ".ckpt", ".bin", ".pkl"):
            raise AdvrBDError(
                f"--weights {self.path} is no safetensors file, and files of torch.save can hold code: save it by "
                "safetensors.torch.save_file(model.state_dict(), FILE)"
            )
        try:
            self._tensors: dict[str, Tensor] = load_file(self.path)
        except (SafetensorError, OSError, ValueError, RuntimeError, MemoryError) as error:
            if is_out_of_memory(error):
                raise out_of_memory(f"reading {self.path}") from error
            raise AdvrBDError(
                f"--weights {self.path} is no safetensors file, or damaged: {one_reason(error)}"
            ) from error
        self.digest = digest(*(part for name in sorted(self._tensors) for part in (name, self._tensors[name])))

    def into(self, network: nn.Module) -> str | None:
        """Put the weights into a network.

        The last linear layer may be missing or of other classes; it then keeps its random weights.

        Returns:
            A sentence where it did.

        Raises:
            AdvrBDError: any other weight is missing, too many, or of another shape; the line names them.
        """
        target = _without_normalisation(network, self._tensors)
        own, head = target.state_dict(), _head_of(target)
        faults = []
        kept = [name for name in head if name not in self._tensors or self._tensors[name].shape != own[name].shape]
        missing = [name for name in own if name not in self._tensors and name not in kept]
        missing = [name for name in missing if not name.endswith("num_batches_tracked")]
        unknown = [name for name in self._tensors if name not in own]
        if missing:
            faults.append(f"lacks {_some(missing)}")
        if unknown:
            faults.append(f"holds {_some(unknown)}, which the network has not")
        shared = [name for name in own if name in self._tensors and name not in kept]
        other = [name for name in shared if own[name].shape != self._tensors[name].shape]
        if other:
            shapes = [
                f"{name} {tuple(self._tensors[name].shape)} in place of {tuple(own[name].shape)}" for name in other
            ]
            faults.append(f"has {_some(shapes)}")
        if faults:
            raise AdvrBDError(f"--weights {self.path} does not fit the network: it {'; it '.join(faults)}")
        with torch.no_grad():
            target.load_state_dict({name: self._tensors[name] for name in shared}, strict=False)
        if not kept:
            return None
        return f"{self.path} has other classes: {', '.join(kept)} begin at random."


def _some(names: list[str]) -> str:
    more = f" and {len(names) - _NAMED} more" if len(names) > _NAMED else ""
    return ", ".join(brief(name)[1:-1] for name in names[:_NAMED]) + more


def _without_normalisation(network: nn.Module, tensors: dict[str, Tensor]) -> nn.Module:
    """The part that the weights are of: all, or the network behind our normalisation."""
    layers = list(network.children())
    if not isinstance(network, nn.Sequential) or len(layers) < 2 or not isinstance(layers[0], Normalize):
        return network
    inner = layers[-1]
    whole, part = (len(set(each.state_dict()) & set(tensors)) for each in (network, inner))
    return network if whole > part else inner


def _head_of(network: nn.Module) -> list[str]:
    """The names of the last linear layer's weights."""
    linear = [name for name, module in network.named_modules() if isinstance(module, nn.Linear)]
    if not linear:
        return []
    prefix = f"{linear[-1]}." if linear[-1] else ""
    return [name for name in network.state_dict() if name.startswith(prefix) and "." not in name[len(prefix) :]]
