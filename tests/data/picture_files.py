"""Makes the picture files that the tests of reading need."""

from __future__ import annotations

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from PIL import Image

#: Two rows of three grey levels as they are stored, and what a viewer shows of them for each orientation.
STORED = [[10, 20, 30], [40, 50, 60]]
SHOWN = {
    1: [[10, 20, 30], [40, 50, 60]],
    2: [[30, 20, 10], [60, 50, 40]],
    3: [[60, 50, 40], [30, 20, 10]],
    4: [[40, 50, 60], [10, 20, 30]],
    5: [[10, 40], [20, 50], [30, 60]],
    6: [[40, 10], [50, 20], [60, 30]],
    7: [[60, 30], [50, 20], [40, 10]],
    8: [[30, 60], [20, 50], [10, 40]],
}


def exif(orientation: int) -> bytes:
    """An EXIF block that holds an orientation alone."""
    block = Image.Exif()
    block[0x0112] = orientation
    return block.tobytes()


def grey_blocks(levels, size: int = 8) -> np.ndarray:
    """uint8 RGB: each level a block of ``size`` x ``size`` pixels, so that JPEG keeps it nearly."""
    return np.repeat(
        np.kron(np.array(levels, np.uint8), np.ones((size, size), np.uint8))[..., None], 3, axis=2
    )


def jpeg(pixels: np.ndarray, **settings) -> bytes:
    stream = io.BytesIO()
    Image.fromarray(pixels).save(stream, "JPEG", **{"quality": 95, **settings})
    return stream.getvalue()


def zeros_at_the_end(path: Path, share: float = 0.5) -> None:
    """The last part of a file becomes zeros, as after a copy that was cut off."""
    whole = path.read_bytes()
    kept = int(len(whole) * (1 - share))
    path.write_bytes(whole[:kept] + bytes(len(whole) - kept))


def png(width: int, height: int, bit_depth: int, colour_type: int, rows: bytes) -> bytes:
    """A PNG by hand: ``rows`` are its filtered scanlines, of however many there are."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    header = struct.pack(">IIBBBBB", width, height, bit_depth, colour_type, 0, 0, 0)
    return (
        b"\x89PNG\r\n\x1a\n"
        + chunk(b"IHDR", header)
        + chunk(b"IDAT", zlib.compress(rows))
        + chunk(b"IEND", b"")
    )


def png16(values: np.ndarray) -> bytes:
    """A 16-bit PNG of uint16 [H, W, C] with C = 1 (grey), 2 (and alpha), 3 (RGB) or 4 (RGBA)."""
    height, width, channels = values.shape
    rows = b"".join(b"\x00" + row.astype(">u2").tobytes() for row in values)
    return png(width, height, 16, {1: 0, 2: 4, 3: 2, 4: 6}[channels], rows)


def one_bit_png(side: int) -> bytes:
    """A black picture of ``side`` x ``side``; some kilobytes for 12000 x 12000."""
    return png(side, side, 1, 0, bytes((1 + side // 8) * side))
