"""Times the ops side by side with the same arithmetic in eager PyTorch; on a GPU also with torch.compile and a copy.

    python benchmarks/ops.py [--repeats 200] [--threads 2] [--json FILE]

All contenders run in one process, on the same tensors, with the same allocator: outputs are allocated in every call on
every side. They are timed twice: each in a row by itself, and in turns, where each finds the caches full of the others'
data. Shown is the median of the repeats, and the smallest in brackets. Eager is written as a careful
user would write it: the sign step once for all masks, masks by comparisons, and the KL divergence by hand (log_softmax
of both, exp, difference, product, sum). Beside it stands `torch.nn.functional.kl_div`, which takes longer.
"""

import argparse
import json
import platform
import statistics
import time
from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor

from advrbd_plugin import ops
from advrbd_plugin.ops.library import fact

BATCH, CHANNELS, SIDE, PATCH = 512, 3, 32, 8
WARM_UP = 5
EPSILON = 32 / 255


def eager_perturb(images: Tensor, grad: Tensor, origins: Tensor) -> Tensor:
    position = torch.arange(SIDE, device=images.device)
    rows, columns = origins[..., 0, None], origins[..., 1, None]
    inside_rows = (position >= rows) & (position < rows + PATCH)
    inside_columns = (position >= columns) & (position < columns + PATCH)
    inside = (inside_rows[..., :, None] & inside_columns[..., None, :])[:, :, None]
    stepped = (images + EPSILON * grad.sign()).clamp(0, 1)
    return torch.where(inside, stepped, images)


def eager_kl_div(logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    log_p, log_q = logits.log_softmax(-1), perturbed_logits.log_softmax(-1)
    return F.kl_div(log_q, log_p.expand_as(log_q), reduction="none", log_target=True).sum(-1)


def eager_kl_by_hand(logits: Tensor, perturbed_logits: Tensor) -> Tensor:
    log_p, log_q = logits.log_softmax(-1), perturbed_logits.log_softmax(-1)
    return (log_p.exp() * (log_p - log_q)).sum(-1)


def measure(
    contenders: dict[str, Callable[[], object]], device: torch.device, repeats: int, in_turns: bool
) -> dict[str, dict]:
    """Seconds of each contender, called in turns with the others or in a row by itself."""
    times: dict[str, list[float]] = {name: [] for name in contenders}
    if in_turns:
        order = [name for _ in range(repeats + WARM_UP) for name in contenders]
    else:
        order = [name for name in contenders for _ in range(repeats + WARM_UP)]
    for name in order:
        times[name].append(seconds_of(contenders[name], device))
    measured = {name: taken[WARM_UP:] for name, taken in times.items()}
    return {name: {"median": statistics.median(taken), "smallest": min(taken)} for name, taken in measured.items()}


def seconds_of(call: Callable[[], object], device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize()
    start = time.perf_counter()
    result = call()
    if device.type == "cuda":
        torch.cuda.synchronize()
    elapsed = time.perf_counter() - start
    del result
    return elapsed


def perturb_contenders(device: torch.device, num_masks: int, dtype: torch.dtype) -> dict[str, Callable[[], object]]:
    images = torch.rand(BATCH, CHANNELS, SIDE, SIDE, device=device, dtype=dtype)
    grad = torch.randn_like(images)
    ids = torch.arange(BATCH, device=device)
    options = {"epsilon": EPSILON, "patch_size": PATCH, "num_masks": num_masks}
    # Eager is given the positions; the ops draw them as they go.
    origins = ops.patch_origins(ids, SIDE, PATCH, num_masks)
    if dtype == torch.float32:
        torch.testing.assert_close(ops.perturb(images, grad, **options), eager_perturb(images, grad, origins))
    contenders = {
        "advrbd": lambda: ops.perturb(images, grad, **options),
        "eager": lambda: eager_perturb(images, grad, origins),
    }
    if device.type == "cuda":
        compiled = torch.compile(eager_perturb)
        host_images, host_grad = images.cpu(), grad.cpu()
        # As many bytes as the op must read and write at least.
        source = torch.empty((num_masks + 2) * images.numel() // 2, device=device, dtype=dtype)
        contenders["compile"] = lambda: compiled(images, grad, origins)
        contenders["cpu"] = lambda: ops.perturb(host_images, host_grad, **options)
        contenders["copy"] = lambda: source.clone()
    return contenders


def kl_contenders(device: torch.device, num_masks: int, classes: int) -> dict[str, Callable[[], object]]:
    logits = 3 * torch.randn(BATCH, classes, device=device)
    perturbed = logits + torch.randn(num_masks, BATCH, classes, device=device)
    expected = eager_kl_by_hand(logits, perturbed)
    torch.testing.assert_close(ops.kl_divergence(logits, perturbed), expected, rtol=1e-4, atol=1e-5)
    contenders = {
        "advrbd": lambda: ops.kl_divergence(logits, perturbed),
        "eager": lambda: eager_kl_by_hand(logits, perturbed),
        "eager F.kl_div": lambda: eager_kl_div(logits, perturbed),
    }
    if device.type == "cuda":
        compiled = torch.compile(eager_kl_by_hand)
        host_logits, host_perturbed = logits.cpu(), perturbed.cpu()
        contenders["compile"] = lambda: compiled(logits, perturbed)
        contenders["cpu"] = lambda: ops.kl_divergence(host_logits, host_perturbed)
        contenders["copy"] = lambda: perturbed.clone()
    return contenders


def describe(device: torch.device) -> dict[str, object]:
    facts = {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else platform.processor() or platform.machine(),
        "backend": ops.backend(torch.empty(0, device=device)),
        "torch": torch.__version__,
        "threads": torch.get_num_threads(),
        "batch": [BATCH, CHANNELS, SIDE, SIDE],
        "patch_size": PATCH,
    }
    if facts["backend"] != "reference":
        facts["cpu_instruction_set"] = fact("libadvrbd_cpu", "advrbd_cpu_instruction_set")
    return facts


def run(device: torch.device, repeats: int) -> dict[str, object]:
    facts = describe(device)
    print(", ".join(f"{name} {value}" for name, value in facts.items()))
    rows = []
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        for num_masks in (1, 4):
            name = f"perturb, {num_masks} mask{'s' if num_masks > 1 else ''}, {str(dtype).removeprefix('torch.')}"
            rows.append((name, perturb_contenders(device, num_masks, dtype)))
    for classes in (10, 200):
        for num_masks in (1, 4):
            name = f"kl_divergence, {num_masks} mask{'s' if num_masks > 1 else ''}, {classes} classes"
            rows.append((name, kl_contenders(device, num_masks, classes)))
    results: dict[str, dict] = {"in a row": {}, "in turns": {}}
    for name, contenders in rows:
        print(f"\n{name}")
        for order, reports in results.items():
            reports[name] = times = measure(contenders, device, repeats, in_turns=order == "in turns")
            ours = times["advrbd"]
            for contender, taken in times.items():
                ratio = f"{taken['median'] / ours['median']:6.2f}x ({taken['smallest'] / ours['smallest']:.2f}x)"
                print(
                    f"  {order:10s}{contender:14s}{taken['median'] * 1e6:10.1f} us ({taken['smallest'] * 1e6:.1f}) "
                    f"{ratio:>18s} of advrbd's"
                )
    return {**facts, "seconds": results}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=200)
    parser.add_argument("--threads", type=int, help="CPU threads; PyTorch's default otherwise")
    parser.add_argument("--json", help="write the figures to this file")
    arguments = parser.parse_args()
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    torch.manual_seed(0)
    devices = [torch.device("cpu")]
    if torch.cuda.is_available():
        devices.append(torch.device("cuda"))
    else:
        print("No GPU is visible: only the CPU is measured.\n")
    with torch.inference_mode():
        reports = [run(device, arguments.repeats) for device in devices]
    if arguments.json:
        with open(arguments.json, "w") as file:
            json.dump(reports, file, indent=2)


if __name__ == "__main__":
    main()
