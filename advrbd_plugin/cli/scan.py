"""``advrbd scan``: a verdict on every sample, as ``advrbd defend`` gives it, without the clean model."""

from __future__ import annotations

import argparse

from advrbd_plugin.cli.defend import DATA, add_defend_options
from advrbd_plugin.cli.status import EXPLAINED


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "scan",
        help="find the poisoned samples of a data set, without training a clean model",
        description=f"{DATA} One model is trained, on everything. `advrbd defend` with the same --out goes on from it.",
        epilog=EXPLAINED,
    )
    add_defend_options(parser)
    parser.set_defaults(command="scan")
