"""One judge for all defenses: the same images, the same code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from advrbd_plugin.backdoorbench.record import AttackRecord
from advrbd_plugin.backdoorbench.run import value_of
from advrbd_plugin.evaluation.compare.plan import Plan
from advrbd_plugin.evaluation.metrics import Performance, Triggered, evaluate_images

if TYPE_CHECKING:
    from torch import nn

    from advrbd_plugin.backdoorbench.datasets import TestSets


class Judge:
    """Judges models on the test images of their record, of which those of one record are in memory at a time."""

    def __init__(self, plan: Plan) -> None:
        self._plan = plan
        self._loaded: tuple[Path, TestSets] | None = None

    def attacked_model(self, record: AttackRecord) -> Performance:
        """Judge the record's own model."""
        from advrbd_plugin.backdoorbench.classifiers import attacked_model

        return self._performance(record, partial(attacked_model, record))

    def defended_model(self, record: AttackRecord, path: Path) -> Performance:
        """Judge the model of a ``defense_result.pt``.

        Raises:
            AdvrBDError: there is none, or it is no plain model of the toolbox.
        """
        from advrbd_plugin.backdoorbench.classifiers import load_defended_model

        return self._performance(record, partial(load_defended_model, path, record, trust=self._plan.trust_record))

    def _performance(self, record: AttackRecord, load: Callable[[], nn.Module]) -> Performance:
        import torch

        tests = self._test_sets(record)  # which also finds the toolbox's modules, for its models
        device = value_of(self._plan.arguments, "--device") or ("cuda" if torch.cuda.is_available() else "cpu")
        triggered = Triggered(tests.triggered_images, tests.original_labels, tests.attack_labels)
        return evaluate_images(load().to(device), tests.clean_images, tests.clean_labels, triggered)

    def _test_sets(self, record: AttackRecord) -> TestSets:
        if self._loaded is None or self._loaded[0] != record.folder:
            self._loaded = None  # before the next record's images are read
            self._loaded = record.folder, self._read_test_sets(record)
        return self._loaded[1]

    def _read_test_sets(self, record: AttackRecord) -> TestSets:
        from advrbd_plugin.backdoorbench.compat import apply_patches_for_modules, use_local_data
        from advrbd_plugin.backdoorbench.datasets import load_result, test_sets

        if os.fspath(self._plan.checkout) not in sys.path:
            sys.path.insert(0, os.fspath(self._plan.checkout))
        sys.dont_write_bytecode = True  # the checkout has no .gitignore
        apply_patches_for_modules()
        if self._plan.local_data:
            use_local_data()
        path = value_of(self._plan.arguments, "--dataset_path")
        return test_sets(load_result(record, path), record)
