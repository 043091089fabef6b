"""A run from flags to finished checkpoint: what it leaves, what it refuses, and that it resumes exactly."""

from __future__ import annotations

import dataclasses
import os
import re
import signal
import threading
import types
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.data import registry
from fgfi_tf.errors import UserError
from fgfi_tf.training import build, checkpoints, evaluate_command, evaluator, flags, run
from fgfi_tf.training.run_folder import RunFolder


def weights(path) -> dict[str, np.ndarray]:
    reader = tf.train.load_checkpoint(str(path))
    names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
    return {name: reader.get_tensor(name) for name in names}


def assert_same(first, second, atol=1e-6):
    first, second = weights(first), weights(second)
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(value, second[name], atol=atol, rtol=0, err_msg=name)


def scalars(folder) -> dict[str, list[int]]:
    found: dict[str, list[int]] = {}
    for file in folder.rglob("events.*"):
        for record in tf.data.TFRecordDataset(str(file)):
            event = tf.compat.v1.Event.FromString(record.numpy())
            for value in event.summary.value:
                found.setdefault(value.tag, []).append(event.step)
    return found


@pytest.fixture(name="teacher")
def teacher_fixture(experiment, tmp_path):
    run.train(experiment(model="tiny_teacher", output_dir=str(tmp_path / "teacher"), steps=2))
    return {
        "imitation": True,
        "teacher_model": "tiny_teacher",
        "teacher_checkpoint": str(tmp_path / "teacher"),
    }


def test_a_run_leaves_flags_checkpoints_and_summaries(experiment):
    config = experiment(picture_every=3)
    result = run.train(config)
    folder = RunFolder(result.folder.root)
    assert (result.step, result.finished) == (6, True)
    assert folder.finished.exists()
    assert flags.read_flagfile(folder.flags).values() == config.values()
    assert [p.name for p in checkpoints.list_checkpoints(folder.checkpoints)] == ["ckpt-3", "ckpt-6"]
    found = scalars(folder.summaries)
    for name in ("loss", "class_loss", "box_loss", "confidence_loss", "weight_decay", "learning_rate"):
        assert found[f"train/{name}"] == [2, 4, 6]
    assert found["detections"] == [3, 6]


def test_training_lowers_the_loss(experiment, capsys):
    run.train(experiment(model="tiny_plain", steps=40, summary_every=10, augment=False))
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("step ")]
    losses = [float(line.split("loss ")[1].split(",")[0]) for line in lines]
    assert len(losses) == 5  # after steps 1, 10, 20, 30 and 40
    assert losses[-1] < 0.7 * losses[0]


def test_a_student_checkpoint_has_no_teacher(experiment, teacher):
    run.train(experiment(**teacher))
    names = weights(RunFolder(Path(experiment().output_dir)).checkpoints / "ckpt-6")
    assert not any("teacher" in name for name in names)
    shapes = [
        value.shape for name, value in names.items() if name.startswith("student/stem") and "SLOT" not in name
    ]
    assert shapes == [(16, 16, 3, 8)]
    assert any(name.startswith("imitation/") for name in names)
    assert any("momentum" in name for name in names)
    assert int(names["step/.ATTRIBUTES/VARIABLE_VALUE"]) == 6


def test_the_loss_and_the_masks_of_an_imitation_are_logged(experiment, teacher):
    result = run.train(experiment(**teacher, picture_every=3))
    assert "train/imitation_loss" in scalars(result.folder.summaries)
    assert "imitation_mask/level_0" in scalars(result.folder.summaries)


def test_another_teacher_than_at_the_beginning_is_told(experiment, teacher, tmp_path, caplog):
    run.train(experiment(**teacher, steps=2, schedule_steps=6))
    assert run.train(experiment(**teacher, steps=3, schedule_steps=6)).finished
    assert "the teacher is not the one" not in caplog.text
    folder = teacher[
        "teacher_checkpoint"
    ]  # trained on meanwhile: the folder stands for its newest checkpoint
    run.train(experiment(model="tiny_teacher", output_dir=folder, steps=4, schedule_steps=2))
    result = run.train(experiment(**teacher, steps=4, schedule_steps=6))
    told = "the teacher is not the one that this run began with (teacher.txt): .*ckpt-4 is another checkpoint"
    assert re.search(re.escape(told).replace(r"\.\*", ".*"), caplog.text)
    assert "WARNING: the teacher is not the one" in (result.folder.root / "train.log").read_text()


@pytest.mark.parametrize("changes", [{}, {"ema": 0.9, "optimizer": "adam"}], ids=["sgd", "ema_adam"])
def test_resume_is_exact(experiment, tmp_path, teacher, changes):
    whole = experiment(
        output_dir=str(tmp_path / "whole"), steps=7, imitation_warmup_steps=5, **teacher, **changes
    )
    parts = experiment(
        output_dir=str(tmp_path / "parts"), steps=7, imitation_warmup_steps=5, **teacher, **changes
    )
    run.train(whole)
    stop_at(4, lambda: run.train(parts))
    assert [p.name for p in checkpoints.list_checkpoints(tmp_path / "parts/checkpoints")] == [
        "ckpt-3",
        "ckpt-4",
    ]
    assert run.train(parts).finished
    assert_same(tmp_path / "whole/checkpoints/ckpt-7", tmp_path / "parts/checkpoints/ckpt-7")


def stop_at(step, train):
    """Runs ``train`` and sends this process SIGTERM after a step."""
    original = run.callbacks.StepCounter.on_step

    def on_step(self, previous, now, logs):
        original(self, previous, now, logs)
        if now == step:
            os.kill(os.getpid(), signal.SIGTERM)

    run.callbacks.StepCounter.on_step = on_step
    try:
        return train()
    finally:
        run.callbacks.StepCounter.on_step = original


def test_sigterm_saves_and_says_so(experiment, capsys):
    before = signal.getsignal(signal.SIGTERM)
    result = stop_at(4, lambda: run.train(experiment()))
    assert (result.step, result.finished, result.stopped_by) == (4, False, "SIGTERM")
    assert signal.getsignal(signal.SIGTERM) is before
    assert not result.folder.finished.exists()
    run.report(result)
    assert "stopped by SIGTERM at step 4; last checkpoint: " in capsys.readouterr().out


def test_finished_run_is_not_trained_again(experiment):
    run.train(experiment())
    stamp = os.stat(RunFolder(Path(experiment().output_dir)).checkpoints / "ckpt-6.index").st_mtime_ns
    assert run.train(experiment()).finished
    assert os.stat(RunFolder(Path(experiment().output_dir)).checkpoints / "ckpt-6.index").st_mtime_ns == stamp


def test_another_run_is_never_overwritten(experiment):
    result = run.train(experiment())
    with pytest.raises(UserError, match="already holds another run, started with --learning_rate=0.02"):
        run.train(experiment(learning_rate=0.5))
    assert len(checkpoints.list_checkpoints(result.folder.checkpoints)) == 2
    run.train(experiment(learning_rate=0.01, steps=2, overwrite=True))
    assert [p.name for p in checkpoints.list_checkpoints(result.folder.checkpoints)] == ["ckpt-2"]


def test_overwrite_deletes_nothing_that_the_run_begins_from(experiment, teacher, tmp_path):
    result = run.train(experiment(evaluate_every=3))
    held = sorted(result.folder.root.rglob("*"))
    alias = tmp_path / "alias"
    alias.symlink_to(result.folder.root)
    for path in (result.folder.root, result.folder.best, result.folder.checkpoints / "ckpt-6", alias):
        with pytest.raises(
            UserError, match="--init_checkpoint=.* lies in --output_dir=.*--overwrite deletes"
        ):
            run.train(experiment(init_checkpoint=str(path), overwrite=True))
    folder = teacher["teacher_checkpoint"]
    with pytest.raises(UserError, match="--teacher_checkpoint=.* lies in --output_dir"):
        run.train(experiment(**teacher, output_dir=folder, overwrite=True))
    assert sorted(result.folder.root.rglob("*")) == held
    assert checkpoints.list_checkpoints(Path(folder) / "checkpoints")


def test_a_wrong_split_does_not_cost_the_run_that_is_there(experiment):
    result = run.train(experiment())
    with pytest.raises(UserError, match="trainig"):
        run.train(experiment(train_split="trainig", overwrite=True))
    assert len(checkpoints.list_checkpoints(result.folder.checkpoints)) == 2
    assert run.train(experiment()).finished  # still the same run


@pytest.mark.parametrize("gone", [False, True])
def test_a_run_goes_on_without_what_it_began_from(experiment, tmp_path, gone):
    first = run.train(experiment(output_dir=str(tmp_path / "first"), steps=2))
    changes = {"init_checkpoint": str(first.folder.root), "output_dir": str(tmp_path / "second")}
    run.train(experiment(**changes, steps=3, schedule_steps=6))
    if gone:
        first.folder.root.rename(tmp_path / "elsewhere")
    assert run.train(experiment(**changes, schedule_steps=6)).step == 6
    if gone:
        with pytest.raises(UserError, match="--init_checkpoint: no checkpoint at .*first"):
            run.train(experiment(**changes, overwrite=True))


def test_rules_that_do_not_fit_the_labels_are_told_before_the_first_step(experiment):
    changes = {"evaluate_every": 3, "min_overlap": "Foo=0.5"}
    with pytest.raises(UserError, match=r"Foo.*\(--evaluate_every=0 trains without evaluations\)"):
        run.train(experiment(**changes))
    assert not checkpoints.list_checkpoints(RunFolder(Path(experiment().output_dir)).checkpoints)
    assert run.train(experiment(**{**changes, "min_overlap": "Car=0.5"})).finished


def test_a_folder_of_something_else_is_left_alone(experiment, tmp_path):
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "thesis.tex").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="is not empty and holds no run"):
            run.train(experiment(overwrite=overwrite))
    assert (tmp_path / "run" / "thesis.tex").read_text() == "mine"


def test_a_run_without_checkpoints_can_be_started_differently(experiment):
    with pytest.raises(UserError, match="no checkpoint at /no/teacher"):
        run.train(experiment(imitation=True, teacher_model="tiny_teacher", teacher_checkpoint="/no/teacher"))
    assert run.train(experiment(steps=1)).finished


def test_non_finite_loss_stops_and_keeps_the_good_checkpoint(experiment, monkeypatch):
    import tiny_detector

    original = tiny_detector.TinyDetector.detection_losses

    def losses(self, outputs, batch):
        terms = original(self, outputs, batch)
        terms["box_loss"] *= tf.where(batch["seed"][1] == 4, float("inf"), 1.0)
        return terms

    monkeypatch.setattr(tiny_detector.TinyDetector, "detection_losses", losses)
    with pytest.raises(
        UserError, match="stopped at step 5: .*box_loss is inf.*last good checkpoint is .*ckpt-3"
    ):
        run.train(experiment())
    folder = RunFolder(Path(experiment().output_dir))
    assert [p.name for p in checkpoints.list_checkpoints(folder.checkpoints)] == ["ckpt-3"]
    assert all(
        np.isfinite(v).all() for v in weights(folder.checkpoints / "ckpt-3").values() if v.dtype == np.float32
    )


def test_batches_without_objects_train(experiment, tmp_path):
    import tiny_detector

    data = tiny_detector.write_kitti(tmp_path / "empty", frames=8, empty=tuple(range(1, 8)))
    assert run.train(experiment(data_dir=str(data), batch_size=1, steps=6)).finished


def test_evaluation_while_training_keeps_the_best(experiment, capsys):
    result = run.train(experiment(evaluate_every=3))
    results = evaluator.ResultLog(result.folder).results()
    assert sorted(results) == [3, 6]
    best = max(results, key=lambda step: (results[step]["mAP11"], -step))
    assert [p.name for p in checkpoints.list_checkpoints(result.folder.best)] == [f"ckpt-{best}"]
    assert "evaluation/mAP11" in scalars(result.folder.summaries)
    assert "mean of nine" in capsys.readouterr().out


def test_watch_evaluates_every_checkpoint_and_ends_with_training(experiment, kitti, monkeypatch):
    config = experiment()
    # Opened before: TFDS is not made for two threads, and users watch in a process of their own.
    splits = {name: registry.open_split("kitti", kitti, name) for name in ("train", "val")}
    monkeypatch.setattr(registry, "open_split", lambda name, folder, split, *_, **__: splits[split])
    watch = evaluate_command.EvaluateConfig(
        checkpoint=config.output_dir, data_dir=str(kitti), watch=True, poll_seconds=0.1
    )
    thread = threading.Thread(target=evaluate_command.evaluate, args=(watch,))
    thread.start()
    run.train(config)
    thread.join(timeout=60)
    assert not thread.is_alive()
    assert sorted(evaluator.ResultLog(RunFolder(Path(config.output_dir))).results()) == [3, 6]


def test_evaluation_of_a_checkpoint(experiment, kitti, tmp_path, capsys):
    run.train(experiment(steps=2))
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(
            checkpoint=experiment().output_dir,
            data_dir=str(kitti),
            results_dir=str(tmp_path / "results"),
            output_json=str(tmp_path / "ap.json"),
        )
    )
    assert sorted(p.name for p in (tmp_path / "results").iterdir()) == [
        "000009.txt",
        "000010.txt",
        "000011.txt",
    ]
    assert (tmp_path / "ap.json").is_file()
    assert "Cyclist" in capsys.readouterr().out


def test_a_teacher_of_another_number_of_maps_is_told(experiment):
    config = dataclasses.replace(experiment(), teacher_model="tiny_teacher", teacher_checkpoint="runs/t")
    student, teacher = (
        types.SimpleNamespace(feature_channels=channels, feature_strides=()) for channels in ((4, 8), (12,))
    )
    with pytest.raises(UserError) as raised:
        build._imitation(config, student, teacher)
    assert str(raised.value) == (
        "--teacher_checkpoint=runs/t: the feature maps to imitate differ in number: tiny_teacher gives 1, "
        "tiny 2"
    )


def test_maps_of_other_strides_than_the_teachers_are_told(experiment):
    config = dataclasses.replace(experiment(), teacher_model="tiny_teacher", teacher_checkpoint="runs/t")
    student, teacher = (
        types.SimpleNamespace(feature_channels=(4,) * len(strides), feature_strides=strides)
        for strides in ((8, 16), (32,))
    )
    with pytest.raises(UserError) as raised:
        build._imitation(config, student, teacher)
    assert str(raised.value) == (
        "--teacher_checkpoint=runs/t: no feature map has the stride of one of the teacher's: tiny_teacher "
        "gives 1 of stride 32, tiny 2 of stride 8, 16"
    )


def test_the_size_rule_needs_strides(experiment):
    config = dataclasses.replace(experiment(), imitation_levels="assigned")
    student = types.SimpleNamespace(feature_channels=(4,), feature_strides=(), imitation_sizes=lambda: ())
    with pytest.raises(UserError) as raised:
        build._imitation(config, student, student)
    assert str(raised.value) == (
        "--imitation_levels=assigned: tiny does not say the strides of its feature maps; choose best or each"
    )
