"""``advrbd demo``: poison a data set on purpose, defend it, and compare with the truth."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrbd_plugin.cli.data import add_data_options, read_data
from advrbd_plugin.cli.defend import (
    FINISHED_BEFORE,
    defense_identity,
    effective_options,
    reading,
    tell_about_epochs,
    tell_about_reading,
)
from advrbd_plugin.cli.options import (
    add_defense_options,
    add_output_options,
    add_telling_options,
    check_device,
    check_model,
    make_config,
    model_maker,
    no_detection,
    starting_weights,
)

if TYPE_CHECKING:
    from advrbd_plugin.attacks import Attack, PoisonedSet
    from advrbd_plugin.cli.progress import BarProgress, PlainProgress
    from advrbd_plugin.data import ImageSet, LoadedImages
    from advrbd_plugin.report import RunRecord
    from advrbd_plugin.report.demonstration import Demonstration

# A copy, so that --help need not import torch with the attacks; a test compares the two.
ATTACK_NAMES = ("badnets", "blend", "sig", "wanet", "physicalba", "tact", "adaptive_blend", "adaptive_patch", "none")
DIGITS = "scikit-learn's digits"
# A mirrored digit is no digit, and 16 pixels leave no room for larger crops and patches.
DIGITS_SETTINGS = {"epochs": 20, "flip": False, "crop_padding": 1, "patch_size": 8}
_TAKES_HOLD = 0.5  # attack success rate


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "demo",
        help="poison a data set on purpose, defend it, and compare with the truth",
        description="Poisons a data set, so that the truth is known, and shows the undefended model, AdvrBD's, and "
        "how many of the poisoned samples were found.",
    )
    parser.add_argument(
        "--data",
        metavar="PATH",
        help="a folder with train and test (folders or zips), or with CIFAR, Tiny ImageNet, Imagenette or GTSRB as "
        "they are unpacked, or one image folder or zip (default: digits)",
    )
    parser.add_argument("--attack", choices=ATTACK_NAMES, default="badnets", help="default: %(default)s")
    parser.add_argument("--target", type=int, default=1, help="target class of the attack, by number (default: 1)")
    parser.add_argument(
        "--poison-ratio", type=float, default=0.05, help="share of samples that is poisoned (default: 0.05)"
    )
    add_data_options(parser, samples="train on only so many images, each class in proportion")
    add_output_options(parser, help="folder for the results (default: out/demo-DATA-ATTACK)")
    add_defense_options(parser)
    add_telling_options(parser)
    parser.set_defaults(run=run, interrupted="run the same command again to go on from here")


def run(arguments: argparse.Namespace) -> int:
    """Load a set, poison it, defend it, evaluate both models, write the results and print them."""
    from advrbd_plugin.attacks import make_attack, no_attack
    from advrbd_plugin.cli.progress import make_progress
    from advrbd_plugin.defense.pipeline import AdvrBD
    from advrbd_plugin.report import ModelDescription, OutputFolder, RunRecord
    from advrbd_plugin.report.demonstration import demonstration_png, outcome_table

    config = make_config(arguments, **(DIGITS_SETTINGS if arguments.data is None else {}))
    check_model(arguments.model)
    weights = starting_weights(arguments)
    check_device(arguments.device)
    attack = None
    if arguments.attack != "none":
        attack = make_attack(arguments.attack, target_label=arguments.target, poison_ratio=arguments.poison_ratio)
    place = arguments.out or f"out/demo-{Path(arguments.data).name if arguments.data else 'digits'}-{arguments.attack}"
    out = OutputFolder(place, data=arguments.data, overwrite=arguments.overwrite)
    with out, make_progress() as progress:
        train, test, left_out, notes = _load(arguments, config.seed, progress)
        poisoned = no_attack(train) if attack is None else attack.poison(train, seed=config.seed)
        progress.note(_what_was_done(attack, int(poisoned.poisoned.sum()), train, test))
        data = arguments.data or DIGITS
        attacked = {"attack": poisoned.attack, "target": arguments.target, "poison_ratio": arguments.poison_ratio}
        summary = out.begin(defense_identity("demo", arguments, data, config, poisoned.image_set, test, **attacked))
        if summary is not None:
            progress.note(FINISHED_BEFORE)
        else:
            tell_about_epochs(progress, config, len(train))
            model = ModelDescription.for_images(arguments.model, poisoned.image_set, fit=arguments.fit)
            make = model_maker(model, weights, progress.note)
            defense = AdvrBD(make, config, device=arguments.device, work_dir=out.work, progress=progress)
            result = defense.fit(poisoned.image_set)
            record = RunRecord(data, poisoned.image_set, result, model, left_out, notes, "demo")
            demonstration = _judge(record, train, poisoned, test, attack)
            summary = out.write(
                record,
                truth=demonstration.to_mapping(),
                comparison=outcome_table(demonstration.to_mapping()),
                more={"demo.png": demonstration_png(record, demonstration), **effective_options(arguments, config)},
            )
    if arguments.json:
        print(json.dumps({"out": place, **summary}, allow_nan=False))
    elif not arguments.quiet:
        _print_outcome(summary, place)
    return 0


def _load(
    arguments: argparse.Namespace, seed: int, progress: BarProgress | PlainProgress
) -> tuple[ImageSet, ImageSet, tuple[tuple[str, str], ...], tuple[str, ...]]:
    """(train, test, left-out training files, notes)."""
    from advrbd_plugin.data import draw_images, load_digits, split

    if arguments.data is None:
        train, test = load_digits(seed=seed)
        return draw_images(train, arguments.samples, seed=seed), test, (), ()
    parts = _parts(arguments.data)
    if parts is None:
        loaded = _read(arguments.data, arguments, None, seed, progress, "read images")
        train, test = split(loaded.image_set, seed=seed)
        train = draw_images(train, arguments.samples, seed=seed)
    else:
        loaded = _read(parts[0], arguments, arguments.samples, seed, progress, "read training images")
        train = loaded.image_set
        arguments.image_size = train.image_size
        test = _read(parts[1], arguments, None, seed, progress, "read test images", "test", train.class_names).image_set
    return train, test, loaded.left_out, loaded.notes


def _read(
    data: str,
    arguments: argparse.Namespace,
    samples: int | None,
    seed: int,
    progress: BarProgress | PlainProgress,
    stage: str,
    part: str = "train",
    class_names: tuple[str, ...] | None = None,
) -> LoadedImages:
    """Read one part of a data set, and say what was read."""
    loaded = read_data(
        data,
        arguments,
        part,
        image_size=arguments.image_size,
        class_names=class_names,
        samples=samples,
        seed=seed,
        on_progress=reading(progress, stage),
    )
    progress.finish()
    tell_about_reading(progress, loaded)
    return loaded


def _parts(data: str) -> tuple[str, str] | None:
    """Where the train and the test part are, if the data has both."""
    from advrbd_plugin.data import recognise

    if data.startswith("torchvision:") or (Path(data).is_dir() and recognise(data) is not None):
        return data, data
    for suffix in ("", ".zip", ".tar", ".csv", ".parquet"):
        parts = Path(data) / f"train{suffix}", Path(data) / f"test{suffix}"
        if all(part.exists() for part in parts):
            return str(parts[0]), str(parts[1])
    return None


def _what_was_done(attack: Attack | None, count: int, train: ImageSet, test: ImageSet) -> str:
    """One sentence on the attack."""
    from advrbd_plugin.report.text import one_line

    if attack is None:
        return f"Nothing is poisoned: {len(train):,} training images, {len(test):,} test images."
    target = one_line(train.class_names[attack.target_label])
    return (
        f"Poisoned {count:,} of {len(train):,} training images with {attack.name}, target {target!r}; "
        f"{len(test):,} test images."
    )


def _judge(
    record: RunRecord, before: ImageSet, poisoned: PoisonedSet, test: ImageSet, attack: Attack | None
) -> Demonstration:
    from advrbd_plugin.evaluation.metrics import evaluate, judge_detection
    from advrbd_plugin.report.demonstration import Demonstration

    result = record.defended
    assert result is not None  # a demonstration ends with a clean model
    triggered = None if attack is None else attack.triggered_test_set(test)
    target = None if attack is None else attack.target_label
    return Demonstration(
        before=before,
        poisoned=poisoned,
        undefended=evaluate(result.backdoored_model, test, triggered, target),
        defended=evaluate(result.model, test, triggered, target),
        detection=judge_detection(poisoned.poisoned, result.verdicts.poisoned, result.verdicts.score),
    )


def _print_outcome(summary: Mapping[str, Any], place: str) -> None:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    from advrbd_plugin.report.demonstration import outcome_table
    from advrbd_plugin.report.page import duration
    from advrbd_plugin.report.text import one_line

    outcome = outcome_table(summary["truth"])
    table = Table(title=f"AdvrBD against {outcome['attack']}", title_justify="left")
    table.add_column("model")
    for name in outcome["columns"]:
        table.add_column(name, justify="right")
    for name, values in outcome["rows"]:
        table.add_row(name, *values, style="bold" if name == "AdvrBD" else "")
    console = Console(file=sys.stdout)
    console.print(table)
    suspected = ", ".join(summary["suspected_classes"]) or no_detection(summary["config"]["detect_targets"])
    asr = summary["truth"]["undefended"]["asr"]
    if asr is not None and asr < _TAKES_HOLD:
        console.print(
            Text("The attack hardly works on these images, so there was little to defend against."), soft_wrap=True
        )
    for line in (
        "ACC: clean accuracy. ASR: triggered images given the target label. RA: given their true label.",
        "TPR, FPR: poisoned and clean training images flagged. AUROC: of the scores.",
        f"Suspected target classes: {suspected}. Time: {duration(sum(summary['seconds'].values()))}.",
        f"Results: {place} (open report.html, look at demo.png)",
    ):
        console.print(Text(one_line(line)), soft_wrap=True)
