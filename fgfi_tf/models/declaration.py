"""What is known of a detector before its code, and with it TensorFlow, is imported."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fgfi_tf.options import Option

#: The word for the weights that a backbone's authors trained on ImageNet.
IMAGENET = "imagenet"


@dataclasses.dataclass(frozen=True)
class Declaration:
    """What a detector declares; a class carries it as ``declaration``.

    Attributes:
        options: arguments of the constructor that users choose, each a flag of ``train.py``.
        input_size: see ``Detector.input_size``; of the published weights, and what ``--input_size`` is where
            it is not given. (0, 0): there is no such.
        class_names: of the published weights.
        resize: name of the policy by which an image becomes the network input, and
        augmentation: of that by which training images are changed; see ``fgfi_tf.data.policies``.
        dataset: name of the data set of the published weights, and what ``--dataset`` is where it is not
            given; "": there is no such.
        recipe: values of further flags of ``train.py`` where they are not given, such as
            ``{"learning_rate": 1e-3}``, and of options of what these flags choose.
        pretrained: words that ``Detector.load_pretrained`` takes in place of a file, such as ``"imagenet"``.
        weights: which files ``Detector.load_pretrained`` reads, for ``--help``.
        teacher: name of the detector that teaches this one in the published runs; "": there is none.
    """

    options: tuple[Option, ...] = ()
    input_size: tuple[int, int] = (0, 0)
    class_names: tuple[str, ...] = ()
    resize: str = "stretch"
    augmentation: str = "kitti"
    dataset: str = ""
    recipe: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    pretrained: tuple[str, ...] = ()
    weights: str = ""
    teacher: str = ""

    def flags(self) -> dict[str, Any]:
        """Values of the flags of ``train.py`` where they are not given."""
        found = {"resize": self.resize, "augmentation": self.augmentation}
        if self.input_size != (0, 0):
            found["input_size"] = "x".join(map(str, self.input_size))
        if self.dataset:
            found["dataset"] = self.dataset
        return {**found, **self.recipe}
