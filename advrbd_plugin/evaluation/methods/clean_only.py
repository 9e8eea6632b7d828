"""The same training on the truly clean samples: what a perfect detector would give."""

from __future__ import annotations

from advrbd_plugin.cache import StageStore, digest
from advrbd_plugin.evaluation.experiment import Experiment, Outcome, advrbd_config
from advrbd_plugin.evaluation.methods.base import Method
from advrbd_plugin.evaluation.methods.undefended import training_configuration
from advrbd_plugin.nn.checkpoints import StoredTraining
from advrbd_plugin.nn.repeatable import repeatable
from advrbd_plugin.nn.training import describe_training, train
from advrbd_plugin.randomness import derive_seed


def run(experiment: Experiment) -> Outcome:
    """Train as the backdoored model was trained, without the samples that have no true label; covers stay."""
    seed = experiment.cell.seed
    config = advrbd_config(experiment.cell, experiment.options).for_samples(len(experiment.train_set))
    options = config.training(derive_seed(seed, "training"))
    clean = experiment.train_set.subset(experiment.truly_clean)
    with repeatable(experiment.device, derive_seed(seed, "weights", "training")):
        model = experiment.make_model().to(experiment.device)
    recipe = describe_training(model, options)
    key = digest(clean.images, clean.labels, clean.sample_ids, recipe, *model.state_dict().values())
    checkpoint = StoredTraining(StageStore(experiment.work), "clean_only", key)
    rows = train(model, clean.images, clean.labels, clean.sample_ids, options, checkpoint=checkpoint)
    checkpoint.remove()
    return Outcome(model=model, curves={"training": rows})


METHOD = Method(
    "clean_only", "Clean samples only", run, training_configuration, uses_backdoored_model=False, needs_attack=True
)
