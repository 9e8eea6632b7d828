"""Every public class and function has an example in its docstring, and the examples run."""

from __future__ import annotations

import doctest
import importlib
import re
import sys
from pathlib import Path

import pytest

import advrbd_plugin

API_PAGE = Path(__file__).resolve().parents[2] / "docs" / "api.md"


def public_names() -> list[str]:
    """``module:name`` of whatever ``advrbd_plugin.__all__`` and docs/api.md name."""
    of_package = [getattr(advrbd_plugin, name) for name in advrbd_plugin.__all__ if name not in ("ops", "__version__")]
    found = {f"{each.__module__}:{each.__name__}" for each in of_package}
    ops = importlib.import_module("advrbd_plugin.ops")
    found |= {f"advrbd_plugin.ops.functions:{name}" for name in ops.__all__ if name.islower()}
    on_page = re.findall(r"^::: (advrbd_plugin\S*)\.(\w+)$", API_PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    return sorted(found | {":".join(each) for each in on_page})


def test_the_public_names_are_found():
    names = public_names()
    assert "advrbd_plugin.defense.pipeline:AdvrBD" in names and "advrbd_plugin.ops.functions:perturb" in names
    assert len(names) >= 25


@pytest.mark.parametrize("name", ["advrbd_plugin", *public_names()])
def test_it_has_an_example_that_runs(name, capsys):
    module, _, attribute = name.partition(":")
    found = importlib.import_module(module)
    thing = getattr(found, attribute) if attribute else found
    (test,) = doctest.DocTestFinder(recurse=False).find(thing, name, globs=dict(vars(found)))
    assert test.examples, f"{name} has no example"
    result = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS).run(test, out=sys.stdout.write)
    assert not result.failed, capsys.readouterr().out
