"""Adding AdvrBD's scripts and configurations to a checkout, and taking exactly those away again."""

from __future__ import annotations

import hashlib
import json
import os
from importlib.resources import files
from pathlib import Path

from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_bytes, write_json

MANIFEST = "config/defense/advrbd/.advrbd_register.json"
CONFIGS = ("config", "cifar10", "cifar100", "gtsrb", "tiny", "imagenette")


_SCRIPT = '''"""AdvrBD (arXiv 2405.12719) as a {kind} of BackdoorBench.

Written by `advrbd register`, removed by `advrbd unregister`.

    python {folder}/advrbd.py --result_file NAME --yaml_path ./config/defense/advrbd/cifar10.yaml --dataset cifar10
"""

import os
import sys

sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
sys.dont_write_bytecode = True

from defense.base import defense

from advrbd_plugin.backdoorbench.defense import AdvrBDMethods, main


class advrbd(AdvrBDMethods, defense):
    """{purpose}"""


if __name__ == "__main__":
    main(advrbd, "{kind}")
'''

_PURPOSES = {
    "defense": ("defense", "Train a clean model on the poisoned training set alone: no clean data, no poison ratio."),
    "detection_pretrain": ("detection", "Tell which samples of the poisoned training set are poisoned."),
}


def planned_files() -> dict[str, bytes]:
    """What register writes: the path inside the checkout, and the content."""
    configs = files("advrbd_plugin").joinpath("configs", "backdoorbench")
    planned = {}
    for folder, (kind, purpose) in _PURPOSES.items():
        script = _SCRIPT.format(folder=folder, kind=kind, purpose=purpose)
        planned[f"{folder}/advrbd.py"] = script.encode()
    for name in CONFIGS:
        planned[f"config/defense/advrbd/{name}.yaml"] = configs.joinpath(f"{name}.yaml").read_bytes()
    return planned


def register(checkout: Path) -> tuple[list[str], list[str]]:
    """Write the scripts and configurations; return the paths that were written and those that were kept.

    A file that register wrote is brought up to date, or kept if its owner has changed it since.

    Raises:
        AdvrBDError: a file that register did not write stands in the way. Nothing is written then.
    """
    written = _read_manifest(checkout)
    changed, kept = [], []
    for name, content in planned_files().items():
        path = checkout / name
        if not _occupied(path):
            changed.append(name)
        elif path.is_file() and path.read_bytes() == content:
            continue
        elif name not in written:
            raise AdvrBDError(f"{path} is in the way: `advrbd register` did not write it; move it and run it again")
        else:
            (changed if _is_ours(path, written[name]) else kept).append(name)
    if changed:
        # The manifest comes first: whatever is interrupted, unregister finds all that was written.
        manifest = written | {name: _digest(content) for name, content in planned_files().items() if name in changed}
        write_json(checkout / MANIFEST, {"written_by": "advrbd register", "sha256": manifest})
    for name in changed:
        write_bytes(checkout / name, planned_files()[name])
    return changed, kept


def unregister(checkout: Path) -> tuple[list[str], list[str]]:
    """Remove what register wrote and the folders that it made; return what was removed and what was kept.

    A file that was changed since is the user's by now: it is kept and named.
    """
    written = _read_manifest(checkout)
    removed, kept = [], []
    for name, digest in written.items():
        path = checkout / name
        if not _occupied(path):
            continue
        if _is_ours(path, digest):
            path.unlink()
            removed.append(name)
        else:
            kept.append(name)
    (checkout / MANIFEST).unlink(missing_ok=True)
    for name in [*removed, MANIFEST]:
        folder = (checkout / name).parent
        if folder.is_dir() and not any(folder.iterdir()):
            folder.rmdir()
    return removed, kept


def _occupied(path: Path) -> bool:
    return os.path.lexists(path)


def _is_ours(path: Path, digest: str | None) -> bool:
    return digest is not None and path.is_file() and not path.is_symlink() and _digest(path.read_bytes()) == digest


def _read_manifest(checkout: Path) -> dict[str, str]:
    """Which files register wrote, with their digests; only paths that register ever writes."""
    path = checkout / MANIFEST
    if not path.is_file():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))["sha256"]
        known = planned_files()
        return {name: str(digest) for name, digest in content.items() if name in known}
    except (ValueError, KeyError, AttributeError, TypeError) as error:
        raise AdvrBDError(f"{path} is damaged; remove the files that `advrbd register` added by hand") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
