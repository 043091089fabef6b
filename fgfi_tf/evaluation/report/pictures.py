"""Pictures of a report: the worst images whole, the worst detections and objects as crops."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from pathlib import Path, PurePath

import numpy as np
from absl import logging
from PIL import Image

from fgfi_tf import drawing
from fgfi_tf.data import images
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import analysis
from fgfi_tf.evaluation.boxes import PIXELS, Boxes
from fgfi_tf.evaluation.report.data import Gallery, Picture, Section

Parts = Sequence[analysis.Analysis]  # one for each class

N_IMAGES = 6  # fewer where several models are compared
N_CROPS = 3  # of each kind
_WIDE = 1.6  # images of a larger aspect ratio are shown one below the other
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
    """The files of those images that have one in a folder, and their (height, width).

    Files that are no pictures are left out, with a warning: they cost their picture and not the report.
    """

    paths: dict[str, Path]
    known: dict[str, tuple[int, int]]

    @classmethod
    def of(cls, folder: Path, image_ids: Iterable[str]) -> ImageFolder:
        """Ids may name subfolders. Raises UserError where the folder is absent or holds none of them."""
        if not folder.is_dir():
            raise UserError(f"{folder}: no such image folder")
        held = functools.cache(images.images_by_stem)  # by folder
        found = {name: held(folder / PurePath(name).parent).get(PurePath(name).name) for name in image_ids}
        paths = {name: path for name, path in found.items() if path is not None}
        if not paths:
            raise UserError(f"{folder}: holds no image of the evaluated ones (<image id>.png or .jpg)")
        known, wrong = {}, []
        for name, path in paths.items():
            try:
                known[name] = images.image_size(path)
            except UserError as error:
                wrong.append(error)
        if not known:
            raise wrong[0]
        if wrong:
            logging.warning("the report goes without %d of %d images: %s", len(wrong), len(paths), wrong[0])
        return cls({name: paths[name] for name in known}, known)

    def sizes(self, image_ids: Sequence[str]) -> np.ndarray:
        """(height, width) of each image, from the files' headers; NaN without a file."""
        return np.array([self.known.get(name, (np.nan, np.nan)) for name in image_ids]).reshape(-1, 2)

    def read(self, image_id: str) -> np.ndarray:
        """RGB uint8 [H, W, 3]."""
        return images.read_for_report(self.paths[image_id])


def section(
    detections: Mapping[str, Boxes], analyses: Mapping[str, Parts], ground_truth: Boxes, folder: ImageFolder
) -> Section:
    """Worst images (of all models together), then crops of the last model's worst cases.

    ``detections`` and ``analyses`` are by model: of the images of ``ground_truth`` in the same order, rows by
    image; of the settings to show.
    """
    shown = {name: _Shown.of(analyses[name], found, ground_truth) for name, found in detections.items()}
    last = list(detections)[-1]
    galleries = [_image_gallery(shown, ground_truth, folder)]
    galleries += _crop_galleries(last, detections[last], shown[last], analyses[last], ground_truth, folder)
    setting = next((part.setting.name for part in analyses[last]), "")
    text = f"Operating point and kinds as above{f', {setting} objects' if setting else ''}. {_LEGEND}"
    if len(folder.paths) < len(ground_truth.image_ids):
        text += (
            f" Only the {len(folder.paths)} of {len(ground_truth.image_ids)} images whose file is at hand."
        )
    return Section("Worst cases", tuple(g for g in galleries if g.pictures), text)


@dataclasses.dataclass(frozen=True)
class _Shown:
    """What is drawn of one model: detections of the operating point, objects that count."""

    detections: Boxes
    right: np.ndarray  # bool, for each of them
    objects: Boxes
    missed: np.ndarray  # bool, for each of them
    errors: np.ndarray  # int64 [images]

    @classmethod
    def of(cls, parts: Parts, detections: Boxes, ground_truth: Boxes) -> _Shown:
        rows = np.concatenate([part.rows for part in parts])
        missed = np.zeros(len(ground_truth), bool)
        missed[np.concatenate([part.missed for part in parts])] = True
        counted = np.sort(np.concatenate([part.counted for part in parts]))
        return cls(
            detections.take(rows).to(PIXELS),
            np.concatenate([part.kinds for part in parts]) == analysis.CORRECT,
            ground_truth.take(counted).to(PIXELS),
            missed[counted],
            analysis.errors_per_image(parts, detections, ground_truth),
        )

    def draw(
        self, image: np.ndarray, number: int, offset: tuple[float, float] = (0, 0), scale: float = 1.0
    ) -> np.ndarray:
        """Objects, then detections, of an image over a part of it."""
        objects = np.flatnonzero(self.objects.image == number)
        found = np.flatnonzero(self.detections.image == number)
        missed, right = self.missed[objects], self.right[found]
        names = [f"missed {n}" if m else "" for n, m in zip(self.objects.names(objects), missed, strict=True)]
        scored = zip(self.detections.names(found), self.detections.scores[found], right, strict=True)
        names += ["" if r else f"{name} {score:.2f}" for name, score, r in scored]
        colors = [MISSED if m else FOUND for m in missed] + [RIGHT if r else WRONG for r in right]
        boxes = np.concatenate([self.objects.boxes[objects], self.detections.boxes[found]])
        return drawing.draw_boxes(image, (boxes - np.tile(offset, 2)) * scale, labels=names, colors=colors)


def _image_gallery(shown: Mapping[str, _Shown], ground_truth: Boxes, folder: ImageFolder) -> Gallery:
    errors = np.sum([part.errors for part in shown.values()], axis=0)
    at_hand = np.array([name in folder.paths for name in ground_truth.image_ids])
    pictures, wide = [], False
    count = N_IMAGES if len(shown) == 1 else N_IMAGES // 2
    for rank, number in enumerate(analysis.worst_images(errors * at_hand, count)):
        image_id = ground_truth.image_ids[number]
        image = folder.read(image_id)
        wide = wide or image.shape[1] > _WIDE * image.shape[0]
        for place, (model_name, part) in enumerate(shown.items()):
            model = f", {model_name}" if len(shown) > 1 else ""
            errors_of = f"{part.errors[number]} error{'' if part.errors[number] == 1 else 's'}"
            caption = f"Image {image_id}{model}: {errors_of}"
            name = f"image_{rank}" + (f"_{place}" if len(shown) > 1 else "")
            pictures.append(Picture(name, caption, part.draw(image, int(number))))
    note = "Most wrong detections and missed objects together."
    columns = 1 if wide else min(len(shown), 3) if len(shown) > 1 else 2
    return Gallery("Worst images", tuple(pictures), note, columns)


def _crop_galleries(
    model_name: str, detections: Boxes, shown: _Shown, parts: Parts, ground_truth: Boxes, folder: ImageFolder
) -> Iterator[Gallery]:
    """The highest-scored detections of each wrong kind, and the tallest missed objects."""
    sources = {kind: (detections, -detections.scores, "highest scores") for kind in analysis.KINDS[1:]}
    sources["missed"] = (ground_truth, -ground_truth.heights, "tallest objects")
    at_hand = np.array([name in folder.paths for name in ground_truth.image_ids])
    for kind, (table, key, what) in sources.items():
        rows = np.concatenate([part.rows_of(kind) for part in parts])
        rows = rows[at_hand[table.image[rows]]]
        boxes, heights = table.to(PIXELS).boxes, table.heights
        pictures = []
        for place, row in enumerate(rows[np.argsort(key[rows], kind="stable")][:N_CROPS]):
            number = int(table.image[row])
            image_id = table.image_ids[number]
            tall = f"{heights[row]:.0f} px high"
            measure = tall if kind == "missed" else f"score {detections.scores[row]:.2f}"
            caption = f"{image_id}: {table.names([row])[0]}, {measure}"
            image = _crop(folder.read(image_id), boxes[row], shown, number)
            pictures.append(Picture(f"{kind}_{place}", caption, image))
        title = f"{kind.capitalize()}: {what} ({model_name})"
        yield Gallery(title, tuple(pictures), columns=N_CROPS)


def _crop(image: np.ndarray, box: np.ndarray, shown: _Shown, number: int) -> np.ndarray:
    """The surroundings of a box in the report's crop size, with all boxes of the image."""
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
    return shown.draw(np.asarray(part), number, (x, y), _CROP_SIZE[0] / crop_w)
