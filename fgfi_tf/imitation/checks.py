"""What ``ImitationLoss`` is given, checked and cast: a stranger's first mistake gets a sentence.

Shapes are checked wherever they are known, values only where they are: in eager mode, and of constants.
"""

from __future__ import annotations

import gc
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import tensorflow as tf

from fgfi_tf.imitation.levels import Pairs

CORNERS = "continuous corners (xmin, ymin, xmax, ymax) in pixels of the network input"


class Inputs(NamedTuple):
    """The inputs of the layer as its arithmetic takes them: float32 and bool tensors, tuples of levels."""

    student: tuple[tf.Tensor, ...]
    teacher: tuple[tf.Tensor, ...]
    anchors: tuple[tf.Tensor, ...]
    boxes: tf.Tensor
    valid: tf.Tensor
    valid_mask: tuple[tf.Tensor, ...] | None


def checked_inputs(
    student_features: Any,
    teacher_features: Any,
    anchors: Any,
    boxes: Any,
    valid: Any,
    valid_mask: Any,
    teacher_channels: Sequence[int],
    student_channels: Sequence[int] | None = None,
    pairs: Sequence[tuple[int, int]] | None = None,
) -> Inputs:
    """The arguments of ``ImitationLoss.call``, checked; ``student_channels`` (of the pairs) once it is built.

    ``pairs``: (student's map, teacher's map) of each comparison; None: the maps of the same place.

    Raises:
        TypeError, ValueError: whatever cannot be what the argument is for; the message says what is expected.
    """
    student = _levels("student_features", student_features, tf.float32)
    teacher = _levels("teacher_features", teacher_features, tf.float32)
    grids = _levels("anchors", anchors, tf.float32)
    boxes, valid = _tensor("boxes", boxes, tf.float32), _tensor("valid", valid, tf.bool)
    valid_masks = None if valid_mask is None else _levels("valid_mask", valid_mask, tf.bool)
    theirs = (len(teacher_channels), "teacher_channels")
    ours = theirs if pairs is None else (len(student), "student_features")
    _check_levels("student_features", student, *ours)
    _check_levels("teacher_features", teacher, *theirs)
    _check_levels("anchors", grids, *ours)
    if valid_masks is not None:
        _check_levels("valid_mask", valid_masks, *ours)
    if pairs is None:
        pairs = [(level, level) for level in range(len(teacher_channels))]
    check_paired(pairs, len(student))
    own = dict(zip((level for level, _ in pairs), student_channels or [None] * len(pairs), strict=True))
    for level, features in enumerate(student):
        name = f"student_features[{level}]"
        batch, height, width, known = _check(
            name, features, "[B, h, w, Cs]", [None, None, None, own.get(level)]
        )
        if known is None and level in own:
            raise ValueError(f"{name}: the number of channels must be known")
        _check_anchors(f"anchors[{level}]", grids[level], height, width)
        if valid_masks is not None:
            _check(f"valid_mask[{level}]", valid_masks[level], "[B, h, w]", [batch, height, width])
    for level, channels in enumerate(teacher_channels):
        batch = student[0].shape[0] if student[0].shape.rank is not None else None
        _check(f"teacher_features[{level}]", teacher[level], "[B, H, W, Ct]", [batch, None, None, channels])
    _check_boxes(boxes, valid, student[0].shape[0])
    return Inputs(student, teacher, grids, boxes, valid, valid_masks)


def _tensor(name: str, value: Any, dtype: tf.DType) -> tf.Tensor:
    if type(value).__name__ == "KerasTensor":
        raise TypeError(
            f"{name} is a symbolic tensor of another Keras than the layer's: with `import keras` (Keras 3) "
            "take ImitationLoss from fgfi_tf.imitation.keras3, with `import tf_keras` from "
            "fgfi_tf.imitation.layer"
        )
    try:
        tensor = tf.convert_to_tensor(value)
    except (TypeError, ValueError) as error:
        raise TypeError(f"{name} is no tensor: {type(value).__name__} ({error})") from error
    if not (tensor.dtype.is_floating or tensor.dtype.is_integer or tensor.dtype.is_bool):
        raise TypeError(f"{name} must hold numbers, not {tensor.dtype.name}")
    if dtype != tf.bool and tensor.dtype.is_bool:
        raise TypeError(f"{name} must hold numbers, not bool")
    return tf.cast(tensor, dtype)


def _levels(name: str, value: Any, dtype: tf.DType) -> tuple[tf.Tensor, ...]:
    """A sequence of tensors, one for each level; a tensor by itself is one level."""
    if isinstance(value, (list, tuple)):
        return tuple(_tensor(f"{name}[{level}]", item, dtype) for level, item in enumerate(value))
    return (_tensor(name, value, dtype),)


def _check_levels(name: str, given: Sequence[tf.Tensor], levels: int, of: str) -> None:
    if len(given) != levels:
        raise ValueError(
            f"{name} has {len(given)} feature levels, {of} {levels}: a list with one entry for each level is "
            "expected"
        )


def checked_pairs(pairs: Sequence[Sequence[int]] | None, teacher_maps: int) -> Pairs | None:
    """Pairs (student's map, teacher's map) as tuples; None: the maps of the same place.

    Raises:
        ValueError: no pair, one of a map that the teacher has not, or a student's map twice.
    """
    if pairs is None:
        return None
    found = tuple((int(own), int(theirs)) for own, theirs in pairs)
    if not found or len({own for own, _ in found}) < len(found):
        raise ValueError(f"imitation pairs must name each map of the student at most once; got {pairs}")
    if any(own < 0 or not 0 <= theirs < teacher_maps for own, theirs in found):
        raise ValueError(f"imitation pairs name maps of a teacher of {teacher_maps} maps; got {pairs}")
    return found


def check_paired(pairs: Pairs, student_maps: int) -> None:
    """Raises ValueError where a pair names a map that the student has not."""
    if max(own for own, _ in pairs) >= student_maps:
        raise ValueError(f"imitation pairs name maps of a student of {student_maps} maps; got {pairs}")


def checked_sizes(sizes: Sequence[float] | None, levels: str) -> tuple[float, ...] | None:
    """The smallest side of a box of each level. Raises ValueError where it is needed, or does not ascend."""
    if sizes is None:
        if levels == "assigned":
            raise ValueError("imitation levels 'assigned' needs level_sizes, the smallest side of each level")
        return None
    found = tuple(float(size) for size in sizes)
    if list(found) != sorted(found):
        raise ValueError(f"imitation level_sizes must ascend; got {sizes}")
    return found


def _check(
    name: str, tensor: tf.Tensor, form: str, expected: Sequence[int | None], of: str = ""
) -> list[int | None]:
    """The static shape, None for what is not known.

    Raises ValueError where its rank is not that of ``form``, or a size not the one expected.
    """
    if tensor.shape.rank is None:
        return [None] * len(expected)
    shape = tensor.shape.as_list()
    if len(shape) != len(expected):
        raise ValueError(f"{name} has shape {_text(shape)}; {form} is expected")
    for size, wanted in zip(shape, expected, strict=True):
        if size is not None and wanted is not None and size != wanted:
            raise ValueError(
                f"{name} has shape {_text(shape)}; {form}{of} is expected, here {_text(expected)}"
            )
    return shape


def _text(shape: Sequence[int | None]) -> str:
    return "[" + ", ".join("?" if size is None else str(size) for size in shape) + "]"


def _check_anchors(name: str, anchors: tf.Tensor, height: int | None, width: int | None) -> None:
    _check(name, anchors, "[h, w, K, 4]", [height, width, None, 4], " of the student's map")
    values = _value(anchors)
    if values is None:
        return
    x, y = values[..., 0::2], values[..., 1::2]
    if not (x[..., 1] > x[..., 0]).all() or not (y[..., 1] > y[..., 0]).all():
        raise ValueError(f"{name}: anchors are {CORNERS}; some have no width or height")
    # Centres and sizes of float32 anchors far from 0 are rounded.
    tolerance = 1e-4 * max(float(np.abs(values).max()), 1.0)
    if np.abs(x - x[:1]).max() > tolerance or np.abs(y - y[:, :1]).max() > tolerance:
        raise ValueError(
            f"{name} is no grid: x must depend on the column and the shape alone, y on the row and the shape "
            "(is [h, w] the wrong way round?); fgfi_tf.geometry.anchors.anchor_grid makes one"
        )


def _check_boxes(boxes: tf.Tensor, valid: tf.Tensor, batch: int | None) -> None:
    shape = _check("boxes", boxes, "[B, M, 4]", [batch, None, 4])
    _check("valid", valid, "[B, M]", shape[:2])
    corners, real = _value(boxes), _value(valid)
    if corners is None or real is None:
        return
    corners = corners[real]
    if not np.isfinite(corners).all():
        raise ValueError("boxes: one that is valid has a coordinate that is no finite number")
    if (corners[:, 2:] < corners[:, :2]).any():
        first = corners[(corners[:, 2:] < corners[:, :2]).any(axis=1)][0]
        raise ValueError(f"boxes are {CORNERS}; got {[round(float(v), 2) for v in first]}")


def _value(tensor: tf.Tensor) -> np.ndarray | None:
    """The values, where they are known without running anything; None in a graph."""
    return tensor.numpy() if tf.executing_eagerly() else tf.get_static_value(tensor)


def refuse_keras_3_holder(layer: object) -> None:
    """Raises TypeError where a Keras 3 model holds this Keras 2 layer: it would never train it, silently."""
    _refuse_holder(layer, sys.modules.get("keras"), 3, 2, "fgfi_tf.imitation.keras3")


def refuse_keras_2_holder(layer: object) -> None:
    """The same for a Keras 2 model and a Keras 3 layer."""
    _refuse_holder(layer, sys.modules.get("tf_keras"), 2, 3, "fgfi_tf.imitation.layer")


def _refuse_holder(layer: object, other: Any, theirs: int, ours: int, module: str) -> None:
    kind = getattr(getattr(other, "layers", None), "Layer", None)
    if kind is None:
        return
    # Neither Keras lets a foreign object know that it is kept, so the question goes to the garbage collector:
    # who refers to the layer, by an attribute or in a list of theirs?
    found: list[object] = [layer]
    for _ in range(5):  # a list of Keras 2 is four objects
        found = [
            holder for holder in gc.get_referrers(*found) if isinstance(holder, (kind, dict, list, tuple))
        ]
        for holder in found:
            if isinstance(holder, kind) and holder is not layer:
                raise TypeError(
                    f"{type(holder).__name__} is a Keras {theirs} model and holds a Keras {ours} "
                    f"ImitationLoss, which it would never train: take ImitationLoss from {module}"
                )
