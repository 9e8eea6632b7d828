"""``advrbd defend``: a folder of images in, a clean model and a verdict on every sample out."""

from __future__ import annotations

import argparse
import sys
from functools import partial
from typing import TYPE_CHECKING, Any

from advrbd_plugin.cli.options import (
    add_defense_options,
    add_output_options,
    check_device,
    check_model,
    fit_patch,
    image_size,
    make_config,
    no_detection,
    positive,
)

if TYPE_CHECKING:
    from advrbd_plugin.cli.progress import BarProgress, PlainProgress
    from advrbd_plugin.data import ImageSet, LoadedImages
    from advrbd_plugin.defense.config import AdvrBDConfig
    from advrbd_plugin.report.identity import RunIdentity

LISTED = 10
FINISHED_BEFORE = "This run was finished before, so nothing is computed again (--overwrite makes it again)."


def add_commands(commands: argparse._SubParsersAction) -> None:
    parser = commands.add_parser(
        "defend",
        help="find the poisoned samples of a data set and train a clean model",
        description="DATA is a folder with one sub-folder of images for each class, or a zip of one; or CIFAR, Tiny "
        "ImageNet, Imagenette or GTSRB as they are unpacked, whose training part is read. "
        "A run that was stopped goes on where it was when the same command is given again.",
    )
    parser.add_argument("data", metavar="DATA", help="an image folder or a zip of one")
    add_output_options(parser, required=True, help="a new or empty folder for the results")
    parser.add_argument("--image-size", type=image_size, metavar="N|HxW", help="size that all images are brought to")
    parser.add_argument("--samples", type=positive, help="use only so many images, each class in proportion")
    add_defense_options(parser)
    parser.set_defaults(run=run, interrupted="run the same command again to go on from here")


def run(arguments: argparse.Namespace) -> int:
    """Read, defend, write, and tell."""
    from advrbd_plugin.cli.progress import make_progress
    from advrbd_plugin.data import load_folder, recognise
    from advrbd_plugin.defense.pipeline import AdvrBD
    from advrbd_plugin.report import ModelDescription, OutputFolder, RunRecord

    config = make_config(arguments)
    check_model(arguments.model)
    check_device(arguments.device)
    out = OutputFolder(arguments.out, data=arguments.data, overwrite=arguments.overwrite)
    with out, make_progress() as progress:
        known = recognise(arguments.data)
        load = partial(load_folder, arguments.data) if known is None else partial(known.load, "train")
        loaded = load(
            image_size=arguments.image_size,
            samples=arguments.samples,
            seed=config.seed,
            on_progress=reading(progress),
        )
        progress.finish()
        tell_about_reading(progress, loaded)
        images = loaded.image_set
        config, notes = fit_patch(config, arguments, images.image_size)
        for note in notes:
            progress.note(note)
        summary = out.begin(defense_identity("defend", arguments, arguments.data, config, images))
        if summary is not None:
            progress.note(FINISHED_BEFORE)
        else:
            tell_about_epochs(progress, config, len(images))
            model = ModelDescription.for_images(arguments.model, images)
            defense = AdvrBD(model.build, config, device=arguments.device, work_dir=out.work, progress=progress)
            result = defense.fit(images)
            notes = [*loaded.notes, *notes]
            summary = out.write(RunRecord(arguments.data, images, result, model, loaded.left_out, tuple(notes)))
    _print_summary(summary, arguments.out)
    return 0


def defense_identity(
    command: str,
    arguments: argparse.Namespace,
    data: str,
    config: AdvrBDConfig,
    *image_sets: ImageSet,
    **options: Any,
) -> RunIdentity:
    """What decides a run's results: the sets, of which the first is defended, the settings, and further ``options``."""
    from advrbd_plugin.report.identity import RunIdentity, contents_of

    options = {"model": arguments.model, "samples": arguments.samples, "image_size": arguments.image_size, **options}
    config = config.for_samples(len(image_sets[0]))
    return RunIdentity(command, data, contents_of(*image_sets), options, config.to_mapping())


def reading(progress: BarProgress | PlainProgress, stage: str = "read images"):
    """A callback that shows files being read as a stage of ``progress``."""
    progress.start(stage)

    def report(done: int, total: int) -> None:
        progress.advance(1, files=total)

    return report


def tell_about_reading(progress: BarProgress | PlainProgress, loaded: LoadedImages) -> None:
    """What was read, what was changed, and the first files that could not be read."""
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
    """That a set is trained on for longer than usual, where its size asks for it."""
    epochs, usual = config.for_samples(samples).epochs, config.for_samples(sys.maxsize).epochs
    if epochs != usual:
        progress.note(f"Each training takes {epochs} epochs in place of {usual}, to see enough batches (--epochs).")


def _print_summary(summary: dict, out: str) -> None:
    from rich.console import Console
    from rich.table import Table

    table = Table(title="AdvrBD", show_header=False, title_justify="left")
    suspected = ", ".join(summary["suspected_classes"]) or no_detection(summary["config"]["detect_targets"])
    for name, value in (
        ("images", f"{summary['images']:,}"),
        ("called poisoned", f"{summary['poisoned']:,} ({summary['poisoned'] / summary['images']:.1%})"),
        ("labels under attack", suspected),
        ("left out (unreadable)", f"{len(summary['left_out']):,}"),
        ("results", f"{out} (open report.html)"),
    ):
        table.add_row(name, _plain(value))
    Console(file=sys.stdout).print(table)


def _plain(value: str):
    """Text that rich prints as it is: names may hold square brackets, or what no terminal should get."""
    from rich.text import Text

    from advrbd_plugin.report.text import one_line

    return Text(one_line(value))
