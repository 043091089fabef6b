"""Detectors as TFLite files: fixed size, built-in operations, uint8 in, raw boxes and scores out."""

from __future__ import annotations

import contextlib
import os
import tempfile
import warnings
from collections.abc import Callable, Iterable, Iterator

import numpy as np
import tensorflow as tf

from fgfi_tf.deploy.network import EXACT, RawNetwork
from fgfi_tf.errors import UserError, first_line

#: What a network is made of, where it stands in those scopes too: the first and the last convolutions.
_WEIGHTED = {"CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"}
Pictures = Callable[[], Iterable[np.ndarray]]


def convert(network: RawNetwork, quantize: str = "none", pictures: Pictures | None = None) -> bytes:
    """A TFLite file.

    Args:
        network: for one image at a time.
        quantize: ``"none"``; ``"float16"``, weights of half the size, computed in float32; ``"dynamic"``,
            int8 weights, activations quantised while running; or ``"int8"``, weights of convolutions per
            channel and activations int8, calibrated on ``pictures``. What turns the network's outputs into
            boxes and scores stays float32.
        pictures: gives network inputs, uint8 [H, W, 3] each, from the start each time it is called.

    Returns:
        The file's bytes, with a signature ``serving_default`` as ``RawNetwork.function``.

    Raises:
        UserError: the detector uses an operation that TFLite does not have, or there are no pictures.
    """
    if quantize == "int8":
        return _int8(network, pictures)
    converter = _converter(network, network.concrete)
    if quantize != "none":
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if quantize == "float16":
        converter.target_spec.supported_types = [tf.float16]
    return _converted(converter.convert, network)


def _converter(network: RawNetwork, graph: tf.types.experimental.ConcreteFunction) -> tf.lite.TFLiteConverter:
    weights = tf.Module()  # of the detector Keras would trace every layer once more, in most of the time
    weights.of_graph = list(graph.variables)
    converter = tf.lite.TFLiteConverter.from_concrete_functions([graph], weights)
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _converted(convert: Callable[[], bytes], network: RawNetwork) -> bytes:
    try:
        with _quiet():
            return convert()
    except UserError:
        raise
    except Exception as error:  # the converter raises its own class, ValueError or RuntimeError
        raise UserError(
            f"{network.detector.name}: TFLite cannot hold this network with its built-in operations: "
            f"{first_line(error)}; export it as --format=savedmodel"
        ) from error


def _int8(network: RawNetwork, pictures: Pictures | None) -> bytes:
    if pictures is None or not any(True for _ in pictures()):
        raise UserError("--quantize=int8 is calibrated on pictures: --images or --data_dir names some")
    converter = _converter(network, network.for_int8())
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.representative_dataset = lambda: ([picture[None]] for picture in pictures())
    # In two steps, as the library's QuantizationDebugger goes, whose further models would take twice as long.
    converter._experimental_calibrate_only = True
    calibrated = _converted(converter.convert, network)

    def quantized() -> bytes:
        from tensorflow.lite.python import convert as library

        names, kinds = _around(calibrated)
        return library.mlir_quantize(calibrated, denylisted_nodes=set(names), denylisted_ops=set(kinds))

    return _converted(quantized, network)


def _around(model: bytes) -> tuple[list[str], list[str]]:
    """What int8 leaves alone of a file: tensors by name, and operations that only what is around has."""
    from tensorflow.lite.python import schema_py_generated as schema

    loaded = schema.ModelT.InitFromPackedBuf(model, 0)
    graph = loaded.subgraphs[0]
    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    ends = set(graph.outputs)
    names, inside = [], (set(), set())  # tensors; kinds of operations of (the network, what is around it)
    for operator in graph.operators:
        code = loaded.operatorCodes[operator.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        outputs = [graph.tensors[place].name.decode() for place in operator.outputs]
        scoped = any(f"{scope}/" in name for name in outputs for scope in EXACT)
        scoped = scoped or bool(ends & set(operator.outputs))
        around = scoped and kind not in _WEIGHTED
        names += outputs if around else []
        inside[around].add(kind)
    # Operations of several outputs, such as SPLIT, are not found by name.
    return names, sorted(inside[True] - inside[False])


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Without the lines that the converter's native code prints; shown where it fails."""
    with tempfile.TemporaryFile() as held, warnings.catch_warnings():
        # TensorFlow's own remark that its interpreter will move to another package.
        warnings.filterwarnings("ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated")
        kept = os.dup(2)
        os.dup2(held.fileno(), 2)
        try:
            yield
        except Exception:
            held.seek(0)
            os.write(kept, held.read())
            raise
        finally:
            os.dup2(kept, 2)
            os.close(kept)
