"""What the method of a cell of the stress suite is given."""

from __future__ import annotations

from functools import cached_property

from torch import Tensor

from advrbd_plugin.attacks import PoisonedSet
from advrbd_plugin.data import ImageSet, draw_images
from advrbd_plugin.data.selection import draw_stratified
from advrbd_plugin.evaluation.algorithm import stress_sets_digest
from advrbd_plugin.evaluation.cell import Cell
from advrbd_plugin.evaluation.experiment import Experiment, Options, advrbd_config
from advrbd_plugin.evaluation.image_store import load_images
from advrbd_plugin.evaluation.stress_sets import StressSet
from advrbd_plugin.evaluation.stress_suite import make_stress_set


class StressExperiment(Experiment):
    """A set of the suite, made from photographs that its seed draws, and the network for it."""

    @cached_property
    def stress(self) -> StressSet:
        """The set and the truth about it, which no method may read."""
        cell = self.cell
        train, test = load_images(
            cell.dataset, self.options.data, None, 0, self.options.work
        )  # stored once for all sets
        drawn = draw_images(train, cell.samples, seed=cell.seed)
        return make_stress_set(cell.set_name, drawn.by_id(), test.by_id())

    @cached_property
    def images(self) -> tuple[ImageSet, ImageSet]:
        """(train, test); the training set is the poisoned one, since the suite keeps no other."""
        return self.stress.train, self.stress.test

    @property
    def truly_clean(self) -> Tensor:
        return ~self.stress.poisoned & ~self.stress.mislabelled

    @property
    def kinds(self) -> dict[str, Tensor]:
        mislabelled = self.stress.mislabelled
        kinds = super().kinds
        return kinds | {"mislabelled": mislabelled, "clean": kinds["clean"] & ~mislabelled}

    def draw_clean(self, share: float) -> ImageSet:
        """Clean images for the methods that need some, of the training set's samples without trigger or wrong label."""
        train = self.train_set
        clean = train.subset(self.kinds["clean"])
        count = min(len(clean), max(2 * train.num_classes, round(share * len(train))))
        return clean.subset(draw_stratified(clean.sample_ids, clean.labels, count, seed=self.cell.seed + 1))

    @cached_property
    def poisoned(self) -> PoisonedSet:
        stress, cell = self.stress, self.cell
        return PoisonedSet(
            stress.train,
            stress.poisoned,
            stress.covers,
            stress.true_labels,
            attack=cell.attack,
            target_label=None,
            parameters={"set": cell.set_name, "seed": cell.seed, "triggers": [each.name for each in stress.triggers]},
        )

    @property
    def num_triggered(self) -> int:
        return sum(len(each.triggered) for each in self.stress.triggers)


def set_of(cell: Cell, options: Options, samples: int) -> dict[str, object]:
    """Which set a result is of, and how the networks were trained; for its file.

    Args:
        samples: how many training images the set has in the end.
    """
    return {
        "name": cell.set_name,
        "seed": cell.seed,
        "drawn": cell.samples,
        "samples": samples,
        "model": cell.model,
        "epochs": advrbd_config(cell, options).for_samples(samples).epochs,
        "made_by": stress_sets_digest(),
    }
