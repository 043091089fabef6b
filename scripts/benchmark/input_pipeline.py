"""Case: images a second of the training pipeline, beside decoding alone and beside the training step."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import tensorflow as tf

from benchmark import workload
from benchmark.options import Options
from benchmark.timing import Result, alternate
from fgfi_tf.data import kitti, pipeline, toy_kitti, transforms
from fgfi_tf.data.augment import AugmentConfig

DRAWN_FRAMES = 32
ROUND_IMAGES = 64


def pipeline_case(options: Options) -> Iterator[Result]:
    """Each round takes ``ROUND_IMAGES`` images; the training step as many as its batch has.

    Both streams are prefetched while the other is timed, which is the same for both.
    """
    with tempfile.TemporaryDirectory() as scratch:
        data_dir = options.data_dir
        if not data_dir:
            data_dir = str(Path(scratch) / "kitti")
            toy_kitti.write(data_dir, DRAWN_FRAMES, 1, image_size=(375, 1242), progress=False)
        dataset = kitti.prepare(data_dir, "train", Path(scratch) / "records")
        student = workload.seeded_detector(options.students[0], options.input_size)
        batch_size = options.batches[0]
        batches = pipeline.training_batches(
            dataset,
            input_size=options.input_size,
            batch_size=batch_size,
            seed=0,
            augmentation=AugmentConfig(),
            prepare=student.prepare_batch,
        )
        decoded = pipeline.example_positions(dataset.num_examples, 0, 0).map(
            lambda _, index: transforms.decode_image(dataset.sample(index)["image"]),
            num_parallel_calls=tf.data.AUTOTUNE,
        )
        source = options.data_dir or "drawn images of 375 x 1242"
        delivered = alternate(
            {
                "pipeline": _taker(batches, ROUND_IMAGES // batch_size),
                "decoding alone": _taker(decoded.prefetch(tf.data.AUTOTUNE), ROUND_IMAGES),
            },
            options.repeats,
            units=ROUND_IMAGES,
        )
        yield Result("pipeline", f"{source} to {options.size}, batch {batch_size}", delivered)
        teacher = workload.seeded_detector(workload.TEACHER, options.input_size, seed=1)
        batch = tf.nest.map_structure(lambda value: value.numpy(), next(iter(batches)))
        step = workload.training_step(workload.make_distiller(student, teacher), batch)
        (taken,) = alternate({"imitation step": step}, options.repeats, units=batch_size)
        share = delivered[0].rate / taken.rate
        yield f"pipeline: {share:.1f} times the {taken.rate:.1f} images/s that the imitation step takes."


def _taker(dataset: tf.data.Dataset, count: int) -> Callable[[], None]:
    iterator = iter(dataset)

    def take() -> None:
        for _ in range(count):
            next(iterator)

    return take
