"""``advrbd defend``: a folder of images in, a clean model and a verdict on every sample out. ``advrbd scan``, too."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from advrbd_plugin.cli import messages, option_file, status
from advrbd_plugin.cli.data import DATA_HELP, add_data_options, read_data
from advrbd_plugin.cli.options import (
    add_defense_options,
    add_output_options,
    add_telling_options,
    check_device,
    check_model,
    fit_patch,
    make_config,
    model_maker,
    no_detection,
    starting_weights,
)
from advrbd_plugin.cli.pictures import add_store_option, read_pictures, remove_automatic_store
from advrbd_plugin.cli.status import EXPLAINED

if TYPE_CHECKING:
    import torch

    from advrbd_plugin.cli.progress import BarProgress, PlainProgress
    from advrbd_plugin.data import ImageSet, LoadedImages
    from advrbd_plugin.defense.config import AdvrBDConfig
    from advrbd_plugin.processes import Processes
    from advrbd_plugin.report.identity import RunIdentity

DATA = (
    f"DATA is {DATA_HELP}; or CIFAR, Tiny ImageNet, Imagenette or GTSRB as they are unpacked. Of a set with several "
    "parts the training part is read."
)
LISTED = 10
FINISHED_BEFORE = "This run was finished before, so nothing is computed again (--overwrite makes it again)."


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "defend",
        help="find the poisoned samples of a data set and train a clean model",
        description=f"{DATA} The same command goes on with a run that was stopped, or from a scan in the same --out, "
        "and shows one that is finished.",
        epilog=EXPLAINED,
    )
    add_defend_options(parser)
    parser.set_defaults(command="defend")


def add_defend_options(parser: argparse.ArgumentParser) -> None:
    """What ``defend`` and ``scan`` take."""
    parser.add_argument("data", metavar="DATA", help="the images with their labels")
    add_output_options(parser, required=True, help="a new or empty folder for the results")
    add_data_options(parser, samples="use only so many images, each class in proportion")
    add_store_option(parser)
    add_defense_options(parser)
    add_telling_options(parser)
    parser.add_argument("--tensorboard", metavar="FOLDER", help="write the figures of every stage for TensorBoard")
    parser.set_defaults(run=run, interrupted="run the same command again to go on from here", shares_work=True)


def run(arguments: argparse.Namespace) -> int:
    """Scan or defend the images; in the processes of ``torchrun``, if it started this one."""
    from advrbd_plugin.process_group import joined, launched

    config = make_config(arguments)
    check_model(arguments.model)
    starting_weights(arguments)
    if launched() == 1:
        check_device(arguments.device)
    with joined(arguments.device) as (processes, device):
        if processes.leads:
            found = _lead(arguments, config, processes, device)
        else:
            found = _assist(arguments, config, processes, device)
    return found if launched() == 1 else 0  # torchrun takes any other status for a failure


def _lead(arguments: argparse.Namespace, config: AdvrBDConfig, processes: Processes, device: torch.device) -> int:
    """Read the images, defend them, write the results and print a summary; the exit status."""
    from advrbd_plugin.cli.foretelling import tell_cost
    from advrbd_plugin.cli.progress import make_progress
    from advrbd_plugin.cli.tensorboard import watched
    from advrbd_plugin.data.sharing import share_images
    from advrbd_plugin.defense.pipeline import AdvrBD
    from advrbd_plugin.processes import Processes, sharing
    from advrbd_plugin.report import ModelDescription, OutputFolder, RunRecord

    out = OutputFolder(arguments.out, data=arguments.data, overwrite=arguments.overwrite)
    with out, make_progress() as progress:
        report = reading(progress)
        loaded = read_pictures(
            arguments,
            out,
            lambda: read_data(arguments.data, arguments, seed=config.seed, on_progress=report),
            seed=config.seed,
        )
        progress.finish()
        tell_about_reading(progress, loaded)
        images = loaded.image_set
        config, notes = fit_patch(config, arguments, images.image_size)
        for note in notes:
            progress.note(note)
        summary = out.begin(defense_identity(arguments.command, arguments, arguments.data, config, images))
        processes.receive(lambda: summary is None)
        if summary is not None:
            progress.note(FINISHED_BEFORE)
        else:
            share_images(images, processes)
            tell_about_epochs(progress, config, len(images))
            model = ModelDescription.for_images(arguments.model, images, fit=arguments.fit)
            make = model_maker(model, starting_weights(arguments), progress.note)
            tell_cost(progress, arguments, make, images, config)
            with watched(progress, arguments.tensorboard) as told:
                defense = AdvrBD(make, config, device=device, work_dir=out.work, progress=told)
                result = defense.scan(images) if arguments.command == "scan" else defense.fit(images)
            notes = [*loaded.notes, *notes]
            record = RunRecord(arguments.data, images, result, model, loaded.left_out, tuple(notes))
            with sharing(Processes()):  # the others have ended their part: the report's predictions are made here alone
                summary = out.write(record, more=effective_options(arguments, config))
        remove_automatic_store(out)
    show_summary(arguments, summary, _summary_rows, "AdvrBD")
    return status.of_summary(summary)


def _assist(arguments: argparse.Namespace, config: AdvrBDConfig, processes: Processes, device: torch.device) -> int:
    """Take a share of the work of :func:`_lead`, which has all files and the screen."""
    from advrbd_plugin.data.sharing import share_images
    from advrbd_plugin.defense.pipeline import AdvrBD
    from advrbd_plugin.nn.description import ModelDescription

    messages.hush()
    if processes.receive(lambda: None):
        images = share_images(None, processes)
        config, _ = fit_patch(config, arguments, images.image_size)
        model = ModelDescription.for_images(arguments.model, images, fit=arguments.fit)
        make = model_maker(model, starting_weights(arguments), lambda note: None)
        defense = AdvrBD(make, config, device=device)
        if arguments.command == "scan":
            defense.scan(images)
        else:
            defense.fit(images)
    return 0


def effective_options(arguments: argparse.Namespace, config: AdvrBDConfig) -> dict[str, bytes]:
    """``config.yaml``: with ``--config`` it makes the same run again."""
    from advrbd_plugin.report.text import file_bytes

    return {"config.yaml": file_bytes(option_file.effective(arguments, config.to_mapping()))}


def show_summary(
    arguments: argparse.Namespace,
    summary: Mapping[str, Any],
    rows: Callable[[Mapping[str, Any], str], Iterable[tuple[str, str]]],
    title: str,
) -> None:
    """Print a summary as a table, as one JSON object with ``--json``, not at all with ``--quiet``."""
    if arguments.json:
        print(json.dumps({"out": arguments.out, **summary}, allow_nan=False))
    elif not arguments.quiet:
        print_rows(title, rows(summary, arguments.out))


def defense_identity(
    command: str,
    arguments: argparse.Namespace,
    data: str,
    config: AdvrBDConfig,
    *image_sets: ImageSet,
    **options: Any,
) -> RunIdentity:
    """What decides a run's results: the sets, of which the first is defended, the settings, and further ``options``."""
    from advrbd_plugin.defense.version import ALGORITHM_VERSION
    from advrbd_plugin.report.identity import RunIdentity, contents_of

    weights = starting_weights(arguments)
    options |= {
        "model": arguments.model,
        "samples": arguments.samples,
        "image_size": arguments.image_size,
        "fit": arguments.fit,
        "weights": None if weights is None else weights.digest,
        "algorithm_version": ALGORITHM_VERSION,
    }
    config = config.for_samples(len(image_sets[0]))
    return RunIdentity(command, data, contents_of(*image_sets), options, config.to_mapping())


def reading(progress: BarProgress | PlainProgress, stage: str = "read images") -> Callable[[int, int], None]:
    """Start a stage of ``progress``; the callback that is returned reports the files that are read."""
    progress.start(stage)

    def report(done: int, total: int) -> None:
        progress.advance(1, files=total)

    return report


def tell_about_reading(progress: BarProgress | PlainProgress, loaded: LoadedImages) -> None:
    """Say what was read, what was changed, and which files could not be read (the first ten)."""
    from advrbd_plugin.report.text import one_line

    images = loaded.image_set
    height, width = images.image_size
    progress.note(f"{len(images):,} images of {height}x{width} in {images.num_classes} classes.")
    for note in loaded.notes:
        progress.note(note)
    if loaded.left_out:
        progress.note(f"{len(loaded.left_out)} files could not be read and are left out:")
        for path, reason in loaded.left_out[:LISTED]:
            progress.note(f"  {one_line(path)}: {one_line(reason)}")
        if len(loaded.left_out) > LISTED:
            progress.note(f"  ... and {len(loaded.left_out) - LISTED} more (all are in summary.json)")


def tell_about_epochs(progress: BarProgress | PlainProgress, config: AdvrBDConfig, samples: int) -> None:
    """Say so where a small set is trained on for more epochs than usual."""
    epochs, usual = config.for_samples(samples).epochs, config.for_samples(sys.maxsize).epochs
    if epochs != usual:
        progress.note(f"Each training takes {epochs} epochs in place of {usual}, to see enough batches (--epochs).")


def _summary_rows(summary: Mapping[str, Any], out: str) -> Iterable[tuple[str, str]]:
    suspected = ", ".join(summary["suspected_classes"]) or no_detection(summary["config"]["detect_targets"])
    if not summary.get("trained_enough", True):
        suspected = "no verdict: the model learned too little of the images (more epochs or images would help)"
    return (
        ("images", f"{summary['images']:,}"),
        ("flagged as poisoned", f"{summary['poisoned']:,} ({summary['poisoned'] / summary['images']:.1%})"),
        ("suspected target classes", suspected),
        ("left out (unreadable)", f"{len(summary['left_out']):,}"),
        ("results", f"{out} (open report.html)"),
    )


def print_rows(title: str, rows: Iterable[tuple[str, str]]) -> None:
    """Print names and values as a table; values may hold square brackets, or what no terminal should get."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from advrbd_plugin.report.text import one_line

    table = Table("", "", title=title, show_header=False, title_justify="left")
    table.columns[1].overflow = "fold"  # a path is shown whole
    for name, value in rows:
        table.add_row(name, Text(one_line(value)))
    Console(file=sys.stdout).print(table)
