"""Weights of PyTorch: the features that PyTorch's layers define, and every wrong file refused."""

import numpy as np
import pytest
import tensorflow as tf
from pth_writer import save

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig
from fgfi_tf.models.faster_rcnn import weights as torch_weights

WIDTH = 1 / 64
# index of each convolution in the sequential base, from the facts on the published checkpoints
INDICES = {"vgg11": (0, 3, 6, 8, 11, 13, 16, 18), "vgg16": (0, 2, 5, 7, 10, 12, 14, 17, 19, 21, 24, 26, 28)}
CHANNELS = {
    "vgg11": (1, 2, 4, 4, 8, 8, 8, 8),
    "vgg16": (1, 1, 2, 2, 4, 4, 4, 8, 8, 8, 8, 8, 8),
}
POOLS = {"vgg11": (2, 5, 10, 15), "vgg16": (4, 9, 16, 23)}
FC = 64


def _detector(backbone="vgg11"):
    return FasterRCNN(FasterRCNNConfig(backbone=backbone, width=WIDTH))


def _layer(state, name, *shape):
    random, fan_in = np.random.default_rng(len(state)), int(np.prod(shape[1:]))
    state[f"{name}.weight"] = random.normal(0, (2.0 / fan_in) ** 0.5, shape).astype(np.float32)
    state[f"{name}.bias"] = random.normal(size=shape[0]).astype(np.float32)


def _base(state, backbone, prefix):
    previous = 3
    for index, channels in zip(INDICES[backbone], CHANNELS[backbone], strict=True):
        _layer(state, f"{prefix}.{index}", channels, previous, 3, 3)
        previous = channels


def _reference_state(backbone="vgg11", adaptation=True):
    state = {}
    _layer(state, "RCNN_rpn.RPN_Conv", 8, 8, 3, 3)
    _layer(state, "RCNN_rpn.RPN_cls_score", 18, 8, 1, 1)
    _layer(state, "RCNN_rpn.RPN_bbox_pred", 36, 8, 1, 1)
    _base(state, backbone, "RCNN_base")
    _layer(state, "RCNN_top.0", FC, 8 * 49)
    _layer(state, "RCNN_top.3", FC, FC)
    _layer(state, "RCNN_cls_score", 21, FC)
    if adaptation:
        _layer(state, "stu_feature_adap.0", 8, 8, 3, 3)
    _layer(state, "RCNN_bbox_pred", 84, FC)
    return state


def relu(x):
    return np.maximum(x, 0)


def conv2d(x, state, name):
    """As ``torch.nn.Conv2d`` with padding defines it: x [B,C,H,W], weight [O,C,k,k], cross-correlation."""
    weight, bias = state[f"{name}.weight"], state[f"{name}.bias"]
    pad = weight.shape[-1] // 2
    x = np.pad(x, ((0, 0), (0, 0), (pad, pad), (pad, pad)))
    windows = np.lib.stride_tricks.sliding_window_view(
        x, weight.shape[-2:], axis=(2, 3)
    )  # B x C x H x W x k x k
    return np.einsum("bchwyx,ocyx->bohw", windows, weight, optimize=True) + bias[:, None, None]


def max_pool(x):
    """2 x 2; a last odd row or column falls away."""
    x = x[:, :, : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    return x.reshape(*x.shape[:2], x.shape[2] // 2, 2, x.shape[3] // 2, 2).max(axis=(3, 5))


def linear(x, state, name):
    """As ``torch.nn.Linear`` defines it."""
    return x @ state[f"{name}.weight"].T + state[f"{name}.bias"]


def _features(state, backbone, prefix, x):
    """The base, floor pools included; x [B,3,H,W]."""
    events = [(i, "conv") for i in INDICES[backbone]] + [(i, "pool") for i in POOLS[backbone]]
    for index, kind in sorted(events):
        x = max_pool(x) if kind == "pool" else relu(conv2d(x, state, f"{prefix}.{index}"))
    return x


@pytest.mark.parametrize("backbone", ["vgg11", "vgg16"])
@pytest.mark.parametrize("zip_format", [True, False])
def test_reference_checkpoint_computes_what_its_layers_define(tmp_path, backbone, zip_format):
    state = _reference_state(backbone, adaptation=backbone == "vgg11")
    path = tmp_path / "faster_rcnn_1_7_10021.pth"
    content = {"session": 1, "epoch": 8, "model": state, "optimizer": {"state": {}, "param_groups": []}}
    content |= {"pooling_mode": "align", "class_agnostic": False}
    save(content, path, zip_format)
    detector = _detector(backbone)
    torch_weights.load_reference_checkpoint(detector, path)

    random = np.random.default_rng(3)
    images = random.uniform(-50, 50, (1, 3, 70, 90)).astype(np.float32)
    features = _features(state, backbone, "RCNN_base", images)
    scores = conv2d(relu(conv2d(features, state, "RCNN_rpn.RPN_Conv")), state, "RCNN_rpn.RPN_cls_score")
    outputs = detector(tf.constant(images.transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(outputs["features"][0], features.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-3)
    np.testing.assert_allclose(outputs["rpn_scores"][0], scores.transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-3)

    pooled = random.uniform(size=(5, 8, 7, 7)).astype(np.float32)
    hidden = pooled.reshape(5, -1)  # channels outermost
    for name in ("RCNN_top.0", "RCNN_top.3"):
        hidden = relu(linear(hidden, state, name))
    ours = detector.head(tf.constant(pooled.transpose(0, 2, 3, 1)[None]))
    for output, name in zip(ours, ("RCNN_cls_score", "RCNN_bbox_pred"), strict=True):
        np.testing.assert_allclose(output[0], linear(hidden, state, name), rtol=1e-4, atol=1e-4)


def test_adaptation_goes_to_the_imitation_layer(tmp_path):
    state = _reference_state()
    path = tmp_path / "student.pth"
    save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    layer = ImitationLoss([8])
    layer.build([(None, None, None, 8)])
    torch_weights.load_reference_checkpoint(_detector(), path, layer)
    expected = state["stu_feature_adap.0.weight"].transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(layer.kernels[0], expected)
    np.testing.assert_array_equal(layer.biases[0], state["stu_feature_adap.0.bias"])

    save(_reference_state(adaptation=False), path)
    with pytest.raises(UserError, match="holds no adaptation layer: it lacks stu_feature_adap.0.weight"):
        torch_weights.load_reference_checkpoint(_detector(), path, layer)
    save(state, path)
    small = ImitationLoss([4])
    small.build([(None, None, None, 8)])
    with pytest.raises(UserError, match="does not fit the imitation layer"):
        torch_weights.load_reference_checkpoint(_detector(), path, small)
    for wrong, message in (
        (np.zeros(3), r"its adaptation layer \(3,\) does not fit"),
        (np.full([8, 8, 3, 3], np.nan), "damaged: stu_feature_adap.0.weight holds values that are no finite"),
    ):
        save({**state, "stu_feature_adap.0.weight": wrong}, path)
        with pytest.raises(UserError, match=message):
            torch_weights.load_reference_checkpoint(_detector(), path, layer)
    np.testing.assert_array_equal(layer.kernels[0], expected)


def _imagenet_state(backbone):
    state = {}
    _base(state, backbone, "features")
    _layer(state, "classifier.0", FC, 8 * 49)
    _layer(state, "classifier.3", FC, FC)
    _layer(state, "classifier.6", 1000, FC)
    return state


@pytest.mark.parametrize("pixels", torch_weights.PIXELS)
def test_imagenet_files(tmp_path, pixels):
    state = _imagenet_state("vgg16")
    path = tmp_path / "vgg16.pth"
    save(state, path)
    detector = _detector("vgg16")
    torch_weights.load_imagenet(detector, path, pixels)
    rgb = np.random.default_rng(1).uniform(0, 255, [1, 64, 80, 3]).astype(np.float32)
    if pixels == "caffe":
        theirs = rgb[..., ::-1] - np.array([102.9801, 115.9465, 122.7717])
    else:
        theirs = (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    first = conv2d(theirs.transpose(0, 3, 1, 2), state, "features.0")
    ours = detector.base.convolutions[0](detector.preprocess(rgb))
    expected = relu(first).transpose(0, 2, 3, 1)
    # the zero padding of the border stands for another colour once the means are folded in
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(detector.head.fc7.kernel, state["classifier.3.weight"].T)


def test_files_that_are_refused(tmp_path):
    detector, path = _detector(), tmp_path / "weights.pth"
    before = [w.copy() for w in detector.get_weights()]
    state = _reference_state()

    def refused(content, message, load=torch_weights.load_reference_checkpoint):
        save(content, path)
        with pytest.raises(UserError, match=message):
            load(detector, path)

    partial = {key: value for key, value in state.items() if not key.startswith(("RCNN_top.3", "RCNN_bbox"))}
    missing = "lacks RCNN_top.3.weight, RCNN_top.3.bias, RCNN_bbox_pred.weight, RCNN_bbox_pred.bias"
    refused({"model": partial}, f"weights.pth: not a reference vgg11 Faster R-CNN: it {missing}")
    refused(_reference_state("vgg16"), "it lacks RCNN_base.3.weight")
    refused({**state, "RCNN_base.99.weight": np.zeros(1)}, "it also holds RCNN_base.99.weight")
    refused({**state, "RCNN_top.0.weight": np.zeros([FC, 100])}, r"RCNN_top.0.weight is \(64, 100\)")
    refused({**state, "RCNN_cls_score.bias": np.zeros(81)}, r"its bias \(81,\): this does not fit scores")
    refused({**state, "RCNN_top.0.weight": np.zeros(())}, r"RCNN_top.0.weight is \(\)")
    refused({**state, "RCNN_base.0.weight": np.zeros(3)}, r"RCNN_base.0.weight is \(3,\)")
    endless = np.where(state["RCNN_cls_score.bias"] > 0, np.inf, 0)
    refused(
        {**state, "RCNN_cls_score.bias": endless}, "damaged: RCNN_cls_score.bias holds values that are no"
    )
    refused(_imagenet_state("vgg11"), "it lacks RCNN_rpn.RPN_Conv.weight")
    refused(state, "not an ImageNet vgg11: it lacks features.0.weight", torch_weights.load_imagenet)
    for old, new in zip(before, detector.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(UserError, match="pixels 'bgr' is unknown: choose one of caffe, torchvision"):
        torch_weights.load_imagenet(detector, path, "bgr")


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "weights.pth"
    path.write_bytes(b"not a checkpoint")
    for load in (torch_weights.load_reference_checkpoint, torch_weights.load_imagenet):
        with pytest.raises(UserError, match="weights.pth: damaged or not a PyTorch file"):
            load(_detector(), path)


def test_reference_files_are_told_apart(tmp_path):
    path = tmp_path / "weights.pth"
    save(_reference_state(), path)
    assert torch_weights.is_reference_checkpoint(path)
    save(_imagenet_state("vgg11"), path)
    assert not torch_weights.is_reference_checkpoint(path)
