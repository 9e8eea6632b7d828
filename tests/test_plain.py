"""Settings, model descriptions and other plain files from strangers: any fault is one line of bounded length."""

from __future__ import annotations

import json

import pytest

from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.compare.cell import CompareCell, read_cell, write_cell
from advrbd_plugin.nn.description import ModelDescription
from advrbd_plugin.plain import brief, parse_yaml, read_json, read_text
from advrbd_plugin.report import load_model, save_model
from advrbd_plugin.report.output import OutputFolder
from advrbd_plugin.ulrl import ULRLConfig

ALIASES = "a: &a [x,x]\n" + "".join(
    f"{new}: &{new} [*{old},*{old}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)
MERGES = "a: &a {x: 1}\n" + "".join(
    f"{new}: &{new} {{<<: [*{old},*{old}]}}\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

YAML = {
    "number as key": "1: 2",
    "nothing as key": "~: 2",
    "truth as key": "yes: 2",
    "date as key": "2001-01-01: 2",
    "list as key": "? [epochs]\n: 2",
    "mapping as key": "? {epochs: 1}\n: 2",
    "key of a thousand letters": "e" * 1000 + ": 1",
    "long key": "e" * 10_000 + ": 1",
    "3,000 deep": "epochs: " + "[" * 3000 + "]" * 3000,
    "30,000 deep": "[" * 30_000,
    "3,000 deep in blocks": "\n".join(" " * depth + "a:" for depth in range(300)),
    "aliases": ALIASES + "epochs: *i",
    "merged keys": MERGES + "epochs: 1",
    "an alias to itself": "epochs: &a [*a]",
    "a huge number": "epochs: " + "9" * 5000,
    "a huge number in range of no float": "learning_rate: " + "9" * 400,
    "a huge hexadecimal": "epochs: 0x" + "f" * 5000,
    "a huge number as text": "epochs: '" + "9" * 5000 + "'",
    "a huge fraction": "epochs: 1/0x" + "f" * 500,
    "infinity": "epochs: .inf",
    "no number": "epochs: .nan",
    "no number as text": "epochs: nan",
    "minutes": "epochs: " + "1:" * 500 + "1",
    "an impossible date": "epochs: 2001-99-99",
    "bad base64": "epochs: !!binary x",
    "a set": "epochs: !!set {a, b}",
    "an object": "epochs: !!python/object/apply:os.system [ls]",
    "an unknown tag": "epochs: !x y",
    "a list": "epochs: [1, 2]",
    "a long list": "epochs: [" + "1," * 10_000 + "]",
    "a mapping": "epochs: {a: 1}",
    "nothing": "epochs:",
    "a list as preset": "preset: [robust]",
    "a mapping as preset": "preset: {robust: 1}",
    "a number as preset": "preset: 1",
    "a list as word": "reduction: [median]",
    "a word as truth": "detect_targets: maybe",
    "two documents": "epochs: 1\n---\nepochs: 2",
    "control characters": "epochs: \x07",
    "tabs": "\tepochs: 1",
    "a directive": "%YAML 9.9\n---\nepochs: 1",
    "a word alone": "epochs",
    "an open quote": "epochs: '",
    "too large": "# " + "x" * 70_000 + "\nepochs: 1",
}


@pytest.mark.parametrize("name", YAML)
@pytest.mark.parametrize("kind", [AdvrBDConfig, ULRLConfig])
def test_settings_that_are_wrong_are_one_line(tmp_path, name, kind):
    path = tmp_path / "x.yaml"
    path.write_text(YAML[name])
    with pytest.raises(AdvrBDError, match="x.yaml") as error:
        kind.from_yaml(path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 900 + len(str(tmp_path))


@pytest.mark.parametrize("content", [b"\xff\xfe\x00", b"epochs: \xe9", b"\x00"])
def test_bytes_that_are_no_text_are_one_line(tmp_path, content):
    (tmp_path / "x.yaml").write_bytes(content)
    with pytest.raises(AdvrBDError, match="x.yaml"):
        AdvrBDConfig.from_yaml(tmp_path / "x.yaml")


def test_a_byte_order_mark_is_taken_off(tmp_path):
    (tmp_path / "x.yaml").write_bytes(b"\xef\xbb\xbfepochs: 3\n")
    assert AdvrBDConfig.from_yaml(tmp_path / "x.yaml").epochs == 3


def test_places_that_are_no_files_are_named(tmp_path):
    for path in (tmp_path, tmp_path / "nothing", "/dev/null/x", "a\0b"):
        with pytest.raises(AdvrBDError, match="is no ordinary file|cannot be read"):
            read_text(path, limit=10)


def test_a_value_is_shown_in_a_few_words():
    nested = (("x" * 30,) * 4,)
    for value in ("x" * 10**7, 10**5000, [0] * 10**6, {"a": [[]] * 10**6}, nested, bytes(10**6), object(), 1.5, None):
        assert 0 < len(brief(value)) < 450 and "\n" not in brief(value)


def test_a_value_that_holds_itself_is_shown_in_a_few_words():
    value = []
    value.append(value)
    assert brief(value) == "a list of 1" and brief([1, "a"]) == "[1, 'a']"


def test_command_line_values_are_plain(capsys):
    from advrbd_plugin.cli import main

    for value in ("[" * 2000, "&a [*a]", "9" * 6000, "2001-99-99", "!!python/name:os.system"):
        with pytest.raises(SystemExit) as error:
            main(["defend", "x", "--out", "y", "--set", f"epochs={value}"])
        assert error.value.code == 2 and "Traceback" not in capsys.readouterr().err
    assert parse_yaml("8", "x") == 8


MODEL = {
    "format": "advrbd-model",
    "version": 1,
    "name": "resnet_narrow",
    "class_names": ["a", "b"],
    "in_channels": 3,
    "image_size": [8, 8],
    "mean": [0.5, 0.5, 0.5],
    "std": [0.5, 0.5, 0.5],
}
JSON = {
    "open list": "[",
    "deep list": "[" * 200_000,
    "deep dictionary": '{"a":' * 200_000,
    "closed deep list": "[" * 100_000 + "]" * 100_000,
    "nothing": "",
    "a number of many digits": '{"version": ' + "9" * 5000 + "}",
    "a list": "[1]",
    "a text": '"x"',
    "no text": "\xff",
    "half": json.dumps(MODEL)[:50],
    **{f"without {key}": json.dumps({k: v for k, v in MODEL.items() if k != key}) for key in MODEL},
    **{f"a list as {key}": json.dumps(MODEL | {key: [[]]}) for key in MODEL},
    **{f"a dictionary as {key}": json.dumps(MODEL | {key: {"a": 1}}) for key in MODEL},
    **{f"infinity as {key}": json.dumps(MODEL | {key: float("inf")}) for key in MODEL},
    **{f"a long text as {key}": json.dumps(MODEL | {key: "x" * 10**6}) for key in MODEL},
    "truth as channels": json.dumps(MODEL | {"in_channels": True, "mean": [0.5], "std": [0.5]}),
    "a million classes": json.dumps(MODEL | {"class_names": [str(i) for i in range(10**6)]}),
    "one class twice": json.dumps(MODEL | {"class_names": ["a", "a"]}),
    "no number as mean": json.dumps(MODEL | {"mean": [float("nan")] * 3}),
    "an unknown network": json.dumps(MODEL | {"name": "resnet_none"}),
}


@pytest.mark.parametrize("name", JSON)
def test_a_model_description_that_is_wrong_is_one_line(tmp_path, name):
    save_model(tmp_path, ModelDescription("resnet_narrow", ("a", "b"), 3, (8, 8), (0.5,) * 3, (0.5,) * 3).build(),
               ModelDescription("resnet_narrow", ("a", "b"), 3, (8, 8), (0.5,) * 3, (0.5,) * 3))  # fmt: skip
    (tmp_path / "model.json").write_text(JSON[name], encoding="latin1")
    with pytest.raises(AdvrBDError) as error:
        load_model(tmp_path)
    assert "\n" not in str(error.value) and len(str(error.value)) < 500 + 2 * len(str(tmp_path))


@pytest.mark.parametrize("content", ["[", "[" * 200_000, "{}", '{"tool": [[]]}', "\xff"])
def test_a_summary_that_is_not_ours_is_left_alone(tmp_path, content):
    (tmp_path / "summary.json").write_text(content, encoding="latin1")
    with pytest.raises(AdvrBDError, match="holds files that advrbd did not write"):
        OutputFolder(tmp_path)


@pytest.mark.parametrize(
    "change", [{"acc": "x"}, {"acc": [1]}, {"record": 1}, {"options": [1]}, {"problem": 2}, {"new": 1}]
)
def test_a_cached_cell_of_the_wrong_types_does_not_count(tmp_path, change):
    write_cell(tmp_path / "cell.json", CompareCell("a", "b", acc=0.5))
    assert read_cell(tmp_path / "cell.json") == CompareCell("a", "b", acc=0.5)
    content = read_json(tmp_path / "cell.json") | change
    (tmp_path / "cell.json").write_text(json.dumps(content))
    assert read_cell(tmp_path / "cell.json") is None
    for text in ("[", "[" * 200_000, "[]", "1"):
        (tmp_path / "cell.json").write_text(text)
        assert read_cell(tmp_path / "cell.json") is None
