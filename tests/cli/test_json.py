"""``--json`` of every sub-command: one object on stdout and nothing else. ``--quiet``: nothing on either stream."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from advrbd_plugin.cli import main
from advrbd_plugin.cli.command import build_parser

# Of `evaluate` the figures are all there is: --quiet leaves them on stdout.
SHOWN_ALL_THE_SAME = {("evaluate",)}


def commands(parser: argparse.ArgumentParser, words: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """The words of every sub-command, at whatever depth."""
    below = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    if not below:
        yield words
    for action in below:
        for name, each in action.choices.items():
            yield from commands(each, (*words, name))


ALL = sorted(commands(build_parser()))


class Place:
    """What commands are run on: two classes of pictures, and stand-ins for whatever takes long."""

    def __init__(self, images: Path, monkeypatch: pytest.MonkeyPatch, checkout: Path) -> None:
        self.images, self.home, self.patch, self.checkout = images, images.parent, monkeypatch, checkout

    def defended(self) -> str:
        out = self.home / "defended"
        if not out.exists():
            assert main(["defend", str(self.images), "--out", str(out), "--quiet"]) == 3
        return str(out)

    def stub(self, name: str, function: Callable) -> None:
        self.patch.setattr(f"advrbd_plugin.{name}", function)

    def at_checkout(self) -> list[str]:
        return ["--backdoorbench", str(self.checkout), "--any-version"]


def words_for(command: tuple[str, ...], place: Place) -> list[str]:
    """The arguments of a command that ends well (or finds something) in ``place``."""
    return [str(word) for word in WORDS[command](place)]


def _scan(place: Place) -> list:
    return [place.images, "--out", place.home / "out"]


def _clean(place: Place) -> list:
    return [place.images, "--verdicts", Path(place.defended()) / "verdicts.csv", "--out", place.home / "out"]


def _repair(place: Place) -> list:
    quick = ("unlearn_epochs=1", "relearn_steps=2", "attraction=false", "warps=false", "patterns=false")
    settings = [word for setting in quick for word in ("--set", setting)]
    return [place.defended(), "--data", place.images, "--out", place.home / "out", "--device", "cpu", *settings]


def _export(place: Place) -> list:
    place.stub("nn.classifier.ImageClassifier.export", lambda self, path: Path(path))
    return [place.defended(), place.home / "model.onnx"]


def _compare(place: Place) -> list:
    from advrbd_plugin.evaluation.compare import CompareCell

    def compare(plan, tell):
        tell("badnet / ft: runs")
        return [CompareCell("badnet", "none", 0.9, 0.8, 0.1), CompareCell("badnet", "ft", problem="it failed\nbadly")]

    place.stub("evaluation.compare.compare", compare)
    return [*place.at_checkout(), "--result_file", "badnet", "--defenses", "ft", "--out", place.home / "out"]


def _run(place: Place) -> list:
    def run_script(*_):
        print("what the script says")
        print("and what it logs", file=sys.stderr)
        return {"seconds": 1.0, "patches": ["record-types"]}

    place.stub("backdoorbench.run.run_script", run_script)
    return [*place.at_checkout(), "defense/own.py"]


def _label_consistent(place: Place) -> list:
    place.stub(
        "backdoorbench.label_consistent.write_images", lambda checkout, name, **_: (checkout / "x.npy", "cifar10")
    )
    return [*place.at_checkout(), "--result_file", "prototype"]


def _install(place: Place) -> list:
    place.stub("backdoorbench.checkout.install", lambda source, into: (Path("somewhere"), ("notebooks",)))
    return []


def _data(place: Place) -> list:
    place.stub("backdoorbench.small_cifar10.write_cifar10", lambda *_, **__: None)
    return [place.images, "--out", place.home / "out"]


WORDS: dict[tuple[str, ...], Callable[[Place], list]] = {
    ("scan",): _scan,
    ("defend",): _scan,
    ("clean",): _clean,
    ("repair",): _repair,
    ("evaluate",): lambda place: [place.defended(), "--clean", place.images],
    ("export",): _export,
    ("demo",): lambda place: ["--data", place.images, "--out", place.home / "out", "--poison-ratio", "0.3"],
    ("reproduce",): lambda place: ["--dry-run", "--attacks", "tact", "--out", place.home / "out"],
    ("doctor",): lambda place: [],
    ("register",): lambda place: [place.checkout, "--any-version"],
    ("unregister",): lambda place: [place.checkout, "--any-version"],
    ("backdoorbench", "install"): _install,
    ("backdoorbench", "run"): _run,
    ("backdoorbench", "data"): _data,
    ("backdoorbench", "label-consistent"): _label_consistent,
    ("compare",): _compare,
}
FAILED = {("compare",)}  # the only defense of the stand-in fails


def test_every_sub_command_is_here():
    assert sorted(WORDS) == ALL


@pytest.fixture
def place(defense, images, monkeypatch, tmp_path) -> Place:
    checkout = tmp_path / "checkout"
    for name in ("defense/base.py", "utils/save_load_attack.py", "detection_pretrain/__init__.py"):
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_text("# not BackdoorBench's\n")
    return Place(images, monkeypatch, checkout)


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_json_is_one_object_and_nothing_else(command, place, capfd):
    words = words_for(command, place)
    capfd.readouterr()
    status = main([*command, "--json", *words])
    shown = capfd.readouterr()
    assert status == (1 if command in FAILED else 3 if command in {("scan",), ("defend",)} else 0), shown.err
    content = json.loads(shown.out)  # fails on any line before or after
    assert isinstance(content, dict) and content
    assert "Traceback" not in shown.err


@pytest.mark.parametrize("command", ALL, ids=" ".join)
def test_quiet_is_quiet(command, place, capfd):
    words = words_for(command, place)
    capfd.readouterr()
    main([*command, "--quiet", *words])
    shown = capfd.readouterr()
    assert shown.err == "" and (shown.out == "" or command in SHOWN_ALL_THE_SAME)
