"""Keras's ``.h5`` weight files as arrays by layer."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np

from fgfi_tf.errors import UserError, first_line

# deflate, which h5 files may use, packs so many bytes into one at most
_MOST_PACKED = 1032


def read_h5(path: Path) -> dict[str, np.ndarray]:
    """``<layer>/kernel`` and ``<layer>/bias`` of every layer, whatever the file calls the arrays.

    Raises UserError for a file that is missing or damaged.
    """
    if not path.is_file():
        raise UserError(f"{path}: no such file")
    arrays: dict[str, np.ndarray] = {}
    most = path.stat().st_size * _MOST_PACKED
    try:
        with h5py.File(path, "r") as file:
            root = file.get("model_weights", file)

            def visit(name: str, item: h5py.Group | h5py.Dataset) -> None:
                if isinstance(item, h5py.Dataset) and item.dtype.kind in "fiu":
                    if item.nbytes > most:
                        raise ValueError(f"{name} is larger than the file")
                    kind = "bias" if item.ndim == 1 else "kernel"
                    arrays[f"{name.split('/')[0]}/{kind}"] = item[()]

            root.visititems(visit)
    except Exception as error:  # h5py raises nearly every kind for damaged files
        raise UserError(f"{path}: damaged or not an h5 file: {first_line(error)}") from error
    return arrays
