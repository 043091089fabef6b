"""Checkpoints that are damaged, of another model, or do not fit on the disk; and loading a detector back."""

from __future__ import annotations

import shutil

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.models.loading import load_detector, load_weights
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.training import checkpoints
from fgfi_tf.training.checkpoints import CheckpointManager
from fgfi_tf.training.optimizers import MomentumSGD

CLASSES = ("Car", "Pedestrian", "Cyclist")


def build(name="tiny"):
    return registry.build(name, input_size=(32, 48), class_names=CLASSES)


@pytest.fixture(name="saved")
def saved_fixture(tmp_path):
    """A folder with checkpoints of steps 1, 2 and 3; the head's bias is filled with the step."""
    detector, step = build(), tf.Variable(0, dtype=tf.int64)
    optimizer = MomentumSGD(0.1)
    optimizer._create_all_weights(detector.trainable_variables)
    manager = CheckpointManager(
        tmp_path / "checkpoints", {"student": detector, "optimizer": optimizer}, step, fingerprint="tiny"
    )
    ModelMetadata("tiny", (32, 48), CLASSES).write(manager.folder)
    for value in (1, 2, 3):
        step.assign(value)
        detector.head.bias.assign(tf.fill([8], float(value)))
        assert manager.save() == manager.folder / f"ckpt-{value}"
    return manager, detector


def data_file(manager, step):
    return manager.folder / f"ckpt-{step}.data-00000-of-00001"


def restored_step(manager, detector):
    detector.head.bias.assign(tf.zeros([8]))
    path = manager.restore_latest()
    assert float(detector.head.bias[0]) == float(manager.step.numpy()) == checkpoints.step_of(path)
    return int(manager.step.numpy())


def test_newest_is_restored(saved):
    assert restored_step(*saved) == 3


def damage(manager, kind):
    newest, index = data_file(manager, 3), manager.folder / "ckpt-3.index"
    if kind == "truncated":
        newest.write_bytes(newest.read_bytes()[:-2000])
    elif kind in ("one bit", "corrupted"):
        content = bytearray(newest.read_bytes())
        for i in (
            range(len(content) // 2, len(content) // 2 + 1)
            if kind == "one bit"
            else range(0, len(content), 100)
        ):
            content[i] ^= 0x01
        newest.write_bytes(bytes(content))
    elif kind == "data missing":
        newest.unlink()
    elif kind == "index empty":
        index.write_bytes(b"")
    else:
        index.write_bytes(index.read_bytes()[: index.stat().st_size // 2])


KINDS = ["truncated", "corrupted", "data missing", "index empty", "index truncated"]


@pytest.mark.parametrize("kind", [*KINDS, "one bit"])
def test_damaged_newest_falls_back_with_a_warning_that_names_it(saved, kind, caplog):
    damage(saved[0], kind)
    assert restored_step(*saved) == 2
    assert "ckpt-3 is damaged and skipped" in caplog.text


@pytest.mark.parametrize("kind", KINDS)
def test_damaged_checkpoint_is_not_loaded(saved, kind):
    damage(saved[0], kind)
    with pytest.raises(UserError, match="ckpt-3 is damaged"):
        load_detector(saved[0].folder / "ckpt-3")


def test_no_readable_checkpoint_at_all(saved):
    for step in (1, 2, 3):
        data_file(saved[0], step).write_bytes(b"")
    with pytest.raises(UserError, match="none of the 3 checkpoints in .* can be read"):
        saved[0].restore_latest()


def test_unfinished_checkpoint_without_index_is_not_seen(saved):
    (saved[0].folder / "ckpt-3.index").unlink()
    assert restored_step(*saved) == 2


def test_empty_folder_restores_nothing(tmp_path):
    manager = CheckpointManager(tmp_path / "none", {"student": build()}, tf.Variable(0, dtype=tf.int64))
    assert manager.restore_latest() is None


def test_full_disk_keeps_older_checkpoints_and_says_so(saved, monkeypatch, caplog):
    manager, _ = saved

    def write(path):
        data_file(manager, 4).write_bytes(b"half of it")
        raise tf.errors.ResourceExhaustedError(None, None, "No space left on device")

    monkeypatch.setattr(manager.checkpoint, "write", write)
    manager.step.assign(4)
    assert manager.save() is None
    assert "could not save checkpoint" in caplog.text
    assert "No space left on device; kept: ckpt-1, ckpt-2, ckpt-3" in caplog.text
    assert not data_file(manager, 4).exists()
    assert restored_step(*saved) == 3


def test_only_the_newest_are_kept(saved):
    manager, _ = saved
    manager.keep = 2
    manager.step.assign(4)
    manager.save()
    assert [p.name for p in checkpoints.list_checkpoints(manager.folder)] == ["ckpt-3", "ckpt-4"]


def test_damaged_later_ones_take_no_place_of_those_that_can_be_read(saved):
    manager, _ = saved
    damage(manager, "truncated")
    manager.keep = 1
    assert restored_step(*saved) == 2
    manager.step.assign(2)
    assert manager.save() == manager.folder / "ckpt-2"
    assert [p.name for p in checkpoints.list_checkpoints(manager.folder)] == ["ckpt-2"]
    assert restored_step(*saved) == 2


def test_worker_that_owns_no_files_leaves_none(saved):
    manager, _ = saved
    manager.writes = False
    manager.step.assign(9)
    assert manager.save() is not None
    assert sorted(p.name for p in manager.folder.iterdir() if "9" in p.name or p.is_dir()) == []


def test_checkpoint_of_another_model_is_refused(saved, tmp_path):
    manager = CheckpointManager(
        saved[0].folder,
        {"student": build("tiny_teacher")},
        tf.Variable(0, dtype=tf.int64),
        fingerprint="tiny_teacher",
    )
    with pytest.raises(
        UserError, match="ckpt-3 is a checkpoint of another model or optimizer than tiny_teacher"
    ):
        manager.restore_latest()
    with pytest.raises(UserError, match="ckpt-3 is a checkpoint of tiny, not of tiny_teacher"):
        load_detector(saved[0].folder, model="tiny_teacher")
    with pytest.raises(UserError, match="ckpt-3 is a checkpoint of another model than tiny_teacher"):
        load_weights(build("tiny_teacher"), saved[0].folder)
    with pytest.raises(UserError, match="detects Car, Pedestrian, Cyclist; the dataset has aeroplane"):
        load_detector(saved[0].folder, class_names=("aeroplane",))


@pytest.mark.parametrize("form", ["run", "folder", "prefix", "index"])
def test_detector_is_loaded_from_every_form_of_path(saved, form):
    manager, _ = saved
    path = {
        "run": manager.folder.parent,
        "folder": manager.folder,
        "prefix": manager.folder / "ckpt-3",
        "index": manager.folder / "ckpt-3.index",
    }[form]
    detector = load_detector(path)
    assert detector.input_size == (32, 48)
    np.testing.assert_array_equal(detector.head.bias, np.full(8, 3.0))
    assert load_detector(path, input_size=(64, 96)).input_size == (64, 96)


def test_loading_prefers_the_moving_average(tmp_path):
    detector, step = build(), tf.Variable(5, dtype=tf.int64)
    averages = [tf.Variable(tf.fill(v.shape, 0.25)) for v in detector.trainable_variables]
    manager = CheckpointManager(tmp_path, {"student": detector, "averages": averages}, step)
    ModelMetadata("tiny", (32, 48), CLASSES).write(tmp_path)
    manager.save()
    loaded = load_detector(tmp_path)
    assert all((v.numpy() == 0.25).all() for v in loaded.trainable_variables)


def test_paths_without_checkpoint(tmp_path):
    with pytest.raises(UserError, match="no checkpoint at .*nowhere"):
        load_detector(tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no ckpt-"):
        load_detector(tmp_path)


def test_malformed_metadata(saved):
    (saved[0].folder / "model.json").write_text("{")
    with pytest.raises(UserError, match="model.json is malformed"):
        load_detector(saved[0].folder)


def test_copy_replaces_what_was_best(saved, tmp_path):
    manager, _ = saved
    for step in (1, 2):
        checkpoints.copy_checkpoint(manager.folder / f"ckpt-{step}", tmp_path / "best")
    assert [p.name for p in checkpoints.list_checkpoints(tmp_path / "best")] == ["ckpt-2"]
    shutil.rmtree(manager.folder)
    assert float(load_detector(tmp_path / "best").head.bias[0]) == 2.0


@pytest.mark.shared_data
def test_reference_checkpoint_needs_only_its_model_name(shared_path):
    path = shared_path("golden/shuffledet") / "model.ckpt-1"
    with pytest.raises(UserError, match="say which model it is"):
        load_detector(path)
    assert load_detector(path, model="shuffledet_0.5x").feature_channels == (384,)
    with pytest.raises(UserError, match="shuffledet_0.25x"):
        load_detector(path, model="shuffledet_0.25x")
