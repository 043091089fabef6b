"""``scripts/show_imitation.py``: where a student imitates on a picture, and how near it has come."""

from __future__ import annotations

import dataclasses
import io
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from fgfi_tf.data.classes import parse
from fgfi_tf.errors import UserError
from fgfi_tf.options import option
from fgfi_tf.outputs import OutputFolder
from fgfi_tf.training.config import extensions_option
from fgfi_tf.training.parsing import parse_numbers

if TYPE_CHECKING:  # they import TensorFlow
    from fgfi_tf.data.records import PreparedDataset
    from fgfi_tf.imitation.distiller import Distiller
    from fgfi_tf.models.detector import Batch
    from fgfi_tf.training.config import ExperimentConfig

_GROUP = "Picture of an imitation"
_FULL = 1.0  # the distance that is the brightest


@dataclasses.dataclass(frozen=True)
class ShowConfig:
    """Options of the picture."""

    run: str = option("", _GROUP, "Run folder of a student that imitates.")
    output: str = option("imitation.png", _GROUP, "PNG to write.")
    overwrite: bool = option(False, _GROUP, "Write over a PNG that is there.")
    image_id: str = option("", _GROUP, "Picture of the split (empty: one with many objects).")
    psi: str = option("0.2,0.5,0.8", _GROUP, "Masks that are drawn.")
    data_dir: str = option("", _GROUP, "Folder of the raw dataset (empty: that of the run).")
    val_split: str = option("", _GROUP, "Split that the picture is of (empty: the run's).")
    teacher_checkpoint: str = option("", _GROUP, "Checkpoint of the teacher (empty: that of the run).")
    extensions: str = extensions_option(_GROUP)


class Seen(NamedTuple):
    """Of one picture and one map of the student, that which its objects mark most.

    Attributes:
        image: uint8 [H, W, 3], the network input.
        boxes, labels: its objects, inclusive corners [M, 4] and names.
        masks: by psi, bool [h, w].
        before, after: distance of the adapted student from the teacher, [h, w]: the norm of the difference
            over the channels by the teacher's own norm there, 1 where the student says nothing.
    """

    image: np.ndarray
    boxes: np.ndarray
    labels: list[str]
    masks: dict[float, np.ndarray]
    before: np.ndarray
    after: np.ndarray


def show(config: ShowConfig) -> str:
    """Writes the picture; a line of what it shows. Raises UserError."""
    from PIL import Image

    psi = parse_numbers("psi", config.psi)
    if not psi or not all(0.0 <= value <= 1.0 for value in psi):
        raise UserError(f"--psi={config.psi}: numbers from 0 to 1 are expected, separated by commas")
    path = Path(config.output)
    if path.suffix.lower() != ".png":
        raise UserError(f"--output={path}: a PNG is written: call it {path.with_suffix('.png').name}")
    output = OutputFolder(path.parent, "output", config.overwrite)
    output.check([path.name])
    run = _run(config)
    seen = look(run, config.run, config.image_id, psi)
    buffer = io.BytesIO()
    Image.fromarray(draw(seen)).save(buffer, "PNG")
    output.append(path.name, buffer.getvalue())
    before, after = (_means(seen, distance) for distance in (seen.before, seen.after))
    nothing = "" if region(seen)[1].any() else " No object marks the map."
    return (
        f"{path}: distance to the teacher before training: {before}; after: {after} "
        f"(1: as large as the teacher's features).{nothing}"
    )


def _run(config: ShowConfig) -> ExperimentConfig:
    from fgfi_tf.training import restoring

    if not config.run:
        raise UserError("--run is missing: the run folder of a student that imitates")
    names = ("extensions", "data_dir", "val_split", "teacher_checkpoint")
    run = restoring.read_run(config.run, **{name: getattr(config, name) for name in names})
    if not run.imitation:
        raise UserError(f"--run={config.run}: this student did not imitate")
    return run


def look(run: ExperimentConfig, folder: str, image_id: str, psi: Sequence[float]) -> Seen:
    """Student and teacher on a picture, before the first step and at the newest checkpoint of a run.

    Raises:
        UserError: data, picture or checkpoint are not there, or do not fit.
    """
    import tf_keras as keras

    from fgfi_tf.training import build, restoring

    prefix, metadata = restoring.find(folder)
    # The model's, not those that the split happens to hold.
    classes = parse(metadata.classes).of_model(metadata.class_names)
    dataset = build.open_split(run, run.val_split, classes)
    keras.utils.set_random_seed(run.seed)
    distiller = restoring.build(run, metadata)
    batch = _batch(distiller, dataset, image_id)
    place = int(np.argmax([mask.sum() for mask in _masks(distiller, batch, run.psi)]))
    before = _distance(distiller, batch, place)
    restoring.restore(distiller, prefix)
    valid = batch["valid"][0].numpy()
    return Seen(
        np.clip(np.rint(batch["image"][0].numpy()), 0, 255).astype(np.uint8),
        batch["boxes"][0].numpy()[valid],
        [metadata.class_names[int(place)] for place in batch["classes"][0].numpy()[valid]],
        {value: _masks(distiller, batch, value)[place] for value in psi},
        before,
        _distance(distiller, batch, place),
    )


def _batch(distiller: Distiller, dataset: PreparedDataset, image_id: str) -> Batch:
    """The picture of an id, or that with the most objects, six at most; a batch of one."""
    import tensorflow as tf

    from fgfi_tf.training.batches import evaluation_batches

    if not image_id:
        counts = [int((~np.asarray(frame["ignore"])).sum()) for frame in dataset.labels()]
        image_id = dataset.image_ids[int(np.argmax([count if count <= 6 else 0 for count in counts]))]
    if image_id not in dataset.image_ids:
        raise UserError(f"--image_id={image_id}: {dataset.name} has no such picture")
    for batch in evaluation_batches(distiller.student, dataset, 1):
        if batch["image_id"][0].numpy().decode() == image_id:
            return {**batch, "image": tf.cast(batch["image"], tf.float32)}
    raise UserError(f"--image_id={image_id}: its record is missing")


def _masks(distiller: Distiller, batch: Batch, psi: float) -> list[np.ndarray]:
    """What a psi marks, bool [h, w] of each pair of maps that is compared."""
    from fgfi_tf.imitation.layer import ImitationLoss

    student, size = distiller.student, tuple(batch["image"].shape[1:3])
    layer = ImitationLoss(**{**distiller.imitation.arguments(), "psi": psi, "comparison": "squared_error"})
    masks = layer.masks(
        student.imitation_anchors(*size),
        *student.imitation_boxes(batch),
        student.imitation_valid_mask(batch, *size),
    )
    return [mask[0].numpy() for mask in masks]


def _distance(distiller: Distiller, batch: Batch, place: int = 0) -> np.ndarray:
    """See ``Seen``, of one pair of maps."""
    import tensorflow as tf

    from fgfi_tf.imitation.losses import adapt

    student, teacher, layer = distiller.student, distiller.teacher, distiller.imitation
    own, partner = layer.paired()[place]
    theirs = tf.cast(teacher.imitation_features(teacher.preprocess(batch["image"]))[partner], tf.float32)
    ours = tf.cast(student.imitation_features(student.preprocess(batch["image"]))[own], tf.float32)
    ours = adapt(ours, layer.kernels[place], layer.biases[place], layer.activation)  # 1 x h x w x C
    if theirs.shape != ours.shape:
        theirs = tf.image.resize(theirs, ours.shape[1:3])
    distance, size = (tf.norm(of, axis=-1)[0] for of in (ours - theirs, theirs))
    return (distance / tf.maximum(size, 1e-6)).numpy()


def region(seen: Seen) -> tuple[float, np.ndarray]:
    """The psi of the mask that distances are told of, and the mask: that of 0.5, else the first one."""
    psi = 0.5 if 0.5 in seen.masks else next(iter(seen.masks))
    return psi, seen.masks[psi]


def _means(seen: Seen, distance: np.ndarray) -> str:
    """The mean distance in the mask and elsewhere, each where it is anywhere."""
    psi, mask = region(seen)
    parts = ((mask, f"in the mask of {psi:g}"), (~mask, "elsewhere" if mask.any() else "everywhere"))
    return ", ".join(f"{distance[where].mean():.2f} {name}" for where, name in parts if where.any())


def draw(seen: Seen) -> np.ndarray:
    """The objects, the masks and the distances side by side: uint8 [H', W', 3]."""
    from fgfi_tf.drawing import draw_boxes, montage, overlay_mask

    pictures = [draw_boxes(seen.image, seen.boxes, seen.labels)]
    captions = ["objects"]
    for psi, mask in seen.masks.items():
        share = 100 * mask.mean()
        pictures.append(draw_boxes(overlay_mask(seen.image, mask), seen.boxes, None))
        captions.append(f"mask, psi = {psi:g}: {share:.0f} % of the map")
    for what, distance in (("before", seen.before), ("after", seen.after)):
        pictures.append(draw_boxes(_heat(seen.image, distance), seen.boxes, None))
        captions.append(f"distance to the teacher {what} training: {_means(seen, distance)}")
    return montage(pictures, captions)


def _heat(image: np.ndarray, distance: np.ndarray) -> np.ndarray:
    """Distances [h, w] in colours, from dark (0) to bright (``_FULL``), with the picture faintly in it."""
    from matplotlib import colormaps

    rows = np.arange(image.shape[0]) * distance.shape[0] // image.shape[0]
    columns = np.arange(image.shape[1]) * distance.shape[1] // image.shape[1]
    colours = colormaps["inferno"](np.clip(distance / _FULL, 0.0, 1.0))[..., :3]  # h x w x 3
    grey = image.mean(axis=-1, keepdims=True) / 255.0
    return np.rint(255 * (0.8 * colours[rows][:, columns] + 0.2 * grey)).astype(np.uint8)
