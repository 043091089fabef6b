"""Layers of a detector or of an exported file, with shapes, parameters and multiply-adds."""

from __future__ import annotations

import contextlib
import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf
import tf_keras as keras

from fgfi_tf.data import policies
from fgfi_tf.deploy.runtimes import SIGNATURE
from fgfi_tf.errors import UserError, first_line
from fgfi_tf.models.checkpoint_files import DAMAGE
from fgfi_tf.models.detector import Detector


@dataclasses.dataclass(frozen=True)
class Layer:
    """One layer, or one operation of a file.

    Attributes:
        name: of the layer, or of the operation's output.
        kind: its class or operation.
        shape: of the output for one image; None: not known, or of no fixed size.
        parameters: numbers it owns, those of layers inside it too.
        multiply_adds: for one image; None where its output's size is not known.
    """

    name: str
    kind: str
    shape: tuple[int | None, ...] | None
    parameters: int
    multiply_adds: int | None


@dataclasses.dataclass(frozen=True)
class Description:
    """Of a detector or file.

    Attributes:
        layers: in the order of computation.
        parameters: all of them; trainable ones where ``trainable`` is not None.
    """

    layers: tuple[Layer, ...]
    parameters: int
    trainable: int | None = None

    @property
    def multiply_adds(self) -> int | None:
        """Of one image; None where a layer's are not known."""
        counts = [layer.multiply_adds for layer in self.layers]
        return None if None in counts or not counts else sum(counts)


def of_detector(detector: Detector) -> Description:
    """Of its layers, for its own input size, grouped convolutions counted as grouped.

    A layer with a kernel counts as one with the batch norm inside it. The multiply-adds are the kernel's
    values times the output's positions, additions of a bias and batch norm not counted, as in the papers.
    """
    size = detector.input_size
    if policies.resize(detector.resize).by_batch:
        size = policies.resize(detector.resize).largest_input(size)
    owners = list(_owners(detector))
    shapes: dict[int, list[tf.TensorShape]] = {id(layer): [] for layer in owners}
    order: list[keras.layers.Layer] = []
    with _watched(owners, shapes, order):
        spec = tf.TensorSpec([1, *size, 3], tf.float32)
        tf.function(lambda x: _everything(detector, x), autograph=False).get_concrete_function(spec)
    layers = tuple(_layer(layer, shapes[id(layer)]) for layer in order)
    count = sum(int(np.prod(variable.shape)) for variable in detector.variables)
    return Description(layers, count, sum(int(np.prod(v.shape)) for v in detector.trainable_variables))


def _everything(detector: Detector, images: tf.Tensor) -> dict[str, tf.Tensor]:
    """All that runs for an image, the second stage of a detector in two too."""
    size = tf.cast(tf.shape(images)[1:3], tf.float32)[None]
    batch = {"scale": tf.ones([1, 2]), "image_size": tf.cast(size, tf.int32), "content_size": size}
    return detector.detect(detector(images, training=False), batch)


def _owners(layer: keras.layers.Layer) -> Iterator[keras.layers.Layer]:
    """Layers with weights of their own; none inside another."""
    for inner in layer._flatten_layers(recursive=False, include_self=False):
        if inner._trainable_weights or inner._non_trainable_weights:
            yield inner
        else:
            yield from _owners(inner)


@contextlib.contextmanager
def _watched(layers: Sequence[keras.layers.Layer], shapes: dict[int, list], order: list) -> Iterator[None]:
    """While a graph is traced: keeps what shapes layers give, and in which order they are called."""

    def watch(layer: keras.layers.Layer, call: Callable[..., Any]) -> Callable[..., Any]:
        @tf.autograph.experimental.do_not_convert
        def watched(*args, **kwargs):
            outputs = call(*args, **kwargs)
            if not shapes[id(layer)]:
                order.append(layer)
            shapes[id(layer)].append(tf.nest.flatten(outputs)[0].shape)
            return outputs

        return watched

    for layer in layers:  # past Keras' own __setattr__
        object.__setattr__(layer, "call", watch(layer, layer.call))
    try:
        yield
    finally:
        for layer in layers:
            object.__delattr__(layer, "call")


def _layer(layer: keras.layers.Layer, shapes: Sequence[tf.TensorShape]) -> Layer:
    kernel = next(
        (getattr(layer, name) for name in ("depthwise_kernel", "kernel") if hasattr(layer, name)), None
    )
    parameters = sum(int(np.prod(variable.shape)) for variable in layer.variables)
    adds: int | None = 0
    if kernel is not None:
        size = int(np.prod(kernel.shape))
        places = [_places(shape[:-1]) for shape in shapes]
        adds = None if None in places else size * sum(places)
    shape = tuple(shapes[0]) if shapes[0].rank is not None else None
    filters = getattr(layer, "filters", None)
    if shape is not None and filters:  # without channels that a layer computes too many, for speed
        shape = (*shape[:-1], filters)
    name = layer.variables[0].name.rsplit("/", 1)[0]  # backbone/group1/block0/conv1
    return Layer(name, type(layer).__name__, shape, parameters, adds)


def _places(shape: Sequence[int | None]) -> int | None:
    return None if None in tuple(shape) else int(np.prod(tuple(shape)))


def of_file(path: Path) -> Description:
    """Of a TFLite or ONNX file. Raises UserError for a damaged one, or where nothing reads ONNX here."""
    kind, read = ("ONNX", _of_onnx) if path.suffix.lower() == ".onnx" else ("TFLite", _of_tflite)
    try:
        return read(path)
    except (OSError, UserError):
        raise
    except Exception as error:  # of what parses them, which trusts every offset in the file
        raise UserError(f"{path} is no {kind} file, or damaged: {first_line(error)}") from error


def _of_tflite(path: Path) -> Description:
    from tensorflow.lite.python import schema_py_generated as schema

    model = schema.ModelT.InitFromPackedBuf(path.read_bytes(), 0)
    kinds = {number: name for name, number in vars(schema.BuiltinOperator).items() if isinstance(number, int)}
    graph, layers = model.subgraphs[0], []
    constants = {
        place: int(np.prod(tensor.shape))
        for place, tensor in enumerate(graph.tensors)
        if model.buffers[tensor.buffer].data is not None
    }
    for operator in graph.operators:
        code = model.operatorCodes[operator.opcodeIndex]
        kind = kinds[max(code.builtinCode, code.deprecatedBuiltinCode)]
        if kind == "DEQUANTIZE" and operator.inputs[0] in constants:  # float16 weights
            constants[operator.outputs[0]] = constants[operator.inputs[0]]
            continue
        output = graph.tensors[operator.outputs[0]]
        adds, owned = 0, [place for place in operator.inputs if place in constants]
        if kind in ("CONV_2D", "DEPTHWISE_CONV_2D", "FULLY_CONNECTED"):
            adds = constants.get(operator.inputs[1], 0) * int(np.prod(output.shape[:-1]))
        parameters = sum(constants[place] for place in owned) if adds else 0
        shape = tuple(int(side) for side in output.shape)
        layers.append(Layer(output.name.decode().split(";")[0], kind, shape, parameters, adds))
    return Description(tuple(layers), sum(layer.parameters for layer in layers))


def _of_onnx(path: Path) -> Description:
    try:
        import onnx
    except ImportError as error:
        raise UserError("ONNX files are read by onnx: pip install -e '.[onnx]'") from error

    graph = onnx.shape_inference.infer_shapes(onnx.load(str(path))).graph
    sizes = {value.name: tuple(value.dims) for value in graph.initializer}
    shapes = {
        value.name: tuple(side.dim_value or None for side in value.type.tensor_type.shape.dim)
        for value in [*graph.value_info, *graph.output]
    }
    layers = []
    for node in graph.node:
        shape = shapes.get(node.output[0])
        owned = [int(np.prod(sizes[name])) for name in node.input[1:] if name in sizes]
        adds: int | None = 0
        if node.op_type == "Conv":
            places = _places(shape[2:]) if shape else None
            adds = None if places is None else owned[0] * places
        elif node.op_type in ("MatMul", "Gemm") and owned:
            places = _places(shape[1:-1]) if shape else None
            adds = None if places is None else owned[0] * places
        parameters = sum(owned) if adds != 0 else 0
        layers.append(Layer(node.output[0], node.op_type, shape, parameters, adds))
    return Description(tuple(layers), sum(layer.parameters for layer in layers))


def of_saved_model(folder: Path) -> Description:
    """Of the signature of a SavedModel of this package. Raises UserError for any other."""
    from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

    try:
        loaded = tf.saved_model.load(str(folder))
        graph = convert_variables_to_constants_v2(loaded.signatures[SIGNATURE]).graph
    except (*DAMAGE, ValueError, KeyError) as error:
        raise UserError(f"{folder} is not a SavedModel of this package: {first_line(error)}") from error
    layers = []
    for operation in graph.get_operations():
        if operation.type not in ("Conv2D", "DepthwiseConv2dNative", "MatMul", "_FusedConv2D"):
            continue
        kernel, output = operation.inputs[1].shape, operation.outputs[0].shape
        known = kernel.is_fully_defined() and output.rank is not None
        size = int(np.prod(kernel)) if kernel.is_fully_defined() else 0
        places = _places(output[1:-1]) if known else None
        adds = None if places is None else size * places
        shape = tuple(output) if output.rank is not None else None
        layers.append(Layer(operation.name, operation.type, shape, size, adds))
    variables = loaded.signatures[SIGNATURE].variables
    return Description(tuple(layers), sum(int(np.prod(variable.shape)) for variable in variables))
