"""Small pictures and the folders, tars and tables that hold them."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path

import numpy as np
import pytest
from PIL import Image


def png(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    """A picture of one grey level, its size (height, width)."""
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, files: dict[str, bytes], mode: str = "w") -> Path:
    with tarfile.open(path, mode) as archive:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            archive.addfile(entry, io.BytesIO(content))
    return path


@pytest.fixture
def two_classes() -> dict[str, bytes]:
    return {
        f"{name}/{index}.png": png(10 * index + start)
        for start, name in enumerate(("ant", "bee"))
        for index in range(3)
    }


@pytest.fixture
def pictures(tmp_path) -> Path:
    """``p/0.png`` to ``p/3.png``, each of the grey level of its number."""
    for index in range(4):
        (tmp_path / "p").mkdir(exist_ok=True)
        (tmp_path / "p" / f"{index}.png").write_bytes(png(index))
    return tmp_path
