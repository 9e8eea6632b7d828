"""Builds csrc/cuda with a C++ compiler, and calls the kernels as the CUDA ops would: on tensors of the CPU."""

import ctypes
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CSRC = HERE.parents[1] / "csrc"
KERNELS = ("perturb", "kl_divergence", "score_step", "patch_origins", "philox_uniform")
# As nvcc does, contract to fused multiply-adds; the processor has them, or the test is skipped.
FLAGS = ["-O1", "-std=c++20", "-fPIC", "-mfma", "-mf16c", "-ffp-contract=fast", "-w"]
LIBRARY = "emulation.so"


def compiler() -> str | None:
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX", "").split() else ["g++", "c++"]
    return next(filter(None, map(shutil.which, names)), None)


def build(folder: Path, csrc: Path = CSRC, kernels: tuple[str, ...] = KERNELS, others: Path | None = None) -> Path:
    """The library in ``folder``, with ``kernels`` from ``csrc`` and what else it needs from the folder ``others``."""
    include = [f"-I{csrc / 'nvrtc' / 'host'}", f"-I{HERE}", f"-I{csrc}"]
    commands, objects = [], []
    for name in ("emulator", "interface", *KERNELS):
        made_here = name in kernels or others is None
        objects.append(str((folder if made_here else others) / f"{name}.o"))
        if name in KERNELS:
            source = ["-include", "device.h", "-x", "c++", str(csrc / "cuda" / f"{name}.cu")]
        else:
            source = [str(HERE / f"{name}.cpp")]
        if made_here:
            commands.append([compiler(), *FLAGS, *include, "-c", *source, "-o", objects[-1]])
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(_run, commands))
    _run([compiler(), "-shared", "-Wl,--no-undefined", "-o", str(folder / LIBRARY), *objects])
    return folder / LIBRARY


def build_once() -> Path:
    """The library of the sources as they are, kept in the checkout's build folder."""
    sources = sorted([*CSRC.rglob("*.h"), *CSRC.rglob("*.cu*"), *HERE.rglob("*.h"), *HERE.rglob("*.cpp")])
    text = "".join([str(FLAGS), _run([compiler(), "--version"]), *(path.read_text() for path in sources)])
    key = hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
    kept = CSRC.parent / "build" / "emulation" / key
    if not (kept / LIBRARY).exists():
        kept.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=kept.parent) as folder:
            build(Path(folder))
            shutil.copytree(folder, kept, dirs_exist_ok=True)
    return kept / LIBRARY


def build_nvrtc(folder: Path, emulated: Path) -> Path:
    """The library in ``folder`` whose launches go by name to a driver (csrc/nvrtc), and that driver beside it.

    ``emulated`` is the folder of ``build_once``: the driver runs those kernels.
    """
    include = [f"-I{CSRC / 'nvrtc' / 'host'}", f"-I{HERE}", f"-I{CSRC}"]
    objects = [str(emulated / f"{name}.o") for name in ("emulator", *KERNELS)]
    driver = ["-Wl,-soname,libcuda.so.1", "-Wl,-Bsymbolic", str(HERE / "driver.cpp"), *objects, "-ldl"]
    _run([compiler(), *FLAGS, *include, "-shared", "-o", str(folder / "libcuda.so.1"), *driver])
    sources = [str(HERE / "interface.cpp"), *(str(CSRC / "nvrtc" / f"{name}.cpp") for name in ("launches", "program"))]
    options = ["-DADVRBD_NVRTC", "-fvisibility=hidden", "-shared", f"-Wl,-rpath,{folder}", "-Wl,--no-undefined"]
    links = [f"-L{folder}", "-l:libcuda.so.1", "-ldl", "-o", str(folder / LIBRARY)]
    _run([compiler(), *FLAGS, *include, *options, *sources, *links])
    return folder / LIBRARY


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"{' '.join(command)} failed:\n{done.stderr}")
    return done.stdout


class _Perturb(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int32) for name in ("dtype", "num_masks", "patch_size", "channels")),
        *((name, ctypes.c_int32) for name in ("planes", "rows", "columns", "interleaved")),
        ("samples", ctypes.c_int64),
        ("seed", ctypes.c_uint64),
        *((name, ctypes.c_void_p) for name in ("images", "grad", "perturbed", "sample_ids", "bounds")),
    ]


class _Kl(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_int64) for name in ("dtype", "rows", "num_masks", "classes")),
        *((name, ctypes.c_void_p) for name in ("logits", "perturbed_logits", "divergence")),
    ]


class Emulation:
    """The CUDA ops, with the signatures of ``advrbd_plugin.ops.reference``; arguments are taken to be right."""

    def __init__(self, library: Path):
        import torch

        self._library = ctypes.CDLL(str(library))
        for name in ("perturb", "kl_divergence", "score_step", "patch_origins", "philox_uniform"):
            getattr(self._library, f"emulate_{name}").restype = ctypes.c_char_p
        self._dtypes = {torch.float32: 0, torch.bfloat16: 1, torch.float16: 2}

    def limit_grid(self, blocks: int) -> None:
        self._library.emulate_limit_grid(blocks)

    def counts(self) -> list[int]:
        """Launches, shuffles and barriers so far."""
        counts = (ctypes.c_int64 * 3)()
        self._library.emulate_counts(counts)
        return list(counts)

    def perturb(self, images, grad, **options):
        arguments, perturbed, kept = self._perturb(images, grad, **options)
        self._call("perturb", ctypes.byref(arguments))
        del kept
        return perturbed

    def kl_divergence(self, logits, perturbed_logits):
        arguments, divergence, kept = self._kl(logits, perturbed_logits)
        self._call("kl_divergence", ctypes.byref(arguments))
        del kept
        return divergence

    def score_step(self, logits, perturbed_logits, images, grad, **options):
        kl, divergence, kept_logits = self._kl(logits, perturbed_logits)
        perturb, perturbed, kept_images = self._perturb(images, grad, **options)
        self._call("score_step", ctypes.byref(kl), ctypes.byref(perturb))
        del kept_logits, kept_images
        return perturbed, divergence

    def patch_origins(self, sample_ids, height, width, patch_size, num_masks, seed):
        origins = sample_ids.new_full((num_masks, len(sample_ids), 2), -1)
        pointers = ctypes.c_void_p(sample_ids.data_ptr()), ctypes.c_void_p(origins.data_ptr())
        sizes = ctypes.c_int64(len(sample_ids)), num_masks, ctypes.c_uint64(seed % 2**64)
        self._call("patch_origins", *pointers, *sizes, height - patch_size + 1, width - patch_size + 1)
        return origins

    def philox_uniform(self, sample_ids, high, seed):
        values = sample_ids.new_full((len(sample_ids), 2), -1)
        pointers = ctypes.c_void_p(sample_ids.data_ptr()), ctypes.c_void_p(values.data_ptr())
        self._call("philox_uniform", *pointers, ctypes.c_int64(len(values)), high, ctypes.c_uint64(seed % 2**64))
        return values

    def _call(self, op, *arguments):
        failure = getattr(self._library, f"emulate_{op}")(*arguments)
        if failure is not None:
            raise RuntimeError(failure.decode())

    # What csrc/prepare.cpp does: dense memory, an output, a task. What owns the memory is the last of the three.

    def _perturb(self, images, grad, *, epsilon, patch_size, num_masks, seed, sample_ids, low, high):
        import torch

        from advrbd_plugin.ops.checks import is_channels_last
        from advrbd_plugin.ops.reference import empty_perturbed

        samples, channels, rows, columns = images.shape
        last = is_channels_last(images)
        order = torch.channels_last if last else torch.contiguous_format
        images, grad = images.contiguous(memory_format=order), grad.contiguous(memory_format=order)
        perturbed = empty_perturbed(images, num_masks)
        if perturbed.numel():
            perturbed.fill_(-7)
        count = max(len(epsilon), len(low), len(high))
        bounds = torch.tensor([(value * count)[:count] for value in (epsilon, low, high)]).t().contiguous()
        arguments = _Perturb(
            self._dtypes[images.dtype],
            num_masks,
            patch_size,
            count,
            *((1, rows, columns, channels) if last else (channels, rows, columns, 1)),
            samples,
            seed % 2**64,
            *(tensor.data_ptr() for tensor in (images, grad, perturbed)),
            None if sample_ids is None else sample_ids.data_ptr(),
            bounds.data_ptr(),
        )
        return arguments, perturbed, (images, grad, sample_ids, bounds)

    def _kl(self, logits, perturbed_logits):
        import torch

        logits, perturbed_logits = logits.contiguous(), perturbed_logits.contiguous()
        divergence = torch.full(perturbed_logits.shape[:2], -7.0)
        tensors = logits, perturbed_logits, divergence
        sizes = len(logits), len(perturbed_logits), logits.shape[1]
        arguments = _Kl(self._dtypes[logits.dtype], *sizes, *(tensor.data_ptr() for tensor in tensors))
        return arguments, divergence, tensors


if __name__ == "__main__":
    if len(sys.argv) == 1:
        print(build_once())
    else:  # a mutant: its folder, its sources, the kernel to build of them, the folder of the others
        print(build(Path(sys.argv[1]), Path(sys.argv[2]), (sys.argv[3],), Path(sys.argv[4])))
