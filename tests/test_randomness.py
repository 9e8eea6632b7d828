import torch

from advrbd_plugin.randomness import derive_seed, shuffled, uniform_integers


def test_seeds_depend_on_every_part():
    seeds = {
        derive_seed(0),
        derive_seed(1),
        derive_seed(0, "crop"),
        derive_seed(0, "crop", 1),
        derive_seed(0, "flip", 1),
    }
    assert len(seeds) == 5
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_a_sample_gets_the_same_numbers_in_any_batch():
    ids = torch.tensor([5, 2**62, 0, 17])
    whole = uniform_integers(ids, 9, seed=3)
    assert torch.equal(whole[2:], uniform_integers(ids[2:], 9, seed=3))
    assert whole.min() >= 0 and whole.max() < 9


def test_numbers_are_spread_evenly():
    drawn = uniform_integers(torch.arange(9000), 9, seed=0)
    counts = torch.bincount(drawn.flatten(), minlength=9)
    assert (counts - 2000).abs().max() < 250  # more than five standard deviations of a fair draw


def test_order_depends_on_ids_and_not_on_where_they_stand():
    ids = torch.arange(100, 200)
    elsewhere = ids[torch.randperm(100, generator=torch.Generator().manual_seed(0))]
    assert torch.equal(ids[shuffled(ids, 1)], elsewhere[shuffled(elsewhere, 1)])
    assert not torch.equal(shuffled(ids, 1), shuffled(ids, 2))
    assert torch.equal(shuffled(ids, 1).sort().values, torch.arange(100))
