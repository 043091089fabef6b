"""Cases: the evaluations against the number of frames (KITTI in full: ``kitti_eval.py``)."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from benchmark import kitti_eval
from benchmark.options import Options
from benchmark.timing import Result, alternate
from fgfi_tf.evaluation import registry
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.kitti import ap as kitti
from fgfi_tf.evaluation.kitti import files as kitti_files
from fgfi_tf.evaluation.voc import ap as voc
from fgfi_tf.training.parsing import parse_numbers


def kitti_evaluation(options: Options) -> Iterator[Result]:
    """Nine APs of made-up files, read anew, and of arrays in memory."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        counts = parse_numbers("frames", options.frames, int)
        frames = kitti_eval.make_files(folder, max(counts))
        for count in counts:
            some = frames[:count]

            def read(some=some):
                return kitti_files.read_detections(folder / "detections", some), kitti_files.read_labels(
                    folder / "labels", some
                )

            arrays = read()
            contenders = {
                "from text": lambda read=read: kitti.evaluate(*read()),
                "from arrays": lambda arrays=arrays: kitti.evaluate(*arrays),
            }
            measurements = alternate(contenders, units=count, **options.rounds)
            yield Result("kitti_eval", f"{count} frames, {len(arrays[0])} detections", measurements)


def voc_evaluation(options: Options) -> Iterator[Result]:
    """20 APs of made-up detections in memory."""
    for count in parse_numbers("frames", options.frames, int):
        truth, detections = _voc_scenes(count)
        measurements = alternate(
            {"from arrays": lambda t=truth, d=detections: voc.evaluate(d, t)}, units=count, **options.rounds
        )
        yield Result("voc_eval", f"{count} images, {len(detections.scores)} detections", measurements)


def _voc_scenes(count: int) -> tuple[Boxes, Boxes]:
    """VOC 2007's 3 objects an image, 20 detections an image of which some fit."""
    random = np.random.default_rng(0)
    names = tuple(f"class{i}" for i in range(20))
    truths, detections = [], {}
    for index in range(count):
        first = random.uniform(0, 300, (3, 2))
        boxes = np.concatenate([first, first + random.uniform(20, 200, (3, 2))], axis=1)
        classes = random.integers(0, len(names), 3)
        key = f"{index:06d}"
        difficult = random.random(3) < 0.15
        truths.append({"image_id": key, "boxes": boxes, "classes": classes, "difficult": difficult})
        chosen = random.integers(0, 3, 20)
        detections[key] = {
            "boxes": boxes[chosen] + random.normal(0, 8, (20, 4)),
            "scores": random.random(20),
            "classes": classes[chosen],
        }
    protocol = registry.get("voc")
    return protocol.ground_truth(truths, names), protocol.detections(detections, names)
