"""``advrbd repair``: a backdoored model and a few clean samples in, a repaired model out."""

from __future__ import annotations

import argparse
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrbd_plugin.cli import option_file
from advrbd_plugin.cli.data import add_data_options
from advrbd_plugin.cli.defend import FINISHED_BEFORE, reading, show_summary, tell_about_reading
from advrbd_plugin.cli.evaluate import load_for_model, model_folder
from advrbd_plugin.cli.options import (
    PRESETS,
    add_device_option,
    add_network_option,
    add_output_options,
    add_telling_options,
    check_device,
    positive,
    setting,
    with_file_settings,
)
from advrbd_plugin.errors import AdvrBDError

if TYPE_CHECKING:
    from advrbd_plugin.ulrl import ULRLConfig


def add_commands(commands: argparse._SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "repair",
        help="repair a backdoored model with few clean samples, or with none (ULRL)",
        description="MODEL is a folder that `advrbd defend` wrote, or model.safetensors with model.json beside it. "
        "DATA is of any kind that docs/data.md lists; of a set with several parts the training part is read. "
        "The same command goes on with a run that was stopped, and shows one that is finished.",
    )
    parser.add_argument("model", metavar="MODEL", help="a folder with model.safetensors and model.json")
    source = parser.add_mutually_exclusive_group(required=True)
    source.add_argument("--data", metavar="DATA", help="clean images, one sub-folder a class; 1%% of a set will do")
    source.add_argument(
        "--clean-from-poisoned",
        metavar="DATA",
        help="the untrusted training set of MODEL: AdvrBD picks clean samples from it",
    )
    add_output_options(parser, required=True, help="a new or empty folder for the results")
    parser.add_argument(
        "--samples",
        type=positive,
        help="use so many clean samples (default: all of --data, a fifth of --clean-from-poisoned)",
    )
    parser.add_argument("--preset", choices=PRESETS, help="a built-in configuration (default: robust)")
    parser.add_argument("--seed", type=int, help="same seed, same result (default: the configuration's)")
    parser.add_argument(
        "--set",
        dest="settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=setting,
        help="override any configuration key; may be given several times",
    )
    add_network_option(parser)
    add_data_options(parser, sizes=False)
    add_device_option(parser)
    add_telling_options(parser)
    parser.set_defaults(run=run, interrupted="run the same command again to go on from here")


def run(arguments: argparse.Namespace) -> int:
    """Read model and samples, repair the model, write the results and print a summary."""
    from advrbd_plugin.cli.progress import make_progress
    from advrbd_plugin.nn.model_file import MODEL_WEIGHTS
    from advrbd_plugin.report import OutputFolder, load_model
    from advrbd_plugin.report.identity import RunIdentity, contents_of
    from advrbd_plugin.report.repair_page import RepairRecord, repair_files, summarise_repair
    from advrbd_plugin.report.text import file_bytes
    from advrbd_plugin.ulrl import ULRL, clean_from_poisoned

    config = _make_config(arguments)
    check_device(arguments.device)
    from_poisoned = arguments.data is None
    data = arguments.clean_from_poisoned if from_poisoned else arguments.data
    source = model_folder(arguments.model)
    _refuse_models_folder(arguments.out, source)
    out = OutputFolder(arguments.out, data=data, overwrite=arguments.overwrite)
    with out, make_progress() as progress:
        found = load_model(source, model=arguments.network)
        model, description = found.network, found.description
        loaded = load_for_model(
            data,
            arguments,
            "train",
            description,
            samples=None if from_poisoned else arguments.samples,
            seed=config.seed,
            on_progress=reading(progress),
        )
        progress.finish()
        tell_about_reading(progress, loaded)
        clean_set, suspects, attacked, notes = loaded.image_set, None, None, loaded.notes
        options = {"clean_from_poisoned": from_poisoned, "samples": arguments.samples}
        contents = contents_of(clean_set, model=model)
        summary = out.begin(RunIdentity("repair", data, contents, options, config.to_mapping()))
        if summary is not None:
            progress.note(FINISHED_BEFORE)
        else:
            repair = ULRL(config, device=arguments.device, work_dir=out.work, progress=progress)
            if from_poisoned:
                picked = clean_from_poisoned(
                    model.to(repair.device), clean_set, arguments.samples, seed=config.seed, progress=progress
                )
                clean_set, suspects, attacked = picked.clean_set, picked.suspect_set, picked.suspected_classes
                count = 0 if suspects is None else len(suspects)
                notes += (f"{len(clean_set):,} images were taken as clean and {count:,} as likely poisoned.",)
            result = repair.repair(model, clean_set, suspect_set=suspects, attacked_labels=attacked)
            record = RepairRecord(
                arguments.model, data, from_poisoned, clean_set, result, description, loaded.left_out, notes
            )
            summary = summarise_repair(record)
            used = option_file.effective(arguments, config.to_mapping())
            files = {**repair_files(record, summary), "config.yaml": file_bytes(used)}
            summary = out.write_files({MODEL_WEIGHTS: result.model}, description, result.curves, files, summary)
    show_summary(arguments, summary, _summary_rows, "ULRL")
    return 0


def _make_config(arguments: argparse.Namespace) -> ULRLConfig:
    from advrbd_plugin.ulrl import ULRLConfig

    config = with_file_settings(ULRLConfig.preset(arguments.preset or PRESETS[0]), arguments)
    seed = {} if arguments.seed is None else {"seed": arguments.seed}
    return config.replace(**(seed | dict(arguments.settings)))


def _refuse_models_folder(out: str, model: Path) -> None:
    if Path(out).resolve() == model.resolve():
        raise AdvrBDError(f"--out {out} is the folder of MODEL, which would be replaced: give a new or empty folder")


def _summary_rows(summary: Mapping[str, Any], out: str) -> Iterable[tuple[str, str]]:
    return (
        ("clean samples", f"{summary['clean_samples']:,}"),
        ("verdict", summary["verdict"]),
        ("suspected target classes", ", ".join(summary["suspected_classes"]) or "none"),
        ("suspicious neurons", f"{summary['suspicious_neurons']:,}"),
        ("results", f"{out} (open report.html)"),
    )
