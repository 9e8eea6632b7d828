"""Random cases: the emulated CUDA kernels beside the CPU ops and the reference; exit code 1 at the first difference.

    python tests/emulation/fuzz.py LIBRARY [--cases 300] [--seed 0]

Everything but kl_divergence must be equal to the bit; kl_divergence is summed in another order, so within rounding.
"""

import argparse
import ctypes
import math
import mmap
import random
import sys
from pathlib import Path

import torch
from emulation import Emulation

from advrbd_plugin import ops
from advrbd_plugin.ops import nvrtc, reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
SHAPES = (
    *[(1, 1, 1), (3, 1, 1), (8, 1, 1), (3, 32, 32), (3, 33, 31), (1, 28, 28), (1, 7, 5), (4, 8, 8), (16, 5, 3)],
    *[(128, 2, 3), (3, 64, 64), (2, 1, 9), (5, 9, 1), (3, 8, 10), (3, 17, 16), (1, 96, 96)],
)
CLASSES = (1, 2, 7, 10, 31, 32, 33, 64, 65, 100, 200, 1001)
SPECIALS = torch.tensor([math.nan, math.inf, -math.inf, 0.0, -0.0, 1e-40, 6e-8, 65504.0, 3.4e38])
PAGE = mmap.PAGESIZE

libc = ctypes.CDLL(None)
libc.mmap.restype = ctypes.c_void_p
libc.mmap.argtypes = [ctypes.c_void_p, ctypes.c_size_t, *[ctypes.c_int] * 3, ctypes.c_long]
libc.mprotect.argtypes = [ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int]


class Cases:
    """Draws the arguments of one case after another."""

    def __init__(self, seed: int):
        self.random = random.Random(seed)
        self.generator = torch.Generator().manual_seed(seed)
        self.pages = []

    def randn(self, *shape: int) -> torch.Tensor:
        return torch.randn(*shape, generator=self.generator)

    def guarded(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy whose last byte is followed by a page that may not be read."""
        size = tensor.numel() * tensor.element_size()
        if size == 0:
            return tensor
        whole = (size + PAGE - 1) // PAGE * PAGE + PAGE
        begin = libc.mmap(None, whole, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS, -1, 0)
        libc.mprotect(begin + whole - PAGE, PAGE, 0)
        memory = (ctypes.c_char * size).from_address(begin + whole - PAGE - size)
        copied = torch.frombuffer(memory, dtype=tensor.dtype).as_strided(tensor.size(), tensor.stride())
        return copied.copy_(tensor)

    def offset(self, tensor: torch.Tensor) -> torch.Tensor:
        """A copy that begins some values after the start of its storage."""
        places = self.random.choice([1, 2, 3, 4, 5, 8])
        flat = torch.empty(tensor.numel() + places, dtype=tensor.dtype)
        return flat.as_strided(tensor.size(), tensor.stride(), places).copy_(tensor)

    def images(self, samples: int, shape: tuple[int, int, int], dtype: torch.dtype) -> torch.Tensor:
        images = self.randn(samples, *shape) * 0.6
        if images.numel() and self.random.random() < 0.3:
            places = torch.randint(0, images.numel(), (1 + images.numel() // 20,), generator=self.generator)
            images.view(-1)[places] = SPECIALS[torch.randint(0, 9, places.shape, generator=self.generator)]
        images = images.to(dtype)
        layout = self.random.choice(["guarded", "channels_last", "offset", "both", "sliced", "permuted"])
        if layout in ("channels_last", "both"):
            images = images.contiguous(memory_format=torch.channels_last)
        if layout in ("offset", "both"):
            return self.offset(images)
        if layout == "sliced":
            return torch.nn.functional.pad(images, (1, 2, 1, 0))[:, :, 1:, 1:-2]
        if layout == "permuted":
            return images.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0)
        return self.guarded(images)

    def per_channel(self, channels: int, low: float, high: float) -> list[float]:
        return [self.random.uniform(low, high) for _ in range(self.random.choice([1, channels]))]

    def perturb(self) -> tuple[tuple, dict]:
        shape = channels, height, width = self.random.choice(SHAPES)
        large = math.prod(shape) > 4000
        samples = self.random.choice([0, 1, 2, 5] if large else [0, 1, 3, 17])
        dtype = self.random.choice(DTYPES)
        ids = torch.randint(-(2**63), 2**63 - 1, (samples,), generator=self.generator)
        side = min(height, width)
        return (self.images(samples, shape, dtype), self.images(samples, shape, dtype)), {
            "epsilon": self.per_channel(channels, 0, 0.5),
            "patch_size": self.random.choice([1, side, min(8, side), self.random.randint(1, side)]),
            "num_masks": self.random.choice([1, 4] if large else [1, 2, 3, 8, 300]),
            "seed": self.random.randint(-(2**63), 2**63 - 1),
            "sample_ids": self.random.choice([None, ids]),
            "low": self.per_channel(channels, -1, 0.2),
            "high": self.per_channel(channels, 0.2, 1.5),
        }

    def logits(self) -> tuple[torch.Tensor, torch.Tensor]:
        classes, rows = self.random.choice(CLASSES), self.random.choice([0, 1, 7, 8, 9, 31])
        num_masks, dtype = self.random.choice([0, 1, 2, 5]), self.random.choice(DTYPES)
        logits = self.random.choice([0.1, 1, 4, 20, 60]) * self.randn(rows, classes)
        perturbed = logits + self.random.choice([1e-3, 0.1, 1, 10]) * self.randn(num_masks, rows, classes)
        for tensor in (logits, perturbed):
            if tensor.numel() and self.random.random() < 0.2:
                place = self.random.randrange(tensor.numel())
                tensor.view(-1)[place] = self.random.choice([math.nan, math.inf, -math.inf, 1e4, -1e4])
        place = self.random.choice([self.guarded, self.offset])
        return place(logits.to(dtype)), place(perturbed.to(dtype))


def same(actual: torch.Tensor, expected: torch.Tensor) -> bool:
    if actual.shape != expected.shape or actual.stride() != expected.stride() or actual.dtype != expected.dtype:
        return False
    return torch.equal(actual.nan_to_num(7.0, 9.0, -9.0), expected.nan_to_num(7.0, 9.0, -9.0))


def run(emulation: Emulation, cases: Cases) -> None:
    """One case; raises AssertionError where something differs."""
    emulation.limit_grid(cases.random.choice([0, 0, 1, 2, 3]))
    tensors, options = cases.perturb()
    perturbed = emulation.perturb(*tensors, **options)
    about = f"{tuple(tensors[0].shape)} {tensors[0].stride()} {tensors[0].dtype} {options}"
    assert same(perturbed, ops.perturb(*tensors, **options)), f"perturb, CPU: {about}"
    assert same(perturbed, reference.perturb(*tensors, **options)), f"perturb, reference: {about}"
    logits = cases.logits()
    divergence = emulation.kl_divergence(*logits)
    for expected in (ops.kl_divergence(*logits), reference.kl_divergence(*logits)):
        torch.testing.assert_close(divergence, expected, rtol=1e-4, atol=5e-7, equal_nan=True)
    step = emulation.score_step(*logits, *tensors, **options)
    assert same(step[0], perturbed) and same(step[1], divergence), f"score_step: {about}"
    if options["sample_ids"] is not None:
        ids, size, seed = options["sample_ids"], tensors[0].shape[2:], options["seed"]
        drawn = ids, *size, options["patch_size"], options["num_masks"], seed
        assert same(emulation.patch_origins(*drawn), torch.ops.advrbd.patch_origins(*drawn)), f"patch_origins: {about}"
        high = cases.random.choice([1, 10, 2**31 - 1])
        assert same(emulation.philox_uniform(ids, high, seed), ops.philox_uniform(ids, high, seed)), "philox_uniform"


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("library")
    parser.add_argument("--cases", type=int, default=300)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--nvrtc", help="the library's launches go by name: NVRTC, which compiles what is named")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    emulation, cases = Emulation(arguments.library), Cases(arguments.seed)
    if arguments.nvrtc:
        torch.cuda.get_device_capability = lambda device: (9, 0)
        compiler = nvrtc.Compiler(Path(arguments.library), Path(arguments.nvrtc))
    for case in range(arguments.cases):
        try:
            run(emulation, cases)
        except (AssertionError, RuntimeError) as difference:
            print(f"case {case}: {difference}")
            return 1
    launches, shuffles, barriers = emulation.counts()
    if arguments.nvrtc:
        del compiler
    print(f"{arguments.cases} cases equal: {launches} launches, {shuffles} shuffles, {barriers} barriers")
    return 0


if __name__ == "__main__":
    sys.exit(main())
