"""``detector.json``: what a program needs beside a TFLite or ONNX file. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.geometry.suppression import Suppression

CARD_FILE = "detector.json"
SUFFIXES = (".tflite", ".onnx")


@dataclasses.dataclass(frozen=True)
class Card:
    """Of all files of one folder, which are of one detector.

    Attributes:
        input_size: (height, width) of the images that a file takes.
        resize: the resize policy that makes them of pictures: ``stretch`` to that size, or ``letterbox``,
            as large as fits, in the upper left corner.
        padding_color: RGB, 0..255, of what is beside a letterboxed picture.
        class_names: names of the columns of ``scores``.
        suppression: what makes detections of the file's boxes and scores.
    """

    input_size: tuple[int, int]
    resize: str
    padding_color: tuple[float, ...]
    class_names: tuple[str, ...]
    suppression: Suppression

    def write(self, folder: Path) -> None:
        """Writes it into a folder."""
        (folder / CARD_FILE).write_text(json.dumps(dataclasses.asdict(self), indent=1) + "\n")

    @classmethod
    def read(cls, folder: Path) -> Card:
        """Of a folder. Raises UserError where it has none, or a malformed one."""
        path = folder / CARD_FILE
        try:
            fields = json.loads(path.read_text())
            return cls(
                tuple(fields["input_size"]),
                fields["resize"],
                tuple(fields["padding_color"]),
                tuple(fields["class_names"]),
                Suppression(**fields["suppression"]),
            )
        except FileNotFoundError as error:
            raise UserError(
                f"{folder} has no {CARD_FILE}, which export.py writes beside its files: keep the two together"
            ) from error
        except (ValueError, KeyError, TypeError) as error:
            raise UserError(f"{path} is malformed: {error}; export the detector again") from error


def model_file(path: Path) -> Path | None:
    """The TFLite or ONNX file that a path names: the file, or the only one of a folder that has a card.

    None of what is something else. Raises UserError for a file that is not there, and a folder of several.
    """
    if path.suffix.lower() in SUFFIXES and not path.is_dir():
        if not path.is_file():
            raise UserError(f"{path}: no such file")
        return path
    if not (path / CARD_FILE).is_file():
        return None
    files = sorted(file for file in path.iterdir() if file.suffix.lower() in SUFFIXES)
    if not files:
        raise UserError(f"{path} holds no exported file: {' or '.join(SUFFIXES)}, beside its {CARD_FILE}")
    if len(files) > 1:
        held = ", ".join(file.name for file in files)
        raise UserError(f"{path} holds several exported files ({held}): name one of them")
    return files[0]
