"""What a cell's method is given: data, attack, network, settings, and the backdoored model once it is trained."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from advrbd_plugin.attacks import Attack, PoisonedSet, make_attack, no_attack
from advrbd_plugin.data import ImageSet
from advrbd_plugin.data.selection import draw_stratified
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.pipeline import AdvrBD
from advrbd_plugin.defense.result import BackdooredModel
from advrbd_plugin.evaluation.cell import NO_ATTACK, POISON_RATIO, STRESS, TARGET_LABEL, Cell
from advrbd_plugin.evaluation.image_store import load_images
from advrbd_plugin.evaluation.scales import find_scale
from advrbd_plugin.nn.description import ModelDescription

# Shown to the models of the unpoisoned set, so that they have a rate of triggered images in the target class too.
_TRIGGER_OF_NO_ATTACK = "badnets"


@dataclass(frozen=True)
class Options:
    """How cells are run, ready for JSON.

    Attributes:
        data: the folder that holds the data sets.
        out: where the results go.
        work: where trained models and unfinished stages are stored; a folder for each attack, AdvrBD's ``work_dir``.
        device: where to train; a GPU if there is one, by default.
        backdoorbench: the toolbox's checkout; as ``advrbd compare`` finds it, by default.
        settings: changes to the settings of every preset of AdvrBD.
    """

    data: str
    out: str
    work: str
    device: str | None = None
    backdoorbench: str | None = None
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class Outcome:
    """What a method gives back.

    Attributes:
        model: the defended model, for images in pixel scale [0, 1].
        flagged: (N,) bool, the training samples called poisoned, where the method says so.
        score: (N,) float, higher is more suspicious, where it gives one.
        trusted: (N,) bool, the samples that were taken as clean (D_c).
        mislabelled: (N,) bool, the samples said to have a wrong label and no trigger, where the method says so.
        suggested_label: (N,) int64, the label that a sample should have by the method.
        tpr, fpr: where nothing but these rates is known of a detection.
        curves: stage -> rows, one a step.
        stage_seconds: stage -> time.
        details: whatever else the result should state, ready for JSON.
        peak_cuda_bytes: the most that processes which the method ran had allocated on the GPU.
    """

    model: nn.Module
    flagged: Tensor | None = None
    score: Tensor | None = None
    trusted: Tensor | None = None
    mislabelled: Tensor | None = None
    suggested_label: Tensor | None = None
    tpr: float | None = None
    fpr: float | None = None
    curves: Mapping[str, list[dict[str, float]]] = field(default_factory=dict)
    stage_seconds: Mapping[str, float] = field(default_factory=dict)
    details: Mapping[str, Any] = field(default_factory=dict)
    peak_cuda_bytes: int | None = None


class Experiment:
    """The data and the network of one cell, each made at its first use."""

    def __init__(self, cell: Cell, options: Options) -> None:
        self.cell, self.options = cell, options
        self.work = Path(options.work) / work_folder(cell)

    @cached_property
    def images(self) -> tuple[ImageSet, ImageSet]:
        """(train, test), before the attack."""
        samples = self.cell.samples or find_scale(self.cell.scale).samples
        return load_images(self.cell.dataset, self.options.data, samples, self.cell.seed, self.options.work)

    @property
    def clean_train(self) -> ImageSet:
        return self.images[0]

    @property
    def test(self) -> ImageSet:
        return self.images[1]

    def draw_clean(self, share: float) -> ImageSet:
        """Clean images for the methods that need some: a share of the training set before the attack, stratified.

        At least two of each class, where the classes are alike in size.
        """
        train = self.clean_train
        count = max(2 * train.num_classes, round(share * len(train)))
        return train.subset(draw_stratified(train.sample_ids, train.labels, count, seed=self.cell.seed + 1))

    @cached_property
    def attack(self) -> Attack | None:
        if self.cell.attack == NO_ATTACK:
            return None
        return make_attack(self.cell.attack, target_label=TARGET_LABEL, poison_ratio=self.cell.poison_ratio)

    @cached_property
    def poisoned(self) -> PoisonedSet:
        """The poisoned training set, and which samples are poisoned, which no method may read."""
        train = self.clean_train
        return no_attack(train) if self.attack is None else self.attack.poison(train, seed=self.cell.seed)

    @property
    def truly_clean(self) -> Tensor:
        """(N,) bool: the samples with their true label, covers too."""
        return ~self.poisoned.poisoned

    @property
    def kinds(self) -> dict[str, Tensor]:
        """What the samples are in truth, (N,) bool each; every sample is of one kind."""
        poisoned, covers = self.poisoned.poisoned, self.poisoned.covers
        return {"poisoned": poisoned, "covers": covers, "clean": ~poisoned & ~covers}

    @property
    def train_set(self) -> ImageSet:
        return self.poisoned.image_set

    @cached_property
    def triggered(self) -> ImageSet:
        """The test images that the attack triggers, with their true labels.

        On the unpoisoned set the trigger is BadNets', since the paper's tables give an ASR there too.
        """
        attack = self.attack or make_attack(_TRIGGER_OF_NO_ATTACK, target_label=TARGET_LABEL)
        return attack.triggered_test_set(self.test)

    @property
    def num_triggered(self) -> int:
        """On how many images the attack is measured."""
        return len(self.triggered)

    @cached_property
    def description(self) -> ModelDescription:
        return ModelDescription.for_images(self.cell.model, self.train_set)

    def make_model(self) -> nn.Module:
        """A freshly initialised network for these images."""
        return self.description.build()

    @property
    def device(self) -> torch.device:
        return torch.device(self.options.device or ("cuda" if torch.cuda.is_available() else "cpu"))

    @cached_property
    def first_stage(self) -> BackdooredModel:
        """The model trained on the whole poisoned set: trained once, then loaded by every method."""
        config = advrbd_config(self.cell, self.options)
        defense = AdvrBD(self.make_model, config, device=self.options.device, work_dir=self.work)
        return defense.train_backdoored(self.train_set)

    @property
    def backdoored(self) -> nn.Module:
        """The backdoored model, in eval mode; callers must not change it."""
        return self.first_stage.model


def work_folder(cell: Cell) -> str:
    """``badnets``, ``badnets-0.01`` or ``badnets-0.01-seed1``: default values are left out.

    One folder serves all networks and data sets: its files are named by digests of what they depend on.
    """
    if cell.scale == STRESS:
        return f"{STRESS}/{cell.set_name}"
    ratio = "" if cell.poison_ratio in (0, POISON_RATIO) and not cell.seed else f"-{cell.poison_ratio:g}"
    return cell.attack + ratio + (f"-seed{cell.seed}" if cell.seed else "")


def advrbd_config(cell: Cell, options: Options, preset: str = "robust", **changes: Any) -> AdvrBDConfig:
    """A preset with the scale's and the user's settings; ``changes`` and the cell's values override both."""
    partition = {} if cell.partition_rate is None else {"alpha": cell.partition_rate}
    wanted = {**find_scale(cell.scale).settings, **options.settings, **changes, **partition, "seed": cell.seed}
    return AdvrBDConfig.preset(preset).replace(**wanted)


Run = Callable[[Experiment], Outcome]
