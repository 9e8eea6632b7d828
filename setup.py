"""Builds advrbd_plugin._C (CPU) and advrbd_plugin._C_cuda from csrc/; the rest of the metadata is in pyproject.toml.

Each is built by itself: what fails leaves the other, and plain PyTorch serves in its place. What was decided, and why,
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
# The last two let the compiler turn comparisons into vector selects; they change no result.
CXX_FLAGS = ["-O3", "-g0", "-fopenmp", "-fno-math-errno", "-fno-trapping-math", "-Wno-psabi"]
NVCC_FLAGS = ["-O3"]


def say(message: str) -> None:
    print(f"advrbd_plugin: {message}", flush=True)


def missing_compiler() -> str:
    """Why there is no C++ compiler for PyTorch's builder to call; "" where there is one."""
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


missing = {"_C": missing_compiler(), "_C_cuda": ""}  # why a library is not built
cuda_home, why = find_cuda()
if cuda_home is None:
    missing["_C_cuda"] = why
else:
    os.environ["CUDA_HOME"] = str(cuda_home)  # read when cpp_extension is imported
    choose_architectures()

from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension  # noqa: E402


def make_extension(kind, name: str, *patterns: str, **options):
    return kind(
        name=f"advrbd_plugin.{name}",
        sources=sorted({str(path) for pattern in patterns for path in CSRC.glob(pattern)}),
        depends=sorted(map(str, [*CSRC.rglob("*.h"), *CSRC.rglob("*.cuh"), "advrbd_plugin/ops/schemas.inc"])),
        # Absolute, because ninja compiles in the build folder.
        include_dirs=[str(CSRC.resolve()), str(Path("advrbd_plugin/ops").resolve())],
        extra_compile_args={"cxx": CXX_FLAGS, "nvcc": NVCC_FLAGS},
        extra_link_args=["-fopenmp"],
        **options,
    )


def make_extensions() -> list:
    made = [make_extension(CppExtension, "_C", "*.cpp", "cpu/**/*.cpp")]
    if not missing["_C_cuda"]:
        macros = [("ADVRBD_CUDA_ARCHITECTURES", f'"{os.environ["TORCH_CUDA_ARCH_LIST"]}"')]
        sources = ("checks.cpp", "prepare.cpp", "cuda/*.cpp", "cuda/*.cu")
        made.append(make_extension(CUDAExtension, "_C_cuda", *sources, define_macros=macros))
    return made


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

    def build_extensions(self):
        for extension in list(self.extensions):
            name = extension.name.rpartition(".")[2]
            missing[name] = missing["_C"] or self._failure(extension)
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
        super().run()
        folders = {Path(self.build_lib) / "advrbd_plugin", *([Path("advrbd_plugin")] if self.inplace else [])}
        for folder in filter(Path.is_dir, folders):
            (folder / "_build.json").write_text(json.dumps(missing) + "\n")
            for name in filter(missing.get, missing):  # what an earlier build left
                for stale in folder.glob(f"{name}.*.so"):
                    stale.unlink()
        say("CPU kernels: " + (f"no, plain PyTorch will serve ({missing['_C']})" if missing["_C"] else "yes"))
        built = f"yes ({why}, {cuda_home}, for {os.environ.get('TORCH_CUDA_ARCH_LIST')})"
        say("CUDA kernels: " + (f"no ({missing['_C_cuda']})" if missing["_C_cuda"] else built))
        if os.environ.get("ADVRBD_CUDA") == "1" and missing["_C_cuda"]:
            raise SystemExit(f"advrbd_plugin: ADVRBD_CUDA=1, but {missing['_C_cuda']}")


setup(ext_modules=make_extensions(), cmdclass={"build_ext": BuildOps})
