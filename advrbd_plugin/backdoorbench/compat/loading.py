"""Patches of reading: torch.load and DataLoader, and torchvision's datasets for local data."""

from __future__ import annotations

import functools
import os
import types
from typing import Any

from advrbd_plugin.backdoorbench.compat.patch import Patch


def trust_every_pickle() -> None:
    """Make ``torch.load`` build whatever a file says, as before torch 2.6, because the user trusts the record."""
    import torch

    load: Any = getattr(torch.load, "__wrapped__", torch.load)

    @functools.wraps(load)
    def load_all(*arguments: Any, **options: Any) -> Any:
        if options.get("weights_only") is None:
            options["weights_only"] = False
        return load(*arguments, **options)

    torch.load = load_all


def use_local_data() -> None:
    """Let torchvision read the CIFAR and MNIST files on disk without download or checksum.

    For a subset or a re-encoded copy. CIFAR's batches are pickles, which are read without running them.
    """
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
    import torch

    from advrbd_plugin.backdoorbench.safe_pickle import read_torch

    load: Any = torch.load
    if hasattr(load, "__wrapped__"):
        return

    @functools.wraps(load)
    def load_record(f: Any, map_location: Any = None, *_: Any, **__: Any) -> Any:
        # Whatever the script asks for: only --trust-record lets a file name what is called.
        return read_torch(f, map_location)

    torch.load = load_record


def _accept_float_num_workers() -> None:
    from torch.utils.data import DataLoader

    original: Any = DataLoader.__init__
    if original.__name__ == "with_whole_workers":
        return

    def with_whole_workers(self: Any, *arguments: Any, **options: Any) -> None:
        if isinstance(options.get("num_workers"), float):
            options["num_workers"] = int(options["num_workers"])
        original(self, *arguments, **options)

    DataLoader.__init__ = with_whole_workers  # type: ignore[method-assign]


RECORD_TYPES = Patch(
    name="record-types",
    broken_by="torch 2.6",
    symptom="torch.load reads weights only, so every defense stops at load_attack_result",
    apply=_allow_record_types,
)
FLOAT_NUM_WORKERS = Patch(
    name="float-num-workers",
    broken_by="every torch: the defenses read --num_workers as a float",
    symptom="DataLoader(num_workers=2.0) stops with a TypeError",
    apply=_accept_float_num_workers,
)
