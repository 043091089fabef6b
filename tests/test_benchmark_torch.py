"""The PyTorch side of the benchmark, in its own process, beside ours."""

import importlib.util
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError

pytestmark = pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
TESTS = Path(__file__).resolve().parent
SCRIPTS = TESTS.parent / "scripts"


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


@pytest.fixture(name="torch", scope="module")
def torch_fixture():
    sys.path.insert(0, str(SCRIPTS))
    from benchmark.torch_process import TorchProcess

    process = TorchProcess(threads=1)
    yield process
    process.close()


def test_what_is_worked_out_by_hand():
    command = [sys.executable, "-m", "pytest", "-q", "--noconftest", "-p", "no:cacheprovider"]
    done = subprocess.run([*command, TESTS / "torch_checks.py"], capture_output=True, text=True)
    assert done.returncode == 0, done.stdout
    assert " passed" in done.stdout and "skipped" not in done.stdout


def test_what_fails_or_crashes_in_the_process_ends_in_one_line(capfd):
    from benchmark.torch_process import TorchProcess

    process = TorchProcess()
    with pytest.raises(UserError, match="^PyTorch's side failed: TypeError: .*missing 2 required"):
        process.make("torch_forward.FasterRCNNParts", None)
    assert process.request("about")[0].endswith(" threads")  # it goes on
    assert "Traceback" in capfd.readouterr().err
    os.kill(process._process.pid, signal.SIGSEGV)
    with pytest.raises(
        UserError, match="^the process of PyTorch ended by SIGSEGV; --notorch measures without"
    ):
        process.request("about")
    process.close()


def test_a_contender_elsewhere_is_timed_there(torch):
    from benchmark import timing

    student, batch = small_shuffledet()
    from benchmark import snapshots

    step = snapshots.shuffledet_step(torch, student, None, None, batch)
    value, seconds, cpu_seconds = step.contender("step").timed()
    assert isinstance(value, float) and 0 < seconds < 60 and 0 < cpu_seconds < 60
    (measured,) = timing.alternate({"theirs": step.contender("step")}, 2, warmup=1)
    assert len(measured.seconds) == 2
    broken = timing.Elsewhere(lambda: None, lambda: (float("nan"), 1.0, 1.0))
    with pytest.raises(FloatingPointError, match="theirs: the loss is nan"):
        timing.alternate({"theirs": broken}, 1)


def small_shuffledet():
    from benchmark import workload

    student = workload.seeded_detector("shuffledet_0.25x", (64, 128), seed=0)
    return student, workload.prepared(student, workload.make_batch(2, (64, 128)))


@pytest.mark.slow
@pytest.mark.parametrize("as_ours", [False, True])
def test_both_shuffledets_have_the_same_losses_and_gradients(torch, as_ours):
    from benchmark import snapshots, steps, workload

    student, batch = small_shuffledet()
    teacher = workload.seeded_detector(workload.TEACHER, (64, 128), seed=1)
    ours = workload.make_distiller(student, teacher)
    theirs = snapshots.shuffledet_step(torch, student, teacher, ours.imitation, batch, as_ours=as_ours)
    assert "Same losses" in steps.check_equal(ours, theirs, batch)
    changed = snapshots.imitation(ours.imitation)
    changed.kernel *= 1.05
    sources = (snapshots.shuffledet(student), snapshots.shuffledet(teacher), changed)
    kind = "torch_shuffledet.TorchImitationStep"
    wrong = torch.make(kind, *sources, snapshots.preprocessed(student, batch), as_ours=as_ours)
    with pytest.raises(AssertionError, match="imitation_loss"):
        steps.check_equal(ours, wrong, batch)


@pytest.mark.slow
def test_both_yolov2s_have_the_same_losses_and_gradients(torch):
    from benchmark import steps, workload, yolov2
    from benchmark.options import Options

    options = Options(yolo_size="96x128", yolo_width=0.125)
    student, teacher = yolov2.detector(options, "yolov2_0.25x", 0), yolov2.detector(options, "yolov2", 1)
    batch = workload.prepared(student, yolov2.make_batch(2, options.yolo_input))
    batch["valid"][0, 5:] = False
    ours = workload.make_distiller(student, teacher)
    theirs = yolov2._torch_step(torch, ours, student, teacher, batch, as_ours=True)
    assert "Same losses" in steps.check_equal(ours, theirs, batch)
    student.network.predict.bias.assign_add(0.1 * tf.ones_like(student.network.predict.bias))
    with pytest.raises(AssertionError, match="_loss"):
        steps.check_equal(ours, theirs, batch)


@pytest.fixture(name="small", scope="module")
def small_fixture():
    sys.path.insert(0, str(SCRIPTS))
    from benchmark import faster_rcnn
    from benchmark.options import Options

    options = Options(frcnn_size="160x192", frcnn_width=0.125, frcnn_batch="2", repeats=1, warmup=0)
    student, teacher = faster_rcnn.detector(options, "vgg11", 0), faster_rcnn.detector(options, "vgg16", 1)
    batch = faster_rcnn.make_batch(2, options.frcnn_input, 20)
    return options, faster_rcnn.make_distiller(student, teacher), batch


@pytest.mark.slow
@pytest.mark.parametrize("as_ours", [False, True])
def test_both_faster_rcnns_compute_the_same(torch, small, as_ours):
    from benchmark import frcnn_equality, snapshots

    _, ours, batch = small
    sources = (ours.student, ours.teacher, ours.imitation, batch)
    theirs = snapshots.faster_rcnn_step(torch, *sources, as_ours=as_ours)
    assert "Same losses" in frcnn_equality.check_step(ours, theirs, batch)
    assert np.isfinite(theirs.call("step"))
    assert len(theirs.call("proposal_seconds")) == 1


@pytest.mark.parametrize(
    "part, message",
    [("rpn", "RPN scores"), ("head", "rcnn_class"), ("adaptation", "imitation_loss")],
)
def test_another_weight_in_one_faster_rcnn_is_told(torch, small, part, message):
    from benchmark import frcnn_equality, snapshots

    _, ours, batch = small
    student, teacher = (
        snapshots.faster_rcnn(d, batch["image"].shape[1:3]) for d in (ours.student, ours.teacher)
    )
    layer = snapshots.imitation(ours.imitation)
    changed = {"rpn": student.rpn[1], "head": student.head["scores"], "adaptation": layer}[part]
    changed.kernel = 1.05 * changed.kernel
    images = snapshots.preprocessed(ours.student, batch)
    theirs = torch.make("torch_faster_rcnn.TorchFasterRCNNStep", student, teacher, layer, images)
    with pytest.raises(AssertionError, match=message):
        frcnn_equality.check_step(ours, theirs, batch)


def test_both_faster_rcnns_detect_the_same_and_a_wrong_one_is_told(torch, small):
    from benchmark import frcnn_equality, snapshots

    options, ours, batch = small
    student = ours.student
    inputs = student.preprocess(batch["image"])
    source = snapshots.faster_rcnn(student, options.frcnn_input)

    def contenders():
        theirs = torch.make("torch_forward.FasterRCNNInference", source, inputs.numpy())
        return {"PyTorch": theirs.contender("run")}

    assert "best boxes" in frcnn_equality.check_inference(student, inputs, batch, contenders())
    source.head["deltas"].bias += 0.5
    with pytest.raises(AssertionError, match="best detections are the same"):
        frcnn_equality.check_inference(student, inputs, batch, contenders())


def test_parts_of_both_sides_compute_the_same(torch, small):
    from benchmark import faster_rcnn

    _, ours, batch = small
    outputs = ours.student(ours.student.preprocess(batch["image"]))
    parts = faster_rcnn._parts(torch, ours.student, outputs, batch)  # raises where the pooling differs
    for contenders in parts.values():
        assert contenders["PyTorch"].timed()[1] > 0


def test_pooling_of_both_sides_has_the_same_gradient(torch):
    from fgfi_tf.models.faster_rcnn import roi_align

    random = np.random.default_rng(0)
    features = random.normal(size=(1, 6, 8, 3)).astype(np.float32)
    rois = np.array([[[0, 0, 60, 50], [30, 20, 127, 95], [100, 80, 127, 95]]], np.float32)
    value = tf.constant(features)
    with tf.GradientTape() as tape:
        tape.watch(value)
        ours = roi_align.roi_align(value, tf.constant(rois))
    expected = tape.gradient(ours, value, output_gradients=tf.ones_like(ours))
    pooled, gradient = torch.make("torch_forward.Pooling", features, rois).call("run")
    np.testing.assert_allclose(pooled, ours[0], atol=1e-5)
    np.testing.assert_allclose(gradient, expected, atol=1e-4)
