"""Faster R-CNN on VOC through the whole road: train, resume, evaluate, export, predict, on drawn images."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
from test_run import assert_same, scalars, stop_at, weights
from voc_fixtures import write_devkit, write_list

from fgfi_tf.data import registry as datasets
from fgfi_tf.errors import UserError
from fgfi_tf.export import export
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.models import loading
from fgfi_tf.prediction import Predictor
from fgfi_tf.training import build, checkpoints, evaluate_command, run
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.evaluator import ResultLog
from fgfi_tf.training.run_folder import RunFolder


def experiment(data, output, **changes):
    options = {
        "model": "faster_rcnn_vgg11",
        "input_size": "160x0",
        "options": {"width": 0.05},
        "dataset": "voc",
        "data_dir": str(data),
        "train_split": "2012_train",
        "val_split": "2012_val",
        "output_dir": str(output),
        "batch_size": 2,
        "max_boxes": 20,
        "steps": 4,
        "learning_rate": 0.003,
        "schedule": "constant",
        "clip_norm": 10.0,
        "summary_every": 1,
        "checkpoint_every": 2,
        "picture_every": 0,
    }
    return ExperimentConfig(**{**options, **changes})


@pytest.fixture(scope="module", name="data")
def data_fixture(tmp_path_factory):
    return write_devkit(tmp_path_factory.mktemp("voc"))


@pytest.fixture(scope="module", name="teacher")
def teacher_fixture(data, tmp_path_factory):
    folder = tmp_path_factory.mktemp("teacher") / "run"
    run.train(experiment(data, folder, model="faster_rcnn_vgg16", steps=1, batch_size=1))
    return {
        "imitation": True,
        "teacher_model": "faster_rcnn_vgg16",
        "teacher_checkpoint": str(folder),
        "imitation_weight": 0.01,
    }


@pytest.fixture(scope="module", name="trained")
def trained_fixture(data, teacher, tmp_path_factory):
    """A finished student with pictures and evaluations; the training step's traces are counted."""
    config = experiment(data, tmp_path_factory.mktemp("student") / "run", picture_every=2, evaluate_every=2)
    traces, original = [], Distiller.train_step

    def train_step(self, batch):
        traces.append(batch["image"].shape)
        return original(self, batch)

    Distiller.train_step = train_step
    try:
        run.train(run.dataclasses.replace(config, **teacher))
    finally:
        Distiller.train_step = original
    return RunFolder(Path(config.output_dir)), traces


@pytest.mark.slow
def test_a_run_over_many_shapes_is_traced_once_and_leaves_everything(trained, capsys):
    folder, traces = trained
    assert len(traces) <= 2 and traces[0].as_list()[1:3] == [None, None]
    found = scalars(folder.summaries)
    for name in ("loss", "rpn_class", "rpn_box", "rcnn_class", "rcnn_box", "imitation_loss"):
        assert found[f"train/{name}"] == [1, 2, 3, 4]
    assert found["detections"] == found["imitation_mask/level_0"] == [2, 4]
    assert found["evaluation/mAP11"] == [2, 4] and "evaluation/tvmonitor" in found
    assert sorted(ResultLog(folder).results()) == [2, 4]
    metadata = json.loads((folder.checkpoints / "model.json").read_text())
    assert (metadata["model"], metadata["options"], metadata["dataset"]) == (
        "faster_rcnn_vgg11",
        {"width": 0.05},
        "voc",
    )
    names = weights(folder.checkpoints / "ckpt-4")
    assert not [name for name in names if "teacher" in name]


@pytest.mark.slow
def test_resume_is_exact(trained, data, teacher, tmp_path):
    parts = experiment(data, tmp_path / "parts", **teacher)
    stop_at(3, lambda: run.train(parts))
    assert run.train(parts).finished
    assert_same(trained[0].checkpoints / "ckpt-4", tmp_path / "parts/checkpoints/ckpt-4")


@pytest.mark.slow
def test_evaluate_writes_table_results_json_and_report(trained, data, tmp_path, capsys):
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(
            checkpoint=str(trained[0].root),
            data_dir=str(data),
            results_dir=str(tmp_path / "results"),
            output_json=str(tmp_path / "ap.json"),
            report_dir=str(tmp_path / "report"),
            published="VGG11",
        )
    )
    printed = capsys.readouterr().out
    assert "PASCAL VOC" in printed and "VGG11 (published)" in printed and "tvmonitor" in printed
    assert len(list((tmp_path / "results").glob("comp4_det_val_*.txt"))) == 20
    numbers = json.loads((tmp_path / "ap.json").read_text())
    assert numbers["tvmonitor"]["positives"] == 1
    assert "2008_000005" in (tmp_path / "report/index.html").read_text()
    folder = data / "VOCdevkit/VOC2012"
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(
            format="voc",
            detections=str(tmp_path / "results"),
            labels=str(folder / "Annotations"),
            split=str(folder / "ImageSets/Main/val.txt"),
            output_json=str(tmp_path / "again.json"),
        )
    )
    assert json.loads((tmp_path / "again.json").read_text()) == numbers


@pytest.mark.slow
def test_export_equals_the_checkpoint_on_images_of_any_size(trained, data, tmp_path, caplog):
    detector = loading.load_detector(trained[0].root)
    exported = Predictor.load(export(detector, tmp_path / "exported"))
    assert "non-serializable" not in caplog.text
    ours = Predictor.load(trained[0].root)
    assert exported.dataset == ours.dataset == "voc"
    for size in ((60, 80), (90, 50)):
        image = np.random.default_rng(1).integers(0, 256, (1, *size, 3)).astype(np.uint8)
        first, second = ours(image)[0], exported(image)[0]
        assert len(first["scores"]) == len(second["scores"]) > 0
        np.testing.assert_allclose(second["scores"], first["scores"], atol=1e-5)
        np.testing.assert_allclose(second["boxes"], first["boxes"], atol=0.01)
        assert first["boxes"][:, 2].max() <= size[1] and first["boxes"][:, 3].max() <= size[0]
    _predict(tmp_path, data)


def _predict(tmp_path, data):
    import predict

    images = data / "VOCdevkit/VOC2012/JPEGImages"
    arguments = [f"--model_path={tmp_path}/exported", f"--images={images}", f"--output_dir={tmp_path}/found"]
    assert predict.main(["predict.py", *arguments]) == 0
    lines = (tmp_path / "found/comp4_det_images_dog.txt").read_text().splitlines()
    assert {line.split()[0] for line in lines} <= {path.stem for path in images.iterdir()}
    assert (tmp_path / "found/2008_000005.png").is_file()


@pytest.mark.slow
def test_both_published_students_stand_beside_voc_2007_test(teacher, tmp_path, capsys):
    data = write_devkit(tmp_path)
    write_list(data / "VOCdevkit/VOC2007", "test", ["000007"])
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(
            checkpoint=teacher["teacher_checkpoint"],
            data_dir=str(data),
            val_split="2007_test",
            report_dir=str(tmp_path / "report"),
        )
    )
    printed = capsys.readouterr().out
    assert "VGG11 (published)  VGG11-I (published)" in printed
    assert printed.split("aeroplane")[1].split()[1:3] == ["67.3", "72.5"]
    report = (tmp_path / "report/report.md").read_text()
    assert "published VGG11 |" in report and "published VGG11-I |" in report


@pytest.mark.slow
def test_watch_evaluates_a_run_and_keeps_the_best(data, teacher, tmp_path, capsys):
    folder = RunFolder(tmp_path / "run")
    shutil.copytree(teacher["teacher_checkpoint"], folder.root)
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(checkpoint=str(folder.root), data_dir=str(data), watch=True)
    )
    printed = capsys.readouterr().out
    # the split is the run's own
    assert "PASCAL VOC, AP at 11 points, 1 images" in printed and "best so far, kept in" in printed
    assert "training has ended; best: step 1, mAP11" in printed
    assert list(ResultLog(folder).results()) == [1]
    assert scalars(folder.summaries)["evaluation/mAP11"] == [1]
    assert [path.name for path in checkpoints.list_checkpoints(folder.best)] == ["ckpt-1"]


@pytest.mark.long  # test_accumulation has it of another detector, test_frcnn_batches of this one's losses
def test_accumulating_run_imitates_and_resumes_exactly(data, teacher, tmp_path):
    options = {**teacher, "batch_size": 4, "gradient_accumulation": 2}
    whole, parts = (experiment(data, tmp_path / name, **options) for name in ("whole", "parts"))
    assert run.train(whole).finished
    stop_at(3, lambda: run.train(parts))
    assert run.train(parts).finished
    assert_same(tmp_path / "whole/checkpoints/ckpt-4", tmp_path / "parts/checkpoints/ckpt-4")


@pytest.mark.slow
def test_images_without_objects_give_no_imitation_and_no_nan(data, teacher, tmp_path):
    config = experiment(data, tmp_path / "run", **teacher)
    dataset = datasets.open_split("voc", data, "2012_train")
    distiller = build.build_distiller(config, dataset.class_names)
    over = tf.distribute.get_strategy()
    batch = next(iter(build.build_batches(config, dataset, distiller.student, over, 0)))
    batch = {**batch, "valid": tf.zeros_like(batch["valid"]), "boxes": tf.zeros_like(batch["boxes"])}
    logs = tf.function(distiller.train_step, autograph=False)(batch)
    assert float(logs["imitation_loss"]) == 0.0
    assert all(np.isfinite(float(value)) for value in logs.values())
    assert all(np.isfinite(v.numpy()).all() for v in distiller.trained_variables)


def test_an_input_in_which_no_anchor_fits_is_told_of(data, tmp_path, caplog):
    run.train(
        experiment(data, tmp_path / "run", input_size="96x0", batch_size=1, steps=12, checkpoint_every=12)
    )
    told = [record.message for record in caplog.records if "exactly 0" in record.message]
    assert len(told) == 1
    assert told[0].startswith(
        "rpn_class, rpn_box were exactly 0 in 10 steps and more: nothing is learnt from it. No anchor"
    )


def test_wrong_input_is_one_clear_line(data, tmp_path):
    bad = tmp_path / "faster_rcnn_1_7_1.pth"
    bad.write_bytes(b"nothing")
    for changes, message in (
        ({"init_checkpoint": str(bad)}, "full width; --width=0.05 cannot start from it"),
        (
            {"init_checkpoint": "/no/vgg11_caffe.pth"},
            "--init_checkpoint: no checkpoint at /no/vgg11_caffe.pth; README says",
        ),
        ({"data_dir": str(tmp_path)}, "no VOC data; it must hold VOCdevkit"),
        ({"train_split": "2012_all"}, "has no all.txt; it has train, trainval, val"),
        ({"train_split": "train"}, "name the split 2007_train, 2012_train"),
        (
            {"model": "shuffledet_0.5x", "input_size": "64x96"},
            "--width: the detector shuffledet_0.5x has no such option",
        ),
    ):
        with pytest.raises(UserError) as raised:
            run.train(experiment(data, tmp_path / "run", **changes))
        assert message in str(raised.value)
        assert "\n" not in str(raised.value)
