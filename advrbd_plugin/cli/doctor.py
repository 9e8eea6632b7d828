"""``advrbd doctor``: what is installed, what serves the ops, and what to do about what is missing."""

from __future__ import annotations

import argparse


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser("doctor", help="versions, backend, GPU, compiler, and what to do about what is missing")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from advrbd_plugin import doctor

    print(doctor)
    return 0
