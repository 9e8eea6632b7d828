import dataclasses
import math

import pytest
import torch
from torch import nn

from advrbd_plugin.cache import StageStore, digest
from advrbd_plugin.errors import AdvrBDError, StorageError
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.batches import batches_of, count_batches
from advrbd_plugin.nn.checkpoints import StoredTraining
from advrbd_plugin.nn.inference import predict
from advrbd_plugin.nn.models import make_model
from advrbd_plugin.nn.training import TrainingOptions, describe_training, train

OPTIONS = TrainingOptions(epochs=3, batch_size=32, learning_rate=0.05, crop_padding=2, flip=True, seed=4)


@pytest.fixture
def samples(poisoned_digits):
    return poisoned_digits.image_set.subset(torch.arange(200))


def fresh(make_digits_model):
    torch.manual_seed(0)
    return make_digits_model()


def run(model, samples, options=OPTIONS, **more):
    return train(model, samples.images, samples.labels, samples.sample_ids, options, **more)


def test_training_learns_and_repeats_to_the_bit(samples, make_digits_model):
    first, second = fresh(make_digits_model), fresh(make_digits_model)
    rows = run(first, samples, dataclasses.replace(OPTIONS, epochs=6))
    run(second, samples, dataclasses.replace(OPTIONS, epochs=6))
    assert [row["epoch"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] < 0.7 * rows[0]["loss"] and rows[-1]["accuracy"] > rows[0]["accuracy"]
    assert digest(*first.state_dict().values()) == digest(*second.state_dict().values())


class Killed(Exception):
    pass


class KilledAfterOne(StoredTraining):
    def save(self, epochs_done, tensors):
        super().save(epochs_done, tensors)
        raise Killed


def test_a_killed_training_goes_on_to_the_same_result(samples, make_digits_model, tmp_path):
    store = StageStore(tmp_path)
    whole, broken = fresh(make_digits_model), fresh(make_digits_model)
    rows = run(whole, samples)
    with pytest.raises(Killed):
        run(broken, samples, checkpoint=KilledAfterOne(store, "training", "key"))
    resumed = fresh(make_digits_model)
    assert run(resumed, samples, checkpoint=StoredTraining(store, "training", "key")) == rows
    assert digest(*whole.state_dict().values()) == digest(*resumed.state_dict().values())


def with_dropout(make_digits_model):
    model = fresh(make_digits_model)
    model[1].insert(len(model[1]) - 1, nn.Dropout(0.5))
    return model


def test_dropout_is_drawn_by_the_seed_and_goes_on_with_a_killed_training(samples, make_digits_model, tmp_path):
    whole, broken, resumed = (with_dropout(make_digits_model) for _ in range(3))
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    run(whole, samples)
    assert torch.equal(torch.rand(3), expected)  # the caller's own generator goes on as if nothing had been
    with pytest.raises(Killed):
        run(broken, samples, checkpoint=KilledAfterOne(StageStore(tmp_path), "training", "key"))
    run(resumed, samples, checkpoint=StoredTraining(StageStore(tmp_path), "training", "key"))
    assert digest(*whole.state_dict().values()) == digest(*resumed.state_dict().values())
    other = with_dropout(make_digits_model)
    other[1][-2].p = 0.0
    run(other, samples)
    assert digest(*whole.state_dict().values()) != digest(*other.state_dict().values())


def test_a_sample_that_is_left_over_joins_the_last_batch():
    assert [len(batch) for batch in batches_of(torch.arange(65), 32)] == [32, 33]
    assert [len(batch) for batch in batches_of(torch.arange(66), 32)] == [32, 32, 2] and count_batches(65, 32) == 2
    images = torch.randint(0, 256, (9, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.uint8)
    model = make_model("resnet_narrow", num_classes=2, image_size=8)
    rows = train(model, images, torch.arange(9) % 2, torch.arange(9), TrainingOptions(epochs=1, batch_size=8))
    assert math.isfinite(rows[0]["loss"])


def test_what_describes_a_training_tells_networks_apart_that_have_the_same_weights():
    def described(layer, **changes):
        return digest(describe_training(nn.Sequential(nn.Linear(2, 2), layer), dataclasses.replace(OPTIONS, **changes)))

    assert described(nn.ReLU()) == described(nn.ReLU()) != described(nn.Tanh())
    assert described(nn.ReLU(), seed=5) != described(nn.ReLU())

    class Activation(nn.Module):
        def __init__(self):
            super().__init__()
            self.function = object()

        def extra_repr(self):
            return repr(self.function)

    assert described(Activation()) == described(Activation())


def test_augmentation_depends_on_the_sample_and_not_on_its_batch(samples):
    whole = augment(samples.images, samples.sample_ids, OPTIONS, epoch=1)
    part = augment(samples.images[50:60], samples.sample_ids[50:60], OPTIONS, epoch=1)
    assert torch.equal(whole[50:60], part)
    assert not torch.equal(whole, augment(samples.images, samples.sample_ids, OPTIONS, epoch=2))


def test_augmentation_is_a_crop_of_the_padded_image_or_of_its_mirror():
    image = torch.arange(1, 17, dtype=torch.uint8).view(1, 1, 4, 4).expand(64, 1, 4, 4)
    seen = augment(image, torch.arange(64), OPTIONS, epoch=0)
    padded = torch.nn.functional.pad(image[0, 0], (2, 2, 2, 2))
    possible = {
        tuple(crop[top : top + 4, left : left + 4].flatten().tolist())
        for crop in (padded, padded.flip(1))
        for top in range(5)
        for left in range(5)
    }
    found = {tuple(each.flatten().tolist()) for each in seen}
    assert found <= possible and len(found) > 20


def test_no_augmentation_leaves_images_alone(samples):
    plain = dataclasses.replace(OPTIONS, crop_padding=0, flip=False)
    assert torch.equal(augment(samples.images, samples.sample_ids, plain, 0), samples.images)


def test_divergence_is_one_line(samples, make_digits_model):
    with pytest.raises(AdvrBDError, match="diverged: the loss is not a finite number") as caught:
        run(fresh(make_digits_model), samples, dataclasses.replace(OPTIONS, learning_rate=1e30))
    assert "\n" not in str(caught.value)


def test_predictions_that_are_not_numbers_are_refused(samples, make_digits_model):
    model = fresh(make_digits_model)
    model[1][-1].bias.data[3] = float("inf")
    with pytest.raises(AdvrBDError, match="NaN or infinite for 200 of 200 images"):
        predict(model, samples.images)


def test_the_store_ignores_a_broken_file_and_another_key(tmp_path):
    store = StageStore(tmp_path)
    store.save("stage", "a" * 20, {"x": torch.arange(3)}, {"n": 1})
    tensors, rest = store.load("stage", "a" * 20)
    assert tensors["x"].tolist() == [0, 1, 2] and rest == {"n": 1}
    assert store.load("stage", "b" * 20) is None
    next(tmp_path.iterdir()).write_bytes(b"half")
    assert store.load("stage", "a" * 20) is None
    assert StageStore(None).load("stage", "a" * 20) is None


def test_the_store_keeps_tied_weights_and_names_a_file_that_it_may_not_read(tmp_path):
    store, weight = StageStore(tmp_path), torch.randn(3, 3)
    store.save("training", "key", {"first": weight, "second": weight}, {"epochs": 1})
    tensors, rest = store.load("training", "key")
    assert torch.equal(tensors["first"], weight) and torch.equal(tensors["second"], weight) and rest == {"epochs": 1}
    (tmp_path / "training-other.safetensors").mkdir()
    with pytest.raises(StorageError, match="cannot read .*training-other"):
        store.load("training", "other")


def test_digest_sees_values_shapes_and_types():
    x = torch.arange(4)
    assert digest(x) == digest(x.clone()) != digest(x.view(2, 2))
    assert len({digest(x), digest(x.int()), digest(x + 1), digest({"a": 1}), digest({"a": 2})}) == 5
