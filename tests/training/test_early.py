"""What is missing is told at once: before TensorFlow is imported, in a line that names the flag."""

from __future__ import annotations

import dataclasses
import subprocess
import sys
from pathlib import Path

import pytest
import train

from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.training import early
from fgfi_tf.training.config import ExperimentConfig

ROOT = Path(__file__).resolve().parents[2]
# A process in which every import of TensorFlow fails.
WITHOUT_TENSORFLOW = (
    "import runpy, sys; sys.modules['tensorflow'] = None; script = sys.argv[1]; del sys.argv[0]; "
    "runpy.run_path(script, run_name='__main__')"
)


def script(name: str, *arguments: str, code: int = 1) -> str:
    done = subprocess.run(
        [sys.executable, "-c", WITHOUT_TENSORFLOW, str(ROOT / "scripts" / name), *arguments],
        capture_output=True,
        text=True,
        timeout=60,
        cwd=ROOT,
    )
    assert done.returncode == code, done.stderr
    return (done.stdout if code == 0 else done.stderr).strip()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "--output_dir is missing: the folder to write the run to"),
        (["--output_dir=x"], "--data_dir is missing: the folder of the raw kitti data"),
        (["--output_dir=x", "--dataset=kiti"], "--dataset=kiti: no such dataset; did you mean kitti?"),
        (
            ["--output_dir=x", "--dataset=mnist"],
            "--dataset=mnist: no such dataset; known are coco, folder, kitti, voc, wider",
        ),
        (
            ["--output_dir=x", "--model=shuffledet"],
            "--model=shuffledet: no such detector; did you mean shuffledet_",
        ),
        (
            ["--output_dir=x", "--data_dir=/no/data"],
            "--data_dir=/no/data: no such folder; it is to hold the raw kitti",
        ),
        (["--output_dir=x", "--learning_rate=inf"], "--learning_rate=inf: a finite number is expected"),
        (
            ["--output_dir=x", "--data_dir=.", "--imitation", "--teacher_checkpoint=/no/teacher"],
            "--teacher_checkpoint: no checkpoint at /no/teacher; train the teacher first: python "
            "scripts/train.py --model=shuffledet_1x --data_dir=. --output_dir=/no/teacher",
        ),
        (
            ["--flagfile=configs/kitti/shuffledet_0.5x_imitation.cfg", "--data_dir=."],
            "--teacher_checkpoint: no checkpoint at runs/kitti/shuffledet_1x; train the teacher first: "
            "python scripts/train.py --flagfile=configs/kitti/shuffledet_1x.cfg --data_dir=.",
        ),
        (
            ["--output_dir=x", "--data_dir=.", "--init_checkpoint=/no/vgg.pth"],
            "--init_checkpoint: no checkpoint at /no/vgg.pth; README says which published weights",
        ),
    ],
)
def test_train_says_what_is_missing_without_tensorflow(arguments, message):
    assert script("train.py", *arguments).startswith(f"train.py: error: {message}")


def test_export_says_what_is_missing_without_tensorflow():
    assert script("export.py", "--checkpoint=/no/run", "--output_dir=x") == (
        "export.py: error: --checkpoint: no checkpoint at /no/run; python scripts/train.py --output_dir=RUN "
        "makes one, to be given as --checkpoint=RUN"
    )


def test_help_lists_models_and_datasets_without_tensorflow():
    for name in ("train.py", "evaluate.py"):
        text = " ".join(script(name, "--help", code=0).split())
        assert (
            "faster_rcnn_vgg16, faster_rcnn_vgg16_fpn, mobilenet_v2_shuffledet, resnet101_shuffledet" in text
        )
        assert "Known: coco, folder, kitti, voc, wider." in text


def test_detectors_are_those_that_their_families_build():
    from fgfi_tf.models import faster_rcnn
    from fgfi_tf.models.shuffledet import pretrained
    from fgfi_tf.models.shuffledet.network import VARIANTS

    published = {name for name in registry.names() if not name.startswith("tiny")}
    assert published >= {*VARIANTS, *pretrained.VARIANTS, *faster_rcnn.VARIANTS}
    for name in (*VARIANTS, *faster_rcnn.VARIANTS):
        declared = registry.declaration(name)  # what has a pretrained backbone is a teacher itself
        assert declared.teacher in registry.names() or (declared.pretrained and not declared.teacher)
    assert registry.detector_class("faster_rcnn_vgg11") is faster_rcnn.FasterRCNN
    assert registry.declaration("tiny").teacher == ""


@pytest.mark.parametrize(
    ("made", "found"),
    [
        ("ckpt-5.index", True),
        ("checkpoints/ckpt-5.index", True),
        ("notes.txt", False),
    ],
)
def test_a_folder_needs_a_checkpoint(tmp_path, made, found):
    path = tmp_path / "run" / made
    path.parent.mkdir(parents=True)
    path.write_text("")
    if found:
        early.check_checkpoint("checkpoint", str(tmp_path / "run"), "make one")
        early.check_checkpoint("checkpoint", str(path.with_suffix("")), "make one")
    else:
        with pytest.raises(
            UserError, match=r"--checkpoint: no checkpoint in .*run: it holds no .*; make one$"
        ):
            early.check_checkpoint("checkpoint", str(tmp_path / "run"), "make one")


def test_command_for_a_teacher_of_another_dataset():
    config = ExperimentConfig(
        model="faster_rcnn_vgg11",
        dataset="voc",
        data_dir="my data",
        train_split="2007_trainval",
        val_split="2007_test",
        input_size="600x0",
        imitation=True,
        teacher_checkpoint="faster_rcnn_1_7_10021.pth",
    )
    assert early.teacher_command(config) == (
        "python scripts/train.py --model=faster_rcnn_vgg16 '--data_dir=my data' "
        "--train_split=2007_trainval --val_split=2007_test --output_dir=RUN"
    )
    named = dataclasses.replace(config, teacher_model="faster_rcnn_vgg11", teacher_checkpoint="t")
    assert "--model=faster_rcnn_vgg11" in early.teacher_command(named)
    assert early.teacher_command(named).endswith("--output_dir=t")


def test_a_cluster_that_fails_at_once_is_not_started_again_for_ever(tmp_path, monkeypatch):
    """Twenty starts without a new checkpoint; a new one begins the count anew."""
    monkeypatch.setenv(train._RESTARTS, "")
    (tmp_path / "checkpoints").mkdir()
    lost = UserError("a worker of the cluster is gone: x")
    for stamp in (0, 1):
        for _ in range(20):
            train._count_restart(tmp_path, lost)
        with pytest.raises(UserError, match="gone: x; started again 20 times without a new checkpoint"):
            train._count_restart(tmp_path, lost)
        (tmp_path / f"checkpoints/ckpt-{stamp}.index").write_bytes(b"")
