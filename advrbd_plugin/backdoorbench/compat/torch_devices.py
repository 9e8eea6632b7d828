"""Patches of torch on a machine without CUDA: calls that name it run on the CPU."""

from __future__ import annotations

import contextlib
import warnings
from typing import Any

from advrbd_plugin.backdoorbench.compat.patch import Patch

_cpu_mode_entered: list[Any] = []


def _no_cuda() -> bool:
    import torch

    return not torch.cuda.is_available()


def _names_cuda(device: Any) -> bool:
    return str(device).startswith("cuda") if device is not None else False


def _is_cuda_device(value: Any) -> bool:
    import torch

    return isinstance(value, (str, torch.device)) and _names_cuda(value)


def _cpu_mode() -> Any:
    """A mode in which tensors that ask for CUDA by name stay on, or are created on, the CPU."""
    import torch
    from torch.overrides import TorchFunctionMode

    class CpuInsteadOfCuda(TorchFunctionMode):
        def __torch_function__(self, function: Any, types: Any, arguments: Any = (), options: Any = None) -> Any:
            options = options or {}
            if function is torch.Tensor.cuda:
                return arguments[0]
            if "device" in options and _names_cuda(options["device"]):
                options = options | {"device": "cpu"}
            elif function is torch.Tensor.to and len(arguments) > 1 and _is_cuda_device(arguments[1]):
                arguments = (arguments[0], "cpu", *arguments[2:])
            return function(*arguments, **options)

    return CpuInsteadOfCuda()


class _NoStream:
    """Stands in for a CUDA stream: the CPU does everything in order."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        """Nothing to wait for."""


def _serve_cuda_calls_on_cpu() -> None:
    import torch

    if _cpu_mode_entered:
        return
    mode = _cpu_mode()
    mode.__enter__()
    _cpu_mode_entered.append(mode)
    stand_ins = {
        "synchronize": lambda device=None: None,
        "Stream": _NoStream,
        "current_stream": lambda device=None: _NoStream(),
        "stream": lambda stream: contextlib.nullcontext(),
    }
    vars(torch.cuda).update(stand_ins)
    # The mixed-precision calls have no effect here and warn of it at every batch.
    warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
    warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator.*")


def _quiet_old_amp() -> None:
    warnings.filterwarnings("ignore", message=r".*torch\.cuda\.amp\..* is deprecated.*", category=FutureWarning)


CUDA_ON_CPU = Patch(
    name="cuda-on-cpu",
    broken_by="every machine without CUDA: .cuda() and device='cuda' are written into scripts",
    symptom="abl, d-st, i-bau, rnp, dbd, lira, strip and others stop although --device cpu was given",
    apply=_serve_cuda_calls_on_cpu,
    needed=_no_cuda,
)
QUIET_AMP = Patch(
    name="quiet-amp",
    broken_by="torch 2.4",
    symptom="torch.cuda.amp warns of its deprecation at every batch and buries the log",
    apply=_quiet_old_amp,
)
