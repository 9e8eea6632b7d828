"""What each defense and detection of the toolbox needs, as ``advrbd backdoorbench run`` found on a CPU.

A script that cannot succeed, or that would fail at its end without some option, is refused before it starts. Every
script of v2.2 is listed here; ``docs/backdoorbench.md`` has the run times.
"""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from advrbd_plugin.backdoorbench.checkout import VERSION, blob_id
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.plain import read_yaml


@dataclass(frozen=True)
class Fault:
    """A mistake in the checkout's own code.

    Attributes:
        reason: what is wrong.
        file: where.
        blob: Git's id of that file in v2.2; with other contents the fault may be gone.
    """

    reason: str
    file: str
    blob: str


@dataclass(frozen=True)
class ScriptNote:
    """What one script needs.

    Attributes:
        fault: why it always fails, or ``None``.
        options: option -> example, for options that it needs and that its configuration in the checkout leaves out.
        yaml_keys: the same for keys that it reads from its YAML file alone.
        models: the only architectures that it takes, or () if it takes all.
        not_seen: why no run on a CPU has finished, although no fault is known, or "".
        modules: what it imports beside the extra ``advrbd_plugin[backdoorbench]``: module -> name on the package index.
    """

    fault: Fault | None = None
    options: Mapping[str, str] = field(default_factory=dict)
    yaml_keys: Mapping[str, str] = field(default_factory=dict)
    models: tuple[str, ...] = ()
    not_seen: str = ""
    modules: Mapping[str, str] = field(default_factory=dict)


_SAMPLES, _LAYER = {"--clean_sample_num": "250"}, {"--target_layer": "layer4"}
_CSV = {"--csv_save_path": "figures.csv"}
_NORMALIZED = ("preactresnet18", "vgg19_bn", "densenet161", "mobilenet_v3_large", "efficientnet_b3", "convnext_tiny")
_MANY_TESTS = "it draws 1,000 clean test images, more than the small record that was tried has"
_TRAINED = "it needs a model that gives every label to some clean image, and the small record's does not"
_RUNS = ScriptNote()
_FAULTS = {
    "bnp": Fault(
        "its networks import defense.mbns, which lies in utils/defense_utils since v2.2",
        "utils/defense_utils/mbns/mbns_model/vit_mbns.py",
        "9305d61b7582a431f44153fb327d30ea17d6f58d",
    ),
    "ep": Fault(
        "its networks import defense.dde, which lies in utils/defense_utils since v2.2",
        "utils/defense_utils/dde/dde_model/conv_dde.py",
        "4e5362404acdbbc8d38d9462f2724130160c85e1",
    ),
    "nab": Fault(
        "it unpacks three values from load_config, which returns one",
        "defense/nab.py",
        "58afc055dddd666d6f02227c67413e967b4fc038",
    ),
    "scan_frac": Fault(
        "it makes its SCAn object without the argument that it needs",
        "detection_pretrain/scan_frac.py",
        "71ead1f70124d2db4cbed7502a24b84b148e6d92",
    ),
    "spectre": Fault(
        "it calls get_features without the layer that it needs",
        "detection_pretrain/spectre.py",
        "a704b2ba162635f19da10d2b73760b94593cb730",
    ),
}

SCRIPT_NOTES: dict[str, ScriptNote] = {
    "defense/abl.py": _RUNS,
    "defense/ac.py": _RUNS,
    "defense/anp.py": ScriptNote(models=(*_NORMALIZED, "vit_b_16")),
    "defense/bnp.py": ScriptNote(fault=_FAULTS["bnp"]),
    "defense/clp.py": _RUNS,
    "defense/d-br.py": _RUNS,
    "defense/d-st.py": ScriptNote(
        options={"--sgd_momentum": "0.9", "--wd": "5e-4", "--non_blocking": "True"},
        yaml_keys={"client_optimizer": "sgd"},
    ),
    "defense/dbd.py": ScriptNote(
        options={"--dataset_path": "./data"},
        models=(*_NORMALIZED, "vgg19", "vit_b_16"),
        not_seen="its self-supervised training is slow",
    ),
    "defense/ep.py": ScriptNote(fault=_FAULTS["ep"]),
    "defense/fp.py": _RUNS,
    "defense/ft-sam.py": _RUNS,
    "defense/ft.py": _RUNS,
    "defense/i-bau.py": _RUNS,
    "defense/mcr.py": _RUNS,
    "defense/nab.py": ScriptNote(fault=_FAULTS["nab"]),
    "defense/nad.py": _RUNS,
    "defense/nc.py": _RUNS,
    "defense/npd.py": ScriptNote(models=("preactresnet18",)),
    "defense/rnp.py": ScriptNote(models=("preactresnet18", "vgg19", "vgg19_bn")),
    "defense/sau.py": _RUNS,
    "defense/spectral.py": _RUNS,
    "detection_infer/sentinet.py": ScriptNote(modules={"pytorch_grad_cam": "grad-cam"}, not_seen=_MANY_TESTS),
    "detection_infer/strip.py": ScriptNote(options=_SAMPLES, not_seen=_MANY_TESTS),
    "detection_infer/teco.py": ScriptNote(
        modules={"imagecorruptions": "imagecorruptions"}, not_seen="it corrupts every test image in many ways"
    ),
    "detection_pretrain/abl.py": ScriptNote(options=_CSV),
    "detection_pretrain/ac.py": _RUNS,
    "detection_pretrain/agpd.py": ScriptNote(options=_SAMPLES | _CSV, not_seen=_TRAINED),
    "detection_pretrain/asset.py": ScriptNote(
        options=_CSV, not_seen="it takes 100 inner steps for every batch, whatever it is given"
    ),
    "detection_pretrain/beatrix.py": ScriptNote(options=_SAMPLES | _LAYER, not_seen=_TRAINED),
    "detection_pretrain/cd.py": ScriptNote(options=_CSV),
    "detection_pretrain/scan.py": ScriptNote(options=_SAMPLES | _LAYER),
    "detection_pretrain/scan_frac.py": ScriptNote(fault=_FAULTS["scan_frac"]),
    "detection_pretrain/spectral.py": ScriptNote(options=_SAMPLES | _LAYER),
    "detection_pretrain/spectre.py": ScriptNote(fault=_FAULTS["spectre"]),
    "detection_pretrain/strip.py": ScriptNote(options=_SAMPLES),
}


def refuse_hopeless(script: str, arguments: Sequence[str], checkout: Path) -> str:
    """Refuse a script of the checkout that cannot succeed; return a caution about it, or "".

    Args:
        script: its path in the checkout, with forward slashes; a script without a note is accepted.
        arguments: its command line.

    Raises:
        AdvrBDError: the script always fails, imports a package that is not installed, needs an option that neither the
            command line nor the configuration gives, or does not take the model.
    """
    note = SCRIPT_NOTES.get(script)
    if note is None:
        return ""
    if note.fault is not None and _is_there(note.fault, checkout):
        raise AdvrBDError(
            f"{script} of BackdoorBench {VERSION} runs on no machine: {note.fault.reason} ({note.fault.file}); once "
            "you fix that in the checkout, this command runs it"
        )
    absent = [package for module, package in note.modules.items() if importlib.util.find_spec(module) is None]
    if absent:
        raise AdvrBDError(f"{script} imports {absent[0]}, which is not installed: pip install {' '.join(absent)}")
    settings = _configuration(arguments, checkout) | _given(arguments)
    for option, example in note.options.items():
        if settings.get(option.removeprefix("--")) is None:
            raise AdvrBDError(f"{script} needs {option}, which its configuration leaves out: pass {option} {example}")
    for key, example in note.yaml_keys.items():
        if settings.get(key) is None:
            raise AdvrBDError(
                f"{script} needs {key}, which its configuration leaves out and no option sets: pass --yaml_path FILE, "
                f"a copy of the configuration with the line {key}: {example}"
            )
    model = settings.get("model")
    if note.models and model is not None and model not in note.models:
        raise AdvrBDError(f"{script} takes no model {model}, only {', '.join(note.models)}")
    return f"{script} has not been run to its end on a CPU: {note.not_seen}" if note.not_seen else ""


def _is_there(fault: Fault, checkout: Path) -> bool:
    path = checkout / fault.file
    return path.is_file() and blob_id(path.read_bytes()) == fault.blob


def _given(arguments: Sequence[str]) -> dict[str, str]:
    """``--a 1 --b=2`` as a mapping without the dashes."""
    given = {}
    for position, argument in enumerate(arguments):
        name, equals, value = argument.partition("=")
        if argument.startswith("--"):
            given[name[2:]] = value if equals else next(iter(arguments[position + 1 :]), "")
    return given


def _configuration(arguments: Sequence[str], checkout: Path) -> dict[str, Any]:
    """What the YAML file named on the command line holds."""
    path = checkout / _given(arguments).get("yaml_path", "")
    if not path.is_file():
        return {}
    content = read_yaml(path)
    return content if isinstance(content, dict) else {}
