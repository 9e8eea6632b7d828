"""One finished scan or defense, with all that its report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.environment import commit, hardware, versions
from advrbd_plugin.files import finite
from advrbd_plugin.nn.description import ModelDescription

if TYPE_CHECKING:
    from advrbd_plugin.defense.findings import ClassFinding
    from advrbd_plugin.defense.identification import Verdicts
    from advrbd_plugin.defense.result import AdvrBDResult, AdvrBDScan

TOOL = "advrbd"
VERDICTS = ("clean", "uncertain", "mislabelled", "poisoned")
"""What a sample may be called, in the order of :func:`verdict_codes`."""


@dataclass(frozen=True)
class RunRecord:
    """Attributes:
    data: what was defended, as the user named it.
    image_set: the images that were read.
    result: what the scan or the defense found.
    model: how the models are built.
    left_out: (path, reason) of files that could not be read.
    notes: sentences on what was done to the pictures.
    origin: who asked, which decides what the page advises: ``command`` (``data`` is what a command line names),
        ``python`` (the pictures are in memory) or ``demo`` (they were poisoned on purpose).
    """

    data: str
    image_set: ImageSet
    result: AdvrBDScan
    model: ModelDescription
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()
    origin: Literal["command", "python", "demo"] = "command"

    def path(self, index: int) -> str:
        """The image's path, or its id where it came from no file."""
        paths = self.image_set.paths
        return paths[index] if paths is not None else f"sample {int(self.image_set.sample_ids[index])}"

    @property
    def defended(self) -> AdvrBDResult | None:
        """The result with its final model; ``None`` for a scan, which has none."""
        from advrbd_plugin.defense.result import AdvrBDResult

        return self.result if isinstance(self.result, AdvrBDResult) else None


def surest(score: Tensor, poisoned: Tensor, count: int) -> Tensor:
    """(M,) int64: at most ``count`` positions of flagged samples, the highest score first.

    Where more than ``count`` show the same highest percentage, they are taken evenly from all of these, so that not
    only those of the first folder are seen.

    Args:
        score: (N,) float in [0, 1].
        poisoned: (N,) bool.
    """
    found = poisoned.nonzero().flatten()
    seen = (1000 * score[found].double()).round()  # as the page rounds them
    order = torch.argsort(seen, descending=True, stable=True)
    alike = int((seen == seen.max()).sum()) if len(found) else 0
    if alike <= count:
        return found[order[:count]]
    return found[order[torch.linspace(0, alike - 1, count).round().long()]]


def verdict_codes(verdicts: Verdicts) -> Tensor:
    """(N,) int64: the place of each sample's verdict in :data:`VERDICTS`; the last that applies counts."""
    codes = torch.zeros(len(verdicts.poisoned), dtype=torch.int64)
    for code, flags in enumerate((verdicts.uncertain, verdicts.mislabelled, verdicts.poisoned), start=1):
        codes[flags] = code
    return codes


def pattern_file(finding: ClassFinding) -> str | None:
    """The name of a pattern's picture beside the page; ``None`` where there is no pattern."""
    return f"trigger-{finding.label}.png" if finding.suspected and finding.pattern is not None else None


def summarise(record: RunRecord) -> dict[str, Any]:
    """``summary.json``: counts, what was found about each class, settings, versions and hardware.

    Shares and probabilities are fractions.
    """
    image_set, result = record.image_set, record.result
    codes, names = verdict_codes(result.verdicts), image_set.class_names
    counts = torch.bincount(codes, minlength=len(VERDICTS)).tolist()
    of_class = torch.bincount(codes + len(VERDICTS) * image_set.labels, minlength=len(VERDICTS) * len(names))
    defended = record.defended
    return {
        "tool": TOOL,
        "data": record.data,
        "images": len(image_set),
        **{name: counts[code] for code, name in reversed(list(enumerate(VERDICTS)))},
        "suspected_classes": [names[label] for label in result.suspected_classes],
        "fit": result.fit,
        "trained_enough": result.trained_enough,
        "findings": [
            {"class": names[each.label], **each.to_json(), "pattern": pattern_file(each)} for each in result.findings
        ],
        "classes": {
            name: {"images": sum(row), **{verdict: row[code] for code, verdict in list(enumerate(VERDICTS))[:0:-1]}}
            for name, row in zip(names, of_class.view(-1, len(VERDICTS)).tolist(), strict=True)
        },
        "image_size": list(image_set.image_size),
        "model": record.model.name,
        **({} if defended is None else {"rounds": defended.rounds, "is_retrained": defended.is_retrained}),
        "remark": "" if defended is None else defended.remark,
        "seed": result.config.seed,
        "config": finite(dict(result.config.to_mapping())),
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "notes": list(record.notes),
        "left_out": [{"path": path, "reason": reason} for path, reason in record.left_out],
    }
