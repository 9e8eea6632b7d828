"""What a command prints when it is done: lines for a person, one JSON object for a program, or nothing."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from advrbd_plugin.cli import messages


def tell_result(arguments: argparse.Namespace, content: Mapping[str, Any], lines: Iterable[str]) -> None:
    """Print what came of a command.

    Args:
        arguments: of the command; ``json`` and ``quiet`` decide.
        content: the one object that ``--json`` prints; whatever JSON has not is printed as its text.
        lines: for a person; none of them is made where nobody reads them.
    """
    if arguments.json:
        print(json.dumps(content, allow_nan=False, default=str))
    elif not arguments.quiet:
        for line in lines:
            print(line)


def line_teller(arguments: argparse.Namespace) -> Callable[[str], None]:
    """What says a line while the command works: on stdout, unless that is kept for the JSON or kept silent."""
    if arguments.json or arguments.quiet:
        return lambda line: messages.LOGGER.info("%s", line)
    return lambda line: print(line, flush=True)
