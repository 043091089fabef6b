"""Several feature maps: which boxes belong to which, and which of the teacher's a student's map imitates."""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

#: best: a box marks the maps whose anchors fit it, by its best IoU over the anchors of all maps.
#: assigned: a box marks the one map that it belongs to by its size. each: a box marks every map.
LEVELS = ("best", "assigned", "each")
Pairs = tuple[tuple[int, int], ...]


def level_of_boxes(boxes: tf.Tensor, sizes: Sequence[float]) -> tf.Tensor:
    """The map that each box belongs to by its side, the square root of its area.

    Args:
        boxes: float32 [..., 4], continuous corners.
        sizes: the side from which on a box belongs to each map, ascending; what is smaller belongs to the
            first. On a feature pyramid of strides 4, 8, .. 64 those are 14 strides each, 56, 112, .. 896.

    Returns:
        int32 [...], index into ``sizes``.
    """
    width_height = tf.maximum(boxes[..., 2:] - boxes[..., :2], 0.0)
    side = tf.sqrt(width_height[..., 0] * width_height[..., 1])
    limits = tf.constant([float(size) for size in sizes[1:]], tf.float32, [len(sizes) - 1])
    return tf.reduce_sum(tf.cast(side[..., None] >= limits, tf.int32), axis=-1)


def valid_on_levels(
    boxes: tf.Tensor, valid: tf.Tensor, count: int, levels: str, sizes: Sequence[float] | None
) -> list[tf.Tensor]:
    """For each of ``count`` maps, which boxes [B, M, 4] may mark it: bool [B, M]; ``levels`` of ``LEVELS``.

    Raises:
        ValueError: unknown ``levels``, or ``assigned`` without a size for each map.
    """
    if levels not in LEVELS:
        raise ValueError(f"imitation levels must be one of {', '.join(LEVELS)}; got {levels!r}")
    if levels != "assigned":
        return [valid] * count
    if sizes is None or len(sizes) != count:
        raise ValueError(
            f"imitation levels 'assigned' needs level_sizes, the side of the smallest box of each of the "
            f"{count} maps; got {sizes}"
        )
    own = level_of_boxes(boxes, sizes)
    return [tf.logical_and(valid, own == level) for level in range(count)]


def pair_by_stride(
    student: Sequence[int], teacher: Sequence[int], student_maps: int, teacher_maps: int
) -> Pairs:
    """Which maps are compared: those of equal stride, as (student's map, teacher's map).

    One map of each is a pair whatever the strides; where one does not tell its strides, maps pair by their
    place.

    Args:
        student, teacher: input pixels per position of each map; empty where they are not known.
        student_maps, teacher_maps: numbers of maps.

    Raises:
        ValueError: nothing pairs.
    """
    if student_maps == teacher_maps == 1 or not (student and teacher):
        if student_maps != teacher_maps:
            raise ValueError("the feature maps to imitate differ in number")
        return tuple((level, level) for level in range(student_maps))
    places = {stride: level for level, stride in enumerate(teacher)}
    pairs = tuple((level, places[stride]) for level, stride in enumerate(student) if stride in places)
    if not pairs:
        raise ValueError("no feature map has the stride of one of the teacher's")
    return pairs
