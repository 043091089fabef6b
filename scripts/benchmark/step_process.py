"""One configuration of the training step, timed in a process of its own; see ``benchmark.processes``.

usage: python -m benchmark.step_process JSON   prints the seconds of every steady step and a loss as JSON
"""

from __future__ import annotations

import json
import math
import sys
import time

import tensorflow as tf
import tf_keras as keras

from benchmark import workload
from benchmark.processes import Job
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.training import strategy
from fgfi_tf.training.optimizers import MomentumSGD

# Calls of the graph that trace, compile and warm up.
UNTIMED_CALLS = 2
# The mean loss of that many first steps is told: every configuration comes by it.
LOSS_STEPS = 8


class Clock(keras.callbacks.Callback):
    """The seconds between the ends of two calls, for each step of a call; the mean loss."""

    def __init__(self, steps_per_call: int):
        super().__init__()
        self.seconds, self.loss, self._steps, self._last = [], math.nan, steps_per_call, 0.0

    def on_train_batch_end(self, batch, logs=None):
        """Reads the loss, which waits for the step, then the clock."""
        loss = float(logs["loss"])
        now = time.perf_counter()
        self.seconds.append((now - self._last) / self._steps)
        self._last = now
        if batch + 1 == LOSS_STEPS:
            self.loss = loss


def build(job: Job) -> Distiller:
    """The distiller as the trainer compiles it; to be called in the strategy's scope."""
    with workload.precision(job.mixed_precision):
        student, teacher = workload.seeded_pair(job.model, job.size)
        distiller = Distiller(
            student,
            teacher.inference_copy(),
            workload.make_imitation(student, teacher),
            gradient_accumulation=job.gradient_accumulation,
        )
    optimizer = MomentumSGD(workload.LEARNING_RATE, workload.MOMENTUM)
    if job.mixed_precision == "float16":
        optimizer = keras.mixed_precision.LossScaleOptimizer(optimizer)
    distiller.compile(optimizer, jit_compile=job.jit_compile, steps_per_execution=job.steps_per_execution)
    return distiller


def main(job: Job) -> dict[str, list[float] | float]:
    """Trains on one batch in memory; ``seconds`` of each steady step, mean ``loss`` of the first steps."""
    if job.threads:
        tf.config.threading.set_intra_op_parallelism_threads(job.threads)
        tf.config.threading.set_inter_op_parallelism_threads(job.threads)
    over = strategy.build_strategy(virtual_cpus=job.virtual_cpus)
    worker, workers = strategy.worker_index(over)
    with over.scope():
        distiller = build(job)
    batch = workload.prepared(distiller.student, workload.make_batch(job.batch, job.size))
    local = job.batch // workers
    share = tf.nest.map_structure(lambda x: x[worker * local : (worker + 1) * local], batch)
    batches = tf.data.Dataset.from_tensors(share).cache().repeat()
    if workers > 1:
        own = batches.rebatch([local])
        batches = over.distribute_datasets_from_function(lambda context: own)
    calls = UNTIMED_CALLS + max(2, -(-job.steps // job.steps_per_execution))
    calls = max(calls, LOSS_STEPS // job.steps_per_execution)
    clock = Clock(job.steps_per_execution)
    distiller.fit(batches, steps_per_epoch=calls * job.steps_per_execution, verbose=0, callbacks=[clock])
    if not math.isfinite(clock.loss):
        raise FloatingPointError(f"the loss is {clock.loss}: such steps say nothing")
    return {"seconds": clock.seconds[UNTIMED_CALLS:], "loss": clock.loss}


if __name__ == "__main__":
    given = json.loads(sys.argv[1])
    print(json.dumps(main(Job(**{**given, "size": tuple(given["size"])}))))
