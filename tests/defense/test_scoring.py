import pytest
import torch
from torch import nn
from torch.nn import functional

from advrbd_plugin import ops
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.defense import scoring
from advrbd_plugin.defense.config import AdvrBDConfig
from advrbd_plugin.defense.scoring import consistency_scores
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.models import make_model


@pytest.fixture
def batch():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (11, 3, 12, 12), dtype=torch.uint8, generator=generator)
    return images, torch.randint(0, 4, (11,), generator=generator)


@pytest.fixture
def model():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = make_model("resnet_narrow", num_classes=4, image_size=12).eval()
        network[1][-1].weight.data.mul_(20)  # a fresh network is too unsure to be moved
    return network


def expected(model, images, labels, epsilon, patch_size, num_masks, seed, ids):
    """Equation 3, sample by sample and mask by mask."""
    origins = ops.patch_origins(ids, images.shape[-1], patch_size, num_masks, seed)
    rows = []
    for n in range(len(images)):
        x = (images[n : n + 1].float() / 255).requires_grad_(True)
        logits = model(x)
        (grad,) = torch.autograd.grad(functional.cross_entropy(logits, labels[n : n + 1]), x)
        row = []
        for k in range(num_masks):
            top, left = origins[k, n].tolist()
            moved = x.detach().clone()
            inside = (..., slice(top, top + patch_size), slice(left, left + patch_size))
            moved[inside] = (moved[inside] + epsilon * grad[inside].sign()).clamp(0, 1)
            p = logits.detach().log_softmax(1)
            q = model(moved).detach().log_softmax(1)
            row.append(float((p.exp() * (p - q)).sum()))
        rows.append(row)
    return torch.tensor(rows)


REDUCTIONS = {
    "mean": lambda rows: rows.mean(1),
    "median": lambda rows: rows.quantile(0.5, dim=1),
    "geometric_mean": lambda rows: rows.clamp_min(1e-12).log().mean(1).exp(),
}


@pytest.mark.parametrize("reduction", REDUCTIONS)
def test_scores_are_equation_3(model, batch, reduction):
    images, labels = batch
    ids = torch.arange(40, 51)
    rows = expected(model, images, labels, 0.2, 5, 3, 9, ids)
    assert rows.max() > 1e-3
    scores = consistency_scores(
        model,
        images,
        labels,
        epsilon=0.2,
        patch_size=5,
        num_masks=3,
        reduction=reduction,
        seed=9,
        sample_ids=ids,
        batch_size=4,
        mixed_precision=False,
    )
    torch.testing.assert_close(scores, REDUCTIONS[reduction](rows), rtol=1e-3, atol=1e-6)


def test_one_forward_one_input_backward_and_one_forward_per_mask(model, batch):
    images, labels = batch
    forwards, weight_grads = [], []
    model.register_forward_hook(lambda *_: forwards.append(1))
    for parameter in model.parameters():
        parameter.register_hook(weight_grads.append)
    consistency_scores(model, images, labels, patch_size=4, num_masks=3, batch_size=6)
    assert len(forwards) == 2 * (1 + 3)
    assert not weight_grads and all(parameter.grad is None for parameter in model.parameters())
    assert all(parameter.requires_grad for parameter in model.parameters())


@pytest.mark.parametrize("mixed_precision", [False, True])
def test_same_batches_same_bits_and_other_batches_within_rounding(model, batch, mixed_precision):
    images, labels = batch
    settings = {"epsilon": 0.1, "patch_size": 4, "num_masks": 2, "mixed_precision": mixed_precision}
    first = consistency_scores(model, images, labels, batch_size=4, **settings)
    assert torch.equal(first, consistency_scores(model, images, labels, batch_size=4, **settings))
    other = consistency_scores(model, images, labels, batch_size=11, **settings)
    # bfloat16 carries 8 bits; logits rounded at another place move a divergence by a few per cent.
    tolerance = {"rtol": 1e-1, "atol": 5e-3} if mixed_precision else {"rtol": 1e-3, "atol": 1e-6}
    torch.testing.assert_close(first, other, **tolerance)


def test_normalised_images_take_epsilon_and_bounds_per_channel(model, batch):
    """Scoring in normalised units with per-channel steps is scoring in pixel scale."""
    images, labels = batch
    mean, std = [0.5, 0.4, 0.3], [0.2, 0.25, 0.3]
    inner = model[1]
    model[0].mean.copy_(torch.tensor(mean).view(1, 3, 1, 1))
    model[0].std.copy_(torch.tensor(std).view(1, 3, 1, 1))
    pixel = consistency_scores(model, images, labels, epsilon=0.1, patch_size=4, mixed_precision=False)
    normalised = consistency_scores(
        inner,
        model[0](images.float() / 255),
        labels,
        epsilon=[0.1 / s for s in std],
        patch_size=4,
        low=[-m / s for m, s in zip(mean, std)],
        high=[(1 - m) / s for m, s in zip(mean, std)],
        mixed_precision=False,
    )
    torch.testing.assert_close(pixel, normalised, rtol=1e-3, atol=1e-6)


def test_no_samples_no_scores(model):
    assert consistency_scores(
        model, torch.empty(0, 3, 12, 12, dtype=torch.uint8), torch.empty(0, dtype=torch.int64)
    ).shape == (0,)


def test_bad_input_is_named(model, batch):
    images, labels = batch
    with pytest.raises(ValueError, match=r"reduction must be one of .*, got 'max'"):
        consistency_scores(model, images, labels, reduction="max")
    with pytest.raises(ValueError, match=r"labels must be in \[0, 3\], got 7"):
        consistency_scores(model, images, torch.full_like(labels, 7), patch_size=4)
    with pytest.raises(ValueError, match="patch_size"):
        consistency_scores(model, images, labels, patch_size=13)
    broken = nn.Sequential(nn.Flatten(), nn.Linear(3 * 144, 4))
    broken[1].weight.data.fill_(float("nan"))
    with pytest.raises(AdvrBDError, match="NaN or infinite for 11 of 11 images"):
        consistency_scores(broken, images, labels, patch_size=4)


def test_several_patch_sizes_share_their_passes_and_give_the_scores_of_each(model, batch):
    images, labels = batch
    passes = []
    handle = model.register_forward_hook(lambda *_: passes.append(1))
    settings = {"num_masks": 2, "seed": 3, "batch_size": 4}
    both = consistency_scores(model, images, labels, patch_size=(4, 2), **settings)
    batches = -(-len(images) // 4)
    assert len(passes) == batches * (1 + 2 * 2)
    handle.remove()
    each = [consistency_scores(model, images, labels, patch_size=size, **settings) for size in (4, 2)]
    assert torch.equal(both, torch.stack(each))
    assert consistency_scores(model, images[:0], labels[:0], patch_size=(4, 2)).shape == (2, 0)


@pytest.mark.parametrize(
    ("size", "on_cpu", "on_gpu"), [(32, 128, 500), (64, 128, 500), (128, 125, 125), (224, 40, 40), (2000, 16, 16)]
)
def test_large_images_are_scored_in_smaller_batches(size, on_cpu, on_gpu, monkeypatch):
    asked = []

    def score(model, images, labels, **settings):
        asked.append(settings["batch_size"])
        return torch.zeros(3, len(images))

    monkeypatch.setattr(scoring, "consistency_scores", score)
    samples = ImageSet(torch.zeros(2, 1, size, size, dtype=torch.uint8), torch.tensor([0, 1]), ("a", "b"))
    scoring.score_samples(torch.nn.Linear(1, 1), samples, AdvrBDConfig())
    assert asked == [on_cpu]
    assert scoring.scoring_batch_size((size, size), torch.device("cuda")) == on_gpu
