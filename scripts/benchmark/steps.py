"""Cases: the imitation step, the plain training step, their memory."""

from __future__ import annotations

import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import tensorflow as tf

from benchmark import workload
from benchmark.options import Options, has_torch
from benchmark.timing import Result, alternate
from fgfi_tf.imitation.distiller import Distiller

GRADIENT_TOLERANCE = 0.02


class TeacherOnly(Distiller):
    """The step without the imitation layer, but with the teacher's forward pass."""

    def _imitation_term(self, inputs, outputs, batch, step):
        features = self.teacher.imitation_features(inputs)
        # A weight too small to matter, but no zero that would let the graph drop the teacher.
        return 1e-30 * tf.add_n([tf.reduce_sum(f) for f in features])


def imitation_step(options: Options) -> Iterator[Result]:
    """Teacher forward, student forward and backward, mask, loss and update."""
    for student_name in options.students:
        for batch_size in options.batches:
            yield _imitation_step(options, student_name, batch_size)


def _imitation_step(options: Options, student_name: str, batch_size: int) -> Result:
    size = options.input_size
    student = workload.seeded_detector(student_name, size, seed=0)
    teacher = workload.seeded_detector(workload.TEACHER, size, seed=1)
    batch = workload.prepared(student, workload.make_batch(batch_size, size))
    ours = workload.make_distiller(student, teacher)
    without = workload.make_distiller(
        workload.seeded_detector(student_name, size), teacher, distiller_class=TeacherOnly
    )
    contenders = {"ours": workload.training_step(ours, batch)}
    note = f"{_mask_share(ours, batch):.0%} of the positions are in the mask."
    if has_torch(options):
        from benchmark import torch_shuffledet

        theirs = torch_shuffledet.TorchImitationStep(student, teacher, ours.imitation, batch)
        note += " " + check_equal(ours, theirs, batch)
        contenders["PyTorch"] = theirs.step
        if options.torch_compile:
            contenders["torch.compile"] = torch_shuffledet.compiled(
                torch_shuffledet.TorchImitationStep(student, teacher, ours.imitation, batch)
            ).step
    contenders["ours, teacher but no imitation layer"] = workload.training_step(without, batch)
    measurements = alternate(contenders, options.repeats, units=batch_size)
    title = f"{student_name}, {options.size}, batch {batch_size}"
    return Result("imitation_step", title, measurements, note)


def _mask_share(distiller: Distiller, batch: dict) -> float:
    student = distiller.student
    masks = distiller.imitation.masks(
        student.imitation_anchors(*student.input_size), *student.imitation_boxes(batch)
    )
    return float(np.mean(masks[0]))


def check_equal(distiller: Distiller, theirs, batch: dict) -> str:
    """Losses and gradients of both sides from the same weights; returns what was seen.

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
    torch_terms, torch_gradients = theirs.losses_and_gradients()
    worst_loss = 0.0
    for name, value in torch_terms.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-4, atol=1e-6, err_msg=name)
        worst_loss = max(worst_loss, abs(float(terms[name]) - value) / max(abs(value), 1e-6))
    ours = {v.name: g.numpy() for v, g in zip(distiller.trained_variables, gradients, strict=True)}
    first = next(name for name in ours if name.endswith("kernel:0"))
    last = next(name for name in ours if name.startswith("kernel_0"))
    pairs = ((ours[first], torch_gradients["stem"]), (ours[last], torch_gradients["adaptation"]))
    worst = max(np.linalg.norm(a - b) / np.linalg.norm(b) for a, b in pairs if b is not None)
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
            contenders = {"ours": workload.training_step(workload.make_distiller(student, None), batch)}
            if has_torch(options):
                from benchmark import torch_shuffledet

                theirs = torch_shuffledet.TorchImitationStep(student, None, None, batch)
                contenders["PyTorch"] = theirs.step
            measurements = alternate(contenders, options.repeats, units=batch_size)
            yield Result("plain_step", f"{student_name}, {options.size}, batch {batch_size}", measurements)


def peak_memory(options: Options) -> Iterator[str]:
    """Peak memory of the imitation step, each side in a process of its own."""
    script = Path(__file__).resolve().parent.parent / "benchmark.py"
    for student_name in options.students:
        for batch_size in options.batches:
            figures = []
            for side in ("ours", "torch") if has_torch(options) else ("ours",):
                command = [sys.executable, str(script), f"--peak_of={side}", f"--models={student_name}"]
                command += [f"--batch={batch_size}", f"--size={options.size}", f"--threads={options.threads}"]
                done = subprocess.run(command, capture_output=True, text=True, check=True)
                figures.append(f"{side} {float(done.stdout.split()[-1]):.0f} MB")
            yield f"peak_memory: {student_name}, {options.size}, batch {batch_size}: {', '.join(figures)}"


def print_peak(options: Options) -> None:
    """Three imitation steps of one side, and the most memory this process ever held."""
    size = options.input_size
    student = workload.seeded_detector(options.students[0], size, seed=0)
    teacher = workload.seeded_detector(workload.TEACHER, size, seed=1)
    batch = workload.prepared(student, workload.make_batch(options.batches[0], size))
    if options.peak_of == "torch":
        from benchmark import torch_shuffledet

        imitation = workload.make_imitation(student, teacher)
        step = torch_shuffledet.TorchImitationStep(student, teacher, imitation, batch).step
    else:
        step = workload.training_step(workload.make_distiller(student, teacher), batch)
    for _ in range(3):
        step()
    print(
        resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << (20 if sys.platform == "darwin" else 10))
    )
