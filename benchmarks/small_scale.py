"""What the benchmarks share: the data and models of ``advrbd reproduce --scale small``, options and result files."""

from __future__ import annotations

import argparse
import datetime
import os
import re
import sys
from pathlib import Path
from typing import Any

from advrbd_plugin.evaluation.cell import NO_ATTACK, POISON_RATIO, TARGET_LABEL
from advrbd_plugin.evaluation.scales import SCALES

WORK = "out/benchmark"
MODEL = SCALES["small"].model
SETTINGS = SCALES["small"].settings


def add_arguments(parser: argparse.ArgumentParser, attacks: str) -> None:
    """The options that say which models are taken, and where the results go."""
    parser.add_argument("--data", default="../shared/data/cifar10", help="folder with train and test, or their zips")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--attacks", default=attacks)
    parser.add_argument("--poison-ratio", type=float, default=POISON_RATIO)
    parser.add_argument(
        "--set-attack",
        dest="attack_settings",
        metavar="KEY=VALUE",
        action="append",
        default=[],
        type=_attack_setting,
        help="a parameter of every attack of this run, such as strength=1.0; may be given several times",
    )
    parser.add_argument("--epochs", type=int, help="of the backdoored model's training (default: the small scale's)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", default="benchmarks/results")
    parser.add_argument("--work", default=WORK)


def _attack_setting(text: str) -> tuple[str, Any]:
    from advrbd_plugin.cli.options import setting

    key, value = setting(text)
    if key in ("target_label", "poison_ratio"):
        raise argparse.ArgumentTypeError(
            f"{key} is not set here: the ratio is --poison-ratio, the target {TARGET_LABEL}"
        )
    # The value becomes a part of file names.
    if not isinstance(value, (bool, int, float)) and not (isinstance(value, str) and re.fullmatch(r"[\w.+-]+", value)):
        raise argparse.ArgumentTypeError(f"{key} must be a number or a plain word, got {text!r}")
    return key, value


def check_data(arguments: argparse.Namespace, *, unpoisoned: bool = False) -> None:
    """Exit with one line where there is no data, or an option is wrong; ``unpoisoned`` allows the attack ``none``."""
    from advrbd_plugin.attacks import make_attack
    from advrbd_plugin.errors import AdvrBDError

    if not Path(arguments.data).is_dir():
        sys.exit(f"benchmarks/{_script()}: {arguments.data} is missing: give --data a folder with train and test")
    try:
        _config(arguments)
        for name in arguments.attacks.split(","):
            if name != NO_ATTACK or not unpoisoned:
                make_attack(name, **_parameters(arguments))
    except AdvrBDError as error:
        sys.exit(f"benchmarks/{_script()}: {error}")


def load(data: str, samples: int, seed: int):
    """(train, test) image sets of a folder with both; the training set is a stratified draw of ``samples``."""
    from advrbd_plugin.data import load_folder

    parts = []
    for part, count in (("train", samples), ("test", None)):
        place = Path(data) / part
        place = place if place.exists() else place.with_suffix(".zip")
        names = parts[0].class_names if parts else None
        parts.append(load_folder(place, samples=count, seed=seed, class_names=names).image_set)
    return parts


def model_for(image_set):
    """Builds a freshly initialised network for these images."""
    from advrbd_plugin.report import ModelDescription

    return ModelDescription.for_images(MODEL, image_set).build


def attack_of(name: str, arguments: argparse.Namespace):
    """The attack of this name with the run's parameters; ``None`` for ``none``."""
    from advrbd_plugin.attacks import make_attack

    if name == NO_ATTACK:
        return None
    return make_attack(name, **_parameters(arguments))


def _parameters(arguments: argparse.Namespace) -> dict[str, Any]:
    more = dict(arguments.attack_settings)
    return {"target_label": TARGET_LABEL, "poison_ratio": arguments.poison_ratio, **more}


def poison(attack, train, arguments: argparse.Namespace):
    """The training set after the attack, with the truth."""
    from advrbd_plugin.attacks import no_attack

    return no_attack(train) if attack is None else attack.poison(train, seed=arguments.seed)


def backdoored_model(name: str, arguments: argparse.Namespace, samples):
    """The model trained on a poisoned set; found again where ``advrbd reproduce`` or a benchmark trained it."""
    return defense_for(name, arguments, samples).train_backdoored(samples).model


def defense_for(name: str, arguments: argparse.Namespace, samples, **changes: Any):
    """AdvrBD with ``changes`` of its settings, whose stages are those of ``advrbd reproduce`` where it ran them."""
    from advrbd_plugin import AdvrBD
    from advrbd_plugin.evaluation.cell import UNDEFENDED, Cell
    from advrbd_plugin.evaluation.experiment import work_folder

    ratio = 0.0 if name == NO_ATTACK else arguments.poison_ratio
    folder = work_folder(Cell("small", "cifar10", MODEL, name, ratio, arguments.seed, UNDEFENDED))
    work = Path(arguments.work) / (folder + _more_than_usual(name, arguments))
    return AdvrBD(model_for(samples), _config(arguments).replace(**changes), work_dir=work)


def _config(arguments: argparse.Namespace):
    from advrbd_plugin import AdvrBDConfig

    config = AdvrBDConfig(seed=arguments.seed).replace(**SETTINGS)
    return config if arguments.epochs is None else config.replace(epochs=arguments.epochs)


def variant(name: str, arguments: argparse.Namespace) -> str:
    """The attack's name with whatever is not the default, for names of files: ``wanet-0.1-strength=1-epochs40``."""
    unusual = name != NO_ATTACK and arguments.poison_ratio != POISON_RATIO
    return name + (f"-{arguments.poison_ratio:g}" if unusual else "") + _more_than_usual(name, arguments)


def _more_than_usual(name: str, arguments: argparse.Namespace) -> str:
    settings = {} if name == NO_ATTACK else dict(arguments.attack_settings)
    parts = [f"{key}={_plain(settings[key])}" for key in sorted(settings)]
    if arguments.epochs not in (None, SETTINGS["epochs"]):
        parts.append(f"epochs{arguments.epochs}")
    return "".join(f"-{part}" for part in parts)


def _plain(value: Any) -> Any:
    """1.0 as 1, so that one setting has one name."""
    return int(value) if isinstance(value, float) and value.is_integer() else value


def made_now() -> dict[str, Any]:
    """What a result of now bears: the day, the algorithm, the versions of libraries, the commit and the machine."""
    from advrbd_plugin.environment import commit, hardware, versions
    from advrbd_plugin.evaluation.algorithm import current_algorithm

    return {
        "date": datetime.date.today().isoformat(),
        "algorithm": current_algorithm(),
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
    }


def write_results(name: str, arguments: argparse.Namespace, rows: list[dict], table: str, **more: Any) -> None:
    """Write FOLDER/NAME.json, which with ``more`` says how the rows were made, and the table as NAME.md."""
    from advrbd_plugin.files import write_json, write_text

    about = {
        "command": f"python benchmarks/{_script()}",
        "samples": arguments.samples,
        **more,
        "poison_ratio": arguments.poison_ratio,
        "attack_settings": dict(arguments.attack_settings),
        "target_label": TARGET_LABEL,
        "model": MODEL,
        "training_epochs": _config(arguments).epochs,
        "seed": arguments.seed,
        **made_now(),
    }
    write_json(Path(arguments.out) / f"{name}.json", about | {"rows": rows})
    write_text(Path(arguments.out) / f"{name}.md", table)
    print(f"\n{table}")


def without_paths(text: str, checkout: Path) -> str:
    """A message as it may be published: no place on this machine is left but the names of files."""
    text = re.sub(r"\s*\(see [^)]*\)$", "", text)
    for place in {os.fspath(checkout), os.path.realpath(checkout)}:
        text = text.replace(f"{place}/", "").replace(place, "the checkout")
    return re.sub(r"(?<![\w./])~?/(?:[^\s/'\":,()]+/)*([^\s/'\":,()]+)", r"\1", text)


def _script() -> str:
    return Path(sys.argv[0]).name
