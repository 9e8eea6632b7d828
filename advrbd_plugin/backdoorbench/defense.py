"""AdvrBD as a defense and as a detection of BackdoorBench."""

from __future__ import annotations

from advrbd_plugin.backdoorbench.defense_script import DefenseScript
from advrbd_plugin.backdoorbench.log_progress import LogProgress
from advrbd_plugin.backdoorbench.outputs import Outcome
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense.config import AdvrBDConfig


class AdvrBDMethods(DefenseScript[AdvrBDConfig]):
    """The methods of the classes ``advrbd``: AdvrBD on the poisoned training set alone."""

    name = "advrbd"
    title = "AdvrBD"
    config_class = AdvrBDConfig

    def run(self, train_set: ImageSet | None) -> Outcome:
        """Run AdvrBD; the defense and the detection share its cached stages."""
        assert train_set is not None
        from advrbd_plugin.backdoorbench.classifiers import bare_network
        from advrbd_plugin.defense.pipeline import AdvrBD

        method = AdvrBD(self.new_model, self.config, device=self.device, work_dir=self.work_dir, progress=LogProgress())
        found = method.fit(train_set)
        stages = ("retraining", "relearning") if "retraining" in found.curves else ("training",)
        return Outcome(
            model=bare_network(found.model),  # the toolbox's
            backdoored_model=bare_network(found.backdoored_model),
            epochs=[row for stage in stages for row in found.curves.get(stage, ())],
            seconds=found.seconds,
            config=found.config,
            verdicts=found.verdicts,
            suspected_classes=found.suspected_classes,
        )
