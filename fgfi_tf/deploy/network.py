"""The graph that goes into TFLite and ONNX files: uint8 images to raw boxes and scores."""

from __future__ import annotations

import numpy as np
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.devices import FLOAT32_SCOPE, portable
from fgfi_tf.errors import UserError
from fgfi_tf.geometry.suppression import Suppression
from fgfi_tf.models.cpu_forms import int8
from fgfi_tf.models.detector import Detector

#: Scopes of what is before and behind the network. int8 leaves them in float32, their convolutions apart: a
#: coordinate up to 1248 needs more than 8 bits, and the converter gives a REVERSE_V2 in int8 two scales.
PREPARE, DECODE = "raw_prepare", "raw_decode"
EXACT = (PREPARE, DECODE, FLOAT32_SCOPE)


class RawNetwork:
    """A detector without suppression, for one size of the input.

    Attributes:
        function, concrete: uint8 [B, H, W, 3] RGB to ``boxes`` [B, N, 4] and ``scores`` [B, N, C]; see
            ``RawHead``.
        suppression: what follows outside.

    Args:
        detector: its inference form is taken.
        batch: images at a time; None: any number.

    Raises:
        UserError: the detector has no raw head, as those in two stages, or no fixed size of its input.
    """

    def __init__(self, detector: Detector, batch: int | None = 1):
        check(detector)
        self.suppression: Suppression | None = None
        self._signature = [tf.TensorSpec([batch, *detector.input_size, 3], tf.uint8, name="images")]
        with portable(plain=True):
            self.detector = detector.inference_copy()
            self.function = self._function()
            self.concrete = self.function.get_concrete_function()

    def for_int8(self) -> tf.types.experimental.ConcreteFunction:
        """``concrete`` made of the operations that int8 is fast with; the values are the same."""
        with portable(plain=True, int8=True):
            return self._function().get_concrete_function()

    def _function(self) -> tf.types.experimental.PolymorphicFunction:
        return tf.function(self._raw, input_signature=self._signature, autograph=False)

    def _raw(self, images: tf.Tensor) -> dict[str, tf.Tensor]:
        outputs = self.detector(_preprocess(self.detector, images), training=False)
        with tf.name_scope(DECODE):
            head = self.detector.raw_head(outputs)
            self.suppression = head.suppression
            return {"boxes": tf.identity(head.boxes, "boxes"), "scores": tf.identity(head.scores, "scores")}


def check(detector: Detector) -> None:
    """Raises UserError as :class:`RawNetwork` does; builds nothing."""
    name = detector.metadata.model if detector.metadata else detector.name
    if type(detector).raw_head is Detector.raw_head:
        raise UserError(
            f"{name} has no raw head (Detector.raw_head), which files without suppression need: those "
            "in two stages cannot have one, as the second looks at what a suppression inside leaves; "
            "export it as --format=savedmodel"
        )
    if policies.resize(detector.resize).by_batch:
        raise UserError(
            f"{name}: with --resize={detector.resize} pictures decide the size of the network input, "
            "which these files fix; export it as --format=savedmodel"
        )


def _preprocess(detector: Detector, images: tf.Tensor) -> tf.Tensor:
    """``Detector.preprocess``; of known ``pixels`` as one 1 x 1 convolution, fast in all runtimes."""
    with tf.name_scope(PREPARE):
        if detector.pixels is None:
            return detector.preprocess(images)
        values = tf.cast(images, tf.float32)
    order = [2, 1, 0] if detector.pixels.bgr else [0, 1, 2]
    mean, scale = np.array(detector.pixels.mean)[order], 1.0 / np.array(detector.pixels.std)[order]
    kernel = (np.eye(3)[:, order] * scale)[None, None]  # 1 x 1 x 3 x 3
    return int8.convolve(values, tf.constant(kernel, tf.float32), tf.constant(-mean * scale, tf.float32))
