"""The hostile files themselves: honest ones that are damaged, and such as are made to harm. All from one seed."""

from __future__ import annotations

import io
import json
import os
import pickle
import pickletools
import random
import struct
import zipfile
import zlib
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

FORMATS = ("PNG", "JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
MODES = ("RGB", "L", "1", "P", "RGBA", "I;16", "CMYK", "LA", "I", "F")


class Sentinel:
    """Makes a folder when something unpickles it by Python's rules."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("ran",)


def mutated(rng: random.Random, content: bytes) -> bytes:
    """A few bytes changed, cut out, doubled or put in; or the end cut off."""
    data = bytearray(content)
    for _ in range(rng.choice((1, 1, 2, 4, 16))):
        if not data:
            break
        place = rng.randrange(len(data))
        match rng.randrange(7):
            case 0:
                data[place] ^= 1 << rng.randrange(8)
            case 1:
                data[place] = rng.choice((0, 1, 0x7F, 0x80, 0xFF))
            case 2:
                del data[place : place + rng.choice((1, 2, 8, 100))]
            case 3:
                data[place:place] = data[place : place + rng.choice((1, 4, 50))]
            case 4:
                data[place : place + 4] = struct.pack(
                    "<I", rng.choice((0, 1, 2**16, 2**28, 2**31 - 1, 2**31, 2**32 - 1))
                )
            case 5:
                data[place : place + 4] = struct.pack(
                    ">I", rng.choice((0, 1, 2**16, 2**28, 2**31 - 1, 2**31, 2**32 - 1))
                )
            case 6:
                del data[place:]
    return bytes(data)


# Pictures.


def picture(rng: random.Random, kind: str | None = None) -> bytes:
    """An honest small picture of any format and mode."""
    side = rng.choice((1, 7, 16, 33))
    noise = np.random.default_rng(rng.randrange(2**32)).integers(0, 256, (side, side + 1, 3), np.uint8)
    image = Image.fromarray(noise)
    mode = rng.choice(MODES)
    image = Image.fromarray(noise[:, :, 0].astype(np.uint16) * 17) if mode == "I;16" else image.convert(mode)
    for each in (image, Image.fromarray(noise)):
        buffer = io.BytesIO()
        try:
            each.save(buffer, kind or rng.choice(FORMATS))
            return buffer.getvalue()
        except (OSError, KeyError, ValueError):
            continue
    return b"not an image"


def chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + kind + content + struct.pack(">I", zlib.crc32(kind + content))


def large_png(width: int, height: int, depth: int, kind: int, value: int = 0) -> bytes:
    """A flat PNG of any size: tens of kilobytes for tens of megapixels."""
    channels = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[kind]
    row = b"\0" + bytes([value]) * ((width * channels * depth + 7) // 8)
    packer = zlib.compressobj(1)
    body = b"".join(packer.compress(row) for _ in range(height)) + packer.flush()
    palette = chunk(b"PLTE", bytes(768)) if kind == 3 else b""
    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, kind, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + head + palette + chunk(b"IDAT", body) + chunk(b"IEND", b"")


def with_exif(rng: random.Random, content: bytes) -> bytes:
    """A PNG or JPEG with a directory of random EXIF entries."""
    entries = b"".join(
        struct.pack(
            "<HHI",
            rng.choice((0x112, 0x11A, 0x8769, 0x8825, 0x100, 0x927C)),
            rng.randrange(14),
            rng.choice((0, 1, 2, 2**16, 2**31)),
        )
        + rng.randbytes(4)
        for _ in range(4)
    )
    exif = (
        rng.choice((b"II*\0\x08\0\0\0", b"MM\0*\0\0\0\x08", b"junk"))
        + struct.pack("<H", 4)
        + entries
        + rng.randbytes(40)
    )
    if content[:4] == b"\x89PNG":
        return content[:33] + chunk(b"eXIf", exif) + content[33:]
    block = b"Exif\0\0" + exif
    return content[:2] + b"\xff\xe1" + struct.pack(">H", len(block) + 2) + block + content[2:]


def _tiff(tags: list[tuple[int, int, int, int]]) -> bytes:
    body = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + body + bytes(64)


def pictures_to_harm() -> dict[str, Callable[[], bytes]]:
    """Pictures that start programs, or take memory or time; made when they are asked for."""
    postscript = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 8 8\n%%EndComments\n(ran) (w) file\n%%EOF\n"

    def scans() -> bytes:
        buffer = io.BytesIO()
        Image.new("L", (4000, 4000)).save(buffer, "JPEG", progressive=True)
        content = buffer.getvalue()
        last = content.rindex(b"\xff\xda")
        return content[:last] + content[last:-2] * 2000 + content[-2:]

    return {
        "postscript": lambda: postscript,
        "64 megapixels of 16 bits": lambda: large_png(8000, 8000, 16, 0, 7),
        "64 megapixels of deep colour": lambda: large_png(8000, 8000, 16, 2, 7),
        "64 megapixels of colour and opacity": lambda: large_png(8000, 8000, 8, 6),
        "64 megapixels of palette": lambda: large_png(8000, 8000, 8, 3),
        "64 megapixels in a row": lambda: large_png(64_000_000, 1, 1, 0),
        "64 megapixels in a column": lambda: large_png(1, 6_400_000, 8, 0),
        "a claim of 10 gigapixels": lambda: large_png(1, 1, 8, 0).replace(
            struct.pack(">II", 1, 1), struct.pack(">II", 10**5, 10**5)
        ),
        "a progressive JPEG of 2000 scans": scans,
        "a WebP of 16383 a side": lambda: (
            b"RIFF"
            + struct.pack("<I", 30)
            + b"WEBPVP8X"
            + struct.pack("<I", 10)
            + b"\x02\0\0\0\xfe\x3f\0\xfe\x3f\0"
            + bytes(20)
        ),
        "a TIFF of one huge tile": lambda: _tiff(
            [
                (256, 4, 1, 16),
                (257, 4, 1, 16),
                (258, 3, 1, 8),
                (259, 3, 1, 5),
                (262, 3, 1, 1),
                (322, 4, 1, 2**20),
                (323, 4, 1, 2**20),
                (324, 4, 1, 8),
                (325, 4, 1, 8),
            ]
        ),
        "a TIFF of a billion values in a tag": lambda: _tiff(
            [(256, 4, 1, 16), (257, 4, 1, 16), (258, 3, 10**9, 8), (273, 4, 10**9, 8)]
        ),
        "a TIFF whose directory is itself": lambda: b"II*\0\x08\0\0\0" + struct.pack("<H", 0) + struct.pack("<I", 8),
        "a plain PPM": lambda: b"P3 2000 2000 255\n" + b"1 " * 12_000_000,
        "a GIF of a huge screen": lambda: (
            b"GIF89a\xff\xff\xff\xff\xf0\0\0" + bytes(6) + b",\0\0\0\0\xff\xff\xff\xff\0\x08\x01\0\0;"
        ),
        "a BMP of runs": lambda: (
            b"BM"
            + struct.pack("<IIIIiiHHII", 100, 0, 1078, 40, 8000, 8000, 1, 8, 1, 0)
            + bytes(1040)
            + b"\x01\x07" * 15_000_000
        ),
        "text in a PNG that swells": lambda: (
            large_png(8, 8, 8, 0)[:33]
            + b"".join(chunk(b"zTXt", b"x\0\0" + zlib.compress(bytes(2**20 - 1))) for _ in range(100))
            + large_png(8, 8, 8, 0)[33:]
        ),
        "a colour profile that swells": lambda: (
            large_png(8, 8, 8, 0)[:33]
            + chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(2**28)))
            + large_png(8, 8, 8, 0)[33:]
        ),
    }


# Pickles.


def honest_batch() -> bytes:
    """A batch as CIFAR-10's, of two classes and few pictures."""
    return pickle.dumps({"data": np.zeros((4, 3072), np.uint8), "labels": [0, 1, 0, 1], "batch_label": "x"}, 2)


def honest_meta() -> bytes:
    return pickle.dumps({"label_names": ["cat", "dog"]}, 2)


_NAMES = (
    b"cnumpy\nndarray\n",
    b"cnumpy\ndtype\n",
    b"cnumpy.core.multiarray\n_reconstruct\n",
    b"cnumpy.core.multiarray\nscalar\n",
    b"cnumpy._core.numeric\n_frombuffer\n",
    b"c_codecs\nencode\n",
    b"ccollections\nOrderedDict\n",
    b"cbuiltins\nset\n",
    b"cbuiltins\nbytearray\n",
    b"cbuiltins\neval\n",
    b"cposix\nmkdir\n",
    b"cbuiltins\ngetattr\n",
    b"ctorch\nFloatStorage\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"ctorch._utils\n_rebuild_parameter\n",
    b"ctorch\nSize\n",
    b"ctorch\ndevice\n",
    b"cPIL.Image\nImage\n",
    b"ctorch\nfloat32\n",
    b"ctorch.storage\n_load_from_bytes\n",
    b"cnumpy\nmemmap\n",
)
_VALUES = (
    b"N",
    b"\x88",
    b"K\x00",
    b"K\x01",
    b"K\x08",
    b"J\xff\xff\xff\xff",
    b"J\x00\x00\x00\x40",
    b"\x8a\x0a" + b"\xff" * 9 + b"\x7f",
    b"G\x7f\xf0\x00\x00\x00\x00\x00\x00",
    b"U\x02O8",
    b"U\x02i8",
    b"U\x02u1",
    b"U\x01<",
    b"U\x01b",
    b"U\x08punycode",
    b"U\x06latin1",
    b"X\x03\x00\x00\x00ran",
    b"X\x03\x00\x00\x00RGB",
    b"C\x08AAAAAAAA",
    b"C\x00",
    b"]",
    b"}",
    b")",
    b"(",
    b"(",
    b"\x8f",
    b"h\x00",
    b"h\x01",
    b"U\x07storage",
)
_ACTIONS = (
    b"R",
    b"b",
    b"\x81",
    b"\x85",
    b"\x86",
    b"\x87",
    b"t",
    b"l",
    b"d",
    b"a",
    b"e",
    b"s",
    b"u",
    b"2",
    b"0",
    b"q\x00",
    b"q\x01",
    b"\x94",
    b"Q",
    b"\x90",
    b"\x91",
    b"1",
    b"o",
    b"\x93",
    b"\x92",
)


def opcodes(rng: random.Random) -> bytes:
    """A random program of the opcodes that matter, mostly such that the stack holds what they take."""
    parts = [b"\x80\x02"]
    for _ in range(rng.choice((3, 8, 20, 60))):
        parts.append(rng.choice(rng.choices((_NAMES, _VALUES, _ACTIONS), (2, 4, 4))[0]))
    return b"".join(parts) + b"."


def any_opcodes(rng: random.Random) -> bytes:
    """A random program of any opcodes with random arguments."""
    parts = []
    for _ in range(rng.choice((5, 20, 100))):
        code = rng.choice(pickletools.opcodes)
        parts.append(code.code.encode("latin1") + (rng.randbytes(rng.choice((0, 1, 2, 4, 8))) if code.arg else b""))
    return b"".join(parts) + b"."


def array(dtype: str, shape: tuple[Any, ...], content: bytes, *, sub: Any = None) -> bytes:
    """The opcodes of an array of anything over any bytes."""
    kind = b"cnumpy\ndtype\n" + pickle.dumps(dtype, 2)[2:-1] + b"K\x00K\x01\x87R"
    kind += pickle.dumps((3, "|", sub, None, None, -1, -1, 0), 2)[2:-1] + b"b"
    made = b"cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85C\x01b\x87R"
    return made + b"(K\x01" + pickle.dumps(shape, 2)[2:-1] + kind + b"\x89" + pickle.dumps(content, 3)[2:-1] + b"tb"


def pickles_to_harm() -> dict[str, Callable[[], bytes]]:
    ndarray = b"cnumpy\nndarray\n"
    doubled = b"]q\x00" + b"".join(b"](h%ch%ceq%c" % (level - 1, level - 1, level) for level in range(1, 60)) + b"."
    tuples = b")q\x00" + b"".join(b"h%ch%c\x86q%c" % (level - 1, level - 1, level) for level in range(1, 60))

    def text(count: int) -> bytes:
        return b"X" + struct.pack("<I", count) + b"a" * count

    return {
        "it makes a folder": lambda: pickle.dumps(Sentinel(), 2),
        "it makes a folder, by name": lambda: b"cposix\nmkdir\nU\x03ran\x85R.",
        "it makes a folder, by instance": lambda: b"(S'ran'\niposix\nmkdir\n.",
        "it makes a folder, by attribute": lambda: (
            b"cbuiltins\ngetattr\ncposix\nsystem\nX\x08\x00\x00\x00__call__\x86R."
        ),
        "an array of objects over bytes": lambda: b"}U\x04data" + array("O8", (4,), b"A" * 32) + b"s.",
        "ndarray called with a buffer": lambda: ndarray + b"K\x04\x85U\x02O8C\x20" + b"A" * 32 + b"\x87R(K\x00K\x01u.",
        "ndarray with a place before its buffer": lambda: ndarray + b"(K\x04\x85U\x02u1C\x04AAAAJ\x00\xff\xff\xfftR.",
        "ndarray as a new object": lambda: ndarray + b"(K\x04\x85U\x02O8C\x20" + b"A" * 32 + b"t\x81.",
        "an array of 2^62 numbers of no bytes": lambda: array("u1", (2**62, 0), b"") + b".",
        "an array of 2^40 numbers": lambda: array("u1", (2**40,), b"A") + b".",
        "a memo index of 2^28": lambda: b"]r\x00\x00\x00\x10.",
        "a million memo indexes": lambda: (
            b"]" + b"".join(b"r" + struct.pack("<I", 2**31 + i) for i in range(10**6)) + b"."
        ),
        "a slow codec": lambda: b"c_codecs\nencode\n" + text(10**6) + b"U\x08punycode\x86R.",
        "a slow codec backwards": lambda: b"c_codecs\ndecode\n" + text(10**6) + b"U\x03hex\x86R.",
        "lists that double": lambda: doubled,
        "tuples that double": lambda: tuples + b".",
        "tuples that double, as a key": lambda: b"}" + tuples + b"N" + b"s.",
        "50 million dictionaries": lambda: b"}" * 50_000_000 + b".",
        "50 million marks": lambda: b"(" * 50_000_000,
        "90 million nothings": lambda: b"(" + b"N" * 90_000_000 + b"l.",
        "30 million sets": lambda: b"(" + b"\x8f" * 30_000_000 + b"l.",
        "30 million memos": lambda: b"N" + b"\x94" * 30_000_000 + b".",
        "a million deep": lambda: b"]" * 10**6 + b"a" * (10**6 - 1) + b".",
        "a dictionary of keys that collide": lambda: (
            b"}("
            + b"".join(b"\x8a\x0b" + (i * (2**61 - 1)).to_bytes(11, "little") + b"N" for i in range(200_000))
            + b"u."
        ),
        "a text of 4 GB": lambda: b"X\xff\xff\xff\xffa.",
        "bytes of 2^63": lambda: b"\x8e" + b"\xff" * 8 + b"a.",
        "a frame of 2^63": lambda: b"\x80\x04\x95" + b"\xff" * 8 + b"N.",
        "a line of 90 MB": lambda: b"V" + b"a" * 90_000_000 + b"\n.",
        "an escaped line of 60 MB": lambda: b"S'" + b"\\x00" * 15_000_000 + b"'\n.",
        "one wide letter in 60 MB": lambda: (
            b"X" + struct.pack("<I", 60_000_004) + b"a" * 60_000_000 + "\U0001f600".encode() + b"."
        ),
        "a number of ten million digits": lambda: b"L" + b"9" * 10_000_000 + b"L\n.",
        "a number of ten million bytes": lambda: b"\x8b" + struct.pack("<i", 10_000_000) + b"\x7f" * 10_000_000 + b".",
        "a picture of a terapixel": lambda: (
            b"cPIL.Image\nImage\n)\x81" + pickle.dumps([{}, "RGB", (10**6, 10**6), None, b"a"], 2)[2:-1] + b"b."
        ),
        "nothing": lambda: b"",
        "a stop": lambda: b".",
    }


# Zips.


def zip_of(files: dict[str, bytes], *, method: int = zipfile.ZIP_DEFLATED, system: int = 3) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", method) as archive:
        for name, content in files.items():
            info = zipfile.ZipInfo("x")
            info.filename, info.compress_type, info.create_system = name, method, system
            archive.writestr(info, content)
    return buffer.getvalue()


def torch_zip(pickled: bytes, storages: dict[str, bytes] | None = None, *, method: int = zipfile.ZIP_STORED) -> bytes:
    files = {"archive/data.pkl": pickled, "archive/byteorder": b"little", "archive/version": b"3\n"}
    return zip_of(files | {f"archive/data/{key}": content for key, content in (storages or {}).items()}, method=method)


def class_zip(rng: random.Random, **options: Any) -> dict[str, bytes]:
    return {f"{name}/{number}.png": picture(rng, "PNG") for name in ("cat", "dog") for number in range(2)}


def zips_to_harm(rng: random.Random) -> dict[str, Callable[[], bytes]]:
    honest = class_zip(rng)

    def lying(size: int) -> bytes:
        content = zip_of(honest | {"cat/x.png": bytes(200_000_000)})
        return content.replace(struct.pack("<I", 200_000_000), struct.pack("<I", size))

    def many(count: int) -> bytes:
        entry = b"PK\x01\x02" + bytes(24) + b"\x01\x00" + bytes(16) + b"a"
        return entry * count + b"PK\x05\x06" + bytes(4) + b"\xff" * 4 + struct.pack("<I", len(entry) * count) + bytes(6)

    def many_in_zip64(count: int) -> bytes:
        entry = b"PK\x01\x02" + bytes(24) + b"\x01\x00" + bytes(16) + b"a"
        size = len(entry) * count
        record = b"PK\x06\x06" + struct.pack("<QHHIIQQQQ", 44, 45, 45, 0, 0, count, count, size, 0)
        locator = b"PK\x06\x07" + struct.pack("<IQI", 0, size, 1)
        return entry * count + record + locator + b"PK\x05\x06" + bytes(8) + struct.pack("<I", 100) + bytes(6)

    cases = {
        "a size that lies": lambda: lying(1000),
        "a size that lies upwards": lambda: lying(2**31),
        "zeros of 200 MB": lambda: zip_of(honest | {"cat/x.png": bytes(200_000_000)}),
        "a hundred flat pictures of 190 MB": lambda: zip_of(honest | {f"cat/x{i}.bmp": _flat_bmp() for i in range(3)}),
        "two million entries": lambda: many(2_000_000),
        "two million entries of a zip64": lambda: many_in_zip64(2_000_000),
        "20,000 folders deep": lambda: zip_of(honest | {"a/" * 20_000 + "x.png": b""}),
        "a thousand names of 60,000 letters": lambda: zip_of(
            honest | {"a/" * 15 + f"{i}" * 10_000: b"" for i in range(1000)}
        ),
        "a thousand names of 31 folders": lambda: zip_of(
            honest | {"/".join([f"{i}" + "a" * 240] * 31) + "/x.png": b"" for i in range(1000)}
        ),
        "letters that are slow to order": lambda: zip_of(honest | {"cat/" + "a" + "\u0323\u0307" * 15_000: b""}),
        "a zip in a zip": lambda: zip_of({"cat/x.png": zip_of(honest), "dog/x.png": zip_of(honest)}),
        "the wrong method": lambda: zip_of(honest, method=zipfile.ZIP_LZMA),
        "bzip2 of 200 MB": lambda: zip_of(honest | {"cat/x.png": bytes(200_000_000)}, method=zipfile.ZIP_BZIP2),
        "no entries": lambda: zip_of({}),
        "an end alone": lambda: b"PK\x05\x06" + bytes(18),
        "encrypted": lambda: zip_of(honest).replace(
            b"PK\x01\x02\x14\x03\x14\x00\x00\x00", b"PK\x01\x02\x14\x03\x14\x00\x01\x00"
        ),
    }
    outside = (
        "../ran",
        "/tmp/ran",
        "..\\ran",
        "C:\\ran",
        "C:/ran",
        "a/../../ran",
        "\\\\host\\ran",
        "",
        "/",
        ".",
        "..",
        "a\0b",
        "a\nb",
    )
    for system in (0, 3):
        for name in outside:
            cases[f"a name {name!r} of the system {system}"] = lambda name=name, system=system: zip_of(
                honest | {name: b"x"}, system=system
            )
    return cases


def _flat_bmp() -> bytes:
    return (
        b"BM"
        + struct.pack("<IIIIiiHHIIIIII", 0, 0, 54, 40, 8000, 8000, 1, 24, 0, 0, 0, 0, 0, 0)
        + bytes(8000 * 8000 * 3)
    )


# Text.

_YAML = (
    "epochs",
    "seed",
    "preset",
    "reduction",
    "1",
    "~",
    "yes",
    ": ",
    ":",
    "\n",
    "\n  ",
    "- ",
    "[",
    "]",
    "{",
    "}",
    "? ",
    "&a ",
    "*a",
    "<<: ",
    "!!set ",
    "!!binary ",
    "!!python/object/apply:os.mkdir [ran]",
    "'",
    '"',
    "|",
    ">",
    "#",
    "---\n",
    "%YAML 9\n",
    "\t",
    "2001-01-01",
    "0x" + "f" * 400,
    "9" * 4500,
    ".inf",
    "1:2:3",
    "\u2028",
    "\x07",
    ",",
)
_JSON = (
    "{",
    "}",
    "[",
    "]",
    ":",
    ",",
    '"format"',
    '"advrbd-model"',
    '"version"',
    "1",
    '"class_names"',
    "null",
    "true",
    "NaN",
    "-Infinity",
    "1e999",
    "9" * 5000,
    '"\\ud800"',
    '"',
    "\\",
    "\x00",
    "[" * 1000,
)


def yaml_text(rng: random.Random) -> str:
    return "".join(rng.choices(_YAML, k=rng.choice((2, 5, 20, 200))))


def json_text(rng: random.Random) -> str:
    return "".join(rng.choices(_JSON, k=rng.choice((2, 5, 20, 200))))


def yamls_to_harm() -> dict[str, Callable[[], str]]:
    letters = "abcdefghijkl"
    pairs = list(pairwise(letters))
    return {
        "3,000 deep": lambda: "epochs: " + "[" * 3000,
        "30,000 deep": lambda: "[" * 30_000,
        "deep blocks": lambda: "\n".join(" " * depth + "- a:" for depth in range(250)),
        "aliases that double": lambda: (
            "a: &a [x]\n" + "".join(f"{new}: &{new} [*{old},*{old}]\n" for old, new in pairs) + "epochs: *l"
        ),
        "merges that double": lambda: (
            "a: &a {x: 1}\n" + "".join(f"{new}: &{new} {{<<: [*{old},*{old}]}}\n" for old, new in pairs)
        ),
        "a list as key": lambda: "? [a]\n: 1",
        "keys that are no text": lambda: "1: 2\n~: 3\nyes: 4\n",
        "90 MB": lambda: "epochs: 1\n" * 9_000_000,
        "a long number": lambda: "seed: " + "9" * 60_000,
        "a long key": lambda: "k" * 60_000 + ": 1",
        "an object": lambda: "epochs: !!python/object/apply:os.mkdir [ran]",
    }


def jsons_to_harm() -> dict[str, Callable[[], str]]:
    return {
        "an open list": lambda: "[",
        "a million deep": lambda: "[" * 10**6,
        "dictionaries, a million deep": lambda: '{"a":' * 10**6,
        "90 MB of lists": lambda: "[" + "[]," * 30_000_000 + "[]]",
        "15 MB of lists": lambda: "[" + "[]," * 5_000_000 + "[]]",
        "a long number": lambda: '{"version": ' + "9" * 10**6 + "}",
        "a million classes": lambda: model_json(class_names=[str(i) for i in range(10**6)]),
        "60,000 classes": lambda: model_json(class_names=[str(i) for i in range(60_000)]),
        "images of 4096 a side": lambda: model_json(image_size=[4096, 4096]),
        "half of a pair": lambda: model_json(class_names=["\ud800", "b"]),
    }


def model_json(**changes: Any) -> str:
    content = {
        "format": "advrbd-model",
        "version": 1,
        "name": "resnet_narrow",
        "class_names": ["cat", "dog"],
        "in_channels": 3,
        "image_size": [8, 8],
        "mean": [0.5] * 3,
        "std": [0.5] * 3,
    }
    return json.dumps(content | changes)


def safetensors_to_harm(rng: random.Random) -> bytes:
    """A header that lies about its tensors."""
    header: Any = {
        rng.choice(("0.mean", "x", "__metadata__", "")): rng.choice(
            (
                {"dtype": "F32", "shape": [2**40], "data_offsets": [0, 2**42]},
                {"dtype": "F32", "shape": [2, 2], "data_offsets": [0, 4]},
                {"dtype": "F32", "shape": [-1], "data_offsets": [4, 0]},
                {"dtype": "X9", "shape": [], "data_offsets": [0, 0]},
                {"dtype": "F32", "shape": [2**63, 2], "data_offsets": [0, 16]},
                [],
                1,
                None,
                {"a": {"b": 1}},
            )
        )
    }
    text = json.dumps(header).encode()
    length = rng.choice((len(text), 0, 2**63, 2**64 - 1, len(text) + 1, 10**8))
    return struct.pack("<Q", length) + text + rng.randbytes(16)


def write(folder: Path, files: dict[str, bytes]) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder
