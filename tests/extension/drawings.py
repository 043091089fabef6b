"""A dataset and its evaluation as a stranger writes them: one file, public names only.

A folder holds pictures and a file for each split, such as ``train.json``, a list of
``{"picture": "a/1.png", "size": [height, width], "shapes": [{"kind": "disc", "x": 4, "y": 5, "w": 20,
"h": 18, "covered": 0.1}]}``; x and y are the left upper corner and w and h are sides, in pixels. The protocol
counts a detection as a hit where its centre lies in a shape of its class that no better one has hit.
"""

from __future__ import annotations

import json

import numpy as np

from fgfi_tf.data import registry as datasets
from fgfi_tf.data.dataset import Dataset, Frame
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.evaluation.boxes import EDGES
from fgfi_tf.evaluation.protocol import MEAN, Measure, Protocol, Result
from fgfi_tf.options import Option, fraction

LOWEST_SCORE = 0.1  # of a detection that counts


class Drawings(Dataset):
    """Classes are those of the labels. Shapes covered more than ``--most_covered`` are ignored."""

    protocol = "hits"
    attributes = {"covered": ((), np.float32)}  # 0 to 1
    options = (Option("most_covered", 0.8, "Shapes that are covered more are ignored.", check=fraction),)
    description = "Drawn shapes."

    def frames(self, data_dir, split, most_covered=0.8):
        """Of ``<split>.json``."""
        path = data_dir / f"{split}.json"
        if not path.is_file():
            raise UserError(f"{path} is not there: each split is a JSON file")
        found = []
        for entry in json.loads(path.read_text()):
            shapes = entry["shapes"]
            sides = np.array([[s["x"], s["y"], s["w"], s["h"]] for s in shapes], float).reshape(-1, 4)
            covered = np.array([s["covered"] for s in shapes], float)
            found.append(
                Frame(
                    entry["picture"].rpartition(".")[0],
                    data_dir / entry["picture"],
                    path,
                    boxes=np.concatenate([sides[:, :2], sides[:, :2] + sides[:, 2:] - 1], axis=1),
                    names=[s["kind"] for s in shapes],
                    ignore=covered > most_covered,
                    attributes={"covered": covered},
                    image_size=tuple(entry["size"]),
                )
            )
        return found

    def image_folder(self, data_dir, split):
        """Image ids are paths in it."""
        return data_dir


class HitResult(Result):
    """Of each class the share of its shapes that was hit, and of the detections that hit one."""

    def __init__(self, hits, shapes, detections):
        self.hits, self.shapes, self.detections = hits, shapes, detections
        total = sum(shapes.values()) + sum(detections.values())
        self.metrics = {"F1": 2 * sum(hits.values()) / max(total, 1)}  # ranks checkpoints
        self.metrics |= {f"{name}_hit": hits[name] / max(shapes[name], 1) for name in hits}

    def to_json(self):
        """The numbers themselves as well."""
        counts = {"hits": self.hits, "shapes": self.shapes, "detections": self.detections}
        return {"metrics": self.metrics, **counts}

    def measures(self):
        """The share hit, and F1 where means stand."""
        values = {(name, ""): self.metrics[f"{name}_hit"] for name in self.hits}
        return (Measure("shapes hit", {**values, MEAN: self.metrics["F1"]}),)


class Hits(Protocol):
    """See the module; ``visible`` looks at shapes that are not covered at all."""

    title = "Drawings"
    variants = {"all": "every shape", "visible": "shapes that nothing covers"}
    corners = EDGES
    published = {"by hand": {("disc", ""): 90.0, ("bar", ""): 80.0}}
    published_source = "a stranger's notebook"

    def evaluate(self, detections, ground_truth):
        """Greedy by score, class by class."""
        hits, shapes, found = {}, {}, {}
        for name in detections.class_names:
            truth = ground_truth.take(ground_truth.of_class(name) & self._counted(ground_truth))
            own = detections.take(detections.of_class(name) & (detections.scores >= LOWEST_SCORE))
            free = np.ones(len(truth), bool)
            hits[name] = 0
            for row in np.argsort(-own.scores, kind="stable"):
                centre = (own.boxes[row, :2] + own.boxes[row, 2:]) / 2
                image = ground_truth.image_ids.index(detections.image_ids[own.image[row]])
                inside = (truth.boxes[:, :2] <= centre).all(1) & (centre <= truth.boxes[:, 2:]).all(1)
                there = np.flatnonzero(free & inside & (truth.image == image))
                free[there[:1]] = False
                hits[name] += bool(len(there))
            shapes[name], found[name] = len(truth), len(own)
        return HitResult(hits, shapes, found)

    def _counted(self, ground_truth):
        counted = ~ground_truth.flag("ignore")
        return counted & (ground_truth.columns["covered"] == 0) if self.variant == "visible" else counted


datasets.register("drawings", Drawings())
protocols.register("hits", Hits)
