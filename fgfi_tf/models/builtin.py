"""The detectors of this package as they are declared: known by name without TensorFlow."""

from __future__ import annotations

import dataclasses

from fgfi_tf.geometry import shapes
from fgfi_tf.models.declaration import IMAGENET, Declaration
from fgfi_tf.options import Option, fraction, positive

KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")
VOC_CLASSES = (
    "aeroplane", "bicycle", "bird", "boat", "bottle", "bus", "car", "cat", "chair", "cow", "diningtable",
    "dog", "horse", "motorbike", "person", "pottedplant", "sheep", "sofa", "train", "tvmonitor",
)  # fmt: skip
BACKBONES = ("efficientnet_lite0", "efficientnet_b0", "mobilenet_v2", "resnet50")

_DROPOUT = Option("dropout", 0.5, "Share dropped in front of the last layers while training.", check=fraction)
PUBLISHED, AUTO = "published", "auto"  # of anchors


def _anchor_fault(value: str, words: tuple[str, ...] = (PUBLISHED, AUTO)) -> str:
    """What is wrong with a value of ``--anchors``, "" where nothing is."""
    if value in words:
        return ""
    try:
        shapes.parse(value)
    except ValueError as error:
        return f"{', '.join(words)}, or {error}"
    return ""


_ANCHORS = Option(
    "anchors",
    PUBLISHED,
    "Anchor shapes: published (KITTI's, scaled with the input), auto (clusters of the training objects, kept "
    "in model.json), or widths x heights as shares of the input's: 0.1x0.2,0.5x0.4.",
    check=_anchor_fault,
)
SHUFFLEDET = Declaration(
    options=(_DROPOUT, _ANCHORS),
    input_size=(384, 1248),
    class_names=KITTI_CLASSES,
    dataset="kitti",
    weights="a TF1 checkpoint of ShuffleDet or of its backbone",
    teacher="shuffledet_1x",
)
BACKBONE_SHUFFLEDET = dataclasses.replace(
    SHUFFLEDET,
    options=(dataclasses.replace(_DROPOUT, default=0.0), _ANCHORS),
    pretrained=(IMAGENET,),
    weights="imagenet (of a backbone that has them: efficientnet_lite0_shuffledet and its like); the "
    "backbone's file (.pth of EfficientNet-Lite0, .h5 without classifier of keras.applications)",
    teacher="",
)
FASTER_RCNN = Declaration(
    options=(
        Option("width", 1.0, "Factor on every channel count.", check=positive),
        Option(
            "roi_pooling",
            "reference",
            "How regions are pooled: reference (the published 8 x 8 points averaged to 7 x 7), align "
            "(RoIAlign), crop_and_resize (TensorFlow's kernel).",
            ("reference", "align", "crop_and_resize"),
        ),
        _DROPOUT,
    ),
    input_size=(600, 0),
    class_names=VOC_CLASSES,
    resize="shorter_side",
    augmentation="voc",
    dataset="voc",
    weights="for Faster R-CNN a .pth file (faster_rcnn_*.pth, or an ImageNet VGG) or keras.applications "
    "VGG16 (.h5; of a notop file the convolutions)",
    teacher="faster_rcnn_vgg16",
)

YOLOV2_COCO = "coco"  # of anchors
YOLOV2 = Declaration(
    options=(
        Option("width", 1.0, "Factor on every channel count.", check=positive),
        Option(
            "anchors",
            PUBLISHED,
            "Anchor shapes: published (VOC's), coco (COCO's), auto (five clusters of the training objects, "
            "kept in model.json), or widths x heights in cells of 32 pixels: 1.3x1.7,3.2x4.",
            check=lambda value: _anchor_fault(value, (PUBLISHED, YOLOV2_COCO, AUTO)),
        ),
        Option(
            "reorg",
            AUTO,
            "How the passthrough is reordered: space_to_depth, original (as the published weights were "
            "trained with), auto (original with weights from a .weights file, else space_to_depth).",
            (AUTO, "space_to_depth", "original"),
        ),
    ),
    input_size=(416, 416),
    class_names=("face",),
    resize="varying_letterbox",
    augmentation="yolo",
    dataset="wider",
    # Of Darknet's yolov2-voc.cfg: that of WIDER FACE is not published.
    recipe={
        "batch_size": 64,
        "steps": 80_200,
        "learning_rate": 1e-3,
        "lr_warmup_steps": 1000,
        "lr_warmup_power": 4.0,
        "schedule": "step",
        "lr_decay_steps": "40000,60000",
    },
    weights="a .weights file of Darknet, or one of its first 23 layers (darknet19_448.conv.23)",
    teacher="yolov2",
)

_SHUFFLEDET = "fgfi_tf.models.shuffledet:ShuffleDet"
_BACKBONE = "fgfi_tf.models.shuffledet:BackboneShuffleDet"
_FASTER_RCNN = "fgfi_tf.models.faster_rcnn:FasterRCNN"
_YOLOV2 = "fgfi_tf.models.yolov2:YOLOv2"

#: Name, class, what builds it (given the name first), declaration.
DETECTORS: tuple[tuple[str, str, str, Declaration], ...] = (
    *((f"{name}_shuffledet", _BACKBONE, _BACKBONE, BACKBONE_SHUFFLEDET) for name in BACKBONES),
    *((f"shuffledet_{width}", _SHUFFLEDET, _SHUFFLEDET, SHUFFLEDET) for width in ("1x", "0.5x", "0.25x")),
    *(
        (f"faster_rcnn_{name}", _FASTER_RCNN, "fgfi_tf.models.faster_rcnn:build", FASTER_RCNN)
        for name in ("vgg11", "vgg16")
    ),
    *((name, _YOLOV2, _YOLOV2, YOLOV2) for name in ("yolov2", "yolov2_0.25x", "yolov2_0.15x")),
)
