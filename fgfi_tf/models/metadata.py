"""``model.json``: what a checkpoint or an exported model is of. Imports no TensorFlow."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from fgfi_tf.errors import UserError

MODEL_FILE = "model.json"
METADATA_FOLDER = "assets.extra"  # of a SavedModel: where the file lies


@dataclasses.dataclass(frozen=True)
class ModelMetadata:
    """The arguments of ``registry.build`` that made a model.

    Attributes:
        model: the detector's name.
        input_size, class_names: see ``Detector``.
        options: the detector's own that are not at their defaults.
        dataset: name of the data set that it was trained on, "" where not known.
        extensions: files and modules that registered the detector and the data set.
        classes: what ``--classes`` made of the labels' class names (merges, what is ignored), "" if nothing.
        resize: name of the resize policy, "" where it is the detector's own.
    """

    model: str
    input_size: tuple[int, int]
    class_names: tuple[str, ...]
    options: dict[str, object] = dataclasses.field(default_factory=dict)
    dataset: str = ""
    extensions: tuple[str, ...] = ()
    classes: str = ""
    resize: str = ""

    def as_dict(self) -> dict[str, object]:
        """The fields by name; ``extensions``, ``classes`` and ``resize`` only where there are any."""
        fields, optional = dataclasses.asdict(self), ("extensions", "classes", "resize")
        return {key: value for key, value in fields.items() if value or key not in optional}

    def write(self, folder: Path) -> None:
        """Writes ``model.json`` into a folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f"{MODEL_FILE}.new"
        scratch.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        scratch.replace(folder / MODEL_FILE)

    @classmethod
    def read(cls, folder: Path) -> ModelMetadata | None:
        """The folder's metadata; None where it has none. Raises UserError for a malformed file."""
        path = folder / MODEL_FILE
        if not path.is_file():
            return None
        try:
            fields = json.loads(path.read_text())
            return cls(
                fields["model"],
                tuple(fields["input_size"]),
                tuple(fields["class_names"]),
                dict(fields.get("options", {})),
                fields.get("dataset", ""),
                tuple(fields.get("extensions", ())),
                fields.get("classes", ""),
                fields.get("resize", ""),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is malformed: {error}") from error


def is_saved_model(folder: Path) -> bool:
    """Whether TensorFlow takes a path for a SavedModel."""
    return (folder / "saved_model.pb").is_file()
