"""The documentation site builds, with every link checked."""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="module")
def site(tmp_path_factory) -> Path:
    for name in ("mkdocs", "material", "mkdocstrings"):
        if importlib.util.find_spec(name) is None:
            pytest.skip(f"{name} is not installed (pip install -r requirements.txt)")
    folder = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "mkdocs", "build", "--strict", "--quiet", "--site-dir", os.fspath(folder)]
    done = subprocess.run(
        command, cwd=ROOT, env=os.environ | {"NO_MKDOCS_2_WARNING": "1"}, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder


def test_every_page_is_there(site):
    pages = {page.stem for page in (ROOT / "docs").glob("*.md")} | {"index", "changelog", "contributing", "security"}
    assert pages <= {page.stem for page in site.glob("*.html")}
    assert (site / "notebooks" / "own_data.ipynb").is_file() and not (site / "site").exists()


def test_the_reference_comes_from_the_docstrings(site):
    reference = (site / "api.html").read_text(encoding="utf-8")
    for words in ("Defend a training set", "Clean accuracy and, where triggered images are given", "Window"):
        assert words in reference


def test_links_lead_to_pages_of_the_site(site):
    start = (site / "index.html").read_text(encoding="utf-8")
    assert 'href="install.html"' in start and not re.search(r'href="(\.\./)*docs/', start)
