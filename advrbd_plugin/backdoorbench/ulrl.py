"""ULRL as a defense of BackdoorBench."""

from __future__ import annotations

from advrbd_plugin.backdoorbench.defense_script import DefenseScript
from advrbd_plugin.backdoorbench.log_progress import LogProgress
from advrbd_plugin.backdoorbench.outputs import Outcome
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.ulrl import ULRL, ULRLConfig, clean_from_poisoned


class ULRLMethods(DefenseScript[ULRLConfig]):
    """The methods of the class ``ulrl``: repair of the attacked model."""

    name = "ulrl"
    title = "ULRL"
    config_class = ULRLConfig
    uses_clean_samples = True

    @property
    def uses_training_set(self) -> bool:
        """With ``--clean_from_poisoned`` alone, so that a model whose record has no training set can be repaired."""
        return bool(self.args.clean_from_poisoned)

    @property
    def repairs(self) -> bool:
        return True

    def run(self, train_set: ImageSet | None) -> Outcome:
        """Repair the attacked model; finished stages are cached."""
        attacked, progress = self.attacked_model(), LogProgress()
        suspect_set, attacked_labels = None, None
        if train_set is None:
            clean_set = self.clean_samples()
        else:
            picked = clean_from_poisoned(attacked, train_set, seed=self.config.seed, progress=progress)
            clean_set, suspect_set = picked.clean_set, picked.suspect_set
            attacked_labels = picked.suspected_classes
        repair = ULRL(self.config, device=self.device, work_dir=self.work_dir, progress=progress)
        found = repair.repair(attacked, clean_set, suspect_set=suspect_set, attacked_labels=attacked_labels)
        return Outcome(
            model=found.model,
            backdoored_model=attacked,
            epochs=found.curves.get("relearning", []),
            seconds=found.seconds,
            config=found.config,
            suspected_classes=found.attacked_labels,
            notes={
                "verdict": found.verdict,
                "suspicious_neurons": found.num_suspicious,
                "clean_samples": len(clean_set),
                "clean_from_poisoned": train_set is not None,
            },
        )
