"""Mends that let BackdoorBench's scripts, written for torch 1.11 and NumPy 1.19, run on today's libraries.

Each mend is named with what broke the toolbox and since which version. They change this process alone: the
checkout stays as it is. ``advrbd backdoorbench run`` puts them in place and then runs the script as Python would.
"""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import sys
import types
import warnings
from collections.abc import Callable, Collection
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Mend:
    """One repair of this process.

    Attributes:
        name: what the command line and the tests call it.
        broken_by: the library and the version since which the toolbox's code fails, or why it never ran.
        symptom: what stops without it.
        apply: puts it in place; harmless when called twice.
        needed: whether this installation needs it.
        importer: the module that a script must import for it to matter; "" for every script.
    """

    name: str
    broken_by: str
    symptom: str
    apply: Callable[[], None]
    needed: Callable[[], bool] = lambda: True
    importer: str = ""


def apply_mends(source: str = "", *, leave_out: Collection[str] = ()) -> list[Mend]:
    """Put the mends in place that this installation and a script with this ``source`` need; return them."""
    wanted = [mend for mend in MENDS if mend.name not in leave_out and mend.importer in source]
    applied = [mend for mend in wanted if mend.needed()]
    for mend in applied:
        mend.apply()
    return applied


def apply_mends_for_modules() -> None:
    """Put the mends in place that the toolbox's own modules need when this package calls them.

    Our code asks for devices by itself; the mode that redirects CUDA calls would only slow it down.
    """
    apply_mends(leave_out=("cuda-on-cpu",))


def trust_every_pickle() -> None:
    """Make ``torch.load`` build whatever a file says, as it did before torch 2.6: the user vouches for the record."""
    import torch

    load = getattr(torch.load, "__wrapped__", torch.load)

    def load_all(*arguments: Any, **options: Any) -> Any:
        if options.get("weights_only") is None:
            options["weights_only"] = False
        return load(*arguments, **options)

    load_all.__wrapped__ = load
    torch.load = load_all


def take_data_as_it_is() -> None:
    """Let torchvision read the CIFAR and MNIST files that are on disk: no download, no checksum.

    For a subset or a re-encoded copy. Its batches are pickles, so they are read without running them.
    """
    import os

    from torchvision.datasets import cifar, mnist

    from advrbd_plugin.data.pickle_reader import read_pickle

    def read_numbers(handle: Any, **_: Any) -> Any:
        return read_pickle(handle.read())[0]  # texts of Python 2 as latin1, as torchvision asks for

    def exists(path: Any, md5: str | None = None) -> bool:
        return os.path.isfile(path)

    cifar.pickle = types.SimpleNamespace(load=read_numbers)
    cifar.check_integrity = exists
    mnist.check_integrity = exists


def _allow_record_types() -> None:
    import functools

    import torch

    from advrbd_plugin.backdoorbench.safe_pickle import read_torch

    load = torch.load
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_record(f: Any, map_location: Any = None, *_: Any, **__: Any) -> Any:
        # Whatever the script asks for: only --trust-record lets a file name what is called.
        return read_torch(f, map_location)

    torch.load = load_record


def _old_numpy_names() -> dict[str, Any]:
    """Aliases of Python's own types went in NumPy 1.24, second spellings of constants and functions in 2.0."""
    import numpy

    infinity, not_a_number = float("inf"), float("nan")
    types_of_python = {"float": float, "int": int, "object": object}
    constants = {"infty": infinity, "Inf": infinity, "NaN": not_a_number}
    return types_of_python | constants | {"float_": numpy.float64, "round_": numpy.round}


def _numpy_lacks_old_names() -> bool:
    import numpy

    return any(name not in vars(numpy) for name in _old_numpy_names())


def _restore_numpy_names() -> None:
    import numpy

    for name, value in _old_numpy_names().items():
        vars(numpy).setdefault(name, value)


def _lacks_pkg_resources() -> bool:
    return "pkg_resources" not in sys.modules and importlib.util.find_spec("pkg_resources") is None


def _stand_in_for_pkg_resources() -> None:
    """Offer the two functions that the toolbox's dependencies use, on top of importlib.resources."""
    from importlib.resources import files

    module = types.ModuleType("pkg_resources", "advrbd_plugin's stand-in for setuptools' pkg_resources")

    def package_of(name: str) -> str:
        spec = importlib.util.find_spec(name)
        return name if spec is None or spec.submodule_search_locations else name.rpartition(".")[0]

    module.resource_stream = lambda package, name: files(package_of(package)).joinpath(name).open("rb")
    module.resource_filename = lambda package, name: str(files(package_of(package)).joinpath(name))
    sys.modules["pkg_resources"] = module


def _accept_float_num_workers() -> None:
    from torch.utils.data import DataLoader

    original = DataLoader.__init__
    if original.__name__ == "with_whole_workers":
        return

    def with_whole_workers(self: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(options.get("num_workers"), float):
            options["num_workers"] = int(options["num_workers"])
        original(self, *arguments, **options)

    DataLoader.__init__ = with_whole_workers


def _no_cuda() -> bool:
    import torch

    return not torch.cuda.is_available()


def _names_cuda(device: Any) -> bool:
    return str(device).startswith("cuda") if device is not None else False


def _cpu_mode() -> Any:
    """A mode in which tensors that ask for CUDA by name stay on, or are made on, the CPU."""
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


def _is_cuda_device(value: Any) -> bool:
    import torch

    return isinstance(value, (str, torch.device)) and _names_cuda(value)


class _NoStream:
    """Stands where the scripts ask for a CUDA stream: the CPU does everything in order."""

    def __init__(self, *arguments: Any, **options: Any) -> None:
        pass

    def wait_stream(self, stream: Any) -> None:
        """Nothing to wait for."""


_cpu_mode_entered: list[Any] = []


def _serve_cuda_calls_on_cpu() -> None:
    import torch

    if _cpu_mode_entered:
        return
    mode = _cpu_mode()
    mode.__enter__()
    _cpu_mode_entered.append(mode)
    torch.cuda.synchronize = lambda device=None: None
    torch.cuda.Stream = _NoStream
    torch.cuda.current_stream = lambda device=None: _NoStream()
    torch.cuda.stream = lambda stream: contextlib.nullcontext()
    # The mixed-precision calls are without effect here and say so at every batch.
    warnings.filterwarnings("ignore", message=".*CUDA is not available.*")
    warnings.filterwarnings("ignore", message=".*pin_memory.*no accelerator.*")


def _quiet_old_amp() -> None:
    warnings.filterwarnings("ignore", message=r".*torch\.cuda\.amp\..* is deprecated.*", category=FutureWarning)


def _make_ragged_arrays_again() -> None:
    import functools

    import numpy

    original = numpy.asarray
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def asarray(content: Any, dtype: Any = None, *arguments: Any, **options: Any) -> Any:
        try:
            return original(content, dtype, *arguments, **options)
        except ValueError as error:
            if dtype is not None or "inhomogeneous" not in str(error):
                raise
            return original(content, object, *arguments, **options)

    numpy.asarray = asarray


def _numpy_lib_lacks_pad() -> bool:
    import numpy

    return not hasattr(numpy.lib, "pad")


def _restore_numpy_lib_pad() -> None:
    import numpy

    numpy.lib.pad = numpy.pad


def _has(module: str) -> bool:
    return importlib.util.find_spec(module) is not None


def _accept_use_cuda_in_grad_cam() -> None:
    from pytorch_grad_cam.base_cam import BaseCAM
    from pytorch_grad_cam.grad_cam import GradCAM

    if "use_cuda" in GradCAM.__init__.__code__.co_varnames:
        return

    def with_use_cuda(self: Any, model: Any, target_layers: Any, use_cuda: Any = None, **options: Any) -> None:
        BaseCAM.__init__(self, model, target_layers, **options)

    GradCAM.__init__ = with_use_cuda


def _accept_multichannel_in_gaussian() -> None:
    import functools

    from skimage import filters

    original = filters.gaussian
    if hasattr(original, "__wrapped__"):
        return

    @functools.wraps(original)
    def gaussian(*arguments: Any, multichannel: bool | None = None, **options: Any) -> Any:
        if multichannel is not None:
            options["channel_axis"] = -1 if multichannel else None
        return original(*arguments, **options)

    filters.gaussian = gaussian


def _pandas_lacks_append() -> bool:
    import pandas

    return not hasattr(pandas.DataFrame, "append")


def _restore_dataframe_append() -> None:
    import pandas

    def append(self: Any, other: Any, ignore_index: bool = False) -> Any:
        frame = other if isinstance(other, pandas.DataFrame) else pandas.DataFrame([other])
        return pandas.concat([self, frame], ignore_index=ignore_index)

    pandas.DataFrame.append = append


def _bchlib_lacks_decode_inplace() -> bool:
    if not _has("bchlib"):
        return False
    import bchlib

    return not hasattr(bchlib.BCH, "decode_inplace")


def _restore_old_bchlib() -> None:
    import bchlib

    class BCH(bchlib.BCH):
        """Takes (polynomial, t) in the old order and decodes in place."""

        def __init__(self, polynomial: int, t: int) -> None:
            super().__init__(t, polynomial)

        def decode_inplace(self, data: bytearray, ecc: bytearray) -> int:
            errors = self.decode(data, ecc)
            if errors > 0:
                self.correct(data, ecc)
            return max(errors, -1)

    if _bchlib_lacks_decode_inplace():
        bchlib.BCH = BCH


MENDS: tuple[Mend, ...] = (
    Mend(
        name="record-types",
        broken_by="torch 2.6",
        symptom="torch.load reads weights only, so every defense stops at load_attack_result",
        apply=_allow_record_types,
    ),
    Mend(
        name="numpy-names",
        broken_by="NumPy 1.24 and 2.0",
        symptom="np.float stops lf, trojannn, ftrojann; np.round_ bpp, np.float_ teco, np.infty clp's plots",
        apply=_restore_numpy_names,
        needed=_numpy_lacks_old_names,
    ),
    Mend(
        name="ragged-arrays",
        broken_by="NumPy 1.24",
        symptom="the defense ac keeps one list for each class, of different lengths, with np.asarray",
        apply=_make_ragged_arrays_again,
    ),
    Mend(
        name="numpy-lib-pad",
        broken_by="NumPy 2.0",
        symptom="refool stops at np.lib.pad",
        apply=_restore_numpy_lib_pad,
        needed=_numpy_lib_lacks_pad,
    ),
    Mend(
        name="pkg-resources",
        broken_by="setuptools 81",
        symptom="pytorch_wavelets imports pkg_resources, so every attack script stops at import",
        apply=_stand_in_for_pkg_resources,
        needed=_lacks_pkg_resources,
    ),
    Mend(
        name="dataframe-append",
        broken_by="pandas 2.0",
        symptom="DataFrame.append is gone, so dbd stops at its first log line",
        apply=_restore_dataframe_append,
        needed=_pandas_lacks_append,
    ),
    Mend(
        name="grad-cam-use-cuda",
        broken_by="grad-cam 1.5",
        symptom="GradCAM(use_cuda=...) is gone, so sentinet stops",
        apply=_accept_use_cuda_in_grad_cam,
        needed=lambda: _has("pytorch_grad_cam"),
        importer="pytorch_grad_cam",
    ),
    Mend(
        name="gaussian-multichannel",
        broken_by="scikit-image 0.21",
        symptom="gaussian(multichannel=...) is gone, so imagecorruptions' blurs, and with them teco, stop",
        apply=_accept_multichannel_in_gaussian,
        needed=lambda: _has("skimage"),
        importer="imagecorruptions",
    ),
    Mend(
        name="old-bchlib",
        broken_by="bchlib 1.0",
        symptom="BCH(polynomial, t) changed its order and lost decode_inplace, so resource/ssba stops",
        apply=_restore_old_bchlib,
        needed=_bchlib_lacks_decode_inplace,
        importer="generate_fingerprints",
    ),
    Mend(
        name="float-num-workers",
        broken_by="every torch: the defenses read --num_workers as a float",
        symptom="DataLoader(num_workers=2.0) stops with a TypeError",
        apply=_accept_float_num_workers,
    ),
    Mend(
        name="cuda-on-cpu",
        broken_by="every machine without CUDA: .cuda() and device='cuda' are written into scripts",
        symptom="abl, d-st, i-bau, rnp, dbd, lira, strip and others stop although --device cpu was given",
        apply=_serve_cuda_calls_on_cpu,
        needed=_no_cuda,
    ),
    Mend(
        name="quiet-amp",
        broken_by="torch 2.4",
        symptom="torch.cuda.amp warns of its deprecation at every batch and buries the log",
        apply=_quiet_old_amp,
    ),
)
MEND_OF = {mend.name: mend for mend in MENDS}
