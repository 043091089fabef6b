"""The one reader of pictures: upright, 8 bits, every kind, and what is wrong found before a training."""

import os
import subprocess
import sys
import warnings
from pathlib import Path

import numpy as np
import picture_files
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from picture_files import SHOWN, STORED
from PIL import Image

from fgfi_tf.data import images, transforms
from fgfi_tf.errors import UserError


def decoded(path, run_mode=lambda f: f) -> np.ndarray:
    """What training sees of a picture's record."""
    content, size = images.encoded_image(path)
    pixels = run_mode(transforms.decode_image)(tf.constant(content)).numpy()
    assert pixels.shape == (*size, 3)
    return pixels


def assert_all_read(path, expected, tolerance=0, report_tolerance=None):
    """Every way to read the file gives ``expected`` [H, W] or [H, W, 3]."""
    expected = np.asarray(expected, np.int64)
    expected = np.repeat(expected[..., None], 3, axis=2) if expected.ndim == 2 else expected
    assert images.image_size(path) == expected.shape[:2]
    pixels = images.read_image(path)
    assert pixels.dtype == np.uint8
    np.testing.assert_allclose(pixels.astype(np.int64), expected, atol=tolerance)
    np.testing.assert_array_equal(decoded(path), pixels)  # training gets the very same
    shown = images.read_for_report(path).astype(np.int64)
    np.testing.assert_allclose(
        shown, expected, atol=tolerance if report_tolerance is None else report_tolerance
    )


@pytest.mark.parametrize("orientation", SHOWN)
def test_upright_png(tmp_path, orientation):
    pixels = np.array(STORED, np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png", exif=picture_files.exif(orientation))
    assert_all_read(tmp_path / "a.png", SHOWN[orientation])


@pytest.mark.parametrize("orientation", SHOWN)
def test_upright_jpeg(tmp_path, orientation):
    content = picture_files.jpeg(picture_files.grey_blocks(STORED), exif=picture_files.exif(orientation))
    (tmp_path / "a.jpg").write_bytes(content)
    assert_all_read(tmp_path / "a.jpg", picture_files.grey_blocks(SHOWN[orientation]), tolerance=2)
    stored, _ = images.encoded_image(tmp_path / "a.jpg")
    assert (stored == content) == (orientation == 1)  # only what is turned is encoded anew


@pytest.mark.parametrize("block", [b"Exif\x00\x00nonsense", picture_files.exif(9), picture_files.exif(0)])
def test_exif_that_says_nothing_leaves_the_picture_as_it_is(tmp_path, block):
    (tmp_path / "a.jpg").write_bytes(picture_files.jpeg(picture_files.grey_blocks(STORED), exif=block))
    assert_all_read(tmp_path / "a.jpg", picture_files.grey_blocks(STORED), tolerance=2)


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_16_bits_are_divided_by_257_and_rounded(tmp_path, channels):
    # 128 / 257 is 0.498, 129 / 257 is 0.502; 300 / 257 is 1.17 but its high byte is 1, that of 65407 254.5
    values = np.array([[0, 128, 129, 257], [300, 25700, 65407, 65535]], np.uint16)
    values = np.repeat(values[..., None], channels, axis=2)
    (tmp_path / "a.png").write_bytes(picture_files.png16(values))
    assert_all_read(tmp_path / "a.png", [[0, 0, 1, 1], [1, 100, 255, 255]], report_tolerance=1)


def test_16_bits_and_turned(tmp_path):
    values = (np.array(STORED) * 257).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.png", exif=picture_files.exif(6))
    assert_all_read(tmp_path / "a.png", SHOWN[6])


def test_tiff_of_16_bits_is_read_and_a_turned_one_refused(tmp_path):
    values = (np.array(STORED) * 257).astype(np.uint16)
    Image.fromarray(values).save(tmp_path / "a.tif", tiffinfo={0x0112: 1})
    assert_all_read(tmp_path / "a.tif", STORED)
    Image.fromarray(values).save(tmp_path / "b.tif", tiffinfo={0x0112: 6})
    for read in (images.image_size, images.read_image, images.encoded_image):
        with pytest.raises(UserError, match="b.tif: a TIFF that its tags turn is not read; save it upright"):
            read(tmp_path / "b.tif")


@pytest.mark.parametrize(
    "kind, mode",
    [(kind, mode) for kind in ("png", "tif") for mode in ("1", "L", "LA", "P", "RGB", "RGBA")]
    + [(kind, mode) for kind in ("bmp", "gif") for mode in ("1", "L", "P", "RGB")],
)
def test_every_mode(tmp_path, kind, mode):
    levels = np.array([[0, 255, 0], [255, 255, 0]], np.uint8)  # what one bit can hold
    Image.fromarray(levels).convert("RGB").convert(mode).save(tmp_path / f"a.{kind}")
    assert_all_read(tmp_path / f"a.{kind}", levels)


def test_alpha_is_dropped_and_the_colours_under_it_count(tmp_path):
    pixels = np.array([[[10, 20, 30, 0], [40, 50, 60, 128]]], np.uint8)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    assert_all_read(tmp_path / "a.png", pixels[..., :3])
    palette = Image.new("P", (2, 1))
    palette.putpalette([10, 20, 30, 40, 50, 60])
    palette.putdata([0, 1])
    palette.save(tmp_path / "p.png", transparency=bytes([0, 128]))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert_all_read(tmp_path / "p.png", pixels[..., :3])


def test_cmyk(tmp_path):
    # cyan and black: red is (255 - 255) * 155 / 255 = 0, the others 255 * 155 / 255
    Image.new("CMYK", (16, 16), (255, 0, 0, 100)).save(tmp_path / "a.jpg", quality=95)
    assert_all_read(tmp_path / "a.jpg", np.full((16, 16, 3), [0, 155, 155]), tolerance=2)


def test_mpo_is_read_as_the_jpeg_that_it_is(tmp_path):
    first, second = (Image.fromarray(picture_files.grey_blocks([[level]])) for level in (50, 200))
    first.save(tmp_path / "a.jpg", format="MPO", save_all=True, append_images=[second], quality=95)
    with Image.open(tmp_path / "a.jpg") as image:
        assert image.format == "MPO"
    assert_all_read(tmp_path / "a.jpg", np.full((8, 8), 50), tolerance=1)
    assert images.encoded_image(tmp_path / "a.jpg")[0] == (tmp_path / "a.jpg").read_bytes()


@pytest.mark.parametrize("kind", ["jpg", "png"])
def test_ordinary_pictures_are_stored_as_their_own_bytes(tmp_path, kind, run_mode):
    pixels = np.random.default_rng(0).integers(0, 256, (37, 50, 3), dtype=np.uint8)
    path = tmp_path / f"a.{kind}"
    Image.fromarray(pixels).save(path)
    assert images.encoded_image(path) == (path.read_bytes(), (37, 50))
    np.testing.assert_array_equal(decoded(path, run_mode), images.read_image(path))
    with Image.open(path) as image:  # another decoder of the same standard
        np.testing.assert_array_equal(images.read_image(path), np.asarray(image))


@pytest.mark.parametrize("cut", ["end marker", "half", "header", "zeros", "few zeros"])
def test_a_jpeg_that_ends_early_is_named(tmp_path, cut):
    path = tmp_path / "cut.jpg"
    pixels = np.random.default_rng(0).integers(0, 256, (100, 120, 3), dtype=np.uint8)
    whole = picture_files.jpeg(pixels)
    path.write_bytes(whole)
    if "zeros" in cut:
        picture_files.zeros_at_the_end(path, 0.5 if cut == "zeros" else 0.02)
    else:
        path.write_bytes(whole[: {"end marker": -2, "half": len(whole) // 2, "header": 30}[cut]])
    for read in (images.read_image, images.encoded_image):
        with pytest.raises(UserError, match="cut.jpg: the image is unreadable or truncated: ") as error:
            read(path)
        assert "\n" not in str(error.value)


def test_what_follows_the_end_of_a_jpeg_does_not_matter(tmp_path):
    content = picture_files.jpeg(picture_files.grey_blocks(STORED))
    (tmp_path / "a.jpg").write_bytes(content + bytes(1000))
    assert_all_read(tmp_path / "a.jpg", picture_files.grey_blocks(STORED), tolerance=2)


def test_what_is_no_picture_is_named(tmp_path):
    for name, content in (("a.png", b""), ("b.jpg", b"text"), ("c.png", b"\x89PNG\r\n\x1a\n")):
        (tmp_path / name).write_bytes(content)
        for read in (images.read_image, images.encoded_image, images.image_size, images.read_for_report):
            with pytest.raises(UserError, match=f"{name}: the image is unreadable or truncated: "):
                read(tmp_path / name)
    for path in (tmp_path / "absent.png", tmp_path):
        with pytest.raises(UserError, match=f"{path.name}: the image is unreadable or truncated: "):
            images.image_size(path)


def test_32_bits_have_no_known_range(tmp_path):
    Image.fromarray(np.zeros((2, 2), np.float32)).save(tmp_path / "a.tif")
    with pytest.raises(UserError, match="a.tif: its pixels have 32 bits and no known range; 8 and 16 bits"):
        images.read_image(tmp_path / "a.tif")


@pytest.mark.parametrize(
    "content", [picture_files.png(100_000, 100_000, 8, 2, b""), picture_files.one_bit_png(12_000)]
)
def test_what_is_too_large_is_found_in_the_header(tmp_path, content, monkeypatch):
    path = tmp_path / "bomb.png"
    path.write_bytes(content)
    assert len(content) < 25_000
    side = images.image_size(path)[0]  # nothing is decoded for it
    limit_before = Image.MAX_IMAGE_PIXELS
    monkeypatch.setattr(Path, "read_bytes", lambda _: pytest.fail("the file was read"))
    monkeypatch.setattr(Image.Image, "load", lambda _: pytest.fail("the file was decoded"))
    for read in (images.read_image, images.encoded_image, images.read_for_report):
        with pytest.raises(UserError) as error:
            read(path)
        assert str(error.value) == (
            f"{path}: {side} x {side} pixels are more than 100 megapixels (--max_megapixels allows more)"
        )
    assert Image.MAX_IMAGE_PIXELS == limit_before


def test_the_limit_is_the_callers(tmp_path):
    Image.new("L", (200, 100)).save(tmp_path / "a.png")
    assert images.read_image(tmp_path / "a.png", 0.02).shape == (100, 200, 3)
    for limit in (0.0199, 0.0, float("nan")):
        for read in (images.read_image, images.encoded_image):
            with pytest.raises(UserError, match="a.png: 200 x 100 pixels are more than"):
                read(tmp_path / "a.png", limit)
    # Pillow's own limit, 179 megapixels, does not stand in the way of a larger one of the caller
    (tmp_path / "wide.png").write_bytes(picture_files.png(200_000, 1000, 1, 0, b""))
    with pytest.raises(UserError, match="wide.png: the image is unreadable or truncated: its PNG data"):
        images.read_image(tmp_path / "wide.png", 201)


def test_sizes_need_no_tensorflow(tmp_path):
    Image.new("L", (20, 10)).save(tmp_path / "a.png", exif=picture_files.exif(6))
    program = (
        "import sys; from fgfi_tf.data import images; "
        "print(images.image_size(sys.argv[1]), images.read_for_report(sys.argv[1]).shape, "
        "'tensorflow' in sys.modules)"
    )
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    found = subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "a.png")],
        env=environment,
        capture_output=True,
        text=True,
        check=True,
    )
    assert found.stdout.strip() == "(20, 10) (20, 10, 3) False"


def test_pictures_are_found_by_stem(tmp_path):
    names = ("b.JPG", "a.jpg", "a.PNG", "c.jpeg", "._a.png", ".d.jpg", "e.txt", "f", "g.Mpo", "c.x.png")
    for name in names:
        (tmp_path / name).write_bytes(b"")
    found = {stem: path.name for stem, path in images.images_by_stem(tmp_path).items()}
    assert found == {"a": "a.PNG", "b": "b.JPG", "c": "c.jpeg", "c.x": "c.x.png", "g": "g.Mpo"}
    assert list(found) == sorted(found)
    assert images.images_by_stem(tmp_path, ".jpg")["a"].name == "a.jpg"
    assert images.images_by_stem(tmp_path / "absent") == {}


_SEEDS = [
    picture_files.jpeg(picture_files.grey_blocks(STORED), exif=picture_files.exif(6)),
    picture_files.png16((np.array(STORED)[..., None] * 257).astype(np.uint16)),
]


@settings(max_examples=int(os.environ.get("FGFI_LONG_TESTS", "0")) * 3000 or 300, deadline=None)
@given(
    st.sampled_from(_SEEDS),
    st.lists(st.tuples(st.integers(0, 2000), st.integers(0, 255)), max_size=6),
    st.integers(0, 2000),
)
def test_damaged_files_are_read_or_named(tmp_path_factory, seed, changes, length):
    content = bytearray(seed)
    for position, value in changes:
        content[position % len(content)] = value
    path = tmp_path_factory.getbasetemp() / "damaged.img"
    path.write_bytes(bytes(content[: max(length % (2 * len(content)), 8)]))
    try:
        pixels = images.read_image(path, 1.0)
    except UserError as error:
        assert "damaged.img" in str(error) and "\n" not in str(error)
    else:
        assert pixels.dtype == np.uint8 and pixels.shape == (*images.image_size(path), 3)
        np.testing.assert_array_equal(decoded(path), pixels)
