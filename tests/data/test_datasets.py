"""Each data set in its true on-disk format, made small: what is read, and the line for each thing that is wrong."""

from __future__ import annotations

import io
import os
import pickle
import struct
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from advrbd_plugin.data import load_dataset, recognise
from advrbd_plugin.data.cifar import CIFAR10_NAMES
from advrbd_plugin.data.datasets import DATASETS
from advrbd_plugin.data.listings import imagenette_names
from advrbd_plugin.data.sources import open_source
from advrbd_plugin.errors import AdvrBDError

WNIDS = ("n01440764", "n02102040")  # tench and English springer, in Imagenette and in the order of their ids


class Python2Pickler(pickle._Pickler):
    """Writes texts and bytes as Python 2 wrote its ``str``, in which CIFAR is kept."""

    dispatch = dict(pickle._Pickler.dispatch)  # noqa: RUF012

    def save_string(self, text):
        content = text.encode("latin1") if isinstance(text, str) else text
        self.write(pickle.BINSTRING + struct.pack("<i", len(content)) + content)
        self.memoize(text)

    dispatch[str] = save_string
    dispatch[bytes] = save_string


def python2_pickle(content: object) -> bytes:
    buffer = io.BytesIO()
    Python2Pickler(buffer, protocol=2).dump(content)
    return buffer.getvalue()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def picture(value: int, kind: str = "JPEG", size: tuple[int, int] = (20, 24)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def pixels(count: int, start: int = 0) -> np.ndarray:
    """(count, 3072) uint8: image i has the value start + i in its red plane and 100 in its blue one."""
    images = np.zeros((count, 3, 1024), np.uint8)
    images[:, 0] = start + np.arange(count)[:, None]
    images[:, 2] = 100
    return images.reshape(count, 3072)


def cifar10(root: Path) -> Path:
    names = ["airplane", "automobile", "bird"]
    files = {"batches.meta": python2_pickle({"label_names": names, "num_vis": 3072})}
    for number in range(1, 6):
        batch = {"data": pixels(3, 10 * number), "labels": [2, 0, 1], "filenames": ["a.png", "b.png", "c.png"]}
        files[f"data_batch_{number}"] = python2_pickle(batch)
    files["test_batch"] = python2_pickle({"data": pixels(2, 200), "labels": [1, 0]})
    write(root / "cifar-10-batches-py", files)
    return root


def cifar100(root: Path) -> Path:
    files = {"meta": python2_pickle({"fine_label_names": ["apple", "bear"], "coarse_label_names": ["fruit"]})}
    for part in ("train", "test"):
        batch = {"data": pixels(4), "fine_labels": [0, 1, 1, 0], "coarse_labels": [0, 0, 0, 0]}
        files[part] = python2_pickle(batch)
    write(root / "cifar-100-python", files)
    return root


def tiny_imagenet(root: Path) -> Path:
    files = {"wnids.txt": "\n".join(reversed(WNIDS)).encode(), "words.txt": b"n01440764\ttench, Tinca tinca\n"}
    for place, wnid in enumerate(WNIDS):
        files[f"train/{wnid}/{wnid}_boxes.txt"] = f"{wnid}_0.JPEG\t0\t0\t62\t63\n".encode()
        for number in range(3):
            files[f"train/{wnid}/images/{wnid}_{number}.JPEG"] = picture(100 * place + 10 * number, size=(64, 64))
    files["val/val_annotations.txt"] = b"val_0.JPEG\tn02102040\t0\t32\t44\t62\nval_1.JPEG\tn01440764\t52\t55\t57\t59\n"
    for number in range(2):
        files[f"val/images/val_{number}.JPEG"] = picture(50 * number, size=(64, 64))
    files["test/images/test_0.JPEG"] = picture(0, size=(64, 64))
    write(root / "tiny-imagenet-200", files)
    return root


def imagenette(root: Path) -> Path:
    files = {"noisy_imagenette.csv": b"path,noisy_labels_0\n"}
    for part in ("train", "val"):
        for place, wnid in enumerate(WNIDS):
            for number in range(2):
                files[f"{part}/{wnid}/{wnid}_{number}.JPEG"] = picture(100 * place + number, size=(160, 213))
    write(root / "imagenette2-160", files)
    return root


def gtsrb(root: Path) -> Path:
    files = {}
    for label in range(43):
        table = "Filename;Width;Height;Roi.X1;Roi.Y1;Roi.X2;Roi.Y2;ClassId\n"
        files[f"GTSRB/Training/{label:05d}/GT-{label:05d}.csv"] = table.encode()
        files[f"GTSRB/Training/{label:05d}/00000_00000.ppm"] = picture(label, "PPM", size=(30, 29))
    rows = [f"{number:05d}.ppm;53;54;6;5;48;49;{42 - number}" for number in range(43)]
    files["GT-final_test.csv"] = (table + "\n".join(rows)).encode()
    for number in range(43):
        files[f"GTSRB/Final_Test/Images/{number:05d}.ppm"] = picture(number, "PPM", size=(30, 29))
    write(root / "gtsrb", files)
    return root


def test_cifar10_reads_what_python_2_wrote(tmp_path):
    train, test = (loaded.image_set for loaded in load_dataset("cifar10", cifar10(tmp_path)))
    assert train.class_names == test.class_names == ("airplane", "automobile", "bird")
    assert train.labels.tolist() == [2, 0, 1] * 5 and test.labels.tolist() == [1, 0]
    assert train.images[:, 0, 0, 0].tolist() == [10 * batch + place for batch in range(1, 6) for place in range(3)]
    assert train.images[:, 1].eq(0).all() and train.images[:, 2].eq(100).all()
    assert train.image_size == (32, 32) and train.sample_ids.tolist() == list(range(15))


def test_cifar10_as_python_3_and_numpy_write_it_today(tmp_path):
    folder = cifar10(tmp_path) / "cifar-10-batches-py"
    (folder / "test_batch").write_bytes(pickle.dumps({"data": pixels(2), "labels": [1, 2]}))
    assert load_dataset("cifar10", tmp_path)[1].image_set.labels.tolist() == [1, 2]


def test_torchvision_reads_the_same_cifar10(tmp_path, monkeypatch):
    from torchvision.datasets import CIFAR10

    monkeypatch.setattr(CIFAR10, "_check_integrity", lambda self: True)
    monkeypatch.setattr("torchvision.datasets.cifar.check_integrity", lambda path, md5=None: True)
    ours = load_dataset("cifar10", cifar10(tmp_path))[0].image_set
    theirs = CIFAR10(str(tmp_path), train=True)
    assert theirs.classes == list(ours.class_names) and theirs.targets == ours.labels.tolist()
    assert np.array_equal(theirs.data, ours.images.permute(0, 2, 3, 1).numpy())


def test_cifar100_has_the_fine_labels(tmp_path):
    train, test = (loaded.image_set for loaded in load_dataset("cifar100", cifar100(tmp_path)))
    assert train.class_names == ("apple", "bear") and train.labels.tolist() == [0, 1, 1, 0]
    assert len(test) == 4


def test_a_draw_takes_each_class_in_proportion(tmp_path):
    train = load_dataset("cifar10", cifar10(tmp_path), samples=6, seed=3)[0].image_set
    assert train.class_counts().tolist() == [2, 2, 2]
    again = load_dataset("cifar10", tmp_path, samples=6, seed=3)[0].image_set
    assert train.sample_ids.tolist() == again.sample_ids.tolist()


def test_tiny_imagenet_takes_its_test_labels_from_the_annotations(tmp_path):
    train, test = (loaded.image_set for loaded in load_dataset("tiny_imagenet", tiny_imagenet(tmp_path)))
    assert train.class_names == test.class_names == WNIDS
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and train.image_size == (64, 64)
    assert test.labels.tolist() == [1, 0] and test.paths[0] == "val/images/val_0.JPEG"


def test_imagenette_bears_torchvisions_names_and_order(tmp_path):
    from torchvision.datasets import Imagenette

    train, test = (loaded.image_set for loaded in load_dataset("imagenette", imagenette(tmp_path)))
    theirs = Imagenette(str(tmp_path), split="train", size="160px")
    assert train.class_names == tuple(names[0] for names in theirs.classes) == ("tench", "English springer")
    assert train.labels.tolist() == [label for _, label in theirs._samples] and len(test) == 4
    assert train.image_size == (128, 128)


def test_gtsrb_agrees_with_torchvision(tmp_path):
    from torchvision.datasets import GTSRB

    train, test = (loaded.image_set for loaded in load_dataset("gtsrb", gtsrb(tmp_path)))
    assert train.num_classes == 43 and train.image_size == (32, 32)
    for split, ours in (("train", train), ("test", test)):
        theirs = sorted(GTSRB(str(tmp_path), split=split)._samples)
        assert ours.labels.tolist() == [label for _, label in theirs]
        assert [path.split("/gtsrb/")[1] for path, _ in theirs] == list(ours.paths)
    assert test.labels[:3].tolist() == [42, 41, 40]


def test_image_folders_and_zips_are_read_where_there_is_no_archive(tmp_path):
    for place, name in enumerate(("cat", "dog")):
        write(tmp_path / "cifar10" / "train" / name, {f"{i}.png": picture(place, "PNG", (32, 32)) for i in range(2)})
    with zipfile.ZipFile(tmp_path / "cifar10" / "test.zip", "w") as archive:
        archive.writestr("dog/0.png", picture(1, "PNG", (32, 32)))
    train, test = (loaded.image_set for loaded in load_dataset("cifar10", tmp_path))
    assert train.class_names == test.class_names == ("cat", "dog") and test.labels.tolist() == [1]


def bare_folders(root: Path, names: Iterable[str], content: bytes) -> Path:
    for part in ("train", "test"):
        write(root / part, {f"{name}/0.png": content for name in names})
    return root


@pytest.mark.parametrize(
    ("names", "asked", "expected"),
    [
        (CIFAR10_NAMES, "cifar100", "10 classes of cifar10, not the 100 of cifar100"),
        (CIFAR10_NAMES, "imagenette", "10 classes of cifar10, not the 10 of imagenette"),
        (WNIDS, "cifar10", "2 classes of imagenette, not the 10 of cifar10"),
        (("church", "golf ball"), "gtsrb", "2 classes of imagenette, not the 43 of gtsrb"),
        (("00000", "00042"), "tiny_imagenet", "2 classes of gtsrb, not the 200 of tiny_imagenet"),
        (("cat", "cow"), "cifar10", "2 classes, not the 10 of cifar10"),
        (("apple", "bear"), "cifar100", "2 classes, not the 100 of cifar100"),
    ],
)
def test_image_folders_of_another_data_set_are_refused_before_they_are_decoded(tmp_path, names, asked, expected):
    message = refusal(asked, bare_folders(tmp_path, names, b"never opened"))
    assert str(tmp_path / "train") in message and expected in message


@pytest.mark.parametrize(
    ("names", "asked"),
    [(CIFAR10_NAMES, "cifar10"), ("0123456789", "cifar10"), (WNIDS, "imagenette"), (("00000", "00042"), "gtsrb")],
)
def test_image_folders_of_a_data_set_are_known_by_names_or_number(tmp_path, names, asked):
    bare_folders(tmp_path, names, picture(1, "PNG", (32, 32)))
    assert load_dataset(asked, tmp_path, image_size=(32, 32))[1].image_set.class_names == tuple(names)


def test_the_number_of_classes_is_that_of_the_names():
    assert DATASETS["cifar10"].num_classes == len(CIFAR10_NAMES)
    assert DATASETS["imagenette"].num_classes == len(imagenette_names())


def test_a_zip_of_the_archive_is_read_in_place(tmp_path):
    source = tiny_imagenet(tmp_path / "made") / "tiny-imagenet-200"
    with zipfile.ZipFile(tmp_path / "tiny-imagenet-200.zip", "w") as archive:
        for file in sorted(source.rglob("*.*")):
            archive.write(file, file.relative_to(source.parent).as_posix())
    train, test = (loaded.image_set for loaded in load_dataset("tiny_imagenet", tmp_path))
    assert train.labels.tolist() == [0, 0, 0, 1, 1, 1] and test.labels.tolist() == [1, 0]


def test_what_lies_in_a_folder_is_recognised(tmp_path):
    (tmp_path / "imagenette2" / "cat").mkdir(parents=True)
    assert recognise(tmp_path) is None
    for name, make in (("cifar10", cifar10), ("cifar100", cifar100), ("gtsrb", gtsrb)):
        root = make(tmp_path / name)
        inside = next(root.iterdir())
        for place in (root, inside):
            assert recognise(place).load("test").image_set.image_size[0] in (30, 32)


@pytest.mark.parametrize(
    ("make", "names"), [(cifar100, ("bear", "apple")), (imagenette, ("English springer", "tench"))]
)
def test_the_classes_of_a_model_keep_its_labels(tmp_path, make, names):
    own = recognise(make(tmp_path)).load("test", image_size=(32, 32)).image_set
    found = recognise(tmp_path).load("test", image_size=(32, 32), class_names=(names[0], "cow", names[1])).image_set
    assert found.class_names == (names[0], "cow", names[1])
    assert found.labels.tolist() == [(2, 0)[label] for label in own.labels.tolist()]
    with pytest.raises(AdvrBDError, match=f"has the class '{names[0]}', which the model does not know: it knows cow"):
        recognise(tmp_path).load("test", image_size=(32, 32), class_names=("cow", names[1]))


class Command:
    """Makes a folder when it is unpickled, as a malicious batch would do worse."""

    def __init__(self, target: Path) -> None:
        self.target = target

    def __reduce__(self):
        return os.mkdir, (str(self.target),)


def refusal(name: str, root: Path, **options) -> str:
    with pytest.raises(AdvrBDError) as error:
        load_dataset(name, root, **options)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_a_batch_that_would_run_code_is_refused(tmp_path):
    batch = cifar10(tmp_path) / "cifar-10-batches-py" / "data_batch_2"
    batch.write_bytes(pickle.dumps({"data": Command(tmp_path / "made"), "labels": []}))
    message = refusal("cifar10", tmp_path)
    assert "data_batch_2" in message and "mkdir" in message
    assert not (tmp_path / "made").exists()


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "is damaged (it is no whole pickle): unpack the original archive again"),
        (b"no pickle at all", "unpack the original archive again"),
        (pickle.dumps([1, 2]), "holds no dictionary"),
        (pickle.dumps({"labels": [0]}), "holds no data of (N, 3072) uint8"),
        (pickle.dumps({"data": np.zeros((2, 10), np.uint8), "labels": [0, 0]}), "holds no data of (N, 3072) uint8"),
        (pickle.dumps({"data": pixels(2), "labels": [0]}), "holds no data of (N, 3072) uint8"),
        (pickle.dumps({"data": pixels(1), "labels": [3]}), "a label outside [0, 2]"),
    ],
)
def test_a_damaged_batch_is_named(tmp_path, content, expected):
    batch = cifar10(tmp_path) / "cifar-10-batches-py" / "test_batch"
    batch.write_bytes(content)
    message = refusal("cifar10", tmp_path)
    assert str(batch) in message and expected in message


def test_what_is_missing_is_said_with_what_to_do(tmp_path):
    assert "dataset must be one of cifar10, cifar100" in refusal("cifar", tmp_path)
    message = refusal("tiny_imagenet", tmp_path)
    assert str(tmp_path) in message and "put there tiny-imagenet-200/" in message
    (cifar10(tmp_path) / "cifar-10-batches-py" / "data_batch_5").unlink()
    assert "data_batch_5 is missing: unpack the original archive again" in refusal("cifar10", tmp_path)
    assert "32x32 alone" in refusal("cifar10", tmp_path, image_size=(48, 48))


def test_labels_that_do_not_fit_are_named(tmp_path):
    tiny_imagenet(tmp_path)
    annotations = tmp_path / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text("val_0.JPEG\tn99999999\t0\t0\t1\t1\n")
    assert "'n99999999', which the training part has not" in refusal("tiny_imagenet", tmp_path)
    annotations.unlink()
    assert "holds no readable val/val_annotations.txt" in refusal("tiny_imagenet", tmp_path)


@pytest.mark.parametrize("name", ["../../../outside.png", "/outside.png", "a\\b.png"])
def test_a_table_that_names_files_outside_the_set_is_refused(tmp_path, name):
    write(tmp_path, {"outside.png": picture(0, "PNG")})
    annotations = tiny_imagenet(tmp_path) / "tiny-imagenet-200" / "val" / "val_annotations.txt"
    annotations.write_text(f"val_0.JPEG\tn02102040\n{name}\tn01440764\n")
    table = gtsrb(tmp_path) / "gtsrb" / "GT-final_test.csv"
    table.write_text(table.read_text().replace("00007.ppm", name))
    for dataset, file in (("tiny_imagenet", annotations), ("gtsrb", table)):
        message = refusal(dataset, tmp_path)
        assert file.name in message and "names a file outside the data set" in message and repr(name) in message


def test_a_folder_reads_nothing_outside_itself(tmp_path):
    write(tmp_path, {"outside.png": b"secret", "inside/cat/1.png": b"picture"})
    with open_source(tmp_path / "inside") as source:
        assert source.read("cat/1.png") == b"picture"
        for path in ("../outside.png", "cat/../../outside.png", str(tmp_path / "outside.png")):
            with pytest.raises(ValueError, match="outside the folder"):
                source.read(path)


def test_the_test_table_of_gtsrb_must_have_classes(tmp_path):
    table = gtsrb(tmp_path) / "gtsrb" / "GT-final_test.csv"
    table.write_text("Filename;Width;Height\n00000.ppm;53;54\n")
    assert "GT-final_test.csv) has no column Filename or no number in ClassId" in refusal("gtsrb", tmp_path)
