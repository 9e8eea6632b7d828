"""CutMix and SCAnFT, which BackdoorBench lacks, as defenses (and SCAnFT's detection) of BackdoorBench."""

from __future__ import annotations

from advrbd_plugin.backdoorbench.defense_script import DefenseScript
from advrbd_plugin.backdoorbench.log_progress import LogProgress
from advrbd_plugin.backdoorbench.outputs import DetectionCounts, Outcome
from advrbd_plugin.baselines.cutmix import CutMixConfig, train_cutmix
from advrbd_plugin.baselines.scanft import SCAnFTConfig, scanft
from advrbd_plugin.data.image_set import ImageSet


class CutMixMethods(DefenseScript[CutMixConfig]):
    """The methods of the class ``cutmix``: training with CutMix on the poisoned training set alone."""

    name = "cutmix"
    title = "CutMix"
    config_class = CutMixConfig

    @property
    def repairs(self) -> bool:
        return self.config.start == "attacked"

    def run(self, train_set: ImageSet | None) -> Outcome:
        """Fine-tune the attacked model or train a new one; finished epochs are cached."""
        assert train_set is not None
        attacked = self.attacked_model()
        found = train_cutmix(
            train_set,
            make_model=self.new_model,
            attacked_model=attacked,
            config=self.config,
            device=self.device,
            work_dir=self.work_dir,
            progress=LogProgress(),
        )
        return Outcome(found.model, attacked, found.rows, found.seconds, found.config)


class SCAnFTMethods(DefenseScript[SCAnFTConfig]):
    """The methods of the classes ``scanft``: SCAn with a few clean samples, then the repair."""

    name = "scanft"
    title = "SCAnFT"
    config_class = SCAnFTConfig
    uses_clean_samples = True

    @property
    def repairs(self) -> bool:
        return True

    def run(self, train_set: ImageSet | None) -> Outcome:
        """Find poisoned samples, unlearn them, and fine-tune."""
        assert train_set is not None
        attacked = self.attacked_model()
        found = scanft(attacked, train_set, self.clean_samples(), config=self.config, progress=LogProgress())
        return Outcome(
            model=found.model,
            backdoored_model=attacked,
            epochs=[row for rows in found.curves.values() for row in rows],
            seconds=found.seconds,
            config=found.config,
            verdicts=found.verdicts,
            suspected_classes=found.detection.suspected_classes,
            notes={"anomaly": [round(float(value), 3) for value in found.detection.anomaly]},
        )

    def filtering(self) -> DetectionCounts:
        """Find the poisoned samples without a repair."""
        self.config = self.config.replace(unlearn_epochs=0)
        return super().filtering()
