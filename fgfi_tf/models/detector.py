"""The detector contract: what the trainer, the distiller and the exporter know of a detector.

Teacher and student are the same kind of thing; nothing but their role differs. A new detector
is one subclass of :class:`Detector` and one entry in ``fgfi_tf.models.registry``.
"""

from __future__ import annotations

import tensorflow as tf
import tf_keras as keras

Batch = dict[str, tf.Tensor]
Outputs = dict[str, tf.Tensor]


class Detector(keras.Model):
    """Base class of every detector.

    Attributes:
        class_names: the names of the classes it detects; a dataset's first classes.
        box_resize: how the input pipeline resizes boxes, ``"edges"`` or ``"corners"``
            (see ``fgfi_tf.data.sample``).
        feature_channels: channels of each feature map to imitate.
        loss_names: the keys of ``detection_losses`` and ``regularization_losses``. Their means are
            then created before the training step is traced, which spares a second trace and is
            needed by replicas whose last batch is not full.
    """

    class_names: tuple[str, ...] = ()
    box_resize: str = "edges"
    feature_channels: tuple[int, ...] = ()
    loss_names: tuple[str, ...] = ()

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB images [B,H,W,3], 0..255, any dtype, to what ``call`` takes (float32)."""
        raise NotImplementedError("a subclass defines preprocess")

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """Preprocessed images [B,H,W,3] to the dense outputs.

        ``seed`` (int32 [2]) makes what is random in training, such as dropout, a function of the
        step, so that a resumed run repeats an uninterrupted one. ``detection_losses`` finds the
        same seed as ``batch["seed"]`` for random sampling. Without it nothing is dropped and
        sampling uses seed (0, 0).

        Returns a dict with ``features``, a tuple of the maps to imitate [B,h,w,c] (what the
        adaptation layer and the teacher comparison see), and whatever ``detection_losses`` and
        ``detect`` need.
        """
        raise NotImplementedError("a subclass defines call")

    def imitation_features(self, inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Only the feature maps, in inference mode: all that is run of a teacher."""
        return self.call(inputs, training=False)["features"]

    def prepare_batch(self, batch: Batch) -> Batch:
        """Adds what the losses need and depends on labels alone (targets); runs in tf.data."""
        return batch

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Named scalar float32 losses of this replica's share of the global batch.

        Each is divided by counts taken over the *global* batch (``fgfi_tf.replica``: ``global_counts``
        for objects and images, ``global_sum`` for what only the outputs tell), so that the sum over
        replicas is the loss that one device would have computed for the whole batch.
        """
        raise NotImplementedError("a subclass defines detection_losses")

    def regularization_losses(self) -> dict[str, tf.Tensor]:
        """Named scalar penalties on the weights for the whole batch (empty by default)."""
        return {}

    def detect(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Final detections in pixels of the image file.

        ``batch`` needs ``scale`` and ``image_size`` only. Returns ``boxes`` [B,K,4]
        (xmin, ymin, xmax, ymax) float32, ``scores`` [B,K] float32 descending, ``classes`` [B,K]
        int32, ``count`` [B] int32; rows from ``count`` on are zero.
        """
        raise NotImplementedError("a subclass defines detect")

    def imitation_boxes(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Boxes [B,M,4] as *continuous* corners (width = xmax - xmin) and valid [B,M] for the mask."""
        one = tf.constant([0.0, 0.0, 1.0, 1.0])
        return batch["boxes"] + one, batch["valid"]

    def imitation_anchors(self, height: int, width: int) -> tuple[tf.Tensor, ...]:
        """For each feature map, its anchors [h,w,K,4] as continuous corners in input pixels.

        ``height`` and ``width`` are those of the network input.
        """
        raise NotImplementedError("a subclass defines imitation_anchors")
