"""``advrbd doctor``: what is installed, what serves the ops, and what to do about what is missing."""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING

from advrbd_plugin.cli.options import add_telling_options
from advrbd_plugin.cli.telling import tell_result

if TYPE_CHECKING:
    from advrbd_plugin.cli.installation import Finding

_MARKS = {"ok": "ok     ", "note": "note   ", "missing": "MISSING"}


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "doctor",
        help="versions, backend, GPU, compiler, and what to do about what is missing",
        description="Looks at this installation. The exit status is 1 where something that is needed is missing.",
    )
    add_telling_options(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Plain text, since the packages that draw tables may be what is missing."""
    from advrbd_plugin.cli.installation import examine, healthy

    findings = examine()
    content = {"healthy": healthy(findings), "findings": [asdict(finding) for finding in findings]}
    tell_result(arguments, content, _lines(findings))
    return 0 if healthy(findings) else 1


def _lines(findings: Sequence[Finding]) -> Iterator[str]:
    width = max(len(finding.topic) for finding in findings)
    for finding in findings:
        yield f"{_MARKS[finding.state]}  {finding.topic:<{width}}  {finding.value}"
        if finding.advice:
            yield f"{'':7}  {'':<{width}}  -> {finding.advice}"
