"""Which file of another framework goes where, and what is refused."""

import numpy as np
import pytest
from pth_writer import save

from fgfi_tf.errors import UserError
from fgfi_tf.models import loading, registry
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, weights


class FullWidth(FasterRCNN):
    """A narrow network that says it is a whole one: the real one has 137 million weights."""

    def __init__(self):
        super().__init__(FasterRCNNConfig(backbone="vgg16", width=1 / 64))
        self.config = FasterRCNNConfig(backbone="vgg16")


@pytest.fixture(name="called")
def called_fixture(monkeypatch):
    """Names of the readers that are called, with the pixels."""
    calls = []
    for name in ("load_reference_checkpoint", "load_imagenet", "load_keras_imagenet"):
        monkeypatch.setattr(weights, name, lambda *args, name=name: calls.append((name, *args[2:])))
    return calls


def write(path, *keys):
    return save({key: np.zeros(1, np.float32) for key in keys}, path)


def test_each_file_goes_to_its_reader(tmp_path, called):
    detector = FullWidth()
    for name, key, pixels, expected in (
        (
            "faster_rcnn_1_7_10021.pth",
            "RCNN_base.0.weight",
            "auto",
            ("load_reference_checkpoint",),
        ),
        ("vgg16_caffe.pth", "features.0.weight", "auto", ("load_imagenet", "caffe")),
        ("vgg16-397923af.pth", "features.0.weight", "auto", ("load_imagenet", "torchvision")),
        ("mine.pth", "features.0.weight", "caffe", ("load_imagenet", "caffe")),
        ("vgg16.h5", "", "auto", ("load_keras_imagenet",)),
    ):
        path = write(tmp_path / name, key) if key else tmp_path / name
        path.touch()
        called.clear()
        loading.load_initial_weights(detector, path, pixels)
        assert called == [expected]


def test_files_that_are_refused(tmp_path):
    detector = FullWidth()
    imagenet = write(tmp_path / "mine.pth", "features.0.weight")
    with pytest.raises(UserError, match="pass --init_pixels=caffe or --init_pixels=torchvision"):
        loading.load_initial_weights(detector, imagenet)
    with pytest.raises(
        UserError, match="mine.pth: not a reference vgg16 .*: it lacks RCNN_rpn.RPN_Conv.weight"
    ):
        loading.load_weights(detector, imagenet)  # an ImageNet file is no teacher
    (tmp_path / "vgg16.h5").touch()
    with pytest.raises(UserError, match="vgg16.h5: holds ImageNet weights, not a trained detector"):
        loading.load_weights(detector, tmp_path / "vgg16.h5")
    shuffledet = registry.build("shuffledet_0.25x", input_size=(32, 48), class_names=("a",))
    with pytest.raises(UserError, match="mine.pth: shuffledet_0.25x has no weights in files of this kind"):
        loading.load_initial_weights(shuffledet, imagenet)
    with pytest.raises(UserError, match=r"mine.pth: say which model it is \(--model\)"):
        loading.load_detector(imagenet)
