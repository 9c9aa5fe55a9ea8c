"""Decoding a person's image files, whatever their form, into uint8 arrays of one size."""

from __future__ import annotations

import io
from typing import TYPE_CHECKING

import numpy as np
from PIL import Image, ImageOps, UnidentifiedImageError

if TYPE_CHECKING:
    from numpy.typing import NDArray

ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".gif", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pnm")
)

MOST_PIXELS = 80_000_000
"""Larger images are refused: a few bytes can claim to be a picture that fills the memory."""


class UnreadableError(Exception):
    """An image file that is left out. Its text says why, in a few words."""


def decode(content: bytes, size: int | tuple[int, int], channels: int) -> NDArray[np.uint8]:
    """An image file as uint8, (channels, height, width); `channels` is 1 (grey) or 3 (RGB).

    `size` is (height, width), or one number for both. Turned upright (EXIF), what is transparent
    laid on white, 16 bits reduced to 8; resized (bilinear, antialiased) until it just covers `size`
    and the centre cut out. Of an animation it is the first frame. Raises UnreadableError.
    """
    height, width = (size, size) if isinstance(size, int) else size
    try:
        with Image.open(io.BytesIO(content)) as image:
            if image.width * image.height > MOST_PIXELS:
                raise UnreadableError(f"{image.width} x {image.height} pixels are too many")
            # JPEG can be decoded at a fraction of its size, here at no less than twice ours.
            image.draft(None, (2 * width, 2 * height))
            mode = "L" if channels == 1 else "RGB"
            upright = ImageOps.exif_transpose(image)
            plain = _eight_bits(upright)
            if plain.has_transparency_data:
                clear = plain.convert("RGBA")
                plain = Image.alpha_composite(Image.new("RGBA", clear.size, "white"), clear)
            fitted = ImageOps.fit(plain.convert(mode), (width, height), Image.Resampling.BILINEAR)
    except UnreadableError:
        raise
    except UnidentifiedImageError:
        raise UnreadableError("not an image") from None
    except Image.DecompressionBombError:
        raise UnreadableError("too many pixels") from None
    except Exception as error:  # decoders of damaged files raise anything
        raise UnreadableError(str(error) or type(error).__name__) from None
    pixels = np.asarray(fitted, dtype=np.uint8)
    return pixels[None] if channels == 1 else np.ascontiguousarray(pixels.transpose(2, 0, 1))


def _eight_bits(image: Image.Image) -> Image.Image:
    """Pillow clips deeper grey images when it converts them; scale them instead."""
    if not image.mode.startswith(("I", "F")):
        return image
    values = np.asarray(image, dtype=np.float64)
    if not np.isfinite(values).all() or values.min() < 0:
        raise UnreadableError("grey values below zero or not finite")
    if values.max() > 65535:
        raise UnreadableError("grey values beyond 16 bits")
    whole = 65535
    if image.mode == "F":  # says nothing of its range
        whole = next(top for top in (1, 255, 65535) if values.max() <= top)
    return Image.fromarray(np.rint(values * (255 / whole)).astype(np.uint8))
