"""What Faster R-CNNs of different code bases count and minimise differently, each as a whole, by name."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

import tensorflow as tf

from fgfi_tf.geometry import boxes as forms


@dataclasses.dataclass(frozen=True, eq=False)
class Convention:
    """One code base's choices. In each, class 0 of the head's scores is background.

    In each as well: an anchor is positive from IoU 0.7 with an object on, or as an object's best (every one
    on a tie), and negative below 0.3; a region is foreground from IoU 0.5 on; classes are learnt by
    cross-entropy, the mean over what was sampled of the global batch; box losses are smooth L1, a region's
    with deltas divided by 0.1, 0.1, 0.2 and 0.2 (weights of 10, 10, 5, 5).

    Attributes:
        inclusive: boxes are first and last pixels, and widths have a + 1; else they are edges.
        whole_input: anchors across the border and in the padding take part, and regions are pooled from the
            padded maps; else the picture alone counts.
        paired_scores: the proposal network has two logits an anchor, background and object; else one.
        rpn_sigma, rcnn_sigma: smooth L1 is 0.5 (sigma d)^2 below 1 / sigma^2: its beta is 1 / sigma^2.
        box_mean_of_images: the proposal network's box loss is each image's sum divided by its sampled
            anchors, then the mean of the images; else the sum of all divided by all sampled anchors.
        distinct_regions: regions are sampled without repetition, so that an image may give fewer.
        capped: sizes grow by 1000 / 16 at most in decoding.
        smallest_proposal, smallest_detection: boxes with a shorter side, in pixels of the network input, are
            dropped.
        bias_rate: factor on the learning rate of biases; 1 or 2.
        biases_decay: whether weight decay is for biases, too.
        defaults: fields of ``FasterRCNNConfig``: sizes of samples, thresholds.
    """

    inclusive: bool
    whole_input: bool
    paired_scores: bool
    rpn_sigma: float
    rcnn_sigma: float
    box_mean_of_images: bool
    distinct_regions: bool
    capped: bool
    smallest_proposal: float
    smallest_detection: float
    bias_rate: float
    biases_decay: bool
    defaults: Mapping[str, Any]

    def truth(self, boxes: tf.Tensor) -> tf.Tensor:
        """The boxes [B,M,4] of a batch, which are inclusive corners, as this convention has them."""
        return boxes if self.inclusive else forms.continuous(boxes)


# Of the 2019 code, for its VGGs. Image normalisation is the backbone's: BGR minus means.
REFERENCE = Convention(
    inclusive=True,
    whole_input=False,
    paired_scores=True,
    rpn_sigma=3.0,
    rcnn_sigma=1.0,
    box_mean_of_images=True,
    distinct_regions=False,
    capped=False,
    smallest_proposal=0.0,
    smallest_detection=0.0,
    bias_rate=2.0,
    biases_decay=False,
    defaults={},
)
CONVENTIONS: dict[str, Convention] = {
    "reference": REFERENCE,
    # The code that the 2019 code was made from, for ResNets: no double rate, half as many regions.
    "reference_resnet": dataclasses.replace(REFERENCE, bias_rate=1.0, defaults={"roi_batch": 128}),
    # torchvision's detectors; with RGB in 0..1, normalised, where the backbone is theirs.
    "torchvision": Convention(
        inclusive=False,
        whole_input=True,
        paired_scores=False,
        rpn_sigma=3.0,
        rcnn_sigma=3.0,
        box_mean_of_images=False,
        distinct_regions=True,
        capped=True,
        smallest_proposal=1e-3,
        smallest_detection=1e-2,
        bias_rate=1.0,
        biases_decay=True,
        defaults={
            "roi_pooling": "align_v1",
            "dropout": 0.0,
            "train_pre_nms": 2000,
            "train_post_nms": 2000,
            "test_pre_nms": 1000,
            "test_post_nms": 1000,
            "roi_batch": 512,
            "detection_nms_iou": 0.5,
            "score_threshold": 0.05,
        },
    ),
}
