"""The settings of one run: the command line over the YAML file, as BackdoorBench's defenses take them.

The method's own keys go to its configuration (AdvrBD's, unless another is named) and the toolbox's to the adapter. Keys
that the method does not use are accepted, since ``compare`` passes the same options to every defense, and listed as
unused. Any other key is an error that names it.
"""

from __future__ import annotations

import argparse
import dataclasses
import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

from advrbd_plugin import plain
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.settings import Settings as MethodSettings

ConfigT = TypeVar("ConfigT", bound=MethodSettings)

# BackdoorBench's name -> ours, where they differ.
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
    "local_data": "read the dataset's files without download or checksum",
}
FLAGS = ("trust_record", "local_data", "clean_from_poisoned")
CLEAN_SAMPLE_KEYS = {
    "ratio": "share of the clean training set that the method is given",
    "index": "a file of the clean samples' positions, one a line, in place of --ratio",
    "clean_from_poisoned": "take them from the poisoned training set by AdvrBD's scores, in place of --ratio",
}

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
# What AdvrBD uses; other methods do not use some of them.
TRAINING_KEYS = ("epochs", "batch_size", *TOOLBOX_NAMES)


@dataclass(frozen=True)
class Settings(Generic[ConfigT]):
    """One run's settings.

    Attributes:
        config: the method's own.
        options: the adapter's, by the names of ``ADAPTER_KEYS`` and ``CLEAN_SAMPLE_KEYS`` (``None`` if not given).
        unused: keys that were given and that the method does not use.
    """

    config: ConfigT
    options: dict[str, Any]
    unused: tuple[str, ...]


def add_arguments(
    parser: argparse.ArgumentParser,
    default_yaml: str,
    config_class: type[MethodSettings] = AdvrBDConfig,
    *,
    clean_samples: bool = False,
) -> None:
    """Add BackdoorBench's common options and the method's own, all without defaults: the YAML file has them.

    Args:
        config_class: the method's configuration.
        clean_samples: whether it is given clean samples (``--ratio``, ``--index``).
    """
    for name, meaning in _adapter_keys(clean_samples).items():
        if name in FLAGS:
            parser.add_argument(
                f"--{name}", f"--{name.replace('_', '-')}", action="store_const", const=True, help=meaning
            )
        else:
            default = default_yaml if name == "yaml_path" else None
            parser.add_argument(f"--{name}", default=default, help=meaning)
    for name in _unused_keys(config_class, clean_samples):
        parser.add_argument(f"--{name}", help="accepted as by BackdoorBench's defenses; without effect here")
    for name in config_keys(config_class):
        parser.add_argument(f"--{name}", type=yaml_value, help="see the docs of advrbd_plugin")


def config_keys(config_class: type[MethodSettings] = AdvrBDConfig) -> tuple[str, ...]:
    """The method's own settings, under the names that BackdoorBench's users know."""
    names = [each.name for each in dataclasses.fields(config_class)]
    return ("preset", *map(_toolbox_name, names))


def takes_option(
    option: str, config_class: type[MethodSettings] = AdvrBDConfig, *, clean_samples: bool = False
) -> bool:
    """Whether the method's scripts take ``option`` (``--epochs``)."""
    name = option.removeprefix("--").replace("-", "_")
    unused = _unused_keys(config_class, clean_samples)
    return name in (*_adapter_keys(clean_samples), *unused, *config_keys(config_class))


def read_settings(
    arguments: Mapping[str, Any], config_class: type[ConfigT], *, clean_samples: bool = False
) -> Settings[ConfigT]:
    """Merge the command line (values that are not ``None``) over the YAML file that it names.

    Raises:
        AdvrBDError: the file is missing or no YAML, a key is read by nobody, or a value is out of range.
    """
    given = {key: value for key, value in arguments.items() if value is not None and key != "terminal_info"}
    merged = read_yaml(Path(given["yaml_path"])) | given
    where = f"{given['yaml_path']} or the command line"
    adapter, keys = _adapter_keys(clean_samples), config_keys(config_class)
    unused = _unused_keys(config_class, clean_samples)
    own_names = {TOOLBOX_NAMES[key] for key in keys if key in TOOLBOX_NAMES} | set(config_class.renamed)
    known = {*adapter, *unused, *keys, *own_names}
    for key in merged:
        if key not in known:
            close = difflib.get_close_matches(key, sorted(known), n=1)
            hint = f"did you mean {close[0]}?" if close else f"the method's keys are {', '.join(sorted(keys))}"
            raise AdvrBDError(f"{where}: unknown key {key}; {hint}")
    # The toolbox's name first, so that the command line's --lr stands over a file's learning_rate.
    own = {key: value for key, value in merged.items() if key in own_names and value is not None}
    own |= {TOOLBOX_NAMES.get(key, key): merged[key] for key in keys if merged.get(key) is not None}
    try:
        config = config_class.from_mapping(own)
    except AdvrBDError as error:
        raise AdvrBDError(f"{where}: {error}") from error
    return Settings(
        config=config,
        options={key: merged.get(key) for key in adapter},
        unused=tuple(key for key in unused if merged.get(key) is not None),
    )


def read_yaml(path: Path) -> dict[str, Any]:
    """Read a file of keys and plain values. Raises AdvrBDError if there is none or it is something else."""
    if not path.is_file():
        raise AdvrBDError(f"cannot read the configuration {path}: there is no such file; run `advrbd register`")
    content = plain.read_yaml(path)
    if content is not None and not isinstance(content, dict):
        raise AdvrBDError(f"{path} must hold keys and values, got a {type(content).__name__}")
    return content or {}


def _adapter_keys(clean_samples: bool) -> dict[str, str]:
    return ADAPTER_KEYS | (CLEAN_SAMPLE_KEYS if clean_samples else {})


def _unused_keys(config_class: type[MethodSettings], clean_samples: bool) -> tuple[str, ...]:
    """Options that every defense of the toolbox takes and this method does not use."""
    used = {*_adapter_keys(clean_samples), *config_keys(config_class)}
    return tuple(key for key in (*UNUSED_KEYS, *TRAINING_KEYS) if key not in used)


def _toolbox_name(name: str) -> str:
    return next((toolbox for toolbox, own in TOOLBOX_NAMES.items() if own == name), name)


def yaml_value(text: str) -> Any:
    """A value of the command line, read as the YAML file would hold it (``0.1``, ``true``, ``[1, 2]``)."""
    try:
        return plain.parse_yaml(text, "the value")
    except AdvrBDError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number, word or list") from None
