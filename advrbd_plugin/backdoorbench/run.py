"""Running one script of a BackdoorBench checkout, unchanged, in this process, with the patches that it needs."""

from __future__ import annotations

import json
import os
import pickle
import runpy
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from advrbd_plugin.backdoorbench.additions import install_additions
from advrbd_plugin.backdoorbench.requirements import explained_requirements
from advrbd_plugin.backdoorbench.script_notes import refuse_hopeless
from advrbd_plugin.errors import AdvrBDError

TRUST_RECORD_VARIABLE = "ADVRBD_TRUST_RECORD"
RUN_FOLDERS = ("attack", "defense", "detection_pretrain", "detection_infer", "analysis", "resource")


@dataclass(frozen=True)
class RunOptions:
    """How a script is run.

    Attributes:
        trust_record: let torch.load build whatever a file says (it may run code that its maker put there).
        local_data: read the dataset files on disk without download or checksum.
        in_script_folder: run in the script's own folder instead of the checkout's root.
        report: where to write the run's time, peak memory and patches as JSON, or ``None``.
    """

    trust_record: bool = False
    local_data: bool = False
    in_script_folder: bool = False
    report: Path | None = None


@explained_requirements()
def run_script(
    checkout: Path, script: str, arguments: Sequence[str], options: RunOptions = RunOptions()
) -> dict[str, Any]:
    """Run ``script`` (a path inside ``checkout``) as ``python SCRIPT ARGUMENTS`` would.

    Returns:
        The run's ``seconds``, ``peak_memory_bytes``, ``peak_cuda_bytes`` and ``patches``; ``options.report`` gets them
        even where the script fails.

    Raises:
        AdvrBDError: there is no such script, it is known to fail (:mod:`script_notes`), it asks for CUDA where there is
            none, a file that it loads holds a type outside the allow-list, or a module that it imports is not
            installed (:mod:`requirements`). The script's own exceptions pass through.
    """
    path = _script_path(checkout, script)
    caution = refuse_hopeless(path.relative_to(checkout.resolve()).as_posix(), arguments, checkout)
    if caution:
        print(f"advrbd: {caution}", file=sys.stderr)
    arguments = _settle_device(path, list(arguments))
    home = path.parent if options.in_script_folder else checkout.resolve()
    os.chdir(home)
    os.environ.setdefault("MPLBACKEND", "Agg")  # the scripts only save their figures
    sys.dont_write_bytecode = True  # the checkout has no .gitignore: bytecode would show in its git status
    patches = _prepare(path, options)
    script = os.path.relpath(path, home)
    sys.argv = [script, *arguments]
    sys.path[0] = os.fspath(path.parent)
    started = time.perf_counter()
    try:
        runpy.run_path(script, run_name="__main__")
    except SystemExit as ended:  # a script may end itself
        if ended.code not in (None, 0):
            raise
    except pickle.UnpicklingError as error:
        raise _refused(error, script) from error
    finally:
        figures = _figures(patches, time.perf_counter() - started)
        if options.report is not None:
            options.report.write_text(json.dumps(figures, indent=2) + "\n", encoding="utf-8")
    return figures


def _prepare(path: Path, options: RunOptions) -> list[str]:
    from advrbd_plugin.backdoorbench import compat

    source = path.read_text(encoding="utf-8")
    own = "advrbd_plugin.backdoorbench" in source  # our scripts choose devices by themselves
    applied = [patch.name for patch in compat.apply_patches(source, leave_out=("cuda-on-cpu",) if own else ())]
    install_additions()
    if options.trust_record:
        compat.trust_every_pickle()
        os.environ[TRUST_RECORD_VARIABLE] = "1"  # our own scripts do not read records with torch.load alone
    if options.local_data:
        compat.use_local_data()
    print(f"advrbd: patches in this process: {', '.join(applied)}", file=sys.stderr)
    return applied


def _script_path(checkout: Path, script: str) -> Path:
    path = (checkout / script).resolve()
    if path.suffix != ".py" or not path.is_relative_to(checkout.resolve()) or not path.is_file():
        folder = checkout / Path(script).parent
        known = sorted(file.name for file in folder.glob("*.py")) if Path(script).parent.name in RUN_FOLDERS else []
        there = f"; {Path(script).parent}/ holds {', '.join(known)}" if known else ""
        raise AdvrBDError(f"{checkout} has no script {script}{there}")
    return path


def _settle_device(path: Path, arguments: list[str]) -> list[str]:
    """Refuse CUDA where there is none; add ``--device cpu`` where the script would use CUDA by default."""
    import torch

    if torch.cuda.is_available() or "--device" not in path.read_text(encoding="utf-8") + _parent_of_attacks(path):
        return arguments
    device = value_of(arguments, "--device")
    if device is None:
        print("advrbd: no CUDA here, so --device cpu is added", file=sys.stderr)
        return [*arguments, "--device", "cpu"]
    refuse_missing_cuda(device)
    return arguments


def refuse_missing_cuda(device: str) -> None:
    """Raise AdvrBDError if ``device`` names CUDA and this PyTorch has none."""
    import torch

    if device.startswith("cuda") and not torch.cuda.is_available():
        raise AdvrBDError(f"--device {device}: this PyTorch sees no CUDA device; pass --device cpu")


def value_of(arguments: Sequence[str], option: str) -> str | None:
    """The last value that a command line gives ``option``, or ``None``."""
    value = None
    for position, argument in enumerate(arguments):
        if argument == option and position + 1 < len(arguments):
            value = arguments[position + 1]
        elif argument.startswith(f"{option}="):
            value = argument.split("=", 1)[1]
    return value


def _parent_of_attacks(path: Path) -> str:
    """Attacks inherit their common options from attack/prototype.py."""
    prototype = path.parent / "prototype.py"
    return prototype.read_text(encoding="utf-8") if prototype.is_file() else ""


def _refused(error: pickle.UnpicklingError, script: str) -> AdvrBDError:
    from advrbd_plugin.backdoorbench.safe_pickle import refused_type

    name = refused_type(error) or "something that is no tensor or plain data"
    return AdvrBDError(
        f"a file that {script} loads holds {name}, which BackdoorBench's records do not and which may run code; "
        "only if you know who made the file, pass --trust-record"
    )


def _figures(patches: list[str], seconds: float) -> dict[str, Any]:
    import resource

    import torch

    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return {
        "seconds": seconds,
        "peak_memory_bytes": peak * (1 if sys.platform == "darwin" else 1024),
        "peak_cuda_bytes": torch.cuda.max_memory_allocated() if torch.cuda.is_available() else None,
        "patches": patches,
    }
