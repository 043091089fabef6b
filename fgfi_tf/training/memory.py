"""Whether a training step fits into memory, estimated before the first one.

A step keeps what the student computes for each image until its gradient is taken. On a CPU, steps of
ShuffleDet 0.25x and 0.5x (192 x 624, with and without a teacher) and of VGG11 at half width (300 x 600) took
0.87 to 1.17 times what :func:`activation_bytes` says, and a gradient for each weight.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from pathlib import Path

import psutil
import tensorflow as tf

from fgfi_tf.data import policies
from fgfi_tf.models.detector import Detector
from fgfi_tf.training.config import ExperimentConfig

GB = 1e9
CONTAINER_LIMIT = Path("/sys/fs/cgroup/memory.max")
# Outputs of these are no memory of their own.
_VIEWS = frozenset(
    "Reshape Identity IdentityN Squeeze ExpandDims EnsureShape StopGradient Placeholder Const "
    "ReadVariableOp".split()
)
# No detector keeps more bytes than this for a byte of its input: where these would fit, nothing is traced.
_AT_MOST = 1000


def warning(config: ExperimentConfig, student: Detector, strategy: tf.distribute.Strategy) -> str:
    """A line for a batch that will not fit, with what would; "" where it fits, or free memory is not known.

    Of a cluster each worker would have to trace alike; there nothing is said.
    """
    devices = strategy.extended.worker_devices
    free = free_bytes(devices[0])
    if free is None or strategy.cluster_resolver is not None:
        return ""
    # replicas on parts of one CPU share its memory
    sharing = len(devices) if "CPU" in devices[0].upper() else 1
    height, width = policies.resize(student.resize).largest_input(student.input_size)
    images = (
        -(-(config.batch_size + config.unlabelled_images) // (len(devices) * config.gradient_accumulation))
        * sharing
    )
    if images * height * width * 3 * 4 * _AT_MOST < free:
        return ""
    each = activation_bytes(lambda inputs: student(inputs, training=False), height, width)
    fixed = sum(variable.shape.num_elements() * 4 for variable in student.trainable_variables) * sharing
    if fixed + images * each <= free:
        return ""
    needed, device = (fixed + images * each) / GB, devices[0].split("device:")[-1]
    return (
        f"a step on {images} images of {height} x {width} takes about {needed:.1f} GB, and {free / GB:.1f} "
        f"GB of {device} are free: it will hardly fit. "
        + _remedy(config, int((free - fixed) // each), len(devices), sharing)
    )


def _remedy(config: ExperimentConfig, fitting: int, devices: int, sharing: int) -> str:
    """``fitting``: images that a device has room for, or a CPU that ``sharing`` replicas share."""
    each = fitting // sharing  # of a replica
    for parts in range(config.gradient_accumulation + 1, config.batch_size // devices + 1):
        if config.batch_size % (devices * parts) == 0 and config.batch_size // (devices * parts) <= each:
            return f"--gradient_accumulation={parts} would, or --batch_size={each * devices}"
    return "A smaller --input_size or --mixed_precision takes less"


def activation_bytes(network: Callable[[tf.Tensor], object], height: int, width: int) -> int:
    """Bytes of all that a network computes for one image, float32 [1, height, width, 3], views left out."""
    traced = tf.function(network, autograph=False).get_concrete_function(tf.TensorSpec([1, height, width, 3]))
    return sum(
        output.shape.num_elements() * output.dtype.size
        for operation in traced.graph.get_operations()
        if operation.type not in _VIEWS
        for output in operation.outputs
        if output.shape.is_fully_defined() and output.dtype.is_floating
    )


def free_bytes(device: str) -> int | None:
    """Free memory of a device, of a CPU the machine's or the container's; None where nothing tells."""
    if "GPU" in device.upper():
        return _free_of_gpu(device)
    free = psutil.virtual_memory().available
    with contextlib.suppress(OSError, ValueError):  # no container, or one without a limit ("max")
        free = min(free, int(CONTAINER_LIMIT.read_text()) - psutil.Process().memory_info().rss)
    return free


def _free_of_gpu(device: str) -> int | None:
    from tensorflow.python.client import device_lib  # nothing public tells a GPU's memory

    name = "GPU:" + device.rsplit(":", 1)[-1]
    for found in device_lib.list_local_devices():
        if found.name.endswith(f":{name}"):
            return found.memory_limit - tf.config.experimental.get_memory_info(name)["current"]
    return None
