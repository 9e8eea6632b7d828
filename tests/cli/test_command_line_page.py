"""docs/command-line.md: its commands run as they are written (the defense is a stand-in)."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

from advrbd_plugin.cli import main, status

PAGE = Path(__file__).resolve().parents[2] / "docs" / "command-line.md"


def test_the_commands_of_the_page_run(defense, images, monkeypatch, capsys):
    text = PAGE.read_text(encoding="utf-8")
    monkeypatch.chdir(images.parent)
    images.rename("my_images")
    (options,) = re.findall(r"```yaml\n(.*?)```", text, re.DOTALL)
    Path("scan.yaml").write_text(options)
    commands = re.findall(r"^\$ advrbd (.*)$", text, re.MULTILINE)
    assert len(commands) >= 8
    for command in commands:
        expected = status.FOUND if command.split()[0] in ("scan", "defend") else 0
        assert main(shlex.split(command)) == expected, capsys.readouterr().err


def test_every_status_is_in_the_table():
    rows = re.findall(r"^\| ([\d, ]+) \|", PAGE.read_text(encoding="utf-8"), re.MULTILINE)
    shown = {int(number) for row in rows for number in row.split(",")}
    assert shown == {0, 1, status.BAD_INPUT, status.FOUND, status.NO_VERDICT, 130, 143}
