"""The page as a person has it: in Chromium, wide, on a telephone and on paper."""

from __future__ import annotations

import re
import time
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import nn

from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.report.before_after import before_and_after
from advrbd_plugin.report.page import report_html
from advrbd_plugin.report.record import summarise
from advrbd_plugin.report.template import render

from .browser import Browser, needs_browser
from .conftest import make_record

ROWS = 50_000
SHOWN = "return document.getElementById('shown').textContent"
FIRST = "return document.querySelector('#verdicts-body th').textContent"


@pytest.fixture(scope="module")
def page(tmp_path_factory):
    """A page of 50,000 verdicts, with a long path, a long class name and hostile ones."""
    record = make_record()
    labels = torch.arange(ROWS) % 4
    paths = [f"class {int(label)}/picture_{index:05d}.jpg" for index, label in enumerate(labels)]
    paths[1] = "class 1/" + "deep_folder/" * 12 + "<img src=x onerror=document.title='taken'>.jpg"
    poisoned = (labels == 1) & (torch.arange(ROWS) < 400)
    nothing = torch.zeros_like(poisoned)
    score = torch.where(poisoned, 0.9 + torch.arange(ROWS) / 1e6, torch.arange(ROWS) / 1e8)
    names = ("Pneumonoultramicroscopicsilicovolcanoconiosis", "<b>bee</b>", "</script><script>1", "dog")
    result = replace(
        record.result,
        verdicts=Verdicts(poisoned, score, labels, uncertain=nothing, mislabelled=nothing),
        backdoored_model=nn.Sequential(nn.Flatten(), nn.Linear(768, 4)),
    )
    images = ImageSet(torch.zeros(1, 3, 16, 16, dtype=torch.uint8).expand(ROWS, -1, -1, -1), labels, names, None, paths)
    record = replace(record, image_set=images, result=result)
    place = tmp_path_factory.mktemp("page") / "report.html"
    place.write_text(report_html(record, summarise(record) | {"models": before_and_after(record)}, place.parent))
    return place


@pytest.fixture(scope="module", params=[390, 1280])
def browser(request, page):
    needs_browser()
    opened = Browser(request.param)
    opened.open(page)
    yield opened
    opened.close()


def eventually(holds: Callable[[], bool], *, seconds: float = 10.0) -> bool:
    """Whether it holds before the time is over: what is hidden until it is needed appears with the next frame."""
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.05)
    return True


def search(browser: Browser, text: str) -> float:
    """Type ``text`` into the search; milliseconds until the table shows what is found, without the wait for typing."""
    return browser.run(
        f"""const field = document.getElementById('search'), timer = window.setTimeout, began = performance.now();
        window.setTimeout = (work) => work();
        field.value = {text!r}; field.dispatchEvent(new Event('input'));
        window.setTimeout = timer;
        document.body.offsetHeight;
        return performance.now() - began"""
    )


def test_nothing_is_wider_than_the_window(browser):
    wide = browser.run(
        """return [...document.querySelectorAll('body *')].filter((each) =>
        each.getBoundingClientRect().right > window.innerWidth && !each.closest('.skip, .scroll'))
        .map((each) => each.outerHTML.slice(0, 80))"""
    )
    assert wide == []
    width, window = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
    assert width <= window


def test_long_paths_stay_inside_every_page(browser, page):
    long = "a_folder_without_an_end" * 20
    other = page.parent / "stress.html"
    other.write_text(render("stress.html", title=long, legend=[long], tables=[]))
    browser.open(other)
    try:
        width, window = browser.run("return [document.documentElement.scrollWidth, window.innerWidth]")
        assert width <= window
    finally:
        browser.open(page)


def test_no_column_breaks_a_word(browser):
    broken = browser.run(
        """const found = [], walk = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
        for (let node = walk.nextNode(); node; node = walk.nextNode()) {
            if (node.parentElement.closest('script, noscript')) continue;
            for (const word of node.data.matchAll(/(?<![A-Za-z0-9=.])[A-Za-z]{2,14}(?![A-Za-z0-9])/g)) {
                const range = document.createRange();
                range.setStart(node, word.index); range.setEnd(node, word.index + word[0].length);
                const lines = new Set([...range.getClientRects()].map((each) => Math.round(each.top)));
                if (lines.size > 1) found.push(word[0] + ' in ' + node.data.slice(0, 60));
            }
        }
        return found"""
    )
    assert broken == []


def test_no_name_runs_as_a_script_and_the_policy_lets_the_own_one_run(browser):
    assert browser.run("return document.title").startswith("advrbd: ")
    assert browser.run("return document.querySelectorAll('#verdicts-body tr').length") == 50
    assert browser.run("return document.querySelectorAll('#verdicts-body img').length") == 0
    assert not browser.errors()


def test_search_filter_and_pages(browser):
    assert browser.run(SHOWN) == "1 to 50 of 50,000 pictures"
    assert browser.run(FIRST) == "class 1/picture_00397.jpg"  # the highest probability
    milliseconds = search(browser, "picture_0001 BEE")
    assert browser.run(SHOWN) == "1 to 2 of 2 pictures"  # 00013 and 00017
    assert milliseconds < 5000  # a fraction of a second on an idle machine
    search(browser, "nothing of that name")
    assert browser.run(SHOWN) == "No picture matches."
    search(browser, "")
    browser.run("document.getElementById('show-clean').click()")
    assert browser.run(SHOWN) == "1 to 50 of 100 pictures"
    browser.run("document.getElementById('next').click()")
    assert browser.run(SHOWN) == "51 to 100 of 100 pictures"
    assert browser.run("return document.getElementById('next').disabled") is True
    browser.run("document.getElementById('show-clean').click()")
    browser.run(
        "const list = document.getElementById('class'); list.value = 3; list.dispatchEvent(new Event('change'))"
    )
    assert browser.run(SHOWN) == "1 to 50 of 12,500 pictures"
    browser.run(
        "const list = document.getElementById('class'); list.value = ''; list.dispatchEvent(new Event('change'))"
    )


def test_sorting_by_every_column(browser):
    for key, down, up in (
        ("path", "class 3/picture_49999.jpg", "class 0/picture_00000.jpg"),
        ("probability", "class 1/picture_00397.jpg", "class 0/picture_00000.jpg"),
    ):
        for way, first in (("down", down), ("up", up)):
            browser.run(
                f"const list = document.getElementById('sort'); list.value = '{key}-{way}'; "
                "list.dispatchEvent(new Event('change'))"
            )
            assert browser.run(FIRST) == first
    head = "return document.querySelector('[data-key=probability]').closest('th').getAttribute('aria-sort')"
    assert browser.run(head) == "ascending"
    browser.run("document.querySelector('[data-key=probability]').click()")
    assert browser.run(head) == "descending"


def test_everything_that_acts_is_reached_by_keyboard_and_has_a_name(browser):
    nameless = browser.run(
        """return [...document.querySelectorAll('a, button, input, select')].filter((each) =>
        each.tabIndex < 0 || !(each.textContent.trim() || each.labels?.length || each.getAttribute('aria-label')))
        .map((each) => each.outerHTML)"""
    )
    assert nameless == []


def test_what_is_closed_on_the_screen_is_read_on_paper_or_left_out(browser):
    shown = "return document.querySelector('details.printed ul').checkVisibility({contentVisibilityAuto: true})"
    assert browser.run(shown) is False
    browser.command("Emulation.setEmulatedMedia", media="print")
    try:
        assert eventually(lambda: browser.run(shown)), "what is closed is not printed"
        for hidden in ("#details", ".controls", ".pages", "nav"):
            script = f"return getComputedStyle(document.querySelector('{hidden}')).display"
            assert browser.run(script) == "none", hidden
    finally:
        browser.command("Emulation.setEmulatedMedia", media="")


def test_the_page_is_printed(browser):
    document = browser.pdf()
    assert document.startswith(b"%PDF") and 3 <= len(re.findall(rb"/Type\s*/Page\b", document)) < 40
