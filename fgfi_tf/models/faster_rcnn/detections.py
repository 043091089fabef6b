"""Final detections: the classified proposals after non-maximum suppression."""

from __future__ import annotations

import tensorflow as tf

from fgfi_tf.geometry import boxes as forms
from fgfi_tf.geometry import coding, nms
from fgfi_tf.models.faster_rcnn import box_coding
from fgfi_tf.models.faster_rcnn.config import FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.conventions import REFERENCE, Convention
from fgfi_tf.models.faster_rcnn.proposals import Proposals


def final_detections(
    regions: Proposals,
    scores: tf.Tensor,
    deltas: tf.Tensor,
    content: tf.Tensor,
    scale: tf.Tensor,
    config: FasterRCNNConfig,
    rules: Convention = REFERENCE,
) -> dict[str, tf.Tensor]:
    """What ``Detector.detect`` returns, by NMS within each class in pixels of the image file.

    Args:
        regions: R proposals an image.
        scores: their class scores, float32 [B,R,1 + classes], background first.
        deltas: normalised, float32 [B,R,4 (1 + classes)].
        content: (h, w) of the pictures in input pixels, float32 [B,2].
        scale: input pixels per pixel of the file, float32 [B,2] (y, x).
        config: thresholds and numbers; K = ``max_detections``.
        rules: see :class:`Convention`.
    """
    scores = tf.nn.softmax(scores)[..., 1:]  # B x R x classes
    shape = tf.shape(scores)
    exists = tf.sequence_mask(regions.count, shape[1])
    scores = tf.where(exists[..., None], scores, -1.0)
    deltas = tf.reshape(deltas, [shape[0], shape[1], -1, 4])[:, :, 1:]  # B x R x classes x 4
    boxes = box_coding.decode(regions.boxes[:, :, None], deltas, coding.DEVIATIONS, rules)
    boxes = forms.clip(boxes, content[:, None, None], inclusive=rules.inclusive)
    if rules.smallest_detection > 0:
        large = tf.reduce_all(boxes[..., 2:] - boxes[..., :2] >= rules.smallest_detection, axis=-1)
        scores = tf.where(large, scores, -1.0)
    scale = tf.tile(tf.reverse(scale, [-1]), [1, 2])[:, None, None]  # B x 1 x 1 x (x, y, x, y)
    found = nms.suppress(
        forms.continuous(boxes / scale) if rules.inclusive else boxes / scale,
        scores,
        iou_threshold=config.detection_nms_iou,
        max_per_class=config.test_post_nms,
        max_total=config.max_detections,
        score_threshold=config.score_threshold,
    )
    kept = tf.sequence_mask(found["count"], config.max_detections)
    return found | {"boxes": tf.where(kept[..., None], forms.inclusive(found["boxes"]), 0.0)}
