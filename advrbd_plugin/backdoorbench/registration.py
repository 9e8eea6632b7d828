"""Adding our scripts and configurations to a checkout, and removing exactly those again."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

from advrbd_plugin.backdoorbench.scripts import planned_files
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_bytes, write_json
from advrbd_plugin.plain import read_json

MANIFEST = "config/defense/advrbd/.advrbd_register.json"


def register(checkout: Path) -> tuple[list[str], list[str]]:
    """Write the scripts and configurations; return the paths that were written and those that were left.

    A file that register wrote is updated, or left if the user has changed it since.

    Raises:
        AdvrBDError: a file that register did not write has the same path. Nothing is written then.
    """
    planned, written = planned_files(), _read_manifest(checkout)
    changed: list[str] = []
    left: list[str] = []
    for name, content in planned.items():
        path = checkout / name
        if not _occupied(path):
            changed.append(name)
        elif path.is_file() and path.read_bytes() == content:
            continue
        elif name not in written:
            raise AdvrBDError(
                f"{path} is in the way, and `advrbd register` did not write it; move it and run the command again"
            )
        else:
            (changed if _is_ours(path, written[name]) else left).append(name)
    if changed:
        # The manifest comes first, so unregister finds all files even after an interruption.
        manifest = written | {name: _digest(planned[name]) for name in changed}
        write_json(checkout / MANIFEST, {"written_by": "advrbd register", "sha256": manifest})
    for name in changed:
        write_bytes(checkout / name, planned[name])
    return changed, left


def unregister(checkout: Path) -> tuple[list[str], list[str]]:
    """Remove what register wrote and the folders that it made; return the paths removed and left.

    A file that the user has changed since is left.
    """
    written = _read_manifest(checkout)
    removed: list[str] = []
    left: list[str] = []
    for name, digest in written.items():
        path = checkout / name
        if not _occupied(path):
            continue
        if _is_ours(path, digest):
            path.unlink()
            removed.append(name)
        else:
            left.append(name)
    (checkout / MANIFEST).unlink(missing_ok=True)
    for name in [*removed, MANIFEST]:
        _remove_empty_folders((checkout / name).parent, checkout)
    return removed, left


def _remove_empty_folders(folder: Path, checkout: Path) -> None:
    """Remove ``folder`` and those above it, up to the first that holds something."""
    while folder != checkout and folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()
        folder = folder.parent


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
        content = read_json(path)["sha256"]
        known = planned_files()
        return {name: str(digest) for name, digest in content.items() if name in known}
    except (AdvrBDError, KeyError, AttributeError, TypeError) as error:
        raise AdvrBDError(f"{path} is damaged; remove the files that `advrbd register` added by hand") from error


def _digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
