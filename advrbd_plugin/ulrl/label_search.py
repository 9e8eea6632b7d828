"""The search for attacked labels: by universal perturbations, stock patterns and warps. (Ours.)"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.randomness import derive_seed
from advrbd_plugin.ulrl.adversary import Adversary
from advrbd_plugin.ulrl.attraction import SAMPLES_PER_HALF, Attraction, attraction
from advrbd_plugin.ulrl.config import ULRLConfig
from advrbd_plugin.ulrl.patterns import KINDS, PatternSearch, planned_images, search_patterns
from advrbd_plugin.ulrl.perturbations import Perturb, add_perturbation
from advrbd_plugin.ulrl.stages import StageRunner, Stored
from advrbd_plugin.ulrl.warps import field_norm, random_fields, warp


@dataclass(frozen=True, eq=False)
class SuspectedLabels:
    """The labels that look attacked, and why.

    Attributes:
        attacked_labels: in ascending order; ``None`` where nothing was searched, so that the neurons alone decide.
        evidence: kind of evidence -> (num_classes,) float32; see :attr:`ULRLResult.evidence`.
        adversaries: what relearning trains against.
    """

    attacked_labels: tuple[int, ...] | None
    evidence: dict[str, Tensor]
    adversaries: tuple[Adversary, ...]

    @classmethod
    def known(cls, attacked_labels: tuple[int, ...] | None) -> SuspectedLabels:
        """Labels that the user gave, or ``None`` where no search is wanted."""
        return cls(attacked_labels, {}, (Adversary(attacked_labels or ()),))

    def rows(self) -> list[dict[str, float]]:
        """One row a label: ``label``, ``suspected`` (0 or 1) and each kind of evidence; none without evidence."""
        if not self.evidence:
            return []
        values = torch.stack(list(self.evidence.values()), dim=1).tolist()
        attacked = self.attacked_labels or ()
        return [
            {"label": label, "suspected": int(label in attacked)} | dict(zip(self.evidence, row, strict=True))
            for label, row in enumerate(values)
        ]


@dataclass(frozen=True, eq=False)
class LabelSearch:
    """Runs each search that ``config`` switches on and compares its evidence with its threshold.

    Attributes:
        model: the backdoored model, in eval mode.
        clean_set: clean samples of every label.
        config: the settings of the searches.
        runner: runs and stores the stages.
        key: digest of everything that a stage's result depends on.
    """

    model: nn.Module
    clean_set: ImageSet
    config: ULRLConfig
    runner: StageRunner
    key: str

    def run(self) -> SuspectedLabels:
        """Search by added perturbations first, then by warps."""
        config = self.config
        if not (config.attraction or config.patterns or config.warps):
            return SuspectedLabels.known(None)
        evidence: dict[str, Tensor] = {}
        found = (self._by_addition(evidence), self._by_warps(evidence))
        adversaries = tuple(each for each in found if each is not None)
        attacked = tuple(sorted({label for each in adversaries for label in each.labels}))
        return SuspectedLabels(attacked, evidence, adversaries)

    def _by_addition(self, evidence: dict[str, Tensor]) -> Adversary | None:
        """Search by perturbations and patterns; add to ``evidence``, return an adversary if a label stands out."""
        config, known = self.config, []
        suspected = torch.zeros(self.clean_set.num_classes, dtype=torch.bool)
        if config.attraction:
            start = torch.zeros(1, self.clean_set.num_channels, *self.clean_set.image_size)
            radius, steps = config.attraction_radius, config.attraction_steps
            found = self._attraction("attraction", start, add_perturbation, radius, steps)
            evidence["attraction"] = found.excess
            suspected |= found.excess > config.thresholds["attraction"]
        for kind in KINDS if config.patterns else ():
            search = self._patterns(kind)
            evidence[kind] = search.excess
            standing_out = search.excess > config.thresholds[kind]
            known.append(search.patterns[standing_out].flatten(0, 1))
            suspected |= standing_out
        if not suspected.any():
            return None
        patterns = torch.cat(known) if known else torch.zeros(0)
        return Adversary(_labels(suspected), known=patterns if len(patterns) else None)

    def _by_warps(self, evidence: dict[str, Tensor]) -> Adversary | None:
        """Search by warps; add to ``evidence``, return an adversary if a label stands out."""
        config, points = self.config, self.config.warp_points
        if not config.warps:
            return None
        # At zero displacement the gradient of bilinear sampling differs between the two sides, so the start is random.
        start = random_fields(1, points, config.warp_radius / 2, derive_seed(config.seed, "warps"))
        found = self._attraction("warps", start, warp, field_norm(config.warp_radius, points), config.warp_steps)
        evidence["warp"] = found.excess
        suspected = found.excess > config.thresholds["warp"]
        if not suspected.any():
            return None
        return Adversary(_labels(suspected), warped=True, known=found.perturbations[suspected])

    def _attraction(self, stage: str, start: Tensor, perturb: Perturb, radius: float, steps: int) -> Attraction:
        def work() -> Stored:
            found = attraction(
                self.model,
                self.clean_set,
                start,
                perturb=perturb,
                radius=radius,
                steps=steps,
                mixed_precision=self.config.mixed_precision,
                seed=self.config.seed,
                on_batch=self.runner.progress.advance,
            )
            return {"probability": found.probability, "perturbations": found.perturbations}, None

        return Attraction(**self.runner.run(stage, self.key, work)[0])

    def _patterns(self, kind: str) -> PatternSearch:
        def work() -> Stored:
            progress = self.runner.progress
            found = search_patterns(self.model, self.clean_set, kind, self.config, on_batch=progress.advance)
            return {"excess": found.excess, "patterns": found.patterns}, None

        return PatternSearch(**self.runner.run(f"{kind}s", self.key, work)[0])


def planned_search(clean_set: ImageSet, config: ULRLConfig) -> dict[str, float]:
    """Stage -> number of images that the searches process."""
    searched = clean_set.num_classes * min(len(clean_set), 2 * SAMPLES_PER_HALF)
    work: dict[str, float] = {}
    if config.attraction:
        work["attraction"] = searched * (config.attraction_steps + 1) / 2
    if config.patterns:
        work |= {f"{kind}s": planned_images(clean_set, kind, config) for kind in KINDS}
    if config.warps:
        work["warps"] = searched * (config.warp_steps + 1) / 2
    return work


def _labels(suspected: Tensor) -> tuple[int, ...]:
    return tuple(suspected.nonzero().flatten().tolist())
