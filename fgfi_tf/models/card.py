"""``model.json``: what a checkpoint or an exported model is of."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path

from fgfi_tf.errors import UserError

MODEL_FILE = "model.json"


@dataclasses.dataclass(frozen=True)
class ModelCard:
    """The arguments of ``registry.build``, and the data set a model was trained on ("" where not known).

    ``classes`` is what ``--classes`` made of the labels' class names: merges and what is ignored, "" if
    nothing.
    """

    model: str
    input_size: tuple[int, int]
    class_names: tuple[str, ...]
    options: dict[str, object] = dataclasses.field(default_factory=dict)
    dataset: str = ""
    classes: str = ""

    def as_dict(self) -> dict[str, object]:
        """The fields by name; ``classes`` only where there are any."""
        fields = dataclasses.asdict(self)
        return fields if self.classes else {key: fields[key] for key in fields if key != "classes"}

    def write(self, folder: Path) -> None:
        """Writes ``model.json`` into a folder, whole or not at all."""
        folder.mkdir(parents=True, exist_ok=True)
        scratch = folder / f"{MODEL_FILE}.new"
        scratch.write_text(json.dumps(self.as_dict(), indent=1) + "\n")
        scratch.replace(folder / MODEL_FILE)

    @classmethod
    def read(cls, folder: Path) -> ModelCard | None:
        """The folder's card; None where it has none. Raises UserError for a malformed one."""
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
                fields.get("classes", ""),
            )
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{path} is malformed: {error}") from error
