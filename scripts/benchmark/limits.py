"""Case: the imitation step against what the machine can do, its arithmetic and its memory.

The work counted is what the algorithm needs, not what an implementation spends: a grouped convolution
counts its groups only, and every array is read or written once for each operation that cannot do without.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator

import tensorflow as tf

from benchmark import snapshots, steps, torch_process, workload
from benchmark.options import Options, has_gpu, wants_xla
from benchmark.timing import Elsewhere, Measurement, Table, alternate
from fgfi_tf.models.convolutions import ConvBN
from fgfi_tf.models.shuffledet import ShuffleDet

PRODUCT, COPY = "matrix product", "copy"
# [N, N] of the product and MB of the copied array: large enough for a device's best.
ON_THE_CPU, ON_A_GPU = (2048, 256), (8192, 2048)


@dataclasses.dataclass(frozen=True)
class Work:
    """What has to be done.

    Attributes:
        flops: multiplications and additions, of convolutions only.
        values: numbers read from memory or written to it.
    """

    flops: float
    values: float

    def __add__(self, other: Work) -> Work:
        return Work(self.flops + other.flops, self.values + other.values)

    def __mul__(self, factor: float) -> Work:
        return Work(self.flops * factor, self.values * factor)


def convolutions(detector: ShuffleDet) -> Iterator[tuple[ConvBN, tuple[int, int]]]:
    """Each convolution with batch norm and the (height, width) of its output."""
    size = detector.input_size
    yield detector.backbone.stem, size
    size = _halved(size)  # the max-pool
    for unit in detector.backbone.units:
        yield unit.conv1, size
        size = _halved(size) if unit.strides == 2 else size
        yield unit.dconv, size
        yield unit.conv2, size


def _halved(size: tuple[int, int]) -> tuple[int, int]:
    return -(-size[0] // 2), -(-size[1] // 2)


def product_work(positions: int, fan_in: int, channels: int) -> Work:
    """Of one product [positions, fan_in] x [fan_in, channels]; no array counted."""
    return Work(2.0 * positions * fan_in * channels, 0.0)


def convolution_work(conv: ConvBN, size: tuple[int, int], training: bool) -> Work:
    """Of one image through a convolution with batch norm and ReLU, its gradients with ``training``.

    Inference reads the input and writes the output. Training moreover reads the convolution's output
    for the statistics, then reads and writes it to normalise; backwards batch norm reads gradient and
    output twice and writes once, the convolution's gradients read the gradient twice, the input once
    and write one of the input's size. The stem's input has no gradient.
    """
    positions, channels = size[0] * size[1], conv.filters
    fan_in = conv.kernel_size**2 * (1 if conv.depthwise else conv.in_channels // conv.groups)
    forward = product_work(positions, fan_in, channels)
    written = positions * channels
    read = positions * conv.strides**2 * (channels if conv.depthwise else conv.in_channels)
    if not training:
        return forward + Work(0.0, read + written)
    passes = 2 if conv.in_channels == 3 else 3  # products; the same count of the input's passes
    return forward * passes + Work(0.0, passes * read + (1 + 3 + 5 + 2) * written)


def network_work(detector: ShuffleDet, training: bool, with_head: bool = True) -> Work:
    """Of one image through the network."""
    work = Work(0.0, 0.0)
    for conv, size in convolutions(detector):
        work += convolution_work(conv, size, training)
    if with_head:
        positions, channels = size[0] * size[1], detector.feature_channels[0]
        head = product_work(positions, 9 * channels, detector.head.filters)
        arrays = Work(0.0, positions * (channels + detector.head.filters))
        work += (head + arrays) * (3 if training else 1)
    return work


def imitation_work(student: ShuffleDet, teacher: ShuffleDet, positions: float) -> Work:
    """Of the adaptation at so many positions, forward and backward."""
    fan_in = 9 * student.feature_channels[0]
    return product_work(positions, fan_in, teacher.feature_channels[0]) * 3


def limits(options: Options) -> Iterator[Table]:
    """The whole step, ours and PyTorch's, in turns with the best product and the best copy."""
    for student_name in options.students:
        for batch_size in options.batches:
            for precision in dict.fromkeys(("float32", options.precision)):
                yield _limits(options, student_name, batch_size, precision)


def _limits(options: Options, student_name: str, batch_size: int, precision: str) -> Table:
    size = options.input_size
    with workload.precision(precision):
        student, teacher = workload.seeded_pair(student_name, size)
        distiller = workload.make_distiller(student, teacher)
    batch = workload.prepared(student, workload.make_batch(batch_size, size))
    anchors, boxes = student.imitation_anchors(*size), student.imitation_boxes(batch)
    positions = float(distiller.imitation.count_positions(anchors, *boxes)[0])
    work = (network_work(student, True) + network_work(teacher, False, False)) * batch_size
    work += imitation_work(student, teacher, positions)
    dtype = tf.dtypes.as_dtype(precision)
    contenders = _best(dtype)
    ours = {"ours": workload.training_step(distiller, batch)}
    if wants_xla(options):
        ours["ours, XLA"] = workload.training_step(distiller, batch, xla=True)
    with torch_process.started(options) as torch:
        theirs = _torch_steps(options, torch, distiller, teacher, batch, precision) if torch else {}
        every = contenders | ours | theirs
        measured = {m.name: m for m in alternate(every, units=batch_size, **options.rounds)}
    side, megabytes = _sizes()
    rate = 2.0 * side**3 / measured[PRODUCT].median
    bandwidth = 2.0 * 2**20 * megabytes / measured[COPY].median
    rows = [row(measured[name], work, dtype.size, rate, bandwidth) for name in (*ours, *theirs)]
    note = (
        f"The step needs {work.flops / 1e9:.1f} GFLOP and {work.values * dtype.size / 1e9:.2f} GB; a matrix "
        f"product of {side} x {side} reaches {rate / 1e9:.0f} GFLOP/s, a copy {bandwidth / 1e9:.1f} GB/s: at "
        f"least {1e3 * work.flops / rate:.1f} ms and {1e3 * work.values * dtype.size / bandwidth:.1f} ms. "
        "Shares are of these rates; caches can hold arrays that the count takes from memory."
    )
    return Table(
        "limits", f"{student_name} imitating, {options.size}, batch {batch_size}, {precision}", rows, note
    )


def row(step: Measurement, work: Work, value_bytes: int, rate: float, bandwidth: float) -> dict:
    """One contender's rates and their shares of the machine's (``rate`` FLOP/s, ``bandwidth`` bytes/s)."""
    return {
        "": step.name,
        "median ms": 1e3 * step.median,
        "images/s": step.rate,
        "GFLOP/s": work.flops / step.median / 1e9,
        "of the product's": work.flops / step.median / rate,
        "GB/s": work.values * value_bytes / step.median / 1e9,
        "of the copy's": work.values * value_bytes / step.median / bandwidth,
    }


def _sizes() -> tuple[int, int]:
    return ON_A_GPU if has_gpu() else ON_THE_CPU


def _best(dtype: tf.DType) -> dict[str, Callable[[], object]]:
    side, megabytes = _sizes()
    factor = tf.cast(tf.random.normal([side, side]), dtype)
    values = tf.zeros([megabytes * 2**20 // dtype.size], dtype)
    product, copy = tf.function(tf.matmul), tf.function(lambda x: x + 1)
    # One number of the result is waited for, not the copy of all of it.
    return {PRODUCT: lambda: product(factor, factor)[0, 0].numpy(), COPY: lambda: copy(values)[0].numpy()}


def _torch_steps(options, torch, distiller, teacher, batch, precision) -> dict[str, Elsewhere]:
    kind = {"as_ours": True, "autocast": "" if precision == "float32" else precision}
    kinds = {steps.PYTORCH_AS_OURS: kind}
    if options.torch_compile:
        kinds["torch.compile, as ours"] = {**kind, "compiled": True}
    sources = (distiller.student, teacher, distiller.imitation, batch)
    return {
        name: snapshots.shuffledet_step(torch, *sources, **kind).contender("step")
        for name, kind in kinds.items()
    }
