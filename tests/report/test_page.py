"""The page: its words, its pictures, its links and its colours."""

from __future__ import annotations

import base64
import csv
import hashlib
import io
import json
import re
from dataclasses import replace
from importlib.resources import files

import pytest
import torch

from advrbd_plugin.defense.evidence import MIXTURE_EVIDENCE
from advrbd_plugin.defense.findings import Window
from advrbd_plugin.report.before_after import before_and_after
from advrbd_plugin.report.links import Links
from advrbd_plugin.report.page import report_html
from advrbd_plugin.report.pictures import borderline
from advrbd_plugin.report.record import summarise, surest
from advrbd_plugin.report.tables import verdicts_csv
from advrbd_plugin.report.trigger import pattern_picture, triggers
from advrbd_plugin.report.wording import answer, in_words, what_they_share
from advrbd_plugin.table import percentage

from .conftest import as_scan, make_record


def page_of(record, place="out"):
    return report_html(record, summarise(record) | {"models": before_and_after(record)}, place)


def answered(record):
    return answer(record, summarise(record), "out")


def changed(record, **values):
    return replace(record, result=replace(record.result, **values))


@pytest.fixture(scope="module")
def page():
    return page_of(make_record())


def test_the_page_stands_alone_and_no_name_becomes_a_part_of_it(page):
    assert "<b>bee</b>" not in page and "&lt;b&gt;bee&lt;/b&gt;" in page and "<i>9</i>" not in page
    assert "\x1b" not in page and "url(" not in page
    sources = re.findall(r"(?:src|href)\s*=\s*\"([^\"]*)\"", page)
    own = {"verdicts.csv", "summary.json", "model.safetensors", "trigger-1.png"}
    assert all(each.startswith(("data:image/", "#")) or each in own for each in sources)
    data = re.search(r'<script type="application/json" id="rows">(.*?)</script>', page, re.S)[1]
    assert "<" not in data and json.loads(data)["names"][1] == "<b>bee</b>"


def test_only_the_page_s_own_script_may_run(page):
    allowed = re.search(r"script-src '(sha256-[^']+)'", page)[1]
    scripts = re.findall(r"<script>(.*?)</script>", page, re.S)
    digests = ["sha256-" + base64.b64encode(hashlib.sha256(each.encode()).digest()).decode() for each in scripts]
    assert digests == [allowed] and not re.search(r"\son\w+=", re.sub(r"<script.*?</script>", "", page, flags=re.S))


def test_the_rows_hold_every_verdict(page, record):
    rows = json.loads(re.search(r'id="rows">(.*?)</script>', page, re.S)[1])
    assert len(rows["paths"]) == 120 and rows["codes"].count("3") == 10 and rows["codes"][2] == "2"
    assert rows["suggested"]["9"] == 2 and rows["suggested"]["2"] == 0 and "0" not in rows["suggested"]
    assert rows["probabilities"][5] == 45_000 and rows["base"] is None


def test_every_picture_has_a_text_in_its_place(page):
    pictures = re.findall(r"<img [^>]*>", page)
    assert len(pictures) > 10 and all(re.search(r'alt="[^"]+"', each) for each in pictures)


def test_the_headline_says_what_was_found_and_how_sure_it_is(record):
    said = answered(record)
    assert said.headline == "10 pictures of <em>&lt;b&gt;bee&lt;/b&gt;</em> carry the same small mark."
    assert said.state == "poisoned" and "almost certain (99.6%)" in said.certainty
    assert any(step.command.startswith("advrbd clean 'my <images>' --verdicts out/verdicts.csv") for step in said.steps)


def test_a_scan_is_followed_by_a_defense(record):
    commands = [step.command for step in answered(as_scan(record)).steps]
    assert "advrbd defend 'my <images>' --out out" in commands
    assert "after" not in before_and_after(as_scan(record)) and "model.safetensors" not in page_of(as_scan(record))


def test_the_colour_of_a_mark_is_told_where_it_is_plain(record):
    images = record.image_set.images.clone()
    images[:, :, 1:4, 2:5] = 255
    white = replace(record, image_set=replace(record.image_set, images=images))
    assert "carry the same small white mark" in answered(white).headline


@pytest.mark.parametrize(
    "kind, window, words",
    [
        ("goes", None, "the same pattern across the whole picture"),
        ("colour", None, "share a change of their colours"),
        ("slow", None, "share a change of brightness or colour from place to place"),
        ("style", Window(0, 0, 2), "share a change of contrast or texture"),
        ("window", Window(0, 0, 2), "carry a small mark"),
    ],
)
def test_each_kind_of_evidence_has_its_words(record, kind, window, words):
    findings = list(record.result.findings)
    findings[1] = replace(findings[1], kind=kind, window=window)
    assert words in answered(changed(record, findings=tuple(findings))).headline


def test_two_classes_are_both_named(record):
    verdicts = record.result.verdicts
    poisoned = verdicts.poisoned.clone()
    poisoned[3] = True
    findings = list(record.result.findings)
    findings[3] = replace(findings[3], suspected=True, probability=0.75)
    several = changed(record, verdicts=replace(verdicts, poisoned=poisoned), findings=tuple(findings))
    said = answered(several)
    assert (
        "11 pictures look poisoned: 10 of <em>&lt;b&gt;bee" in said.headline
        and "and 1 of <em>d\\x1b[31mog" in said.headline
    )
    assert "likely (75.0%)" in said.certainty


def test_nothing_found_is_no_proof(record):
    nothing = torch.zeros_like(record.result.verdicts.poisoned)
    findings = tuple(replace(each, suspected=False, probability=0.02) for each in record.result.findings)
    clean = changed(
        record,
        verdicts=replace(record.result.verdicts, poisoned=nothing),
        suspected_classes=(),
        findings=findings,
    )
    said = answered(clean)
    assert said.headline == "No poisoning was found in 120 pictures, but 1 may have the wrong label."
    assert "no proof" in said.certainty and said.steps[0].text == "Look at the 1 picture whose label may be wrong."
    assert said.steps[1].command == "advrbd clean 'my <images>' --verdicts out/verdicts.csv --out cleaned_data"
    page = page_of(clean)
    assert "No poisoning was found" in page and "Poisoned pictures that get their false label" not in page
    right = changed(clean, verdicts=replace(clean.result.verdicts, mislabelled=nothing))
    assert answered(right).headline == "No poisoning was found in 120 pictures."
    assert [step.command for step in answered(right).steps] == ["", ""]


def test_a_model_that_learned_nothing_gives_no_verdict(record):
    unlearned = changed(as_scan(record), fit=0.17, trained_enough=False)
    said = answered(unlearned)
    assert said.headline == "No verdict: the model fitted only 17.0% of its training data." and said.state == "none"
    epochs = 2 * record.result.config.for_samples(120).epochs
    assert said.steps[0].command == f"advrbd scan 'my <images>' --out out --epochs {epochs} --overwrite"


def test_without_a_verdict_the_page_shows_none(record):
    page = page_of(changed(record, fit=0.17, trained_enough=False, suspected_classes=()))
    assert "<b>17.0%</b>of them fitted by the model" in page and '<details id="details" open>' in page
    assert not any(each in page for each in ('class="gallery"', 'id="classes"', 'id="all"', "<script", ">clean<"))


def test_without_a_verdict_the_tables_say_unknown(record):
    unlearned = changed(record, fit=0.17, trained_enough=False)
    rows = list(csv.DictReader(io.StringIO(verdicts_csv(unlearned))))
    assert len(rows) == 120 and {row["verdict"] for row in rows} == {"unknown"}
    known = replace(unlearned.result, train_set=record.image_set)
    assert set(known.table()["verdict"]) == {"unknown"}


@pytest.mark.parametrize("trained", [True, False])
def test_advice_is_what_can_be_done_where_the_pictures_are(record, trained):
    def commands(origin):
        own = replace(changed(record, fit=0.5, trained_enough=trained), origin=origin)
        return " ".join(step.command for step in answered(own).steps)

    assert "advrbd" not in commands("python") and "my <images>" not in commands("demo")
    assert "'my <images>'" in commands("command")
    assert ("train_set.subset(~result.verdicts.poisoned)" if trained else "config.replace(") in commands("python")


def test_the_preset_of_the_paper_has_no_findings(record):
    page = page_of(changed(record, findings=(), suspected_classes=()))
    assert "10 pictures look poisoned, but no class stands out" in page


def test_percentages_are_not_rounded_to_all_or_nothing():
    assert [percentage(share) for share in (0.0, 0.0001, 0.0596, 0.99996, 1.0, None)] == [
        "0.0%",
        "<0.1%",
        "6.0%",
        ">99.9%",
        "100.0%",
        "-",
    ]
    assert [in_words(share) for share in (0.996, 0.5, 0.2)] == ["almost certain", "more likely than not", "not likely"]


def test_each_kind_of_evidence_that_components_are_asked_for_has_words_of_its_own(record):
    found = next(each for each in record.result.findings if each.suspected)
    words = {what_they_share(record, replace(found, kind=kind)) for kind in MIXTURE_EVIDENCE}
    assert len(words) == len(MIXTURE_EVIDENCE)


def test_of_many_that_are_equally_sure_not_only_the_first_are_shown():
    score = torch.cat([torch.tensor([0.7]), torch.full((9,), 0.99), torch.tensor([0.98])])
    poisoned = torch.ones(11, dtype=torch.bool)
    assert surest(score, poisoned, 3).tolist() == [1, 5, 9]
    assert surest(score, poisoned, 10).tolist() == [*range(1, 10), 10]
    assert surest(score, torch.zeros_like(poisoned), 3).tolist() == []


def test_a_better_label_is_called_a_guess_where_there_is_one(record):
    verdicts = record.result.verdicts
    without = changed(record, verdicts=replace(verdicts, suggested_label=record.image_set.labels))
    assert "The better label is a guess." in page_of(record) and "The better label is a guess." not in page_of(without)


def test_borderline_are_the_nearest_to_one_half():
    score = torch.tensor([0.99, 0.52, 0.3, 0.49, 0.005, 0.5])
    wrong = torch.tensor([False, False, False, False, False, True])
    assert borderline(score, wrong).tolist() == [3, 1, 2]


def test_a_pattern_is_scaled_to_be_seen():
    seen = pattern_picture(torch.tensor([[[0.0, 0.01], [-0.005, float("nan")]]]))
    assert seen.flatten().tolist() == [128, 255, 64, 128]


def test_the_window_is_framed_in_whole_and_in_enlarged_pictures(record):
    found = triggers(record, Links.of(record, "out"))
    assert [each.name for each in found] == ["<b>bee</b>"] and found[0].poisoned == 10
    frame, inner = found[0].frame, found[0].examples[0].inner
    assert (frame.left, frame.top, frame.width) == (12.5, 6.25, 18.75)
    assert (inner.left, inner.top, inner.width) == (20.0, 20.0, 60.0)


def test_names_open_the_files(record, tmp_path):
    data, out = tmp_path / "a b", tmp_path / "out"
    for path in record.image_set.paths:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(b"")
    links = Links.of(replace(record, data=str(data)), out)
    assert links.base == "../a%20b/" and links.to("c1/<i>9</i>.png") == "../a%20b/c1/%3Ci%3E9%3C/i%3E.png"
    assert links.to("javascript:alert(1)") == "../a%20b/javascript%3Aalert%281%29"
    assert Links.of(record, out).to("x") == ""  # an archive, say


def test_a_report_from_python_opens_the_files_of_a_folder_that_is_named(record, tmp_path):
    data = tmp_path / "photos"
    for path in record.image_set.paths:
        (data / path).parent.mkdir(parents=True, exist_ok=True)
        (data / path).write_bytes(b"")
    backdoored = record.result.backdoored_model
    backdoored.description = record.model
    result = replace(record.result, train_set=record.image_set)
    assert 'href="../photos/c1/' not in _written(result, tmp_path / "without")
    page = _written(result, tmp_path / "with", data=data)
    assert 'href="../photos/c1/' in page and "train_set.subset" in page and "advrbd clean" not in page


def _written(result, folder, **named):
    result.report(folder, **named)
    return (folder / "report.html").read_text(encoding="utf-8")


# Text on its background, by the names of the style's colours.
PAIRS = [
    (text, ground) for text in ("ink", "soft", "link", "bad", "good", "warn", "wrong") for ground in ("paper", "panel")
]


def colours() -> list[dict[str, str]]:
    """The light and the dark palette."""
    style = (files("advrbd_plugin.report") / "templates" / "style.html").read_text()
    palettes = [
        dict(re.findall(r"--(\w+): (#[0-9a-f]{6})", block)) for block in re.findall(r":root \{(.*?)\}", style, re.S)
    ]
    assert len(palettes) == 2 and palettes[0].keys() == palettes[1].keys()
    return palettes


def luminance(colour: str) -> float:
    """Relative luminance as WCAG 2 defines it."""
    channels = [int(colour[place : place + 2], 16) / 255 for place in (1, 3, 5)]
    linear = [value / 12.92 if value <= 0.04045 else ((value + 0.055) / 1.055) ** 2.4 for value in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]


@pytest.mark.parametrize("palette", [0, 1], ids=["light", "dark"])
@pytest.mark.parametrize("text, ground", PAIRS)
def test_text_can_be_read_on_its_background(palette, text, ground):
    found = colours()[palette]
    lighter, darker = sorted((luminance(found[text]), luminance(found[ground])), reverse=True)
    assert (lighter + 0.05) / (darker + 0.05) >= 4.5


def test_the_styles_use_no_colour_beside_the_palette():
    used = (files("advrbd_plugin.report") / "templates" / "report_style.html").read_text()
    assert set(re.findall(r"#[0-9a-fA-F]{3,8}\b", re.sub(r"#[a-z][\w-]+", "", used))) <= {"#fff"}
