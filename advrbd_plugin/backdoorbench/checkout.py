"""Finding a BackdoorBench checkout, checking its version, and cloning one."""

from __future__ import annotations

import hashlib
import importlib.util
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

from advrbd_plugin.errors import AdvrBDError

SOURCE = "https://github.com/SCLBD/BackdoorBench"
COMMIT = "f02e3534645f0ee63d6848653062cd6c0d6c400d"
VERSION = "v2.2"
HOME_VARIABLE = "BACKDOORBENCH_HOME"
INSTALL_COMMAND = "advrbd backdoorbench install"

# Git blob ids of the files that the adapters depend on. A checkout with other contents may write other records, so it
# is refused. Its history does not matter: a user's own commits or a zip without .git are accepted.
KNOWN_FILES = {
    "defense/base.py": "39d06263b179b398b7ca37ddcfdf0c3fc15cb6b1",
    "utils/aggregate_block/dataset_and_transform_generate.py": "1970709d58c4723443e2e58ce4a08d6863e960c2",
    "utils/aggregate_block/model_trainer_generate.py": "362f4cddd9bfb7d062eafd67793038572789d012",
    "utils/bd_dataset_v2.py": "236d0d9a38a3c36a00c8e94cc9ac1a63ec03333c",
    "utils/save_load_attack.py": "bbed699d3b8187203e7b1c24f88170c4bda08f74",
    "utils/trainer_cls.py": "a9650814c36ffbbcc9b1c7f27185a56363275ab3",
}

# Notebooks and the text benchmark: 12 MB that no script of ours runs; partial mirrors lack some of it.
LEFT_OUT = ("/analysis/Demos/", "/backdoorbench_nlp/")


def is_checkout(path: Path) -> bool:
    """Whether ``path`` holds BackdoorBench's source tree, of any version."""
    return all((path / name).is_file() for name in ("defense/base.py", "utils/save_load_attack.py"))


def cached_checkout() -> Path:
    """The folder of the clone that ``advrbd backdoorbench install`` makes; it need not exist."""
    from platformdirs import user_cache_path

    return user_cache_path("advrbd") / "BackdoorBench"


def find_checkout(explicit: str | os.PathLike[str] | None = None, *, any_version: bool = False) -> Path:
    """Find the root of the checkout to work on.

    Args:
        explicit: the path that ``--backdoorbench`` named; by default ``BACKDOORBENCH_HOME``, else the current folder if
            it is a checkout, else the clone in the user cache.
        any_version: accept files that differ from v2.2.

    Raises:
        AdvrBDError: there is none, the named path is none, or it is another version.
    """
    named = explicit or os.environ.get(HOME_VARIABLE)
    if named:
        checkout = Path(named).expanduser().resolve()
        if not is_checkout(checkout):
            source = "--backdoorbench" if explicit else HOME_VARIABLE
            raise AdvrBDError(
                f"{source} names {checkout}, which is no BackdoorBench checkout (it lacks "
                f"{_first_missing(checkout)}); clone one with `{INSTALL_COMMAND}`"
            )
    else:
        known = [path for path in (Path.cwd(), cached_checkout()) if is_checkout(path)]
        if not known:
            raise AdvrBDError(_nothing_found())
        checkout = known[0]
    if not any_version:
        check_version(checkout)
    return checkout


def check_version(checkout: Path) -> None:
    """Raise AdvrBDError if a file that the adapters depend on differs from BackdoorBench v2.2."""
    for name, blob in KNOWN_FILES.items():
        path = checkout / name
        if not path.is_file() or blob_id(path.read_bytes()) != blob:
            raise AdvrBDError(
                f"{checkout} is BackdoorBench of another version ({name} differs from {VERSION}); check out commit "
                f"{COMMIT[:7]}, or get it with `{INSTALL_COMMAND}`, or pass --any-version to try it anyway"
            )


def install(source: str | os.PathLike[str] | None = None, target: Path | None = None) -> tuple[Path, list[str]]:
    """Clone the pinned commit of BackdoorBench into ``target`` (default: the user cache).

    Args:
        source: a URL or a local repository (bare or not); the public repository by default.
        target: the folder to make. If it already holds a checkout of this version, nothing is done.

    Returns:
        The checkout, and the paths whose contents the source lacks.

    Raises:
        AdvrBDError: git is missing, the source lacks the commit, or ``target`` is something else.
    """
    target = cached_checkout() if target is None else Path(target)
    if is_checkout(target):
        check_version(target)
        return target, []
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise AdvrBDError(
            f"{target} is in the way: it is not empty and no BackdoorBench checkout; name another folder with --into"
        )
    if shutil.which("git") is None:
        raise AdvrBDError("git was not found, and the clone needs it: install git and run the same command again")
    target.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".backdoorbench-", dir=target.parent) as workspace:
        clone = Path(workspace) / "clone"
        absent = _clone(os.fspath(source or SOURCE), clone)
        check_version(clone)
        if target.exists():
            target.rmdir()
        clone.rename(target)
    return target, absent


def _clone(source: str, clone: Path) -> list[str]:
    local = Path(source).expanduser()
    if local.exists():
        _git("clone", "--quiet", "--no-checkout", os.fspath(local.resolve()), os.fspath(clone))
    else:
        _git("clone", "--quiet", "--no-checkout", "--filter=blob:none", source, os.fspath(clone))
    if not _git_succeeds(clone, "cat-file", "-e", f"{COMMIT}^{{commit}}"):
        raise AdvrBDError(f"{source} does not hold BackdoorBench's commit {COMMIT[:7]} ({VERSION})")
    # Only a local copy can lack contents for good; a filtered clone fetches them on checkout.
    absent = [path for path in _absent_contents(clone) if not _is_left_out(path)] if local.exists() else []
    _git("-C", os.fspath(clone), "config", "core.sparseCheckout", "true")
    patterns = ["/*", *(f"!{path}" for path in LEFT_OUT), *(f"!/{path}" for path in absent)]
    (clone / ".git" / "info").mkdir(exist_ok=True)
    (clone / ".git" / "info" / "sparse-checkout").write_text("\n".join(patterns) + "\n")
    _git("-C", os.fspath(clone), "checkout", "--quiet", "--detach", COMMIT)
    return absent


def _absent_contents(clone: Path) -> list[str]:
    listing = _git("-C", os.fspath(clone), "ls-tree", "-r", "-z", COMMIT).rstrip("\0").split("\0")
    path_of = {}
    for entry in listing:
        described, path = entry.split("\t", 1)
        path_of[described.split()[2]] = path
    checked = _git("-C", os.fspath(clone), "cat-file", "--batch-check", text_in="\n".join(path_of) + "\n")
    missing = [line.split()[0] for line in checked.splitlines() if line.endswith(" missing")]
    return sorted(path_of[blob] for blob in missing)


def _is_left_out(path: str) -> bool:
    return any(f"/{path}".startswith(folder) for folder in LEFT_OUT)


def _git(*arguments: str, text_in: str | None = None) -> str:
    finished = _run_git(*arguments, text_in=text_in)
    if finished.returncode:
        lines = finished.stderr.strip().splitlines() or [f"exit status {finished.returncode}"]
        raise AdvrBDError(f"git {arguments[0] if arguments[0] != '-C' else arguments[2]} failed: {lines[-1]}")
    return finished.stdout


def _git_succeeds(clone: Path, *arguments: str) -> bool:
    return _run_git("-C", os.fspath(clone), *arguments).returncode == 0


def _run_git(*arguments: str, text_in: str | None = None) -> subprocess.CompletedProcess[str]:
    # No password prompt: a wrong URL must end in an error message.
    environment = os.environ | {"GIT_TERMINAL_PROMPT": "0"}
    return subprocess.run(["git", *arguments], input=text_in, capture_output=True, text=True, env=environment)


def blob_id(content: bytes) -> str:
    """Git's id of a file with this ``content``."""
    return hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()


def _first_missing(path: Path) -> str:
    return next(name for name in KNOWN_FILES if not (path / name).is_file())


def _nothing_found() -> str:
    spec = importlib.util.find_spec("backdoorbench")
    if spec is None:
        return (
            f"no BackdoorBench checkout found (not --backdoorbench, not {HOME_VARIABLE}, not this folder, not "
            f"{cached_checkout()}); clone one with `{INSTALL_COMMAND}`"
        )
    where = next(iter(spec.submodule_search_locations or []), spec.origin)
    return (
        f"the Python package backdoorbench at {where} is no checkout (it lacks defense/, attack/ and config/, which "
        f"the scripts are run from); clone one with `{INSTALL_COMMAND}`"
    )
