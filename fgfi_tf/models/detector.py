"""The detector contract: what the trainer, the distiller and the exporter know of a detector.

Teacher and student are the same kind of thing; nothing but their role differs. A new detector
is one subclass of :class:`Detector`, in any file, and one call of ``fgfi_tf.models.registry.register``.
"""

from __future__ import annotations

from collections.abc import Hashable, Mapping
from pathlib import Path

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.data import policies
from fgfi_tf.geometry.suppression import RawHead
from fgfi_tf.models.declaration import Declaration
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.models.pixels import Pixels, content_mask

# A box of 112 pixels, half of a classifier's 224, is that of stride 8 (Lin et al. 2017, equation 1): for
# strides 4, 8, .. 64 a box belongs to level floor(log2(side / 56)), as in published comparisons.
SIDE_PER_STRIDE = 14.0

Batch = dict[str, tf.Tensor]
Outputs = dict[str, tf.Tensor]


class Detector(keras.Model):
    """Base class of every detector.

    Attributes:
        class_names: the names of the classes that it detects, the first ones of the dataset.
        takes_any_size: whether the size of the network input may change from batch to batch.
        input_multiple: of so many pixels height and width of every network input are multiples.
        feature_channels: channels of each feature map to imitate.
        feature_strides: input pixels per position of each: maps of equal stride are compared where student
            and teacher have several. (): not said, and maps are compared by their place.
        loss_names: the keys of ``detection_losses`` and ``regularization_losses``. Their means are created
            before the step is traced, which avoids a second trace. Gradient accumulation, and replicas whose
            last batch is not full, need them.
        counted: keys of a prepared batch, a number of each image [B], whose totals over the global batch the
            losses are divided by (``replica.global_total``): gradient accumulation takes them beforehand.
        input_size: ``--input_size``, which the resize policy interprets: (height, width) of the network
            input, or (short side, largest long side or 0 for no limit).
        declaration: its options, and what is known before it is built: the defaults of flags, and the size
            and classes of a weight file that comes without ``model.json``.
        pixels: what the network expects; None where the class defines ``preprocess``.
        metadata: the arguments of ``registry.build``; None where the detector was built in another way.

    Every constructor takes ``input_size``, ``class_names``, ``weight_decay``, and the declared options.
    """

    class_names: tuple[str, ...] = ()
    takes_any_size: bool = False
    input_multiple: int = 1
    feature_channels: tuple[int, ...] = ()
    feature_strides: tuple[int, ...] = ()
    loss_names: tuple[str, ...] = ()
    counted: tuple[str, ...] = ()
    input_size: tuple[int, int]
    declaration: Declaration = Declaration()
    pixels: Pixels | None = None
    metadata: ModelMetadata | None = None

    @property
    def resize(self) -> str:
        """Name of the resize policy: the declared one, unless another was set."""
        return getattr(self, "_resize", "") or self.declaration.resize

    @resize.setter
    def resize(self, name: str) -> None:
        policies.resize(name)
        self._resize = name

    @property
    def padding_color(self) -> tuple[float, ...]:
        """RGB, 0..255, of what a resize policy adds: the mean pixel, a zero for the network."""
        return (0.0, 0.0, 0.0) if self.pixels is None else tuple(self.pixels.mean)

    def get_config(self) -> dict:
        """What ``registry.build`` made it of, for the metadata of a SavedModel."""
        metadata = self.metadata or ModelMetadata("", tuple(self.input_size), tuple(self.class_names))
        return metadata.as_dict()

    @classmethod
    def check_input_size(cls, size: tuple[int, int]) -> None:
        """Raises UserError, starting with the size, where the network (not the resize) cannot take it."""

    @classmethod
    def fitted_options(
        cls, options: Mapping[str, object], shapes: np.ndarray, input_size: tuple[int, int], seed: int
    ) -> tuple[dict[str, object], str]:
        """Options of which the training objects decide some, such as anchors; asked when a run begins.

        Args:
            options: as they were given.
            shapes: (w, h) of every object to learn, float64 [N,2], pixels of the network input.
            input_size: see above.
            seed: of the run.

        Returns:
            The options to build the detector with, which go to its metadata, and a line on what was decided,
            "" for nothing.

        Raises:
            UserError: the objects cannot decide.
        """
        return dict(options), ""

    def anchor_misfit(self, shapes: np.ndarray, pictures: np.ndarray) -> str:
        """A line where the anchors do not fit training objects, "" where they do.

        Args:
            shapes: as in :meth:`fitted_options`.
            pictures: (h, w) of every picture in the network input, float64 [M,2].
        """
        return ""

    @property
    def preprocessing(self) -> Hashable:
        """What tells ``preprocess`` apart: detectors with equal values share the preprocessed images.

        It is ``pixels`` where these are set; else nothing is known, and each detector preprocesses its own.
        """
        return id(self) if self.pixels is None else self.pixels

    def preprocess(self, images: tf.Tensor) -> tf.Tensor:
        """RGB images [B,H,W,3], 0..255, any dtype, to what ``call`` takes (float32)."""
        if self.pixels is None:
            raise NotImplementedError("a subclass sets pixels, or defines preprocess")
        return self.pixels.of(images)

    def inference_copy(self) -> Detector:
        """The same function for inference alone, as cheap as it can be: batch norm folded, say.

        What the frozen teacher, predictions and an exported model run. Later training of this detector need
        not reach it.
        """
        return self

    def load_trained(self, path: Path) -> bool:
        """Loads all weights of a detector that another program trained.

        Args:
            path: a file, or the prefix of a TensorFlow checkpoint.

        Returns:
            False where ``path`` is of no kind that this detector reads; nothing is changed then.

        Raises:
            UserError: it is of such a kind, and damaged, incomplete or of another network.
        """
        return False

    def load_pretrained(self, path: Path | str, pixels: str = "auto") -> bool:
        """Loads weights to start from: of a backbone trained on ImageNet, say, or those of ``load_trained``.

        Args:
            path: a word of ``declaration.pretrained``, a file, or the prefix of a TensorFlow checkpoint.
            pixels: what ``--init_pixels`` says of the file.

        Returns, raises:
            As ``load_trained``.
        """
        return self.load_trained(Path(path))

    def begins_from(self, options: Mapping[str, object], step: int) -> None:
        """Told, once they are loaded, that its weights are those of a run of the same model.

        Args:
            options: that its detector was given.
            step: updates that all of its weights had; 0 where what depends on the classes is new.
        """

    def call(self, inputs: tf.Tensor, training: bool = False, seed: tf.Tensor | None = None) -> Outputs:
        """Preprocessed images [B,H,W,3] to the dense outputs.

        ``seed`` (int32 [2]) makes what is random in training, such as dropout, a function of the step, so
        that a resumed run repeats an uninterrupted one. ``detection_losses`` finds it as ``batch["seed"]``.
        Without it nothing is dropped and sampling uses seed (0, 0). What is drawn for several purposes, or
        by each replica, takes its keys from it by ``fgfi_tf.streams``.

        Returns a dict with ``features``, a tuple of the maps to imitate [B,h,w,c] (what the
        adaptation layer and the teacher comparison see), and whatever ``detection_losses`` and
        ``detect`` need: tensors of two axes and more have the images first.
        """
        raise NotImplementedError("a subclass defines call")

    def imitation_features(self, inputs: tf.Tensor) -> tuple[tf.Tensor, ...]:
        """Only the feature maps, in inference mode: all that is run of a teacher."""
        return self.call(inputs, training=False)["features"]

    def prepare_images(self, batch: Batch) -> Batch:
        """What every batch needs before ``preprocess``: paints the padding; runs in tf.data."""
        if not policies.resize(self.resize).keep_aspect_ratio:
            return batch
        height, width = tf.unstack(tf.shape(batch["image"])[1:3])
        inside = content_mask(batch["content_size"], height, width)[..., None]  # B x H x W x 1
        image = tf.where(inside, tf.cast(batch["image"], tf.float32), tf.constant(self.padding_color))
        return {**batch, "image": image}

    def prepare_batch(self, batch: Batch) -> Batch:
        """To what ``prepare_images`` made adds what training needs, such as targets, of labels alone."""
        return batch

    def log_probabilities(self, outputs: Outputs) -> tf.Tensor | None:
        """Logarithms of the probabilities of each class and of no object (the last), float32 [B,A,K].

        They are compared for ``--soft_label_weight``, which asks teacher and student for the same A anchors
        and K outcomes. None (the default): the detector has no predictions that could be compared so.
        """
        return None

    def detection_losses(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Named scalar float32 losses of this replica's share of the global batch.

        Each is divided by counts taken over the *global* batch (``fgfi_tf.replica``: ``global_counts``
        for objects and images, ``global_sum`` for what only the outputs tell), so that the sum over
        replicas is the loss that one device would have computed for the whole batch. In training
        ``batch["step"]`` (int64 scalar) says how many steps were taken before, for losses that change.
        """
        raise NotImplementedError("a subclass defines detection_losses")

    def regularization_losses(self) -> dict[str, tf.Tensor]:
        """Named scalar penalties on the weights for the whole batch (empty by default)."""
        return {}

    def learning_rate_multiplier(self, variable: tf.Variable) -> float:
        """What the gradient of a variable (an adaptation's as well) is multiplied by after clipping.

        With momentum SGD that is a multiple of the learning rate.
        """
        return 1.0

    def decay_rate(self, variable: tf.Variable) -> float:
        """Decay of a variable (an adaptation's as well): times the variable, added to its clipped gradient.

        Unlike ``regularization_losses``, it enters neither the loss nor the norm that is clipped.
        """
        return 0.0

    def detect(self, outputs: Outputs, batch: Batch) -> dict[str, tf.Tensor]:
        """Final detections in pixels of the image file.

        ``batch`` needs ``scale`` and ``image_size`` only. Returns ``boxes`` [B,K,4]
        (xmin, ymin, xmax, ymax) float32, ``scores`` [B,K] float32 descending, ``classes`` [B,K]
        int32, ``count`` [B] int32; rows from ``count`` on are zero.
        """
        raise NotImplementedError("a subclass defines detect")

    def raw_head(self, outputs: Outputs) -> RawHead:
        """``detect`` without suppression, for runtimes that have none: what TFLite and ONNX files compute.

        ``suppression.suppress`` of it gives what ``detect`` gives, times ``scale``. ``outputs`` are those of
        ``inference_copy()`` for one size of the input. Only operations that every runtime has are to be used:
        slices, products, exponentials, but no top-k, gather or condition. What has a range of its own, such
        as logits and deltas, should come from convolutions of its own, since int8 has one scale for a whole
        map.

        A detector that does not define it, as those in two stages, exports as SavedModel alone.
        """
        raise NotImplementedError("a subclass with raw boxes and scores defines raw_head")

    def imitation_boxes(self, batch: Batch) -> tuple[tf.Tensor, tf.Tensor]:
        """Boxes [B,M,4] as *continuous* corners (width = xmax - xmin) and valid [B,M] for the mask."""
        one = tf.constant([0.0, 0.0, 1.0, 1.0])
        return batch["boxes"] + one, batch["valid"]

    def imitation_anchors(self, height: int | tf.Tensor, width: int | tf.Tensor) -> tuple[tf.Tensor, ...]:
        """For each feature map, its anchors [h,w,K,4] as continuous corners in input pixels.

        ``height`` and ``width`` are those of the network input; int32 scalars where they change.
        """
        raise NotImplementedError("a subclass defines imitation_anchors")

    def imitation_valid_mask(
        self, batch: Batch, height: int | tf.Tensor, width: int | tf.Tensor
    ) -> tuple[tf.Tensor, ...] | None:
        """For each feature map, bool [B,h,w]: where it holds picture; None where there is no padding.

        A position at the edge, which is of the picture in part, holds picture. ``height`` and ``width`` are
        those of the padded network input.
        """
        if not policies.resize(self.resize).keep_aspect_ratio:
            return None
        masks = []
        for anchors in self.imitation_anchors(height, width):
            anchors = tf.convert_to_tensor(anchors)
            size = anchors.shape[:2]
            rows, columns = size if size.is_fully_defined() else tf.unstack(tf.shape(anchors)[:2])
            grid, whole = (tf.cast(pair, tf.float32) for pair in ((rows, columns), (height, width)))
            # The product first: what is a whole number of positions is not rounded up to one more.
            masks.append(content_mask(tf.math.ceil(batch["content_size"] * grid / whole), rows, columns))
        return tuple(masks)

    def imitation_sizes(self) -> tuple[float, ...]:
        """The side from which on a box belongs to each feature map, ascending, pixels of the network input.

        What ``--imitation_levels=assigned`` goes by; () where the strides are not known. By default the rule
        of feature pyramids: 14 strides.
        """
        return tuple(SIDE_PER_STRIDE * stride for stride in self.feature_strides)

    def imitation_options(self) -> dict[str, object]:
        """Arguments of ``ImitationLoss`` with which this student's adaptation starts and decays."""
        return {}
