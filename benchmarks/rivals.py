"""Detectors of others on the stress suite's undefended models, beside what AdvrBD said of the same sets.

    python benchmarks/rivals.py --models SUITE_WORK --work out/bench [--sets tact-s141,clean-s102] [--jobs run,report]

``run`` writes FOLDER/SET.json for each set whose model ``advrbd reproduce --suite stress`` keeps, and does again only
what is missing there, or was measured on another model. ``report`` writes FOLDER/table.md, and the tables between the
two marks of docs/rivals.md, from these files and from AdvrBD's results of the suite; it can be run again whenever those
have changed, and needs no models. Verdicts of a method that is run elsewhere are read from
WORK/METHOD/SET.safetensors: ``poisoned``, (N,) bool, and a header ``verdicts`` (JSON: set, settings, cpu_seconds).
The truth is read for the figures, and for the clean samples that SCAn and STRIP cannot do without.
"""

from __future__ import annotations

import argparse
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

import rival_rules as rules
import torch
from rival_tables import ELSEWHERE, MARKS, RANKS_ONLY, tables
from suite_models import Folders, SuiteSet, each_set, find_sets
from torch import Tensor, nn

from advrbd_plugin.baselines.scan import scan
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.scoring import consistency_scores
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.metrics import judge_detection
from advrbd_plugin.evaluation.stress_judge import LEARNED
from advrbd_plugin.evaluation.stress_sets import StressSet
from advrbd_plugin.files import write_json, write_text
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.randomness import derive_seed

PROGRAM = "benchmarks/rivals.py"
CLEAN_SHARE = 0.01  # of the set, drawn from its truly clean samples
OVERLAYS = 8  # STRIP's paper takes 100


@dataclass(frozen=True, eq=False)
class Kept:
    """A model that was kept, with what it makes of its training set.

    Attributes:
        samples: the training set, as the defender is given it.
        model: the undefended model, in eval mode.
        activations: (N, M) float32, of the last hidden layer.
        clean: (K,) int64, samples that a method is told to be clean.
        seed: the set's.
    """

    samples: ImageSet
    model: nn.Module
    activations: Tensor
    clean: Tensor
    seed: int

    @classmethod
    def of(cls, suite_set: SuiteSet) -> Kept:
        stress, model, seed = suite_set.stress, suite_set.trained.model, suite_set.cell.seed
        width = [module for module in model.modules() if isinstance(module, nn.Linear)][-1].in_features
        benign = (~(stress.poisoned | stress.covers | stress.mislabelled)).nonzero().flatten()
        order = torch.randperm(len(benign), generator=torch.Generator().manual_seed(derive_seed(seed, "clean samples")))
        clean = benign[order[: round(CLEAN_SHARE * len(stress.train))]]
        # The penultimate features come last in the layered ones, but for a shift and a scale.
        return cls(stress.train, model, suite_set.answers[0][:, -width:], clean, seed)


Result = tuple[rules.Flagged, dict[str, Any]]


def clustering(kept: Kept) -> Result:
    settings: dict[str, Any] = {"components": 10, "largest_share": 0.35, "least_silhouette": 0.1}
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


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Folders.add_options(parser)
    parser.add_argument("--out", default="results/rivals", metavar="FOLDER", help="for the figures (%(default)s)")
    parser.add_argument("--page", default="docs/rivals.md", help="page whose tables are written anew, where it exists")
    parser.add_argument("--methods", default=",".join(METHODS))
    parser.add_argument("--jobs", default="run,report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folders, out = Folders.of(arguments), Path(arguments.out)
    status = 0
    try:
        methods = _chosen(arguments.methods)
        if "run" in arguments.jobs:
            sets = find_sets(folders, arguments.sets)
            status = each_set(sets, partial(measure, out=out, methods=methods), PROGRAM)
        if "report" in arguments.jobs:
            report(find_sets(folders, None), out, Path(arguments.page))
    except AdvrBDError as error:
        sys.exit(f"{PROGRAM}: {error}")
    sys.exit(status)


def _chosen(names: str) -> list[str]:
    unknown = sorted(set(names.split(",")) - set(METHODS))
    if unknown:
        raise AdvrBDError(f"--methods must be some of {', '.join(METHODS)}, got {', '.join(unknown)}")
    return names.split(",")


def measure(suite_set: SuiteSet, out: Path, methods: list[str]) -> None:
    """Bring FOLDER/SET.json up to date."""
    row = _row_of(suite_set, out)
    for method, verdicts, settings, seconds in _results(suite_set, row, methods):
        row["methods"][method] = {"settings": settings, "seconds": seconds} | judged(
            suite_set.stress, suite_set.asr, verdicts, ranks_only=method in RANKS_ONLY
        )
        write_json(out / f"{suite_set.name}.json", row)
        print(suite_set.name, method, json.dumps({**row["methods"][method], "settings": None}), flush=True)


def _results(
    suite_set: SuiteSet, row: dict[str, Any], methods: list[str]
) -> Iterator[tuple[str, rules.Flagged, dict[str, Any], float]]:
    for method in ELSEWHERE:
        path = Path(suite_set.folders.work) / method / f"{suite_set.name}.safetensors"
        if path.exists():
            poisoned, rest = _verdicts(path)
            if rest["set"] != suite_set.fingerprint:
                raise AdvrBDError(f"{path} is of another set of that name: remove that file")
            yield method, rules.Flagged(poisoned, None), rest["settings"], rest["cpu_seconds"]
    missing = [method for method in methods if method not in row["methods"]]
    kept = Kept.of(suite_set) if missing else None
    for method in missing:
        assert kept is not None
        began = time.process_time()
        verdicts, settings = METHODS[method](kept)
        yield method, verdicts, settings, time.process_time() - began


def judged(stress: StressSet, asr: list[float], verdicts: rules.Flagged, *, ranks_only: bool = False) -> dict[str, Any]:
    """TPR, FPR and AUROC; TPR and AUROC of the samples of learned triggers, or of all poison where none was learned.

    Mislabelled samples count neither as poison nor as clean, as in the suite.
    """
    learned = torch.zeros_like(stress.poisoned)
    for trigger, success in zip(stress.triggers, asr, strict=True):
        if success >= LEARNED:
            learned |= trigger.poisoned
    asked = ~stress.poisoned & ~stress.mislabelled | (learned if learned.any() else stress.poisoned)
    score = verdicts.poisoned.double() if verdicts.score is None else verdicts.score
    figures = asdict(judge_detection(stress.poisoned[asked], verdicts.poisoned[asked], score[asked]))
    figures["triggers"] = [float(verdicts.poisoned[each.poisoned].double().mean()) for each in stress.triggers]
    if ranks_only:
        figures |= {"tpr": None, "fpr": None, "triggers": []}
    if verdicts.score is None:
        figures["auroc"] = None
    return figures


def _row_of(suite_set: SuiteSet, out: Path) -> dict[str, Any]:
    """What stands in FOLDER/SET.json, or a new row where that is of another set or model."""
    path, undefended = out / f"{suite_set.name}.json", suite_set.undefended
    row: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    about = {"name": suite_set.name, "set": suite_set.fingerprint, "model": suite_set.model_fingerprint}
    if about.items() <= row.items():
        return row
    triggers = [
        {"name": each["name"], "asr": each["asr"], "samples": each["poisoned"]} for each in undefended["triggers"]
    ]
    return about | {
        "data": undefended["data"]["fingerprint"],
        "epochs": undefended["set"]["epochs"],
        "acc": undefended["figures"]["acc"],
        "samples": len(suite_set.stress.train),
        "poison": int(suite_set.stress.poisoned.sum()),
        "triggers": triggers,
        "methods": {},
    }


def _verdicts(path: Path) -> tuple[Tensor, dict[str, Any]]:
    """What a method that was run elsewhere said."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as handle:
        return handle.get_tensor("poisoned"), json.loads(handle.metadata()["verdicts"])


def report(sets: list[SuiteSet], out: Path, page: Path) -> None:
    """table.md and the page's tables from the measured sets and AdvrBD's results of the same."""
    rows = [json.loads(path.read_text()) for path in sorted(out.glob("*.json"))]
    if not rows:
        raise AdvrBDError(f"nothing was measured yet in {out}: add the job run")
    text = tables(rows, {each.name: each.defended for each in sets if each.defended is not None})
    write_text(out / "table.md", text)
    if page.exists():
        before, _, rest = page.read_text().partition(MARKS[0])
        _, found, after = rest.partition(MARKS[1])
        if not found:
            raise AdvrBDError(f"{page} must hold the lines {MARKS[0]} and {MARKS[1]}, between which the tables stand")
        write_text(page, f"{before}{MARKS[0]}\n\n{text}\n{MARKS[1]}{after}")
    print(text)


if __name__ == "__main__":
    main()
