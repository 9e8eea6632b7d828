"""One finished run of the defense, with all that its report shows."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.environment import commit, hardware, versions
from advrbd_plugin.files import finite
from advrbd_plugin.nn.description import ModelDescription

if TYPE_CHECKING:
    from advrbd_plugin.defense.result import AdvrBDScan

TOOL = "advrbd"


@dataclass(frozen=True)
class RunRecord:
    """Attributes:
    data: what was defended, as the user named it.
    image_set: the images that were read.
    result: what a scan or the defense found.
    model: how the clean model is built.
    left_out: (path, reason) of files that could not be read.
    notes: sentences on what was done to the pictures.
    """

    data: str
    image_set: ImageSet
    result: AdvrBDScan
    model: ModelDescription
    left_out: tuple[tuple[str, str], ...] = ()
    notes: tuple[str, ...] = ()

    def path(self, index: int) -> str:
        """The image's path, or its id where it came from no file."""
        paths = self.image_set.paths
        return paths[index] if paths is not None else f"sample {int(self.image_set.sample_ids[index])}"

    def most_suspicious(self, count: int) -> list[int]:
        """Positions of the flagged images, the highest score first; at most ``count``."""
        verdicts = self.result.verdicts
        flagged = verdicts.poisoned.nonzero().flatten()
        order = torch.argsort(verdicts.score[flagged], descending=True, stable=True)
        return flagged[order[:count]].tolist()


def summarise(record: RunRecord) -> dict[str, Any]:
    """``summary.json``: counts, suspected classes, settings, versions and hardware."""
    image_set, result = record.image_set, record.result
    poisoned = result.verdicts.poisoned
    flagged = torch.bincount(image_set.labels[poisoned], minlength=image_set.num_classes).tolist()
    names = image_set.class_names
    return {
        "tool": TOOL,
        "data": record.data,
        "images": len(image_set),
        "poisoned": int(poisoned.sum()),
        "clean": int((~poisoned).sum()),
        "suspected_classes": [names[label] for label in result.suspected_classes],
        "classes": {
            name: {"images": count, "poisoned": bad}
            for name, count, bad in zip(names, image_set.class_counts().tolist(), flagged, strict=True)
        },
        "image_size": list(image_set.image_size),
        "model": record.model.name,
        "seed": result.config.seed,
        "config": finite(dict(result.config.to_mapping())),
        "seconds": {stage: round(seconds, 3) for stage, seconds in result.seconds.items()},
        "versions": versions(),
        "commit": commit(),
        "hardware": hardware(),
        "notes": list(record.notes),
        "left_out": [{"path": path, "reason": reason} for path, reason in record.left_out],
    }
