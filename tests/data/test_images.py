"""Every form that a person's images come in, as uint8 of one size."""

from __future__ import annotations

import io
import struct
import zlib

import numpy as np
import pytest
from PIL import Image

from engine.data import images
from engine.data.images import UnreadableError, decode


def file_of(image: Image.Image, form: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, form, **options)
    return buffer.getvalue()


def near(pixels: np.ndarray, *expected: int, within: int = 2) -> bool:
    return bool(
        (np.abs(pixels.astype(int).reshape(len(expected), -1).T - expected) <= within).all()
    )


def test_rgb_is_exact():
    square = np.random.default_rng(0).integers(0, 256, (8, 8, 3), dtype=np.uint8)
    assert np.array_equal(decode(file_of(Image.fromarray(square)), 8, 3), square.transpose(2, 0, 1))


def test_grey_to_colour_and_back():
    grey = file_of(Image.new("L", (9, 9), 77))
    assert near(decode(grey, 4, 3), 77, 77, 77, within=0)
    assert near(decode(grey, 4, 1), 77, within=0)
    assert near(decode(file_of(Image.new("RGB", (9, 9), (255, 0, 0))), 4, 1), 76, within=1)


def test_the_centre_of_the_longer_side():
    wide = np.zeros((4, 12, 3), np.uint8)
    wide[:, 4:8] = 200
    assert near(decode(file_of(Image.fromarray(wide)), 4, 3), 200, 200, 200, within=0)
    tall = wide.transpose(1, 0, 2).copy()
    assert near(decode(file_of(Image.fromarray(tall)), 4, 3), 200, 200, 200, within=0)


@pytest.mark.parametrize("form", ["JPEG", "BMP", "GIF", "WEBP", "TIFF", "PPM"])
def test_the_usual_formats(form):
    pixels = decode(file_of(Image.new("RGB", (40, 30), (200, 100, 50)), form), 16, 3)
    assert pixels.shape == (3, 16, 16)
    assert pixels.dtype == np.uint8
    assert near(pixels, 200, 100, 50, within=6)


def test_a_large_jpeg_decoded_at_a_fraction_looks_the_same():
    draw = np.linspace(0, 255, 512)
    gradient = np.stack([np.tile(draw, (512, 1))] * 3, -1).astype(np.uint8)
    small = decode(file_of(Image.fromarray(gradient), "JPEG", quality=95), 32, 3)
    exact = decode(file_of(Image.fromarray(gradient)), 32, 3)
    assert np.abs(small.astype(int) - exact).max() <= 4


def test_transparent_is_laid_on_white():
    half = Image.new("RGBA", (6, 6), (0, 0, 0, 0))
    assert near(decode(file_of(half), 6, 3), 255, 255, 255, within=0)
    red = Image.new("RGBA", (6, 6), (255, 0, 0, 128))
    assert near(decode(file_of(red), 6, 3), 255, 127, 127)
    assert near(decode(file_of(Image.new("LA", (6, 6), (0, 0))), 6, 1), 255, within=0)


def test_palettes():
    palette = Image.new("RGB", (6, 6), (10, 200, 30)).convert("P", palette=Image.Palette.ADAPTIVE)
    assert near(decode(file_of(palette), 6, 3), 10, 200, 30, within=4)
    clear = decode(file_of(palette, transparency=palette.getpixel((0, 0))), 6, 3)
    assert near(clear, 255, 255, 255, within=0)
    assert near(decode(file_of(Image.new("1", (6, 6), 1)), 6, 1), 255, within=0)


@pytest.mark.parametrize("form", ["PNG", "TIFF"])
def test_sixteen_bits_are_scaled_not_clipped(form):
    deep = Image.fromarray(np.full((6, 6), 0x8080, np.uint16))
    assert near(decode(file_of(deep, form), 6, 1), 0x80, within=1)
    assert near(decode(file_of(deep, form), 6, 3), 0x80, 0x80, 0x80, within=1)


@pytest.mark.parametrize(("value", "expected"), [(0.5, 128), (200.0, 200), (32896.0, 128)])
def test_floating_point_images(value, expected):
    deep = Image.fromarray(np.full((6, 6), value, np.float32))
    assert near(decode(file_of(deep, "TIFF"), 6, 1), expected, within=1)


def test_floating_point_images_without_sense():
    for value in (np.nan, -1.0, 1e9):
        deep = Image.fromarray(np.full((6, 6), value, np.float32))
        with pytest.raises(UnreadableError, match="grey values"):
            decode(file_of(deep, "TIFF"), 6, 1)


def test_cmyk():
    cyan = Image.new("CMYK", (16, 16), (255, 0, 0, 0))
    assert near(decode(file_of(cyan, "JPEG", quality=95), 16, 3), 0, 255, 255, within=12)


def test_exif_turns_it_upright():
    """Orientation 6: the camera was turned, and the file's rows are the scene's columns."""
    scene = np.zeros((8, 8, 3), np.uint8)
    scene[:4] = 250  # bright sky
    stored = Image.fromarray(np.rot90(scene, 1).copy())
    exif = Image.Exif()
    exif[0x0112] = 6
    for form in ("JPEG", "PNG"):
        pixels = decode(
            file_of(stored, form, exif=exif, **({"quality": 95} if form == "JPEG" else {})), 8, 3
        )
        assert pixels[:, :3].min() > 200
        assert pixels[:, 5:].max() < 50


def test_an_animation_is_its_first_frame():
    frames = [Image.new("RGB", (6, 6), color) for color in ("red", "blue")]
    content = file_of(frames[0], "GIF", save_all=True, append_images=frames[1:])
    assert near(decode(content, 6, 3), 255, 0, 0, within=0)


def test_what_cannot_be_read_says_why():
    whole = file_of(
        Image.fromarray(np.random.default_rng(0).integers(0, 256, (64, 64, 3), dtype=np.uint8))
    )
    for content, why in (
        (b"", "not an image"),
        (b"hello", "not an image"),
        (whole[: len(whole) // 2], "trunc"),
        (whole[:-3000] + bytes(1000) + whole[-2000:], "."),
    ):
        with pytest.raises(UnreadableError, match=why):
            decode(content, 8, 3)


def test_a_picture_that_claims_to_be_huge(monkeypatch):
    monkeypatch.setattr(images, "MOST_PIXELS", 99)
    with pytest.raises(UnreadableError, match="10 x 10 pixels are too many"):
        decode(file_of(Image.new("L", (10, 10))), 8, 1)


def test_a_bomb():
    """A PNG header of 30,000 x 30,000 pixels, in 60 bytes."""
    header = bytearray(file_of(Image.new("L", (10, 10))))
    header[16:24] = struct.pack(">II", 30_000, 30_000)
    header[29:33] = struct.pack(">I", zlib.crc32(header[12:29]))
    with pytest.raises(UnreadableError, match="too many"):
        decode(bytes(header), 8, 1)
