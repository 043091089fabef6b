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
COCO_CLASSES = (
    "person", "bicycle", "car", "motorcycle", "airplane", "bus", "train", "truck", "boat", "traffic light",
    "fire hydrant", "stop sign", "parking meter", "bench", "bird", "cat", "dog", "horse", "sheep", "cow",
    "elephant", "bear", "zebra", "giraffe", "backpack", "umbrella", "handbag", "tie", "suitcase", "frisbee",
    "skis", "snowboard", "sports ball", "kite", "baseball bat", "baseball glove", "skateboard", "surfboard",
    "tennis racket", "bottle", "wine glass", "cup", "fork", "knife", "spoon", "bowl", "banana", "apple",
    "sandwich", "orange", "broccoli", "carrot", "hot dog", "pizza", "donut", "cake", "chair", "couch",
    "potted plant", "bed", "dining table", "toilet", "tv", "laptop", "mouse", "remote", "keyboard",
    "cell phone", "microwave", "oven", "toaster", "sink", "refrigerator", "book", "clock", "vase", "scissors",
    "teddy bear", "hair drier", "toothbrush",
)  # fmt: skip
#: COCO's numbers of these classes, which leave some out.
COCO_IDS = tuple(n for n in range(1, 91) if n not in (12, 26, 29, 30, 45, 66, 68, 69, 71, 83))
BACKBONES = ("efficientnet_lite0", "efficientnet_b0", "mobilenet_v2", "resnet50")

_DROPOUT = Option("dropout", 0.5, "Share dropped in front of the last layers while training.", check=fraction)
PUBLISHED, AUTO = "published", "auto"  # of anchors


def _anchor_fault(value: str) -> str:
    """What is wrong with a value of ``--anchors``, "" where nothing is."""
    if value in (PUBLISHED, AUTO):
        return ""
    try:
        shapes.parse(value)
    except ValueError as error:
        return f"{PUBLISHED}, {AUTO}, or {error}"
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
SSD = Declaration(
    options=(
        Option("width", 1.0, "Factor on every channel count.", check=positive),
        Option(
            "matching",
            "bipartite",
            "Which default box an object has in any case: one of its own (bipartite, as published), or its "
            "best one, which a later object may take (each_best, as in torchvision).",
            ("bipartite", "each_best"),
        ),
        Option(
            "default_boxes",
            "voc",
            "Sizes of the default boxes: published for VOC (voc) or COCO (coco: for smaller objects), or "
            "torchvision's (coco, clipped to the input).",
            ("voc", "coco", "torchvision"),
        ),
    ),
    input_size=(300, 300),
    class_names=VOC_CLASSES,
    augmentation="ssd",
    dataset="voc",
    recipe={"learning_rate": 1e-3},
    weights="for SSD torchvision's .pth (ssd300_vgg16_coco-*.pth), vgg16_reducedfc.pth, or an ImageNet VGG "
    "(.pth, .h5)",
)
BACKBONE_SSD = dataclasses.replace(
    SSD,
    options=SSD.options[1:],
    pretrained=(IMAGENET,),
    weights="imagenet (of ssd300_efficientnet_lite0); the .pth of EfficientNet-Lite0",
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

_SHUFFLEDET = "fgfi_tf.models.shuffledet:ShuffleDet"
_SSD, _BACKBONE_SSD = "fgfi_tf.models.ssd:SSD", "fgfi_tf.models.ssd:BackboneSSD"
_BACKBONE = "fgfi_tf.models.shuffledet:BackboneShuffleDet"
_FASTER_RCNN = "fgfi_tf.models.faster_rcnn:FasterRCNN"
#: Name, class, what builds it (given the name first), declaration.
DETECTORS: tuple[tuple[str, str, str, Declaration], ...] = (
    *((f"ssd300_{name}", _SSD, _SSD, SSD) for name in ("vgg11", "vgg16")),
    ("ssd300_efficientnet_lite0", _BACKBONE_SSD, _BACKBONE_SSD, BACKBONE_SSD),
    *((f"{name}_shuffledet", _BACKBONE, _BACKBONE, BACKBONE_SHUFFLEDET) for name in BACKBONES),
    *((f"shuffledet_{width}", _SHUFFLEDET, _SHUFFLEDET, SHUFFLEDET) for width in ("1x", "0.5x", "0.25x")),
    *(
        (f"faster_rcnn_{name}", _FASTER_RCNN, "fgfi_tf.models.faster_rcnn:build", FASTER_RCNN)
        for name in ("vgg11", "vgg16")
    ),
)
