"""Case: the network's forward pass, preprocessed images to predictions, in every form it can be run in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from benchmark import detections, snapshots, torch_process, workload
from benchmark.options import Options, wants_xla
from benchmark.timing import Result, alternate
from fgfi_tf.export import export
from fgfi_tf.models.detector import Detector
from fgfi_tf.models.shuffledet import ShuffleDet

EXPORTED = "exported SavedModel, pixels to boxes"
EAGER = "eager Keras"
Call = Callable[[], np.ndarray]


def inference(options: Options) -> Iterator[Result]:
    """Batch 1 and 8 (or those of ``--batch`` among them, if it has any)."""
    size = options.input_size
    for student_name in options.students:
        for batch_size in [b for b in options.batches if b in (1, 8)] or [1]:
            student = detecting(student_name, size)
            images = workload.make_batch(batch_size, size)["image"].astype(np.uint8)
            inputs = student.preprocess(images)
            with tempfile.TemporaryDirectory() as folder, torch_process.started(options) as torch:
                forms = ("torch_forward.ShuffleDetForms", snapshots.shuffledet(student)) if torch else ()
                runs, note = contenders(options, student, images, inputs, folder, torch, forms)
                measurements = alternate(runs, units=batch_size, **options.rounds)
            title = f"{student_name}, {options.size}, batch {batch_size}"
            yield Result("inference", title, measurements, note)


def contenders(
    options: Options, student: Detector, images: np.ndarray, inputs: tf.Tensor, folder: str, torch, forms
) -> tuple[dict[str, Call], str]:
    """Every form of a network, PyTorch's of ``forms`` (class, snapshot), all checked; and what was seen."""
    found, exported = _ours(student, inputs, images, folder, wants_xla(options))
    if torch:
        theirs = torch.make(*forms, inputs.numpy(), options.torch_compile)
        found |= {name: theirs.contender("run", name) for name in theirs.call("names")}
    note = check_equal(student, found, exported(), images)
    found[EXPORTED] = lambda: exported()["boxes"]
    return (
        found,
        f"{note} The exported SavedModel does more: it resizes uint8 images, decodes boxes, suppresses.",
    )


def detecting(variant: str, size: tuple[int, int]) -> ShuffleDet:
    """A detector with seeded weights whose predictions are of a trained one's size and not all near 0."""
    student = workload.seeded_detector(variant, size)
    random = np.random.default_rng(5)
    kernel = random.normal(0.0, 1.0, student.head.kernel.shape)
    student.head.kernel.assign(kernel)
    images = tf.constant(workload.make_batch(1, size, seed=7)["image"])
    deviation = float(tf.math.reduce_std(student(student.preprocess(images))["predictions"]))
    student.head.kernel.assign(kernel / deviation)
    return student


@workload.exact_products()
def check_equal(student: Detector, contenders: dict[str, Call], exported: dict, images: np.ndarray) -> str:
    """Every contender's predictions and best boxes against those of eager Keras; returns what was seen.

    Raises:
        AssertionError: they differ.
    """
    expected = contenders[EAGER]()
    batch = {"scale": tf.ones([len(images), 2]), "image_size": tf.tile([images.shape[1:3]], [len(images), 1])}

    def detect(predictions: np.ndarray) -> dict[str, np.ndarray]:
        found = student.detect({"predictions": tf.constant(predictions)}, batch)
        return {name: value.numpy() for name, value in found.items()}

    best = detect(expected)
    worst = 0.0
    for name, call in contenders.items():
        found = call()
        worst = max(worst, detections.same_dense(found, expected, name))
        detections.same_boxes(detect(found), best, name)
    detections.same_boxes(exported, best, EXPORTED)
    return (
        f"All predictions are the same to {worst:.0e} (their deviation is {np.std(expected):.1f}), "
        "and so are the best boxes."
    )


def _ours(
    student: Detector, inputs: tf.Tensor, images: np.ndarray, folder: str, xla: bool
) -> tuple[dict[str, Call], Callable[[], dict]]:
    """The forms of the network, and the exported detector."""
    module, model = tf.Module(), student.inference_copy()
    module.weights = model.variables
    module.predict = tf.function(
        lambda x: {"predictions": model(x)["predictions"]},
        input_signature=[tf.TensorSpec(inputs.shape, tf.float32)],
    )
    tf.saved_model.save(module, f"{folder}/network", signatures=module.predict)
    network = tf.saved_model.load(f"{folder}/network").signatures["serving_default"]
    serving = tf.saved_model.load(str(export(student, f"{folder}/exported"))).signatures["serving_default"]
    unfolded = tf.function(lambda x: student(x)["predictions"])
    contenders = {
        "SavedModel": lambda: network(inputs)["predictions"].numpy(),
        "tf.function": lambda: module.predict(inputs)["predictions"].numpy(),
        "tf.function, batch norm not folded": lambda: unfolded(inputs).numpy(),
        EAGER: lambda: student(inputs)["predictions"].numpy(),
        "TFLite": _tflite(module, inputs.numpy()),
    }
    if xla:
        compiled = tf.function(lambda x: model(x)["predictions"], jit_compile=True)
        contenders["tf.function, XLA"] = lambda: compiled(inputs).numpy()
    pixels = tf.constant(images)
    return contenders, lambda: {name: value.numpy() for name, value in serving(images=pixels).items()}


def _tflite(module: tf.Module, inputs: np.ndarray) -> Call:
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.predict.get_concrete_function()], module
    )
    interpreter = tf.lite.Interpreter(
        model_content=converter.convert(),
        num_threads=tf.config.threading.get_intra_op_parallelism_threads() or workload.cores(),
    )
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        interpreter.set_tensor(source, inputs)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run
