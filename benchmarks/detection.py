"""How a detection stands over the sets of the stress suite: evidence of every cluster, TPR and FPR of every set.

    python benchmarks/detection.py --work out/bench [--sets clean-s1,badnets-s2] [--jobs train,judge,report]

Each set's undefended model is trained once and kept in ``--work`` with its features, so that a change of the detection
is judged over all sets in minutes. The truth is read for the table alone. Sets named in ``CHOOSING`` were looked at
while the detection was made, all others were held out.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

os.environ.setdefault("OMP_NUM_THREADS", "1")

import torch
from torch import nn

from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense import posterior
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.detection import Detector, combine
from advrbd_plugin.defense.evidence import EVIDENCE, ClusterEvidence
from advrbd_plugin.defense.identification import Verdicts
from advrbd_plugin.defense.placement import one_way_ratios
from advrbd_plugin.defense.posterior import DEFAULT_NULL, Null, discovered, fit_null, label_probabilities
from advrbd_plugin.defense.search import find
from advrbd_plugin.defense.splits import split_classes
from advrbd_plugin.defense.stage_runner import StageRunner
from advrbd_plugin.defense.trained import Trained
from advrbd_plugin.defense.transplant_detection import TransplantDetection, detect_by_transplant
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.evaluation.stress_sets import StressSet
from advrbd_plugin.evaluation.stress_suite import CHOOSING, HELD_OUT, make_stress_set, split_name
from advrbd_plugin.files import atomic_file
from advrbd_plugin.nn.features import layered_features
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import train
from advrbd_plugin.nn.trajectory import Trajectory
from advrbd_plugin.progress import SilentProgress
from advrbd_plugin.randomness import derive_seed

MODEL = "resnet_narrow"
SAMPLES, EPOCHS = 10_000, 20
LEARNED = 0.2  # from this ASR of the undefended model on, a backdoor is there to be found
POISONED, INNOCENT = 0.5, 0.05  # share of poison from which, and up to which, a cluster counts as one or the other


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="../shared/data/cifar10", help="folder with train and test, or their zips")
    parser.add_argument("--work", default="out/bench", help="models, features and judgements; outside the repository")
    parser.add_argument("--out", help="folder for table.md, table.json and evidence.png (default: the work folder)")
    parser.add_argument("--sets", default=",".join((*CHOOSING, *HELD_OUT)))
    parser.add_argument("--jobs", default="train,judge,report")
    parser.add_argument("--epochs", type=int, default=EPOCHS)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    work = Path(arguments.work)
    names = arguments.sets.split(",")
    try:
        for name in names:
            split_name(name)
            if "train" in arguments.jobs:
                train_once(name, arguments.data, work, arguments.epochs)
            if "judge" in arguments.jobs and _trained(work, name).exists():
                judge(name, arguments.data, work)
    except AdvrBDError as error:
        sys.exit(f"benchmarks/detection.py: {error}")
    if "report" in arguments.jobs:
        judged = [json.loads(_judged(work, name).read_text()) for name in names if _judged(work, name).exists()]
        if not judged:
            sys.exit(f"benchmarks/detection.py: none of these sets was judged yet in {work}; add the jobs train,judge")
        report(judged, Path(arguments.out) if arguments.out else work)


def load_set(name: str, data: str, work: Path) -> StressSet:
    """The set by its name, from photographs that its seed draws; decoded once."""
    from advrbd_plugin.evaluation.image_store import load_images

    _, seed = split_name(name)
    training, test = load_images("cifar10", data, SAMPLES, seed, str(work))
    return make_stress_set(name, training.by_id(), test.by_id())


def make_network(name: str, samples: ImageSet) -> nn.Module:
    """A network for the set, freshly initialised by the set's seed."""
    from advrbd_plugin.nn.description import ModelDescription

    _, seed = split_name(name)
    with repeatable(torch.device("cpu"), derive_seed(seed, "weights", "training")):
        return ModelDescription.for_images(MODEL, samples).build()


def train_once(name: str, data: str, work: Path, epochs: int) -> None:
    """Train the undefended model of a set and keep it, unless it is there."""
    from safetensors.torch import save

    if _trained(work, name).exists():
        return
    stress = load_set(name, data, work)
    _, seed = split_name(name)
    model = make_network(name, stress.train)
    options = AdvrBDConfig(seed=seed, epochs=epochs).training(derive_seed(seed, "training"))
    began = time.perf_counter()
    samples, trajectory = stress.train, Trajectory(len(stress.train), stress.train.num_classes, epochs)
    train(model, samples.images, samples.labels, samples.sample_ids, options, trajectory=trajectory)
    features, logits = layered_features(model, stress.train.images)
    right = logits.argmax(1) == stress.train.labels
    figures = {
        "name": name,
        "epochs": epochs,
        "set": fingerprint(stress),
        "acc": _accuracy(predict(model, stress.test.images), stress.test.labels),
        "asr": [each.success(predict(model, each.triggered.images).argmax(1)) for each in stress.triggers],
        "fit": float(right.double().mean()),
        "poison_learned": float(right[stress.poisoned].double().mean()) if stress.poisoned.any() else None,
        "seconds": time.perf_counter() - began,
    }
    tensors = {f"model.{key}": value.contiguous() for key, value in model.state_dict().items()}
    tensors |= {"features": features.contiguous(), "logits": logits.contiguous()}
    tensors["mean_probabilities"] = trajectory.mean.contiguous()
    with atomic_file(_trained(work, name)) as handle:
        handle.write(save(tensors, metadata={"figures": json.dumps(figures)}))
    print(json.dumps(figures), flush=True)


def fingerprint(stress: StressSet) -> str:
    """Of the pictures and labels that a model is trained on."""
    hasher = hashlib.sha256(stress.train.images.numpy().tobytes())
    hasher.update(stress.train.labels.numpy().tobytes())
    return hasher.hexdigest()[:16]


def judge(name: str, data: str, work: Path) -> None:
    """Run the search of AdvrBD on a kept model and write what it found beside the truth."""
    stress = load_set(name, data, work)
    trained, tensors, figures = _kept(name, stress, work)
    seen: dict[str, TransplantDetection] = {}
    _, seed = split_name(name)
    config = AdvrBDConfig(seed=seed, epochs=figures["epochs"])
    run = StageRunner(lambda: make_network(name, stress.train), torch.device("cpu"), work / "stages", SilentProgress())
    found = find(run, stress.train, trained, figures["set"], config, _detector(tensors, seen))
    verdicts, truth = found.verdicts, stress.poisoned
    clusters = [
        dataclasses.asdict(evidence)
        | {"poison": _share(truth, each.members), "mislabelled": _share(stress.mislabelled, each.members)}
        | {"compared": dataclasses.asdict(compared)}
        for each, evidence, compared in zip(
            seen["found"].candidates, seen["found"].evidence, seen["found"].compared, strict=True
        )
    ]
    row = figures | {
        "choosing": name in CHOOSING,
        "samples": len(truth),
        "poison": int(truth.sum()),
        "suspected": list(found.detection.suspected_classes),
        "triggers": [
            {
                "name": each.name,
                "asr": asr,
                "labels": _labels_of(stress, each.poisoned),
                "tpr": float(verdicts.poisoned[each.poisoned].double().mean()),
            }
            for each, asr in zip(stress.triggers, figures["asr"], strict=True)
        ],
        "probabilities": [each.probability for each in seen["found"].findings],
        "findings": [each.to_json() for each in found.detection.findings],
        "splits": [each.to_row() for each in found.detection.evidence],
        "sentences": [each.sentence for each in found.detection.findings if each.suspected],
        "tpr": float(verdicts.poisoned[truth].double().mean()) if truth.any() else None,
        "fpr": float(verdicts.poisoned[~truth].double().mean()),
        "uncertain": int(verdicts.uncertain.sum()),
        "missed_uncertain": int((verdicts.uncertain & truth).sum()),
        "clean_flagged_by_label": torch.bincount(
            stress.train.labels[verdicts.poisoned & ~truth], minlength=stress.train.num_classes
        ).tolist(),
        "mislabelled": _judged_mislabels(verdicts, stress),
        "detection_seconds": sum(run.seconds.values()),
        "stages": run.seconds,
        "trained_enough": found.detection.trained_enough,
        "one_way": one_way_ratios(trained.mean_probabilities, stress.train.labels).tolist(),
        "clusters": clusters,
    }
    with atomic_file(_judged(work, name)) as handle:
        handle.write(json.dumps(row).encode())
    _say(row)


def _kept(name: str, stress: StressSet, work: Path) -> tuple[Trained, dict[str, torch.Tensor], dict[str, Any]]:
    """The model of a set, its features and figures."""
    from safetensors import safe_open

    with safe_open(_trained(work, name), framework="pt") as handle:
        tensors = {key: handle.get_tensor(key) for key in handle.keys()}  # noqa: SIM118
        figures = json.loads(handle.metadata()["figures"])
    if figures["set"] != fingerprint(stress):
        raise AdvrBDError(f"{name} is another set than {_trained(work, name)} was trained on: remove that file")
    model = make_network(name, stress.train)
    model.load_state_dict({key[6:]: value for key, value in tensors.items() if key.startswith("model.")})
    model.to(memory_format=torch.channels_last).eval()
    return Trained(model, [], tensors["mean_probabilities"]), tensors, figures


def _detector(tensors: dict[str, torch.Tensor], seen: dict[str, TransplantDetection]) -> Detector:
    """What :func:`detect_targets` does, with the kept features, and what the transplants saw in ``seen``."""

    def kept_features(trained, samples, scores, config, on_batch=None):
        logits, labels = tensors["logits"], samples.labels
        splits = split_classes(tensors["features"], logits, labels, scores.ranks, gain=config.detection_gain)
        seen["found"] = detect_by_transplant(
            trained.model,
            samples,
            tensors["features"],
            logits,
            mean_probabilities=trained.mean_probabilities,
            splits=splits.suspicious,
            seed=config.seed,
        )
        fit = float((logits.argmax(1) == labels).double().mean())
        return combine(labels, splits, seen["found"], fit, config.strong_separation)

    return kept_features


def _judged_mislabels(verdicts: Verdicts, stress: StressSet) -> dict[str, int]:
    """Mislabelled samples: found, found among those that are, and what their suggested labels are worth."""
    found, truth = verdicts.mislabelled, stress.mislabelled
    return {"true": int(truth.sum()), "found": int(found.sum()), "right": int((found & truth).sum())}


def _share(mask: torch.Tensor, members: torch.Tensor) -> float:
    return float(mask[members].double().mean())


def report(judged: list[dict[str, Any]], out: Path) -> None:
    """table.md, table.json and evidence.png from the judged sets."""
    out.mkdir(parents=True, exist_ok=True)
    rows = [_row(each, _null_without(judged, each)) for each in judged]
    text = (
        "\n\n".join([_table(rows), _summary(rows), _null_table(judged), _reliability(rows), _constants(judged)]) + "\n"
    )
    with atomic_file(out / "table.md") as handle:
        handle.write(text.encode())
    with atomic_file(out / "table.json") as handle:
        handle.write(json.dumps(rows, indent=1).encode())
    _figure(judged, out / "evidence.png")
    print(text)


def evidence_of(row: dict[str, Any]) -> list[ClusterEvidence]:
    names = [each.name for each in dataclasses.fields(ClusterEvidence)]
    return [ClusterEvidence(**{name: cluster[name] for name in names}) for cluster in row["clusters"]]


def compared_of(row: dict[str, Any]) -> list[ClusterEvidence]:
    """The evidence less that of the rest of each label."""
    return [ClusterEvidence(**cluster["compared"]) for cluster in row["clusters"]]


def probabilities_of(row: dict[str, Any], null: Null) -> dict[int, float]:
    """Label -> probability, with the null given."""
    own = null.of_set(evidence_of(row))
    return label_probabilities(compared_of(row), len(row["probabilities"]), null=own, one_way=row["one_way"])


def _innocent(rows: list[dict[str, Any]]) -> list[ClusterEvidence]:
    return [
        evidence
        for row in rows
        for cluster, evidence in zip(row["clusters"], evidence_of(row), strict=True)
        if cluster["poison"] <= INNOCENT
    ]


def _family(name: str) -> frozenset[str]:
    """What kind of set it is: sets of one kind with other seeds are left out together."""
    return frozenset(split_name(name)[0])


def _null_without(judged: list[dict[str, Any]], row: dict[str, Any]):
    """The null fitted to the innocent clusters of the sets used for choosing, but of none of the judged set's kind."""
    others = [each for each in judged if each["choosing"] and _family(each["name"]) != _family(row["name"])]
    return fit_null(_innocent(others)) if others else DEFAULT_NULL


def _row(row: dict[str, Any], null) -> dict[str, Any]:
    """A set's line: what was judged with the default null, and again with a null that never saw this kind of set."""
    targets, poisoned = _targets(row), _poisoned_labels(row)
    left_out = probabilities_of(row, null)
    default = dict(enumerate(row["probabilities"]))
    line = {key: value for key, value in row.items() if key not in ("clusters", "probabilities")}
    for name, probabilities in (("", default), ("left_out_", left_out)):
        innocent = [value for label, value in probabilities.items() if label not in poisoned]
        line[f"{name}least_of_targets"] = min((probabilities.get(label, 0.0) for label in targets), default=None)
        line[f"{name}most_of_innocent"] = max(innocent, default=None)
    line["left_out_suspected"] = list(discovered(left_out))
    line["targets"] = sorted(targets)
    line["false_labels"] = sorted(set(row["suspected"]) - poisoned)
    line["missed_labels"] = sorted(targets - set(row["suspected"]))
    line["labels"] = {
        label: [probability, label in targets]
        for label, probability in left_out.items()
        if label in targets or label not in poisoned
    }
    return line


def _table(rows: list[dict[str, Any]]) -> str:
    head = (
        "| set | chosen by | ACC | ASR | labels found | falsely | least p of a target | most p of an innocent label | "
        "the same, kind left out | TPR | FPR | s |"
    )
    lines = [head, "|" + " --- |" * 12]
    for row in rows:
        asr = ", ".join(f"{each['asr']:.1%}" for each in row["triggers"]) or "-"
        tpr = ", ".join(f"{each['tpr']:.1%}" for each in row["triggers"]) or "-"
        found = f"{len(row['targets']) - len(row['missed_labels'])} of {len(row['targets'])}" if row["targets"] else "-"
        left_out = f"{_p(row['left_out_least_of_targets'])} / {_p(row['left_out_most_of_innocent'])}"
        lines.append(
            f"| {row['name']} | {'yes' if row['choosing'] else 'no'} | {row['acc']:.1%} | {asr} | {found} | "
            f"{len(row['false_labels'])} | {_p(row['least_of_targets'])} | {_p(row['most_of_innocent'])} | "
            f"{left_out} | "
            f"{tpr} | {row['fpr']:.2%} | {row['detection_seconds']:.0f} |"
        )
    return "\n".join(lines)


def _summary(rows: list[dict[str, Any]]) -> str:
    lines = []
    for title, some in (
        ("sets used for choosing", [row for row in rows if row["choosing"]]),
        ("held out", [row for row in rows if not row["choosing"]]),
    ):
        learned = [trigger for row in some for trigger in _learned(row)]
        found = [row for row in some if row["targets"]]
        clean = [row for row in some if not row["triggers"]]
        lines.append(
            f"- {title}: {len(some)} sets; learned triggers {len(learned)}, mean TPR {_mean(learned, 'tpr')}, "
            f"mean FPR {_mean(found, 'fpr')}, labels missed {sum(len(row['missed_labels']) for row in found)} of "
            f"{sum(len(row['targets']) for row in found)}; sets without poison {len(clean)}, falsely suspected "
            f"labels {sum(len(row['false_labels']) for row in clean)}, mean FPR {_mean(clean, 'fpr')}"
        )
    return "\n".join(lines)


def _null_table(judged: list[dict[str, Any]]) -> str:
    """How the evidence of innocent clusters falls, and the scale that was fitted, beside that of poisoned ones."""
    innocent = _innocent([row for row in judged if row["choosing"]])
    poisoned = [
        (row, evidence)
        for row in judged
        for cluster, evidence in zip(row["clusters"], evidence_of(row), strict=True)
        if cluster["poison"] >= POISONED and cluster["label"] in _targets(row)
    ]
    lines = [
        "| evidence | innocent: median | 99% | most | fitted median + scale | default | poison: median | 90% |",
        "|" + " --- |" * 8,
    ]
    if not innocent:
        return ""
    null = fit_null(innocent)
    for kind in EVIDENCE:
        values = torch.tensor([each.value(kind) for each in innocent])
        of_poison = torch.tensor([each.value(kind) for _, each in poisoned] or [0.0])
        lines.append(
            f"| {kind} | {values.quantile(0.5):.3f} | {values.quantile(0.99):.3f} | {values.max():.3f} | "
            f"{null.medians[kind]:.3f} + {null.scales[kind]:.3f} | {DEFAULT_NULL.medians[kind]:.3f} + "
            f"{DEFAULT_NULL.scales[kind]:.3f} | {of_poison.quantile(0.5):.3f} | {of_poison.quantile(0.9):.3f} |"
        )
    return "\n".join(lines)


def _reliability(rows: list[dict[str, Any]]) -> str:
    """Labels by probability (kind left out), and how many of them were poisoned with a learned trigger."""
    pairs = [pair for row in rows for pair in row["labels"].values()]
    lines = ["| probability of a label | labels | mean | poisoned |", "|" + " --- |" * 4]
    edges = (0.0, 0.01, 0.05, 0.2, 0.5, 0.8, 0.95, 1.0)
    for low, high in pairwise(edges):
        inside = [pair for pair in pairs if low <= pair[0] < high or (high == 1.0 and pair[0] == 1.0)]
        if inside:
            mean = sum(pair[0] for pair in inside) / len(inside)
            share = sum(pair[1] for pair in inside) / len(inside)
            lines.append(f"| {low} to {high} | {len(inside)} | {mean:.3f} | {share:.3f} |")
    return "\n".join(lines)


def _constants(judged: list[dict[str, Any]]) -> str:
    """What half and double of each constant of the decision would do: labels missed and falsely suspected."""
    lines = ["| constant | value | half: missed / false labels | as it is | double |", "|" + " --- |" * 5]
    for name in ("_CAUTION", "FALSE_DISCOVERY", "_POISONED_LABELS", "_LEAST_SCALE"):
        value = getattr(posterior, name)
        cells = []
        for changed in (value / 2, value, 2 * value):
            setattr(posterior, name, changed)
            missed = false = 0
            for row in judged:
                null = DEFAULT_NULL if name != "_LEAST_SCALE" else fit_null(_innocent(judged))
                probabilities = probabilities_of(row, null)
                suspected = set(discovered(probabilities, rate=posterior.FALSE_DISCOVERY))
                missed += len(_targets(row) - suspected)
                false += len(suspected - _poisoned_labels(row))
            cells.append(f"{missed} / {false}")
        setattr(posterior, name, value)
        lines.append(f"| `{name}` | {value} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _figure(judged: list[dict[str, Any]], path: Path) -> None:
    """The evidence of all clusters: innocent ones grey, poisoned ones of learned backdoors red, a row each kind."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    for place, kind in enumerate(EVIDENCE):
        for shift, colour, label, wanted in (
            (0.14, "0.55", "innocent", lambda row, cluster: cluster["poison"] <= INNOCENT),
            (
                -0.14,
                "tab:red",
                "poison, learned",
                lambda row, cluster: cluster["poison"] >= POISONED and cluster["label"] in _targets(row),
            ),
        ):
            values = [
                max(cluster[kind] or 0.0, 0.001)
                for row in judged
                for cluster in row["clusters"]
                if wanted(row, cluster) and (kind in ("goes", "goes_best", "leaves") or cluster["source"] == "mixture")
            ]
            spread = torch.rand(len(values), generator=torch.Generator().manual_seed(place)) * 0.2 - 0.1
            heights = (spread + len(EVIDENCE) - place + shift).tolist()
            axes.scatter(
                values, heights, s=6, color=colour, alpha=0.5, label=label if not place else None, linewidths=0
            )
    axes.set_xscale("log")
    axes.set_yticks(range(len(EVIDENCE), 0, -1), EVIDENCE)
    axes.set_xlabel("evidence of a cluster (0.001: none)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)


def _p(value: float | None) -> str:
    return "-" if value is None else f"{value:.3f}"


def _mean(rows: list[dict[str, Any]], key: str) -> str:
    values = [row[key] for row in rows if row[key] is not None]
    return f"{sum(values) / len(values):.2%}" if values else "-"


def _labels_of(stress: StressSet, poisoned: torch.Tensor) -> list[int]:
    """Labels that at least 12 of these samples carry."""
    counts = torch.bincount(stress.train.labels[poisoned], minlength=stress.train.num_classes)
    return (counts >= 12).nonzero().flatten().tolist()


def _learned(row: dict[str, Any]) -> list[dict[str, Any]]:
    """The triggers that the undefended model learned."""
    return [each for each in row["triggers"] if each["asr"] >= LEARNED]


def _targets(row: dict[str, Any]) -> set[int]:
    """The labels of learned triggers, which are to be found."""
    return {label for each in _learned(row) for label in each["labels"]}


def _poisoned_labels(row: dict[str, Any]) -> set[int]:
    """The labels of all triggers: suspecting one of a trigger that was not learned is not false."""
    return {label for each in row["triggers"] for label in each["labels"]}


def _say(row: dict[str, Any]) -> None:
    triggers = "; ".join(
        f"{each['name']} ASR {each['asr']:.2f} labels {each['labels']} TPR {each['tpr']:.3f}"
        for each in row["triggers"]
    )
    print(
        f"{row['name']}: {triggers or 'no poison'}; suspected {row['suspected']}, FPR {row['fpr']:.4f}, "
        f"{row['detection_seconds']:.0f} s",
        flush=True,
    )


def _accuracy(logits: torch.Tensor, labels: torch.Tensor) -> float:
    return float((logits.argmax(1) == labels).double().mean())


def _trained(work: Path, name: str) -> Path:
    return work / "trained" / f"{name}.safetensors"


def _judged(work: Path, name: str) -> Path:
    return work / "judged" / f"{name}.json"


if __name__ == "__main__":
    main()
