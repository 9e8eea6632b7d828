"""The pages: links lead somewhere, and the files that they name are there."""

from __future__ import annotations

import re
import runpy
from pathlib import Path

import pytest
import yaml

from advrbd_plugin import __version__
from advrbd_plugin.defense.config import AdvrBDConfig

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md")])
# These name files of this repository in backticks; the others also name those of a checkout or of the user.
ON_THE_CODE = [ROOT / name for name in ("CONTRIBUTING.md", "docs/architecture.md", "docs/choices.md", "docs/limits.md")]
PLACEHOLDER = re.compile(r"(?<![A-Z])[A-Z]{4,}(?![A-Z])")


def linked(page: Path) -> list[str]:
    """Targets of links and pictures that are no web address, without the place inside a page."""
    targets = re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8"))
    return [target.split("#")[0] for target in targets if "://" not in target and not target.startswith("#")]


def named(page: Path) -> set[str]:
    """Names of files and folders in backticks, but for those with a placeholder such as NAME."""
    spans = re.findall(r"`([^`\n]+)`", page.read_text(encoding="utf-8"))
    names = {span for span in spans if re.fullmatch(r"\w[\w./-]*(/|\.(py|h|cpp|cu|inc|md|yaml))", span)}
    return {name for name in names if not PLACEHOLDER.search(name)}


@pytest.fixture(scope="module")
def paths() -> str:
    """Every file and folder of the repository, folders with a slash behind, each between line ends and slashes."""
    kept = ("advrbd_plugin", "benchmarks", "configs", "csrc", "docs", "results", "tests")
    found = [ROOT / name for name in kept] + [path for name in kept for path in (ROOT / name).rglob("*")]
    return "".join(f"/{path.relative_to(ROOT).as_posix()}{'/' * path.is_dir()}\n" for path in found)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    assert not [target for target in linked(page) if not (page.parent / target).exists()]


@pytest.mark.parametrize("page", ON_THE_CODE, ids=lambda page: page.name)
def test_the_files_that_a_page_names_are_there(page, paths):
    assert not sorted(name for name in named(page) if f"/{name}\n" not in paths and not (ROOT / name).exists())


def test_names_are_found_in_backticks(tmp_path):
    page = tmp_path / "page.md"
    page.write_text(
        "`a/b.py`, `csrc/`, `NAME.py`, `test_NAME.py`, `--option`, `x.y`, [p](c.md#d), [w](https://w.org/e.md)"
    )
    assert named(page) == {"a/b.py", "csrc/"} and linked(page) == ["c.md"]


def test_the_architecture_names_every_part():
    floors = runpy.run_path(str(ROOT / "tests/test_layout.py"))["FLOORS"]
    names = named(ROOT / "docs/architecture.md")
    assert not sorted(part for floor in floors for part in floor if not {f"{part}/", f"{part}.py"} & names)


def test_the_choices_name_settings_and_their_values():
    """Where the page has ``key: value`` in backticks, it is a setting of AdvrBD with its default."""
    text = (ROOT / "docs/choices.md").read_text(encoding="utf-8")
    robust = AdvrBDConfig().to_mapping()
    settings = dict(re.findall(r"`(\w+): ([\w./]+)`", text))
    others = {"detect_targets", "unlearn_loss"}  # named with the value that is not the default
    assert {"patch_size", "detection_gain", "epochs"} <= set(settings) <= set(robust)
    changed = {key: value for key, value in settings.items() if key not in others}
    assert AdvrBDConfig.from_mapping(changed) == AdvrBDConfig()


def test_the_citation_has_the_version_of_the_package():
    citation = yaml.safe_load((ROOT / "CITATION.cff").read_text(encoding="utf-8"))
    assert str(citation["version"]) == __version__
    assert [each["url"].rsplit("/", 1)[1] for each in citation["references"]] == ["2405.12719", "2405.14781"]
