"""Cases: the training step and inference of YOLOv2, a student that imitates the full network or does not."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator

import numpy as np
import tensorflow as tf
import tf_keras as keras

from benchmark import inference, snapshots, torch_process, workload
from benchmark.options import Options
from benchmark.steps import PYTORCH, PYTORCH_AS_OURS, check_equal
from benchmark.timing import Result, alternate
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.models.yolov2 import YOLOv2

TEACHER = "yolov2"
# WIDER FACE has 159,420 faces in 12,880 training pictures.
OBJECTS_PER_IMAGE = 12


def make_batch(batch_size: int, size: tuple[int, int], seed: int = 0) -> dict[str, np.ndarray]:
    """Noise images that fill the input, with objects of a fiftieth to half of its sides."""
    random = np.random.default_rng(seed)
    extent, count = np.array(size[::-1], np.float64), (batch_size, OBJECTS_PER_IMAGE)
    sides = np.exp(random.uniform(np.log(0.02), np.log(0.5), (*count, 2))) * extent
    first = random.uniform(0.0, 1.0, (*count, 2)) * (extent - sides)
    return {
        "image": random.uniform(0.0, 255.0, (batch_size, *size, 3)).astype(np.float32),
        "boxes": np.concatenate([first, first + sides - 1.0], axis=-1).astype(np.float32),
        "classes": np.zeros(count, np.int32),
        "valid": np.ones(count, bool),
        "content_size": np.tile(np.array(size, np.float32), (batch_size, 1)),
        "scale": np.ones((batch_size, 2), np.float32),
        "image_size": np.tile(np.array(size, np.int32), (batch_size, 1)),
    }


def detector(options: Options, name: str, seed: int) -> YOLOv2:
    """A network of one class with seeded weights and moving statistics; predictions as varied as trained."""
    keras.utils.set_random_seed(seed)
    size = options.yolo_input
    network = YOLOv2(name, input_size=size, width=options.yolo_width)
    workload.randomise(network, seed)
    images = tf.constant(make_batch(1, size, seed=7)["image"])
    outputs = network(network.preprocess(images))["predictions"]
    predict = network.network.predict
    predict.kernel.assign(predict.kernel / float(tf.math.reduce_std(outputs)))
    return network


def step_case(options: Options) -> Iterator[Result]:
    """With imitation of the full network and without, beside PyTorch."""
    for name in options.yolo_models.split(","):
        for batch_size in options.yolo_batches:
            for imitating in (True, False):
                yield _step(options, name, batch_size, imitating)


def _step(options: Options, name: str, batch_size: int, imitating: bool) -> Result:
    ours, student, teacher, batch = step_sources(options, name, batch_size, imitating)
    note = ""
    contenders = {"ours": workload.training_step(ours, batch)}
    kinds = {PYTORCH: {}, PYTORCH_AS_OURS: {"as_ours": True}} if imitating else {"PyTorch": {}}
    if options.torch_compile:
        kinds["torch.compile, as ours"] = {"as_ours": True, "compiled": True}
    with torch_process.started(options) as torch:
        if torch:
            theirs = {
                kind: torch_step(torch, ours, student, teacher, batch, **more) for kind, more in kinds.items()
            }
            # Compiled, it rounds otherwise, and the region loss is steep where a box's IoU is its target.
            note = " ".join(
                f"{kind}: {check_equal(ours, step, batch, 1e-3 if kinds[kind].get('compiled') else 1e-4)}"
                for kind, step in theirs.items()
            )
            contenders |= {kind: step.contender("step") for kind, step in theirs.items()}
        measurements = alternate(contenders, units=batch_size, **options.rounds)
    taught = f" imitating {TEACHER}" if imitating else ""
    return Result("yolo_step", f"{name}{taught}, {options.yolo_size}, batch {batch_size}", measurements, note)


def step_sources(options: Options, name: str, batch_size: int, imitating: bool) -> tuple:
    """What trains, student, teacher (None without imitation) and batch of a step."""
    student = detector(options, name, 0)
    teacher = detector(options, TEACHER, 1) if imitating else None
    batch = workload.prepared(student, make_batch(batch_size, options.yolo_input))
    return workload.make_distiller(student, teacher), student, teacher, batch


def torch_step(torch, ours: Distiller, student: YOLOv2, teacher: YOLOv2 | None, batch: dict, **more):
    """A ``torch_yolov2.TorchYOLOv2Step`` with the weights of ours."""
    sources = [None if network is None else snapshots.yolov2(network) for network in (student, teacher)]
    layer, images = snapshots.imitation(ours.imitation), snapshots.preprocessed(student, batch)
    return torch.make("torch_yolov2.TorchYOLOv2Step", *sources, layer, images, **more)


def inference_case(options: Options) -> Iterator[Result]:
    """Preprocessed images to predictions, in every form."""
    for name in options.yolo_models.split(","):
        for batch_size in options.yolo_batches:
            student = detector(options, name, 0)
            images = make_batch(batch_size, options.yolo_input)["image"].astype(np.uint8)
            inputs = student.preprocess(images)
            with tempfile.TemporaryDirectory() as folder, torch_process.started(options) as torch:
                forms = ("torch_forward.YOLOv2Forms", snapshots.yolov2(student)) if torch else ()
                contenders, note = inference.contenders(
                    options, student, images, inputs, folder, torch, forms
                )
                measurements = alternate(contenders, units=batch_size, **options.rounds)
            yield Result(
                "yolo_inference", f"{name}, {options.yolo_size}, batch {batch_size}", measurements, note
            )
