"""Checks what tests/ops leaves out, on the GPU against the CPU kernels: layouts, offsets, large sets, graphs, streams.

Beside it, at the same time, run compute-sanitizer, tests/ops and a few launches of kernels that NVRTC compiles. Without
a GPU the same cases are checked against contiguous tensors on the CPU, which tries this file alone.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
import subprocess
import sys
import time
import xml.etree.ElementTree as ElementTree
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import torch
from outcome import NO_GPU, PartFile, Skip, part_parser
from torch import Tensor

from advrbd_plugin import ops

ROOT = Path(__file__).resolve().parents[2]
DEVICE = torch.device("cuda" if torch.cuda.is_available() else "cpu")
_DTYPES = (torch.float32, torch.bfloat16, torch.float16)
_OFFSETS = (0, 1, 4)  # in values; 1 leaves no vector aligned
_ONE_GRID = 65_535  # blocks that fit in a grid's second and third dimension
_SIZES = ((7, 3, 32, 32), (5, 3, 33, 31), (3, 3, 64, 64), (2, 3, 224, 224), (9, 1, 28, 28), (1, 1, 1, 1), (3, 5, 8, 10))
FEW_SIZES, FEW_CLASSES = ((3, 3, 33, 31), (2, 3, 16, 16)), (10, 33)
_CLASSES = (1, 2, 10, 33, 100, 200, 1000, 1001)

_BY_NVRTC = "kernels compiled by NVRTC"

Background = tuple[subprocess.Popen[str], float]


def main() -> int:
    arguments = part_parser(__doc__).parse_args()
    part = PartFile(arguments.out, arguments.dry_run)
    part.content |= {"device": DEVICE.type, "expected_from": "the CPU kernels"}
    work = Path(arguments.work)
    began = time.monotonic()
    background = dict(start_background(work, arguments.dry_run, part))
    with torch.inference_mode():
        for name, check in checks(arguments.dry_run).items():
            with part.step(name) as row:
                row["cases"] = check()
    for name, process in background.items():
        with part.step(name) as row:
            collect(row, name, process, began + arguments.seconds - time.monotonic(), work)
    return int(part.failed)


def checks(dry_run: bool) -> dict[str, Callable[[], int]]:
    """Name -> check, which gives the number of its cases and raises AssertionError with the first that differs."""
    sizes, classes = (FEW_SIZES, FEW_CLASSES) if dry_run else (_SIZES, _CLASSES)
    many = 300 if dry_run else _ONE_GRID + 4465
    return {
        "perturb: dtypes, layouts, offsets, masks": lambda: check_perturb(sizes),
        "kl_divergence: dtypes, classes, offsets": lambda: check_divergence(classes),
        "score_step equals its two ops": check_score_step,
        f"{many} samples in one call": lambda: check_many(many),
        "a result of more than 2**31 values": check_huge,
        "CUDA graph: capture and three replays": check_graph,
        "another stream": check_stream,
        "another GPU than the current one": check_second_gpu,
    }


def check_perturb(sizes: Sequence[tuple[int, int, int, int]]) -> int:
    """Bit for bit, with a NaN in pixels and gradient, bounds a channel, and ids of 64 bits."""
    cases = 0
    for number, (n, c, h, w) in enumerate(sizes):
        generator = torch.Generator().manual_seed(number)
        ids = torch.randint(-(2**63), 2**63 - 1, (n,), generator=generator)
        for dtype in _DTYPES:
            images = torch.randn(n, c, h, w, generator=generator).to(dtype)
            grad = torch.randn(n, c, h, w, generator=generator).to(dtype)
            images[0, 0, 0, 0] = grad[-1, -1, -1, -1] = torch.nan
            for masks in (1, 4):
                options: dict[str, Any] = {"patch_size": min(8, h, w), "num_masks": masks, "seed": 2**64 - 1 - number}
                options |= {"epsilon": [0.1 + 0.1 * channel for channel in range(c)], "low": -0.5, "high": 0.75}
                expected = ops.perturb(images, grad, sample_ids=ids, **options)
                for layout, placed, placed_grad in laid_out(images, grad):
                    found = ops.perturb(placed, placed_grad, sample_ids=ids.to(DEVICE), **options)
                    case = f"{(n, c, h, w)} {dtype} K={masks} {layout}"
                    assert same_bits(found, expected), f"{case}: {differing(found, expected)}"
                    cases += 1
    return cases


def laid_out(images: Tensor, grad: Tensor) -> Iterator[tuple[str, Tensor, Tensor]]:
    """The same values on the device in every layout, and at offsets that no vector fits."""
    on_device = images.to(DEVICE), grad.to(DEVICE)
    for layout, memory in (("contiguous", torch.contiguous_format), ("channels_last", torch.channels_last)):
        for offset in _OFFSETS:
            yield f"{layout} offset {offset}", *(at_offset(each, offset, memory) for each in on_device)
    yield "offsets that differ", at_offset(on_device[0], 1), at_offset(on_device[1], 4)
    n, c, h, w = images.shape
    whole = torch.zeros(n, c, h + 3, w + 2, dtype=images.dtype, device=DEVICE)
    whole[:, :, 1 : h + 1, 2:] = on_device[0]
    yield "a part of larger images", whole[:, :, 1 : h + 1, 2:], on_device[1]
    turned = [each.permute(3, 0, 2, 1).contiguous().permute(1, 3, 2, 0) for each in on_device]
    yield "permuted", turned[0], turned[1]


def at_offset(tensor: Tensor, offset: int, memory: torch.memory_format = torch.contiguous_format) -> Tensor:
    """The tensor in a storage that begins ``offset`` values earlier."""
    like = tensor.contiguous(memory_format=memory)
    storage = torch.empty(tensor.numel() + offset, dtype=tensor.dtype, device=tensor.device)
    placed = storage.as_strided(like.shape, like.stride(), offset)
    placed.copy_(like)
    assert placed.storage_offset() == offset
    return placed


def check_divergence(classes: Sequence[int]) -> int:
    cases = 0
    for count in classes:
        generator = torch.Generator().manual_seed(count)
        for dtype in _DTYPES:
            logits = (4 * torch.randn(65, count, generator=generator)).to(dtype)
            perturbed = (logits + torch.randn(4, 65, count, generator=generator)).to(dtype)
            perturbed[0, 3, 0] = torch.nan
            expected = ops.kl_divergence(logits, perturbed)
            for offset in _OFFSETS:
                found = ops.kl_divergence(*(at_offset(each.to(DEVICE), offset) for each in (logits, perturbed)))
                torch.testing.assert_close(found.cpu(), expected, rtol=5e-5, atol=2e-6, equal_nan=True)
                cases += 1
    return cases


def check_score_step() -> int:
    """To the bit, also where one half is absent or empty."""
    logits, perturbed, images, grad = batch(33)
    options = {"epsilon": 0.1, "patch_size": 8, "num_masks": 4, "sample_ids": torch.arange(33, device=DEVICE)}
    expected = ops.perturb(images, grad, **options), ops.kl_divergence(logits, perturbed)
    whole = ops.score_step(logits, perturbed, images, grad, **options)
    first = ops.score_step(None, None, images, grad, **options)
    last = ops.score_step(logits, perturbed, None, None, **options)
    for found, wanted in zip((*whole, first.perturbed, last.divergence), (*expected, *expected)):
        assert same_bits(found, wanted), differing(found, wanted)
    assert first.divergence is None and last.perturbed is None
    empty = ops.score_step(logits[:0], perturbed[:, :0], images, grad, **options)
    assert same_bits(empty.perturbed, expected[0]) and empty.divergence.shape == (4, 0)
    return 4


def check_many(count: int) -> int:
    """More samples than one dimension of a grid holds; and the same call again gives the same bits."""
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(count, 3, 8, 8, generator=generator)
    grad = torch.randn(count, 3, 8, 8, generator=generator)
    logits = torch.randn(count, 10, generator=generator)
    perturbed = torch.randn(2, count, 10, generator=generator)
    options = {"epsilon": 0.1, "patch_size": 3, "num_masks": 2}
    expected = ops.perturb(images, grad, **options)
    placed = images.to(DEVICE), grad.to(DEVICE)
    for _ in range(2):
        found = ops.perturb(*placed, **options).cpu()
        assert same_bits(found, expected), differing(found, expected)
    origins = ops.patch_origins(torch.arange(count, device=DEVICE), 8, 3, 2).cpu()
    assert torch.equal(origins, ops.patch_origins(torch.arange(count), 8, 3, 2)), "patch_origins differ"
    divergence = ops.kl_divergence(logits.to(DEVICE), perturbed.to(DEVICE)).cpu()
    torch.testing.assert_close(divergence, ops.kl_divergence(logits, perturbed), rtol=5e-5, atol=2e-6)
    return 4


def check_huge() -> int:
    """Places past 2**31 hold what a call on those samples alone gives."""
    need_gpu()
    count, channels, side, masks = 180_000, 3, 32, 4
    needed = (masks + 3) * count * channels * side**2 * 2
    free = torch.cuda.mem_get_info()[0]
    if free < needed:
        raise Skip(f"it needs {needed >> 30} GiB of GPU memory, {free >> 30} are free")
    images = torch.rand(count, channels, side, side, device=DEVICE, dtype=torch.bfloat16)
    grad = torch.randn_like(images)
    ids = torch.arange(count, device=DEVICE)
    options = {"epsilon": 0.1, "patch_size": 8, "num_masks": masks}
    whole = ops.perturb(images, grad, sample_ids=ids, **options)
    assert whole.numel() > 2**31
    for some in (slice(0, 100), slice(count // 2, count // 2 + 100), slice(count - 100, count)):
        alone = ops.perturb(images[some], grad[some], sample_ids=ids[some], **options)
        assert same_bits(whole[:, some], alone), f"samples {some.start} to {some.stop}"
    return 3


def check_graph() -> int:
    """What a replay gives on new inputs is what a launch gives."""
    need_gpu()
    logits, perturbed, images, grad = batch(500)
    ids = torch.arange(500, device=DEVICE)
    options = {"epsilon": 0.1, "patch_size": 8, "num_masks": 4, "sample_ids": ids}
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        ops.score_step(logits, perturbed, images, grad, **options)
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step = ops.score_step(logits, perturbed, images, grad, **options)
    for _ in range(3):
        images.uniform_()
        grad.normal_()
        perturbed.normal_()
        ids.random_(10**6)
        graph.replay()
        assert same_bits(step.perturbed, ops.perturb(images, grad, **options)), "perturbed differs"
        assert same_bits(step.divergence, ops.kl_divergence(logits, perturbed)), "divergence differs"
    return 3


def check_stream() -> int:
    """The launch waits for what its stream waits for: inputs that another stream is still writing."""
    need_gpu()
    _, _, images, grad = batch(256)
    options = {"epsilon": 0.1, "patch_size": 8, "num_masks": 4}
    expected = ops.perturb(torch.ones_like(images), grad, **options)
    side = torch.cuda.Stream()
    torch.cuda.synchronize()
    with torch.cuda.stream(side):
        torch.cuda._sleep(20_000_000)  # some 10 ms, in which a launch on the wrong stream would read the old images
        images.fill_(1)
        found = ops.perturb(images, grad, **options)
    side.synchronize()
    assert same_bits(found, expected), differing(found, expected)
    return 1


def check_second_gpu() -> int:
    need_gpu()
    if torch.cuda.device_count() < 2:
        raise Skip("there is one GPU")
    other = torch.device("cuda", 1)
    logits, perturbed, images, grad = (each.to(other) for each in batch(64))
    options = {"epsilon": 0.1, "patch_size": 8, "num_masks": 4}
    with torch.cuda.device(0):
        found = ops.perturb(images, grad, **options), ops.kl_divergence(logits, perturbed)
    assert all(each.device == other for each in found)
    wanted = ops.perturb(images.cpu(), grad.cpu(), **options), ops.kl_divergence(logits.cpu(), perturbed.cpu())
    assert same_bits(found[0].cpu(), wanted[0]), differing(found[0].cpu(), wanted[0])
    torch.testing.assert_close(found[1].cpu(), wanted[1], rtol=5e-5, atol=2e-6)
    return 2


def batch(count: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """(logits, perturbed logits, images, gradient) on the device."""
    generator = torch.Generator().manual_seed(count)
    logits = torch.randn(count, 10, generator=generator)
    perturbed = logits + torch.randn(4, count, 10, generator=generator)
    images = torch.rand(count, 3, 32, 32, generator=generator)
    grad = torch.randn(count, 3, 32, 32, generator=generator)
    return logits.to(DEVICE), perturbed.to(DEVICE), images.to(DEVICE), grad.to(DEVICE)


def need_gpu() -> None:
    if DEVICE.type != "cuda":
        raise Skip(NO_GPU)


def same_bits(found: Tensor, expected: Tensor) -> bool:
    """Equal, NaN where NaN is expected; compared on the CPU, so that compute-sanitizer sees our kernels and copies."""
    found, expected = found.cpu(), expected.cpu()
    if found.shape != expected.shape or not torch.equal(found.isnan(), expected.isnan()):
        return False
    return torch.equal(found.nan_to_num(nan=0), expected.nan_to_num(nan=0))


def differing(found: Tensor, expected: Tensor) -> str:
    found, expected = found.cpu(), expected.cpu()
    if found.shape != expected.shape:
        return f"shape {tuple(found.shape)} and not {tuple(expected.shape)}"
    places = (found != expected) & ~(found.isnan() & expected.isnan())
    return f"{int(places.sum())} of {places.numel()} values differ, first at {places.nonzero()[0].tolist()}"


def start_background(work: Path, dry_run: bool, part: PartFile) -> Iterator[tuple[str, Background]]:
    """The tests of the ops, and compute-sanitizer on a few launches: other processes, on other cores."""
    (work / "tests.xml").unlink(missing_ok=True)
    yield "tests/ops", launch(test_command(work, dry_run), work / "tests.txt")
    few = [sys.executable, str(Path(__file__).with_name("few_launches.py").resolve())]
    with part.step(_BY_NVRTC):
        if DEVICE.type != "cuda":
            raise Skip(NO_GPU)
        chosen = {"ADVRBD_NVRTC": "1", "ADVRBD_KERNEL_CACHE": str(work / "kernels")}
        yield _BY_NVRTC, launch(few, work / f"{_BY_NVRTC.split()[-1]}.txt", **chosen)
    sanitizer = shutil.which("compute-sanitizer") or shutil.which("compute-sanitizer", path="/usr/local/cuda/bin")
    for tool in ("memcheck", "racecheck"):
        with part.step(f"compute-sanitizer {tool}"):
            if DEVICE.type != "cuda":
                raise Skip(NO_GPU)
            if sanitizer is None:
                raise Skip("compute-sanitizer is not installed")
            command = [sanitizer, "--tool", tool, "--error-exitcode", "9", *few]
            # A cached block is larger than what is asked for, and hides a read past its end.
            yield f"compute-sanitizer {tool}", launch(command, work / f"{tool}.txt", PYTORCH_NO_CUDA_MEMORY_CACHING="1")


def test_command(work: Path, dry_run: bool) -> list[str]:
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--junitxml={work / 'tests.xml'}"]
    if dry_run:
        return [*command, "tests/ops/test_kernels.py", "-k", "values_per_channel or gpu_takes_part"]
    if importlib.util.find_spec("xdist") is not None:
        command += ["-n", "6"]
    # What names neither the GPU nor a device is the business of a machine without one; so is setup.py.
    return [
        *command,
        "tests/ops",
        "--ignore=tests/ops/test_build.py",
        *(["-k", "cuda or gpu"] if DEVICE.type == "cuda" else []),
    ]


def launch(command: Sequence[str], log: Path, **environment: str) -> Background:
    log.parent.mkdir(parents=True, exist_ok=True)
    variables = {**os.environ, **environment}
    with log.open("w") as output:
        process = subprocess.Popen(
            command, cwd=ROOT, env=variables, stdin=subprocess.DEVNULL, stdout=output, stderr=output, text=True
        )
    return process, time.monotonic()


def collect(row: dict[str, Any], name: str, background: Background, seconds: float, work: Path) -> None:
    """Wait for a process and put what it found into its row; RuntimeError where that is not good."""
    process, began = background
    file = "tests.txt" if name == "tests/ops" else f"{name.split()[-1]}.txt"
    try:
        status = process.wait(timeout=max(1.0, seconds))
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
        raise TimeoutError(f"it had not ended after {time.monotonic() - began:.0f} s") from None
    text = (work / file).read_text(errors="replace")
    print(text[-20_000:], flush=True)
    row["seconds_of_process"] = round(time.monotonic() - began, 1)
    if name != "tests/ops":
        wanted = "agree, by nvrtc" if name == _BY_NVRTC else "SUMMARY"
        row["said"] = next((line.strip() for line in reversed(text.splitlines()) if wanted in line), None)
    elif (work / "tests.xml").exists():
        row |= read_tests(work / "tests.xml")
    last = (text.split("\n\n")[-1].strip().splitlines() or ["nothing"])[-1]
    if status != 0:
        raise RuntimeError(f"status {status}: {row.get('first_failure') or row.get('said') or last}")
    if name == "tests/ops" and not row.get("tests"):
        raise RuntimeError(f"no test was run: {last}")
    if row.get("said", "") is None:  # it ends with the program's status also where it could not look on
        raise RuntimeError(f"it gave no summary: {last}")


def read_tests(report: Path) -> dict[str, Any]:
    """Counts, and the first test that failed."""
    suite = next(ElementTree.parse(report).getroot().iter("testsuite"))
    counts = {name: int(suite.get(name, "0")) for name in ("tests", "failures", "errors", "skipped")}
    broken = [
        case for case in suite.iter("testcase") if case.find("failure") is not None or case.find("error") is not None
    ]
    first = None
    if broken:
        found = broken[0].find("failure")
        found = broken[0].find("error") if found is None else found
        first = f"{broken[0].get('name')}: {(found.get('message') or '').splitlines()[:1]}"
    return counts | {"first_failure": first, "failed": [case.get("name") for case in broken][:20]}


if __name__ == "__main__":
    sys.exit(main())
