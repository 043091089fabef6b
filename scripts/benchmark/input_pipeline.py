"""Case: images a second of the training pipeline, beside bare decoding and beside the training step."""

from __future__ import annotations

import itertools
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf
from PIL import Image

from benchmark import workload
from benchmark.options import Options
from benchmark.timing import Fresh, Result, alternate
from fgfi_tf.data import pipeline, registry, transforms
from fgfi_tf.data.augment import KittiAugmentation
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.data.resize import STRETCH
from fgfi_tf.models.detector import Detector
from fgfi_tf.toy import street

DRAWN_SIZE = (375, 1242)
# Batches taken before the clock starts: by then every thread is at work and no buffer holds a start.
SETTLING_BATCHES = 4
PIPELINE, DECODING, PILLOW, STEP = "pipeline", "bare decoding", "bare decoding, Pillow", "imitation step"


def pipeline_case(options: Options) -> Iterator[Result]:
    """For png and jpg files: the whole pipeline, decoding the same files on every core, the step.

    A stream is made for its turn, takes some batches, is timed for ``--round_images`` and is gone
    before the next contender's turn, threads and buffers too.
    """
    with tempfile.TemporaryDirectory() as scratch:
        if options.data_dir:
            sources = {options.data_dir: Path(options.data_dir)}
        else:
            sources = _drawn(Path(scratch), options.drawn_frames)
        for number, (title, folder) in enumerate(sources.items()):
            dataset = registry.open_split(
                "kitti", folder, "train", Path(scratch) / f"records{number}", progress=False
            )
            yield _measure(options, title, folder, dataset)


def _drawn(scratch: Path, frames: int) -> dict[str, Path]:
    """The same drawn images as png with usual settings, as KITTI's are, and as jpg."""
    drawn = scratch / "drawn"
    street.write(drawn, frames, 1, image_size=DRAWN_SIZE, progress=False)
    kinds = {"png": {}, "jpg": {"quality": 92}}
    for kind, settings in kinds.items():
        images = "training/image_2"
        shutil.copytree(drawn, scratch / kind, ignore=shutil.ignore_patterns("*.png"))
        (scratch / kind / images).mkdir(parents=True, exist_ok=True)
        for path in sorted((drawn / images).iterdir()):
            Image.open(path).save(scratch / kind / images / f"{path.stem}.{kind}", **settings)
    height, width = DRAWN_SIZE
    return {f"drawn {kind} of {height}x{width}": scratch / kind for kind in kinds}


def _measure(options: Options, title: str, folder: Path, dataset: PreparedDataset) -> Result:
    size, batch_size, cores = options.input_size, options.batches[0], workload.cores()
    student, teacher = workload.seeded_pair(options.students[0], size)
    files = [_image(folder, name) for name in dataset.image_ids]
    rounds = max(1, options.round_images // batch_size)
    batch = next(iter(_batches(dataset, student, batch_size)))
    del batch["image_id"]
    step = workload.training_step(workload.make_distiller(student, teacher), _numpy(batch))
    count = rounds * batch_size
    contenders = {
        PIPELINE: Fresh(lambda: _taker(_batches(dataset, student, batch_size), rounds, SETTLING_BATCHES)),
        DECODING: Fresh(
            lambda: _taker(_decoded(files, cores), rounds * batch_size, SETTLING_BATCHES * batch_size)
        ),
        PILLOW: Fresh(lambda: _pillow(files, cores, rounds * batch_size)),
        STEP: step,
    }
    units = dict.fromkeys(contenders, count) | {STEP: batch_size}
    result = Result(
        "pipeline",
        f"{title} to {options.size}, batch {batch_size}",
        alternate(contenders, units=units, **options.rounds),
    )
    result.note = rates(result) + f" {cores} threads decode in each; {len(files)} files, in the page cache."
    return result


def rates(result: Result) -> str:
    """The two figures asked for, from images a second."""
    decoding = result[PIPELINE].rate / result[DECODING].rate
    step = result[PIPELINE].rate / result[STEP].rate
    return (
        f"In images/s the pipeline delivers {decoding:.2f} of bare decoding (aim: 0.9) and {step:.1f} times "
        "what the imitation step uses (aim: 3). `first / this` compares the time of a call, which for the "
        "step is one batch."
    )


def _image(folder: Path, name: str) -> str:
    found = [folder / "training" / "image_2" / f"{name}.{kind}" for kind in ("png", "jpg")]
    return str(next(path for path in found if path.exists()))


def _numpy(batch: dict) -> dict:
    return tf.nest.map_structure(lambda value: value.numpy(), batch)


def _batches(dataset: PreparedDataset, student: Detector, batch_size: int) -> tf.data.Dataset:
    """What the trainer reads: decoding, every augmentation, resizing, targets, batches."""
    return pipeline.training_batches(
        dataset,
        resize=STRETCH,
        input_size=student.input_size,
        batch_size=batch_size,
        seed=0,
        augmentation=KittiAugmentation(),
        prepare=student.prepare_batch,
    )


def _decoded(files: list[str], cores: int) -> tf.data.Dataset:
    """Images, decoded and nothing else, as fast as all cores can; of the files' bytes in memory."""
    contents = [Path(path).read_bytes() for path in files]
    stream = tf.data.Dataset.from_tensor_slices(tf.constant(contents)).repeat()
    return stream.map(transforms.decode_image, num_parallel_calls=cores).prefetch(cores)


def _taker(dataset: tf.data.Dataset, count: int, before: int) -> Callable[[], None]:
    iterator = iter(dataset)
    for _ in range(before):
        next(iterator)

    def take() -> None:
        for _ in range(count):
            next(iterator)

    return take


def _pillow(files: list[str], cores: int, count: int) -> Callable[[], None]:
    chosen = list(itertools.islice(itertools.cycle(files), count))

    def decode(path: str) -> int:
        return np.asarray(Image.open(path)).size

    def run() -> None:
        with ThreadPoolExecutor(cores) as pool:
            for _ in pool.map(decode, chosen):
                pass

    return run
