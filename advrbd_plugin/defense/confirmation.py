"""Does a cluster that stands apart belong elsewhere? Asked of a model that was not trained on it. (Ours.)

Some triggers leave nothing that can be transplanted (:mod:`.transplant`): a reflection, say, that looks different in
each picture. But the pictures of a dirty-label attack show another class, and a model that was not trained on them says
which. Pictures of an unusual style (grey, compressed, with a frame) show their own class all the same.

So a short training leaves out the suspicious clusters, and of every class a tenth of the other samples as controls. A
cluster is confirmed where more of its samples belong to other classes (:func:`.placement.belonging`) than to their own,
nearly as many more as controls belong to their own. A style that the model has never seen sends some pictures astray,
but as many find home.

What this cannot tell: the second kind of content of an innocent class is put elsewhere as firmly as poison, once none
of it is left in training. That kind stands apart by less; see ``strong_separation``. Clean-label attacks cannot be
confirmed this way.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.selection import draw
from advrbd_plugin.defense.detection import Detection
from advrbd_plugin.defense.findings import ClassFinding
from advrbd_plugin.defense.placement import belonging
from advrbd_plugin.randomness import derive_seed

_CONTROL_SHARE = 0.1
_LEAST_CONTROLS = 10
_CONFIRMED = 0.5  # of the controls' share, see docs/detection.md
_LEAST_TIMES_CHANCE = 3.0  # that controls must belong to their own class, for the model to be asked


@dataclass(frozen=True, eq=False)
class LeftOut:
    """Samples that the confirming model is not trained on.

    Attributes:
        suspicious: (N,) bool, of the unconfirmed and of the suspected classes.
        controls: (N,) bool, of every class.
    """

    suspicious: Tensor
    controls: Tensor

    @property
    def kept(self) -> Tensor:
        """(M,) int64: positions of all others."""
        return (~self.suspicious & ~self.controls).nonzero().flatten()


def leave_out(samples: ImageSet, detection: Detection, *, seed: int) -> LeftOut:
    """The suspicious samples, and a tenth of the others of each class, drawn by (seed, sample id)."""
    suspicious = detection.poison_probability > 0.5
    controls = torch.zeros_like(suspicious)
    for label in range(samples.num_classes):
        others = ((samples.labels == label) & ~suspicious).nonzero().flatten()
        count = min(len(others) // 2, max(_LEAST_CONTROLS, round(_CONTROL_SHARE * len(others))))
        if count:
            drawn = draw(
                samples.sample_ids[others], count, seed=derive_seed(seed, "controls"), purpose=f"class {label}"
            )
            controls[others[drawn]] = True
    return LeftOut(suspicious, controls)


def confirm(probabilities: Tensor, samples: ImageSet, detection: Detection, left_out: LeftOut) -> Detection:
    """The detection with every unconfirmed class suspected or rejected.

    Args:
        probabilities: (N, num_classes) float32, of a model that was not trained on what was left out.
        samples: the training set.
        detection: its.
        left_out: from :func:`leave_out`.
    """
    labels = samples.labels
    belongs = belonging(probabilities, labels, left_out.controls)
    own_share = float((belongs == labels)[left_out.controls].double().mean()) if left_out.controls.any() else 1.0
    findings = {}
    for label in detection.unconfirmed_classes:
        cluster = left_out.suspicious & (labels == label)
        elsewhere = (belongs[cluster] >= 0) & (belongs[cluster] != label)
        away = _share(elsewhere) - _share(belongs[cluster] == label)
        asked = own_share >= min(0.5, _LEAST_TIMES_CHANCE / samples.num_classes)
        relative = min(1.0, max(0.0, away) / own_share) if asked else 0.0
        name = samples.class_names[label]
        findings[label] = _finding(label, name, len(elsewhere), _share(elsewhere), own_share, relative)
    return detection.settle(labels, findings)


def _share(flags: Tensor) -> float:
    return float(flags.double().mean()) if len(flags) else 0.0


def _finding(label: int, name: str, count: int, share: float, own_share: float, relative: float) -> ClassFinding:
    """Suspected where the cluster belongs elsewhere nearly as often as controls belong to their own class."""
    told = f"a model that was not trained on them puts {share:.0%} of them firmly into other classes"
    beside = f"of the pictures of all classes it puts {own_share:.0%} into their own"
    if relative >= _CONFIRMED:
        sentence = f"{name}: {count} of its pictures stand apart, and {told} ({beside})"
        return ClassFinding(label, True, relative, sentence, "misplacement", share)
    sentence = f"{name}: {count} of its pictures stand apart, as an unusual style does: {told} ({beside})"
    return ClassFinding(label, False, 0.0, sentence, "misplacement", share)
