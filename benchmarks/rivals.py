"""Detectors of others on the models that benchmarks/detection.py keeps, beside what AdvrBD's judgement of them says.

    python benchmarks/rivals.py --work out/bench [--sets badnets-s1,clean-s2] [--jobs run,report]

``run`` writes FOLDER/SET.json for each kept model and does again only what is missing there, or was measured on
another model. ``report`` writes FOLDER/table.md, and the tables between the two marks of docs/rivals.md, from these
files and from WORK/judged/SET.json; it can be run again whenever a judgement has changed. Verdicts of a method that is
run elsewhere are read from WORK/METHOD/SET.safetensors: ``poisoned``, (N,) bool, and a header ``verdicts`` (JSON: set,
settings, cpu_seconds).
The truth is read for the figures, and for the clean samples that SCAn and STRIP cannot do without.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import Tensor, nn

sys.path.insert(0, str(Path(__file__).parent))
import detection
import rival_rules as rules
from rival_tables import MARKS, tables

from advrbd_plugin.baselines.scan import scan
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.scoring import consistency_scores
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.metrics import judge_detection
from advrbd_plugin.evaluation.stress_sets import StressSet
from advrbd_plugin.files import atomic_file
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.randomness import derive_seed

ELSEWHERE = ("flare",)
CLEAN_SHARE = 0.01  # of the set, drawn from its truly clean samples
OVERLAYS = 8  # STRIP's paper takes 100


@dataclass(frozen=True, eq=False)
class Kept:
    """A model that was kept, with what it makes of its training set.

    Attributes:
        name: the set's.
        samples: the training set, as the defender is given it.
        model: the undefended model, in eval mode.
        activations: (N, M) float32, of the last hidden layer.
        clean: (K,) int64, samples that a method is told to be clean.
        seed: the set's.
    """

    name: str
    samples: ImageSet
    model: nn.Module
    activations: Tensor
    clean: Tensor
    seed: int


Result = tuple[rules.Flagged, dict[str, Any]]


def clustering(kept: Kept) -> Result:
    settings = {"components": 10, "largest_share": 0.35, "least_silhouette": 0.1}
    return rules.activation_clustering(kept.activations, kept.samples.labels, seed=kept.seed, **settings), settings


def spectral(kept: Kept) -> Result:
    settings = {"bound": 0.1, "flagged_share_of_each_label": 0.15}
    return rules.spectral_signatures(kept.activations, kept.samples.labels, bound=settings["bound"]), settings


def scan_with_clean_samples(kept: Kept) -> Result:
    labels = kept.samples.labels
    found = scan(
        kept.activations,
        labels,
        kept.activations[kept.clean],
        labels[kept.clean],
        num_classes=kept.samples.num_classes,
    )
    # The groups of labels that are not suspected get no score; the label's statistic orders them.
    score = found.score.double() + 1e-6 * found.anomaly[labels].clamp(min=0.0).tanh()
    settings = {"threshold": "exp(2)", "clean_samples": len(kept.clean), "suspected": list(found.suspected_classes)}
    return rules.Flagged(found.poisoned, score), settings


def strip(kept: Kept) -> Result:
    overlays = kept.samples.images[kept.clean[:OVERLAYS]]
    entropies = rules.overlay_entropies(partial(predict, kept.model), kept.samples.images, overlays)
    settings = {"overlays": len(overlays), "clean_samples": len(kept.clean), "false_rejection": 0.01}
    # Those that were laid over the others are left out: twice the same picture is no overlay.
    return rules.strip(entropies, entropies[kept.clean[OVERLAYS:]]), settings


def consistency(kept: Kept) -> Result:
    settings = {"epsilon": "32/255", "patch_size": 8, "num_masks": 1, "reduction": "mean"}
    scores = consistency_scores(
        kept.model,
        kept.samples.images,
        kept.samples.labels,
        epsilon=32 / 255,
        patch_size=8,
        num_masks=1,
        reduction="mean",
        seed=derive_seed(kept.seed, "patches"),
        sample_ids=kept.samples.sample_ids,
    )
    return rules.Flagged(torch.zeros(len(scores), dtype=torch.bool), -scores), settings


METHODS: dict[str, Callable[[Kept], Result]] = {
    "activation_clustering": clustering,
    "spectral_signatures": spectral,
    "scan": scan_with_clean_samples,
    "strip": strip,
    "consistency": consistency,
}
RANKS_ONLY = ("consistency",)  # it has no rule that needs no poison ratio


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="folder with train and test, or their zips")
    parser.add_argument("--work", default="out/bench", help="where benchmarks/detection.py keeps models and judgements")
    parser.add_argument("--out", default="results/rivals")
    parser.add_argument("--page", default="docs/rivals.md", help="page whose tables are written anew, where it exists")
    parser.add_argument("--sets", help="default: all whose model is kept")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--jobs", default="run,report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work, out = Path(arguments.work), Path(arguments.out)
    names = (
        arguments.sets.split(",") if arguments.sets else sorted(each.stem for each in (work / "trained").glob("*.s*"))
    )
    try:
        methods = _chosen(arguments.methods)
        if "run" in arguments.jobs:
            for name in names:
                measure(name, arguments.data, work, out, methods)
        if "report" in arguments.jobs:
            report(work, out, Path(arguments.page))
    except AdvrBDError as error:
        sys.exit(f"benchmarks/rivals.py: {error}")


def _chosen(names: str) -> list[str]:
    unknown = sorted(set(names.split(",")) - set(METHODS))
    if unknown:
        raise AdvrBDError(f"--methods must be some of {', '.join(METHODS)}, got {', '.join(unknown)}")
    return names.split(",")


def measure(name: str, data: str, work: Path, out: Path, methods: list[str]) -> None:
    """Bring FOLDER/SET.json up to date."""
    path = work / "trained" / f"{name}.safetensors"
    if not path.exists():
        raise AdvrBDError(f"no model of {name} in {path.parent}: run benchmarks/detection.py --jobs train first")
    stress = detection.load_set(name, data, work)
    trained, tensors, figures = detection._kept(name, stress, work)
    row = _row_of(name, out, stress, figures, model_fingerprint(trained.model.state_dict()))
    kept = _kept(name, stress, trained.model, tensors["features"])
    for method, (verdicts, settings, seconds) in _results(kept, row, methods, figures, work):
        row["methods"][method] = {"settings": settings, "seconds": seconds} | judged(
            stress, figures["asr"], verdicts, ranks_only=method in RANKS_ONLY
        )
        out.mkdir(parents=True, exist_ok=True)
        with atomic_file(out / f"{name}.json") as handle:
            handle.write((json.dumps(row, indent=1) + "\n").encode())
        print(name, method, json.dumps({**row["methods"][method], "settings": None}), flush=True)


def _results(
    kept: Kept, row: dict[str, Any], methods: list[str], figures: dict[str, Any], work: Path
) -> Iterator[tuple[str, tuple[rules.Flagged, dict[str, Any], float]]]:
    for method in ELSEWHERE:
        path = work / method / f"{kept.name}.safetensors"
        if path.exists():
            poisoned, rest = _verdicts(path)
            if rest["set"] != figures["set"]:
                raise AdvrBDError(f"{path} is of another set {kept.name} than the kept model: remove that file")
            yield method, (rules.Flagged(poisoned, None), rest["settings"], rest["cpu_seconds"])
    for method in methods:
        if method not in row["methods"]:
            began = time.process_time()
            verdicts, settings = METHODS[method](kept)
            yield method, (verdicts, settings, time.process_time() - began)


def judged(stress: StressSet, asr: list[float], verdicts: rules.Flagged, *, ranks_only: bool = False) -> dict[str, Any]:
    """TPR, FPR and AUROC; TPR and AUROC of the samples of learned triggers, or of all poison where none was learned."""
    learned = torch.zeros_like(stress.poisoned)
    for trigger, success in zip(stress.triggers, asr, strict=True):
        if success >= detection.LEARNED:
            learned |= trigger.poisoned
    asked = ~stress.poisoned | (learned if learned.any() else stress.poisoned)
    score = verdicts.poisoned.double() if verdicts.score is None else verdicts.score
    figures = asdict(judge_detection(stress.poisoned[asked], verdicts.poisoned[asked], score[asked]))
    figures["triggers"] = {
        each.name: float(verdicts.poisoned[each.poisoned].double().mean()) for each in stress.triggers
    }
    if ranks_only:
        figures |= {"tpr": None, "fpr": None, "triggers": {}}
    if verdicts.score is None:
        figures["auroc"] = None
    return figures


def _row_of(name: str, out: Path, stress: StressSet, figures: dict[str, Any], model: str) -> dict[str, Any]:
    """What stands in FOLDER/SET.json, or a new row where that is of another model."""
    path = out / f"{name}.json"
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    if row.get("model") == model and row.get("set") == figures["set"]:
        return row
    triggers = [
        {"name": each.name, "asr": asr, "samples": int(each.poisoned.sum())}
        for each, asr in zip(stress.triggers, figures["asr"], strict=True)
    ]
    whole = {"samples": len(stress.train), "poison": int(stress.poisoned.sum()), "triggers": triggers}
    about = {"name": name, "set": figures["set"], "model": model, "epochs": figures["epochs"], "acc": figures["acc"]}
    return about | whole | {"methods": {}}


def _kept(name: str, stress: StressSet, model: nn.Module, features: Tensor) -> Kept:
    width = [module for module in model.modules() if isinstance(module, nn.Linear)][-1].in_features
    _, seed = detection.split_name(name)
    benign = (~(stress.poisoned | stress.covers | stress.mislabelled)).nonzero().flatten()
    order = torch.randperm(len(benign), generator=torch.Generator().manual_seed(derive_seed(seed, "clean samples")))
    clean = benign[order[: round(CLEAN_SHARE * len(stress.train))]]
    # The penultimate features come last in the layered ones, but for a shift and a scale.
    return Kept(name, stress.train, model, features[:, -width:], clean, seed)


def model_fingerprint(state: dict[str, Tensor]) -> str:
    """Of a model's weights and buffers."""
    hasher = hashlib.sha256()
    for key in sorted(state):
        hasher.update(key.encode() + state[key].contiguous().numpy().tobytes())
    return hasher.hexdigest()[:16]


def _verdicts(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """What a method that was run elsewhere said."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        return handle.get_tensor("poisoned"), json.loads(handle.metadata()["verdicts"])


def report(work: Path, out: Path, page: Path) -> None:
    """table.md and the page's tables from the measured sets and AdvrBD's judgements of the same."""
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    if not rows:
        raise AdvrBDError(f"nothing was measured yet in {out}: add the job run")
    paths = {row["name"]: work / "judged" / f"{row['name']}.json" for row in rows}
    ours = {name: json.loads(path.read_text()) for name, path in paths.items() if path.exists()}
    text = tables(rows, ours)
    with atomic_file(out / "table.md") as handle:
        handle.write(text.encode())
    if page.exists():
        before, _, rest = page.read_text().partition(MARKS[0])
        _, found, after = rest.partition(MARKS[1])
        if not found:
            raise AdvrBDError(f"{page} must hold the lines {MARKS[0]} and {MARKS[1]}, between which the tables stand")
        with atomic_file(page) as handle:
            handle.write(f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}".encode())
    print(text)


if __name__ == "__main__":
    main()
