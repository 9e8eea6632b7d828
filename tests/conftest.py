"""What all tests share: one thread, a `device` for each backend that is there, and the user's BackdoorBench."""

import importlib
import os
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

# Tests run side by side, and two threads each on the same cores wait for one another; what tests start inherits it.
os.environ["OMP_NUM_THREADS"] = "1"

import pytest
import torch

torch.set_num_threads(1)

DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(autouse=True, scope="session")
def precision() -> Iterator[None]:
    """With ADVRBD_TESTS_FLOAT32=1 no processor multiplies bfloat16, so mixed precision is float32 everywhere."""
    from advrbd_plugin.nn import inference, training

    with pytest.MonkeyPatch.context() as patch:
        if os.environ.get("ADVRBD_TESTS_FLOAT32") == "1":
            for module in (inference, training):
                patch.setattr(module, "bfloat16_is_faster", lambda device: False)
        yield


@pytest.fixture(scope="session")
def benchmark() -> Callable[[str], ModuleType]:
    """Imports a script of benchmarks/ by name, with those beside it."""
    folder = str(Path(__file__).parents[1] / "benchmarks")

    def imported(name: str) -> ModuleType:
        sys.path.insert(0, folder)
        try:
            return importlib.import_module(name)
        finally:
            sys.path.remove(folder)

    return imported


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """Runs a test on the CPU, and on a GPU where there is one (test_kernels.py says where there is none)."""
    return torch.device(request.param)


@pytest.fixture(scope="session")
def backdoorbench() -> Path:
    """The user's checkout, found as the command line finds it, or a skip that says how to get one. Never changed."""
    from advrbd_plugin.backdoorbench.checkout import INSTALL_COMMAND, find_checkout
    from advrbd_plugin.errors import AdvrBDError

    try:
        return find_checkout()
    except AdvrBDError as error:
        pytest.skip(f"no BackdoorBench checkout ({error}); get one with `{INSTALL_COMMAND}`")


@pytest.fixture(scope="session")
def clone_backdoorbench(backdoorbench: Path) -> Callable[[Path], Path]:
    """Clones the user's checkout into a folder, for tests that run its scripts; skips where they cannot run."""
    from advrbd_plugin.backdoorbench.checkout import INSTALL_COMMAND, install
    from advrbd_plugin.backdoorbench.requirements import INSTALL_REQUIREMENTS, missing_requirements

    if missing := missing_requirements():
        pytest.skip(f"BackdoorBench's scripts import {missing[0]}: {INSTALL_REQUIREMENTS}")
    if not (backdoorbench / ".git").exists():
        pytest.skip(f"{backdoorbench} is no git checkout, so it cannot be cloned; get one with `{INSTALL_COMMAND}`")
    return lambda folder: install(backdoorbench, folder / "BackdoorBench")[0]


@pytest.fixture(scope="session")
def digits():
    """(train, test) of scikit-learn's digits."""
    from advrbd_plugin.data import load_digits

    return load_digits(seed=0)


@pytest.fixture(scope="session")
def poisoned_digits(digits):
    from advrbd_plugin.attacks import make_attack

    return make_attack("badnets", target_label=1, poison_ratio=0.05).poison(digits[0], seed=0)


@pytest.fixture
def make_digits_model():
    from advrbd_plugin.nn.models import make_model

    return lambda: make_model("resnet_narrow", num_classes=10, in_channels=1, image_size=16)


@pytest.fixture
def quick_config():
    """Few epochs: enough to go through every stage, not to learn well."""
    from advrbd_plugin.defense.config import AdvrBDConfig

    return AdvrBDConfig(
        epochs=2, relearn_epochs=1, enhancement_steps=3, crop_padding=1, flip=False, patch_size=8, num_masks=2
    )
