"""Anchors from the training objects: what a run finds, keeps and goes on with; what will not fit is said."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from own_fixtures import open_split, picture, xml

from fgfi_tf.errors import UserError
from fgfi_tf.geometry import shapes as anchor_shapes
from fgfi_tf.models import registry
from fgfi_tf.models.builtin import BACKBONES
from fgfi_tf.models.loading import load_detector
from fgfi_tf.options import Option
from fgfi_tf.training import anchors, flags, run
from fgfi_tf.training.config import ExperimentConfig

pytestmark = pytest.mark.usefixtures("short_shuffledet")

# Boxes of pictures of 96 x 64, in an input of 128 x 96: 4 / 3 as wide and 2 as high.
SHAPES = [(12, 8), (24, 8), (12, 32), (36, 16), (24, 40), (48, 24), (64, 16), (60, 48), (84, 56)]
AT_INPUT = [(w * 96 / 96, h * 128 / 64) for w, h in SHAPES]


@pytest.fixture(name="photos", scope="module")
def photos_fixture(tmp_path_factory):
    """Nine pictures: each has two boxes of one shape, and one to ignore of a shape of its own."""
    root = tmp_path_factory.mktemp("own") / "photos"
    for i, (w, h) in enumerate(SHAPES):
        path = picture(root / f"{i}.jpg", 96, 64)
        objects = [("cup", 1, 1, w, h), ("cup", 97 - w, 65 - h, 96, 64), ("dog", 1, 1, 3 + i, 60)]
        xml(path.with_suffix(".xml"), *objects, size=(96, 64))
    return root


@pytest.fixture(name="config")
def config_fixture(photos, tmp_path):
    return ExperimentConfig(
        model="shuffledet_0.25x",
        dataset="folder",
        data_dir=str(photos),
        train_split="all",
        val_split="all",
        classes="cup,dog=ignore",
        input_size="128x96",
        output_dir=str(tmp_path / "run"),
        batch_size=2,
        steps=2,
        schedule="constant",
        learning_rate=0.001,
        checkpoint_every=1,
        picture_every=0,
        options={"anchors": "auto", "drift": "0x0"},
    )


def _at(size, detector):
    """Anchor shapes (w, h) [K,2] of a detector, as imitation is given them."""
    (grid,) = detector.imitation_anchors(*size)
    return (grid[0, 0, :, 2:] - grid[0, 0, :, :2]).numpy()


def test_a_run_finds_keeps_and_goes_on_with_its_anchors(config, photos, tmp_path, capsys):
    """Nine shapes, nine anchors: they are the shapes. A run goes on with them although the data changed."""
    folder = run.train(config).folder
    printed = capsys.readouterr().out
    by_area = sorted(AT_INPUT, key=lambda shape: shape[0] * shape[1])
    card = json.loads((folder.checkpoints / "model.json").read_text())
    kept = card["options"]["anchors"]
    np.testing.assert_allclose(anchor_shapes.parse(kept) * [96, 128], by_area, atol=1e-3)
    scale = np.array([96 / 1248, 128 / 384])
    published = np.array([(36, 37), (366, 174), (115, 59), (162, 87), (38, 90), (258, 173), (224, 108),
                          (78, 170), (72, 43)]) * scale  # fmt: skip
    before = anchor_shapes.best_ious(AT_INPUT, published).mean()
    listed = "12x16, 24x16, 12x64, 36x32, 24x80, 64x32, 48x48, 60x96, 84x112"
    assert (
        f"anchors of 18 objects at 128x96, width x height: {listed}; mean best IoU {before:.3f} with the "
        "published ones, 1.000 with these\n" in printed
    )
    detector = load_detector(folder.root)
    for made in (detector, detector.inference_copy()):
        np.testing.assert_allclose(_at((128, 96), made), by_area, atol=1e-3)
        np.testing.assert_allclose(made.anchors[0, 0, :, 2:], by_area, atol=1e-3)
        # they scale with the input, as the published ones do
        np.testing.assert_allclose(_at((256, 96), made), np.array(by_area) * [1, 2], atol=2e-3)
    # other data would give other anchors
    other = tmp_path / "other"
    shutil.copytree(photos, other)
    xml(other / "0.xml", ("cup", 1, 1, 90, 10), ("cup", 1, 1, 90, 12), size=(96, 64))
    changes = {"steps": 3, "data_dir": str(other), "allow_changed_data": True}
    run.train(ExperimentConfig(**{**vars(config), **changes}))
    assert json.loads((folder.checkpoints / "model.json").read_text()) == card
    assert "anchors of" not in capsys.readouterr().out
    assert flags.read_flagfile(folder.flags).options["anchors"] == "auto"
    # a new run from these weights has their anchors, unless others are asked for or the classes are others
    dataset, lines = open_split("folder", str(other), "all", classes="cup,dog=ignore"), []
    start = {"init_checkpoint": str(folder.root), "output_dir": "elsewhere"}

    def fitted(classes_of=dataset, **options):
        changed = ExperimentConfig(**{**vars(config), **start, "options": {"drift": "0x0", **options}})
        return anchors.fitted_options(changed, Path("/no"), classes_of, lines.append)["anchors"]

    assert fitted() == kept
    assert lines == [f"anchors: those of {folder.root}, which its weights are for"]
    lines.clear()
    assert fitted(anchors="auto") not in (kept, "published")
    told = f"the weights of {folder.root} are for other anchors than --anchors gives this model"
    assert len(lines) == 2 and lines[1] == told
    lines.clear()
    assert fitted(anchors=kept) == kept and not lines
    assert fitted(open_split("folder", str(other), "all", classes="cup,dog")) == "published" and not lines


def test_the_same_seed_gives_the_same_anchors_and_another_may_not(config):
    dataset = open_split("folder", config.data_dir, "all")  # the dogs' shapes as well
    found = {}
    for seed in (0, 0, 1, 2, 3):
        changed = ExperimentConfig(**{**vars(config), "seed": seed})
        options = anchors.fitted_options(changed, Path("/no"), dataset, lambda line: None)
        assert found.setdefault(seed, options["anchors"]) == options["anchors"]
        assert options["dropout"] == 0.5
    assert len(set(found.values())) > 1


def test_objects_at_the_input_of_each_policy(config):
    """96 x 64 stretched to 128 x 96; fitted into it (scale 1); shorter side to 32 (scale 1 / 2)."""
    dataset = open_split("folder", config.data_dir, "all", classes="cup,dog=ignore")
    twice = np.repeat(SHAPES, 2, axis=0)
    for resize, size, scale, content in (
        ("stretch", (128, 96), (1, 2), (128, 96)),
        ("letterbox", (128, 96), (1, 1), (64, 96)),
        ("shorter_side", (32, 0), (0.5, 0.5), (32, 48)),
    ):
        shapes, pictures = anchors.at_input(dataset, resize, size)
        np.testing.assert_allclose(shapes, twice * scale, err_msg=resize)
        np.testing.assert_array_equal(pictures, [content] * 9, err_msg=resize)


def test_deltas_and_targets_follow_the_anchors():
    """An object of exactly a named shape at an anchor's centre has deltas 0 and that anchor."""
    detector = registry.build(
        "shuffledet_0.25x", input_size=(64, 96), class_names=("a",), anchors="0.25x0.25,0.5x0.75"
    )
    assert detector.anchors.shape == (4, 6, 2, 4)
    assert detector.head.kernel.shape[-1] == 2 * (1 + 1 + 4)
    cx, cy, w, h = detector.anchors[1, 2, 1]
    assert (w, h) == (48, 48)
    boxes = tf.constant([[[cx - w / 2, cy - h / 2, cx + w / 2 - 1, cy + h / 2 - 1]]])
    batch = {"boxes": boxes, "classes": tf.zeros([1, 1], tf.int32), "valid": tf.ones([1, 1], tf.bool)}
    targets = detector.prepare_batch({**batch, "image": tf.zeros([1, 64, 96, 3])})["targets"]
    assert int(targets["anchor_index"][0, 0]) == (1 * 6 + 2) * 2 + 1
    np.testing.assert_allclose(targets["deltas"], np.zeros([1, 1, 4]), atol=1e-5)


@pytest.mark.parametrize("name", ["shuffledet_1x", *(f"{name}_shuffledet" for name in BACKBONES)])
def test_every_one_stage_detector_has_the_option(name):
    (option,) = [option for option in registry.options(name) if option.name == "anchors"]
    assert isinstance(option, Option) and option.default == "published"
    assert option.fault("auto") == option.fault("0.5x0.25") == ""
    assert option.fault("0.5x") == (
        "published, auto, or shapes w x h, each above 0, are expected, like 0.25x0.5,0.5x0.5, not '0.5x'"
    )


def test_what_cannot_decide(config, tmp_path):
    with pytest.raises(UserError, match="--anchors=auto: only a training can find them; give shapes here"):
        registry.build("shuffledet_0.25x", input_size=(64, 96), class_names=("a",), anchors="auto")
    path = picture(tmp_path / "few" / "0.jpg", 96, 64)
    xml(path.with_suffix(".xml"), ("cup", 1, 1, 40, 40), size=(96, 64))
    few = ExperimentConfig(**{**vars(config), "data_dir": str(tmp_path / "few"), "classes": ""})
    with pytest.raises(UserError, match="9 anchor shapes cannot be found among 1 different ones; label more"):
        run.train(few)


def test_anchors_unlike_the_objects_are_told():
    """The published shapes of a 128 x 128 input are wide: the widest are 38 x 58, the tallest 8 x 57."""
    build = lambda **options: registry.build(  # noqa: E731
        "shuffledet_0.25x", input_size=(128, 128), class_names=("a",), **options
    )
    objects, pictures = np.array([[120.0, 120.0], [30.0, 50.0]]), np.array([[128.0, 128.0]])
    # 37.5 x 58 lies in 120 x 120: IoU 0.151; it holds 30 x 50: 0.69
    told = build().anchor_misfit(objects, pictures)
    assert told.startswith(
        "no anchor is like 1 of the 2 training objects (best IoU below 0.3; the mean of all"
    )
    assert told.endswith(": --anchors=auto fits them")
    assert build().anchor_misfit(objects[[0, 1, 1, 1, 1]], pictures) == ""  # a fifth
    assert build().anchor_misfit(objects[:0], pictures) == ""
    assert build(anchors="0.9x0.9,0.25x0.4").anchor_misfit(objects, pictures) == ""
    assert build(anchors="0.01x0.01").anchor_misfit(objects, pictures) == (
        "no anchor is like 2 of the 2 training objects (best IoU below 0.3; the mean of all is 0.00)"
    )


def test_an_rpn_without_anchors_inside_is_told(config, caplog):
    """The smallest published anchors are 184 x 96, 128 x 128 and 88 x 176, 16 pixels apart from -40 on."""
    detector = registry.build("faster_rcnn_vgg11", input_size=(96, 0), class_names=("a",), width=0.02)
    pictures = np.array([[96.0, 144.0], [96.0, 200.0], [200.0, 200.0], [600.0, 800.0]])
    inside = []
    for height, width in pictures.astype(int):
        grid = detector.levels[0].anchors(height // 16, width // 16).numpy().reshape(-1, 4)
        limit = [width, height, width, height]
        inside.append(bool(np.any(np.all((grid >= 0) & (grid < limit), axis=1))))
    assert detector.levels[0].has_anchor_inside(pictures).tolist() == inside == [False, False, True, True]
    assert detector.anchor_misfit(np.zeros((0, 2)), pictures).startswith(
        "no anchor lies inside 2 of the 4 training pictures, of which the region proposal network learns"
    )
    assert detector.anchor_misfit(np.zeros((0, 2)), pictures[2:]) == ""
    options = {"width": 0.02}
    small = {"model": "faster_rcnn_vgg11", "input_size": "96x0", "steps": 1, "options": options}
    run.train(ExperimentConfig(**{**vars(config), **small}))
    assert "no anchor lies inside 9 of the 9 training pictures" in caplog.text
