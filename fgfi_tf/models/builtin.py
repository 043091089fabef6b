"""The detectors of this package as they are declared: known by name without TensorFlow."""

from __future__ import annotations

import dataclasses
import math

from fgfi_tf.geometry import shapes
from fgfi_tf.models.class_names import COCO_CLASSES, KITTI_CLASSES, VOC_CLASSES
from fgfi_tf.models.class_names import COCO_IDS as COCO_IDS
from fgfi_tf.models.declaration import IMAGENET, Declaration
from fgfi_tf.options import Option, at_least, fraction, positive

RESNETS = ("resnet18", "resnet34", "resnet50", "resnet101")
OWN_BACKBONES, KERAS_BACKBONES = ("efficientnet_lite0",), ("efficientnet_b0", "mobilenet_v2")
FASTER_RCNN_BACKBONES = (*OWN_BACKBONES, *KERAS_BACKBONES)
VGGS = ("vgg11", "vgg16")
BACKBONES = (*FASTER_RCNN_BACKBONES, *RESNETS, *VGGS)

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
            weights="told",
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
    "backbone's file (.pth of EfficientNet-Lite0, a VGG or torchvision's ResNet, .h5 of keras.applications)",
    teacher="",
)
_WIDTH = Option("width", 1.0, "Factor on every channel count.", check=positive)
PUBLISHED_LAYERS = -1  # of frozen_layers
_FROZEN_LAYERS = Option(
    "frozen_layers",
    PUBLISHED_LAYERS,
    "So many leading convolutions of VGG are never trained (-1: 3 of VGG11 and 4 of VGG16, as "
    "published); 0 from scratch.",
    check=at_least(PUBLISHED_LAYERS),
)
CONVENTIONAL = 0  # of roi_batch
ROI_FOREGROUND = 0.25  # the most of an image's RoIs


def fewest_rois(foreground: float = ROI_FOREGROUND) -> int:
    """RoIs of an image of which one may be foreground, when at most this share of them may."""
    return math.ceil(1 / foreground)


_ROI_BATCH = Option(
    "roi_batch",
    CONVENTIONAL,
    "RoIs that the head learns from, of each image (0: as published, 256 for VGGs, 128 for ResNets with C5 "
    "as head, 512 for torchvision's); 64 is enough for small images and saves most of a wide head's time.",
    check=lambda value: (
        "" if value == CONVENTIONAL or value >= fewest_rois() else f"must be 0 or at least {fewest_rois()}"
    ),
)
FASTER_RCNN = Declaration(
    options=(
        _WIDTH,
        Option(
            "roi_pooling",
            "reference",
            "How regions are pooled: reference (the published 8 x 8 points averaged to 7 x 7), align "
            "(RoIAlign), crop_and_resize (TensorFlow's kernel).",
            ("reference", "align", "crop_and_resize"),
            weights="told",
        ),
        _FROZEN_LAYERS,
        _DROPOUT,
        _ROI_BATCH,
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
REFERENCE, ANCHOR_SCALES = "reference", "8,16,32"


def scales(text: str) -> tuple[float, ...]:
    """'4,8' to (4.0, 8.0). Raises ValueError for what is no list of numbers above 0."""
    found = tuple(float(part) for part in text.split(","))
    if not all(0 < value < float("inf") for value in found):
        raise ValueError(text)
    return found


def _scales_fault(value: str) -> str:
    try:
        scales(value)
    except ValueError:
        return "numbers above 0 are expected, such as 4,8,16,32"
    return ""


_NORM = Option(
    "norm",
    "frozen",
    "Batch norm of the backbone: frozen (stored statistics: for pretrained weights), synchronised (of the "
    "global batch: from scratch).",
    ("frozen", "synchronised"),
)
_STYLE = Option(
    "resnet_style",
    "caffe",
    "Whose ResNet: caffe (strides in the first 1 x 1 convolution, BGR pixels minus means: MSRA's weights and "
    "keras.applications'), torchvision (strides in the 3 x 3, RGB normalised).",
    ("caffe", "torchvision"),
    weights="refused",
)
_RESNET_OPTIONS = (
    dataclasses.replace(_WIDTH, text="Factor on every channel count of the ResNet."),
    _NORM,
    Option(
        "frozen_stages",
        2,
        "So many of stem, C2, C3 ... are never trained; 0 from scratch.",
        check=lambda value: "" if 0 <= value <= 5 else "must be from 0 to 5",
    ),
)
_RESNET_WEIGHTS = "an ImageNet ResNet (.pth of torchvision or caffe; imagenet or .h5 of keras.applications)"
FASTER_RCNN_C4 = dataclasses.replace(
    FASTER_RCNN,
    options=(
        *_RESNET_OPTIONS,
        _STYLE,
        Option(
            "convention",
            REFERENCE,
            "Boxes, targets and losses: reference (the 2019 code's), torchvision (which goes with "
            "--resize=torchvision and sizes such as 800x1333).",
            (REFERENCE, "torchvision"),
            weights="told",
        ),
        Option(
            "anchor_scales",
            ANCHOR_SCALES,
            "Sides of the reference's anchors in strides of 16 pixels; 4,8,16,32 for COCO.",
            check=_scales_fault,
            weights="told",
        ),
        _ROI_BATCH,
    ),
    pretrained=(IMAGENET,),
    weights=f"{_RESNET_WEIGHTS}; a trained faster_rcnn_*.pth of the 2019 code",
    teacher="faster_rcnn_resnet101",
)
RESNET_SSD = dataclasses.replace(
    BACKBONE_SSD, options=(*_RESNET_OPTIONS, _STYLE, *BACKBONE_SSD.options), weights=_RESNET_WEIGHTS
)
_FPN_OPTIONS = (
    Option("fpn_channels", 256, "Channels of every level.", check=positive),
    Option("head_units", 1024, "Units of the two fully connected layers of the head.", check=positive),
    _ROI_BATCH,
)
FASTER_RCNN_FPN = dataclasses.replace(
    FASTER_RCNN_C4,
    options=(*_RESNET_OPTIONS, dataclasses.replace(_STYLE, default="torchvision"), *_FPN_OPTIONS),
    input_size=(800, 1333),
    class_names=COCO_CLASSES,
    resize="torchvision",
    dataset="coco",
    weights=f"{_RESNET_WEIGHTS}; torchvision's fasterrcnn_*_fpn_*.pth",
    teacher="faster_rcnn_resnet50_fpn",
)
BACKBONE_FASTER_RCNN = dataclasses.replace(
    FASTER_RCNN_FPN,
    options=(_NORM, *_FPN_OPTIONS),
    class_names=VOC_CLASSES,
    dataset="voc",
    weights=BACKBONE_SHUFFLEDET.weights,
    teacher="",
)
VGG_FASTER_RCNN_FPN = dataclasses.replace(
    BACKBONE_FASTER_RCNN,
    options=(_WIDTH, _FROZEN_LAYERS, *_FPN_OPTIONS),
    weights="an ImageNet VGG (.pth of torchvision or caffe; of VGG16 imagenet or .h5 of keras.applications)",
    teacher="faster_rcnn_vgg16_fpn",
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
            weights="told",
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

BACKBONE_YOLOV2 = dataclasses.replace(
    YOLOV2,
    options=(
        dataclasses.replace(YOLOV2.options[0], text="Factor on every channel count of the head."),
        YOLOV2.options[1],
    ),
    pretrained=(IMAGENET,),
    weights="imagenet, or the .pth of EfficientNet-Lite0",
    teacher="",
)

_YOLOV2, _BACKBONE_YOLOV2 = "fgfi_tf.models.yolov2:YOLOv2", "fgfi_tf.models.yolov2:BackboneYOLOv2"
_SHUFFLEDET = "fgfi_tf.models.shuffledet:ShuffleDet"
_SSD, _BACKBONE_SSD, _RESNET_SSD = (f"fgfi_tf.models.ssd:{kind}SSD" for kind in ("", "Backbone", "ResNet"))
_BACKBONE = "fgfi_tf.models.shuffledet:BackboneShuffleDet"
_FRCNN = "fgfi_tf.models.faster_rcnn"
_BUILD = f"{_FRCNN}:build"
#: Name, class, what builds it (given the name first), declaration.
DETECTORS: tuple[tuple[str, str, str, Declaration], ...] = (
    *((f"ssd300_{name}", _SSD, _SSD, SSD) for name in VGGS),
    ("ssd300_efficientnet_lite0", _BACKBONE_SSD, _BACKBONE_SSD, BACKBONE_SSD),
    *((f"ssd300_{name}", _RESNET_SSD, _RESNET_SSD, RESNET_SSD) for name in RESNETS),
    *((f"{name}_shuffledet", _BACKBONE, _BACKBONE, BACKBONE_SHUFFLEDET) for name in BACKBONES),
    *((f"shuffledet_{width}", _SHUFFLEDET, _SHUFFLEDET, SHUFFLEDET) for width in ("1x", "0.5x", "0.25x")),
    *((f"faster_rcnn_{name}", f"{_FRCNN}:FasterRCNN", _BUILD, FASTER_RCNN) for name in VGGS),
    *(
        (f"faster_rcnn_{name}_fpn", f"{_FRCNN}:VGGPyramidFasterRCNN", _BUILD, VGG_FASTER_RCNN_FPN)
        for name in VGGS
    ),
    *((f"faster_rcnn_{name}", f"{_FRCNN}:ResNetFasterRCNN", _BUILD, FASTER_RCNN_C4) for name in RESNETS),
    *(
        (f"faster_rcnn_{name}_fpn", f"{_FRCNN}:PyramidFasterRCNN", _BUILD, FASTER_RCNN_FPN)
        for name in RESNETS
    ),
    *(
        (f"faster_rcnn_{name}{neck}", f"{_FRCNN}:{kind}FasterRCNN", _BUILD, BACKBONE_FASTER_RCNN)
        for names, kind in ((OWN_BACKBONES, "Backbone"), (KERAS_BACKBONES, "Keras"))
        for name in names
        for neck in ("", "_fpn")
    ),
    *((name, _YOLOV2, _YOLOV2, YOLOV2) for name in ("yolov2", "yolov2_0.25x", "yolov2_0.15x")),
    ("yolov2_efficientnet_lite0", _BACKBONE_YOLOV2, _BACKBONE_YOLOV2, BACKBONE_YOLOV2),
)
