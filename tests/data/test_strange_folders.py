"""Odd but honest folders and zips: each is read, or refused in true words; nothing is taken for a class unmentioned."""

from __future__ import annotations

import io
import os
import unicodedata
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advrbd_plugin.data import load_folder, recognise
from advrbd_plugin.data.folder import _part_of_split
from advrbd_plugin.data.reading import path_ids
from advrbd_plugin.data.sources import open_source
from advrbd_plugin.errors import AdvrBDError


def picture(value: int, kind: str = "PNG", size: tuple[int, int] = (8, 8)) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(np.full((*size, 3), value, np.uint8)).save(buffer, kind)
    return buffer.getvalue()


def write(root: Path, paths: list[str], content: bytes | None = None) -> Path:
    for number, path in enumerate(paths):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_bytes(picture(number) if content is None else content)
    return root


CATS_AND_DOGS = ["cat/0.png", "cat/1.png", "dog/0.png", "dog/1.png"]


# Item 6: what is split is no set of classes.


@pytest.mark.parametrize(
    ("parts", "advised"),
    [
        (("training_set", "test_set"), "training_set"),
        (("train", "valid", "test", "extra"), "train"),
        (("seg_train", "seg_test", "seg_pred"), "seg_train"),
        (("Train_Images", "Validation-Images"), "Train_Images"),
        (("trainset", "testset", "labels"), "trainset"),
        (("TrainData", "TestData"), "TrainData"),
        (("x_test", "x_train"), "x_train"),
        (("dataset-train", "dataset-val", "cat"), "dataset-train"),
        (("train1", "test1"), "train1"),
        (("train", "unlabelled"), "train"),
    ],
)
@pytest.mark.parametrize("wrapper", ["", "set/"])
def test_parts_of_a_split_set_are_refused_with_the_part_to_give(tmp_path, parts, advised, wrapper):
    paths = [f"{wrapper}{part}/{name}/{i}.png" for part in parts for name in ("cat", "dog") for i in range(2)]
    with pytest.raises(AdvrBDError, match=f"not class folders: give {tmp_path}/{wrapper}{advised}$"):
        load_folder(write(tmp_path, paths))


def test_the_parts_may_be_without_classes(tmp_path):
    with pytest.raises(AdvrBDError, match="holds test1 and train, not class folders"):
        load_folder(write(tmp_path, ["train/cat.1.png", "train/dog.1.png", "test1/1.png"]))


@pytest.mark.parametrize("names", [("valid", "invalid"), ("train", "car", "bus"), ("attest", "protest"), ("x", "y")])
def test_classes_that_sound_like_parts_are_classes(tmp_path, names):
    loaded = load_folder(write(tmp_path, [f"{name}/{i}.png" for name in names for i in range(2)]))
    assert loaded.image_set.class_names == tuple(sorted(names))


def test_a_train_among_vehicles_may_have_sub_folders_and_is_told_of(tmp_path):
    paths = ["train/2019/1.png", "train/2020/1.png", "car/1.png", "bus/1.png"]
    loaded = load_folder(write(tmp_path, paths))
    assert loaded.image_set.class_names == ("bus", "car", "train")
    assert loaded.notes == ("The folder 'train' is taken for a class, as those beside it are.",)


def test_folds_with_the_same_classes_are_told_of(tmp_path):
    paths = [f"fold{fold}/{name}/1.png" for fold in (1, 2) for name in ("cat", "dog")]
    (note,) = load_folder(write(tmp_path, paths)).notes
    assert note.startswith("'fold1', 'fold2' all hold the sub-folders 'cat', 'dog'") and "give one of them" in note


def test_a_long_name_is_compared_in_no_time():
    assert _part_of_split("dataset" * 30 + "!") is None and _part_of_split("datadatadatadatadatadata!") is None


def packed_imagenette(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with zipfile.ZipFile(path, "w") as archive:
        for wnid in ("n01440764", "n02102040"):
            for part in ("train", "val"):
                archive.writestr(f"imagenette2/{part}/{wnid}/1.JPEG", picture(1, "JPEG"))


def test_a_stray_zip_of_a_data_set_does_not_replace_the_class_folders(tmp_path):
    packed_imagenette(write(tmp_path, CATS_AND_DOGS) / "imagenette2.zip")
    assert recognise(tmp_path) is None
    loaded = load_folder(tmp_path)
    assert loaded.image_set.class_names == ("cat", "dog")
    assert loaded.notes == ("1 file beside the class folders is not read (imagenette2.zip).",)


def test_a_zip_of_a_data_set_alone_is_that_set(tmp_path):
    packed_imagenette(tmp_path / "imagenette2.zip")
    (tmp_path / "README.md").write_text("as downloaded")
    (tmp_path / "notes").mkdir()
    assert recognise(tmp_path).load("train", image_size=(8, 8)).image_set.class_names == ("tench", "English springer")


def test_a_data_set_beside_class_folders_is_refused(tmp_path):
    write(tmp_path, ["imagenette2/val/n01440764/1.png", "imagenette2/train/n01440764/1.png", *CATS_AND_DOGS])
    with pytest.raises(AdvrBDError, match="holds imagenette2, which is imagenette, beside the folder 'cat'"):
        recognise(tmp_path)


def test_two_data_sets_in_one_folder_are_refused(tmp_path):
    write(tmp_path, ["cifar-10-batches-py/batches.meta", "cifar-100-python/meta"], b"")
    with pytest.raises(AdvrBDError, match="holds the data sets cifar10 and cifar100: give the folder of one"):
        recognise(tmp_path)


def test_of_two_sizes_of_one_data_set_it_is_told_which_is_read(tmp_path):
    paths = [f"imagenette2-{side}/{part}/{wnid}/1.png" for side in (160, 320) for part in ("train", "val")
             for wnid in ("n01440764", "n02102040")]  # fmt: skip
    assert recognise(write(tmp_path, paths)).load("train").notes[0] == (
        "imagenette2-160 is read; imagenette2-320 beside it is not."
    )


# Item 7: what systems leave, what lies beside the classes, and folders that are one.


@pytest.mark.parametrize(
    "junk",
    [
        "@eaDir",
        "lost+found",
        "__pycache__",
        "$RECYCLE.BIN",
        "System Volume Information",
        "#recycle",
        "@Recycle",
        ".ipynb_checkpoints",
        "__MACOSX",
        "FOUND.000",
    ],
)
def test_folders_of_the_system_are_no_classes_and_hold_no_images(tmp_path, junk):
    paths = [f"{junk}/1.png", f"cat/{junk}/0.png", f"cat/{junk}/0.png/SYNOPHOTO_THUMB_M.jpg", f"cat/{junk}/deep/1.png"]
    paths.remove(f"cat/{junk}/0.png")
    write(tmp_path, CATS_AND_DOGS + paths)
    (tmp_path / "dog" / junk).mkdir()
    loaded = load_folder(tmp_path)
    assert loaded.image_set.paths == tuple(CATS_AND_DOGS) and loaded.left_out == ()


def test_side_files_of_the_system_are_no_images(tmp_path):
    junk = ["cat/Thumbs.db", "cat/0.png@SynoEAStream", "dog/desktop.ini", "dog/._0.png"]
    assert load_folder(write(tmp_path, CATS_AND_DOGS + junk)).left_out == ()


@pytest.mark.skipif(os.geteuid() == 0, reason="root reads every folder")
def test_a_lost_and_found_that_may_not_be_read_does_not_matter(tmp_path):
    (write(tmp_path, CATS_AND_DOGS) / "lost+found").mkdir(mode=0)
    assert len(load_folder(tmp_path).image_set) == 4


def test_pictures_beside_the_class_folders_are_told_of(tmp_path):
    loaded = load_folder(write(tmp_path, [*CATS_AND_DOGS, "0.png", "1.JPG", "LICENSE", "labels.csv"]))
    assert len(loaded.image_set) == 4
    assert loaded.notes == ("2 files beside the class folders are not read (0.png, 1.JPG).",)


def test_pictures_beside_a_wrapper_are_told_of(tmp_path):
    loaded = load_folder(write(tmp_path, [*(f"set/{path}" for path in CATS_AND_DOGS), "cover.png"]))
    assert loaded.notes == ("1 file beside the class folders is not read (cover.png).",)


def test_two_class_folders_that_are_one_are_refused(tmp_path):
    os.symlink(write(tmp_path, CATS_AND_DOGS) / "cat", tmp_path / "aardvark")
    with pytest.raises(AdvrBDError, match="the class folders 'aardvark' and 'cat' are one folder"):
        load_folder(tmp_path)


def test_two_links_to_one_folder_elsewhere_are_refused(tmp_path):
    write(tmp_path / "elsewhere", ["1.png"])
    write(tmp_path / "set", CATS_AND_DOGS)
    for name in ("ant", "bee"):
        os.symlink(tmp_path / "elsewhere", tmp_path / "set" / name)
    with pytest.raises(AdvrBDError, match="the class folders 'bee' and 'ant' are one folder"):
        load_folder(tmp_path / "set")


def test_a_link_into_another_class_does_not_move_its_images(tmp_path):
    write(tmp_path, [*CATS_AND_DOGS, "dog/deep/2.png"])
    os.symlink(tmp_path / "dog/deep", tmp_path / "cat/more")
    loaded = load_folder(tmp_path)
    assert loaded.image_set.class_counts().tolist() == [2, 3]
    assert loaded.notes == ("The folder 'cat/more' leads to 'dog/deep' and is read there only.",)


def test_a_class_folder_may_be_a_link(tmp_path):
    write(tmp_path / "elsewhere", ["1.png"])
    os.symlink(tmp_path / "elsewhere", write(tmp_path / "set", CATS_AND_DOGS) / "ant")
    assert load_folder(tmp_path / "set").image_set.class_names == ("ant", "cat", "dog")


# Item 11: one name in two Unicode forms.


@pytest.mark.parametrize(
    "pair", [("\u00e9", "e\u0301"), ("K", "\u212a"), ("\u00c5", "\u212b"), ("\u1e69", "s\u0323\u0307")]
)
def test_a_name_in_two_forms_is_two_images(tmp_path, pair):
    assert len({unicodedata.normalize("NFC", name) for name in pair}) == 1
    alone = load_folder(write(tmp_path / "alone", [f"cat/{pair[0]}.png", "dog/0.png"])).image_set
    both = load_folder(write(tmp_path / "both", [f"cat/{name}.png" for name in pair] + ["dog/0.png"])).image_set
    assert len(both) == 3 and len(set(both.sample_ids.tolist())) == 3
    ids = dict(zip(both.paths, both.sample_ids.tolist(), strict=True))
    assert ids[f"cat/{pair[0]}.png"] == alone.sample_ids[0]  # the second name changes nothing about the first
    other = load_folder(write(tmp_path / "other", [f"cat/{pair[1]}.png", "dog/0.png"])).image_set
    assert other.sample_ids.tolist() == alone.sample_ids.tolist()  # as a copy on another file system keeps its ids


def test_ids_do_not_depend_on_the_order():
    paths = ["a/\u00e9", "a/e\u0301", "\u212a", "K", "b"]
    ids = dict(zip(paths, path_ids(paths).tolist(), strict=True))
    assert dict(zip(paths[::-1], path_ids(paths[::-1]).tolist(), strict=True)) == ids and len(set(ids.values())) == 5


def test_classes_in_two_forms_are_two_and_told_of(tmp_path):
    loaded = load_folder(write(tmp_path, ["\u00e9/0.png", "e\u0301/0.png"]))
    assert len(loaded.image_set.class_names) == 2 and "2 class folders are called" in loaded.notes[0]


def test_a_models_classes_are_found_in_the_other_form(tmp_path):
    images = load_folder(write(tmp_path, ["e\u0301/0.png", "cat/0.png"]), class_names=("\u00e9", "cat")).image_set
    assert images.labels.tolist() == [1, 0]


# Item 13: zips as other systems write them.


def zipped(path: Path, names: list[str], *, system: int = 3, flags: int = 0) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for number, name in enumerate(names):
            info = zipfile.ZipInfo("x")
            info.filename, info.create_system = name, system
            archive.writestr(info, picture(number) if not name.endswith(("/", "\\")) else b"")
    return path


@pytest.mark.parametrize("system", [0, 3, 10])
@pytest.mark.parametrize("folders", [[], ["cat\\", "dog\\"]])
def test_a_zip_with_backslashes_reads_as_its_folder_does(tmp_path, system, folders):
    folder = load_folder(write(tmp_path / "folder", CATS_AND_DOGS)).image_set
    names = [path.replace("/", "\\") for path in CATS_AND_DOGS]
    read = load_folder(zipped(tmp_path / "x.zip", names + folders, system=system)).image_set
    assert read.paths == folder.paths and torch.equal(read.sample_ids, folder.sample_ids)
    assert torch.equal(read.images, folder.images)


def test_a_zip_made_on_windows_may_mix_slashes(tmp_path):
    images = load_folder(zipped(tmp_path / "x.zip", ["cat/0.png", "dog\\0.png"], system=0)).image_set
    assert images.class_names == ("cat", "dog")


def test_a_backslash_may_stand_in_a_name_on_unix(tmp_path):
    images = load_folder(zipped(tmp_path / "x.zip", ["cat/a\\b.png", "dog/0.png"])).image_set
    assert images.paths == ("cat/a\\b.png", "dog/0.png")


@pytest.mark.parametrize("start", ["./", "././", ".\\"])
def test_a_zip_with_dots_before_each_name_is_read(tmp_path, start):
    system = 0 if "\\" in start else 3
    loaded = load_folder(zipped(tmp_path / "x.zip", [start, *(start + path for path in CATS_AND_DOGS)], system=system))
    assert loaded.image_set.paths == tuple(CATS_AND_DOGS) and not loaded.left_out


def test_a_colon_is_a_character_as_others(tmp_path):
    images = load_folder(zipped(tmp_path / "x.zip", ["12:30/1:2.png", "b:c/0.png"])).image_set
    assert images.class_names == ("12:30", "b:c")


@pytest.mark.parametrize(
    "name", ["..\\..\\x.png", "a\\..\\..\\x.png", "\\x.png", "C:\\x.png", "C:/x.png", "a/../../x", "\\\\host\\x"]
)
@pytest.mark.parametrize("system", [0, 3])
def test_no_name_leads_outside_on_any_system(tmp_path, name, system):
    with pytest.raises(AdvrBDError, match="names a file outside itself"):
        load_folder(zipped(tmp_path / "x.zip", [*CATS_AND_DOGS, name], system=system))


def test_a_name_that_stands_twice_is_told_of(tmp_path):
    loaded = load_folder(zipped(tmp_path / "x.zip", [*CATS_AND_DOGS, "./cat/0.png"]))
    assert len(loaded.image_set) == 4 and loaded.notes[0].startswith("1 files of the zip have the name of another")


def test_another_compression_is_named(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w") as archive:
        for path in CATS_AND_DOGS:
            archive.writestr(path, picture(1))
        archive.writestr("cat/2.png", picture(1), zipfile.ZIP_LZMA)
    ((path, reason),) = load_folder(tmp_path / "x.zip").left_out
    assert path == "cat/2.png" and "by lzma; stored and deflated files are read" in reason


# Item 14: a wrapper with a README.


@pytest.mark.parametrize("beside", ["README", "README.txt", "LICENSE.md", "labels.csv", "classes.json"])
@pytest.mark.parametrize("depth", [1, 2])
def test_a_wrapper_may_hold_a_readme_beside_the_class_folders(tmp_path, beside, depth):
    wrapper = "set/" * depth
    paths = [f"{wrapper}{path}" for path in CATS_AND_DOGS]
    for root in (
        write(tmp_path / "folder", [*paths, f"{wrapper}{beside}"]),
        zipped(tmp_path / "x.zip", [*paths, f"{wrapper}{beside}"]),
    ):
        loaded = load_folder(root)
        assert loaded.image_set.class_names == ("cat", "dog") and loaded.left_out == () and loaded.notes == ()


def test_a_single_class_with_pictures_and_sub_folders_is_one_class(tmp_path):
    with pytest.raises(AdvrBDError, match="one class only"):
        load_folder(write(tmp_path, ["cat/0.png", "cat/more/1.png", "cat/old/2.png"]))


# Item 16: what shrinks very much and is no bomb.


@pytest.mark.parametrize(
    ("kind", "size"), [("BMP", (1000, 1000)), ("PPM", (1200, 1000)), ("TIFF", (1000, 1000)), ("BMP", (3000, 2000))]
)
def test_a_flat_picture_in_a_zip_is_no_bomb(tmp_path, kind, size):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        archive.writestr("cat/0.bmp", picture(9, kind, size))
        archive.writestr("dog/0.bmp", picture(8, kind, size))
        assert archive.getinfo("cat/0.bmp").file_size > 200 * archive.getinfo("cat/0.bmp").compress_size
    loaded = load_folder(tmp_path / "x.zip")
    assert loaded.left_out == () and loaded.image_set.images[:, 0, 0, 0].tolist() == [9, 8]


def test_what_follows_a_flat_picture_is_a_bomb(tmp_path):
    with zipfile.ZipFile(tmp_path / "x.zip", "w", zipfile.ZIP_DEFLATED) as archive:
        for path in CATS_AND_DOGS:
            archive.writestr(path, picture(1))
        archive.writestr("cat/2.bmp", picture(1, "BMP") + bytes(10**7))
    assert "a zip bomb" in load_folder(tmp_path / "x.zip").left_out[0][1]


# Item 3: lists of files that are made to be slow.


@pytest.mark.parametrize("name", ["a/" * 20_000 + "1.png", "a/" * 40 + "1.png", "cat/" + "a" * 60_000])
def test_names_that_no_disk_holds_are_refused(tmp_path, name):
    with pytest.raises(AdvrBDError, match="folders deep, or by a name that no disk holds") as error:
        load_folder(zipped(tmp_path / "x.zip", [*CATS_AND_DOGS, name]))
    assert len(str(error.value)) < 400


def test_a_size_that_lies_is_not_believed(tmp_path):
    path = tmp_path / "x.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name in CATS_AND_DOGS:
            archive.writestr(name, picture(1))
        archive.writestr("cat/2.png", bytes(20_000_000))
    content = path.read_bytes().replace((20_000_000).to_bytes(4, "little"), (1000).to_bytes(4, "little"))
    path.write_bytes(content)
    with open_source(path) as source, pytest.raises(zipfile.BadZipFile):
        source.read("cat/2.png")
    assert [name for name, _ in load_folder(path).left_out] == ["cat/2.png"]


def test_a_zip_with_too_many_entries_is_refused_before_they_are_listed(tmp_path):
    entry = b"PK\x01\x02" + bytes(24) + b"\x01\x00" + bytes(16) + b"a"
    count = 600_000
    end = b"PK\x05\x06" + bytes(4) + b"\xff\xff\xff\xff" + (len(entry) * count).to_bytes(4, "little") + bytes(6)
    (tmp_path / "x.zip").write_bytes(entry * count + end)
    with pytest.raises(AdvrBDError, match="lists 600000 entries, more than fit in memory"):
        load_folder(tmp_path / "x.zip")
