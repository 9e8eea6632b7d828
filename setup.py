"""Builds advrbd_plugin._C from csrc/ and prints what it decided; the rest of the metadata is in pyproject.toml.

Without a compiler the package installs all the same and plain PyTorch serves. ADVRBD_CUDA=0 leaves the CUDA kernels
out; ADVRBD_CUDA=1 makes it an error if they cannot be built. TORCH_CUDA_ARCH_LIST is respected.
"""

import os
import re
import shutil
import subprocess
from pathlib import Path

from setuptools import setup

try:
    import torch
except ImportError as error:
    raise SystemExit(
        'advrbd_plugin: building needs PyTorch; first `pip install torch torchvision "setuptools>=77" ninja`, '
        "then `pip install --no-build-isolation .`"
    ) from error

CSRC = Path("csrc")
DEFAULT_CUDA_ARCHITECTURES = "8.0;9.0+PTX"
# The last two let the compiler turn comparisons into vector selects; they change no result.
CXX_FLAGS = ["-O3", "-g0", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
NVCC_FLAGS = ["-O3"]


def say(message: str) -> None:
    print(f"advrbd_plugin: {message}", flush=True)


def find_compiler() -> str | None:
    """The C++ compiler PyTorch's builder will call."""
    return (
        shutil.which(os.environ["CXX"].split()[0])
        if os.environ.get("CXX")
        else shutil.which("c++") or shutil.which("g++")
    )


def cuda_home_of(nvcc: str) -> Path:
    """The toolkit that `nvcc` belongs to, also where it is a link or a script that calls the real one."""
    dryrun = subprocess.run([nvcc, "--dryrun", "-x", "cu", "none.cu"], capture_output=True, text=True, check=False)
    top = re.search(r"TOP=(\S+)", dryrun.stderr + dryrun.stdout)
    return Path(top[1]).resolve() if top else Path(nvcc).resolve().parent.parent


def find_cuda() -> tuple[Path | None, str]:
    """(toolkit, why): the toolkit to build the CUDA kernels with, or None."""
    if os.environ.get("ADVRBD_CUDA") == "0":
        return None, "ADVRBD_CUDA=0"
    if torch.version.cuda is None:
        return None, "this PyTorch is built without CUDA"
    candidates = [
        Path(os.environ[name]) / "bin" / "nvcc" for name in ("CUDA_HOME", "CUDA_PATH") if os.environ.get(name)
    ]
    nvcc = next((str(path) for path in candidates if path.exists()), None) or shutil.which("nvcc")
    if nvcc is None and Path("/usr/local/cuda/bin/nvcc").exists():
        nvcc = "/usr/local/cuda/bin/nvcc"
    if nvcc is None:
        return None, "nvcc is not found; install the CUDA toolkit or set CUDA_HOME"
    version = subprocess.run([nvcc, "--version"], capture_output=True, text=True, check=False).stdout
    release = re.search(r"release (\d+)\.(\d+)", version)
    if release is None:
        return None, f"{nvcc} --version says nothing of a release"
    if release[1] != torch.version.cuda.split(".")[0]:
        return None, f"nvcc {release[1]}.{release[2]} does not match PyTorch's CUDA {torch.version.cuda}"
    return cuda_home_of(nvcc), f"nvcc {release[1]}.{release[2]}"


def make_extension():
    """The extension, or None where there is no compiler."""
    forced = os.environ.get("ADVRBD_CUDA") == "1"
    compiler = find_compiler()
    if compiler is None:
        if forced:
            raise SystemExit("advrbd_plugin: ADVRBD_CUDA=1, but no C++ compiler is found (install g++ or set CXX)")
        say("no C++ compiler is found (install g++ or set CXX): plain PyTorch will serve")
        return None
    cuda_home, why = find_cuda()
    if forced and cuda_home is None:
        raise SystemExit(f"advrbd_plugin: ADVRBD_CUDA=1, but {why}")
    say(f"C++ compiler {compiler}; PyTorch {torch.__version__}")
    sources = [*CSRC.glob("*.cpp"), *CSRC.glob("cpu/*.cpp")]
    if cuda_home is None:
        say(f"CUDA kernels: no ({why})")
    else:
        os.environ["CUDA_HOME"] = str(cuda_home)  # read when cpp_extension is imported
        if not os.environ.get("TORCH_CUDA_ARCH_LIST") and not torch.cuda.is_available():
            os.environ["TORCH_CUDA_ARCH_LIST"] = DEFAULT_CUDA_ARCHITECTURES
        say(f"CUDA kernels: yes ({why}, {cuda_home})")
        sources += [*CSRC.glob("cuda/*.cpp"), *CSRC.glob("cuda/*.cu")]

    from torch.utils.cpp_extension import CppExtension, CUDAExtension

    extension = CppExtension if cuda_home is None else CUDAExtension
    architectures = None if cuda_home is None else os.environ.get("TORCH_CUDA_ARCH_LIST", "visible GPUs")
    return extension(
        name="advrbd_plugin._C",
        sources=sorted(map(str, sources)),
        depends=sorted(map(str, [*CSRC.rglob("*.h"), "advrbd_plugin/ops/schemas.inc"])),
        define_macros=[("ADVRBD_CUDA_ARCHITECTURES", f'"{architectures}"')] if architectures else [],
        # Absolute, because ninja compiles in the build folder.
        include_dirs=[str(CSRC.resolve()), str(Path("advrbd_plugin/ops").resolve())],
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
        extra_link_args=["-fopenmp"],
    )


def make_build_command():
    from torch.utils.cpp_extension import BuildExtension

    class BuildOrFallBack(BuildExtension):
        """A failing build leaves an installation that plain PyTorch serves, unless CUDA was asked for by name."""

        def build_extensions(self):
            try:
                super().build_extensions()
            except Exception as error:  # whatever the compiler or PyTorch's checks raise
                if os.environ.get("ADVRBD_CUDA") == "1":
                    raise
                say(f"the extension did not build, plain PyTorch will serve: {error}")
                self.extensions.clear()

    return BuildOrFallBack


extension = make_extension()
setup(
    ext_modules=[extension] if extension else [],
    cmdclass={"build_ext": make_build_command()} if extension else {},
)
