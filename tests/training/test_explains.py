"""What a run says of itself: its data, its teacher, lines and rows of its losses, pictures with the truth."""

from __future__ import annotations

import csv
import dataclasses
import re
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny_detector
from test_run import stop_at
from voc_fixtures import write_devkit

from fgfi_tf.data import registry as datasets
from fgfi_tf.drawing import draw_boxes
from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.training import announce, build, checkpoints, evaluate_command, evaluator, progress, run, teacher
from fgfi_tf.training.precision import precision
from fgfi_tf.training.run_folder import RunFolder
from fgfi_tf.training.run_log import MetricsTable, RunLog

VAN = "Van 0.00 0 0.00 1.00 1.00 40.00 40.00 1.50 1.50 1.50 0.00 0.00 10.00 0.00\n"
AREA = "DontCare -1 -1 -10 1.00 1.00 40.00 40.00 -1 -1 -1 -1000 -1000 -1000 -10\n"


@pytest.fixture(name="van_data")
def van_data_fixture(tmp_path):
    """Five images to train on: two vans and three areas, no object to learn."""
    data = tiny_detector.write_kitti(tmp_path / "vans", frames=7, empty=tuple(range(7)))
    (data / "training/label_2/000001.txt").write_text(VAN + VAN + AREA)
    (data / "training/label_2/000004.txt").write_text(AREA + AREA)
    return data


def test_data_line_counts_objects_by_class(van_data, tmp_path):
    labels = van_data / "training/label_2/000000.txt"
    labels.write_text(VAN.replace("Van", "Cyclist") + VAN.replace("Van", "Car") + VAN.replace("Van", "Car"))
    line = announce.data_line("train", datasets.open_split("kitti", van_data, "train"))
    assert line == "train: 5 images; Car 2, Pedestrian 0, Cyclist 1; ignored: Van 2, DontCare 3"
    voc = datasets.open_split("voc", write_devkit(tmp_path / "voc"), "2012_val")
    line = announce.data_line("2012_val", voc)
    assert line.startswith("2012_val: 1 images; aeroplane 0, ") and line.endswith("tvmonitor 1")


def test_a_training_set_without_an_object_to_learn_is_an_error(experiment, van_data):
    with pytest.raises(UserError) as raised:
        run.train(experiment(data_dir=str(van_data)))
    assert str(raised.value).startswith(
        "kitti/train: none of its 5 images has an object to learn (Car, Pedestrian, Cyclist); they hold Van "
        "2, DontCare 3. Are these the right images and labels (--data_dir, --train_split)?"
    )


def test_a_run_says_what_its_data_and_its_teacher_are(experiment, tmp_path, capsys):
    folder = tmp_path / "teacher"
    run.train(experiment(model="tiny_teacher", output_dir=str(folder), steps=3, evaluate_every=3))
    imitating = experiment(imitation=True, teacher_checkpoint=str(folder), steps=1, picture_every=1)
    capsys.readouterr()
    result = run.train(imitating)
    out = capsys.readouterr().out
    assert re.search(r"^train: 9 images; Car \d+, Pedestrian \d+, Cyclist \d+$", out, re.M)
    assert re.search(r"^val: 3 images; Car \d+, Pedestrian \d+, Cyclist \d+$", out, re.M)
    ap = 100 * evaluator.ResultLog(RunFolder(folder)).results()[3]["mAP11"]
    path = f"{folder}/checkpoints/ckpt-3"
    assert f"teacher: tiny_teacher, trained on kitti at 64x96, {path}; mAP11 {ap:.1f} on val\n" in out
    assert "imitating tiny_teacher; kitti/train, 9 images" in out
    assert "--teacher_model=tiny_teacher\n" in result.folder.flags.read_text()


def test_what_is_known_of_a_teacher(experiment, tmp_path):
    folder = tmp_path / "teacher"
    run.train(experiment(model="tiny_teacher", output_dir=str(folder), steps=3))
    ask = experiment(imitation=True, teacher_model="tiny_teacher", teacher_checkpoint=str(folder))
    assert teacher.describe(ask).endswith(
        "; its AP is not known (evaluate.py --watch and --evaluate_every note it in its run folder)"
    )
    log = evaluator.ResultLog(RunFolder(folder))
    for step, value in ((1, 0.25), (2, 0.125)):
        for file in (folder / "checkpoints").glob("ckpt-3.*"):
            shutil.copy(file, file.with_name(file.name.replace("-3", f"-{step}")))
        log.add(folder / "checkpoints" / f"ckpt-{step}", {"mAP11": value, "mAP40": 0.5})
    assert teacher.describe(ask).endswith("ckpt-3; mAP11 25.0 on val at step 1")
    (folder / "evaluation" / "results.json").write_text("{")
    assert "ckpt-3; its AP cannot be read: " in teacher.describe(ask)


def test_a_checkpoint_without_model_json_needs_the_teachers_name(experiment, tmp_path):
    folder = tmp_path / "teacher"
    run.train(experiment(model="tiny_teacher", output_dir=str(folder), steps=1))
    (folder / "checkpoints" / "model.json").unlink()
    ask = experiment(model="shuffledet_0.5x", imitation=True, teacher_checkpoint=str(folder))
    with pytest.raises(
        UserError, match=r"--teacher_model is missing: .*ckpt-1 does not say .*0.5x is shuffledet_1x\)"
    ):
        run.train(ask)
    assert teacher.resolve(experiment()) == experiment()


def test_a_teacher_whose_weights_did_not_all_load_is_refused(experiment, tmp_path):
    folder = tmp_path / "teacher" / "checkpoints"
    half = registry.build(
        "tiny_teacher", input_size=(64, 96), class_names=tiny_detector.CLASSES, dataset="kitti"
    )
    metadata = half.metadata
    half.head = tf.Module()  # a checkpoint that lacks the head's kernel and bias
    tf.train.Checkpoint(student=half, step=tf.Variable(7)).write(str(folder / "ckpt-7"))
    metadata.write(folder)
    ask = experiment(imitation=True, teacher_checkpoint=str(tmp_path / "teacher"))
    with pytest.raises(UserError, match=r"ckpt-7 is a checkpoint of another model than tiny_teacher: .*head"):
        run.train(ask)


def rows(folder) -> list[dict[str, str]]:
    with (folder / "metrics.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def logged_steps(folder) -> list[str]:
    return re.findall(r"^step (\d+)/", (folder / "train.log").read_text(), re.M)


def test_log_and_table_have_each_step_once_after_a_kill(experiment, tmp_path, monkeypatch, capsys):
    options = {"steps": 14, "summary_every": 2, "checkpoint_every": 5}
    result = run.train(experiment(**options, output_dir=str(tmp_path / "whole")))
    assert [row["step"] for row in rows(result.folder.root)] == ["2", "4", "6", "8", "10", "12", "14"]
    assert logged_steps(result.folder.root) == ["1", "2", "4", "6", "8", "10", "12", "14"]
    shown = re.findall(r"^step (\d+)/14: loss ", capsys.readouterr().out, re.M)
    assert shown == logged_steps(result.folder.root)

    def killed(self, previous, step, logs):
        if step == 9:
            raise KeyboardInterrupt  # nothing is saved
        count(self, previous, step, logs)

    count = run.callbacks.StepCounter.on_step
    config = experiment(**options, output_dir=str(tmp_path / "parts"))
    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(run.callbacks.StepCounter, "on_step", killed)
        run.train(config)
    assert [row["step"] for row in rows(tmp_path / "parts")] == ["2", "4", "6", "8"]
    assert run.train(config).finished
    parts, whole = rows(tmp_path / "parts"), rows(result.folder.root)
    assert [row["step"] for row in parts] == [row["step"] for row in whole]
    # the summary of 6 is of one step after the resume and of two in the whole run
    for one, other in zip(parts, whole, strict=True):
        if one["step"] != "6":
            np.testing.assert_allclose(float(one["loss"]), float(other["loss"]), rtol=1e-5)
    # lines after 1 and 10 steps of each part
    assert logged_steps(tmp_path / "parts") == ["1", "2", "4", "6", "8", "10", "12", "14"]
    assert "going on from" in (tmp_path / "parts" / "train.log").read_text()
    assert run.train(config).finished and rows(tmp_path / "parts") == parts


def test_a_stopped_run_logs_on(experiment, tmp_path):
    stop_at(3, lambda: run.train(experiment(steps=6)))
    run.train(experiment(steps=6))
    folder = RunFolder(Path(experiment().output_dir)).root
    assert [row["step"] for row in rows(folder)] == ["2", "4", "6"]
    assert logged_steps(folder) == ["1", "2", "4", "6"]


def test_new_columns_of_a_table_and_a_damaged_row(tmp_path):
    table = MetricsTable(tmp_path / "metrics.csv", 0)
    table.add(2, {"loss": 1.5})
    table.add(4, {"loss": 1.25, "images_per_second": 8.0})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,images_per_second\n2,1.5,\n4,1.25,8\n"
    with (tmp_path / "metrics.csv").open("a") as file:
        file.write("6,1")  # a kill in the middle of a row
    MetricsTable(tmp_path / "metrics.csv", 4).add(6, {"loss": 1.0})
    assert (tmp_path / "metrics.csv").read_text() == "step,loss,images_per_second\n2,1.5,\n4,1.25,8\n6,1,\n"


def test_files_that_are_not_what_a_run_wrote(tmp_path):
    (tmp_path / "metrics.csv").write_bytes(b"step,loss\n\xff\xfe\n")
    with pytest.raises(UserError, match="metrics.csv is malformed: .*; move it away"):
        MetricsTable(tmp_path / "metrics.csv", 4)
    (tmp_path / "train.log").write_bytes(b"mine \xff\nstep 3/9: a\nstep 5/9: b\n")
    log = RunLog(tmp_path / "train.log")
    log.go_on_from(3)
    kept = (tmp_path / "train.log").read_bytes().splitlines()
    assert kept[:2] == [b"mine \xff", b"step 3/9: a"] and len(kept) == 3
    (tmp_path / "train.log").unlink()
    log.go_on_from(3)


def test_a_full_disk_costs_lines_and_not_the_run(tmp_path, caplog):
    log = RunLog(tmp_path / "gone" / "train.log")
    log("a line")
    assert caplog.text.count("train.log cannot be written: No such file or directory") == 1
    RunLog(None)("nobody sees it")


IMITATING = {
    "loss": 5.0,
    "class_loss": 1.0,
    "imitation_loss": 4.0,
    "weight_decay": 0.25,
    "imitation_loss_unweighted": 8.0,
    "imitation_weight": 0.5,
    "imitation_mask_share": 0.0456,
    "imitation_active_share": 0.987,
}


def test_line_of_an_imitating_run():
    line = progress.Summaries(0, None, 50, lambda step: 0.1, 8, total=100)._line(50, IMITATING)
    assert line == (
        "step 50/100: loss 5, class_loss 1, imitation_loss 4 (8 x 0.5), mask 4.56 %, active 98.7 %, "
        "weight_decay 0.25"
    )


def test_pictures_have_the_truth_beside_the_detections(experiment, kitti):
    options = experiment()
    dataset = datasets.open_split("kitti", kitti, "train")
    with tf.distribute.get_strategy().scope():
        distiller = build.build_distiller(options, tiny_detector.CLASSES)
    images = next(iter(build.batches.evaluation_batches(distiller.student, dataset, 4)))["image"].numpy()
    drawn = build.picture_drawer(distiller, dataset)()["detections"]
    # a gap of 4 pixels around each of 2 x 4 pictures, captions of 17 below
    assert drawn.shape == (4 + 4 * (64 + 17 + 4), 4 + 2 * (96 + 4), 3)
    for row, (image, frame) in enumerate(zip(images, dataset.labels(), strict=False)):
        names = [tiny_detector.CLASSES[i] for i in frame["classes"]]
        top = 4 + row * 85
        truth = draw_boxes(image, frame["boxes"], names)
        assert (drawn[top : top + 64, 4 : 4 + 96] == truth).all()
        assert (truth == image.astype(np.uint8)).all() == (len(names) == 0)


def test_evaluation_inside_a_bfloat16_run_is_that_of_a_float32_one(experiment, kitti):
    result = run.train(experiment(model="tiny_plain", mixed_precision="bfloat16", steps=3))
    path = checkpoints.find_checkpoint(result.folder.root)
    found = []
    for policy in ("bfloat16", "none"):
        protocol = run.protocols.get("kitti")
        evaluate = evaluator.CheckpointEvaluator(datasets.open_split("kitti", kitti, "val"), protocol)
        with precision(policy):
            found.append(evaluate(path)[1])
        assert evaluate._detector.compute_dtype == "float32"
    for one, other in zip(*(dataclasses.astuple(detections) for detections in found), strict=True):
        np.testing.assert_array_equal(one, other)
    assert len(found[0].scores) > 3


@pytest.mark.parametrize("steps", [3, 12])
def test_a_cosine_of_another_span_is_refused_and_both_ways_out_work(experiment, steps):
    run.train(experiment())
    with pytest.raises(UserError) as raised:
        run.train(experiment(steps=steps))
    assert str(raised.value) == (
        f"--steps={steps}: the learning rate of the run in {experiment().output_dir} follows a cosine over 6 "
        f"steps; over {steps} it would jump. --schedule_steps=6 keeps the schedule, --schedule_steps={steps} "
        "changes it"
    )
    with pytest.raises(UserError, match="already holds another run, started with --seed=0"):
        run.train(experiment(steps=steps, seed=1))
    assert run.train(experiment(steps=steps, schedule_steps=6)).finished
    assert run.train(experiment(steps=steps, schedule_steps=steps)).finished
    assert run.train(experiment(steps=steps, schedule_steps=steps)).finished


def test_a_constant_rate_goes_on_over_more_steps(experiment):
    run.train(experiment(schedule="constant"))
    assert run.train(experiment(schedule="constant", steps=7)).step == 7


def test_watching_a_folder_that_is_not_there_says_so(monkeypatch, capsys):
    def stop(seconds):
        raise KeyboardInterrupt

    monkeypatch.setattr(evaluate_command.time, "sleep", stop)
    with pytest.raises(KeyboardInterrupt):
        evaluate_command.evaluate(evaluate_command.EvaluateConfig(checkpoint="/no/run", watch=True))
    assert (
        "watching /no/run; it ends with training (there is no such folder yet: waiting"
        in capsys.readouterr().out
    )


def test_a_checkpoint_to_evaluate_that_is_not_there(kitti):
    ask = evaluate_command.EvaluateConfig(checkpoint="/no/run", data_dir=str(kitti))
    with pytest.raises(
        UserError, match="--checkpoint: no checkpoint at /no/run; python scripts/train.py --output_dir"
    ):
        evaluate_command.evaluate(ask)
