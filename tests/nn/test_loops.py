"""The loops keep a device busy: everything is where it is needed, and no step waits for the host.

A GPU is imitated by PyTorch's fake tensors: they have shapes and devices and no values, so whatever asks for a value,
or mixes devices as no kernel can, raises.
"""

import contextlib

import pytest
import torch
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode
from torch.overrides import TorchFunctionMode

from advrbd_plugin.cache import digest
from advrbd_plugin.defense import scoring
from advrbd_plugin.nn import features, inference, training, transfer
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.models import make_model
from advrbd_plugin.nn.training import TrainingOptions, train
from advrbd_plugin.nn.trajectory import Trajectory
from advrbd_plugin.randomness import derive_seed, uniform_integers

OPTIONS = TrainingOptions(epochs=1, batch_size=8, crop_padding=2, mixed_precision=False)
WAITING = {"cpu", "item", "tolist", "numpy", "nonzero", "__float__", "__int__", "__bool__", "__index__"}


class Waits(TorchFunctionMode):
    """Counts the calls for which a host would wait for a GPU."""

    def __init__(self):
        super().__init__()
        self.calls = []

    def __torch_function__(self, func, types, args=(), kwargs=None):
        if getattr(func, "__name__", "") in WAITING:
            self.calls.append(func.__name__)
        return func(*args, **(kwargs or {}))


def waits_of(work):
    with Waits() as waits:
        work()
    return sorted(waits.calls)


@pytest.fixture
def fake_gpu(monkeypatch):
    """Tensors on a GPU that is not there. What only a real one has is left out: streams, pinned memory, backward."""
    monkeypatch.setattr(torch.Tensor, "backward", _no_backward)
    monkeypatch.setattr(torch.autograd, "grad", lambda loss, inputs: (torch.zeros_like(inputs),))
    monkeypatch.setattr(training, "repeatable", lambda *_: contextlib.nullcontext())
    monkeypatch.setattr(inference, "bfloat16_is_faster", lambda _: False)
    for module in (training, transfer, inference, scoring):
        monkeypatch.setattr(module, "upload", lambda tensor, device: tensor.to(device))
    with FakeTensorMode(allow_non_fake_inputs=True):
        yield torch.device("cuda")


def _no_backward(loss):
    assert loss.shape == ()


def small_set(count, side=16):
    images = torch.randint(0, 256, (count, 3, side, side), dtype=torch.uint8)
    return images, torch.arange(count) % 4, torch.arange(count)


def network(device):
    with torch.device(device):
        model = make_model("resnet_narrow", num_classes=4, image_size=16)
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    model.to = lambda **_: model  # fake weights cannot be laid out anew
    return model


def test_the_imitation_notices_what_asks_for_a_value_and_what_mixes_devices(fake_gpu):
    here, there = torch.ones(3), torch.ones(3, device=fake_gpu)
    assert waits_of(lambda: there.cpu()) == ["cpu"]
    with pytest.raises(DataDependentOutputException):
        float(there.sum())
    with pytest.raises(RuntimeError, match="device"):
        here + there


@pytest.mark.parametrize("resident", [True, False])
def test_no_step_of_a_training_waits_and_all_is_on_the_device(fake_gpu, monkeypatch, resident):
    shown, launches = [], []
    monkeypatch.setattr(torch, "_fused_sgd_", lambda parameters, *_, **__: launches.append(len(parameters)))
    monkeypatch.setattr(transfer, "_fits", lambda *_: resident)
    monkeypatch.setattr(training._Sums, "read", lambda _: (1.0, 1))
    monkeypatch.setattr(training, "float", lambda loss: shown.append(loss.device.type) or 0.0, raising=False)
    monkeypatch.setattr(torch.optim.SGD, "zero_grad", lambda *_, **__: None)  # there is no backward to make gradients

    def waits(samples):
        model, record = network(fake_gpu), Trajectory(samples, 4, 1)
        counted = waits_of(lambda: train(model, *small_set(samples), OPTIONS, trajectory=record))
        assert record.mean.device.type == "cpu" and all(each.is_cuda for each in model.state_dict().values())
        return counted

    assert waits(32) == waits(64) and shown == ["cuda"] * 2
    assert launches == [len(list(network(fake_gpu).parameters()))] * (4 + 8)


def test_the_optimizer_is_fused_on_a_gpu_alone(fake_gpu):
    assert training._optimizer(network(fake_gpu), OPTIONS).defaults["fused"] is True
    assert training._optimizer(network("cpu"), OPTIONS).defaults["fused"] is None


@pytest.mark.parametrize("sizes", [[8], [8, 4, 2]])
def test_no_batch_of_scoring_waits(fake_gpu, monkeypatch, sizes):
    flags, scores = [], []
    monkeypatch.setattr(scoring, "int", lambda _: 0, raising=False)
    monkeypatch.setattr(scoring, "refuse_broken", flags.append)
    model, settings = network(fake_gpu), {"patch_size": sizes, "batch_size": 8, "mixed_precision": False}

    def waits(samples):
        images, labels, _ = small_set(samples)
        counted = waits_of(lambda: scores.append(scoring.consistency_scores(model, images, labels, **settings)))
        assert scores[-1].shape == (len(sizes), samples) and scores[-1].device.type == "cpu"
        assert flags[-1].shape == (samples,) and flags[-1].device.type == "cpu"
        return counted

    assert waits(16) == waits(32)


def test_no_batch_of_features_waits(fake_gpu, monkeypatch):
    monkeypatch.setattr(inference, "check_finite", lambda _: None)
    model = network(fake_gpu)

    def waits(samples):
        images = small_set(samples)[0]
        return waits_of(lambda: features.layered_features(model, images, mixed_precision=False))

    assert waits(1000) == waits(2000)


def test_many_results_are_moved_before_they_fill_the_device(fake_gpu, monkeypatch):
    monkeypatch.setattr(transfer, "_RESULT_BYTES", 100)
    results = transfer.Results()
    for _ in range(5):
        results.add(torch.zeros(4, 3, device=fake_gpu))  # 48 bytes
    assert len(results._moved) == 1 and len(results._parts) == 2
    assert results.whole().shape == (20, 3) and results.whole().device.type == "cpu"


def test_results_come_in_the_order_of_the_batches(device, monkeypatch):
    monkeypatch.setattr(transfer, "_RESULT_BYTES", 100)
    parts = torch.arange(60).view(3, 20)
    results = transfer.Results(dim=1)
    assert not results
    for part in parts.split(3, dim=1):
        results.add(part.to(device))
    assert results and torch.equal(results.whole(), parts) and torch.equal(results.whole(), parts)


def test_results_on_the_cpu_are_copies_in_few_blocks(monkeypatch):
    """What the parts themselves took is free again, so that no batch finds the memory cut into pieces."""
    monkeypatch.setattr(transfer, "_BLOCK_BYTES", 9 * 8 * 4)  # four parts
    whole = torch.arange(60).view(3, 20)
    results = transfer.Results(dim=1)
    for part in whole.split(3, dim=1):
        given = part.clone()
        results.add(given)
        given.zero_()
    assert len({part.untyped_storage().data_ptr() for part in results._parts}) == 2
    assert torch.equal(results.whole(), whole)


def test_a_part_larger_than_a_block_has_its_own(monkeypatch):
    monkeypatch.setattr(transfer, "_BLOCK_BYTES", 8)
    results = transfer.Results()
    for part in torch.arange(10).split([1, 7, 2]):
        results.add(part)
    assert torch.equal(results.whole(), torch.arange(10))


@pytest.mark.parametrize(("padding", "flip"), [(0, False), (0, True), (3, False), (3, True)])
def test_crops_and_flips_are_the_same_bits_on_every_device(device, padding, flip):
    """One sample at a time, as a sentence says it: pad with black, crop, and mirror the crop."""
    images, _, ids = small_set(40, side=9)
    ids = ids * 7 + 2**33
    options = TrainingOptions(epochs=1, crop_padding=padding, flip=flip, seed=11)
    found = augment(images.to(device), ids.to(device), options, epoch=5)
    offsets = uniform_integers(ids, 2 * padding + 1, derive_seed(11, "crop", 5)).tolist()
    flips = uniform_integers(ids, 2, derive_seed(11, "flip", 5))[:, 0].tolist()
    for image, one, (top, left), mirrored in zip(images, found.cpu(), offsets, flips):
        expected = torch.nn.functional.pad(image, [padding] * 4)[:, top : top + 9, left : left + 9]
        assert torch.equal(one, expected.flip(2) if flip and mirrored else expected)


def test_a_set_in_the_memory_of_the_device_gives_the_same_batches_and_the_same_weights(device, monkeypatch):
    images, labels, ids = small_set(40)
    trained = []
    for resident in (True, False):
        monkeypatch.setattr(transfer, "_fits", lambda *_, answer=resident: answer)
        torch.manual_seed(0)
        model = make_model("resnet_narrow", num_classes=4, image_size=16).to(device)
        rows = train(model, images, labels, ids, OPTIONS)
        trained.append((digest(*model.state_dict().values()), rows))
    assert trained[0] == trained[1]
