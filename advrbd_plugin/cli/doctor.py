"""``advrbd doctor``: what is installed, what serves the ops, and what to do about what is missing."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict

_MARKS = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="versions, backend, GPU, compiler, and what to do about what is missing",
        description="Looks at this installation. The exit status is 1 where something that is needed is missing.",
    )
    parser.add_argument("--json", action="store_true", help="print one JSON list and nothing else")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Plain text, since the packages that draw tables may be what is missing."""
    from advrbd_plugin.cli.installation import examine, healthy

    findings = examine()
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings]))
        return 0 if healthy(findings) else 1
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        print(f"{_MARKS[finding.state]}  {finding.topic:<{width}}  {finding.value}")
        if finding.advice:
            print(f"{'':7}  {'':<{width}}  -> {finding.advice}")
    return 0 if healthy(findings) else 1
