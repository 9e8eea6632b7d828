"""The page's answer in plain words: what was found, how sure it is, and what to do next."""

from __future__ import annotations

import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from advrbd_plugin.report.record import RunRecord
from advrbd_plugin.report.text import one_line
from advrbd_plugin.table import percentage

if TYPE_CHECKING:
    from markupsafe import Markup

    from advrbd_plugin.defense.findings import ClassFinding, Window

_NAMED = 3
# What the pictures of a suspected class share, by the kind of evidence (advrbd_plugin/defense/evidence.py).
_SHARED = {
    "window": "carry a small mark",
    "detail": "share a fine texture that the others lack",
    "colour": "share a change of their colours",
    "slow": "share a change of brightness or colour from place to place",
    "style": "share a change of contrast or texture",
    "spectrum": "are blurred or sharpened alike",
    "operation": "were all changed in one way (turned, blurred, toned)",
    "misplacement": "look like pictures of other classes",
}
_WHITE = 0.9  # mean of each channel, in pixel scale
_MOST = 0.8
_SHARED_EVERYWHERE = "carry the same pattern across the whole picture"


@dataclass(frozen=True)
class Step:
    """One thing to do next.

    Attributes:
        text: a sentence.
        command: to be typed, or ``""``.
        link: (name, relative address) of a file or a place of the page, or ``None``.
    """

    text: str
    command: str = ""
    link: tuple[str, str] | None = None


@dataclass(frozen=True)
class Answer:
    """Attributes:
    state: ``poisoned``, ``clean`` or ``none`` (no verdict); it sets a colour.
    headline: one sentence.
    certainty: how sure it is, one or two sentences.
    steps: what to do next.
    """

    state: str
    headline: Markup
    certainty: str
    steps: tuple[Step, ...]


def answer(record: RunRecord, summary: Mapping[str, Any], out: str) -> Answer:
    """What the page says first.

    Args:
        summary: what :func:`advrbd_plugin.report.record.summarise` gives.
        out: the folder of the results, as the user named it.
    """
    from markupsafe import Markup

    result = record.result
    if not result.trained_enough:
        return Answer(
            "none",
            Markup("No verdict: the model fitted only {} of its training data.").format(percentage(result.fit)),
            "A model that has not learned the pictures has not learned a hidden trigger either, so nothing is known "
            "about any of them; verdicts.csv says unknown.",
            _steps_for_more_training(record, out),
        )
    if summary["poisoned"]:
        return Answer(
            "poisoned", _what_is_poisoned(record, summary), _how_sure(record), _steps_to_clean(record, summary, out)
        )
    wrong = summary["mislabelled"]
    but = f", but {wrong:,} may have the wrong label" if wrong else ""
    headline = Markup("No poisoning was found in {} pictures{}.").format(f"{summary['images']:,}", but)
    return Answer("clean", headline, _how_sure_of_nothing(record), _steps_when_clean(record, summary, out))


def what_they_share(record: RunRecord, finding: ClassFinding) -> str:
    """A verb and its object, such as "carry the same small mark"."""
    if finding.kind in _SHARED:
        return _SHARED[finding.kind]
    if finding.window is None:
        return _SHARED_EVERYWHERE
    return f"carry the same small {_colour_of_mark(record, finding, finding.window)}mark"


def _colour_of_mark(record: RunRecord, finding: ClassFinding, window: Window) -> str:
    """ "white " or "black " where the window is so in nearly all of the class's poisoned pictures, else nothing."""
    images = record.image_set
    members = (images.labels == finding.label) & record.result.verdicts.poisoned
    rows, columns = (slice(start, start + window.side) for start in (window.top, window.left))
    places = images.images[members][:, :, rows, columns].float().mean(dim=(2, 3)) / 255
    for name, low, high in (("white ", _WHITE, 1.0), ("black ", 0.0, 1 - _WHITE)):
        if len(places) and float(((places >= low) & (places <= high)).all(dim=1).float().mean()) >= _MOST:
            return name
    return ""


def in_words(probability: float) -> str:
    """How likely something is, for a sentence: "almost certain"."""
    levels = ((0.99, "almost certain"), (0.9, "very likely"), (0.7, "likely"), (0.5, "more likely than not"))
    return next((words for level, words in levels if probability >= level), "not likely")


def _what_is_poisoned(record: RunRecord, summary: Mapping[str, Any]) -> Markup:
    from markupsafe import Markup

    counts = {name: row["poisoned"] for name, row in summary["classes"].items()}
    names = record.image_set.class_names
    suspected = [each for each in suspected_findings(record) if counts[names[each.label]]]
    total = summary["poisoned"]
    if not suspected:
        return Markup("{} pictures look poisoned, but no class stands out as a target.").format(f"{total:,}")
    if len(suspected) == 1:
        only = suspected[0]
        count = counts[names[only.label]]
        pictures = Markup("{} of <em>{}</em>").format(_pictures(count), one_line(names[only.label]))
        shared = what_they_share(record, only) if count > 1 else "carries a trigger"
        return Markup("{} {}.").format(pictures, shared)
    listed = [
        Markup("{} of <em>{}</em>").format(f"{counts[names[each.label]]:,}", one_line(names[each.label]))
        for each in suspected[:_NAMED]
    ]
    more = len(suspected) - len(listed)
    if more:
        listed.append(Markup("pictures of {} more classes").format(more))
    joined = Markup(", ").join(listed[:-1]) + Markup(" and ") + listed[-1]
    return Markup("{} look poisoned: {}.").format(_pictures(total), joined)


def suspected_findings(record: RunRecord) -> list[ClassFinding]:
    """Findings of the suspected classes, the most probable first."""
    suspected = [each for each in record.result.findings if each.suspected]
    return sorted(suspected, key=lambda each: -each.probability)


def _how_sure(record: RunRecord) -> str:
    suspected, names = suspected_findings(record), record.image_set.class_names
    if not suspected:
        return "Each picture's own probability is in the table below."
    told = [
        f"It is {in_words(each.probability)} ({percentage(each.probability)}) that {one_line(names[each.label])} is "
        "the target of an attack."
        for each in suspected[:_NAMED]
    ]
    return (
        " ".join(told) + " Look at the pictures before you remove any: a harmless mark, such as a watermark that "
        "only one class has, can look like a trigger."
    )


def _how_sure_of_nothing(record: RunRecord) -> str:
    caution = "This is no proof that the set is clean: a trigger that the model did not learn leaves nothing to find."
    findings = sorted(record.result.findings, key=lambda each: -each.probability)
    if not findings:
        return caution
    most = findings[0]
    name = one_line(record.image_set.class_names[most.label])
    return (
        f"No class looks like the target of an attack; the most suspicious, {name}, is one with a probability of "
        f"{percentage(most.probability)}. {caution}"
    )


def _steps_for_more_training(record: RunRecord, out: str) -> tuple[Step, ...]:
    epochs = 2 * record.result.config.for_samples(len(record.image_set)).epochs
    longer = "Train for longer: twice as many passes over the pictures"
    if record.origin == "command":
        command = ("scan" if record.defended is None else "defend", record.data, "--out", out)
        first = Step(
            f"{longer}. Add the options that you gave before:",
            _command("advrbd", *command, "--epochs", str(epochs), "--overwrite"),
        )
    elif record.origin == "python":
        first = Step(f"{longer}, and fit again:", f"config.replace(epochs={epochs})")
    else:
        first = Step(f"{longer}:", f"advrbd demo --epochs {epochs} --overwrite")
    return (
        first,
        Step(
            f"If that does not help, choose a larger network than {one_line(record.model.name)}, or check whether the "
            "labels have anything to do with the pictures."
        ),
    )


def _steps_to_clean(record: RunRecord, summary: Mapping[str, Any], out: str) -> tuple[Step, ...]:
    look = Step("Look at the pictures below, the borderline ones too.", link=("To the pictures", "#surest"))
    if record.origin == "demo":
        own = Step(
            "This set was poisoned on purpose, to show what is found. Scan your own pictures:",
            "advrbd scan YOUR_FOLDER --out results",
        )
        return (look, own)
    source = Step("Find out where the poisoned pictures came from: their source may have sent more.")
    return (look, _step_to_remove(record, summary, out), _step_to_train(record, out), source)


def _step_to_remove(record: RunRecord, summary: Mapping[str, Any], out: str) -> Step:
    listed = ("The list of all pictures", "verdicts.csv")
    if record.origin == "python":
        return Step("Remove what is poisoned:", "train_set.subset(~result.verdicts.poisoned)", listed)
    also = ", gives the mislabelled pictures their better label" if summary["mislabelled"] else ""
    return Step(
        f"Remove what is poisoned. This writes a cleaned copy{also}, and leaves your files as they are:",
        _clean_command(record, out),
        listed,
    )


def _step_to_train(record: RunRecord, out: str) -> Step:
    defended = record.defended
    if defended is not None and defended.is_retrained:
        return Step(
            "Use the clean model, which was trained without the poisoned pictures, or train your own network on the "
            "cleaned copy.",
            link=("model.safetensors", "model.safetensors"),
        )
    if defended is not None:
        return Step(f"Train on the cleaned copy. {defended.remark}".strip())
    text = "Train on the cleaned copy, or let advrbd train a clean model; it goes on from this scan:"
    if record.origin == "python":
        return Step(text, "AdvrBD(make_network, config, work_dir=...).fit(train_set)")
    return Step(text, _command("advrbd", "defend", record.data, "--out", out))


def _steps_when_clean(record: RunRecord, summary: Mapping[str, Any], out: str) -> tuple[Step, ...]:
    steps = [Step("Train as you meant to."), Step("Scan again when the data changes.")]
    if not summary["mislabelled"]:
        return tuple(steps)
    look = Step(
        f"Look at the {_pictures(summary['mislabelled'])} whose label may be wrong.",
        link=("To the mislabelled pictures", "#mislabelled"),
    )
    correct = Step(
        "Correct the labels. This writes a copy with the better labels and leaves your files as they are:",
        _clean_command(record, out),
    )
    return (look, correct, *steps) if record.origin == "command" else (look, *steps)


def _clean_command(record: RunRecord, out: str) -> str:
    verdicts = f"{out.rstrip('/')}/verdicts.csv"
    return _command("advrbd", "clean", record.data, "--verdicts", verdicts, "--out", "cleaned_data")


def _pictures(count: int) -> str:
    return f"{count:,} picture" + ("" if count == 1 else "s")


def _command(*words: str) -> str:
    return shlex.join(one_line(word) for word in words)
