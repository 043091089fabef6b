"""Cases: ShuffleDet's imitation step and plain training step."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np
import tensorflow as tf

from benchmark import snapshots, torch_process, workload
from benchmark.options import Options, wants_xla
from benchmark.timing import Result, alternate
from fgfi_tf.imitation.core import Measured
from fgfi_tf.imitation.distiller import Distiller

GRADIENT_TOLERANCE = 0.02
NO_LAYER = "ours, teacher but no imitation layer"
PYTORCH = "PyTorch (adapts everywhere, teacher not folded)"
PYTORCH_AS_OURS = "PyTorch, as ours (adapts in the mask, teacher folded)"


class TeacherOnly(Distiller):
    """The step without the imitation layer, but with the teacher's forward pass."""

    def _measured(self, outputs, taught, batch):
        # A weight too small to matter, but no zero that would let the graph drop the teacher.
        nothing = 1e-30 * tf.add_n([tf.reduce_sum(features) for features in taught["features"]])
        return Measured(nothing, nothing, nothing)


def imitation_step(options: Options) -> Iterator[Result]:
    """Teacher forward, student forward and backward, mask, loss and update."""
    for student_name in options.students:
        for batch_size in options.batches:
            yield _imitation_step(options, student_name, batch_size)


def _imitation_step(options: Options, student_name: str, batch_size: int) -> Result:
    size = options.input_size
    student, teacher = workload.seeded_pair(student_name, size)
    batch = workload.prepared(student, workload.make_batch(batch_size, size))
    ours = workload.make_distiller(student, teacher)
    without = workload.make_distiller(
        workload.seeded_detector(student_name, size), teacher, distiller_class=TeacherOnly
    )
    contenders = {"ours": workload.training_step(ours, batch)}
    note = f"{_mask_share(ours, batch):.0%} of the positions are in the mask."
    with torch_process.started(options) as torch:
        if torch:
            theirs = _torch_steps(options, torch, ours, teacher, batch)
            note += "".join(f" {name}: {check_equal(ours, step, batch)}" for name, step in theirs.items())
            contenders |= {name: step.contender("step") for name, step in theirs.items()}
        contenders[NO_LAYER] = workload.training_step(without, batch)
        if wants_xla(options):
            compiled = workload.make_distiller(*workload.seeded_pair(student_name, size))
            contenders["ours, XLA"] = workload.training_step(compiled, batch, xla=True)
        if options.precision != "float32":
            half, text = _half_precision(options, torch, student_name, batch, float(contenders["ours"]()))
            contenders |= half
            note += text
        title = f"{student_name}, {options.size}, batch {batch_size}"
        measurements = alternate(contenders, units=batch_size, **options.rounds)
    result = Result("imitation_step", title, measurements, note)
    result.note += f" {layer_share(result)}"
    return result


def _torch_steps(options: Options, torch, ours: Distiller, teacher, batch: dict) -> dict:
    """PyTorch's steps by name: as one would write it, the like of ours, and compiled."""
    kinds = {PYTORCH: {}, PYTORCH_AS_OURS: {"as_ours": True}}
    if options.torch_compile:
        kinds["torch.compile, as ours"] = {"as_ours": True, "compiled": True}
    sources = (ours.student, teacher, ours.imitation, batch)
    return {name: snapshots.shuffledet_step(torch, *sources, **kind) for name, kind in kinds.items()}


def layer_share(result: Result) -> str:
    """What mask, adaptation and loss, forward and backward, take of the step."""
    share = 1.0 - result[NO_LAYER].median / result["ours"].median
    cpu = 1.0 - 1.0 / result.cpu_ratio(result[NO_LAYER])
    return (
        f"The imitation layer takes {share:.1%} of the step (of its CPU time {cpu:.1%}; aim: at most 10 %)."
    )


def _half_precision(
    options: Options, torch, student_name: str, batch: dict, expected: float
) -> tuple[dict, str]:
    """Contenders of both sides in bfloat16, whose first loss must be near ``expected``."""
    with workload.precision(options.precision):
        student, teacher = workload.seeded_pair(student_name, options.input_size)
        distiller = workload.make_distiller(student, teacher)
        step = workload.training_step(distiller, batch)
        first = step()
    check_near(first, expected, f"ours in {options.precision}")
    contenders, text = {f"ours, {options.precision}": step}, f" First loss {first:.4f} against {expected:.4f}"
    if torch:
        pair = workload.seeded_pair(student_name, options.input_size)
        for name, as_ours in ((PYTORCH, False), (PYTORCH_AS_OURS, True)):
            theirs = snapshots.shuffledet_step(
                torch, *pair, distiller.imitation, batch, as_ours=as_ours, autocast=options.precision
            )
            contenders[f"{name}, autocast {options.precision}"] = theirs.contender("step")
            first = theirs.call("step")
            check_near(first, expected, f"{name} in {options.precision}")
            text += f", PyTorch's {first:.4f}"
    return contenders, f"{text}, in {options.precision} and float32."


def check_near(found: float, expected: float, what: str) -> None:
    """Raises AssertionError where a loss in half precision is another loss."""
    if not abs(found - expected) <= 0.05 * abs(expected):
        raise AssertionError(f"{what}: the loss is {found}, in float32 {expected}")


def _mask_share(distiller: Distiller, batch: dict) -> float:
    student = distiller.student
    masks = distiller.imitation.masks(
        student.imitation_anchors(*student.input_size), *student.imitation_boxes(batch)
    )
    return float(np.mean(masks[0]))


@workload.exact_products()
def check_equal(distiller: Distiller, theirs, batch: dict, rtol: float = 1e-4) -> str:
    """Losses and gradients of both sides from the same weights; returns what was seen.

    ``theirs`` is a ``torch_shuffledet.TorchImitationStep`` in PyTorch's process; losses differ by ``rtol`` of
    themselves at most.

    Raises:
        AssertionError: where they differ by more than the tolerance. Gradients pass through some 50
            batch norms in float32, and a ReLU at 0 may fall to either side.
    """
    state = [(v, v.numpy()) for v in distiller.student.non_trainable_variables]

    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            terms = distiller.losses_of(tf.nest.map_structure(tf.constant, batch), tf.constant(0, tf.int64))
            loss = tf.add_n(list(terms.values()))
        return terms, tape.gradient(loss, distiller.trained_variables)

    terms, gradients = compute()
    for variable, value in state:  # the moving statistics have moved
        variable.assign(value)
    torch_terms, torch_gradients = theirs.call("losses_and_gradients")
    worst_loss = 0.0
    for name, value in torch_terms.items():
        np.testing.assert_allclose(terms[name], value, rtol=rtol, atol=1e-6, err_msg=name)
        worst_loss = max(worst_loss, abs(float(terms[name]) - value) / max(abs(value), 1e-6))
    ours = {v.name: g.numpy() for v, g in zip(distiller.trained_variables, gradients, strict=True)}
    first = next(name for name in ours if name.endswith("kernel:0"))
    pairs = [(ours[first], torch_gradients["stem"])]
    if torch_gradients["adaptation"] is not None:
        last = next(name for name in ours if name.startswith("kernel_0"))
        pairs.append((ours[last], torch_gradients["adaptation"]))
    worst = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs)
    if worst > GRADIENT_TOLERANCE:
        raise AssertionError(f"the gradients of the two sides differ by {worst:.1e}")
    return f"Same losses to {worst_loss:.0e}, first and last gradient to {worst:.0e} (relative L2)."


def plain_step(options: Options) -> Iterator[Result]:
    """The student's own training step."""
    size = options.input_size
    for student_name in options.students:
        for batch_size in options.batches:
            student = workload.seeded_detector(student_name, size, seed=0)
            batch = workload.prepared(student, workload.make_batch(batch_size, size))
            ours, note = workload.make_distiller(student, None), ""
            contenders = {"ours": workload.training_step(ours, batch)}
            with torch_process.started(options) as torch:
                if torch:
                    theirs = snapshots.shuffledet_step(torch, student, None, None, batch)
                    note = check_equal(ours, theirs, batch)
                    contenders["PyTorch"] = theirs.contender("step")
                measurements = alternate(contenders, units=batch_size, **options.rounds)
            yield Result(
                "plain_step", f"{student_name}, {options.size}, batch {batch_size}", measurements, note
            )
