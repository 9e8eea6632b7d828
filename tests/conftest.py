"""What all tests share: few threads, and a `device` for each backend that is there."""

import pytest
import torch

torch.set_num_threads(min(2, torch.get_num_threads()))


DEVICES = ["cpu", "cuda"] if torch.cuda.is_available() else ["cpu"]


@pytest.fixture(params=DEVICES)
def device(request) -> torch.device:
    """Runs a test on the CPU, and on a GPU where there is one (tests/ops/test_kernels.py says so where there is none)."""
    return torch.device(request.param)
