"""The templates have one head, and say what they are not given."""

from __future__ import annotations

from importlib.resources import files

import pytest

from advrbd_plugin.report.template import breakable, plain, render


def test_every_page_has_the_head_of_one_file():
    templates = files("advrbd_plugin.report") / "templates"
    texts = {each.name: each.read_text() for each in templates.iterdir() if each.name.endswith(".html")}
    assert [name for name, text in texts.items() if "<!DOCTYPE" in text] == ["base.html"]
    pages = [name for name, text in texts.items() if "{% block body %}" in text and name != "base.html"]
    assert sorted(pages) == ["repair.html", "report.html", "reproduce.html", "stress.html"]


def test_a_page_begins_with_its_type_and_escapes_what_it_is_given():
    page = render("stress.html", title="<i>", legend=["a & b"], tables=[])
    assert page.startswith("<!DOCTYPE html>") and page.rstrip().endswith("</html>")
    assert "<title>&lt;i&gt;</title>" in page and "a &amp; b" in page


def test_a_value_that_is_missing_is_an_error():
    import jinja2

    with pytest.raises(jinja2.UndefinedError, match="legend"):
        render("stress.html", title="", tables=[])


def test_settings_are_written_for_people():
    assert [plain(each) for each in (True, False, None, 32 / 255, 3.0, 64, "median")] == [
        "yes",
        "no",
        "none",
        "0.12549",
        "3",
        "64",
        "median",
    ]


def test_a_path_goes_on_in_the_next_line_after_a_slash_alone():
    assert breakable("a/<b>_c") == "a/<wbr>&lt;b&gt;_<wbr>c"
