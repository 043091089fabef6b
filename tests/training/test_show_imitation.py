"""The picture of an imitation: distances by hand, what is drawn, what is refused."""

from __future__ import annotations

import types

import numpy as np
import pytest
import show_imitation as script
import tensorflow as tf

from fgfi_tf import cli
from fgfi_tf.geometry.anchors import anchor_grid
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.training import show_imitation
from fgfi_tf.training.show_imitation import Seen


class Constant:
    """A network with the same features everywhere."""

    def __init__(self, *values, size=(2, 3)):
        self._features = tf.broadcast_to(tf.constant(values), [1, *size, len(values)])

    def preprocess(self, images):
        return images

    def imitation_features(self, inputs):
        return (self._features,)


def distance(student, teacher, kernel, bias):
    layer = types.SimpleNamespace(
        kernels=[tf.constant(kernel)],
        biases=[tf.constant(bias)],
        activation="linear",
        paired=lambda: ((0, 0),),
    )
    distiller = types.SimpleNamespace(student=student, teacher=teacher, imitation=layer)
    return show_imitation._distance(distiller, {"image": tf.zeros([1, 32, 48, 3])})


def test_distance_by_hand():
    # adapted: 2 * 1 + (0, 1) = (2, 3); the teacher's (2, 0) has a norm of 2, the difference one of 3
    found = distance(Constant(1.0), Constant(2.0, 0.0), [[[[2.0, 2.0]]]], [0.0, 1.0])
    np.testing.assert_allclose(found, np.full((2, 3), 1.5))
    # an adaptation that says nothing is as far away as the teacher is large
    found = distance(Constant(1.0), Constant(3.0, 4.0, size=(4, 6)), [[[[0.0, 0.0]]]], [0.0, 0.0])
    np.testing.assert_allclose(found, np.ones((2, 3)))


def test_what_is_drawn():
    image = np.full((32, 48, 3), 100, np.uint8)
    mask = np.array([[True, False, False], [False, False, False]])
    before, after = np.full((2, 3), 1.0), np.where(mask, 0.0, 1.0)
    seen = Seen(image, np.array([[2.0, 2.0, 12.0, 12.0]]), ["Car"], {0.5: mask, 0.8: mask}, before, after)
    assert show_imitation.draw(seen).dtype == np.uint8
    dark, bright = (show_imitation._heat(image, found).astype(int) for found in (after, before))
    assert (dark[:16, :16].sum(-1) < bright[:16, :16].sum(-1)).all()
    np.testing.assert_array_equal(dark[16:], bright[16:])
    assert show_imitation._means(seen, after) == "0.00 in the mask of 0.5, 1.00 elsewhere"
    # without objects there is no distance in the mask, rather than one of 0
    empty = seen._replace(boxes=np.zeros((0, 4)), labels=[], masks={0.2: np.zeros_like(mask)})
    assert show_imitation._means(empty, after) == "0.83 everywhere"
    assert show_imitation._means(seen._replace(masks={0.0: mask | ~mask}), before) == "1.00 in the mask of 0"
    assert show_imitation.draw(empty).shape[-1] == 3


class Pyramid:
    """A student of two maps, strides 16 and 32, whose second is compared with the teacher's first."""

    def __init__(self, *values):
        self._features = [tf.fill([1, 64 // stride, 96 // stride, 1], value) for stride, value in values]

    def preprocess(self, images):
        return images

    def imitation_features(self, inputs):
        return self._features

    def imitation_anchors(self, height, width):
        sizes = ((16, 16), (32, 64))
        return [
            anchor_grid(height // stride, width // stride, stride, [side], [1.0]) for stride, side in sizes
        ]

    def imitation_boxes(self, batch):
        return batch["boxes"], batch["valid"]

    def imitation_valid_mask(self, batch, height, width):
        return None


def test_maps_that_differ_in_place():
    """The pair that is compared, not the first maps of both; marked by the boxes that fit its anchors."""
    layer = ImitationLoss([1], pairs=[(1, 0)], region="fine_grained", levels="best", psi=0.5)
    layer.kernels, layer.biases = [tf.ones([1, 1, 1, 1])], [tf.zeros([1])]
    student, teacher = Pyramid((16, 9.0), (32, 3.0)), Pyramid((32, 4.0), (16, 9.0))
    distiller = types.SimpleNamespace(student=student, teacher=teacher, imitation=layer)
    batch = {
        "image": tf.zeros([1, 64, 96, 3]),
        "boxes": tf.constant([[[0.0, 0.0, 64.0, 64.0]]]),
        "valid": tf.constant([[True]]),
    }
    np.testing.assert_allclose(show_imitation._distance(distiller, batch), np.full((2, 3), 0.25))
    (mask,) = show_imitation._masks(distiller, batch, 0.5)
    assert mask.shape == (2, 3) and mask.any()
    small = {**batch, "boxes": tf.constant([[[0.0, 0.0, 16.0, 16.0]]])}  # an object of the other map
    assert not show_imitation._masks(distiller, small, 0.5)[0].any()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--run is missing: the run folder of a student that imitates"),
        (["--run=absent"], "--run=absent: no run folder: it has no flags.cfg"),
        (["--run=plain"], "--run=plain: this student did not imitate"),
        (["--run=plain", "--psi=2"], "--psi=2: numbers from 0 to 1 are expected, separated by commas"),
        (["--run=plain", "--output=a.jpg"], "--output=a.jpg: a PNG is written: call it a.png"),
        (["--output=there.png"], "there.png is there already; name another folder, or --overwrite"),
        (["--run=taught"], "--teacher_checkpoint: no checkpoint at gone"),
    ],
)
def test_what_is_refused(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "there.png").touch()
    for name, flags in (
        ("plain", "--model=shuffledet_0.25x\n"),
        ("taught", "--model=shuffledet_0.25x\n--imitation\n--teacher_checkpoint=gone\n"),
    ):
        (tmp_path / name).mkdir()
        (tmp_path / name / "flags.cfg").write_text(flags)
    with pytest.raises(SystemExit) as end:
        cli.run(script.main, ["show_imitation.py", *arguments])
    assert end.value.code == 1
    assert message in capsys.readouterr().err
