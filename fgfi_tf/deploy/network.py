"""The graph that goes into TFLite and ONNX files: uint8 images to raw boxes and scores."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.devices import portable
from fgfi_tf.errors import UserError
from fgfi_tf.geometry.suppression import Suppression
from fgfi_tf.models.detector import Detector

#: Scope of what follows the network. int8 leaves it in float32: 1248 pixels need more than 8 bits.
DECODE = "raw_decode"


class RawNetwork(tf.Module):
    """A detector without suppression, for one size of the input.

    Attributes:
        function: uint8 [B, H, W, 3] RGB to ``boxes`` [B, N, 4] and ``scores`` [B, N, C]; see ``RawHead``.
        suppression: what follows outside.

    Args:
        detector: its inference form is taken.
        batch: images at a time; None: any number.

    Raises:
        UserError: the detector has no raw head, or no fixed size of its input.
    """

    def __init__(self, detector: Detector, batch: int | None = 1):
        super().__init__(name="raw_network")
        name = detector.metadata.model if detector.metadata else detector.name
        if policies.resize(detector.resize).by_batch:
            raise UserError(
                f"{name}: with --resize={detector.resize} pictures decide the size of the network input, "
                "which these files fix; export it as --format=savedmodel"
            )
        height, width = detector.input_size
        self.suppression: Suppression | None = None
        with portable():
            self.detector = detector.inference_copy()

            def raw(images: tf.Tensor) -> dict[str, tf.Tensor]:
                outputs = self.detector(self.detector.preprocess(images), training=False)
                with tf.name_scope(DECODE):
                    head = self.detector.raw_head(outputs)
                    if head is None:
                        raise UserError(
                            f"{name} has no raw head (Detector.raw_head), which files without suppression "
                            "need; export it as --format=savedmodel"
                        )
                    self.suppression = head.suppression
                    return {
                        "boxes": tf.identity(head.boxes, "boxes"),
                        "scores": tf.identity(head.scores, "scores"),
                    }

            signature = [tf.TensorSpec([batch, height, width, 3], tf.uint8, name="images")]
            self.function = tf.function(raw, input_signature=signature, autograph=False)
            self.concrete = self.function.get_concrete_function()
