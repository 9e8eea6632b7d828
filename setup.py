"""Builds the ops from csrc/; the rest of the metadata is in pyproject.toml.

libadvrbd_cpu; libadvrbd_cuda, by nvcc; libadvrbd_nvrtc, which launches the same CUDA kernels compiled at run time. All
use PyTorch's stable ABI and nothing of Python's: a wheel made here serves every Python, and torch 2.10 and later.
A build in place (`make`, `pip install -e .`) adds the small Python module _C (csrc/module.cpp).

Each is built by itself: what fails leaves the others, and plain PyTorch serves in its place. What was decided, and why,
is printed and kept in advrbd_plugin/_build.json for `advrbd doctor`. ADVRBD_CUDA=0 leaves the CUDA kernels out;
ADVRBD_CUDA=1 makes it an error if they cannot be built. TORCH_CUDA_ARCH_LIST is respected.
"""

import contextlib
import copy
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
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
OLDEST_TORCH = (2, 10)  # the first with a stable ABI for all that the ops need
# Vectors by `omp simd`, without OpenMP's library: the threads are PyTorch's. The two flags of mathematics let the
# compiler turn comparisons into vector selects; they change no result.
CXX_FLAGS = [
    "-O3",
    "-g0",
    "-fvisibility=hidden",
    "-fopenmp-simd",
    "-fno-math-errno",
    "-fno-trapping-math",
    "-Wno-psabi",
    "-Wno-unknown-pragmas",
]
NVCC_FLAGS = ["-O3"]


def say(message: str) -> None:
    print(f"advrbd_plugin: {message}", flush=True)


def cannot_compile() -> str:
    """Why no library can be built; "" where all can."""
    if tuple(map(int, torch.__version__.split(".")[:2])) < OLDEST_TORCH:
        return f"PyTorch {torch.__version__} is older than {OLDEST_TORCH[0]}.{OLDEST_TORCH[1]}, which the kernels need"
    names = [os.environ["CXX"].split()[0]] if os.environ.get("CXX", "").split() else ["c++", "g++"]
    return "" if any(map(shutil.which, names)) else "no C++ compiler is found (install g++ or set CXX)"


def output_of(*command: str) -> str:
    done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, check=False)
    return done.stdout


def cuda_home_of(nvcc: str) -> Path:
    """The toolkit that `nvcc` belongs to, also where it is a link or a script that calls the real one."""
    top = re.search(r"TOP=(\S+)", output_of(nvcc, "--dryrun", "-x", "cu", "none.cu"))
    return Path(top[1]).resolve() if top else Path(nvcc).resolve().parent.parent


def find_cuda() -> tuple[Path | None, str]:
    """(toolkit, why): the toolkit to build the CUDA kernels with, or None."""
    if os.environ.get("ADVRBD_CUDA") == "0":
        return None, "ADVRBD_CUDA=0"
    if torch.version.cuda is None:
        return None, "this PyTorch is built without CUDA"
    homes = [os.environ.get("CUDA_HOME"), os.environ.get("CUDA_PATH")]
    candidates = [os.path.join(home, "bin", "nvcc") for home in homes if home]
    nvcc = next(filter(None, map(shutil.which, [*candidates, "nvcc", "/usr/local/cuda/bin/nvcc"])), None)
    if nvcc is None:
        return None, "nvcc is not found; install the CUDA toolkit or set CUDA_HOME"
    try:
        release = re.search(r"release (\d+)\.(\d+)", output_of(nvcc, "--version"))
    except OSError as error:
        return None, f"{nvcc} does not run: {error.strerror}"
    if release is None:
        return None, f"{nvcc} --version says nothing of a release"
    if release[1] != torch.version.cuda.split(".")[0]:
        return None, f"nvcc {release[1]}.{release[2]} does not match PyTorch's CUDA {torch.version.cuda}"
    return cuda_home_of(nvcc), f"nvcc {release[1]}.{release[2]}"


def choose_architectures() -> None:
    """Fill in TORCH_CUDA_ARCH_LIST where it says nothing: the GPUs that are visible, or a usual choice."""
    if os.environ.get("TORCH_CUDA_ARCH_LIST", "").strip("; "):
        return
    visible = {torch.cuda.get_device_capability(index) for index in range(torch.cuda.device_count())}
    architectures = ";".join(f"{major}.{minor}" for major, minor in sorted(visible))
    os.environ["TORCH_CUDA_ARCH_LIST"] = architectures or DEFAULT_CUDA_ARCHITECTURES


missing = {
    "libadvrbd_cpu": cannot_compile(),
    "libadvrbd_cuda": "",
    "libadvrbd_nvrtc": "",
    "_C": "",
}  # why a library is not built
cuda_home, why = find_cuda()
if cuda_home is None:
    missing["libadvrbd_cuda"] = why
else:
    os.environ["CUDA_HOME"] = str(cuda_home)  # read when cpp_extension is imported
    choose_architectures()

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def make_extension(kind, name: str, *patterns: str, **options):
    return kind(
        name=f"advrbd_plugin.{name}",
        sources=sorted({str(path) for pattern in patterns for path in CSRC.glob(pattern)}),
        depends=sorted(map(str, [*CSRC.rglob("*.h"), *CSRC.rglob("*.cu*"), "advrbd_plugin/ops/schemas.inc"])),
        # Absolute, because ninja compiles in the build folder.
        include_dirs=[str(CSRC.resolve()), str(Path("advrbd_plugin/ops").resolve())],
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
        **options,
    )


def make_library(kind, name: str, *patterns: str, links: tuple[str, ...], **macros: str):
    """A library of ops: nothing of PyTorch but its stable ABI, and nothing of Python."""
    target = f"0x{OLDEST_TORCH[0]:02x}{OLDEST_TORCH[1]:02x}000000000000"
    macros = {"TORCH_TARGET_VERSION": target, **macros}
    library = make_extension(kind, name, *patterns, define_macros=list(macros.items()), py_limited_api=True)
    library.libraries = list(links)
    return library


def make_extensions() -> list:
    torch_links = ("torch_cpu", "torch")
    made = [make_library(CppExtension, "libadvrbd_cpu", "checks.cpp", "prepare.cpp", "cpu/**/*.cpp", links=torch_links)]
    if not missing["libadvrbd_cuda"]:
        macros = {"USE_CUDA": "1", "ADVRBD_CUDA_ARCHITECTURES": f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"'}
        sources = ("checks.cpp", "prepare.cpp", "cuda/*.cpp", "cuda/*.cu")
        links = ("cudart", "torch_cuda", *torch_links)
        made.append(make_library(CUDAExtension, "libadvrbd_cuda", *sources, links=links, **macros))
    sources = ("checks.cpp", "prepare.cpp", "nvrtc/*.cpp")
    made.append(make_library(CppExtension, "libadvrbd_nvrtc", *sources, links=torch_links, ADVRBD_NVRTC="1"))
    made[-1].include_dirs.insert(0, str((CSRC / "nvrtc" / "host").resolve()))
    return [*made, make_extension(CppExtension, "_C", "module.cpp")]


@contextlib.contextmanager
def printing_to(file):
    """What this process and its children print goes to `file`."""
    sys.stdout.flush()
    saved = os.dup(1), os.dup(2)
    os.dup2(file.fileno(), 1)
    os.dup2(file.fileno(), 2)
    try:
        yield
    finally:
        sys.stdout.flush()
        for descriptor, copied in zip((1, 2), saved):
            os.dup2(copied, descriptor)
            os.close(copied)


class BuildOps(BuildExtension):
    """Builds one library at a time; one that fails is left out, unless CUDA was asked for by name."""

    def get_ext_filename(self, name):
        """No Python's name in the name of a library that holds nothing of Python."""
        return super().get_ext_filename(name) if name.endswith("_C") else f"{name.replace('.', os.sep)}.so"

    def build_extensions(self):
        for extension in list(self.extensions):
            name = extension.name.rpartition(".")[2]
            if name == "_C" and not self.beside_the_sources:
                missing[name] = "a wheel serves every Python"
            else:
                missing[name] = missing["libadvrbd_cpu"] or self._failure(extension)
            if missing[name]:
                self.extensions.remove(extension)

    def _failure(self, extension) -> str:
        """Build one library; the reason where that fails, in the compiler's own words where it gave some."""
        alone = copy.copy(self)
        alone.compiler = copy.copy(self.compiler)  # PyTorch changes it
        alone.extensions = [extension]
        failure = ""
        with tempfile.TemporaryFile("w+") as log:
            try:
                with printing_to(log):
                    super(BuildOps, alone).build_extensions()
            except Exception as error:  # whatever the compiler or PyTorch's checks raise
                failure = str(error).strip().partition("\n")[0] or type(error).__name__
            log.seek(0)
            printed = log.read()
        print(printed, flush=True)
        blamed = [line.strip() for line in printed.splitlines() if re.search(r"\b(error|fatal)\b", line)]
        return f"it does not compile: {blamed[0]}" if failure and blamed else failure

    def run(self):
        self.beside_the_sources = self.inplace  # setuptools clears `inplace` while it builds
        super().run()
        folders = {Path(self.build_lib) / "advrbd_plugin", *([Path("advrbd_plugin")] if self.inplace else [])}
        for folder in filter(Path.is_dir, folders):
            (folder / "_build.json").write_text(json.dumps(missing) + "\n")
            for stale in folder.glob("*.so"):  # what an earlier build left
                if missing.get(stale.name.partition(".")[0], "no longer built"):
                    stale.unlink()
        cpu, cuda = missing["libadvrbd_cpu"], missing["libadvrbd_cuda"]
        say("CPU kernels: " + (f"no, plain PyTorch will serve ({cpu})" if cpu else "yes"))
        built = f"yes ({why}, {cuda_home}, for {os.environ.get('TORCH_CUDA_ARCH_LIST')})"
        say("CUDA kernels: " + (f"no ({cuda})" if cuda else built))
        if os.environ.get("ADVRBD_CUDA") == "1" and cuda:
            raise SystemExit(f"advrbd_plugin: ADVRBD_CUDA=1, but {cuda}")


commands = {"build_ext": BuildOps}
with contextlib.suppress(ImportError):  # a setuptools too old to make a wheel by itself still builds in place
    from setuptools.command.bdist_wheel import bdist_wheel

    class PortableWheel(bdist_wheel):
        def get_tag(self):
            return ("py3", "none", super().get_tag()[2])

    commands["bdist_wheel"] = PortableWheel

setup(ext_modules=make_extensions(), cmdclass=commands)
