"""The constants of the two published recipes, each as a literal number of the paper or the 2019 code.

Formulas are pinned where their functions are tested; here are the values that those functions are given.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.data.augment import FILL, KittiAugmentation
from fgfi_tf.geometry.coding import DEVIATIONS
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig
from fgfi_tf.models.faster_rcnn.head import BoxHead
from fgfi_tf.models.faster_rcnn.rpn import RPNHead
from fgfi_tf.models.normalization import BatchNorm
from fgfi_tf.models.shuffledet import ShuffleDet
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.flags import parse

CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def values(record, names):
    flags = record.values() if isinstance(record, ExperimentConfig) else {}
    return {name: flags[name] if name in flags else getattr(record, name) for name in names}


SHUFFLEDET_RECIPE = {
    "size": (384, 1248),
    "batch_size": 32,  # 4 GPUs with 8 images
    "steps": 40_000,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "cosine",
    "learning_rate": 0.02,
    "final_learning_rate": 2e-9,
    "lr_warmup_steps": 0,
    "decay_rate": 0.0005,
    "clip_norm": 0.0,
    "brightness": 50,
    "contrast": "0.5,1.5",
    "saturation": "0.3,1.7",
    "drift": "150x100",
    "flip": 0.5,
    "psi": 0.5,
    "imitation_weight": 1.0,
    "imitation_warmup_steps": 0,
    "imitation_end_step": 0,
}


@pytest.mark.parametrize(
    ("name", "normalization"),
    [
        ("shuffledet_1x", 2.0),
        ("shuffledet_0.5x", 2.0),
        ("shuffledet_0.25x", 2.0),  # unused without a teacher
        ("shuffledet_0.5x_imitation", 2.0),
        ("shuffledet_0.25x_imitation", 4.0),
    ],
)
def test_recipe_of_kitti(name, normalization):
    config = parse(["train.py", f"--flagfile={CONFIGS}/kitti/{name}.cfg"])
    assert values(config, SHUFFLEDET_RECIPE) == SHUFFLEDET_RECIPE
    assert config.imitation_normalization == normalization
    assert config.imitation == name.endswith("_imitation")


def test_flags_start_from_the_recipe_of_kitti():
    config = ExperimentConfig.of()
    assert values(config, SHUFFLEDET_RECIPE) == SHUFFLEDET_RECIPE
    assert (config.imitation_normalization, config.lr_decay_factor) == (2.0, 0.1)
    assert (config.imitation_region, config.summary_every, config.checkpoint_every) == (
        "fine_grained",
        50,
        500,
    )


VOC_RECIPE = {
    "size": (600, 0),
    "max_boxes": 20,
    "optimizer": "sgd",
    "momentum": 0.9,
    "schedule": "step",
    "lr_decay_factor": 0.1,
    "lr_warmup_steps": 0,
    "decay_rate": 0.0005,
    "clip_norm": 10.0,
    "flip": 0.5,
    "psi": 0.5,
    "imitation_normalization": 2.0,
}


@pytest.mark.parametrize("name", ["vgg11", "vgg16", "vgg11_imitation", "vgg11_no_imitation"])
def test_recipe_of_voc(name):
    # batch, rate and epochs: test_config.py
    config = parse(["train.py", f"--flagfile={CONFIGS}/voc/{name}.cfg"])
    assert values(config, VOC_RECIPE) == VOC_RECIPE


YOLOV2_RECIPE = {  # of yolov2-voc.cfg
    "size": (416, 416),
    "dataset": "wider",
    "batch_size": 64,
    "steps": 80_200,
    "optimizer": "sgd",
    "momentum": 0.9,
    "learning_rate": 0.001,
    "schedule": "step",
    "lr_decay_steps": "40000,60000",
    "lr_decay_factor": 0.1,
    "lr_warmup_steps": 1000,
    "lr_warmup_power": 4.0,
    "decay_rate": 0.0005,
    "clip_norm": 0.0,
    "jitter": 0.3,
    "hue": 0.1,
    "saturation": 1.5,
    "exposure": 1.5,
    "flip": 0.5,
}


@pytest.mark.parametrize(
    "name",
    ["yolov2", *(f"yolov2_{width}{how}" for width in ("0.25x", "0.15x") for how in ("", "_imitation"))],
)
def test_recipe_of_wider(name):
    config = parse(["train.py", f"--flagfile={CONFIGS}/wider/{name}.cfg"])
    assert values(config, YOLOV2_RECIPE) == YOLOV2_RECIPE
    assert config.options_of("model") == {"width": 1.0, "anchors": "auto", "reorg": "auto"}
    assert config.model == name.removesuffix("_imitation")
    assert config.resize == "varying_letterbox" and config.imitation == name.endswith("_imitation")
    bare = ExperimentConfig.of(model=config.model)  # what the detector declares
    assert values(bare, YOLOV2_RECIPE) == YOLOV2_RECIPE


def test_augmentation():
    published = KittiAugmentation(50, (0.5, 1.5), (0.3, 1.7), shift_x=150, shift_y=100, flip=0.5)
    assert KittiAugmentation() == policies.augmentation("kitti") == published
    assert FILL == (123.68, 116.779, 103.939)


def test_faster_rcnn():
    assert FasterRCNNConfig() == FasterRCNNConfig(
        backbone="vgg11",
        width=1.0,
        roi_pooling="reference",
        dropout=0.5,
        weight_decay=0.0005,
        train_pre_nms=12000,
        train_post_nms=2000,
        test_pre_nms=6000,
        test_post_nms=300,
        rpn_nms_iou=0.7,
        rpn_batch=256,
        roi_batch=256,
        roi_foreground=0.25,
        detection_nms_iou=0.3,
        score_threshold=0.0,
        max_detections=100,
        short_side=600,
        long_side_cap=0,
    )
    assert len(FasterRCNNConfig().class_names) == 20
    assert DEVIATIONS == (0.1, 0.1, 0.2, 0.2)
    detector = FasterRCNN(FasterRCNNConfig(width=0.05))
    np.testing.assert_allclose(
        detector.preprocess(tf.zeros([1, 1, 1, 3]))[0, 0, 0], [-102.9801, -115.9465, -122.7717]
    )


def test_shuffledet():
    detector = ShuffleDet("shuffledet_0.25x", input_size=(64, 64))
    assert (detector.dropout, detector.weight_decay) == (0.5, 0.0005)
    assert ShuffleDet.declaration.input_size == (384, 1248)
    assert detector.class_names == ("Car", "Pedestrian", "Cyclist")
    np.testing.assert_allclose(
        detector.preprocess(tf.zeros([1, 1, 1, 3]))[0, 0, 0], [-103.939, -116.779, -123.68]
    )
    # channel 0 of the network's input is blue
    assert float(detector.preprocess(tf.constant([[[[0, 0, 255]]]]))[0, 0, 0, 0]) == pytest.approx(
        255 - 103.939
    )
    kernel = detector.head.kernel
    kernel.assign(tf.ones_like(kernel))
    penalty = float(detector.regularization_losses()["weight_decay"])
    assert penalty == pytest.approx(0.0005 * 0.5 * 9 * 192 * 72, rel=1e-5)  # 0.0005 * 0.5 * ||W||^2
    assert detector.imitation_options() == {"weight_decay": 0.0005}
    assert (BatchNorm().momentum, BatchNorm().epsilon) == (0.9, 1e-5)


def test_imitation_starts_and_divides_as_published():
    layer = ImitationLoss((64,))
    assert (layer.psi, layer.normalization, layer.region, layer.kernel_size) == (0.5, 2.0, "fine_grained", 3)
    layer.build([(None, None, None, 64)])
    assert_truncated(layer.kernels[0], 1e-4)
    assert not np.any(layer.biases[0])


def assert_truncated(kernel, deviation):
    """A normal cut at twice its deviation has 0.88 of it."""
    kernel = kernel.numpy()
    assert 1.9 * deviation < np.abs(kernel).max() <= 2 * deviation
    assert kernel.std() == pytest.approx(0.8796 * deviation, rel=0.02)


def test_kernels_start_as_published():
    detector = ShuffleDet("shuffledet_0.5x", input_size=(64, 64))
    assert_truncated(detector.head.kernel, 1e-4)
    # He, by fan in: Keras widens the cut normal so that its deviation is sqrt(2 / fan in)
    convolution = detector.backbone.convolutions()["group3/block1/conv2"]
    fan_in = convolution.kernel.shape[2]
    assert convolution.kernel.numpy().std() == pytest.approx(np.sqrt(2 / fan_in), rel=0.02)
    rpn, head = RPNHead(64), BoxHead(256, 20)
    rpn(tf.zeros([1, 2, 2, 64]))
    head(tf.zeros([1, 1, 2, 2, 16]))
    deviations = [
        (rpn.conv, 0.01),
        (rpn.scores, 0.01),
        (rpn.deltas, 0.01),
        (head.scores, 0.01),
        (head.deltas, 0.001),
    ]
    for layer, deviation in deviations:
        assert layer.kernel.numpy().std() == pytest.approx(deviation, rel=0.1)
        assert not np.any(layer.bias)
