"""Picture files: the one reader of training, evaluation, ``predict.py`` and the reports.

Every picture is read as viewers show it:

* upright: turned as its EXIF orientation says (in PNG the ``eXIf`` chunk, where it precedes the pixels).
  Labels are taken to be of the upright picture, and every size here is that of the upright picture;
* uint8 RGB: 16-bit values divided by 257 and rounded (65535 is 255), palettes and grey spread to RGB, CMYK
  converted, alpha dropped: the colours under it count;
* the first picture of a file of several (MPO of phones and drones, APNG, GIF, TIFF).

JPEG and PNG are decoded by TensorFlow, as in the graph of training, the other formats by Pillow. What is too
large is found in the header, before anything is decoded.
"""

from __future__ import annotations

import contextlib
import io
import os
import warnings
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from fgfi_tf.errors import UserError, first_line

#: What picture files are called, in lower case.
IMAGE_SUFFIXES = (".png", ".jpg", ".jpeg", ".mpo", ".bmp", ".webp", ".tif", ".tiff")
#: Pictures of more are refused unless a flag allows them; 100 megapixels take 1.2 GB in float32.
MAX_MEGAPIXELS = 100.0

_FORMATS = ("JPEG", "PNG", "BMP", "WEBP", "TIFF", "GIF")
_GRAPH_FORMATS = ("JPEG", "MPO", "PNG")  # an MPO is opened as JPEG: it is one, with further JPEGs behind it
_ORIENTATION = 0x0112  # EXIF tag; Exif 2.3, section 4.6.4
_TURNS = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
_SWAPS_SIDES = (5, 6, 7, 8)


def is_image_name(path: Path) -> bool:
    """Whether a file is called like a picture; hidden ones (``._a.png`` of macOS) are none."""
    return path.suffix.lower() in IMAGE_SUFFIXES and not path.name.startswith(".")


def images_by_stem(folder: str | os.PathLike[str], first: str = ".png") -> dict[str, Path]:
    """Stem -> picture file of a folder, sorted, suffixes in any case; nothing where there is no folder.

    Of several files of one stem the one with the suffix ``first`` is taken, else the first in the order of
    ``IMAGE_SUFFIXES``.
    """
    folder = Path(folder)
    if not folder.is_dir():
        return {}
    order = (first, *IMAGE_SUFFIXES)
    files = [path for path in folder.iterdir() if is_image_name(path)]
    worst_first = sorted(files, key=lambda path: (order.index(path.suffix.lower()), path), reverse=True)
    return dict(sorted({path.stem: path for path in worst_first}.items()))


def image_size(path: str | os.PathLike[str]) -> tuple[int, int]:
    """(H, W) of the upright picture, from the header: nothing is decoded. Raises UserError for none."""
    with _opened(path) as image:
        width, height = image.size
        return (width, height) if _orientation(image) in _SWAPS_SIDES else (height, width)


def read_image(path: str | os.PathLike[str], max_megapixels: float = MAX_MEGAPIXELS) -> np.ndarray:
    """The upright picture, uint8 RGB [H, W, 3]; the same pixels that training gets of :func:`encoded_image`.

    Raises UserError: the file is absent, no picture, damaged, cut short, or of more than ``max_megapixels``.
    """
    with _opened(path, max_megapixels) as image:
        orientation = _orientation(image)
        return _turned(_pixels(image, path, Path(path).read_bytes()), orientation)


def encoded_image(
    path: str | os.PathLike[str], max_megapixels: float = MAX_MEGAPIXELS
) -> tuple[bytes, tuple[int, int]]:
    """What a record holds of a picture: bytes that ``transforms.decode_image`` reads right, and (H, W).

    The file's own bytes where that is so. A picture that is turned by its EXIF, has 16 bits or another format
    than JPEG and PNG is encoded anew, without loss, as PNG. All of it is decoded once, as the graph will:
    what comes back cannot stop a training. Raises UserError as :func:`read_image`.
    """
    with _opened(path, max_megapixels) as image:
        orientation, content = _orientation(image), Path(path).read_bytes()
        stored = image.format in _GRAPH_FORMATS and orientation not in _TURNS and not _has_16_bits(image)
        pixels = _turned(_pixels(image, path, content), orientation)
    if not stored:
        buffer = io.BytesIO()
        Image.fromarray(pixels).save(buffer, "PNG", compress_level=1)  # a third of the time, a tenth larger
        content = buffer.getvalue()
    return content, pixels.shape[:2]


def read_for_report(path: str | os.PathLike[str]) -> np.ndarray:
    """As :func:`read_image`, decoded by Pillow alone: reports of text files start no TensorFlow.

    Values may differ by one level or two, and what ends early is shown as far as it goes.
    """
    with _opened(path, MAX_MEGAPIXELS) as image:
        orientation = _orientation(image)
        return _turned(_pillow_pixels(image, path), orientation)


@contextlib.contextmanager
def _opened(path: str | os.PathLike[str], max_megapixels: float | None = None) -> Iterator[Image.Image]:
    """The opened file, not decoded yet. Whatever is wrong with it becomes a UserError that names it."""
    pillows_limit, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None  # ours is a flag
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # Pillow's are about metadata and the size
            with Image.open(path, formats=_FORMATS) as image:
                if max_megapixels is not None and not image.width * image.height <= max_megapixels * 1e6:
                    raise UserError(
                        f"{path}: {image.width} x {image.height} pixels are more than {max_megapixels:g} "
                        "megapixels (--max_megapixels allows more)"
                    )
                # versions of Pillow read them wrong
                if image.format == "TIFF" and _orientation(image) in _TURNS:
                    raise UserError(f"{path}: a TIFF that its tags turn is not read; save it upright")
                yield image
    except UserError:
        raise
    except Exception as error:  # Pillow raises nearly every kind for damaged files
        raise UserError(f"{path}: the image is unreadable or truncated: {first_line(error)}") from error
    finally:
        Image.MAX_IMAGE_PIXELS = pillows_limit


def _orientation(image: Image.Image) -> int:
    """1 to 8; 1, upright, where the file does not say or says nonsense, as viewers take it."""
    if image.format == "PNG" and "exif" not in image.info:
        return 1  # getexif would decode the picture to look behind it
    try:
        return int(image.getexif().get(_ORIENTATION, 1))
    except Exception:  # EXIF is a format of its own that breaks in as many ways
        return 1


def _has_16_bits(image: Image.Image) -> bool:
    """Of a PNG; its mode does not tell for colour, how its rows are unpacked does: ``RGB;16B``."""
    return image.format == "PNG" and any("16" in str(tile[3]) for tile in image.tile)


def _pixels(image: Image.Image, path: str | os.PathLike[str], content: bytes) -> np.ndarray:
    """The pixels [H, W, 3] of a file as it is stored, a JPEG or PNG decoded as in the graph."""
    if image.format not in _GRAPH_FORMATS:
        return _pillow_pixels(image, path)
    import tensorflow as tf  # sizes, and pictures of reports, do without

    from fgfi_tf.data import transforms

    try:
        if not _has_16_bits(image):
            return transforms.decode_image(content).numpy()
        deep = tf.io.decode_png(content, channels=3, dtype=tf.uint16).numpy()
    except tf.errors.OpError as error:
        kind = "PNG" if image.format == "PNG" else "JPEG"
        raise UserError(
            f"{path}: the image is unreadable or truncated: its {kind} data is damaged or ends early"
        ) from error
    return _to_8_bits(deep)


def _pillow_pixels(image: Image.Image, path: str | os.PathLike[str]) -> np.ndarray:
    if image.mode.startswith("I;16") or (image.mode == "I" and _has_16_bits(image)):
        return np.repeat(_to_8_bits(np.asarray(image))[:, :, None], 3, axis=2)
    if image.mode in ("I", "F"):
        raise UserError(f"{path}: its pixels have 32 bits and no known range; 8 and 16 bits are read")
    image.info.pop("transparency", None)  # dropped like every alpha, without Pillow's warning
    return np.asarray(image.convert("RGB"))


def _to_8_bits(values: np.ndarray) -> np.ndarray:
    return ((values.astype(np.uint32) + 128) // 257).astype(np.uint8)  # value / 257, rounded


def _turned(pixels: np.ndarray, orientation: int) -> np.ndarray:
    turn = _TURNS.get(orientation)
    return pixels if turn is None else np.asarray(Image.fromarray(pixels).transpose(turn))
