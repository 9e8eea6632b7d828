"""One file's bytes to one RGB picture of a given size, or a reason why not."""

from __future__ import annotations

import contextlib
import io
import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from advrbd_plugin import limits
from advrbd_plugin.data.fitting import DEFAULT_FIT, filled_up, placement
from advrbd_plugin.data.quiet import quiet_pillow
from advrbd_plugin.errors import is_out_of_memory, out_of_memory

if TYPE_CHECKING:
    from PIL import Image, ImageFile

MAX_PIXELS = limits.MAX_PIXELS
# Raster formats alone. Pillow knows others whose readers start another program (EPS: Ghostscript) or that nobody
# keeps data sets in, and each would be one more way to attack whoever reads a stranger's file.
FORMATS = ("PNG", "JPEG", "BMP", "DIB", "GIF", "WEBP", "TIFF", "PPM", "JPEG2000")
EXTENSIONS = (
    ".png",
    ".jpg",
    ".jpeg",
    ".jpe",
    ".jfif",
    ".mpo",
    ".bmp",
    ".dib",
    ".gif",
    ".webp",
    ".tif",
    ".tiff",
    ".ppm",
    ".pgm",
    ".pbm",
    ".pnm",
    ".jp2",
    ".j2k",
)
"""What files of these formats are mostly called. Files of other names are tried as well."""
_STARTS: tuple[bytes, ...] = (
    b"\x89PNG",
    b"\xff\xd8",
    b"BM",
    b"GIF8",
    b"RIFF",
    b"II",
    b"MM",
    b"\xff\x4f\xff\x51",
    b"\0\0\0\x0cjP",
)
_STARTS += tuple(size.to_bytes(4, "little") for size in (12, 40, 52, 56, 64, 108, 124))  # a bitmap without file header
_ORIENTATION = 0x0112
_PNG_EXIF = (b"eXIf", b"Raw profile type exif", b"XML:com.adobe.xmp")
_USUAL_BITS = (1, 2, 4, 8, 10, 12, 14, 16, 20, 24, 32, 64)
_BAND = 1_000_000  # pixels of a deep picture that are worked on at a time
# Colour of 16 bits: Pillow keeps the high bytes under the raw mode that stands here first, the low bytes under the
# second. The raw modes with N are of this computer's byte order, which is little-endian wherever PyTorch runs.
_LOW_BYTES = {
    "RGB;16B": ("RGB", "RGB;16L"),
    "RGB;16L": ("RGB", "RGB;16B"),
    "RGB;16N": ("RGB", "RGB;16B"),
    "RGBA;16B": ("RGBA", "RGBA;16L"),
    "RGBA;16L": ("RGBA", "RGBA;16B"),
    "RGBA;16N": ("RGBA", "RGBA;16B"),
    "RGBX;16B": ("RGB", "RGBX;16L"),
    "RGBX;16L": ("RGB", "RGBX;16B"),
    "RGBX;16N": ("RGB", "RGBX;16B"),
    "LA;16B": ("RGBA", "RGBA"),  # four bytes a pixel: grey's high and low one, then opacity's
}


class UnreadableImage(Exception):
    """Why one file cannot be used; the file is left out, the run goes on."""


@dataclass(frozen=True)
class DecodedImage:
    """Attributes:
    pixels: (H, W, 3) uint8; or, where ``depth`` is set, (H, W, 1 or 3) float32 in the file's own scale.
    mode: Pillow's name of the file's own mode, such as ``"RGB"``, ``"L"``, ``"P"``, ``"RGBA"``, ``"I;16"``.
    size: the file's own (height, width), after its EXIF orientation.
    depth: the lowest and the highest value in the file, if it has 16 or 32 bits for each: the whole set's range, not
        this picture's, must say how they become 8 (:func:`to_8_bits`).
    """

    pixels: np.ndarray
    mode: str
    size: tuple[int, int]
    depth: tuple[int, int] | None = None


def may_be_picture(head: bytes) -> bool:
    """Whether a file that begins so may be of one of the :data:`FORMATS`."""
    return head.startswith(_STARTS) or (head[:1] == b"P" and head[1:2].isalnum())


def read_size(content: bytes) -> tuple[int, int]:
    """(height, width) of an encoded picture, from its header alone.

    Raises:
        UnreadableImage: it is not a picture.
        OutOfMemory: the computer's memory is used up.
    """
    with open_picture(content) as image:
        width, height = image.size
        return (width, height) if _orientation(image, content) >= 5 else (height, width)


def memory_needed(content: bytes) -> int:
    """Bytes that :func:`decode` takes at most, from the header alone; raises as :func:`read_size` does."""
    with open_picture(content) as image:
        deep = image.mode.startswith("I") or _deep_colour(image) is not None
        return (16 if deep else 12) * image.width * image.height + 2**20


def decode(content: bytes, image_size: tuple[int, int], fit: str = DEFAULT_FIT) -> DecodedImage:
    """Decode, turn upright by EXIF, convert to RGB and bring to (height, width) ``image_size``.

    ``fit`` is one of :data:`advrbd_plugin.data.fitting.FITS`.

    Transparency is dropped and grey is repeated, as torchvision's loader does. Pictures of 16 and 32 bits keep their
    values (see :class:`DecodedImage`). EXIF that is damaged is passed over: the picture is read as it lies.

    Raises:
        UnreadableImage: not a picture, truncated, or of a kind that has no plain meaning in 8 bits.
        OutOfMemory: the computer's memory is used up.
    """
    from PIL import Image

    height, width = image_size
    with _faults_explained(), open_picture(content) as image:
        mode, full_size = image.mode, read_size(content)
        deep = _deep_colour(image)
        image.draft("RGB", (2 * width, 2 * height))  # a large JPEG is decoded at a fraction of its size
        image.load()  # before its EXIF is looked at: Pillow tells of damage to the pixels once only
        orientation = _orientation(image, content)
        if deep is not None or image.mode.startswith("I"):
            pixels, depth = _decode_deep(image, _low_bytes(content, deep), orientation, image_size, fit)
            return DecodedImage(pixels, mode, full_size, depth)
        if image.mode == "F":
            raise UnreadableImage("floating-point pixels have no fixed range")
        rgb = _upright(image, orientation).convert("RGB")
        if rgb.size != (width, height):
            place = placement((rgb.height, rgb.width), image_size, fit)
            size = (place.size[1], place.size[0])
            rgb = rgb.resize(size, Image.Resampling.BILINEAR, box=place.box, reducing_gap=3.0)
        return DecodedImage(filled_up(np.asarray(rgb, dtype=np.uint8), image_size), mode, full_size)


def to_8_bits(pixels: np.ndarray, low: int, high: int) -> np.ndarray:
    """(H, W, 3) uint8 of a deep picture's (H, W, 1 or 3) float32, in a set whose values lie in [low, high].

    The range is widened to a usual number of bits, from 0 where no value is negative, as scanners and cameras count:
    values up to 255 stay as they are, and one picture more or less seldom changes the others.
    """
    bottom, top = bit_range(low, high)
    scaled = np.clip((pixels - bottom) * (255.0 / (top - bottom)) + 0.5, 0, 255.5).astype(np.uint8)
    return np.broadcast_to(scaled, (*scaled.shape[:2], 3))


def bit_range(low: int, high: int) -> tuple[int, int]:
    """The range of a usual number of bits that holds all values of [low, high]: (0, 4095) for 12 bits."""
    bottom = min(low, 0)
    bits = int(high - bottom).bit_length()
    return bottom, bottom + 2 ** next(usual for usual in _USUAL_BITS if usual >= bits) - 1


def open_picture(content: bytes) -> ImageFile.ImageFile:
    """Pillow's image of ``content``, with only the header read, of one of the :data:`FORMATS`.

    Raises:
        UnreadableImage: it is no picture of these formats, or larger than the limits.
        OutOfMemory: the computer's memory is used up.
    """
    from PIL import Image

    if not content:
        raise UnreadableImage("the file is empty")
    quiet_pillow()
    with _faults_explained():
        _check_before_opening(content)
        image = Image.open(io.BytesIO(content), formats=FORMATS)
        _check_after_opening(content, image)
        return image


@contextlib.contextmanager
def _faults_explained() -> Iterator[None]:
    """Whatever Pillow raises as the one or the other error that callers know."""
    try:
        yield
    except UnreadableImage:
        raise
    except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
        if is_out_of_memory(error):
            raise out_of_memory("reading pictures") from error
        raise UnreadableImage(_reason(error)) from error


def _check_before_opening(content: bytes) -> None:
    """Of WebP, Pillow asks for the whole picture's memory when it opens the file."""
    if content[:4] != b"RIFF" or content[8:12] != b"WEBP" or len(content) < 30:
        return
    if content[12:16] == b"VP8X":
        width, height = (1 + int.from_bytes(content[place : place + 3], "little") for place in (24, 27))
    elif content[12:16] == b"VP8L":
        packed = int.from_bytes(content[21:25], "little")
        width, height = 1 + (packed & 0x3FFF), 1 + (packed >> 14 & 0x3FFF)
    else:
        width, height = (each & 0x3FFF for each in struct.unpack_from("<2H", content, 26))
    _check_pixels(width, height, MAX_PIXELS)


def _check_after_opening(content: bytes, image: ImageFile.ImageFile) -> None:
    width, height = image.size
    _check_pixels(width, height, limits.MAX_SLOW_PIXELS if image.format == "JPEG2000" else MAX_PIXELS)
    if image.format in ("JPEG", "MPO"):
        scans = content.count(b"\xff\xda")
        if scans > 20 and scans * width * height > limits.MAX_SCAN_PIXELS:
            raise UnreadableImage(f"{scans} scans of {width}x{height} pixels would take too long")
    elif image.format == "TIFF":
        bits = image.tag_v2.get(258, 8)  # type: ignore[attr-defined]
        whole = image.mode in ("F", "1") or image.mode.startswith("I") or _deep_colour(image) is not None
        if not whole and max(bits if isinstance(bits, tuple) else (bits,)) > 8:
            raise UnreadableImage("more than 8 bits a value, in planes or inks, cannot be read whole")
        for tag in (322, 323):  # a tile may be larger than the picture
            side = image.tag_v2.get(tag, 1)  # type: ignore[attr-defined]
            if isinstance(side, int) and side > 16384 and side > 2 * max(width, height):
                raise UnreadableImage(f"tiles of {side} pixels a side")
    elif len(content) > limits.MAX_SLOW_BYTES and any(tile[0] in ("ppm_plain", "bmp_rle") for tile in image.tile):
        raise UnreadableImage(f"{len(content)} bytes of such a file would take too long")


def _check_pixels(width: int, height: int, most: int) -> None:
    if width * height > most:
        raise UnreadableImage(f"{width}x{height} pixels is more than the limit of {most}")
    if width < 1 or height < 1:
        raise UnreadableImage("it has no pixels")


def _orientation(image: Image.Image, content: bytes) -> int:
    """EXIF's, from 1 to 8; 1 (as it lies) where there is none that can be understood."""
    if image.format == "PNG" and not any(mark in content for mark in _PNG_EXIF):
        return 1  # Pillow would decode the whole picture to see whether one comes at the end
    try:
        orientation = image.getexif().get(_ORIENTATION, 1)
    except Exception as error:  # damaged EXIF makes Pillow raise nearly anything
        if is_out_of_memory(error):
            raise
        return 1
    return orientation if isinstance(orientation, int) and 1 <= orientation <= 8 else 1


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    """The image as it is meant to be seen; its other EXIF, which may be damaged, is not looked at."""
    from PIL import Image

    turns = Image.Transpose
    turn = {
        2: turns.FLIP_LEFT_RIGHT,
        3: turns.ROTATE_180,
        4: turns.FLIP_TOP_BOTTOM,
        5: turns.TRANSPOSE,
        6: turns.ROTATE_270,
        7: turns.TRANSVERSE,
        8: turns.ROTATE_90,
    }.get(orientation)
    return image if turn is None else image.transpose(turn)


def _deep_colour(image: ImageFile.ImageFile) -> str | None:
    """The raw mode of a picture, not decoded yet, that has colour (or grey and opacity) of 16 bits for each value."""
    if image.format not in ("PNG", "TIFF") or not image.tile:
        return None
    raw_modes = {_raw_mode(tile) for tile in image.tile}
    return next(iter(raw_modes)) if len(raw_modes) == 1 and raw_modes <= _LOW_BYTES.keys() else None


def _low_bytes(content: bytes, raw_mode: str | None) -> ImageFile.ImageFile | None:
    """The same picture with the low bytes of its values in place of the high ones; ``None`` without a raw mode."""
    if raw_mode is None:
        return None
    mode, other = _LOW_BYTES[raw_mode]
    second = open_picture(content)
    second._mode = mode
    second.tile = [tile._replace(args=_with_raw_mode(tile, other)) for tile in second.tile]
    second.load()
    second.info["grey"] = raw_mode == "LA;16B"
    return second


def _raw_mode(tile: Any) -> str | None:
    first = tile.args if isinstance(tile.args, str) else tile.args[0] if tile.args else None
    return first if isinstance(first, str) else None


def _with_raw_mode(tile: Any, raw_mode: str) -> Any:
    return raw_mode if isinstance(tile.args, str) else (raw_mode, *tile.args[1:])


def _decode_deep(
    image: Image.Image, low_bytes: Image.Image | None, orientation: int, image_size: tuple[int, int], fit: str
) -> tuple[np.ndarray, tuple[int, int]]:
    """A picture of 16 or 32 bits a value at another size, in its own scale, and its lowest and highest value.

    It is reduced by whole numbers band by band before it is resized, so that it is never whole in memory as numbers
    of 32 bits; Pillow does the same with pictures of 8 bits.
    """
    from PIL import Image

    grey = low_bytes is not None and low_bytes.info["grey"]
    upright = _upright(image, orientation)
    lower = None if low_bytes is None else _upright(low_bytes, orientation)
    place = placement((upright.height, upright.width), image_size, fit)
    left, top_edge, right, bottom = place.box
    down = max(1, int((bottom - top_edge) / place.size[0] / 3))
    across = max(1, int((right - left) / place.size[1] / 3))
    bands, lowest, highest = [], [], []
    rows = max(1, _BAND // upright.width // down) * down
    for top in range(0, upright.height, rows):
        values = _deep_band(upright, lower, (0, top, upright.width, min(top + rows, upright.height)), grey)
        lowest.append(int(values.min()))
        highest.append(int(values.max()))
        bands.append(_reduced(values, across, down))
    reduced = np.concatenate(bands)
    channels = [Image.fromarray(np.ascontiguousarray(channel)) for channel in np.moveaxis(reduced, 2, 0)]
    if upright.size != (image_size[1], image_size[0]):
        box = (left / across, top_edge / down, right / across, bottom / down)  # the last block may be a smaller one
        size = (place.size[1], place.size[0])
        channels = [each.resize(size, Image.Resampling.BILINEAR, box=box) for each in channels]
    pixels = np.stack([np.asarray(each, dtype=np.float32) for each in channels], axis=2)
    return filled_up(pixels, image_size), (min(lowest), max(highest))


def _deep_band(
    image: Image.Image, low_bytes: Image.Image | None, box: tuple[int, int, int, int], grey: bool
) -> np.ndarray:
    """(rows, W, 1 or 3) of whole numbers."""
    if low_bytes is None:
        return np.asarray(image.crop(box))[:, :, None]
    high, low = (np.asarray(each.crop(box)).astype(np.int32) for each in (image, low_bytes))
    if grey:
        return low[:, :, :1] * 256 + low[:, :, 1:2]
    return high[:, :, :3] * 256 + low[:, :, :3]


def _reduced(values: np.ndarray, across: int, down: int) -> np.ndarray:
    """Means of blocks of ``down`` x ``across``; the last ones of what is left."""
    values = values.astype(np.float32)
    if across == down == 1:
        return values
    starts = [np.arange(0, side, step) for side, step in zip(values.shape[:2], (down, across), strict=True)]
    counts = [np.diff([*first, side]) for first, side in zip(starts, values.shape[:2], strict=True)]
    sums = np.add.reduceat(np.add.reduceat(values, starts[0], axis=0), starts[1], axis=1)
    return (sums / (counts[0][:, None, None] * counts[1][None, :, None])).astype(np.float32)


def _reason(error: Exception) -> str:
    """A damaged file's fault in a few words on one line, without the memory address that Pillow prints."""
    text = re.sub(r" at 0x[0-9a-f]+", "", " ".join(str(error)[:1000].split()))
    if not text or "cannot identify image" in text:
        return "not an image"
    return text[:120]
