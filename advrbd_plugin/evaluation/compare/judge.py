"""One judge for all defenses: the same images, the same code."""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from advrbd_plugin.backdoorbench.record import AttackRecord, read_record
from advrbd_plugin.backdoorbench.run import value_of
from advrbd_plugin.evaluation.compare.cell import UNDEFENDED, Cell, read_cell, write_cell
from advrbd_plugin.evaluation.compare.plan import Plan

if TYPE_CHECKING:
    from torch import nn


class Judge:
    """Judges models on one record's test images, which are loaded when they are first needed."""

    def __init__(self, plan: Plan, folder: Path) -> None:
        self._plan = plan
        self._tests: Any = None
        self.record: AttackRecord = read_record(folder, trust=plan.trust_record)

    def undefended(self) -> Cell:
        """The attacked model's own figures."""
        notes = self.record.folder / "compare_undefended.json"
        cell = read_cell(notes)
        attacked = self.record.folder / "attack_result.pt"
        if cell is not None and notes.stat().st_mtime >= attacked.stat().st_mtime:
            return cell
        from advrbd_plugin.backdoorbench.classifiers import attacked_model

        figures = self._figures(partial(attacked_model, self.record))
        cell = Cell(
            self.record.name, UNDEFENDED, acc=figures["test_acc"], asr=figures["test_asr"], ra=figures["test_ra"]
        )
        write_cell(notes, cell)
        return cell

    def model_file(self, path: Path) -> dict[str, float]:
        """Judge the model of a ``defense_result.pt``.

        Raises:
            AdvrBDError: there is none, or it is no plain model of the toolbox.
        """
        from advrbd_plugin.backdoorbench.classifiers import load_defended_model

        return self._figures(partial(load_defended_model, path, self.record, trust=self._plan.trust_record))

    def _figures(self, load: Callable[[], nn.Module]) -> dict[str, float]:
        import torch

        from advrbd_plugin.backdoorbench.outputs import judge

        tests = self._test_sets()  # which also finds the toolbox's modules, for its models
        device = value_of(self._plan.arguments, "--device") or ("cuda" if torch.cuda.is_available() else "cpu")
        return judge(load(), tests, 256, torch.device(device))

    def _test_sets(self) -> Any:
        if self._tests is None:
            from advrbd_plugin.backdoorbench.compat import apply_patches_for_modules, use_local_data
            from advrbd_plugin.backdoorbench.datasets import load_result, test_sets

            if os.fspath(self._plan.checkout) not in sys.path:
                sys.path.insert(0, os.fspath(self._plan.checkout))
            sys.dont_write_bytecode = True  # the checkout has no .gitignore
            apply_patches_for_modules()
            if self._plan.local_data:
                use_local_data()
            path = value_of(self._plan.arguments, "--dataset_path")
            self._tests = test_sets(load_result(self.record, path), self.record)
        return self._tests
