"""Detectors as ONNX files: fixed size, any number of images, raw boxes and scores out."""

from __future__ import annotations

import importlib
import logging

from fgfi_tf.deploy.network import RawNetwork
from fgfi_tf.errors import UserError, first_line

OPSET = 17  # of ONNX 1.12; onnxruntime 1.12 and later run it
OTHER = "export it as --format=savedmodel"


def check_ready() -> None:
    """Raises UserError where the packages of the extra are not installed."""
    missing = []
    for name in ("tf2onnx", "onnx", "onnxruntime"):
        try:
            importlib.import_module(name)
        except ImportError:
            missing.append(name)
    if missing:
        raise UserError(f"--format=onnx needs {', '.join(missing)}: pip install -e '.[onnx]'")


def convert(network: RawNetwork) -> bytes:
    """An ONNX file with the inputs and outputs of ``RawNetwork.function``.

    Raises:
        UserError: as :func:`check_ready`, or the detector uses an operation that ONNX does not have.
    """
    check_ready()
    import onnx
    import tf2onnx

    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    name = network.detector.name
    signature = network.function.input_signature
    try:
        proto, _ = tf2onnx.convert.from_function(network.function, input_signature=signature, opset=OPSET)
    except Exception as error:  # tf2onnx raises several classes of its own
        raise UserError(
            f"{name}: tf2onnx cannot convert this network: {first_line(error)}; {OTHER}"
        ) from error
    unknown = sorted({node.op_type for node in proto.graph.node if not onnx.defs.has(node.op_type)})
    if unknown:
        raise UserError(f"{name}: ONNX has no form of {', '.join(unknown)}; {OTHER}")
    return proto.SerializeToString()
