"""Each kind of detector on the data set that its published runs did not use: train, evaluate, predict."""

from __future__ import annotations

import json

import numpy as np
import predict
import pytest
from own_fixtures import coco, picture
from voc_fixtures import write_devkit

from fgfi_tf.evaluation.kitti import files as kitti_io
from fgfi_tf.evaluation.voc import files as voc_io
from fgfi_tf.training import evaluate_command, run
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.run_folder import RunFolder

pytestmark = pytest.mark.usefixtures("short_shuffledet")


def _train(folder, **options) -> RunFolder:
    config = ExperimentConfig(
        output_dir=str(folder / "run"),
        batch_size=2,
        steps=2,
        learning_rate=0.001,
        clip_norm=10.0,
        summary_every=1,
        checkpoint_every=2,
        picture_every=2,
        **options,
    )
    result = run.train(config)
    assert result.finished
    return result.folder


def _evaluate(run_folder, data, folder, capsys, **options) -> str:
    """Its output; the result files lie in ``results``, the report in ``report``."""
    capsys.readouterr()
    evaluate_command.evaluate(
        evaluate_command.EvaluateConfig(
            checkpoint=str(run_folder.root),
            data_dir=str(data),
            results_dir=str(folder / "results"),
            report_dir=str(folder / "report"),
            **options,
        )
    )
    assert (folder / "report/index.html").stat().st_size > 20_000
    return capsys.readouterr().out


def _predict(run_folder, images, folder):
    arguments = [f"--model_path={run_folder.root}", f"--images={images}", f"--output_dir={folder}"]
    assert predict.main(["predict.py", *arguments]) == 0
    assert sorted(p.stem for p in folder.glob("*.png")) == sorted(p.stem for p in images.iterdir())


@pytest.mark.slow
def test_shuffledet_on_voc(tmp_path, capsys):
    data = write_devkit(tmp_path / "voc")
    splits = {"train_split": "2012_train", "val_split": "2012_val"}
    folder = _train(
        tmp_path,
        model="shuffledet_0.25x",
        dataset="voc",
        data_dir=str(data),
        input_size="64x96",
        evaluate_every=2,
        metric="kitti",
        **splits,
    )
    metrics = json.loads(folder.results.read_text())["2"]
    assert list(metrics)[:3] == ["mAP11", "mAP40", "aeroplane_easy"] and len(metrics) == 2 + 20 * 3
    printed = _evaluate(folder, data, tmp_path, capsys)
    assert "PASCAL VOC" in printed and "tvmonitor" in printed
    _predict(folder, data / "VOCdevkit/VOC2012/JPEGImages", tmp_path / "found")
    found = voc_io.read_detections(tmp_path / "found", "images", [f"2008_00000{i}" for i in range(1, 6)])
    found_again = voc_io.read_detections(tmp_path / "results", "val", ["2008_000005"])
    other = _evaluate(folder, data, tmp_path / "other", capsys, metric="kitti", results="coco")
    assert "KITTI 2D" in other and "tvmonitor" in other
    rows = json.loads((tmp_path / "other/results/detections.json").read_text())
    assert len(rows) == len(found_again) and {row["image_id"] for row in rows} == {"2008_000005"}
    # written in 1-based pixels of the image files, the last of which has 80 x 64; ShuffleDet's boxes end at
    # the edge of the image, not in the middle of its last pixel
    of_last = found.boxes[found.image == 4]
    assert len(of_last) == len(found_again.scores) > 0
    assert np.all(of_last > 0.999) and np.all(of_last < [81.001, 65.001, 81.001, 65.001])


@pytest.mark.slow
def test_results_of_coco_data_are_evaluated_with_its_own_file(tmp_path, capsys):
    pytest.importorskip("pycocotools", reason="pycocotools computes COCO AP")
    objects = [(100, 90, [5, 2.5, 10, 8]), (101, 7, [1, 1, 20, 15]), (101, 7, [0, 0, 9, 9], {"iscrowd": 1})]
    for split in ("train", "val"):
        for name in "ab":
            picture(tmp_path / f"data/{split}/{name}.png")
        path = coco(tmp_path / f"data/annotations/instances_{split}.json", ["a.png", "b.png"], objects)
    folder = _train(
        tmp_path,
        model="shuffledet_0.25x",
        dataset="coco",
        data_dir=str(tmp_path / "data"),
        input_size="64x96",
    )
    ours, theirs = tmp_path / "ours.json", tmp_path / "theirs.json"
    _evaluate(folder, tmp_path / "data", tmp_path, capsys, output_json=str(ours))
    found = tmp_path / "results/detections.json"
    rows = json.loads(found.read_text())
    assert {row["image_id"] for row in rows} <= {100, 101} and {row["category_id"] for row in rows} <= {7, 90}
    flags = {"format": "coco", "labels": str(path), "detections": str(found), "output_json": str(theirs)}
    evaluate_command.evaluate(evaluate_command.EvaluateConfig(**flags))
    one, other = (json.loads(path.read_text())["stats"] for path in (ours, theirs))
    np.testing.assert_allclose(one, other, rtol=0, atol=1e-12)
    assert len(rows) > 0 and len(one) == 12


@pytest.mark.slow
def test_faster_rcnn_on_kitti(kitti, tmp_path, capsys):
    small = {"width": 0.05}
    folder = _train(
        tmp_path, model="faster_rcnn_vgg11", data_dir=str(kitti), input_size="160x0", options=small
    )
    assert "KITTI 2D" in _evaluate(folder, kitti, tmp_path, capsys)
    assert len(list((tmp_path / "results").glob("*.txt"))) == 3
    _predict(folder, kitti / "training/image_2", tmp_path / "found")
    names = [path.stem for path in (kitti / "training/image_2").iterdir()]
    found = kitti_io.read_detections(tmp_path / "found", names)
    assert len(found.scores) > 0
    # the last pixel of the input, 159 of 160, lies at 63.6 of 64
    assert np.all(found.boxes >= 0) and np.all(found.boxes <= [96, 64, 96, 64])
