"""Case: the network's forward pass, preprocessed images to predictions, in every form it can be run in."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator

import numpy as np
import tensorflow as tf

from benchmark import workload
from benchmark.options import Options, has_torch
from benchmark.timing import Result, alternate
from fgfi_tf.interop.export import export
from fgfi_tf.models.shuffledet import ShuffleDet


def inference(options: Options) -> Iterator[Result]:
    """Batch 1 and 8 (or those of ``--batch`` among them, if it has any)."""
    size = options.input_size
    for student_name in options.students:
        for batch_size in [b for b in options.batches if b in (1, 8)] or [1]:
            student = workload.seeded_detector(student_name, size)
            images = workload.make_batch(batch_size, size)["image"]
            inputs = student.preprocess(images)
            with tempfile.TemporaryDirectory() as folder:
                contenders = _ours(student, inputs, images.astype(np.uint8), folder)
                expected = contenders["SavedModel"]()
                if has_torch(options):
                    contenders["PyTorch"] = _torch(student, images)
                for name in ("tf.function", "eager Keras", "TFLite", "PyTorch"):
                    if name in contenders:
                        np.testing.assert_allclose(contenders[name](), expected, rtol=1e-2, atol=1e-2)
                measurements = alternate(contenders, options.repeats, units=batch_size)
            yield Result(
                "inference",
                f"{student_name}, {options.size}, batch {batch_size}",
                measurements,
                "The exported SavedModel does more: it resizes uint8 images, decodes boxes, suppresses.",
            )


def _ours(
    student: ShuffleDet, inputs: tf.Tensor, images: np.ndarray, folder: str
) -> dict[str, Callable[[], np.ndarray]]:
    module = tf.Module()
    module.model = student.folded_copy()
    module.predict = tf.function(
        lambda x: {"predictions": module.model(x)["predictions"]},
        input_signature=[tf.TensorSpec(inputs.shape, tf.float32)],
    )
    tf.saved_model.save(module, f"{folder}/network", signatures=module.predict)
    network = tf.saved_model.load(f"{folder}/network")
    exported = tf.saved_model.load(str(export(student, f"{folder}/exported"))).signatures["serving_default"]
    unfolded = tf.function(lambda x: student(x)["predictions"])
    return {
        "SavedModel": lambda: network.signatures["serving_default"](inputs)["predictions"].numpy(),
        "tf.function": lambda: module.predict(inputs)["predictions"].numpy(),
        "tf.function, batch norm not folded": lambda: unfolded(inputs).numpy(),
        "eager Keras": lambda: student(inputs)["predictions"].numpy(),
        "TFLite": _tflite(module, inputs.numpy()),
        "exported SavedModel, pixels to boxes": lambda: exported(images=tf.constant(images))["boxes"].numpy(),
    }


def _tflite(module: tf.Module, inputs: np.ndarray) -> Callable[[], np.ndarray]:
    converter = tf.lite.TFLiteConverter.from_concrete_functions(
        [module.predict.get_concrete_function()], module
    )
    interpreter = tf.lite.Interpreter(
        model_content=converter.convert(),
        num_threads=tf.config.threading.get_intra_op_parallelism_threads() or None,
    )
    interpreter.allocate_tensors()
    source, target = interpreter.get_input_details()[0]["index"], interpreter.get_output_details()[0]["index"]

    def run() -> np.ndarray:
        interpreter.set_tensor(source, inputs)
        interpreter.invoke()
        return interpreter.get_tensor(target)

    return run


def _torch(student: ShuffleDet, images: np.ndarray) -> Callable[[], np.ndarray]:
    import torch

    from benchmark import torch_shuffledet

    model = torch_shuffledet.TorchShuffleDet(student).eval()
    inputs = torch_shuffledet.to_torch_images(student, images)

    def run() -> np.ndarray:
        with torch.inference_mode():
            return model(inputs)[1].permute(0, 2, 3, 1).numpy()

    return run
