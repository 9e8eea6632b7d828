"""What is compared: the scripts of each defense and what they are given."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from advrbd_plugin.backdoorbench.record import AttackRecord
from advrbd_plugin.backdoorbench.script_notes import SCRIPT_NOTES, ScriptNote
from advrbd_plugin.backdoorbench.scripts import methods_named
from advrbd_plugin.errors import AdvrBDError

# The last layer of features, where the toolbox's own defenses hook each architecture.
_FEATURE_LAYERS = {
    "preactresnet18": "layer4",
    "resnet18": "layer4",
    "resnet34": "layer4",
    "resnet_narrow": "layer4",
    "vgg19": "features",
    "vgg19_bn": "features",
    "mobilenet_v2": "features",
    "mobilenet_v3_large": "avgpool",
    "densenet161": "features",
    "efficientnet_b3": "avgpool",
    "convnext_tiny": "avgpool",
}


@dataclass(frozen=True)
class Plan:
    """What is compared and how.

    Attributes:
        checkout: the toolbox.
        records, defenses: the table's sides.
        arguments: options for every defense that knows them (``--epochs 10``).
        arguments_for: further options by defense.
        detect: also run the detection script of a method that has one.
        rerun: run finished cells again.
        trust_record, local_data: as for ``advrbd backdoorbench run``.
    """

    checkout: Path
    records: tuple[str, ...]
    defenses: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    arguments_for: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    detect: bool = True
    rerun: bool = False
    trust_record: bool = False
    local_data: bool = False


@dataclass(frozen=True)
class Method:
    """A defense's scripts; a method has one or both."""

    name: str
    defense: Path | None
    detection: Path | None

    @property
    def scripts(self) -> list[Path]:
        """Those that there are, in the order in which they are run."""
        return [script for script in (self.defense, self.detection) if script is not None]


def find_method(checkout: Path, name: str) -> Method:
    """The scripts of this name.

    Raises:
        AdvrBDError: the checkout has none.
    """
    defense, detection = checkout / "defense" / f"{name}.py", checkout / "detection_pretrain" / f"{name}.py"
    method = Method(name, defense if defense.is_file() else None, detection if detection.is_file() else None)
    if (method.defense is None and method.detection is None) or not name.strip(".") or name in ("base", "__init__"):
        if methods_named(name) is not None:
            raise AdvrBDError(f"{name} is not registered in {checkout}: run `advrbd register {checkout}`")
        known = {file.stem for folder in ("defense", "detection_pretrain") for file in (checkout / folder).glob("*.py")}
        names = sorted(known - {"base", "__init__", "dataset_load_mode", "agpd_utils", "spectre_utils"})
        raise AdvrBDError(f"--defenses: {checkout} has no {name}; it has {', '.join(names)}")
    return method


def check_options(plan: Plan, methods: Sequence[Method]) -> None:
    """Refuse an option that no script takes of those that are to have it: it would be dropped without a word.

    Raises:
        AdvrBDError: one line that names the option.
    """
    unknown = set(plan.arguments_for) - {method.name for method in methods}
    if unknown:
        raise AdvrBDError(f"--for {sorted(unknown)[0]}: it is not among --defenses {','.join(plan.defenses)}")
    scripts = [script for method in methods for script in method.scripts]
    _check_taken(plan.arguments, scripts, f"none of {', '.join(plan.defenses)} takes")
    for method in methods:
        names = ", ".join(f"{script.parent.name}/{script.name}" for script in method.scripts)
        _check_taken(plan.arguments_for.get(method.name, ()), method.scripts, f"--for {method.name}: {names} takes no")


def _check_taken(arguments: Sequence[str], scripts: Sequence[Path], refusal: str) -> None:
    for option, _ in _pairs(arguments):
        if not any(_takes(script, option) for script in scripts):
            raise AdvrBDError(f"{refusal} {option}")


def script_arguments(plan: Plan, record: AttackRecord, method: Method, script: Path) -> list[str]:
    """What ``script``, one of the method's, is given for this record."""
    kind = "defense" if script == method.defense else "detection"
    arguments = ["--result_file", record.name, "--dataset", record.clean_data, "--model", record.model_name]
    candidates = [Path("config", kind, method.name, f"{name}.yaml") for name in (record.clean_data, "config")]
    candidates += [Path("config", "defense", method.name, f"{record.clean_data}.yaml")]
    configuration = next((path for path in candidates if (plan.checkout / path).is_file()), None)
    if configuration is not None:
        arguments += ["--yaml_path", f"./{configuration.as_posix()}"]
    wanted = [*_pairs(plan.arguments), *_pairs(plan.arguments_for.get(method.name, ()))]
    needed = _left_open(record)
    note = SCRIPT_NOTES.get(f"{script.parent.name}/{script.name}", ScriptNote())
    wanted = [(option, [needed[option]]) for option in note.options if option in needed] + wanted
    for option, values in wanted:
        if _takes(script, option):
            arguments += [option, *values]
    return arguments


def _left_open(record: AttackRecord) -> dict[str, str]:
    """Values for what the toolbox's configurations leave open although its scripts stop without it."""
    layer = _FEATURE_LAYERS.get(record.model_name)
    return {
        "--clean_sample_num": "250",
        "--csv_save_path": f"./record/{record.name}/compare_detections.csv",
        "--dataset_path": "./data",
        **({"--target_layer": layer} if layer else {}),
    }


def _takes(script: Path, option: str) -> bool:
    own = methods_named(script.stem)
    if own is not None:
        return own.takes_option(option)
    text = script.read_text(encoding="utf-8")
    return f"'{option}'" in text or f'"{option}"' in text


def _pairs(arguments: Sequence[str]) -> list[tuple[str, list[str]]]:
    """``--a 1 --b 2 3`` as options with their values."""
    pairs: list[tuple[str, list[str]]] = []
    for argument in arguments:
        if argument.startswith("--"):
            option, equals, value = argument.partition("=")
            pairs.append((option, [value] if equals else []))
        elif pairs:
            pairs[-1][1].append(argument)
        else:
            raise AdvrBDError(f"{argument} belongs to no option: options for the defenses look like --epochs 10")
    return pairs
