"""``advrbd reproduce``: the paper's evaluation or the stress suite, cell by cell, and their tables."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from advrbd_plugin.cli.options import add_device_option, add_telling_options, check_device, positive, setting
from advrbd_plugin.cli.telling import tell_result
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import finite

if TYPE_CHECKING:
    from advrbd_plugin.evaluation.cell import Cell
    from advrbd_plugin.evaluation.experiment import Options
    from advrbd_plugin.evaluation.result import Result

TABLES = ("II", "III", "IV", "V", "VI", "VII")
FIGURES = ("7",)
SCALES = ("small", "full")
SUITES = ("paper", "stress")
_OF_THE_SUITE = ("sets", "samples", "reference")
_OF_THE_GRID = ("table", "figure", "scale", "attacks", "poison_ratios", "partition_rates")
_SIDES = ("attacks", "defenses", "datasets", "models", "poison_ratios", "partition_rates", "seeds")


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "reproduce",
        help="run the paper's evaluation or the stress suite cell by cell, and draw their tables",
        description="Every cell (one method on one backdoored model) is a process and a JSON file; what is done is "
        "skipped. Lists are separated by commas. See docs/reproduce.md.",
    )
    parser.add_argument("--report", action="store_true", help="draw every table from the results and run nothing")
    parser.add_argument("--suite", choices=SUITES, default="paper", help="the paper's grid, or hard sets (%(default)s)")
    parser.add_argument("--scale", choices=SCALES, help="of the paper's grid (default: small)")
    parser.add_argument("--table", choices=TABLES, action="append", default=[], help="a table of the paper")
    parser.add_argument("--figure", choices=FIGURES, action="append", default=[], help="the partition-rate ablation")
    grid = parser.add_argument_group("the grid (over what a table or a figure says)")
    grid.add_argument("--attacks", type=_list(str), help="default: the paper's eight; none is the unpoisoned set")
    grid.add_argument("--defenses", type=_list(str), help="default: none,clean_only,advrbd")
    grid.add_argument("--datasets", type=_list(str), help="default: cifar10")
    grid.add_argument("--models", "--model", type=_list(str), help="default: the scale's; resnet_narrow for the suite")
    grid.add_argument("--poison-ratios", type=_list(float), help="default: 0.05")
    grid.add_argument("--partition-rates", type=_list(float), help="AdvrBD's alpha (default: its configuration's)")
    grid.add_argument("--seeds", "--seed", type=_list(int), help="default: 0; a set's name may carry its own")
    suite = parser.add_argument_group("the stress suite (--suite stress)")
    suite.add_argument("--sets", type=_list(str), help="such as composite+badnets-s3,clean-s2@5000 (default: all)")
    suite.add_argument("--samples", type=positive, help="photographs drawn for a set (default: 10,000)")
    suite.add_argument("--reference", action="store_true", help="also train on the truly clean samples alone")
    parser.add_argument("--epochs", type=positive, help="of every training, in place of the suite's or the scale's own")
    parser.add_argument("--data", default="../shared/data", metavar="DIR", help="holds the data sets (%(default)s)")
    parser.add_argument("--out", default="results", metavar="DIR", help="where results go (default: %(default)s)")
    parser.add_argument("--work", default="out/benchmark", metavar="DIR", help="for trained models (%(default)s)")
    parser.add_argument("--jobs", type=positive, default=1, help="how many cells run at a time (default: 1)")
    parser.add_argument("--dry-run", action="store_true", help="list the cells and what would be run")
    parser.add_argument("--rerun", action="store_true", help="also run cells that are done")
    parser.add_argument("--backdoorbench", metavar="PATH", help="the toolbox's checkout, for its baselines")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=setting,
        help="override a key of AdvrBD's configuration in every cell",
    )
    parser.add_argument(
        "--leaderboard",
        default="../shared/data/backdoorbench_leaderboard.csv",
        metavar="CSV",
        help="BackdoorBench's leaderboard, for the report; left out where it is missing (%(default)s)",
    )
    add_device_option(parser)
    add_telling_options(parser)
    parser.set_defaults(run=run, interrupted="run the same command again to go on from here")


def run(arguments: argparse.Namespace) -> int:
    """List, run or report: 0 unless a cell has no figures."""
    if arguments.report:
        return _report(arguments)
    from advrbd_plugin.evaluation.experiment import Options

    check_device(arguments.device)
    epochs = {} if arguments.epochs is None else {"epochs": arguments.epochs}
    options = Options(
        data=arguments.data,
        out=arguments.out,
        work=arguments.work,
        device=arguments.device,
        backdoorbench=arguments.backdoorbench,
        settings={**dict(arguments.settings), **epochs},
    )
    cells = _suite_cells(arguments) if arguments.suite == "stress" else _grid_cells(arguments)
    if arguments.dry_run:
        return _list_cells(cells, options, arguments)
    return _run_cells(cells, options, arguments)


def _grid_cells(arguments: argparse.Namespace) -> list[Cell]:
    from advrbd_plugin.evaluation.grid import Selection, make_grid, select

    _refuse(arguments, _OF_THE_SUITE, "is an option of --suite stress")
    scale = arguments.scale or "small"
    own = Selection(**{side: getattr(arguments, side) for side in _SIDES})
    return make_grid(scale, select(scale, arguments.table, arguments.figure, own))


def _suite_cells(arguments: argparse.Namespace) -> list[Cell]:
    from advrbd_plugin.evaluation.stress_grid import SuiteSelection, make_suite

    _refuse(arguments, _OF_THE_GRID, "is an option of the paper's grid, not of --suite stress")
    selection = SuiteSelection(
        sets=arguments.sets,
        samples=arguments.samples,
        models=arguments.models,
        seeds=arguments.seeds,
        datasets=arguments.datasets,
        defenses=arguments.defenses,
        reference=arguments.reference,
    )
    return make_suite(selection)


def _refuse(arguments: argparse.Namespace, names: tuple[str, ...], why: str) -> None:
    """An option that would be ignored is an error."""
    for name in names:
        if getattr(arguments, name):
            raise AdvrBDError(f"--{name.replace('_', '-')} {why}")


def _report(arguments: argparse.Namespace) -> int:
    from advrbd_plugin.report.evaluation import write_report, write_stress_report

    stress = arguments.suite == "stress"
    paths = write_stress_report(arguments.out) if stress else write_report(arguments.out, arguments.leaderboard)
    tell_result(arguments, {"out": arguments.out, "files": paths}, (f"written: {path}" for path in paths))
    return 0


def _run_cells(cells: list[Cell], options: Options, arguments: argparse.Namespace) -> int:
    from advrbd_plugin.cli.grid_progress import make_grid_display
    from advrbd_plugin.evaluation.grid_job import run_grid

    with make_grid_display() as display:
        results = run_grid(cells, options, display, jobs=arguments.jobs, rerun=arguments.rerun)
    without = [result for result in results if not result.is_done]
    done = f"{len(results) - len(without)} of {len(results)} cells have their figures in {options.out}"
    lines = (f"  {result.cell.name}: {result.content['status']}: {result.reason}" for result in without)
    content = {
        "out": options.out,
        "cells": [_of_result(result) for result in results],
        "done": len(results) - len(without),
        "without_figures": len(without),
    }
    tell_result(arguments, finite(content), (done, *lines))
    return 1 if without else 0


def _of_result(result: Result) -> Mapping[str, Any]:
    """A cell that was run, as the JSON has it; figures are fractions."""
    told = {"name": result.cell.name, "status": result.content["status"], "file": str(result.path)}
    if not result.is_done:
        return told | {"reason": result.reason}
    return told | {"figures": result.content.get("figures", {}), "seconds": result.content.get("seconds")}


def _list_cells(cells: list[Cell], options: Options, arguments: argparse.Namespace) -> int:
    from advrbd_plugin.cli.progress import clock_time
    from advrbd_plugin.evaluation.grid_job import current_result, estimate_from, kind_of

    waiting = [cell for cell in cells if arguments.rerun or current_result(cell, options) is None]
    estimate = estimate_from(options.out)
    expected = {cell.name: estimate.seconds(kind_of(cell)) if cell in waiting else None for cell in cells}
    remaining = estimate.remaining(map(kind_of, waiting), (), arguments.jobs)

    def lines() -> Iterator[str]:
        for cell in cells:
            seconds = expected[cell.name]
            to_run = "to run" if seconds is None else f"to run, about {clock_time(seconds)}"
            yield f"{cell.name}  [{to_run if cell in waiting else 'done'}]"
        about = f", about {clock_time(remaining)}" if remaining else ""
        yield f"{len(cells)} cells, {len(waiting)} to run{about}"

    content = {
        "out": options.out,
        "cells": [
            {
                "name": cell.name,
                "status": "to run" if cell in waiting else "done",
                "expected_seconds": expected[cell.name],
            }
            for cell in cells
        ],
        "to_run": len(waiting),
        "expected_seconds": remaining,
    }
    tell_result(arguments, finite(content), lines())
    return 0


def _list(kind: Callable[[str], Any]) -> Callable[[str], tuple[Any, ...]]:
    """Values of one kind, separated by commas."""

    def parse(text: str) -> tuple[Any, ...]:
        try:
            values = tuple(kind(part.strip()) for part in text.split(",") if part.strip())
        except ValueError:
            raise argparse.ArgumentTypeError(f"expected values separated by commas, got {text!r}") from None
        if not values:
            raise argparse.ArgumentTypeError("expected at least one value")
        return values

    return parse
