"""Cases: the training step, inference and the parts of Faster R-CNN VGG11, imitating VGG16 or not."""

from __future__ import annotations

import statistics
import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmark import frcnn_equality, snapshots, torch_process, workload
from benchmark.options import Options, wants_xla
from benchmark.steps import NO_LAYER, TeacherOnly, layer_share
from benchmark.timing import Result, alternate
from fgfi_tf.geometry import nms
from fgfi_tf.geometry.coding import DEVIATIONS
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.models.faster_rcnn import FasterRCNN, FasterRCNNConfig, proposals, roi_align, rpn_targets
from fgfi_tf.training.optimizers import MomentumSGD

# VOC 2007 has 12,608 objects in the 5,011 images of trainval.
OBJECTS_PER_IMAGE = 3
PLAIN, THEIRS_PLAIN = "ours, no imitation", "PyTorch, no imitation"
THEIRS, THEIRS_AS_OURS = "PyTorch (adapts everywhere)", "PyTorch, as ours (adapts in the mask)"
# A trained network's scores are not all alike; random features are made as varied.
SCORE_DEVIATION = 2.0


def make_batch(batch_size: int, size: tuple[int, int], classes: int, seed: int = 0) -> dict[str, np.ndarray]:
    """Noise images that fill the input, with objects of a fifth to three quarters of its sides."""
    random = np.random.default_rng(seed)
    extent, count = np.array(size[::-1], np.float64), (batch_size, OBJECTS_PER_IMAGE)
    sides = np.floor(random.uniform(0.2, 0.75, (*count, 2)) * extent)
    first = np.floor(random.uniform(0.0, 1.0, (*count, 2)) * (extent - sides))
    return {
        "image": random.uniform(0.0, 255.0, (batch_size, *size, 3)).astype(np.float32),
        "boxes": np.concatenate([first, first + sides - 1.0], axis=-1).astype(np.float32),
        "classes": random.integers(0, classes, count).astype(np.int32),
        "valid": np.ones(count, bool),
        "content_size": np.tile(np.array(size, np.float32), (batch_size, 1)),
        "scale": np.ones((batch_size, 2), np.float32),
        "image_size": np.tile(np.array(size, np.int32), (batch_size, 1)),
    }


def detector(options: Options, backbone: str, seed: int, dropout: float = 0.0) -> FasterRCNN:
    """A network with seeded weights, its biases not 0 and its scores not all alike."""
    keras.utils.set_random_seed(seed)
    short = min(options.frcnn_input)
    config = FasterRCNNConfig(backbone=backbone, width=options.frcnn_width, dropout=dropout, short_side=short)
    network = FasterRCNN(config)
    random = np.random.default_rng(seed)
    for weight in network.weights:
        if weight.name.endswith("bias:0"):
            weight.assign(random.normal(0.0, 0.02, weight.shape))
    batch = make_batch(1, options.frcnn_input, len(config.class_names), seed=9)
    outputs = network(network.preprocess(batch["image"]))
    _rescale(network.rpn.scores, outputs["rpn_scores"][0], SCORE_DEVIATION)
    _rescale(network.rpn.deltas, outputs["rpn_deltas"][0], 0.3)
    boxes = tf.constant(batch["boxes"])
    scores, deltas = network.classify(outputs, boxes, tf.constant(batch["content_size"]))
    _rescale(network.head.scores, scores, SCORE_DEVIATION)
    _rescale(network.head.deltas, deltas, 0.3 / DEVIATIONS[0] / 3)
    return network


def _rescale(layer: keras.layers.Layer, outputs: tf.Tensor, deviation: float) -> None:
    layer.kernel.assign(layer.kernel * (deviation / float(tf.math.reduce_std(outputs))))


def make_distiller(
    student: FasterRCNN, teacher: FasterRCNN | None, distiller_class: type[Distiller] = Distiller
) -> Distiller:
    """A compiled distiller; the adaptation starts larger than in training, for a gradient to compare."""
    imitation = None
    if teacher is not None:
        kernel = keras.initializers.TruncatedNormal(stddev=0.02, seed=0)
        imitation = ImitationLoss(teacher.feature_channels, activation="relu", kernel_initializer=kernel)
    distiller = distiller_class(student, teacher, imitation)
    distiller.compile(MomentumSGD(workload.LEARNING_RATE, workload.MOMENTUM))
    return distiller


def step_case(options: Options) -> Iterator[Result]:
    """Batches 1 and 4: with imitation of VGG16, with its forward only, and without, beside PyTorch."""
    for batch_size in options.frcnn_batches:
        yield _step(options, batch_size)


def _step(options: Options, batch_size: int) -> Result:
    teacher = detector(options, "vgg16", 1)
    students = [detector(options, "vgg11", 0) for _ in range(3)]
    rate = FasterRCNNConfig().dropout
    batch = make_batch(batch_size, options.frcnn_input, len(students[0].class_names))
    ours = make_distiller(students[0], teacher)
    others = {NO_LAYER: (students[1], teacher, TeacherOnly), PLAIN: (students[2], None, Distiller)}
    distillers = {"ours": ours} | {name: make_distiller(*parts) for name, parts in others.items()}
    note = "Dropout 0.5 on both sides."
    with torch_process.started(options) as torch:
        theirs = _torch_steps(torch, ours, teacher, batch) if torch else {}
        for name in (THEIRS, THEIRS_AS_OURS) if torch else ():
            note += f" {name}: {frcnn_equality.check_step(ours, theirs[name], batch)}"
        for step in theirs.values():
            step.call("set_dropout", rate)
        for student in students:
            student.head.dropout = rate
        contenders = {"ours": workload.training_step(ours, batch)}
        contenders |= {name: step.contender("step") for name, step in theirs.items()}
        contenders |= {n: workload.training_step(d, batch) for n, d in distillers.items() if n != "ours"}
        measurements = alternate(contenders, units=batch_size, **{**options.rounds, "warmup": 1})
        proposals_seconds = theirs[THEIRS].call("proposal_seconds") if torch else []
    title = f"vgg11 imitating vgg16, width {options.frcnn_width}, {options.frcnn_size}, batch {batch_size}"
    result = Result("frcnn_step", title, measurements, note)
    result.note += " " + layer_share(result)
    if theirs:
        ratio = result[PLAIN].median / result[THEIRS_PLAIN].median
        result.note += (
            f" Without imitation: {ratio:.2f} of PyTorch's time (aim, and with it: at most 1). Its proposals "
            "(suppressed in numpy where torchvision is not installed) take "
            f"{1e3 * statistics.median(proposals_seconds):.0f} ms of a step."
        )
    return result


def _torch_steps(torch, ours: Distiller, teacher: FasterRCNN, batch: dict) -> dict:
    student, layer = ours.student, ours.imitation
    return {
        THEIRS: snapshots.faster_rcnn_step(torch, student, teacher, layer, batch),
        THEIRS_AS_OURS: snapshots.faster_rcnn_step(torch, student, teacher, layer, batch, as_ours=True),
        THEIRS_PLAIN: snapshots.faster_rcnn_step(torch, student, None, None, batch),
    }


def imitation_sources(options: Options, batch_size: int) -> tuple:
    """Student, teacher, imitation layer and batch of an imitation step."""
    student, teacher = detector(options, "vgg11", 0), detector(options, "vgg16", 1)
    batch = make_batch(batch_size, options.frcnn_input, len(student.class_names))
    return student, teacher, make_distiller(student, teacher).imitation, batch


def inference_case(options: Options) -> Iterator[Result]:
    """From preprocessed images to detections."""
    for batch_size in options.frcnn_batches:
        student = detector(options, "vgg11", 0)
        batch = make_batch(batch_size, options.frcnn_input, len(student.class_names))
        images = batch["image"].astype(np.uint8)
        inputs = student.preprocess(images)
        with tempfile.TemporaryDirectory() as folder, torch_process.started(options) as torch:
            contenders = _inference_contenders(options, torch, student, inputs, images, batch, folder)
            note = frcnn_equality.check_inference(student, inputs, batch, contenders)
            measurements = alternate(contenders, units=batch_size, **{**options.rounds, "warmup": 1})
        title = f"vgg11, width {options.frcnn_width}, {options.frcnn_size}, batch {batch_size}"
        note += " Aim: not slower than PyTorch."
        yield Result("frcnn_inference", title, measurements, note)


def _inference_contenders(
    options, torch, student, inputs, images, batch, folder
) -> dict[str, Callable[[], dict]]:
    size = {key: tf.constant(batch[key]) for key in ("content_size", "scale", "image_size")}
    detect = tf.function(lambda x: student.detect(student(x), size))
    module = tf.Module()
    module.weights = student.variables
    signature = tf.TensorSpec(images.shape, tf.uint8, name="images")
    serve = tf.function(lambda images: student.detect(student(student.preprocess(images)), size), [signature])
    tf.saved_model.save(module, folder, signatures=serve.get_concrete_function())
    saved = tf.saved_model.load(folder).signatures["serving_default"]
    pixels = tf.constant(images)

    def arrays(found: dict) -> dict[str, np.ndarray]:
        return {name: value.numpy() for name, value in found.items()}

    contenders = {
        "tf.function": lambda: arrays(detect(inputs)),
        "SavedModel, from uint8 images": lambda: arrays(saved(images=pixels)),
    }
    if torch:
        source = snapshots.faster_rcnn(student, options.frcnn_input)
        theirs = torch.make("torch_forward.FasterRCNNInference", source, inputs.numpy())
        contenders["PyTorch"] = theirs.contender("run")
    if wants_xla(options):
        compiled = tf.function(lambda x: student(x)["rpn_scores"][0], jit_compile=True)
        contenders["dense part alone, XLA"] = lambda: {"rpn_scores": compiled(inputs).numpy()}
    return contenders


def parts_case(options: Options) -> Iterator[Result]:
    """What the step does besides convolutions and fully connected layers, by its forms."""
    for batch_size in options.frcnn_batches:
        student = detector(options, "vgg11", 0)
        batch = make_batch(batch_size, options.frcnn_input, len(student.class_names))
        outputs = student(student.preprocess(batch["image"]))
        title = f"{options.frcnn_size}, batch {batch_size}"
        with torch_process.started(options) as torch:
            for name, contenders in _parts(torch, student, outputs, batch).items():
                measurements = alternate(contenders, units=batch_size, **options.rounds)
                yield Result(f"frcnn_parts, {name}", title, measurements)


def _parts(torch, student: FasterRCNN, outputs: dict, batch: dict) -> dict[str, dict]:
    config, content = student.config, tf.constant(batch["content_size"])
    (anchors,) = student.anchors(outputs)
    features = outputs["features"][0]
    kept = student.propose(outputs, content, config.train_pre_nms, config.train_post_nms)
    rois = kept.boxes[:, : config.roi_batch]
    scores = proposals.foreground_probability(outputs["rpn_scores"][0])

    @tf.function
    def suppress(scores, deltas, kind):
        boxes = proposals.decode_proposals(anchors, deltas, content)
        return proposals.propose(
            [scores], [boxes], config.train_pre_nms, config.train_post_nms, config.rpn_nms_iou, kind
        ).boxes

    @tf.function
    def pool(features, rois, kind):
        with tf.GradientTape() as tape:
            tape.watch(features)
            pooled = roi_align.roi_align(features, rois, kind)
        return tape.gradient(pooled, features, output_gradients=tf.ones_like(pooled))

    @tf.function
    def assign(boxes, valid):
        return rpn_targets.assign(anchors, boxes, valid, content).deltas

    boxes, valid = tf.constant(batch["boxes"]), tf.constant(batch["valid"])
    parts = {
        "proposals (training)": {
            f"ours, {kind}": lambda kind=kind: suppress(scores, outputs["rpn_deltas"][0], kind).numpy()
            for kind in nms.KINDS
        },
        "RoIAlign with gradient": {
            f"ours, {kind}": lambda kind=kind: pool(features, rois, kind).numpy() for kind in roi_align.KINDS
        },
        "anchor targets": {"ours": lambda: assign(boxes, valid).numpy()},
    }
    if torch:
        theirs = frcnn_equality.torch_parts(torch, student, outputs, rois, batch)
        for name, contender in theirs.items():
            parts[name]["PyTorch"] = contender
    return parts
