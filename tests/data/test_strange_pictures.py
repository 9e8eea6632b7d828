"""Pictures that are odd, damaged or made to harm: read as they lie, or left out with a reason; never run or huge."""

from __future__ import annotations

import io
import struct
import threading
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, features

from advrbd_plugin.attacks.picture import load_patch, load_picture
from advrbd_plugin.data import load_folder, reading
from advrbd_plugin.data.decoding import FORMATS, UnreadableImage, bit_range, decode, memory_needed, read_size
from advrbd_plugin.errors import AdvrBDError, OutOfMemory, is_out_of_memory


def encoded(pixels: np.ndarray, kind: str = "PNG", **options) -> bytes:
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, kind, **options)
    return buffer.getvalue()


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def deep_png(values: np.ndarray, *more: bytes) -> bytes:
    """(H, W, C) in [0, 65535]: grey, grey and opacity, colour, colour and opacity."""
    height, width, channels = values.shape
    kind = {1: 0, 2: 4, 3: 2, 4: 6}[channels]
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 16, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(more) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def deep_tiff(values: np.ndarray, order: str = "<") -> bytes:
    """(H, W, 3) in [0, 65535], not compressed."""
    height, width, channels = values.shape
    tags = [(256, width), (257, height), (258, None), (259, 1), (262, 2), (273, None), (277, channels), (278, height)]
    tags.append((279, 2 * values.size))
    behind = 8 + 2 + 12 * len(tags) + 4
    places = {258: behind, 273: behind + 2 * channels}
    content = (b"II*\0" if order == "<" else b"MM\0*") + struct.pack(f"{order}IH", 8, len(tags))
    for tag, value in tags:
        kind, count = (3, channels) if tag == 258 else (4, 1)
        content += struct.pack(f"{order}HHII", tag, kind, count, places.get(tag, value))
    content += struct.pack(f"{order}I", 0) + struct.pack(f"{order}{channels}H", *[16] * channels)
    return content + values.astype(f"{order}u2").tobytes()


def write(root: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)
    return root


PLAIN = encoded(np.full((8, 8, 3), 77, np.uint8))

# Item 2: no other program is started, no reader but those of raster formats.

POSTSCRIPT = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\nshowpage\n%%EOF\n"


@pytest.fixture
def no_programs(monkeypatch):
    import os
    import subprocess

    def refuse(*arguments, **options):
        raise AssertionError("a program was started")

    for module, name in ((subprocess, "Popen"), (os, "system"), (os, "posix_spawn"), (os, "popen")):
        monkeypatch.setattr(module, name, refuse)


def test_postscript_is_no_picture(tmp_path, no_programs):
    files = {"a/0.png": PLAIN, "b/0.png": PLAIN, "a/x.png": POSTSCRIPT, "b/x.eps": POSTSCRIPT}
    binary = b"\xc5\xd0\xd3\xc6" + struct.pack("<6I", 32, len(POSTSCRIPT), 0, 0, 0, 0) + bytes(4) + POSTSCRIPT
    loaded = load_folder(write(tmp_path, files | {"a/y.jpg": binary}))
    assert [reason for _, reason in loaded.left_out] == ["not an image"] * 3
    for load in (lambda path: load_picture(path, 8, 8), lambda path: load_patch(path, 4)):
        with pytest.raises(AdvrBDError, match="cannot be read as an image: not an image"):
            load(tmp_path / "a/x.png")


def test_every_format_that_pillow_writes_and_is_not_listed_is_left_out(no_programs):
    Image.init()
    pixels = np.zeros((16, 16, 3), np.uint8)
    outside = sorted(set(Image.SAVE) & set(Image.OPEN) - {*FORMATS, "MPO"})
    assert "EPS" in outside and len(outside) > 5
    for kind in outside:
        try:
            content = encoded(pixels, kind)
        except (OSError, ValueError, KeyError):  # it cannot write such a picture
            continue
        with pytest.raises(UnreadableImage):
            decode(content, (8, 8))


@pytest.mark.parametrize("kind", ["PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000", "MPO"])
def test_the_raster_formats_are_read(kind):
    if kind == "JPEG2000" and not features.check("jpg_2000"):
        pytest.skip("this Pillow has no JPEG 2000")
    image = decode(encoded(np.full((16, 16, 3), 200, np.uint8), kind), (8, 8))
    assert np.abs(image.pixels.astype(int) - 200).max() < 4 and image.size == (16, 16)


# Item 3: much memory or time from a small file.


def test_a_picture_that_claims_too_many_pixels_is_not_decoded():
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 100_000, 100_000, 8, 2, 0, 0, 0))
    with pytest.raises(UnreadableImage):
        decode(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b""), (8, 8))
    webp = (
        b"RIFF" + struct.pack("<I", 100) + b"WEBPVP8X" + struct.pack("<I", 10) + bytes(4) + b"\xff\x3f\x00\xff\x3f\x00"
    )
    with pytest.raises(UnreadableImage, match="16384x16384 pixels is more than the limit"):
        decode(webp + bytes(100), (8, 8))


def test_a_jpeg_of_many_scans_is_not_decoded():
    content = encoded(np.zeros((1000, 1000), np.uint8), "JPEG", progressive=True)
    scan = content.rindex(b"\xff\xda")
    slow = content[:scan] + content[scan:-2] * 3000 + content[-2:]
    started = time.perf_counter()
    with pytest.raises(UnreadableImage, match="would take too long"):
        decode(slow, (8, 8))
    assert time.perf_counter() - started < 5
    assert decode(content, (8, 8)).pixels.shape == (8, 8, 3)


def test_pictures_in_flight_share_the_memory(monkeypatch):
    share = reading._Share(100)
    most, held, lock = 0, 0, threading.Lock()

    def work(size: int) -> None:
        nonlocal most, held
        with share.hold(size):
            with lock:
                held += min(size, 100)
                most = max(most, held)
            time.sleep(0.002)
            with lock:
                held -= min(size, 100)

    threads = [threading.Thread(target=work, args=(size,)) for size in [30, 40, 50, 60, 1000] * 5]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=30)
    assert not any(thread.is_alive() for thread in threads) and 60 <= most <= 100


def test_the_memory_of_a_picture_is_known_from_its_header():
    assert memory_needed(encoded(np.zeros((100, 100, 3), np.uint8))) < 2**20 + 2**18
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", 8000, 8000, 16, 0, 0, 0, 0))
    assert memory_needed(b"\x89PNG\r\n\x1a\n" + head + chunk(b"IDAT", b"")) >= 8000 * 8000 * 4


# Item 4: memory that ends is no damage.


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        OSError("out of memory error when reading image file"),
        OSError(12, "Cannot allocate memory"),
        RuntimeError("could not create a primitive"),
        RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory"),
        RuntimeError("can't start new thread"),
        RuntimeError("std::bad_alloc"),
        OutOfMemory("x"),
    ],
)
def test_memory_that_ends_is_an_error_of_its_own(tmp_path, monkeypatch, error):
    assert is_out_of_memory(error)

    def fail(*arguments, **options):
        raise error

    root = write(tmp_path, {"a/0.png": PLAIN, "b/0.png": PLAIN, "b/1.png": PLAIN})
    monkeypatch.setattr(Image.Image, "convert", fail)
    with pytest.raises(OutOfMemory, match="memory is used up") as line:
        load_folder(root)
    assert "\n" not in str(line.value)
    with pytest.raises(OutOfMemory):
        load_picture(root / "a/0.png", 8, 8)
    monkeypatch.setattr(Image, "open", fail)
    with pytest.raises(OutOfMemory):
        load_folder(root)


@pytest.mark.parametrize("error", [OSError("image file is truncated"), ValueError("out of memory"), SyntaxError("x")])
def test_damage_is_no_want_of_memory(error):
    assert not is_out_of_memory(error)


# Item 5: 16 and 32 bits a value, by the range of the whole set.


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("top", "bits"), [(255, 8), (1000, 10), (4095, 12), (65535, 16), (1, 1)])
def test_deep_pictures_are_scaled_by_the_sets_range(tmp_path, channels, top, bits):
    rng = np.random.default_rng(0)
    values = [rng.integers(0, high + 1, (8, 8, channels)) for high in (top, max(1, top // 4))]
    values[0][0, 0, 0], values[0][0, 1, 0] = 0, top
    loaded = load_folder(
        write(tmp_path, {f"{name}/0.png": deep_png(each) for name, each in zip("ab", values, strict=True)})
    )
    for image, each in zip(loaded.image_set.images, values, strict=True):
        grey = each[:, :, :1] if channels < 3 else each[:, :, :3]
        expected = np.broadcast_to(np.floor(grey * 255 / (2**bits - 1) + 0.5), (8, 8, 3))
        assert np.abs(image.permute(1, 2, 0).numpy() - expected).max() <= 1
    assert f"2 of 2 images have 16 or 32 bits a value; their values, 0 to {top} over all of them" in loaded.notes[0]
    assert f"scaled from 0 to {2**bits - 1} down to 0 to 255" in loaded.notes[0]


def test_values_up_to_255_stay_as_they_are(tmp_path):
    values = np.arange(64).reshape(8, 8, 1) * 4
    images = load_folder(
        write(tmp_path, {"a/0.png": deep_png(values), "b/0.png": deep_png(values + 3)})
    ).image_set.images
    assert torch.equal(images[0, 0], torch.from_numpy(values[:, :, 0]).byte())


@pytest.mark.parametrize("order", ["<", ">"])
def test_deep_colour_of_tiff_keeps_its_low_bytes(order):
    values = np.random.default_rng(1).integers(0, 4096, (8, 9, 3))
    image = decode(deep_tiff(values, order), (8, 9))
    assert np.array_equal(image.pixels, values) and image.depth == (values.min(), values.max())


@pytest.mark.parametrize("dtype", [np.int32, np.uint16, ">u2", ">i4"])
def test_signed_and_wide_values_are_scaled(tmp_path, dtype):
    low = 0 if np.dtype(dtype).kind == "u" else -1024
    values = np.linspace(low, 3071, 64).reshape(8, 8).astype(dtype)
    buffer = io.BytesIO()
    Image.fromarray(values.astype(np.dtype(dtype).newbyteorder("="))).save(buffer, "TIFF")
    images = load_folder(write(tmp_path, {"a/0.tif": buffer.getvalue(), "b/0.png": PLAIN})).image_set.images
    bottom, top = bit_range(int(values.min()), int(values.max()))
    assert (bottom, top) == ((0, 4095) if low == 0 else (-1024, 3071))
    expected = (values.astype(float) - bottom) * 255 / (top - bottom)
    assert np.abs(images[0, 0].numpy() - expected).max() <= 1 and images[1].eq(77).all()


def test_one_picture_more_seldom_changes_the_others(tmp_path):
    values = np.full((8, 8, 1), 3000)
    root = write(tmp_path, {"a/0.png": deep_png(values), "b/0.png": deep_png(values)})
    before = load_folder(root).image_set.images
    write(root, {"b/1.png": deep_png(values + 1000)})
    assert torch.equal(load_folder(root).image_set.images[:2], before)


def test_a_large_deep_picture_is_resized_as_a_shallow_one(tmp_path):
    ramp = np.add.outer(np.arange(301), np.arange(407)) // 3
    deep, shallow = decode(deep_png(ramp[:, :, None] * 257), (16, 20)), decode(encoded(ramp.astype(np.uint8)), (16, 20))
    assert np.abs(deep.pixels / 257 - shallow.pixels[:, :, :1]).max() < 1.5


def test_a_deep_trigger_picture_is_not_white(tmp_path):
    write(tmp_path, {"x.png": deep_png(np.full((8, 8, 1), 2048))})
    write(tmp_path, {"y.png": deep_png(np.array([[[0], [4095]]] * 2))})
    assert load_picture(tmp_path / "y.png", 2, 2).round().tolist() == [[[0, 255], [0, 255]]] * 3
    assert 120 < float(load_picture(tmp_path / "x.png", 4, 4).mean()) < 135


# Item 12: damaged EXIF.


def exif_of(*entries: tuple[int, int, int, bytes], head: bytes = b"II*\0\x08\0\0\0") -> bytes:
    """An EXIF block with one directory of (tag, type, count, four bytes)."""
    directory = struct.pack("<H", len(entries)) + b"".join(
        struct.pack("<HHI", tag, kind, count) + value for tag, kind, count, value in entries
    )
    return head + directory + bytes(4) + struct.pack("<ii", -5, -7) * 8


ORIENTATION, RESOLUTION = 0x0112, 0x011A
DAMAGED = {
    "orientation as text": exif_of((ORIENTATION, 2, 4, b"top\0")),
    "orientation of 99": exif_of((ORIENTATION, 3, 1, struct.pack("<HH", 99, 0))),
    "orientation of 0": exif_of((ORIENTATION, 3, 1, bytes(4))),
    "orientation as a fraction": exif_of((ORIENTATION, 5, 1, struct.pack("<I", 30))),
    "negative rational": exif_of((RESOLUTION, 10, 1, struct.pack("<I", 30))),
    "negative unsigned rational": exif_of(
        (RESOLUTION, 5, 1, struct.pack("<I", 30)), (ORIENTATION, 3, 1, b"\x01\0\0\0")
    ),
    "unknown type": exif_of((ORIENTATION, 99, 1, b"\x06\0\0\0")),
    "a place outside": exif_of((RESOLUTION, 5, 1, b"\xff\xff\xff\x7f")),
    "a huge count": exif_of((ORIENTATION, 3, 2**31, b"\xff\xff\xff\x7f")),
    "bad header": exif_of((ORIENTATION, 3, 1, b"\x06\0\0\0"), head=b"no TIFF!"),
    "no header": b"Exif\0\0",
    "cut short": exif_of((ORIENTATION, 3, 1, b"\x06\0\0\0"))[:12],
    "empty": b"",
    "a loop of directories": exif_of((0x8769, 4, 1, struct.pack("<I", 8))),
}


@pytest.mark.parametrize("name", DAMAGED)
def test_a_picture_with_damaged_exif_is_read_as_it_lies(tmp_path, name):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8] = 255
    exif = DAMAGED[name]
    plain = encoded(pixels)
    in_png = plain[:33] + chunk(b"eXIf", exif) + plain[33:]
    late = plain[:-12] + chunk(b"eXIf", exif) + plain[-12:]
    jpeg = encoded(pixels, "JPEG", quality=95)
    block = b"Exif\0\0" + exif
    jpeg = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + jpeg[2:]
    loaded = load_folder(write(tmp_path, {"a/0.png": in_png, "a/1.png": late, "b/0.jpg": jpeg, "b/1.png": plain}))
    assert loaded.left_out == () and loaded.image_set.image_size == (16, 24)
    for image in loaded.image_set.images:
        assert image[:, :7].min() > 240 and image[:, 9:].max() < 15


@pytest.mark.parametrize("late", [False, True])
def test_a_png_is_turned_by_its_exif_wherever_it_stands(late):
    pixels = np.zeros((16, 24, 3), np.uint8)
    pixels[:8] = 255
    turn = chunk(b"eXIf", exif_of((ORIENTATION, 3, 1, b"\x06\0\0\0")))
    plain = encoded(pixels)
    content = plain[:-12] + turn + plain[-12:] if late else plain[:33] + turn + plain[33:]
    assert read_size(content) == (24, 16)
    image = decode(content, (24, 16))
    assert image.pixels[:, 8:].min() == 255 and image.pixels[:, :8].max() == 0


def test_a_cut_picture_with_exif_is_not_half_a_picture():
    noise = np.random.default_rng(0).integers(0, 256, (64, 64, 3)).astype(np.uint8)
    plain = encoded(noise)
    content = plain[:33] + chunk(b"eXIf", exif_of((ORIENTATION, 3, 1, b"\x06\0\0\0"))) + plain[33 : len(plain) // 2]
    with pytest.raises(UnreadableImage):
        decode(content, (64, 64))
    content = plain[: len(plain) // 2] + b"eXIf"
    with pytest.raises(UnreadableImage):
        decode(content, (64, 64))
