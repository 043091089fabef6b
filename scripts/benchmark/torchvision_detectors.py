"""Cases: training step and inference of SSD300 VGG16 and of the ResNet-50 FPN, beside torchvision's own."""

from __future__ import annotations

import dataclasses
import importlib.util
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmark import detections, faster_rcnn, snapshots, torch_process, workload
from benchmark.options import Options
from benchmark.steps import GRADIENT_TOLERANCE
from benchmark.timing import Result, alternate
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.models import builtin, registry
from fgfi_tf.models.backbones import resnet_weights
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.faster_rcnn import detector_files
from fgfi_tf.models.ssd import weights as ssd_weights

SSD, FPN = "ssd", "fpn"
NAMES = {SSD: "ssd300_vgg16", FPN: "faster_rcnn_resnet50_fpn"}
THEIRS = "torchvision"
# So few that neither side's sampling leaves one out: losses can be compared without its random numbers.
PROPOSALS = 60
# torchvision's names of ours.
LOSSES = {
    "class_loss": "classification",
    "box_loss": "bbox_regression",
    "rpn_class": "loss_objectness",
    "rpn_box": "loss_rpn_box_reg",
    "rcnn_class": "loss_classifier",
    "rcnn_box": "loss_box_reg",
}


def ssd_step(options: Options) -> Iterator[Result]:
    """SSD300's; default boxes are matched in the step on both sides."""
    yield from _steps(options, SSD, (300, 300), options.ssd_batches)


def fpn_step(options: Options) -> Iterator[Result]:
    """The FPN's, with frozen batch norm, stem and C2."""
    yield from _steps(options, FPN, options.fpn_input, options.fpn_batches)


def ssd_inference(options: Options) -> Iterator[Result]:
    """From preprocessed images to detections."""
    yield from _inferences(options, SSD, (300, 300), options.ssd_batches)


def fpn_inference(options: Options) -> Iterator[Result]:
    """From preprocessed images to detections."""
    yield from _inferences(options, FPN, options.fpn_input, options.fpn_batches)


def _steps(options: Options, kind: str, size: tuple[int, int], batches: list[int]) -> Iterator[Result]:
    for batch_size in batches:
        student, batch = _student(kind, size), _batch(batch_size, size)
        with _started(options) as torch:
            theirs = torchvision_side(torch, kind, student, batch) if torch else None
            ours, note = workload.make_distiller(student, None), ""
            contenders = {"ours": workload.training_step(ours, batch)}
            if theirs:
                note = check_step(ours, theirs, batch)
                contenders[THEIRS] = theirs.contender("step")
            measurements = alternate(contenders, units=batch_size, **{**options.rounds, "warmup": 1})
        yield _result(f"{kind}_step", size, batch_size, measurements, note)


def _inferences(options: Options, kind: str, size: tuple[int, int], batches: list[int]) -> Iterator[Result]:
    for batch_size in batches:
        student, batch = _student(kind, size), _batch(batch_size, size)
        with _started(options) as torch:
            theirs = torchvision_side(torch, kind, student, batch) if torch else None
            contenders, note = {"ours": _detecting(student, batch)}, ""
            if theirs:
                with workload.exact_products():
                    share = detections.same_boxes(
                        contenders["ours"](), theirs.call("run"), kind, top=20, least=0.8
                    )
                note = f"Of the 20 best boxes of an image {share:.0%} are the same."
                contenders[THEIRS] = theirs.contender("run")
            measurements = alternate(contenders, units=batch_size, **{**options.rounds, "warmup": 1})
        yield _result(f"{kind}_inference", size, batch_size, measurements, note)


def _result(case: str, size: tuple[int, int], batch_size: int, measurements, note: str) -> Result:
    name = NAMES[case.split("_")[0]]
    note += " Aim: at most 0.8 of torchvision's time." if note else " torchvision takes no part."
    return Result(case, f"{name}, {size[0]}x{size[1]}, batch {batch_size}", measurements, note.strip())


def is_installed() -> bool:
    """Whether torchvision is."""
    return importlib.util.find_spec("torchvision") is not None


def _started(options: Options):
    return torch_process.started(options if is_installed() else dataclasses.replace(options, torch=False))


def step_sources(options: Options, kind: str, batch_size: int) -> tuple[Detector, dict[str, np.ndarray]]:
    """Student and batch of a step."""
    size = (300, 300) if kind == SSD else options.fpn_input
    return _student(kind, size), _batch(batch_size, size)


def _student(kind: str, size: tuple[int, int]) -> Detector:
    keras.utils.set_random_seed(0)
    options = {"matching": "each_best", "default_boxes": "torchvision"} if kind == SSD else {}
    return registry.build(NAMES[kind], input_size=size, class_names=builtin.VOC_CLASSES, **options)


def _batch(batch_size: int, size: tuple[int, int]) -> dict[str, np.ndarray]:
    return faster_rcnn.make_batch(batch_size, size, len(builtin.VOC_CLASSES))


def torchvision_side(torch, kind: str, student: Detector, batch: dict):
    """torchvision's detector on the batch; the student takes over its weights."""
    decay = student.weight_decay if kind == SSD else student.config.weight_decay
    prepared = snapshots.preprocessed(student, batch)
    theirs = torch.make("torch_torchvision.Detector", kind, len(student.class_names), prepared, decay)
    arrays = theirs.call("state")
    if kind == SSD:
        ssd_weights.load_state(student, arrays, THEIRS)
    else:
        targets = detector_files.torchvision_targets(student)
        resnet_weights.fill(targets, arrays, THEIRS, NAMES[kind], lambda key: False)
    return theirs


def _detecting(student: Detector, batch: dict):
    """What gives its detections as numpy arrays, in the form for inference."""
    network = student.inference_copy()
    size = {key: tf.constant(batch[key]) for key in ("content_size", "scale", "image_size")}
    inputs = student.preprocess(tf.constant(batch["image"]))
    detect = tf.function(lambda images: network.detect(network(images), size))
    return lambda: {name: value.numpy() for name, value in detect(inputs).items()}


@workload.exact_products()
def check_step(ours: Distiller, theirs, batch: dict) -> str:
    """Losses and a gradient of both sides from the same weights; returns what was seen.

    Raises:
        AssertionError: they differ.
    """
    student = ours.student
    config = getattr(student, "config", None)
    if config is not None:
        student.config = dataclasses.replace(config, rpn_batch=10**6, train_post_nms=PROPOSALS)

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            terms = ours.losses_of(tf.nest.map_structure(tf.constant, batch), tf.constant(0, tf.int64))
            loss = tf.add_n(list(terms.values()))
        # Of an FPN that of the proposals: below it, ReLUs at 0 may fall to either side.
        layer = student.backbone.vgg.convolutions[0] if config is None else student.rpn.conv
        return terms, tape.gradient(loss, layer.kernel)

    terms, gradient = compute()
    expected, expected_gradient = theirs.call("losses_and_gradient", PROPOSALS)
    if config is not None:
        student.config = config
    if {LOSSES[name] for name in terms} != set(expected):
        raise AssertionError(f"the terms are {sorted(terms)} and {sorted(expected)}")
    worst = 0.0
    for name, value in terms.items():
        np.testing.assert_allclose(value, expected[LOSSES[name]], rtol=1e-3, atol=1e-6, err_msg=name)
        worst = max(worst, abs(float(value) / expected[LOSSES[name]] - 1.0))
    difference = np.linalg.norm(gradient - expected_gradient) / np.linalg.norm(expected_gradient)
    if not difference <= GRADIENT_TOLERANCE:
        raise AssertionError(f"the gradients of the two sides differ by {difference:.1e}")
    return f"Same losses to {worst:.0e} and a gradient to {difference:.0e} (relative L2)."
