import torch
from torch import nn

from advrbd_plugin.data import ImageSet
from advrbd_plugin.defense.misplacement import consistency_of, cross_fitted_probabilities, misplaced
from advrbd_plugin.nn.training import TrainingOptions


def test_wrong_labels_are_in_place_elsewhere():
    labels = torch.arange(60) % 3
    probabilities = torch.full((60, 3), 0.1)
    probabilities[torch.arange(60), labels] = 0.8
    probabilities[7] = torch.tensor([0.9, 0.05, 0.05])  # labelled 1
    probabilities[8] = torch.tensor([0.45, 0.15, 0.4])  # labelled 2, nothing sure
    found, where = misplaced(probabilities, labels)
    assert found.nonzero().flatten().tolist() == [7] and int(where[7]) == 0
    assert torch.equal(where[labels >= 0][:7], labels[:7])


def test_a_class_without_samples_takes_none():
    found, _ = misplaced(torch.tensor([[0.2, 0.1, 0.7], [0.9, 0.1, 0.0]]), torch.tensor([0, 0]))
    assert not found.any()


def test_every_sample_is_judged_by_the_model_that_did_not_see_it():
    images = torch.zeros(40, 1, 4, 4, dtype=torch.uint8)
    labels = torch.arange(40) % 2
    images[labels == 1] = 255
    labels = labels.clone()
    labels[3] = 0  # a wrong label, bright
    samples = ImageSet(images, labels, ("dark", "bright"), torch.arange(40) * 5)
    options = TrainingOptions(epochs=30, batch_size=10, learning_rate=0.05, crop_padding=0, flip=False)

    def make_model():
        torch.manual_seed(0)
        return nn.Sequential(nn.Flatten(), nn.Linear(16, 2))

    probabilities = cross_fitted_probabilities(make_model, samples, options, torch.device("cpu"))
    assert torch.allclose(probabilities.sum(1), torch.ones(40), atol=1e-5)
    found, where = misplaced(probabilities, labels)
    assert bool(found[3]) and int(where[3]) == 1 and int(found.sum()) == 1
    order = torch.randperm(40, generator=torch.Generator().manual_seed(1))
    again = cross_fitted_probabilities(make_model, samples.subset(order), options, torch.device("cpu"))
    assert torch.allclose(again, probabilities[order], atol=1e-4)


def test_consistency_is_the_auroc_within_the_label():
    labels = torch.tensor([0, 0, 0, 0, 1, 1])
    ranks = torch.tensor([0.9, 0.1, 0.8, 0.2, 1.0, 0.0])
    assert consistency_of(ranks, labels, torch.tensor([0, 2])) == 1.0
    assert consistency_of(ranks, labels, torch.tensor([0, 1])) == 0.5
    assert consistency_of(ranks, labels, torch.tensor([4, 5])) == 0.5
