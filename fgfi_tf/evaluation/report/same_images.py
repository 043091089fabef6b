"""The same images as every model sees them, beside the ground truth, as one picture."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from PIL import Image

from fgfi_tf import drawing
from fgfi_tf.evaluation.boxes import PIXELS, Boxes
from fgfi_tf.evaluation.report.data import Gallery, Picture, Section
from fgfi_tf.evaluation.report.pictures import ImageFolder

N_IMAGES = 4
_WIDTH = 416  # pixels of one picture: four columns stay readable on a screen
_FEWEST_OBJECTS = 2


def images_to_show(objects: np.ndarray, at_hand: np.ndarray, count: int = N_IMAGES) -> list[int]:
    """At most ``count`` images spread evenly over those with ``objects`` [F] that are ``at_hand`` [F].

    Chosen by their number, not by what was detected.
    """
    candidates = np.flatnonzero(at_hand & (objects >= _FEWEST_OBJECTS))
    if len(candidates) < count:
        candidates = np.flatnonzero(at_hand)
    places = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [int(image) for image in candidates[places]]


def section(
    models: Mapping[str, Boxes], ground_truth: Boxes, folder: ImageFolder, min_score: float
) -> Section:
    """A section of one picture: a row for each image, columns ground truth and models.

    ``models``: by name, the detections, of the images of ``ground_truth`` in the same order; those below
    ``min_score`` are not drawn.
    """
    ids = ground_truth.image_ids
    objects = np.bincount(ground_truth.image, minlength=len(ids))
    at_hand = np.array([name in folder.paths for name in ids])
    tables = {"ground truth": ground_truth.to(PIXELS)}
    tables |= {name: found.take(found.scores >= min_score).to(PIXELS) for name, found in models.items()}
    pictures, captions = [], []
    for number in images_to_show(objects, at_hand):
        image = folder.read(ids[number])
        height, width = image.shape[:2]
        scale = _WIDTH / width
        small = Image.fromarray(image).resize((_WIDTH, round(height * scale)), Image.Resampling.BICUBIC)
        for name, table in tables.items():
            rows = np.flatnonzero(table.image == number)
            pictures.append(
                drawing.draw_boxes(
                    np.asarray(small),
                    (table.boxes[rows] + 0.5) * scale - 0.5,
                    table.names(rows),
                    None if table.scores is None else table.scores[rows],
                )
            )
            captions.append(f"{name}, {ids[number]}" if table.scores is None else name)
    montage = drawing.montage(pictures, captions, columns=1 + len(models))
    note = f"Images at even distances, not chosen by their results; scores of {min_score:g} and more."
    caption = f"From left to right: ground truth, {', '.join(models)}."
    gallery = Gallery("", (Picture("same_images", caption, montage, few_colors=True),), note)
    return Section("The same images", (gallery,))
