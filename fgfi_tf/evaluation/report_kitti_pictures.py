"""Pictures of a KITTI report: the worst frames whole, the worst detections and objects as crops."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

import numpy as np
from PIL import Image

from fgfi_tf import drawing
from fgfi_tf.data import images
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import analysis, report_same_frames
from fgfi_tf.evaluation.kitti_types import CLASS_NAMES, TYPE_NAMES, Detections, FrameBoxes, Labels
from fgfi_tf.evaluation.report_data import Gallery, Picture, Section

Analyses = dict[str, dict[str, analysis.Analysis]]

N_FRAMES = 6  # fewer where several models are compared
N_CROPS = 3  # of each kind
DIFFICULTY = "moderate"
_CROP_SIZE = (360, 270)  # width, height: about as large as shown, so that letters stay legible
_CROP_MARGIN = 0.8  # of the box's longer side, on each side
_SMALLEST_CROP = 120  # pixels of the image
FOUND, MISSED, RIGHT, WRONG = (245, 245, 245), (255, 176, 32), (87, 224, 132), (255, 96, 88)
_LEGEND = (
    "White: object that counts, found. Amber: missed. Green: correct detection. "
    "Red: wrong one, with its score."
)


@dataclasses.dataclass(frozen=True)
class ImageFolder:
    """The images of those frames that have one in a folder."""

    paths: dict[str, Path]

    @classmethod
    def of(cls, folder: Path, frame_ids: Iterable[str]) -> ImageFolder:
        """Raises UserError where the folder is absent or holds none of the frames."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such image folder")
        held = images.images_by_stem(folder)
        paths = {name: held[name] for name in frame_ids if name in held}
        if not paths:
            raise UserError(f"{folder}: holds no image of the evaluated frames (NNNNNN.png or .jpg)")
        return cls(paths)

    def sizes(self) -> dict[str, tuple[int, int]]:
        """Frame id -> (height, width), from the files' headers."""
        return {name: images.image_size(path) for name, path in self.paths.items()}

    def read(self, frame_id: str) -> np.ndarray:
        """RGB uint8 [H, W, 3]."""
        return images.read_for_report(self.paths[frame_id])


def picture_section(
    detections: Mapping[str, Detections],
    analyses: Mapping[str, Analyses],
    labels: Labels,
    folder: ImageFolder,
) -> Section:
    """Worst frames (of all models together), then crops of the last model's worst cases.

    ``detections`` and ``analyses`` are by the models' names.
    """
    shown = {name: _Shown.of(analyses[name], found, labels) for name, found in detections.items()}
    last = list(detections)[-1]
    galleries = [_frame_gallery(shown, labels, folder)]
    galleries += _crop_galleries(last, detections[last], shown[last], analyses[last], labels, folder)
    subset = len(folder.paths) < len(labels.frame_ids)
    text = f"Operating point and kinds as above, {DIFFICULTY} objects of all classes. {_LEGEND}" + (
        f" Only the {len(folder.paths)} of {len(labels.frame_ids)} frames whose image is at hand."
        if subset
        else ""
    )
    return Section("Worst cases", tuple(g for g in galleries if g.pictures), text)


def same_frames_section(
    detections: Mapping[str, Detections], labels: Labels, folder: ImageFolder, min_score: float
) -> Section:
    """The same frames: labelled objects of the evaluated classes, and every model's detections."""
    evaluated = labels.take(labels.type < len(CLASS_NAMES))
    objects = np.bincount(evaluated.frame, minlength=len(labels.frame_ids))
    at_hand = np.array([name in folder.paths for name in labels.frame_ids])
    frames = [labels.frame_ids[i] for i in report_same_frames.frames_to_show(objects, at_hand)]

    def drawn(boxes: FrameBoxes) -> Callable[[str], report_same_frames.Drawn]:
        def of_frame(frame_id: str) -> report_same_frames.Drawn:
            here = boxes.select([frame_id])
            names = [TYPE_NAMES[t] for t in here.type]
            return report_same_frames.Drawn(here.boxes, names, getattr(here, "scores", None))

        return of_frame

    models = {name: drawn(found) for name, found in detections.items()}
    return report_same_frames.section(frames, folder.read, drawn(evaluated), models, min_score)


@dataclasses.dataclass(frozen=True)
class _Shown:
    """What is drawn of one model: detections of the operating point, objects that count."""

    detections: Detections
    right: np.ndarray  # bool, for each of them
    objects: Labels
    missed: np.ndarray  # bool, for each of them
    errors: np.ndarray  # int64 [frames]

    @classmethod
    def of(cls, analyses: Analyses, detections: Detections, labels: Labels) -> _Shown:
        parts = [by_difficulty[DIFFICULTY] for by_difficulty in analyses.values()]
        rows = np.concatenate([part.rows for part in parts])
        right = np.concatenate([part.kinds for part in parts]) == analysis.CORRECT
        order = np.argsort(rows)
        found = detections.take(rows[order])
        missed = np.zeros(len(labels), bool)
        missed[np.concatenate([part.missed for part in parts])] = True
        counted = np.sort(np.concatenate([part.counted for part in parts]))
        return cls(
            found,
            right[order],
            labels.take(counted),
            missed[counted],
            analysis.errors_per_frame(analyses, detections, labels, DIFFICULTY),
        )

    def draw(self, image: np.ndarray, frame: int, offset: tuple[float, float] = (0, 0), scale: float = 1.0):
        """Objects, then detections, of a frame over a part of its image."""
        move = np.array([*offset, *offset])
        objects, missed = (
            self.objects.take(self.objects.frame == frame),
            self.missed[self.objects.frame == frame],
        )
        names = [f"missed {TYPE_NAMES[t]}" if m else "" for t, m in zip(objects.type, missed, strict=True)]
        colors = [MISSED if m else FOUND for m in missed]
        here = self.detections.frame == frame
        found, right = self.detections.take(here), self.right[here]
        names += [
            "" if r else f"{TYPE_NAMES[t]} {score:.2f}"
            for t, score, r in zip(found.type, found.scores, right, strict=True)
        ]
        colors += [RIGHT if r else WRONG for r in right]
        boxes = (np.concatenate([objects.boxes, found.boxes]) - move) * scale
        return drawing.draw_boxes(image, boxes, labels=names, colors=colors)


def _frame_gallery(shown: dict[str, _Shown], labels: Labels, folder: ImageFolder) -> Gallery:
    errors = np.sum([part.errors for part in shown.values()], axis=0)
    at_hand = np.array([name in folder.paths for name in labels.frame_ids])
    pictures = []
    for frame in analysis.worst_frames(errors * at_hand, N_FRAMES if len(shown) == 1 else N_FRAMES // 2):
        frame_id = labels.frame_ids[frame]
        image = folder.read(frame_id)
        for number, (model_name, part) in enumerate(shown.items()):
            model = f", {model_name}" if len(shown) > 1 else ""
            caption = f"Frame {frame_id}{model}: {_plural(part.errors[frame], 'error')}"
            name = f"frame_{frame_id}_{number}" if len(shown) > 1 else f"frame_{frame_id}"
            pictures.append(Picture(name, caption, part.draw(image, frame)))
    note = "Most wrong detections and missed objects together."
    return Gallery("Worst frames", tuple(pictures), note, columns=1)


def _plural(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _crop_galleries(
    model_name: str,
    detections: Detections,
    shown: _Shown,
    analyses: Analyses,
    labels: Labels,
    folder: ImageFolder,
) -> Iterator[Gallery]:
    """The highest-scored detections of each wrong kind, and the tallest missed objects."""
    sources = {kind: (detections, -detections.scores, "highest scores") for kind in analysis.KINDS[1:]}
    sources["missed"] = (labels, -labels.heights, "tallest objects")
    for kind, (boxes, key, what) in sources.items():
        rows = np.concatenate(
            [by_difficulty[DIFFICULTY].rows_of(kind) for by_difficulty in analyses.values()]
        )
        rows = rows[[boxes.frame_ids[f] in folder.paths for f in boxes.frame[rows]]] if len(rows) else rows
        pictures = []
        for number, row in enumerate(rows[np.argsort(key[rows], kind="stable")][:N_CROPS]):
            frame = boxes.frame[row]
            frame_id = boxes.frame_ids[frame]
            measure = (
                f"{boxes.heights[row]:.0f} px high"
                if kind == "missed"
                else f"score {detections.scores[row]:.2f}"
            )
            caption = f"{frame_id}: {TYPE_NAMES[boxes.type[row]]}, {measure}"
            image = _crop(folder.read(frame_id), boxes.boxes[row], shown, frame)
            pictures.append(Picture(f"{kind}_{number}", caption, image))
        title = f"{kind.capitalize()}: {what}" + (f" ({model_name})" if model_name else "")
        yield Gallery(title, tuple(pictures), columns=N_CROPS)


def _crop(image: np.ndarray, box: np.ndarray, shown: _Shown, frame: int) -> np.ndarray:
    """The surroundings of a box in the report's crop size, with all boxes of the frame."""
    height, width = image.shape[:2]
    w, h = box[2] - box[0], box[3] - box[1]
    margin = _CROP_MARGIN * max(w, h)
    aspect = _CROP_SIZE[0] / _CROP_SIZE[1]
    crop_h = max(h + margin, (w + margin) / aspect, _SMALLEST_CROP)
    crop_h = min(crop_h, height, width / aspect)  # stay inside the image
    crop_w = crop_h * aspect
    x = np.clip((box[0] + box[2] - crop_w) / 2, 0, width - crop_w)
    y = np.clip((box[1] + box[3] - crop_h) / 2, 0, height - crop_h)
    part = Image.fromarray(image).resize(
        _CROP_SIZE, Image.Resampling.BICUBIC, box=(x, y, x + crop_w, y + crop_h), reducing_gap=None
    )
    return shown.draw(np.asarray(part), frame, (x, y), _CROP_SIZE[0] / crop_w)
