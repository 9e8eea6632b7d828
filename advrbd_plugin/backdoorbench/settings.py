"""The settings of one run: the command line over the YAML file, as BackdoorBench's defenses take them.

Every key is read by somebody: AdvrBD's own go to :class:`advrbd_plugin.config.AdvrBDConfig`, the toolbox's to
the adapter, and those that AdvrBD has no use for are accepted on the command line, where ``compare`` passes the
same options to every defense, and said to be unused. Anything else is an error that names the key.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from advrbd_plugin.config import AdvrBDConfig
from advrbd_plugin.errors import AdvrBDError

# BackdoorBench's name for what AdvrBDConfig calls otherwise.
TOOLBOX_NAMES = {
    "lr": "learning_rate",
    "random_seed": "seed",
    "sgd_momentum": "momentum",
    "wd": "weight_decay",
    "amp": "mixed_precision",
}

ADAPTER_KEYS = {
    "result_file": "the record's name: record/NAME must hold an attack_result.pt",
    "yaml_path": "the configuration file",
    "device": "cuda, cuda:1 or cpu",
    "dataset": "the dataset's name; without it, the one that was attacked",
    "dataset_path": "where the datasets lie, if not beside record/",
    "model": "the architecture to train; without it, the attacked one",
    "checkpoint_save": "where unfinished work is kept, so that a run that was killed goes on",
    "log": "where the log is written",
    "trust_record": "unpickle whatever the record holds; it can run any code that its maker put there",
    "local_data": "take the dataset's files as they are: no download and no checksum",
}
FLAGS = ("trust_record", "local_data")

UNUSED_KEYS = (
    "checkpoint_load",
    "client_optimizer",
    "frequency_save",
    "index",
    "lr_scheduler",
    "non_blocking",
    "num_workers",
    "pin_memory",
    "prefetch",
    "ratio",
    "steplr_gamma",
    "steplr_milestones",
    "steplr_stepsize",
)


@dataclass(frozen=True)
class Settings:
    """One run's settings.

    Attributes:
        config: AdvrBD's own.
        options: the adapter's, by the names of ``ADAPTER_KEYS`` (``None`` where not given).
        unused: what was given and AdvrBD has no use for.
    """

    config: AdvrBDConfig
    options: dict[str, Any]
    unused: tuple[str, ...]


def add_arguments(parser: argparse.ArgumentParser, default_yaml: str) -> None:
    """Add BackdoorBench's common options and AdvrBD's own, all without defaults: those are the YAML file's."""
    for name, meaning in ADAPTER_KEYS.items():
        if name in FLAGS:
            parser.add_argument(
                f"--{name}", f"--{name.replace('_', '-')}", action="store_const", const=True, help=meaning
            )
        else:
            default = default_yaml if name == "yaml_path" else None
            parser.add_argument(f"--{name}", default=default, help=meaning)
    for name in UNUSED_KEYS:
        parser.add_argument(f"--{name}", help="accepted as BackdoorBench's defenses do; AdvrBD has no use for it")
    for name in config_keys():
        parser.add_argument(f"--{name}", type=_yaml_value, help="see docs/backdoorbench.md")


def config_keys() -> tuple[str, ...]:
    """AdvrBD's own settings, under the names that BackdoorBench's users know."""
    return ("preset", *(_toolbox_name(field.name) for field in dataclasses.fields(AdvrBDConfig)))


def takes_option(option: str) -> bool:
    """Whether AdvrBD's scripts know ``option`` (``--epochs``)."""
    name = option.removeprefix("--").replace("-", "_")
    return name in (*ADAPTER_KEYS, *UNUSED_KEYS, *config_keys())


def read_settings(arguments: Mapping[str, Any]) -> Settings:
    """Merge the command line (values that are not ``None``) over the YAML file that it names.

    Raises:
        AdvrBDError: the file is missing or no YAML, a key is read by nobody, or a value is out of range.
    """
    given = {key: value for key, value in arguments.items() if value is not None and key != "terminal_info"}
    merged = read_yaml(Path(given["yaml_path"])) | given
    where = f"{given['yaml_path']} or the command line"
    known = {*ADAPTER_KEYS, *UNUSED_KEYS, *config_keys(), *TOOLBOX_NAMES.values()}
    for key in merged:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"AdvrBD's keys are {', '.join(sorted(config_keys()))}"
            raise AdvrBDError(f"{where}: nobody reads the key {key}; {hint}")
    # The toolbox's name first, so that the command line's --lr stands over a file's learning_rate.
    own = {key: value for key, value in merged.items() if key in TOOLBOX_NAMES.values() and value is not None}
    own |= {TOOLBOX_NAMES.get(key, key): merged[key] for key in config_keys() if merged.get(key) is not None}
    try:
        config = AdvrBDConfig.from_mapping(own)
    except AdvrBDError as error:
        raise AdvrBDError(f"{where}: {error}") from error
    return Settings(
        config=config,
        options={key: merged.get(key) for key in ADAPTER_KEYS},
        unused=tuple(key for key in UNUSED_KEYS if merged.get(key) is not None),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of keys and plain values. Raises AdvrBDError if there is none or it is something else."""
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdvrBDError(f"cannot read the configuration {path}: {error.strerror}; run `advrbd register`") from error
    except yaml.YAMLError as error:
        raise AdvrBDError(f"{path} is no YAML: {' '.join(str(error).split())}") from error
    if content is not None and not isinstance(content, dict):
        raise AdvrBDError(f"{path} must hold keys and values, got a {type(content).__name__}")
    return content or {}


def _toolbox_name(name: str) -> str:
    return next((toolbox for toolbox, own in TOOLBOX_NAMES.items() if own == name), name)


def _yaml_value(text: str) -> Any:
    """A value of the command line, read as the YAML file would hold it (``0.1``, ``true``, ``[1, 2]``)."""
    try:
        return yaml.safe_load(text)
    except yaml.YAMLError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, word or list") from None
