"""Weights of PyTorch: the same features as torch computes, and every wrong file refused."""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.interop import torch_weights
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig

torch = pytest.importorskip("torch", reason="reading .pth files needs the extra [torch]")

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
    fan_in = int(np.prod(shape[1:]))
    state[f"{name}.weight"] = torch.randn(*shape) * (2.0 / fan_in) ** 0.5
    state[f"{name}.bias"] = torch.randn(shape[0])


def _base(state, backbone, prefix):
    previous = 3
    for index, channels in zip(INDICES[backbone], CHANNELS[backbone], strict=True):
        _layer(state, f"{prefix}.{index}", channels, previous, 3, 3)
        previous = channels


def _reference_state(backbone="vgg11", adaptation=True):
    torch.manual_seed(1)
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


def _torch_features(state, backbone, prefix, x):
    """The base as torch computes it, floor pools included; x [B,3,H,W]."""
    functional = torch.nn.functional
    events = [(i, "conv") for i in INDICES[backbone]] + [(i, "pool") for i in POOLS[backbone]]
    for index, kind in sorted(events):
        if kind == "pool":
            x = functional.max_pool2d(x, 2, 2)
        else:
            x = functional.relu(
                functional.conv2d(
                    x, state[f"{prefix}.{index}.weight"], state[f"{prefix}.{index}.bias"], padding=1
                )
            )
    return x


@pytest.mark.parametrize("backbone", ["vgg11", "vgg16"])
@pytest.mark.parametrize("zip_format", [True, False])
def test_reference_checkpoint_computes_what_torch_computes(tmp_path, backbone, zip_format):
    state = _reference_state(backbone, adaptation=backbone == "vgg11")
    path = tmp_path / "faster_rcnn_1_7_10021.pth"
    content = {"session": 1, "epoch": 8, "model": state, "optimizer": {"state": {}, "param_groups": []}}
    content |= {"pooling_mode": "align", "class_agnostic": False}
    torch.save(content, path, _use_new_zipfile_serialization=zip_format)
    detector = _detector(backbone)
    torch_weights.load_reference_checkpoint(detector, path)

    images = torch.rand(1, 3, 70, 90) * 100 - 50
    functional = torch.nn.functional
    features = _torch_features(state, backbone, "RCNN_base", images)
    hidden = functional.conv2d(
        features, state["RCNN_rpn.RPN_Conv.weight"], state["RCNN_rpn.RPN_Conv.bias"], padding=1
    )
    scores = functional.conv2d(
        functional.relu(hidden), state["RCNN_rpn.RPN_cls_score.weight"], state["RCNN_rpn.RPN_cls_score.bias"]
    )
    outputs = detector(tf.constant(images.numpy().transpose(0, 2, 3, 1)))
    np.testing.assert_allclose(
        outputs["features"][0], features.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-3
    )
    np.testing.assert_allclose(
        outputs["rpn_scores"], scores.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-3
    )

    pooled = torch.rand(5, 8, 7, 7)
    hidden = pooled.flatten(1)  # channels outermost
    for name in ("RCNN_top.0", "RCNN_top.3"):
        hidden = functional.relu(functional.linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"]))
    ours = detector.head(tf.constant(pooled.numpy().transpose(0, 2, 3, 1)[None]))
    for output, name in zip(ours, ("RCNN_cls_score", "RCNN_bbox_pred"), strict=True):
        expected = functional.linear(hidden, state[f"{name}.weight"], state[f"{name}.bias"])
        np.testing.assert_allclose(output[0], expected, rtol=1e-4, atol=1e-4)


def test_adaptation_goes_to_the_imitation_layer(tmp_path):
    state = _reference_state()
    path = tmp_path / "student.pth"
    torch.save({"model": {f"module.{key}": value for key, value in state.items()}}, path)
    layer = ImitationLoss([8])
    layer.build([(None, None, None, 8)])
    torch_weights.load_reference_checkpoint(_detector(), path, layer)
    expected = state["stu_feature_adap.0.weight"].numpy().transpose(2, 3, 1, 0)
    np.testing.assert_array_equal(layer.kernels[0], expected)
    np.testing.assert_array_equal(layer.biases[0], state["stu_feature_adap.0.bias"].numpy())

    torch.save(_reference_state(adaptation=False), path)
    with pytest.raises(UserError, match="holds no adaptation layer: it lacks stu_feature_adap.0.weight"):
        torch_weights.load_reference_checkpoint(_detector(), path, layer)
    torch.save(state, path)
    small = ImitationLoss([4])
    small.build([(None, None, None, 8)])
    with pytest.raises(UserError, match="does not fit the imitation layer"):
        torch_weights.load_reference_checkpoint(_detector(), path, small)


def _imagenet_state(backbone):
    torch.manual_seed(2)
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
    torch.save(state, path)
    detector = _detector("vgg16")
    torch_weights.load_imagenet(detector, path, pixels)
    rgb = np.random.default_rng(1).uniform(0, 255, [1, 64, 80, 3]).astype(np.float32)
    if pixels == "caffe":
        theirs = rgb[..., ::-1] - np.array([102.9801, 115.9465, 122.7717])
    else:
        theirs = (rgb / 255 - [0.485, 0.456, 0.406]) / [0.229, 0.224, 0.225]
    x = torch.tensor(theirs.transpose(0, 3, 1, 2), dtype=torch.float32)
    first = torch.nn.functional.conv2d(x, state["features.0.weight"], state["features.0.bias"], padding=1)
    ours = detector.base.convolutions[0](detector.preprocess(rgb))
    expected = torch.relu(first).numpy().transpose(0, 2, 3, 1)
    # the zero padding of the border stands for another colour once the means are folded in
    np.testing.assert_allclose(ours[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], rtol=1e-3, atol=1e-3)
    np.testing.assert_array_equal(detector.head.fc7.kernel, state["classifier.3.weight"].numpy().T)


def test_files_that_are_refused(tmp_path):
    detector, path = _detector(), tmp_path / "weights.pth"
    before = [w.copy() for w in detector.get_weights()]
    state = _reference_state()

    def refused(content, message, load=torch_weights.load_reference_checkpoint):
        torch.save(content, path)
        with pytest.raises(UserError, match=message):
            load(detector, path)

    partial = {key: value for key, value in state.items() if not key.startswith(("RCNN_top.3", "RCNN_bbox"))}
    missing = "lacks RCNN_top.3.weight, RCNN_top.3.bias, RCNN_bbox_pred.weight, RCNN_bbox_pred.bias"
    refused({"model": partial}, f"weights.pth: not a reference vgg11 Faster R-CNN: it {missing}")
    refused(_reference_state("vgg16"), "it lacks RCNN_base.3.weight")
    refused({**state, "RCNN_base.99.weight": torch.zeros(1)}, "it also holds RCNN_base.99.weight")
    refused({**state, "RCNN_top.0.weight": torch.zeros(FC, 100)}, r"RCNN_top.0.weight is \(64, 100\)")
    refused({**state, "RCNN_cls_score.bias": torch.zeros(81)}, r"its bias \(81,\): this does not fit scores")
    refused(_imagenet_state("vgg11"), "it lacks RCNN_rpn.RPN_Conv.weight")
    refused(state, "not an ImageNet vgg11: it lacks features.0.weight", torch_weights.load_imagenet)
    refused([1, 2], "holds a list, not a dictionary of weights")
    refused({"model": {}}, "holds no weights")
    for old, new in zip(before, detector.get_weights(), strict=True):
        np.testing.assert_array_equal(old, new)
    with pytest.raises(UserError, match="pixels 'bgr' is unknown: choose one of caffe, torchvision"):
        torch_weights.load_imagenet(detector, path, "bgr")


def test_files_that_cannot_be_read(tmp_path):
    path = tmp_path / "weights.pth"
    with pytest.raises(UserError, match="weights.pth: no such file"):
        torch_weights.read_state_dict(path)
    torch.save(_reference_state(), path)
    whole = path.read_bytes()
    for content in (whole[: len(whole) // 2], b"", b"not a checkpoint"):
        path.write_bytes(content)
        with pytest.raises(
            UserError, match="weights.pth: (damaged or )?not a PyTorch file|weights.pth: damaged"
        ):
            torch_weights.read_state_dict(path)


class _Harmful:
    def __reduce__(self):
        return (print, ("a checkpoint ran code",))


def test_a_file_cannot_run_code(tmp_path, capsys):
    path = tmp_path / "weights.pth"
    torch.save({"model": {"RCNN_base.0.weight": torch.zeros(1)}, "extra": _Harmful()}, path)
    with pytest.raises(UserError, match="not a PyTorch file of weights alone"):
        torch_weights.read_state_dict(path)
    assert "ran code" not in capsys.readouterr().out


def test_without_torch_the_extra_is_named(tmp_path, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "torch", None)
    with pytest.raises(UserError, match=r"needs torch: pip install 'fgfi_tf\[torch\]'"):
        torch_weights.read_state_dict(tmp_path / "weights.pth")


def test_reference_files_are_told_apart(tmp_path):
    path = tmp_path / "weights.pth"
    torch.save(_reference_state(), path)
    assert torch_weights.is_reference_checkpoint(path)
    torch.save(_imagenet_state("vgg11"), path)
    assert not torch_weights.is_reference_checkpoint(path)
