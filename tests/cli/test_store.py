"""A set in a store gives what it gives in memory, reads only what is asked for, and is filled without holding it."""

from __future__ import annotations

import json
import os

import pytest
import torch

from advrbd_plugin.cache import digest
from advrbd_plugin.cli import main
from advrbd_plugin.cli.status import FOUND
from advrbd_plugin.data import load_folder
from advrbd_plugin.data.image_set import ImageSet
from advrbd_plugin.data.store import Picture, fill_store, open_store, read_through_store
from advrbd_plugin.data.stored_images import StoredImages
from advrbd_plugin.errors import AdvrBDError
from advrbd_plugin.nn.augmentation import augment
from advrbd_plugin.nn.training import TrainingOptions, train

COUNT = 60


@pytest.fixture
def in_memory():
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (COUNT, 3, 6, 5), dtype=torch.uint8, generator=generator)
    ids = torch.randperm(500, generator=generator)[:COUNT]
    return ImageSet(
        images, torch.arange(COUNT) % 3, ("a", "b", "c"), ids, tuple(f"{n}\udcff.png" for n in range(COUNT))
    )


def stream(images: ImageSet):
    for index in range(len(images)):
        yield Picture(
            images.images[index], int(images.labels[index]), int(images.sample_ids[index]), images.paths[index]
        )


@pytest.fixture
def stored(in_memory, tmp_path):
    return fill_store(tmp_path / "store", stream(in_memory), in_memory.class_names)


@pytest.fixture
def read(monkeypatch):
    """How many pictures have been read from files, one number a read."""
    counts = []
    original = StoredImages.__dict__["pick"].__globals__["PictureFile"].read
    monkeypatch.setattr(
        "advrbd_plugin.data.stored_images.PictureFile.read",
        lambda self, rows: (counts.append(len(rows)), original(self, rows))[1],
    )
    return counts


def test_the_set_comes_back_as_it_was(in_memory, stored):
    assert isinstance(stored.images, torch.Tensor) and stored.images.shape == in_memory.images.shape
    assert stored.images.dtype == torch.uint8 and stored.images.device.type == "cpu"
    assert torch.equal(stored.images[torch.arange(COUNT)], in_memory.images)
    assert torch.equal(stored.labels, in_memory.labels) and torch.equal(stored.sample_ids, in_memory.sample_ids)
    assert stored.paths == in_memory.paths and stored.class_names == in_memory.class_names


def test_choosing_reads_nothing_and_indexing_what_is_asked_for(in_memory, stored, read):
    chosen = torch.tensor([5, 3, 50, 3])
    subset, ordered = stored.subset(torch.tensor([5, 3, 50])), stored.by_id()
    part, pieces = stored.images[10:30], stored.images.split(25)
    assert not read and len(part) == 20 and [len(piece) for piece in pieces] == [25, 25, 10]
    assert torch.equal(stored.images[chosen], in_memory.images[chosen]) and read == [4]
    assert torch.equal(subset.images[torch.tensor([2])], in_memory.images[[50]])
    assert torch.equal(part[torch.tensor([1, 2])], in_memory.images[11:13])
    assert torch.equal(pieces[2][5], in_memory.images[55]) and torch.equal(stored.images[-1], in_memory.images[-1])
    mask = stored.labels == 1
    assert torch.equal(stored.images[mask], in_memory.images[mask])
    assert sum(read) == 4 + 1 + 2 + 1 + 1 + int(mask.sum())
    assert torch.equal(ordered.images[torch.arange(COUNT)], in_memory.by_id().images)


def test_all_else_is_done_on_the_pictures_in_memory(in_memory, stored):
    assert torch.equal(stored.images.float() / 255, in_memory.images.float() / 255)
    assert torch.equal(stored.images[:, 0], in_memory.images[:, 0])
    assert torch.equal(torch.cat([stored.images, in_memory.images])[:COUNT], in_memory.images)
    assert torch.equal(stored.images.flatten(1), in_memory.images.flatten(1))
    assert [tuple(each.shape) for each in stored.images.unbind(dim=1)] == [(COUNT, 6, 5)] * 3
    assert digest(stored.images) == digest(in_memory.images)
    assert "shape=(60, 3, 6, 5)" in repr(stored.images)


def test_it_is_trained_on_a_batch_at_a_time_to_the_same_weights(in_memory, stored, read):
    def trained(images: ImageSet):
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(90, 3))
        options = TrainingOptions(epochs=2, batch_size=16, crop_padding=1, mixed_precision=False)
        train(model, images.images, images.labels, images.sample_ids, options)
        return model[1].weight

    assert torch.equal(trained(stored.by_id()), trained(in_memory.by_id()))
    assert max(read) == 16 and sum(read) == 2 * COUNT
    assert augment(stored.images[torch.tensor([1])], stored.sample_ids[[1]], TrainingOptions(1), 0).shape == (
        1,
        3,
        6,
        5,
    )


def test_a_stream_is_never_held(tmp_path):
    alive, most = [0], [0]

    class Counted(torch.Tensor):
        def __del__(self):
            alive[0] -= 1

    def pictures():
        for number in range(200):
            alive[0] += 1
            most[0] = max(most[0], alive[0])
            yield Picture(torch.zeros(1, 4, 4, dtype=torch.uint8).as_subclass(Counted), number % 2, number)

    assert len(fill_store(tmp_path / "store", pictures(), ("a", "b"))) == 200
    assert most[0] < 5


@pytest.mark.parametrize(
    ("pictures", "line"),
    [
        ([], "at least one picture"),
        ([Picture(torch.zeros(3, 4, 4).byte(), 0, 0), Picture(torch.zeros(3, 4, 5).byte(), 0, 1)], "one shape"),
        ([Picture(torch.zeros(3, 4, 4), 0, 0)], "uint8"),
        ([Picture(torch.zeros(3, 4, 4, dtype=torch.uint8), 7, 0)], "labels must be in"),
        ([Picture(torch.zeros(3, 4, 4, dtype=torch.uint8), 0, 5)] * 2, "sample_ids must be distinct"),
    ],
)  # fmt: skip
def test_a_wrong_stream_leaves_nothing(tmp_path, pictures, line):
    with pytest.raises(AdvrBDError, match=line):
        fill_store(tmp_path / "store", iter(pictures), ("a", "b"))
    assert not list(tmp_path.iterdir())


def test_a_store_of_something_else_or_a_damaged_one_is_one_line(stored, tmp_path):
    store = tmp_path / "store"
    assert open_store(tmp_path / "none") is None
    with pytest.raises(AdvrBDError, match="holds other pictures than these"):
        open_store(store, "other")
    pixels = (store / "pixels.u8").read_bytes()
    (store / "pixels.u8").write_bytes(pixels[:-1])
    with pytest.raises(AdvrBDError, match="pixels.u8 is damaged"):
        open_store(store)
    for name, content in (("samples.safetensors", b"x"), ("store.json", b"{}"), ("store.json", b"[1]")):
        (store / name).write_bytes(content)
        with pytest.raises(AdvrBDError, match="remove the folder"):
            open_store(store)


def test_a_folder_is_decoded_into_a_store_once(images, tmp_path, monkeypatch):
    alone = load_folder(images)
    reading = read_through_store(lambda: load_folder(images), tmp_path / "store", "key")
    assert isinstance(reading.image_set.images, StoredImages) and reading.notes == alone.notes
    assert torch.equal(reading.image_set.images[torch.arange(24)], alone.image_set.images)
    again = read_through_store(lambda: pytest.fail("decoded again"), tmp_path / "store", "key")
    assert again.image_set.paths == alone.image_set.paths and again.left_out == ()
    small = read_through_store(lambda: load_folder(images), tmp_path / "other", "key", above=10**6)
    assert not isinstance(small.image_set.images, StoredImages) and not (tmp_path / "other").exists()


def test_pictures_that_cannot_be_read_leave_no_gap(images, tmp_path):
    (images / "cat" / "05.png").write_bytes(b"no picture")
    alone = load_folder(images)
    reading = read_through_store(lambda: load_folder(images), tmp_path / "store", "key")
    assert len(reading.image_set) == 23 and reading.left_out == alone.left_out
    assert os.path.getsize(tmp_path / "store" / "pixels.u8") == alone.image_set.images.numel()
    assert torch.equal(reading.image_set.images[torch.arange(23)], alone.image_set.images)


def test_the_command_keeps_decoded_pictures_where_it_is_told(defense, images, tmp_path, fails):
    words = ["defend", str(images), "--store", str(tmp_path / "store")]
    assert main([*words, "--out", str(tmp_path / "one")]) == FOUND
    assert main(["defend", str(images), "--out", str(tmp_path / "two")]) == FOUND
    one, two = (json.loads((tmp_path / name / "summary.json").read_text()) for name in ("one", "two"))
    assert one["run"]["fingerprint"] == two["run"]["fingerprint"]
    assert (tmp_path / "one" / "verdicts.csv").read_bytes() == (tmp_path / "two" / "verdicts.csv").read_bytes()
    (images / "cat" / "99.png").write_bytes((images / "cat" / "00.png").read_bytes())
    assert "holds other pictures" in fails(*words, "--out", tmp_path / "three")


def test_a_set_too_large_for_memory_is_kept_beside_the_results_until_they_are_there(
    defense, images, tmp_path, monkeypatch, fails
):
    from advrbd_plugin.cli import pictures

    monkeypatch.setattr(pictures, "_free_memory", lambda: 1000)
    out = tmp_path / "out"
    defense.failure = AdvrBDError("training diverged")
    fails("defend", images, "--out", out)
    assert (out / ".advrbd-pictures" / "pixels.u8").stat().st_size == 24 * 3 * 8 * 8
    defense.failure = None
    assert main(["defend", str(images), "--out", str(out)]) == FOUND
    assert not (out / ".advrbd-pictures").exists() and (out / "summary.json").exists()


def test_a_file_that_is_cut_off_while_it_is_read_is_one_line(stored, tmp_path):
    os.truncate(tmp_path / "store" / "pixels.u8", 100)
    assert stored.images[torch.tensor([0])].shape == (1, 3, 6, 5)
    with pytest.raises(AdvrBDError, match="pixels.u8 was cut off while it was in use"):
        stored.images[torch.tensor([1])]
