"""``advrbd compare``: several of BackdoorBench's defenses on its records, side by side.

Only argparse and the standard library are imported until the command is carried out.
"""

from __future__ import annotations

import argparse
import shlex
from collections.abc import Iterable, Iterator
from dataclasses import asdict
from pathlib import Path

from advrbd_plugin.cli.backdoorbench import add_checkout_options
from advrbd_plugin.cli.options import add_telling_options
from advrbd_plugin.cli.telling import line_teller, tell_result

# The options that BackdoorBench's defenses have in common.
PASSED_ON = (
    "device",
    "dataset_path",
    "epochs",
    "batch_size",
    "lr",
    "lr_scheduler",
    "sgd_momentum",
    "wd",
    "ratio",
    "index",
    "random_seed",
    "num_workers",
    "pin_memory",
    "non_blocking",
    "prefetch",
    "amp",
    "frequency_save",
)


def add_commands(subparsers: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    """Add ``compare`` to a parser's subparsers."""
    compare = subparsers.add_parser(
        "compare",
        help="run several of BackdoorBench's defenses on its records and print one table",
        epilog="example: advrbd compare --result_file badnet --defenses ft,fp,clp,d-br,abl,advrbd --device cpu",
    )
    add_checkout_options(compare)
    compare.add_argument(
        "--result_file", metavar="NAME[,NAME...]", required=True, type=_names, help="the records, each record/NAME"
    )
    compare.add_argument("--defenses", metavar="NAME[,NAME...]", required=True, type=_names)
    compare.add_argument(
        "--for",
        dest="arguments_for",
        metavar="'NAME: OPTIONS'",
        type=_name_and_options,
        action="append",
        default=[],
        help="options for one defense: --for 'abl: --tuning_epochs 1 --unlearning_epochs 1'; may be repeated",
    )
    passed_on = compare.add_argument_group("passed on to every defense that knows them")
    for option in PASSED_ON:
        passed_on.add_argument(f"--{option}", metavar="VALUE")
    compare.add_argument("--no-detection", action="store_true", help="leave out the detections (TPR and FPR)")
    compare.add_argument("--rerun", action="store_true", help="run finished cells again, also with the same options")
    compare.add_argument("--out", metavar="FOLDER", type=Path, help="where comparison.csv, .md and .tex go")
    add_telling_options(compare)
    compare.set_defaults(run=run, interrupted="run the same command again to go on with the cells that are left")


def run(arguments: argparse.Namespace) -> int:
    """Run, judge, print and write: 1 where every defense failed."""
    from advrbd_plugin.backdoorbench.checkout import find_checkout
    from advrbd_plugin.evaluation.compare import UNDEFENDED, Plan, compare
    from advrbd_plugin.evaluation.compare.tables import show, write_tables
    from advrbd_plugin.files import finite

    checkout = find_checkout(arguments.backdoorbench, any_version=arguments.any_version)
    plan = Plan(
        checkout=checkout,
        records=arguments.result_file,
        defenses=arguments.defenses,
        arguments=tuple(_passed_on(arguments)),
        arguments_for=_by_name(arguments.arguments_for),
        detect=not arguments.no_detection,
        rerun=arguments.rerun,
        trust_record=arguments.trust_record,
        local_data=arguments.local_data,
    )
    out = arguments.out or checkout / "record" / (plan.records[0] if len(plan.records) == 1 else "comparison")
    cells = compare(plan, tell=line_teller(arguments))
    files = write_tables(cells, out)
    if not (arguments.json or arguments.quiet):
        show(cells)
    content = {"out": str(out), "cells": [asdict(cell) for cell in cells], "files": list(map(str, files))}
    tell_result(arguments, finite(content), (f"written: {path}" for path in files))
    return 1 if all(cell.problem for cell in cells if cell.defense != UNDEFENDED) else 0


def _by_name(given: Iterable[tuple[str, tuple[str, ...]]]) -> dict[str, tuple[str, ...]]:
    """The options of each defense, those of a repeated name in the order given."""
    together: dict[str, tuple[str, ...]] = {}
    for name, options in given:
        together[name] = (*together.get(name, ()), *options)
    return together


def _passed_on(arguments: argparse.Namespace) -> Iterator[str]:
    for option in PASSED_ON:
        value = getattr(arguments, option)
        if value is not None:
            yield from (f"--{option}", value)


def _name_and_options(text: str) -> tuple[str, tuple[str, ...]]:
    name, colon, options = text.partition(":")
    if not colon or not name.strip():
        raise argparse.ArgumentTypeError(f"expected 'NAME: --option value', got {text!r}")
    return name.strip(), tuple(shlex.split(options))


def _names(text: str) -> tuple[str, ...]:
    names = tuple(dict.fromkeys(name for name in text.split(",") if name))
    if not names:
        raise argparse.ArgumentTypeError("expected one name or several with commas between them")
    return names
