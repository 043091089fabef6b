"""The same frames as every model sees them, beside the ground truth, as one picture."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping, Sequence

import numpy as np
from PIL import Image

from fgfi_tf import drawing
from fgfi_tf.evaluation.report_data import Gallery, Picture, Section

N_FRAMES = 4
_WIDTH = 416  # pixels of one picture: four columns stay readable on a screen
_FEWEST_OBJECTS = 2


@dataclasses.dataclass(frozen=True)
class Drawn:
    """What is drawn over one frame.

    Attributes:
        boxes: [N, 4] (xmin, ymin, xmax, ymax), 0-based inclusive pixel corners of the image file.
        names: N class names.
        scores: N scores; None for ground truth.
    """

    boxes: np.ndarray
    names: Sequence[str]
    scores: np.ndarray | None = None


def frames_to_show(objects: np.ndarray, at_hand: np.ndarray, count: int = N_FRAMES) -> list[int]:
    """Frames spread evenly over those with objects: chosen by their number, not by what was detected.

    Args:
        objects: int [F], labelled objects of each frame.
        at_hand: bool [F], whether its image is there.
        count: at most so many.
    """
    candidates = np.flatnonzero(at_hand & (objects >= _FEWEST_OBJECTS))
    if len(candidates) < count:
        candidates = np.flatnonzero(at_hand)
    places = np.linspace(0, len(candidates) - 1, min(count, len(candidates))).round().astype(int)
    return [int(frame) for frame in candidates[places]]


def section(
    frame_ids: Sequence[str],
    read: Callable[[str], np.ndarray],
    ground_truth: Callable[[str], Drawn],
    models: Mapping[str, Callable[[str], Drawn]],
    min_score: float,
) -> Section:
    """A section of one picture: a row for each frame, columns ground truth and models.

    Args:
        frame_ids: the frames, see :func:`frames_to_show`.
        read: frame id to RGB uint8 [H, W, 3].
        ground_truth: frame id to the labelled objects.
        models: by name, frame id to detections.
        min_score: detections below it are not drawn.
    """
    pictures, captions = [], []
    for frame_id in frame_ids:
        image = read(frame_id)
        height, width = image.shape[:2]
        scale = _WIDTH / width
        small = Image.fromarray(image).resize((_WIDTH, round(height * scale)), Image.Resampling.BICUBIC)
        for name, drawn_of in {"ground truth": ground_truth, **models}.items():
            drawn = drawn_of(frame_id)
            shown = np.ones(len(drawn.boxes), bool) if drawn.scores is None else drawn.scores >= min_score
            pictures.append(
                drawing.draw_boxes(
                    np.asarray(small),
                    (drawn.boxes[shown] + 0.5) * scale - 0.5,
                    [label for label, one in zip(drawn.names, shown, strict=True) if one],
                    None if drawn.scores is None else drawn.scores[shown],
                )
            )
            captions.append(f"{name}, {frame_id}" if name == "ground truth" else name)
    montage = drawing.montage(pictures, captions, columns=1 + len(models))
    note = f"Frames at even distances, not chosen by their results; scores of {min_score:g} and more."
    caption = f"From left to right: ground truth, {', '.join(models)}."
    gallery = Gallery("", (Picture("same_frames", caption, montage, few_colors=True),), note)
    return Section("The same frames", (gallery,))
