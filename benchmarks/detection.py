"""What AdvrBD's search sees on the stress suite's undefended models: the evidence of every cluster beside the truth.

    python benchmarks/detection.py --models SUITE_WORK --work out/bench [--sets tact-s141,clean-s102]

``judge`` runs the search on the model that ``advrbd reproduce --suite stress`` keeps of a set and writes
WORK/judged/SET.json; it does again only what was judged by another algorithm or on another model. ``report`` makes
table.md, table.json and evidence.png of these files. The truth is read for the figures alone.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
from dataclasses import asdict
from functools import partial, wraps
from pathlib import Path
from typing import Any
from unittest import mock

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from detection_figure import draw_evidence
from detection_tables import rows_of, tables
from suite_models import Folders, SuiteSet, each_set, find_sets
from torch import Tensor

from advrbd_plugin.defense import detection
from advrbd_plugin.defense.detection import Detection, Detector, detect_targets
from advrbd_plugin.defense.identification import Findings
from advrbd_plugin.defense.placement import one_way_ratios
from advrbd_plugin.defense.search import find
from advrbd_plugin.defense.transplant_detection import TransplantDetection, detect_by_transplant
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.algorithm import current_algorithm
from advrbd_plugin.evaluation.experiment import Outcome
from advrbd_plugin.evaluation.stress_judge import rates_of, verdicts_of
from advrbd_plugin.files import write_json, write_text

PROGRAM = "benchmarks/detection.py"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    Folders.add_options(parser)
    parser.add_argument("--out", metavar="FOLDER", help="for table.md, table.json and evidence.png (default: WORK)")
    parser.add_argument("--jobs", default="judge,report")
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    folders, status = Folders.of(arguments), 0
    judged = Path(folders.work) / "judged"
    try:
        sets = find_sets(folders, arguments.sets)
        if "judge" in arguments.jobs:
            status = each_set(sets, partial(judge, folder=judged), PROGRAM)
        if "report" in arguments.jobs:
            paths = [judged / f"{each.name}.json" for each in sets]
            rows = [json.loads(path.read_text()) for path in paths if path.exists()]
            if not rows:
                raise AdvrBDError(f"none of these sets was judged yet in {judged}: add the job judge")
            report(rows, Path(arguments.out or folders.work))
    except AdvrBDError as error:
        sys.exit(f"{PROGRAM}: {error}")
    sys.exit(status)


def judge(suite_set: SuiteSet, folder: Path) -> None:
    """Bring FOLDER/SET.json up to date."""
    path = folder / f"{suite_set.name}.json"
    about = {"name": suite_set.name, "model": suite_set.model_fingerprint, "algorithm": current_algorithm()}
    if path.exists() and about.items() <= json.loads(path.read_text()).items():
        return
    seen: list[TransplantDetection] = []
    run = suite_set.new_run(anew=("detection",))
    found = find(
        run, suite_set.stress.train, suite_set.trained, suite_set.key, suite_set.config, _watched_detector(seen)
    )
    row = about | _row(suite_set, found, seen[0] if seen else None, run.seconds)
    write_json(path, row)
    _say(row)


def _watched_detector(seen: list[TransplantDetection]) -> Detector:
    """:func:`detect_targets` itself; what its transplants saw is added to ``seen``."""

    def watched(*arguments: Any, **options: Any) -> TransplantDetection:
        seen.append(detect_by_transplant(*arguments, **options))
        return seen[-1]

    @wraps(detect_targets)  # a run names its later stages after the detector: so the suite's are found
    def detector(*arguments: Any) -> Detection:
        with mock.patch.object(detection, detect_by_transplant.__name__, watched):
            return detect_targets(*arguments)

    return detector


def _row(
    suite_set: SuiteSet, found: Findings, seen: TransplantDetection | None, seconds: dict[str, float]
) -> dict[str, Any]:
    """What was found beside the truth, ready for JSON; ``seen`` is ``None`` where the model was not asked."""
    stress, verdicts, asr = suite_set.stress, found.verdicts, suite_set.asr
    outcome = Outcome(
        suite_set.trained.model,
        flagged=verdicts.poisoned,
        score=verdicts.score,
        trusted=verdicts.trusted,
        mislabelled=verdicts.mislabelled,
        suggested_label=verdicts.suggested_label,
        details={"suspected_classes": found.detection.suspected_classes},
    )
    while_learning = suite_set.trained.mean_probabilities
    triggers = zip(suite_set.undefended["triggers"], stress.triggers, strict=True)
    return {
        "acc": suite_set.undefended["figures"]["acc"],
        "fit": found.detection.fit,
        "trained_enough": found.detection.trained_enough,
        "figures": rates_of(stress, outcome),
        "triggers": [told | {"tpr": _share(verdicts.poisoned, each.poisoned)} for told, each in triggers],
        "verdicts": verdicts_of(stress, outcome, verdicts.poisoned, asr),
        "uncertain": int(verdicts.uncertain.sum()),
        "seconds": seconds,
        "probabilities": [] if seen is None else [each.probability for each in seen.findings],
        "findings": [each.to_json() for each in found.detection.findings],
        "splits": [each.to_row() for each in found.detection.evidence],
        "one_way": None if while_learning is None else one_way_ratios(while_learning, stress.train.labels).tolist(),
        "clusters": [] if seen is None else _clusters(suite_set, seen),
    }


def _clusters(suite_set: SuiteSet, seen: TransplantDetection) -> list[dict[str, Any]]:
    """Every cluster's evidence, the same less its label's reference, and how much of it is poisoned and mislabelled."""
    stress = suite_set.stress
    return [
        asdict(evidence)
        | {"poison": _share(stress.poisoned, each.members), "mislabelled": _share(stress.mislabelled, each.members)}
        | {"compared": asdict(compared)}
        for each, evidence, compared in zip(seen.candidates, seen.evidence, seen.compared, strict=True)
    ]


def _share(mask: Tensor, members: Tensor) -> float:
    return float(mask[members].double().mean())


def _say(row: dict[str, Any]) -> None:
    triggers = "; ".join(
        f"{each['name']} ASR {each['asr']:.2f} labels {each['labels']} TPR {each['tpr']:.3f}"
        for each in row["triggers"]
    )
    print(
        f"{row['name']}: {triggers or 'no poison'}; suspected {row['verdicts']['suspected']}, "
        f"FPR {row['figures']['fpr']:.4f}, {sum(row['seconds'].values()):.0f} s",
        flush=True,
    )


def report(judged: list[dict[str, Any]], out: Path) -> None:
    """table.md, table.json and evidence.png from the judged sets."""
    rows = rows_of(judged)
    text = tables(rows, judged)
    write_text(out / "table.md", text)
    write_json(out / "table.json", rows)
    draw_evidence(judged, out / "evidence.png")
    print(text)


if __name__ == "__main__":
    main()
