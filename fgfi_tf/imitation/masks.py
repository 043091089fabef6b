"""Where the student imitates: the fine-grained mask of the paper, and the two it was compared with.

Boxes and anchors are continuous corners (xmin, ymin, xmax, ymax; width = xmax - xmin) in pixels of
the network input. Anchors [h, w, K, 4] lie on a grid, as ``best_iou_per_position`` wants them.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from fgfi_tf.geometry.crowds import over_truths
from fgfi_tf.geometry.iou import best_iou_per_position
from fgfi_tf.imitation.levels import valid_on_levels

REGIONS = ("fine_grained", "gt_box", "full")


def fine_grained_masks(
    anchors: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    valid: tf.Tensor,
    psi: float = 0.5,
    valid_mask: Sequence[tf.Tensor] | None = None,
    levels: str = "best",
    level_sizes: Sequence[float] | None = None,
) -> list[tf.Tensor]:
    """The imitation region of the paper (section 3.1), for any number of feature levels.

    A position is in the mask where the IoU of any of its anchors with any box is greater than
    ``psi`` times that box's own best IoU. With ``levels="best"`` that is taken over the anchors of *all*
    levels, so a box marks the levels whose anchors fit it and not every level. With ``"each"`` a box has a
    best IoU on each level and marks all of them; with ``"assigned"`` so too, but marks only the level
    that it belongs to by its size.

    Args:
        anchors: for each level, float32 [h, w, K, 4].
        boxes: float32 [B, M, 4].
        valid: bool [B, M]; False for padding.
        psi: the threshold factor, 0 (every position that overlaps a box) to 1 (none).
        valid_mask: for each level bool [B, h, w], the positions that take part; all where None. The others
            are in no mask, and a box's best IoU is not one of theirs.
        levels: one of ``levels.LEVELS``.
        level_sizes: of ``"assigned"``: the side from which on a box belongs to each level, ascending, pixels.

    Returns:
        For each level, bool [B, h, w].
    """

    def with_some(masks: tuple, _: tf.Tensor, boxes: tf.Tensor, valid: tf.Tensor) -> tuple:
        ious = [best_iou_per_position(a, boxes) for a in anchors]  # B x rows x h x w each
        if valid_mask is not None:
            ious = [tf.where(part[:, None], iou, 0.0) for iou, part in zip(ious, valid_mask, strict=True)]
        best = [tf.reduce_max(iou, axis=(2, 3)) for iou in ious]  # B x rows each
        if levels == "best":
            best = [tf.reduce_max(tf.stack(best), axis=0)] * len(best)
        marking = valid_on_levels(boxes, valid, len(ious), levels, level_sizes)
        # An IoU is never greater than 2: what does not mark a level (padding, on every level) is above none.
        thresholds = [tf.where(marks, psi * own, 2.0) for marks, own in zip(marking, best, strict=True)]
        return tuple(
            mask | tf.reduce_any(iou > threshold[:, :, None, None], axis=1)
            for mask, iou, threshold in zip(masks, ious, thresholds, strict=True)
        )

    return list(over_truths(with_some, tuple(_filled(anchors, boxes, False)), boxes, valid))


def gt_box_masks(
    anchors: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    valid: tf.Tensor,
    levels: str = "best",
    level_sizes: Sequence[float] | None = None,
) -> list[tf.Tensor]:
    """Positions whose centre lies inside a box (the paper's ablation "G", Table 1).

    The centre of a position is the centre of its first anchor. Arguments and result as for
    :func:`fine_grained_masks`; of ``levels`` only ``"assigned"`` makes a difference.
    """

    def with_some(masks: tuple, _: tf.Tensor, boxes: tf.Tensor, valid: tf.Tensor) -> tuple:
        x1, y1, x2, y2 = (c[..., None] for c in tf.unstack(boxes, axis=-1))  # B x rows x 1
        marking = valid_on_levels(boxes, valid, len(anchors), levels, level_sizes)
        more = []
        for level, marks in zip(anchors, marking, strict=True):
            level = tf.convert_to_tensor(level, tf.float32)
            cx = 0.5 * (level[0, :, 0, 0] + level[0, :, 0, 2])  # w
            cy = 0.5 * (level[:, 0, 0, 1] + level[:, 0, 0, 3])  # h
            in_x = (cx >= x1) & (cx < x2) & marks[..., None]  # B x rows x w
            in_y = (cy >= y1) & (cy < y2)  # B x rows x h
            more.append(tf.reduce_any(in_y[..., :, None] & in_x[..., None, :], axis=1))
        return tuple(mask | found for mask, found in zip(masks, more, strict=True))

    return list(over_truths(with_some, tuple(_filled(anchors, boxes, False)), boxes, valid))


def full_masks(anchors: Sequence[tf.Tensor], boxes: tf.Tensor) -> list[tf.Tensor]:
    """Every position (the paper's ablation "F", full-feature imitation)."""
    return _filled(anchors, boxes, True)


def _filled(anchors: Sequence[tf.Tensor], boxes: tf.Tensor, value: bool) -> list[tf.Tensor]:
    batch = tf.shape(boxes)[0]
    return [tf.fill([batch, *tf.unstack(tf.shape(level)[:2])], value) for level in anchors]


def imitation_masks(
    anchors: Sequence[tf.Tensor],
    boxes: tf.Tensor,
    valid: tf.Tensor,
    valid_mask: Sequence[tf.Tensor] | None = None,
    *,
    region: str = "fine_grained",
    psi: float = 0.5,
    levels: str = "best",
    level_sizes: Sequence[float] | None = None,
) -> list[tf.Tensor]:
    """The masks of ``region``, one of ``REGIONS``; see the functions above.

    ``valid_mask``: for each level bool [B, h, w], False for positions that are in no mask (padding).

    Raises:
        ValueError: for an unknown region or unknown ``levels``.
    """
    if region not in REGIONS:
        raise ValueError(f"imitation region must be one of {', '.join(REGIONS)}; got {region!r}")
    if region == "fine_grained":
        return fine_grained_masks(anchors, boxes, valid, psi, valid_mask, levels, level_sizes)
    if region == "gt_box":
        found = gt_box_masks(anchors, boxes, valid, levels, level_sizes)
    else:
        found = full_masks(anchors, boxes)
    if valid_mask is None:
        return found
    return [tf.logical_and(mask, part) for mask, part in zip(found, valid_mask, strict=True)]
