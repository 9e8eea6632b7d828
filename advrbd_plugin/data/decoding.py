"""One file's bytes to one RGB picture of a given size, or a reason why not."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np

MAX_PIXELS = 64_000_000  # a picture that claims more is a mistake or an attack on our memory


class UnreadableImage(Exception):
    """Why one file cannot be used; the file is left out, the run goes on."""


@dataclass(frozen=True)
class DecodedImage:
    """Attributes:
    pixels: (H, W, 3) uint8.
    mode: Pillow's name of the file's own mode, such as ``"RGB"``, ``"L"``, ``"P"``, ``"RGBA"``, ``"I;16"``.
    size: the file's own (height, width), after its EXIF orientation.
    """

    pixels: np.ndarray
    mode: str
    size: tuple[int, int]


def read_size(content: bytes) -> tuple[int, int]:
    """(height, width) of an encoded picture, from its header alone.

    Raises:
        UnreadableImage: it is not a picture.
    """
    with _open(content) as image:
        width, height = image.size
        turned = image.getexif().get(0x0112, 1) >= 5  # the EXIF orientations that swap height and width
        return (width, height) if turned else (height, width)


def decode(content: bytes, image_size: tuple[int, int]) -> DecodedImage:
    """Decode, turn upright by EXIF, convert to RGB and resize to (height, width) ``image_size``.

    Transparency is dropped and grey is repeated, as torchvision's loader does; 16-bit pictures keep their high byte.

    Raises:
        UnreadableImage: not a picture, truncated, or of a kind that has no plain meaning in 8 bits.
    """
    from PIL import Image, ImageOps

    height, width = image_size
    with _open(content) as image:
        mode = image.mode
        try:
            image.draft("RGB", (2 * width, 2 * height))  # a large JPEG is decoded at a fraction of its size
            full_size = read_size(content)
            upright = ImageOps.exif_transpose(image)
            rgb = _to_rgb(upright)
            if rgb.size != (width, height):
                rgb = rgb.resize((width, height), Image.Resampling.BILINEAR, reducing_gap=3.0)
            return DecodedImage(np.asarray(rgb, dtype=np.uint8), mode, full_size)
        except UnreadableImage:
            raise
        except Exception as error:  # a damaged file makes Pillow's decoders raise nearly anything
            raise UnreadableImage(_reason(error)) from error


def _open(content: bytes):
    """Pillow's image of ``content``, with only the header read."""
    from PIL import Image

    if not content:
        raise UnreadableImage("the file is empty")
    try:
        image = Image.open(io.BytesIO(content))
    except Exception as error:
        raise UnreadableImage(_reason(error)) from error
    if image.width * image.height > MAX_PIXELS:
        raise UnreadableImage(f"{image.width}x{image.height} pixels is more than the limit of {MAX_PIXELS}")
    return image


def _to_rgb(image):
    """An 8-bit RGB version of a Pillow image of any mode."""
    from PIL import Image

    if image.mode.startswith("I"):  # 16 or 32 bits a pixel: Pillow's own conversion would clip instead of scale
        grey = np.asarray(image).astype(np.int64)
        if grey.size and (grey.min() < 0 or grey.max() > 65535):
            raise UnreadableImage(f"grey values in [{grey.min()}, {grey.max()}] do not fit in 16 bits")
        image = Image.fromarray((grey >> 8).astype(np.uint8))
    elif image.mode == "F":
        raise UnreadableImage("floating-point pixels have no fixed range")
    return image.convert("RGB")


def _reason(error: Exception) -> str:
    """A damaged file's fault in a few words on one line, without the memory address that Pillow prints."""
    text = " ".join(str(error).split())
    if not text or "cannot identify image" in text:
        return "not an image"
    return text[:120]
