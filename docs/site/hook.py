"""MkDocs hook: the repository's own pages become pages of the site, and links fit both places."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[2]
# Page of the repository -> page of the site.
OUTSIDE = {
    "README.md": "index.md",
    "CHANGELOG.md": "changelog.md",
    "CONTRIBUTING.md": "contributing.md",
    "SECURITY.md": "security.md",
}


def on_config(config: Any) -> Any:
    """The pages of ``nav`` that are there, and those that it does not name."""
    named: set[str] = set()
    config.nav = [part for part in (_present(part, named) for part in config.nav) if part]
    others = sorted(page.name for page in (ROOT / "docs").glob("*.md") if page.name not in named)
    if others:
        config.nav.append({"More": others})
    return config


def on_files(files: Files, config: Any) -> Files:
    """Add the pages of the repository's root."""
    for source, page in OUTSIDE.items():
        text = (ROOT / source).read_text(encoding="utf-8")
        files.append(File.generated(config, page, content=_fitted(text)))
    return files


def on_page_markdown(markdown: str, **_: Any) -> str:
    """Links that lead out of ``docs/`` in the repository."""
    return _fitted(markdown)


def _present(part: Any, named: set[str]) -> Any:
    (title, content), *_ = part.items()
    if isinstance(content, str):
        named.add(content)
        return part if content in OUTSIDE.values() or (ROOT / "docs" / content).is_file() else None
    found = [each for each in (_present(each, named) for each in content) if each]
    return {title: found} if found else None


def _fitted(text: str) -> str:
    """Links to pages of the site; what is no page of it, a folder of results, say, keeps its words alone."""

    def fit(link: re.Match[str]) -> str:
        words, target, place = link["words"], link["target"], link["place"] or ""
        target = re.sub(r"^(\.\./)*(docs/)?", "", target)
        target = OUTSIDE.get(target, target)
        there = target in OUTSIDE.values() or (ROOT / "docs" / target).is_file()
        return f"[{words}]({target}{place})" if there else words

    return re.sub(r"\[(?P<words>[^\]]*)\]\((?!\w+:|#)(?P<target>[^)#\s]+)(?P<place>#[^)\s]*)?\)", fit, text)
