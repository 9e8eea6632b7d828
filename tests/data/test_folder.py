"""Loading image folders and zips: what is read, what is left out, and the line for each thing that is wrong."""

from __future__ import annotations

import io
import os
import re
import zipfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from advrbd_plugin.data import load_folder
from advrbd_plugin.errors import AdvrBDError


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def picture(value: int, size: tuple[int, int] = (8, 8)) -> bytes:
    return encoded(np.full((*size, 3), value, np.uint8))


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


def write_zip(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


TWO_CLASSES = {
    "cat/2.png": picture(20),
    "cat/1.png": picture(10),
    "ant/deep/1.png": picture(30),
    "ant/0.png": picture(40),
}


def test_reads_classes_in_the_order_of_their_names(tmp_path):
    loaded = load_folder(write(tmp_path, TWO_CLASSES))
    images = loaded.image_set
    assert images.class_names == ("ant", "cat")
    assert images.paths == ("ant/0.png", "ant/deep/1.png", "cat/1.png", "cat/2.png")
    assert images.labels.tolist() == [0, 0, 1, 1]
    assert images.images[:, 0, 0, 0].tolist() == [40, 30, 10, 20]
    assert images.image_size == (8, 8)
    assert loaded.left_out == () and loaded.notes == ()


@pytest.mark.parametrize("wrapper", ["", "train/", "archive/train/"])
def test_a_zip_reads_as_its_folder_does(tmp_path, wrapper):
    folder = load_folder(write(tmp_path / "folder", TWO_CLASSES)).image_set
    junk = {"__MACOSX/cat/._1.png": b"x", f"{wrapper}cat/.DS_Store": b"x", f"{wrapper}cat/Thumbs.db": b"x"}
    packed = {wrapper + name: content for name, content in TWO_CLASSES.items()}
    zipped = load_folder(write_zip(tmp_path / "set.zip", packed | junk))
    assert zipped.left_out == ()
    assert torch.equal(zipped.image_set.images, folder.images)
    assert torch.equal(zipped.image_set.labels, folder.labels)
    assert torch.equal(zipped.image_set.sample_ids, folder.sample_ids)
    assert zipped.image_set.paths == tuple(wrapper + path for path in folder.paths)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["folder", "set.zip"]  # nothing was unpacked


def test_sample_ids_do_not_change_when_a_file_goes(tmp_path):
    write(tmp_path, TWO_CLASSES)
    before = load_folder(tmp_path).image_set
    (tmp_path / "ant/0.png").unlink()
    after = load_folder(tmp_path).image_set
    assert after.sample_ids.tolist() == before.sample_ids[1:].tolist()


@pytest.mark.parametrize(
    ("kind", "pixels", "expected"),
    [
        ("PNG", np.full((8, 8), 77, np.uint8), [77, 77, 77]),
        ("PNG", np.full((8, 8, 4), 77, np.uint8), [77, 77, 77]),
        ("PNG", np.full((8, 8), 77 * 256 + 9, np.uint16), [77, 77, 77]),
        ("TIFF", np.full((8, 8), 77 * 256 + 9, np.uint16), [77, 77, 77]),
        ("PNG", np.full((8, 8), True), [255, 255, 255]),
        ("BMP", np.full((8, 8, 3), 77, np.uint8), [77, 77, 77]),
        ("WEBP", np.full((8, 8, 3), 77, np.uint8), [77, 77, 77]),
        ("JPEG", np.full((8, 8, 3), 77, np.uint8), [77, 77, 77]),
    ],
)
def test_modes_and_formats_become_rgb(tmp_path, kind, pixels, expected):
    write(tmp_path, {"a/odd.png": encoded(pixels, kind), "b/plain.png": picture(1)})
    loaded = load_folder(tmp_path)
    assert loaded.left_out == ()
    assert loaded.image_set.images[0, :, 4, 4].tolist() == expected
    converted = pixels.ndim != 3 or pixels.shape[2] != 3
    assert len(loaded.notes) == converted + (pixels.dtype == np.uint16)
    assert not converted or "1 of 2 images were converted to RGB" in loaded.notes[-1]


def test_palette_becomes_rgb(tmp_path):
    image = Image.new("P", (8, 8), 3)
    image.putpalette([0] * 9 + [200, 100, 50])
    buffer = io.BytesIO()
    image.save(buffer, "PNG")
    loaded = load_folder(write(tmp_path, {"a/palette.png": buffer.getvalue(), "b/plain.png": picture(1)}))
    assert loaded.image_set.images[0, :, 0, 0].tolist() == [200, 100, 50]


def test_exif_orientation_is_undone(tmp_path):
    pixels = np.zeros((16, 16, 3), np.uint8)
    pixels[:8] = 255
    exif = Image.Exif()
    exif[0x0112] = 6  # stored with its top at the right: to be shown turned clockwise
    turned = encoded(pixels, "JPEG", exif=exif, quality=95)
    images = load_folder(write(tmp_path, {"a/t.jpg": turned, "b/p.png": picture(1, (16, 16))})).image_set.images
    assert images[0, 0, 8, 13] > 240 and images[0, 0, 8, 2] < 15


def test_mixed_sizes_take_the_most_common_one(tmp_path):
    write(tmp_path, TWO_CLASSES | {"cat/3.png": picture(50, (12, 10))})
    loaded = load_folder(tmp_path)
    assert loaded.image_set.image_size == (8, 8)
    assert loaded.notes == (
        "1 of 5 images were resized to 8x8 pixels.",
        "1 of 5 images have another shape; they keep their shape and are filled up with their mirror image (--fit "
        "changes that).",
    )
    assert load_folder(tmp_path, image_size=(6, 7)).image_set.image_size == (6, 7)


def test_large_images_are_shrunk_and_the_note_says_so(tmp_path):
    loaded = load_folder(write(tmp_path, {"a/1.png": picture(9, (100, 200)), "b/1.png": picture(8, (100, 200))}))
    assert loaded.image_set.image_size == (64, 64)
    assert "100x200" in loaded.notes[0] and "--image-size" in loaded.notes[0]


def test_unreadable_files_are_listed_and_left_out(tmp_path):
    rng = np.random.default_rng(0)
    whole = encoded(rng.integers(0, 256, (32, 32, 3), np.uint8), "JPEG")
    bad = {"cat/cut.jpg": whole[: len(whole) // 2], "cat/empty.png": b"", "ant/notes.txt": b"not an image"}
    cut_png = encoded(rng.integers(0, 256, (32, 32, 3), np.uint8))[:900]
    loaded = load_folder(write(tmp_path, TWO_CLASSES | bad | {"ant/cut.png": cut_png}))
    assert [path for path, _ in loaded.left_out] == ["ant/cut.png", "ant/notes.txt", "cat/cut.jpg", "cat/empty.png"]
    assert all(reason and "\n" not in reason for _, reason in loaded.left_out)
    assert len(loaded.image_set) == 4 and loaded.image_set.image_size == (8, 8)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="named pipes exist on POSIX systems only")
def test_a_named_pipe_does_not_block(tmp_path):
    os.mkfifo(write(tmp_path, TWO_CLASSES) / "cat/pipe.png")
    assert load_folder(tmp_path).left_out == (("cat/pipe.png", "not an ordinary file"),)


def test_a_loop_of_links_ends(tmp_path):
    os.symlink(write(tmp_path, TWO_CLASSES), tmp_path / "cat/loop")
    assert len(load_folder(tmp_path).image_set) == 4


@pytest.mark.parametrize(
    ("files", "expected"),
    [
        ({}, "no class folders"),
        ({"1.png": picture(1)}, "sort the images into one sub-folder"),
        ({"cat/1.png": picture(1)}, "one class only ('cat')"),
        ({"cat/1.png": picture(1), "dog/.keep": b""}, "class with no image: 'dog'"),
        ({"cat/1.png": picture(1), "dog/1.png": b"broken"}, "no readable image: 'dog'"),
        ({"cat/1.png": b"broken", "dog/1.png": b"broken"}, "none of the 2 files"),
        ({"train/cat/1.png": picture(1), "test/cat/1.png": picture(1)}, "test and train, not class folders: give "),
    ],
)
def test_what_is_wrong_is_said_in_one_line(tmp_path, files, expected):
    with pytest.raises(AdvrBDError) as error:
        load_folder(write(tmp_path, files))
    assert expected in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("wrapper", "parts", "advised"),
    [
        ("", ("train", "val"), "train"),
        ("", ("Testing", "Training"), "Training"),
        ("set/", ("test", "train"), "set/train"),
        ("", ("test", "val"), "test"),
    ],
)
def test_of_a_split_set_the_training_part_is_advised(tmp_path, wrapper, parts, advised):
    files = {f"{wrapper}{part}/{name}/1.png": picture(1) for part in parts for name in ("cat", "dog")}
    with pytest.raises(AdvrBDError, match=f": give {re.escape(str(tmp_path))}/folder/{advised}$"):
        load_folder(write(tmp_path / "folder", files))
    with pytest.raises(AdvrBDError, match=f": unpack it and give its folder {advised}, or a zip of that alone$"):
        load_folder(write_zip(tmp_path / "set.zip", files))


def test_a_missing_place_and_a_file_that_is_no_zip(tmp_path):
    with pytest.raises(AdvrBDError, match="does not exist"):
        load_folder(tmp_path / "nowhere")
    with pytest.raises(AdvrBDError, match="no folder, zip or tar"):
        load_folder(write(tmp_path, {"x.zip": b"PK nonsense"}) / "x.zip")


@pytest.mark.parametrize("name", ["../cat/1.png", "/cat/1.png", "a/../../1.png", "..\\1.png", "C:\\1.png", "C:/1.png"])
def test_a_zip_that_points_outside_itself_is_refused(tmp_path, name):
    with pytest.raises(AdvrBDError, match="outside itself"):
        load_folder(write_zip(tmp_path / "evil.zip", TWO_CLASSES | {name: picture(1)}))


def test_a_zip_bomb_is_not_inflated(tmp_path):
    loaded = load_folder(write_zip(tmp_path / "bomb.zip", TWO_CLASSES | {"cat/bomb.png": bytes(4 * 2**20)}))
    assert loaded.left_out[0][0] == "cat/bomb.png" and "zip bomb" in loaded.left_out[0][1]


def test_a_damaged_zip_entry_is_left_out(tmp_path):
    noise = encoded(np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8))
    path = write_zip(tmp_path / "set.zip", TWO_CLASSES | {"cat/noise.png": noise})
    content = bytearray(path.read_bytes())
    middle = content.find(b"cat/noise.png") + 200
    content[middle : middle + 40] = bytes(40)
    path.write_bytes(content)
    assert [name for name, _ in load_folder(path).left_out] == ["cat/noise.png"]


def test_a_subset_takes_each_class_in_proportion_and_keeps_ids(tmp_path):
    files = {f"{name}/{index}.png": picture(index) for name, n in (("a", 30), ("b", 10)) for index in range(n)}
    everything = load_folder(write(tmp_path, files)).image_set
    part = load_folder(tmp_path, samples=8, seed=3).image_set
    assert part.class_counts().tolist() == [6, 2]
    assert set(part.sample_ids.tolist()) <= set(everything.sample_ids.tolist())
    assert part.paths == load_folder(tmp_path, samples=8, seed=3).image_set.paths
    assert part.paths != load_folder(tmp_path, samples=8, seed=4).image_set.paths
    assert len(load_folder(tmp_path, samples=1000).image_set) == 40
    with pytest.raises(AdvrBDError, match="samples must be at least"):
        load_folder(tmp_path, samples=1)


def test_folders_are_matched_with_a_models_classes_by_name(tmp_path):
    names = ("ant", "bee", "cat")
    images = load_folder(write(tmp_path, TWO_CLASSES), class_names=names).image_set
    assert images.labels.tolist() == [0, 0, 2, 2] and images.class_names == names
    with pytest.raises(AdvrBDError, match="does not know, 'cat'"):
        load_folder(tmp_path, class_names=("ant", "bee"))
    (tmp_path / "ant/0.png").unlink()
    only = load_folder(write(tmp_path / "only", {"ant/deep/1.png": picture(1)}), class_names=names)
    assert only.image_set.labels.tolist() == [0]  # not taken for a folder that wraps a class called "deep"


def test_folders_of_imagenette_may_bear_the_ids_of_the_models_classes(tmp_path):
    write(tmp_path, {f"{name}/1.png": picture(1) for name in ("n01440764", "n03445777", "cat")})
    images = load_folder(tmp_path, class_names=("golf ball", "cat", "tench")).image_set
    assert images.labels.tolist() == [1, 2, 0] and images.class_names == ("golf ball", "cat", "tench")
    with pytest.raises(AdvrBDError, match="does not know, 'n03445777'"):
        load_folder(tmp_path, class_names=("cat", "tench"))


def test_progress_counts_every_file(tmp_path):
    seen = []
    load_folder(write(tmp_path, TWO_CLASSES), on_progress=lambda done, total: seen.append((done, total)))
    assert seen == [(1, 4), (2, 4), (3, 4), (4, 4)]


def test_a_folder_of_archives_names_the_one_to_give(tmp_path):
    for name in ("test.zip", "train.zip"):
        (tmp_path / name).write_bytes(b"")
    with pytest.raises(AdvrBDError, match=rf"holds no class folders: give {tmp_path}/train.zip"):
        load_folder(tmp_path)
