"""What a network says of each sample while it learns: recorded, resumed and stored."""

import dataclasses

import pytest
import torch

from advrbd_plugin.cache import StageStore
from advrbd_plugin.defense.stage_runner import StageRunner
from advrbd_plugin.nn import trajectory as module
from advrbd_plugin.nn.batches import batches_of
from advrbd_plugin.nn.checkpoints import StoredTraining, cached_training
from advrbd_plugin.nn.training import TrainingOptions, train
from advrbd_plugin.nn.trajectory import Trajectory
from advrbd_plugin.progress import SilentProgress
from advrbd_plugin.randomness import derive_seed, shuffled

OPTIONS = TrainingOptions(epochs=4, batch_size=32, learning_rate=0.05, crop_padding=2, seed=4)


@pytest.fixture
def samples(poisoned_digits):
    return poisoned_digits.image_set.subset(torch.arange(150, 250))


def new_record(samples, options=OPTIONS):
    return Trajectory(len(samples), samples.num_classes, options.epochs)


def run(model, samples, record=None, options=OPTIONS, **more):
    return train(model, samples.images, samples.labels, samples.sample_ids, options, trajectory=record, **more)


def fresh(make_digits_model):
    torch.manual_seed(0)
    return make_digits_model()


def test_the_record_is_the_mean_over_all_epochs_but_the_first_third(samples, make_digits_model):
    record, seen = new_record(samples), []
    model = fresh(make_digits_model)
    model.register_forward_hook(lambda _, __, logits: seen.append(logits.detach().float().softmax(1)))
    run(model, samples, record)
    expected = torch.zeros(len(samples), 10)
    for epoch in range(OPTIONS.epochs):
        order = shuffled(samples.sample_ids, derive_seed(OPTIONS.seed, "order", epoch))
        for batch in batches_of(order, OPTIONS.batch_size):
            probabilities = seen.pop(0)
            if epoch >= 1:
                expected[batch] += probabilities
    assert not seen
    torch.testing.assert_close(record.mean, expected / 3)
    torch.testing.assert_close(record.mean.sum(1), torch.ones(len(samples)))


def test_the_record_changes_no_weight(samples, make_digits_model):
    first, second = fresh(make_digits_model), fresh(make_digits_model)
    assert run(first, samples) == run(second, samples, new_record(samples))
    assert all(torch.equal(a, b) for a, b in zip(first.state_dict().values(), second.state_dict().values()))


class Killed(Exception):
    pass


def killed_after(epochs):
    class Checkpoint(StoredTraining):
        def save(self, epochs_done, tensors):
            super().save(epochs_done, tensors)
            if epochs_done == epochs:
                raise Killed

    return Checkpoint


@pytest.mark.parametrize("epochs", [1, 2, 4])
def test_a_killed_training_goes_on_to_the_same_record(samples, make_digits_model, tmp_path, epochs):
    whole, resumed, store = new_record(samples), new_record(samples), StageStore(tmp_path)
    rows = run(fresh(make_digits_model), samples, whole)
    with pytest.raises(Killed):
        checkpoint = killed_after(epochs)(store, "training", "key")
        run(fresh(make_digits_model), samples, new_record(samples), checkpoint=checkpoint)
    checkpoint = StoredTraining(store, "training", "key")
    assert run(fresh(make_digits_model), samples, resumed, checkpoint=checkpoint) == rows
    assert torch.equal(whole.mean, resumed.mean)


def test_a_training_that_went_on_without_a_record_starts_again(samples, make_digits_model, tmp_path):
    whole, resumed, store = new_record(samples), new_record(samples), StageStore(tmp_path)
    rows = run(fresh(make_digits_model), samples, whole)
    with pytest.raises(Killed):
        run(fresh(make_digits_model), samples, checkpoint=killed_after(2)(store, "training", "key"))
    checkpoint = StoredTraining(store, "training", "key")
    assert run(fresh(make_digits_model), samples, resumed, checkpoint=checkpoint) == rows
    assert torch.equal(whole.mean, resumed.mean)


def test_a_finished_training_has_its_record_stored(samples, make_digits_model, tmp_path):
    store, worked = StageStore(tmp_path), []

    def cached(record):
        model = fresh(make_digits_model)

        def work(checkpoint):
            worked.append(record)
            return run(model, samples, record, checkpoint=checkpoint)

        return cached_training(store, "training", "key", model, work, record)

    cached(None)
    first, second = new_record(samples), new_record(samples)
    rows = cached(first)  # the stored training has no record: it is done again
    assert cached(second) == rows and cached(None) == rows and len(worked) == 2
    assert torch.equal(first.mean, second.mean)
    longer = Trajectory(len(samples) + 1, 10, OPTIONS.epochs)
    with pytest.warns(UserWarning, match="trajectory-training-key.* is damaged"):
        cached(longer)


def test_a_stage_gives_its_record_only_where_it_is_asked_for_and_not_too_large(
    samples, make_digits_model, tmp_path, monkeypatch
):
    runner = StageRunner(make_digits_model, torch.device("cpu"), tmp_path, SilentProgress())
    options = dataclasses.replace(OPTIONS, epochs=1)
    assert runner.train("training", samples, options, 0, "key").mean_probabilities is None
    trained = runner.train("training", samples, options, 0, "key", record=True)
    again = runner.train("training", samples, options, 0, "key", record=True)
    assert trained.mean_probabilities.shape == (100, 10) and trained.rows == again.rows
    assert torch.equal(trained.mean_probabilities, again.mean_probabilities)
    monkeypatch.setattr(module, "MAX_RECORDED", 999)
    assert runner.train("training", samples, options, 0, "key", record=True).mean_probabilities is None


def test_no_mean_before_the_end():
    with pytest.raises(ValueError, match="has not ended"):
        Trajectory(2, 3, 1).mean  # noqa: B018
