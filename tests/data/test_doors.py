"""Every kind of data that is read, and the one line for each thing that is wrong with it."""

from __future__ import annotations

import gzip
import io
import json
import sys
import tarfile
from types import ModuleType

import numpy as np
import pytest
import torch

from advrbd_plugin.data import ImageSet
from advrbd_plugin.data.doors import load_data
from advrbd_plugin.data.tables import Columns
from advrbd_plugin.errors import AdvrBDError

from .conftest import png, write_tar


def refused(*arguments, **options) -> str:
    with pytest.raises(AdvrBDError) as raised:
        load_data(*arguments, **options)
    assert "\n" not in str(raised.value)
    return str(raised.value)


# Folders, zips and tars.


@pytest.mark.parametrize("kind", ["tar", "tar.gz", "tar.bz2", "tar.xz"])
def test_a_tar_of_class_folders_is_read_in_place(tmp_path, two_classes, kind):
    mode = "w" if kind == "tar" else f"w:{kind[4:]}"
    loaded = load_data(
        write_tar(tmp_path / f"set.{kind}", {f"./set/{name}": each for name, each in two_classes.items()}, mode)
    )
    assert loaded.image_set.class_names == ("ant", "bee") and loaded.image_set.labels.tolist() == [0, 0, 0, 1, 1, 1]
    assert loaded.image_set.images[:, 0, 0, 0].tolist() == [0, 10, 20, 1, 11, 21]
    assert ImageSet.from_folder(tmp_path / f"set.{kind}").paths == loaded.image_set.paths
    assert {path.name for path in tmp_path.iterdir()} == {f"set.{kind}"}


def test_tars_that_were_not_made_to_be_trusted(tmp_path, two_classes, monkeypatch):
    assert "outside itself" in refused(write_tar(tmp_path / "evil.tar", two_classes | {"../x.png": b"x"}))
    whole = write_tar(tmp_path / "good.tar", two_classes).read_bytes()
    for name, content in {
        "cut": whole[:700],
        "empty": b"",
        "zeros": bytes(10_240),
        "noise": bytes(range(256)) * 40,
        "middle": whole[:1024] + b"\xff" * 512 + whole[1536:],
        "bad_gzip": gzip.compress(whole)[:-9],
    }.items():
        (tmp_path / f"{name}.tar").write_bytes(content)
        assert str(tmp_path / name) in refused(tmp_path / f"{name}.tar")
    entry = tarfile.TarInfo("x")
    entry.type, entry.size = tarfile.GNUTYPE_LONGNAME, 2**30
    (tmp_path / "long.tar").write_bytes(entry.tobuf(tarfile.GNU_FORMAT) + whole)
    assert "no name of a file" in refused(tmp_path / "long.tar")
    from advrbd_plugin import limits

    monkeypatch.setattr(limits, "MAX_UNPACKED_BYTES", 1000)
    (tmp_path / "bomb.tar.gz").write_bytes(gzip.compress(bytes(2**20)))
    assert "swells to more than" in refused(tmp_path / "bomb.tar.gz")


def test_links_in_a_tar_are_not_followed(tmp_path, two_classes):
    path = write_tar(tmp_path / "set.tar", two_classes)
    with tarfile.open(path, "a") as archive:
        link = tarfile.TarInfo("ant/link.png")
        link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
        archive.addfile(link)
    loaded = load_data(path)
    assert len(loaded.image_set) == 6 and "1 links in the tar are not followed." in loaded.notes


def test_what_is_no_data_is_told_with_all_that_is(tmp_path):
    (tmp_path / "x.png").write_bytes(png(1))
    (tmp_path / "x.bin").write_bytes(b"nothing")
    assert "does not exist: give a folder, zip or tar" in refused(tmp_path / "nowhere")
    assert "is one picture: give" in refused(tmp_path / "x.png")
    assert "is no kind of data that advrbd reads: give" in refused(tmp_path / "x.bin")
    (tmp_path / "attack_result.pt").write_bytes(b"")
    assert "record of BackdoorBench" in refused(tmp_path)


# CSV manifests.


@pytest.mark.parametrize("delimiter", [",", ";", "\t"])
def test_a_manifest_in_its_own_order(pictures, delimiter):
    rows = [
        ("label", "path", "more"),
        ("dog", "p/2.png", "x"),
        ("cat", "./p/0.png", ""),
        ("dog", str(pictures / "p/1.png"), ""),
    ]
    (pictures / "set.csv").write_text(
        "\ufeff" + "\n".join(delimiter.join(row) for row in rows) + "\n\n", encoding="utf-8"
    )
    images = load_data(pictures / "set.csv").image_set
    assert images.paths == ("p/2.png", "p/0.png", "p/1.png") and images.class_names == ("cat", "dog")
    assert images.labels.tolist() == [1, 0, 1] and images.images[:, 0, 0, 0].tolist() == [2, 0, 1]


def test_a_manifest_with_other_columns_another_root_and_numbers(pictures, tmp_path):
    home = tmp_path / "tables"
    home.mkdir()
    (home / "set.csv").write_text("where,kind\n0.png,10\n1.png,9\n2.png,9\n")
    columns = Columns("where", "kind")
    images = load_data(home / "set.csv", root=pictures / "p", columns=columns).image_set
    assert images.class_names == ("9", "10") and images.labels.tolist() == [1, 0, 0]
    judged = load_data(home / "set.csv", root=pictures / "p", columns=columns, class_names=("10", "8", "9")).image_set
    assert judged.labels.tolist() == [0, 2, 2] and judged.class_names == ("10", "8", "9")
    assert "the class '10' is not known: the classes are 9, 8" in refused(
        home / "set.csv", root=pictures / "p", columns=columns, class_names=("9", "8")
    )


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("", "is empty: its first row must name the columns"),
        ("path,label\n", "holds no pictures: it is empty"),
        ("path,kind\np/0.png,1\n", "no column with the labels: name it by --label-column; its columns are path, kind"),
        ("place,label\np/0.png,1\n", "no column with the paths: name it by --image-column"),
        (
            "path,label\np/0.png,a\np/1.png\np/2.png,b,c\n",
            "2 of 3 rows are wrong: row 3: it has 1 cells, the first row 2; row 4",
        ),
        ("path,label\np/0.png,\n,b\n", "row 2: label is empty or no label; row 3: path is empty"),
        ("path,label\n../x.png,a\n", "row 2: '../x.png' lies outside"),
        ("path,label\n/etc/passwd,a\n", "row 2: '/etc/passwd' lies outside"),
        (
            "path,label\np/0.png,a\n\np/9.png,b\np/8.png,b\n",
            "2 of 3 files are missing below .*row 4 .*p/9.png.*, row 5",
        ),
        (
            "path,label\np/0.png,a\np/1.png,b\n./p/0.png,b\n",
            "row 4: 'p/0.png' is named again; it stands first in .*row 2",
        ),
        ("path,label\np/0.png,a\np/1.png,a\n", "all labels are 'a': a classifier needs at least two"),
        ('path,label\np/0.png,"a\n', "row 2, is no CSV"),
        ("path,label\np/0.png,a\n\xff", "no UTF-8"),
    ],
)
def test_manifests_that_are_wrong(pictures, text, line):
    import re

    (pictures / "set.csv").write_bytes(text.encode("latin1"))
    assert re.search(line, refused(pictures / "set.csv"))


def test_many_faults_are_counted(pictures):
    (pictures / "set.csv").write_text("path,label\n" + "".join(f"p/{number},a\n" for number in range(4, 100)))
    line = refused(pictures / "set.csv")
    assert "96 of 96 files are missing" in line and "and 91 more" in line and len(line) < 500


def test_an_unreadable_picture_of_a_manifest_is_left_out(pictures):
    (pictures / "p/0.png").write_bytes(b"nonsense")
    (pictures / "set.csv").write_text("path,label\np/0.png,a\np/1.png,a\np/2.png,b\n")
    loaded = load_data(pictures / "set.csv")
    assert loaded.left_out == (("p/0.png", "not an image"),) and len(loaded.image_set) == 2


# Arrays.


def test_npz_files_of_both_parts_and_with_names(tmp_path):
    images = np.arange(5 * 6 * 6 * 3, dtype=np.uint8).reshape(5, 6, 6, 3)
    np.savez_compressed(tmp_path / "a.npz", images=images, labels=[1, 0, 1, 0, 1], class_names=["cat", "dog"])
    loaded = load_data(tmp_path / "a.npz").image_set
    assert loaded.class_names == ("cat", "dog") and loaded.labels.tolist() == [1, 0, 1, 0, 1]
    assert np.array_equal(loaded.images.permute(0, 2, 3, 1), images)
    np.savez(
        tmp_path / "k.npz", x_train=images[..., 0], y_train=[7, 9, 7, 9, 7], x_test=images[:2, :, :, 0], y_test=[9, 9]
    )
    train, test = load_data(tmp_path / "k.npz"), load_data(tmp_path / "k.npz", part="test", class_names=("7", "9"))
    assert train.image_set.class_names == ("7", "9") and train.image_set.num_channels == 3
    assert test.image_set.labels.tolist() == [1, 1] and "converted to RGB" in train.notes[-1]
    small = load_data(tmp_path / "a.npz", image_size=(4, 4), samples=2).image_set
    assert small.image_size == (4, 4) and len(small) == 2 and set(small.sample_ids.tolist()) <= set(range(5))


def test_npz_files_that_are_wrong(tmp_path):
    good = {"images": np.zeros((4, 6, 6), np.uint8), "labels": np.array([0, 1, 0, 1])}
    for number, (change, line) in enumerate(
        (
            ({"images": None}, "holds no pictures: name the array images (it has 'labels')"),
            ({"labels": None}, "holds no labels: name the array labels"),
            (
                {"labels": np.array([0, 1, 0, 2]), "class_names": np.array(["a", "b"])},
                "picture 3: the label 2 is out of range",
            ),
            ({"labels": np.array([0, 1, 0, -1]), "class_names": np.array(["a", "b"])}, "the label -1 is out of range"),
            ({"labels": np.array([0, 1])}, "must have the shape (4,)"),
            ({"images": np.zeros((4, 6, 6)) - 3}, "undo their normalisation"),
            ({"class_names": np.array(["a", "a"])}, "distinct class names"),
            (
                {"images": np.array([None] * 4, dtype=object)},
                "'images.npy' cannot be read: it holds Python objects",
            ),
        )
    ):
        held = {name: value for name, value in (good | change).items() if value is not None}
        np.savez(tmp_path / f"{number}.npz", **held)
        assert line in refused(tmp_path / f"{number}.npz")
    (tmp_path / "cut.npz").write_bytes((tmp_path / "0.npz").read_bytes()[:100])
    assert "cannot be read as a zip" in refused(tmp_path / "cut.npz")
    np.save(tmp_path / "one.npy", good["images"])
    assert "holds one array, and a set needs pictures and labels" in refused(tmp_path / "one.npy")


# WebDataset.


def shard(path, samples: dict[str, object], kind: str = "cls"):
    files: dict[str, bytes] = {}
    for number, (key, label) in enumerate(samples.items()):
        files[f"{key}.png"] = png(number)
        files[f"{key}.{kind}"] = label if isinstance(label, bytes) else json.dumps(label).encode()
    return write_tar(path, files)


def test_webdataset_shards_one_many_and_in_a_folder(tmp_path):
    for number in range(3):
        shard(
            tmp_path / f"photos-{number:03d}.tar",
            {f"{number}a": 10, f"{number}b.seg": 9} if number else {"0a": 10, "0b": 9},
        )
    one = load_data(tmp_path / "photos-000.tar").image_set
    assert one.class_names == ("9", "10") and one.labels.tolist() == [1, 0]
    many = load_data(f"{tmp_path}/photos-{{000..002}}.tar").image_set
    assert len(many) == 5 - 1 and many.paths[0] == "photos-000.tar/0a.png"
    assert torch.equal(load_data(tmp_path).image_set.sample_ids, many.sample_ids)


def test_webdataset_labels_in_json_and_by_another_name(tmp_path):
    path = shard(tmp_path / "a.tar", {"x": {"label": "cat"}, "y": {"label": "dog"}}, "json")
    assert load_data(path).image_set.class_names == ("cat", "dog")
    path = shard(tmp_path / "b.tar", {"x": {"kind": 3}, "y": {"kind": 1}}, "json")
    with_json = write_tar(tmp_path / "c.tar", {"x.cls": b"0", "x.png": png(1), "y.cls": b"1", "y.png": png(2)})
    assert load_data(path, columns=Columns(label="kind")).image_set.labels.tolist() == [1, 0]
    assert load_data(with_json, columns=Columns(label="cls")).image_set.labels.tolist() == [0, 1]


def test_webdataset_shards_that_are_wrong(tmp_path):
    assert "samples are wrong: 'a.tar/x' has no label" in refused(
        shard(tmp_path / "a.tar", {"x": {"kind": 3}, "y": {"kind": 1}}, "json")
    )
    assert "2 of 3 shards are missing: p-1.tar, p-2.tar" in refused(
        str(shard(tmp_path / "p-0.tar", {"x": 0, "y": 1})).replace("-0", "-{0..2}")
    )
    assert "1 to 10000 shards" in refused("p-{5..2}.tar")
    empty = tmp_path / "empty"
    empty.mkdir()
    shard(empty / "0.tar", {"x": 0, "y": 1})
    write_tar(empty / "1.tar", {})
    assert "1.tar is an empty shard" in refused(empty)
    big = write_tar(tmp_path / "big.tar", {"x.png": png(1), "x.cls": b"1" * 2**21})
    assert "are no label" in refused(big)
    assert "cannot be read as JSON" in refused(shard(tmp_path / "bad.tar", {"x": b"{", "y": b"{"}, "json"))
    unknown = shard(tmp_path / "u.tar", {"x": "cat", "y": "cow"}, "json")
    assert "has no label" in refused(unknown)


# Poisoned sets of backdoor-toolbox.


@pytest.fixture
def toolbox(tmp_path):
    folder = tmp_path / "poisoned_train_set" / "cifar10" / "badnet_0.010_poison_seed=0"
    folder.mkdir(parents=True)
    torch.save(torch.arange(4).float().view(4, 1, 1, 1).expand(4, 3, 8, 8) / 255, folder / "imgs")
    torch.save(torch.tensor([0, 1, 2, 0]), folder / "labels")
    torch.save([0], folder / "poison_indices")
    return folder


def test_a_poisoned_set_of_backdoor_toolbox_new_and_old(toolbox):
    images = load_data(toolbox).image_set
    assert images.labels.tolist() == [0, 1, 2, 0] and images.class_names == ("0", "1", "2")
    assert images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    (toolbox / "imgs").unlink()
    (toolbox / "data").mkdir()
    for index in range(4):
        (toolbox / "data" / f"{index}.png").write_bytes(png(index))
    assert torch.equal(load_data(toolbox).image_set.images, images.images)
    (toolbox / "data/3.png").unlink()
    assert "1 of 4 file is missing" in refused(toolbox)


class Runs:
    def __reduce__(self):
        return (exec, ("raise SystemExit('it ran')",))


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("labels", torch.tensor([0, 1, -3, 0]), "the label -3 is out of range"),
        ("labels", torch.tensor([0, 1, 10**6, 0]), "the label 1000000 is out of range"),
        ("labels", torch.tensor([0, 1]), r"must have the shape \(4,\)"),
        ("labels", torch.tensor([0.5, 1, 0, 0]), "a row of whole numbers"),
        ("labels", [0, 1, 0, 1], "must hold a tensor, .* got a list of 4|got \\[0, 1, 0, 1\\]"),
        ("labels", Runs(), r"holds (builtins|__builtin__)\.exec, not a tensor"),
        ("imgs", torch.randn(4, 3, 8, 8) * 9, "undo their normalisation"),
        ("imgs", Runs(), r"holds (builtins|__builtin__)\.exec, not a tensor"),
        ("imgs", torch.rand(4, 3), "must have the shape"),
    ],
)
def test_poisoned_sets_that_are_wrong(toolbox, name, content, line):
    import re

    torch.save(content, toolbox / name)
    assert re.search(line, refused(toolbox))
    (toolbox / name).write_bytes(b"nonsense")
    assert "no file that torch.save wrote" in refused(toolbox)


# torchvision.


@pytest.fixture
def torchvision(monkeypatch):
    """A stand-in, so that these tests need neither torchvision nor its downloads."""
    from PIL import Image

    class VisionDataset:
        pass

    class Shapes(VisionDataset):
        classes = ("round", "square")

        def __init__(self, root, train=True):
            if root != "/data":
                raise RuntimeError("Dataset not found.\nYou can use download=True to download it")
            self.count = 4 if train else 2

        def __len__(self):
            return self.count

        def __getitem__(self, index):
            return Image.new("RGB", (8, 6), (index, 0, 0)), index % 2

    class Splits(Shapes):
        def __init__(self, root, split="train"):
            if split == "test":
                raise ValueError("unknown split")
            super().__init__(root, split == "train")

    module = ModuleType("torchvision")
    module.datasets = ModuleType("torchvision.datasets")
    vars(module.datasets).update(VisionDataset=VisionDataset, Shapes=Shapes, Splits=Splits, helper=print)
    monkeypatch.setitem(sys.modules, "torchvision", module)
    monkeypatch.setitem(sys.modules, "torchvision.datasets", module.datasets)


def test_torchvision_by_name(torchvision):
    images = load_data("torchvision:Shapes", root="/data").image_set
    assert images.class_names == ("round", "square") and images.labels.tolist() == [0, 1, 0, 1]
    assert images.image_size == (6, 8) and images.images[:, 0, 0, 0].tolist() == [0, 1, 2, 3]
    assert (
        len(load_data("torchvision:Shapes", root="/data", part="test", class_names=("square", "round")).image_set) == 2
    )
    assert len(load_data("torchvision:Splits", root="/data", part="test").image_set) == 2
    assert len(load_data("torchvision:Shapes", root="/data", samples=2).image_set) == 2


def test_torchvision_that_is_wrong(torchvision, monkeypatch):
    assert "torchvision has no data set 'shapes': did you mean Shapes?" in refused("torchvision:shapes", root="/data")
    assert "torchvision has no data set 'helper'" in refused("torchvision:helper", root="/data")
    assert "torchvision has no data set 'VisionDataset'" in refused("torchvision:VisionDataset")
    assert "cannot read Shapes in . (Dataset not found." in refused("torchvision:Shapes")
    monkeypatch.setitem(sys.modules, "torchvision", None)
    assert "needs torchvision, which cannot be imported" in refused("torchvision:Shapes")


def test_cifar_of_torchvision_is_read_by_our_own_reader(tmp_path, monkeypatch):
    import pickle

    monkeypatch.setitem(sys.modules, "torchvision", None)
    folder = tmp_path / "cifar-10-batches-py"
    folder.mkdir()
    for name in (*(f"data_batch_{number}" for number in range(1, 6)), "test_batch"):
        (folder / name).write_bytes(pickle.dumps({"data": np.zeros((2, 3072), np.uint8), "labels": [0, 1]}))
    (folder / "batches.meta").write_bytes(pickle.dumps({"label_names": ["cat", "dog"]}))
    assert len(load_data("torchvision:CIFAR10", root=tmp_path).image_set) == 10


# Shapes.


def wide(kind: str = "RGB") -> bytes:
    """32 x 64: a black left half and a white right half."""
    from PIL import Image

    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[:, 32:] = 255
    buffer = io.BytesIO()
    picture = Image.fromarray(pixels) if kind == "RGB" else Image.fromarray(pixels[:, :, 0].astype(np.uint16) * 257)
    picture.save(buffer, "PNG")
    return buffer.getvalue()


@pytest.mark.parametrize("kind", ["RGB", "16 bits"])
@pytest.mark.parametrize("fit", ["pad", "crop", "squeeze", None])
def test_pictures_of_another_shape(tmp_path, fit, kind):
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "0.png").write_bytes(wide(kind))
    loaded = load_data(tmp_path, image_size=(16, 16), **({} if fit is None else {"fit": fit}))
    rows = (loaded.image_set.images[0, 0].float() > 127).int()
    middle = "".join(map(str, rows[8].tolist()))
    assert middle == "0" * 8 + "1" * 8  # each way keeps the middle where it is
    edges = loaded.image_set.images[0, 0, 8]
    sharp = {"crop": 1, "squeeze": 2, "pad": 2, None: 2}[fit]  # how much of the picture a pixel covers across
    assert edges[0] == 0 and edges[15] == 255 and sharp
    note = " ".join(loaded.notes)
    words = {"pad": "mirror image", "crop": "lose their edges", "squeeze": "stretched", None: "mirror image"}[fit]
    assert f"2 of 2 images have another shape; they {'are ' if fit == 'squeeze' else ''}" in note and words in note


def test_a_corner_survives_padding_and_is_lost_in_a_crop(tmp_path):
    from PIL import Image

    pixels = np.zeros((32, 64, 3), np.uint8)
    pixels[26:, 58:] = 255  # a trigger
    for name in ("ant", "bee"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "0.png")
    assert load_data(tmp_path, image_size=(32, 32)).image_set.images.max() > 200
    assert load_data(tmp_path, image_size=(32, 32), fit="crop").image_set.images.max() == 0


def test_fit_must_be_known(tmp_path):
    assert "fit must be one of pad, crop, squeeze, got 'stretch'" in refused(tmp_path, fit="stretch")
