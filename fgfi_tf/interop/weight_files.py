"""Files of other programs that hold weights, told by their names."""

from __future__ import annotations

from pathlib import Path

TORCH_SUFFIXES = (".pth", ".pt")
KERAS_SUFFIXES = (".h5", ".hdf5")


def is_pth(path: str | Path) -> bool:
    """Whether a path's name is that of a PyTorch file."""
    return Path(path).suffix.lower() in TORCH_SUFFIXES


def is_h5(path: str | Path) -> bool:
    """Whether a path's name is that of a Keras weight file."""
    return Path(path).suffix.lower() in KERAS_SUFFIXES


def is_weight_file(path: str | Path) -> bool:
    """Whether a path is a weight file: by its name, or any file (a checkpoint's prefix is none)."""
    path = Path(path)
    return is_pth(path) or is_h5(path) or (path.is_file() and path.suffix != ".index")
