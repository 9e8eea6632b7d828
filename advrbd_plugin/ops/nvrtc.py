"""CUDA kernels without nvcc: NVRTC, which comes with PyTorch, compiles them when they are first used.

The sources are those that nvcc compiles (csrc/cuda); what was compiled is kept on the disk. csrc/nvrtc launches it.
"""

import ctypes
import hashlib
import os
import threading
from pathlib import Path

import torch

from advrbd_plugin.errors import StorageError
from advrbd_plugin.files import atomic_file

SOURCES = Path(__file__).resolve().parents[1] / "csrc"
OPTIONS = ("--std=c++17", f"-I{SOURCES}", f"-I{SOURCES / 'nvrtc' / 'device'}")
_MARK = b"advrbd kernel 1\n"


class Nvrtc:
    """NVRTC's functions, by ctypes; OSError where the library is not there or does not load."""

    def __init__(self, path: str | Path):
        # It opens this one by its name alone, which only finds a library that is loaded, or in the system's folders.
        self._builtins = [ctypes.CDLL(str(each)) for each in Path(path).parent.glob("libnvrtc-builtins.so.*")]
        self._library = ctypes.CDLL(str(path))
        major, minor = ctypes.c_int(), ctypes.c_int()
        self._call("nvrtcVersion", ctypes.byref(major), ctypes.byref(minor))
        self.version = f"{major.value}.{minor.value}"

    def architectures(self) -> list[int]:
        """What it compiles for, such as 90 for a GPU of capability 9.0; ascending."""
        count = ctypes.c_int()
        self._call("nvrtcGetNumSupportedArchs", ctypes.byref(count))
        architectures = (ctypes.c_int * count.value)()
        self._call("nvrtcGetSupportedArchs", architectures)
        return sorted(architectures)

    def compile(self, source: str, expression: str, target: str) -> tuple[bytes, bytes]:
        """(name, code) of the kernel ``expression`` in ``source``.

        ``target`` is ``sm_90`` for machine code or ``compute_90`` for PTX, which the driver compiles for newer GPUs.
        RuntimeError with what the compiler said.
        """
        program = ctypes.c_void_p()
        self._call("nvrtcCreateProgram", ctypes.byref(program), source.encode(), b"advrbd.cu", 0, None, None)
        try:
            self._call("nvrtcAddNameExpression", program, expression.encode())
            options = [option.encode() for option in (*OPTIONS, f"--gpu-architecture={target}")]
            try:
                self._call("nvrtcCompileProgram", program, len(options), (ctypes.c_char_p * len(options))(*options))
            except RuntimeError as error:
                raise RuntimeError(f"{error}: {self._text(program, 'ProgramLog')}") from None
            name = ctypes.c_char_p()
            self._call("nvrtcGetLoweredName", program, expression.encode(), ctypes.byref(name))
            assert name.value is not None
            return name.value, self._bytes(program, "CUBIN" if target.startswith("sm_") else "PTX")
        finally:
            self._call("nvrtcDestroyProgram", ctypes.byref(program))

    def _bytes(self, program: ctypes.c_void_p, kind: str) -> bytes:
        size = ctypes.c_size_t()
        self._call(f"nvrtcGet{kind}Size", program, ctypes.byref(size))
        content = ctypes.create_string_buffer(size.value)
        self._call(f"nvrtcGet{kind}", program, content)
        return content.raw

    def _text(self, program: ctypes.c_void_p, kind: str) -> str:
        lines = self._bytes(program, kind).rstrip(b"\0").decode(errors="replace").splitlines()
        return next((line for line in lines if "error" in line), lines[0] if lines else "it said nothing")

    def _call(self, name: str, *arguments: object) -> None:
        code = getattr(self._library, name)(*arguments)
        if code:
            say = self._library.nvrtcGetErrorString
            say.restype = ctypes.c_char_p
            raise RuntimeError(f"{name}: {say(code).decode()}")


def find_library() -> Path | None:
    """NVRTC as PyTorch brought it; its major version is that of PyTorch's CUDA. None where it is not found."""
    if torch.version.cuda is None:
        return None
    name = f"libnvrtc.so.{torch.version.cuda.split('.')[0]}"
    torch_folder = Path(torch.__file__).resolve().parent
    places = [torch_folder / "lib", *sorted(torch_folder.parent.glob("nvidia/*/lib"))]
    homes = [Path(os.environ[variable], "lib64") for variable in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(variable)]
    return next((place / name for place in (*places, *homes) if (place / name).is_file()), None)


def target_for(capability: tuple[int, int], architectures: list[int]) -> str:
    """``sm_..`` where there is machine code for a GPU of this capability, else the PTX that comes nearest.

    Machine code runs on later GPUs of the same major version too. ValueError for a GPU older than all of them.
    """
    wanted = 10 * capability[0] + capability[1]
    older = [architecture for architecture in architectures if architecture <= wanted]
    if not older:
        raise ValueError(
            f"this NVRTC compiles for capability {architectures[0] / 10} and later, the GPU has {wanted / 10}"
        )
    return f"{'sm' if older[-1] // 10 == capability[0] else 'compute'}_{older[-1]}"


def cache_folder() -> Path:
    """Where compiled kernels are kept: ADVRBD_KERNEL_CACHE, else the user's cache."""
    chosen = os.environ.get("ADVRBD_KERNEL_CACHE")
    return (
        Path(chosen) if chosen else Path(os.environ.get("XDG_CACHE_HOME") or "~/.cache").expanduser() / "advrbd/kernels"
    )


def compiled(nvrtc: Nvrtc, function: str, expression: str, target: str) -> tuple[bytes, bytes]:
    """(name, code) from the disk, or compiled and kept there; a place that cannot be written keeps nothing."""
    source = f'#include "cuda/{function.removesuffix("_kernel")}.cuh"\n'
    digest = hashlib.blake2b("\n".join([source, expression, target, nvrtc.version]).encode(), digest_size=16)
    for path in sorted([*SOURCES.glob("*.h"), *SOURCES.glob("cuda/*.cuh"), *SOURCES.glob("nvrtc/device/*")]):
        digest.update(path.name.encode() + b"\0" + path.read_bytes())
    kept = cache_folder() / f"{digest.hexdigest()}.kernel"
    found = _read(kept)
    if found is None:
        found = nvrtc.compile(source, expression, target)
        try:
            with atomic_file(kept) as file:
                file.write(_MARK + hashlib.blake2b(b"\n".join(found)).digest() + b"\n".join(found))
        except StorageError:
            pass
    return found


def _read(path: Path) -> tuple[bytes, bytes] | None:
    """What ``compiled`` wrote; None where there is nothing, or where it is damaged."""
    try:
        content = path.read_bytes()
    except OSError:
        return None
    body = content[len(_MARK) + 64 :]
    if not content.startswith(_MARK) or content[len(_MARK) :][:64] != hashlib.blake2b(body).digest():
        return None
    name, _, code = body.partition(b"\n")
    return name, code


class _Answer(ctypes.Structure):
    """csrc/nvrtc/program.cpp: Compiled."""

    _fields_ = (("code", ctypes.c_char_p), ("name", ctypes.c_char_p), ("failure", ctypes.c_char_p))


_Asked = ctypes.CFUNCTYPE(None, ctypes.c_char_p, ctypes.c_char_p, ctypes.c_int, ctypes.POINTER(_Answer))


class Compiler:
    """What the library of launches asks for a kernel; it must live as long as the library. NVRTC is loaded then."""

    def __init__(self, library: Path, nvrtc: Path):
        self._path = nvrtc
        self._nvrtc: Nvrtc | None = None
        self._last = threading.local()  # the memory that an answer points to
        self._asked = _Asked(self._answer)
        ctypes.CDLL(str(library)).advrbd_nvrtc_set_compiler(self._asked)

    def _answer(self, function: bytes, expression: bytes, device: int, answer: "ctypes._Pointer[_Answer]") -> None:
        try:
            self._nvrtc = self._nvrtc or Nvrtc(self._path)
            target = target_for(torch.cuda.get_device_capability(device), self._nvrtc.architectures())
            name, code = compiled(self._nvrtc, function.decode(), expression.decode(), target)
            self._last.kept = (name, code)
            answer.contents.name, answer.contents.code = name, code
        except Exception as error:  # no exception may pass through the C++ that asked
            self._last.kept = str(error).encode()
            answer.contents.failure = self._last.kept
