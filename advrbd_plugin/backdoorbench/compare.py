"""Running several defenses of the checkout on several records, each in a process of its own, and judging them alike.

Every defended model is judged here, on the same images with the same code, from the ``defense_result.pt`` that the
defense left: the defenses' own CSV files have their metrics in different places. A cell of the table is one
(record, defense) pair; its figures are kept in ``record/NAME/defense/DEFENSE/compare.json``, and a cell that is
finished is not run again.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import advrbd_plugin
from advrbd_plugin.backdoorbench import safe_pickle
from advrbd_plugin.backdoorbench.record import AttackRecord, read_record, record_folder
from advrbd_plugin.backdoorbench.run import value_of
from advrbd_plugin.backdoorbench.script_notes import SCRIPT_NOTES, ScriptNote
from advrbd_plugin.backdoorbench.scripts import methods_named
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.files import write_json

if TYPE_CHECKING:
    from torch import nn

UNDEFENDED = "none"


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
class Cell:
    """One defense on one record; all shares are fractions, ``None`` where there is no figure.

    Attributes:
        record, defense: which one; the defense ``none`` is the attacked model itself.
        acc, asr, ra: clean accuracy, attack success rate and robust accuracy of the defended model.
        tpr, fpr: of the detection, where the method has one.
        seconds: wall time of the defense and its detection.
        peak_memory_bytes: the largest resident size of their processes.
        peak_cuda_bytes: the most that PyTorch had allocated on the GPU.
        problem: why there is no result, in one line.
        options: what the scripts were given.
    """

    record: str
    defense: str
    acc: float | None = None
    asr: float | None = None
    ra: float | None = None
    tpr: float | None = None
    fpr: float | None = None
    seconds: float | None = None
    peak_memory_bytes: int | None = None
    peak_cuda_bytes: int | None = None
    problem: str | None = None
    options: tuple[str, ...] = ()


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
class _Method:
    """A defense's scripts; a method has one or both."""

    name: str
    defense: Path | None
    detection: Path | None


def compare(plan: Plan, tell: Callable[[str], None] = print) -> list[Cell]:
    """Run what has no result yet and return every cell, record by record, the undefended model first.

    A defense that fails becomes a cell with its problem; the others go on.

    Raises:
        AdvrBDError: a record, a defense or an option is unknown. Nothing is run then.
    """
    methods = [_find_method(plan.checkout, name) for name in plan.defenses]
    folders = [record_folder(plan.checkout, name) for name in plan.records]
    _check_options(plan, methods)
    cells = []
    clock = _Clock(len(folders) * len(methods), tell)
    for folder in folders:
        judge = Judge(plan, folder)
        cells.append(judge.undefended())
        for method in methods:
            cells.append(_cell(plan, judge, method, clock))
    return cells


def _cell(plan: Plan, judge: Judge, method: _Method, clock: _Clock) -> Cell:
    name = f"{judge.record.name} / {method.name}"
    cell = _kept_cell(plan, judge, method)
    if cell is not None:
        clock.keep(name)
        return cell
    clock.begin(name)
    cell = _run_cell(plan, judge, method)
    clock.end(cell.problem or f"{cell.seconds:.0f} s")
    return cell


def _kept_cell(plan: Plan, judge: Judge, method: _Method) -> Cell | None:
    """The finished cell, judged again if its model is newer than its figures; ``None`` if there is none."""
    if plan.rerun:
        return None
    notes = _notes_path(judge.record, method.name)
    cell = _read_cell(notes)
    result = _defense_folder(judge.record, method.name) / "defense_result.pt"
    if method.defense is not None and not _is_result(result):
        return None
    if method.defense is None and _detection_rates(judge.record, method.name) is None:
        return None
    if cell is not None and cell.problem is not None:
        return None
    if cell is not None and (not result.exists() or notes.stat().st_mtime >= result.stat().st_mtime):
        return cell
    cell = _judged(judge, method, Cell(judge.record.name, method.name))
    _write_cell(notes, cell)
    return cell


def _run_cell(plan: Plan, judge: Judge, method: _Method) -> Cell:
    cell = Cell(judge.record.name, method.name)
    scripts = [script for script in (method.defense, method.detection) if script is not None]
    for script in scripts:
        is_detection = script == method.detection
        if is_detection and method.defense and (not plan.detect or _has_own_detection(judge.record, method.name)):
            continue
        arguments = _arguments(plan, judge.record, method, script)
        report, problem = _run(plan, judge.record, method, script, arguments)
        cell = replace(
            cell,
            seconds=(cell.seconds or 0.0) + report["seconds"],
            peak_memory_bytes=_larger(cell.peak_memory_bytes, report.get("peak_memory_bytes")),
            peak_cuda_bytes=_larger(cell.peak_cuda_bytes, report.get("peak_cuda_bytes")),
            options=(*cell.options, *arguments),
            problem=problem,
        )
        if problem is not None:
            break
    if cell.problem is None or method.defense is not None and _is_fresh(judge.record, method.name, cell):
        cell = _judged(judge, method, cell)
    _write_cell(_notes_path(judge.record, method.name), cell)
    return cell


def _judged(judge: Judge, method: _Method, cell: Cell) -> Cell:
    """Fill in what the files that the method left say."""
    rates = _detection_rates(judge.record, method.name) or (None, None)
    cell = replace(cell, tpr=rates[0], fpr=rates[1])
    if method.defense is None:
        return cell
    path = _defense_folder(judge.record, method.name) / "defense_result.pt"
    try:
        figures = judge.model_file(path)
    except AdvrBDError as error:
        return replace(cell, problem=cell.problem or str(error))
    return replace(cell, acc=figures["test_acc"], asr=figures["test_asr"], ra=figures["test_ra"])


class Judge:
    """Judges models on one record's test images, which are loaded when they are first needed."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._tests: Any = None
        self.record: AttackRecord = read_record(folder, trust=plan.trust_record)

    def undefended(self) -> Cell:
        """The attacked model's own figures."""
        notes = self.record.folder / "compare_undefended.json"
        cell = _read_cell(notes)
        attacked = self.record.folder / "attack_result.pt"
        if cell is not None and notes.stat().st_mtime >= attacked.stat().st_mtime:
            return cell
        from advrbd_plugin.backdoorbench.classifiers import attacked_model

        figures = self._figures(partial(attacked_model, self.record))
        cell = Cell(
            self.record.name, UNDEFENDED, acc=figures["test_acc"], asr=figures["test_asr"], ra=figures["test_ra"]
        )
        _write_cell(notes, cell)
        return cell

    def model_file(self, path: Path) -> dict[str, float]:
        """Judge the model of a ``defense_result.pt``.

        Raises:
            AdvrBDError: there is none, or it is no plain model of the toolbox.
        """
        from advrbd_plugin.backdoorbench.classifiers import load_defended_model

        return self._figures(partial(load_defended_model, path, self.record, trust=self._plan.trust_record))

    def _figures(self, load: Callable[[], nn.Module]) -> dict[str, float]:
        import torch

        from advrbd_plugin.backdoorbench.outputs import judge

        tests = self._test_sets()  # which also finds the toolbox's modules, for its models
        device = value_of(self._plan.arguments, "--device") or ("cuda" if torch.cuda.is_available() else "cpu")
        return judge(load(), tests, 256, torch.device(device))

    def _test_sets(self) -> Any:
        if self._tests is None:
            from advrbd_plugin.backdoorbench.compat import apply_mends_for_modules, take_data_as_it_is
            from advrbd_plugin.backdoorbench.datasets import load_result, test_sets

            if os.fspath(self._plan.checkout) not in sys.path:
                sys.path.insert(0, os.fspath(self._plan.checkout))
            sys.dont_write_bytecode = True  # the checkout has no .gitignore
            apply_mends_for_modules()
            if self._plan.local_data:
                take_data_as_it_is()
            path = value_of(self._plan.arguments, "--dataset_path")
            self._tests = test_sets(load_result(self.record, path), self.record)
        return self._tests


class _Clock:
    """Says which cell is at work and how long the rest may take."""

    def __init__(self, cells: int, tell: Callable[[str], None]) -> None:
        self._left = cells
        self._tell = tell
        self._ran: list[float] = []
        self._began = 0.0
        self._name = ""

    def begin(self, name: str) -> None:
        self._name, self._began = name, time.monotonic()
        expected = self._left * sum(self._ran) / len(self._ran) if self._ran else None
        eta = f", about {expected / 60:.0f} min for the {self._left} left" if expected else ""
        self._tell(f"{name}: running{eta}")

    def keep(self, name: str) -> None:
        self._left -= 1
        self._tell(f"{name}: kept, it was finished before")

    def end(self, outcome: str) -> None:
        self._left -= 1
        self._ran.append(time.monotonic() - self._began)
        self._tell(f"{self._name}: {outcome}")


def _find_method(checkout: Path, name: str) -> _Method:
    defense, detection = checkout / "defense" / f"{name}.py", checkout / "detection_pretrain" / f"{name}.py"
    method = _Method(name, defense if defense.is_file() else None, detection if detection.is_file() else None)
    if (method.defense is None and method.detection is None) or not name.strip(".") or name in ("base", "__init__"):
        if methods_named(name) is not None:
            raise AdvrBDError(f"{name} is not registered in {checkout}: run `advrbd register {checkout}`")
        known = {file.stem for folder in ("defense", "detection_pretrain") for file in (checkout / folder).glob("*.py")}
        names = sorted(known - {"base", "__init__", "dataset_load_mode", "agpd_utils", "spectre_utils"})
        raise AdvrBDError(f"--defenses: {checkout} has no {name}; it has {', '.join(names)}")
    return method


def _check_options(plan: Plan, methods: Sequence[_Method]) -> None:
    """Refuse an option that no defense of the table takes: it would be dropped without a word."""
    unknown = set(plan.arguments_for) - {method.name for method in methods}
    if unknown:
        raise AdvrBDError(f"--for {sorted(unknown)[0]}: it is not among --defenses {','.join(plan.defenses)}")
    scripts = [script for method in methods for script in (method.defense, method.detection) if script]
    for option, _ in _pairs(plan.arguments):
        if not any(_takes(script, option) for script in scripts):
            raise AdvrBDError(f"none of {', '.join(plan.defenses)} takes {option}")


def _arguments(plan: Plan, record: AttackRecord, method: _Method, script: Path) -> list[str]:
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


def _run(
    plan: Plan, record: AttackRecord, method: _Method, script: Path, arguments: Sequence[str]
) -> tuple[dict[str, Any], str | None]:
    """Run one script in its own process. Return its report and, if it failed, why."""
    folder = _defense_folder(record, method.name)
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"compare_{script.parent.name}.log"
    with tempfile.TemporaryDirectory() as workspace:
        report = Path(workspace) / "report.json"
        command = [sys.executable, "-m", "advrbd_plugin.backdoorbench", "backdoorbench", "run"]
        command += ["--backdoorbench", os.fspath(plan.checkout), "--any-version", "--report", os.fspath(report)]
        command += ["--trust-record"] * plan.trust_record + ["--local-data"] * plan.local_data
        command += [os.fspath(script.relative_to(plan.checkout)), *arguments]
        started = time.monotonic()
        with log.open("wb") as output:
            finished = subprocess.run(
                command, cwd=plan.checkout, stdout=output, stderr=subprocess.STDOUT, env=_environment(), check=False
            )
        figures = json.loads(report.read_text()) if report.is_file() else {}
    figures["seconds"] = time.monotonic() - started
    if finished.returncode == 0:
        return figures, None
    reason = _last_line(log).removeprefix("advrbd: error: ")
    return figures, f"{script.parent.name}/{script.name} failed: {reason} (see {log})"


def _environment() -> dict[str, str]:
    """This process's environment, in which the child finds the same package whatever folder it starts in."""
    home = os.fspath(Path(advrbd_plugin.__file__).resolve().parent.parent)
    paths = [home, *filter(None, [os.environ.get("PYTHONPATH")])]
    return os.environ | {"PYTHONPATH": os.pathsep.join(paths)}


def _last_line(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()]
    return lines[-1][:300] if lines else "it printed nothing"


def _defense_folder(record: AttackRecord, name: str) -> Path:
    return record.folder / "defense" / name


def _notes_path(record: AttackRecord, name: str) -> Path:
    return _defense_folder(record, name) / "compare.json"


def _is_result(path: Path) -> bool:
    """Whether a defense got as far as saving its model (a loss of NaN leaves an empty dictionary)."""
    try:
        return path.is_file() and "model" in safe_pickle.load(path)
    except (AdvrBDError, TypeError):
        return False


def _is_fresh(record: AttackRecord, name: str, cell: Cell) -> bool:
    """Whether the defense itself succeeded and only its detection failed."""
    return "detection_pretrain/" in (cell.problem or "") and _is_result(
        _defense_folder(record, name) / "defense_result.pt"
    )


def _has_own_detection(record: AttackRecord, name: str) -> bool:
    return (_defense_folder(record, name) / "detection_info.csv").is_file()


def _detection_rates(record: AttackRecord, name: str) -> tuple[float, float] | None:
    """TPR and FPR of the newest row of the method's ``detection_info.csv``, wherever the toolbox puts it."""
    places = (f"defense/{name}", f"detection/{name}_pretrain", f"detection_pretrain/{name}")
    for place in places:
        path = record.folder / place / "detection_info.csv"
        if path.is_file():
            return _rates(path.read_text(encoding="utf-8").splitlines())
    return None


def _rates(lines: Iterable[str]) -> tuple[float, float] | None:
    """The last row's rates; the toolbox repeats the header before every row."""
    header: list[str] = []
    rates = None
    for row in csv.reader(lines):
        if row and row[0] == "record":
            header = row
        elif row and header:
            values = dict(zip(header, row, strict=False))
            try:
                rates = float(values["TPR"]), float(values["FPR"])
            except (KeyError, ValueError):
                rates = None
    return rates


def _read_cell(path: Path) -> Cell | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        return Cell(**{**content, "options": tuple(content.get("options", ()))})
    except (OSError, ValueError, TypeError):
        return None


def _write_cell(path: Path, cell: Cell) -> None:
    write_json(path, asdict(cell))


def _larger(first: int | None, second: int | None) -> int | None:
    known = [value for value in (first, second) if value is not None]
    return max(known) if known else None
