"""The figure of benchmarks/detection.py: the evidence of all clusters, a row each kind."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from detection_tables import is_innocent, is_poison, values_of

from advrbd_plugin.defense.evidence import EVIDENCE

_NOTHING = 0.001  # where no evidence at all is drawn, on a logarithmic axis


def draw_evidence(judged: list[dict[str, Any]], path: Path) -> None:
    """Innocent clusters grey, poison of learned backdoors red below them."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(9, 5))
    sides = ((0.14, "0.55", "innocent", is_innocent), (-0.14, "tab:red", "poison, learned", is_poison))
    for place, kind in enumerate(EVIDENCE):
        for shift, colour, label, wanted in sides:
            values = values_of(judged, kind, wanted).clamp(min=_NOTHING)
            spread = torch.rand(len(values), generator=torch.Generator().manual_seed(place)) * 0.2 - 0.1
            heights = (spread + len(EVIDENCE) - place + shift).tolist()
            axes.scatter(values, heights, s=6, color=colour, alpha=0.5, label=None if place else label, linewidths=0)
    axes.set_xscale("log")
    axes.set_yticks(range(len(EVIDENCE), 0, -1), EVIDENCE)
    axes.set_xlabel(f"evidence of a cluster ({_NOTHING}: none)")
    axes.legend(loc="lower right")
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
