"""Detects in a picture with a TFLite file of export.py: python scripts/examples/detect_tflite.py FILE PICTURE

A whole program for a device: numpy, Pillow and ai-edge-litert, nothing of this package.
"""

import json
import sys
from pathlib import Path

import numpy as np
from ai_edge_litert.interpreter import Interpreter
from PIL import Image, ImageOps


def resize(picture: np.ndarray, height: int, width: int) -> np.ndarray:
    """A picture [H, W, 3] at another size, bilinearly between pixel centres, as in training."""
    for axis, size in ((0, height), (1, width)):
        place = (np.arange(size) + 0.5) * picture.shape[axis] / size - 0.5
        low = np.clip(np.floor(place).astype(int), 0, picture.shape[axis] - 1)
        high = np.minimum(low + 1, picture.shape[axis] - 1)
        share = np.clip(place - low, 0.0, 1.0).reshape([-1 if i == axis else 1 for i in range(3)])
        picture = np.take(picture, low, axis) * (1 - share) + np.take(picture, high, axis) * share
    return picture


def network_input(picture: np.ndarray, card: dict) -> tuple[np.ndarray, np.ndarray]:
    """What the network takes, uint8 [1, h, w, 3], and its pixels for each of the picture's (x, y, x, y)."""
    size, own = np.array(card["input_size"]), np.array(picture.shape[:2])
    scale = size / own  # stretched to the network's size, or as large as fits, in the upper left corner
    if card["resize"] == "letterbox":
        scale = np.full(2, scale.min())
    content = np.minimum(np.rint(own * scale).astype(int), size)
    image = np.full((*size, 3), card["padding_color"])
    image[: content[0], : content[1]] = resize(picture, *content)
    return np.rint(image).astype(np.uint8)[None], np.tile(scale[::-1], 2)


def overlap(box: np.ndarray, others: np.ndarray) -> np.ndarray:
    """Intersection over union of a box [4] (xmin, ymin, xmax, ymax) with others [N, 4]."""
    shared = np.prod(
        np.maximum(np.minimum(box[2:], others[:, 2:]) - np.maximum(box[:2], others[:, :2]), 0), 1
    )
    areas = np.prod(others[:, 2:] - others[:, :2], 1)
    return shared / np.maximum(np.prod(box[2:] - box[:2]) + areas - shared, 1e-9)


def suppress(boxes: np.ndarray, scores: np.ndarray, rule: dict) -> list[tuple[float, int, np.ndarray]]:
    """(score, class, box) of what is found, of raw boxes [N, 4] and scores [N, C], the best first."""
    if rule["best_boxes"]:  # only so many of the best take part
        best = np.argsort(-scores.max(1), kind="stable")[: rule["best_boxes"]]
        boxes, scores = boxes[best], scores[best]
    if rule["best_class"]:  # a box is of its best class alone
        scores = np.where(scores == scores.max(1, keepdims=True), scores, 0)
    found = []
    for number, column in enumerate(scores.T):
        order = [
            place for place in np.argsort(-column, kind="stable") if column[place] > rule["score_threshold"]
        ][: rule["candidates"] or None]
        kept: list[int] = []
        for place in order:
            if len(kept) == rule["max_per_class"]:
                break
            if not kept or overlap(boxes[place], boxes[kept]).max() <= rule["iou_threshold"]:
                kept.append(place)
        found += [(float(column[place]), number, boxes[place]) for place in kept]
    return sorted(found, key=lambda one: -one[0])[: rule["max_total"]]


def in_picture(box: np.ndarray, picture: np.ndarray, kind: str) -> np.ndarray:
    """A box in a picture's pixels as the detector gives it: as it is, cut, or its last pixels inclusive."""
    borders, last = np.tile(picture.shape[1::-1], 2), np.array([0, 0, 1, 1])
    if kind in ("edges", "cut"):
        return np.clip(box, 0, borders) - last * (kind == "cut")
    if kind == "pixels":  # at least one each way
        return np.clip(np.maximum(box - last, np.tile(box[:2], 2)), 0, borders - 1)
    return box


def main(file: str, picture: str, least: float = 0.3) -> list[tuple[str, float, list[float]]]:
    """Prints and returns class, score and box in the picture's pixels of what is found."""
    card = json.loads(Path(file).with_name("detector.json").read_text())
    upright = ImageOps.exif_transpose(Image.open(picture))  # as the camera was held
    pixels, rule = np.asarray(upright.convert("RGB")), card["suppression"]
    images, scale = network_input(pixels, card)
    raw = Interpreter(model_path=file).get_signature_runner("serving_default")(images=images)
    boxes, scores = raw["boxes"][0] / scale, raw["scores"][0]
    if rule["centre_inside"]:  # a letterboxed picture ends before the network input does
        inside = np.all(boxes[:, :2] + boxes[:, 2:] <= 2 * np.array(pixels.shape[1::-1]), 1)
        boxes, scores = boxes[inside], scores[inside]
    results = []
    for score, number, box in suppress(boxes, scores, rule):
        if score >= least:
            box = in_picture(box, pixels, rule["corners"])
            results.append((card["class_names"][number], score, box.tolist()))
            print(results[-1][0], f"{score:.3f}", *(f"{side:.1f}" for side in results[-1][2]))
    return results


if __name__ == "__main__":
    main(*sys.argv[1:3])
