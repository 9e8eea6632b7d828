"""A small CIFAR-10 from two archives of pictures: what is drawn, what is refused, and that it is whole or not there."""

from __future__ import annotations

import io
import zipfile

import numpy
import pytest
from PIL import Image

from advrbd_plugin.backdoorbench import cifar_writer
from advrbd_plugin.backdoorbench.small_cifar10 import FOLDER, write_cifar10
from advrbd_plugin.cli import main
from advrbd_plugin.data.cifar import CIFAR10, CIFAR10_NAMES, load_cifar
from advrbd_plugin.errors import AdvrBDError, StorageError


def picture(label, number, side=32):
    """A PNG whose colour says which one it is."""
    content = io.BytesIO()
    Image.new("RGB", (side, side), (label, number, 200)).save(content, "PNG")
    return content.getvalue()


def write_zip(path, each, more=()):
    with zipfile.ZipFile(path, "w") as archive:
        for label, name in enumerate(CIFAR10_NAMES):
            for number in range(each):
                archive.writestr(f"{path.stem}/{name}/{number}.png", picture(label, number))
        for name, content in more:
            archive.writestr(name, content)


@pytest.fixture
def images(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    write_zip(folder / "train.zip", 8)
    write_zip(folder / "test.zip", 3)
    return folder


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_the_pictures_of_a_seed(images, tmp_path):
    write_cifar10(images, tmp_path / "data", train=50, test=10, seed=4)
    generator = numpy.random.default_rng(4)
    for part, each, there in (("train", 5, 8), ("test", 1, 3)):
        paths = [f"{part}/{name}/{number}.png" for name in CIFAR10_NAMES for number in range(there)]
        classes = [paths[there * label :][:there] for label in range(10)]
        drawn = [path for members in classes for path in generator.choice(members, each, replace=False)]
        expected = [drawn[index].split("/")[1:] for index in generator.permutation(len(drawn))]
        read = load_cifar(tmp_path / "data", CIFAR10, part).image_set
        assert [read.class_names[label] for label in read.labels] == [name for name, _ in expected]
        assert [f"{pixel}.png" for pixel in read.images[:, 1, 3, 5].tolist()] == [number for _, number in expected]
        assert (read.images[:, 0].flatten(1) == read.labels[:, None]).all() and (read.images[:, 2] == 200).all()


def test_a_cifar10_that_is_there_is_only_replaced_when_asked(images, tmp_path, capsys):
    place = tmp_path / "data" / FOLDER
    place.mkdir(parents=True)
    (place / "data_batch_1").write_text("downloaded")
    (place / "readme.html").write_text("downloaded")
    command = ["backdoorbench", "data", str(images), "--out", str(tmp_path / "data"), "--train", "50", "--test", "10"]
    assert main(command) == 2
    assert f"{place} exists already" in (said := capsys.readouterr().err) and "--overwrite" in said
    assert set(contents(place).values()) == {b"downloaded"}
    assert main([*command, "--overwrite"]) == 0
    assert "readme.html" not in contents(place) and len(load_cifar(place.parent, CIFAR10, "train").image_set) == 50
    assert [path.name for path in place.parent.iterdir()] == [FOLDER]


@pytest.mark.parametrize("overwrite", [False, True])
def test_it_is_whole_or_as_it_was(images, tmp_path, monkeypatch, overwrite):
    if overwrite:
        write_cifar10(images, tmp_path / "data", train=50, test=10)
    before = contents(tmp_path / "data" / FOLDER) if overwrite else {}
    written, write = [], cifar_writer.write_bytes

    def stop_in_between(path, content):
        written.append(path.name)
        if len(written) == 3:
            raise StorageError("the disk is full")
        write(path, content)

    monkeypatch.setattr(cifar_writer, "write_bytes", stop_in_between)
    with pytest.raises(StorageError):
        write_cifar10(images, tmp_path / "data", train=50, test=10, seed=1, overwrite=overwrite)
    assert [path.name for path in (tmp_path / "data").iterdir()] == [FOLDER] * overwrite
    assert not overwrite or contents(tmp_path / "data" / FOLDER) == before


def cut_short(folder):
    content = (folder / "test.zip").read_bytes()
    (folder / "test.zip").write_bytes(content[: len(content) // 2])


def damage_a_picture(folder):
    write_zip(folder / "test.zip", 1)
    (folder / "test.zip").write_bytes((folder / "test.zip").read_bytes().replace(b"IDAT", b"IDAX", 1))


def leave_junk(folder):
    write_zip(folder / "test.zip", 0, [(f"__MACOSX/test/{name}/._x.png", b"junk") for name in CIFAR10_NAMES])


@pytest.mark.parametrize(
    "change, said",
    [
        (cut_short, r"test.zip cannot be read as a zip: "),
        (damage_a_picture, r"test.zip: test/airplane/0.png cannot be read: damaged"),
        (leave_junk, r"test.zip holds 0 pictures of airplane, not 1"),
        (lambda folder: (folder / "test.zip").unlink(), r"test.zip does not exist"),
        (lambda folder: write_zip(folder / "train.zip", 4), r"train.zip holds 4 pictures of airplane, not 5"),
    ],
)
def test_an_archive_that_will_not_do_is_one_line(images, tmp_path, change, said):
    change(images)
    with pytest.raises(AdvrBDError, match=said) as caught:
        write_cifar10(images, tmp_path / "data", train=50, test=10)
    assert "\n" not in str(caught.value) and not (tmp_path / "data").exists()


def test_junk_does_not_change_what_is_drawn(images, tmp_path):
    write_cifar10(images, tmp_path / "data", train=50, test=10)
    write_zip(images / "train.zip", 8, [("__MACOSX/train/cat/._0.png", b"junk"), ("train/cat/.DS_Store", b"junk")])
    write_cifar10(images, tmp_path / "again", train=50, test=10)
    assert contents(tmp_path / "again" / FOLDER) == contents(tmp_path / "data" / FOLDER)
