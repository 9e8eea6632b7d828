"""What is told before a script of the toolbox works for nothing."""

from __future__ import annotations

from pathlib import Path

import pytest

from advrbd_plugin.backdoorbench import script_notes
from advrbd_plugin.backdoorbench.checkout import blob_id
from advrbd_plugin.backdoorbench.script_notes import SCRIPT_NOTES, Fault, ScriptNote, refuse_hopeless
from advrbd_plugin.errors import AdvrBDError


@pytest.fixture
def notes(fake_checkout, monkeypatch):
    broken = fake_checkout / "defense/broken.py"
    broken.write_text("print(1 / 0)\n")
    fault = Fault("it divides by zero", "defense/broken.py", blob_id(broken.read_bytes()))
    known = {
        "defense/broken.py": ScriptNote(fault=fault),
        "defense/choosy.py": ScriptNote(
            options={"--samples": "250"}, yaml_keys={"optimizer": "sgd"}, models=("resnet18", "vgg19")
        ),
        "defense/slow.py": ScriptNote(not_seen="it is slow"),
        "defense/importing.py": ScriptNote(modules={"no_such_module": "no-such-package"}),
    }
    monkeypatch.setattr(script_notes, "SCRIPT_NOTES", known)
    (fake_checkout / "full.yaml").write_text("samples: 10\noptimizer: sgd\nmodel: resnet18\n")
    (fake_checkout / "empty.yaml").write_text("samples:\n")
    return fake_checkout


@pytest.mark.parametrize(
    "script, arguments, said",
    [
        ("defense/broken.py", [], "runs on no machine: it divides by zero"),
        ("defense/choosy.py", [], "needs --samples, which its configuration leaves out: pass --samples 250"),
        ("defense/choosy.py", ["--yaml_path", "empty.yaml"], "needs --samples"),
        ("defense/choosy.py", ["--samples", "3"], "needs optimizer.*with the line optimizer: sgd"),
        (
            "defense/choosy.py",
            ["--yaml_path=./full.yaml", "--model", "resnet34"],
            "takes no model resnet34, only resnet18, vgg19",
        ),
        ("defense/importing.py", [], "imports no-such-package, which is not installed: pip install no-such-package"),
    ],
)
def test_it_is_said_in_one_line(notes, script, arguments, said):
    with pytest.raises(AdvrBDError, match=said) as caught:
        refuse_hopeless(script, arguments, notes)
    assert "\n" not in str(caught.value)


def test_what_can_run_is_let_pass(notes):
    assert "slow" in refuse_hopeless("defense/slow.py", [], notes)
    assert not refuse_hopeless("defense/unknown.py", [], notes)
    refuse_hopeless("defense/choosy.py", ["--yaml_path", "full.yaml"], notes)
    refuse_hopeless("defense/choosy.py", ["--yaml_path", "full.yaml", "--model", "vgg19"], notes)


def test_a_mended_script_is_let_pass(notes):
    (notes / "defense/broken.py").write_text("print(1 / 1)\n")
    refuse_hopeless("defense/broken.py", [], notes)


def test_the_page_on_backdoorbench_tells_of_every_script():
    page = (Path(__file__).resolve().parents[2] / "docs/backdoorbench.md").read_text(encoding="utf-8")
    for script, note in SCRIPT_NOTES.items():
        row = next((line for line in page.splitlines() if line.startswith(f"| `{script}` |")), None)
        assert row is not None, f"{script} has no row"
        outcome = row.split("|")[2].strip()
        assert outcome.startswith("no, on no machine" if note.fault else "not to its end" if note.not_seen else "yes")


def test_every_note_says_something_that_a_user_can_do():
    for script, note in SCRIPT_NOTES.items():
        assert script.split("/")[0] in ("defense", "detection_pretrain", "detection_infer")
        assert all(option.startswith("--") and value for option, value in note.options.items())
        assert note.fault is None or (note.fault.reason and len(note.fault.blob) == 40)
