"""RoIAlign: fixed-size features of regions, in four forms.

Bilinear sampling on a grid, and averaging its samples, are separable: a pooled value is ``sum_yx wy[y]
wx[x] F[y, x]``. All forms but ``"crop_and_resize"`` differ only in these weights, and pooling is two matrix
products. That costs more arithmetic than gathering four neighbours per sample (about 5 % of fc6), but it
needs no scatter in the backward pass, which is slow on CPUs and not repeatable on GPUs. Over the fine levels
of a pyramid the products are no longer small, in memory either: CPUs gather there. No gradient flows to the
RoIs.
"""

from __future__ import annotations

from collections.abc import Sequence

import tensorflow as tf

from fgfi_tf.devices import needs_xla_form, prefers_gpu_form
from fgfi_tf.models.faster_rcnn.gathered import weighted_rows
from fgfi_tf.models.faster_rcnn.levels import level_of

KINDS = ("reference", "align", "align_v1", "crop_and_resize")


def roi_align(
    features: tf.Tensor,
    rois: tf.Tensor,
    kind: str = "reference",
    output_size: int = 7,
    stride: int = 16,
    sampling_ratio: int = 2,
    content_size: tf.Tensor | None = None,
) -> tf.Tensor:
    """Pools each RoI to ``output_size`` x ``output_size``.

    Args:
        features: [B,h,w,C].
        rois: float32 [B,R,4], inclusive corners in input pixels.
        kind: ``"reference"``: (n + 1) x (n + 1) points from corner to corner, averaged 2 x 2, as the
            published models were trained; ``"align"``: ``sampling_ratio``^2 samples in each of n x n bins (He
            et al. 2017, with the half-pixel offset); ``"align_v1"``: without the offset, with corners as they
            are and sides of at least a cell (torchvision's detectors); ``"crop_and_resize"``: the samples
            of ``"align"`` by TensorFlow's kernel.
        output_size: n.
        stride: input pixels per feature cell.
        sampling_ratio: samples per bin and axis; not used by ``"reference"``.
        content_size: (h, w) of the part of the feature map that holds the picture, int32 [B,2]; cells beyond
            are outside. The whole map where None. ``"crop_and_resize"`` knows the whole map only.

    Returns:
        [B,R,n,n,C] in the dtype of ``features``.

    Raises:
        ValueError: an unknown ``kind``.
    """
    if kind not in KINDS:
        raise ValueError(f"unknown RoI pooling {kind!r}: choose one of {', '.join(KINDS)}")
    rois = tf.stop_gradient(tf.cast(rois, tf.float32))
    if kind == "crop_and_resize":
        return _crop_and_resize(features, rois, output_size, stride, sampling_ratio)
    shape = tf.shape(features)
    if content_size is None:
        content_size = tf.broadcast_to(shape[1:3], [shape[0], 2])
    low, high = _in_cells(rois, kind, stride)  # B x R x 2 (x, y)
    weights = _corner_weights if kind == "reference" else _bin_weights
    options = (output_size, sampling_ratio)
    rows = weights(low[..., 1], high[..., 1], content_size[:, :1], shape[1], *options)  # B x R x n x h
    columns = weights(low[..., 0], high[..., 0], content_size[:, 1:], shape[2], *options)  # B x R x n x w
    return _weighted_sum(features, tf.stop_gradient(rows), tf.stop_gradient(columns))


def align_over_levels(
    features: Sequence[tf.Tensor],
    rois: tf.Tensor,
    kind: str,
    output_size: int,
    strides: Sequence[int],
    sampling_ratio: int,
    content: tf.Tensor | None = None,
    rounds_up: bool = False,
) -> tf.Tensor:
    """:func:`roi_align` of each RoI on the level that it belongs to, see ``levels.level_of``.

    CPUs gather what each RoI needs. Other devices multiply: of each level as many RoIs are pooled as the
    image of the batch with the most there has, of one image each RoI once; where XLA compiles, all of them.

    Args:
        features: for each level [B,h,w,C].
        strides: of each.
        content: (h, w) of the pictures in input pixels, float32 [B,2].
        rounds_up: a picture has so many rows of cells as cover it; else as many as it holds.
    """

    def cells_of(level: int) -> tf.Tensor:
        if content is None:
            return tf.broadcast_to(tf.shape(features[level])[1:3], [tf.shape(rois)[0], 2])
        extra = strides[level] - 1 if rounds_up else 0
        return (tf.cast(content, tf.int32) + extra) // strides[level]

    def pool(level: int, rois: tf.Tensor) -> tf.Tensor:
        options = (kind, output_size, strides[level], sampling_ratio)
        return roi_align(features[level], rois, *options, cells_of(level))

    if len(features) == 1:
        return pool(0, rois)
    index = level_of(rois, strides)  # B x R
    if kind in ("align", "align_v1") and not (prefers_gpu_form() or needs_xla_form()):
        cells = tf.stack([cells_of(level) for level in range(len(features))], axis=1)  # B x L x (h, w)
        options = (kind, output_size, strides, sampling_ratio)
        return _gathered(features, tf.stop_gradient(rois), *options, index, cells)
    parts, place, before = [], tf.zeros_like(index), 0
    for level in range(len(features)):
        own = tf.cast(index == level, tf.int32)
        most = tf.maximum(tf.reduce_max(tf.reduce_sum(own, axis=1)), 1)
        if needs_xla_form():  # its sizes depend on no values
            most = tf.shape(rois)[1]
        first = tf.argsort(own, axis=1, direction="DESCENDING", stable=True)[
            :, :most
        ]  # own RoIs, then others
        parts.append(pool(level, tf.gather(rois, first, batch_dims=1)))  # B x most x n x n x C
        place += own * (before + tf.cumsum(own, axis=1) - 1)
        before += most
    return tf.gather(tf.concat(parts, axis=1), place, batch_dims=1)


def _gathered(
    features: Sequence[tf.Tensor],
    rois: tf.Tensor,
    kind: str,
    size: int,
    strides: Sequence[int],
    sampling_ratio: int,
    index: tf.Tensor,
    content: tf.Tensor,
) -> tf.Tensor:
    """As the matrix products, of each RoI [B,R,4] from level ``index`` [B,R].

    ``content``, int32 [B,L,2]: cells of each level that hold the picture.
    """
    batch, channels = tf.shape(rois)[0], features[0].shape[-1]
    sides = tf.stack([tf.shape(f)[1:3] for f in features])  # L x (h, w)
    areas = tf.reduce_prod(sides, axis=1)  # L
    first = tf.cumsum(batch * areas, exclusive=True)  # rows of the levels, one behind another
    low, high = _in_cells(rois, kind, tf.gather(tf.constant([float(s) for s in strides]), index)[..., None])
    limits = tf.gather(content, index, batch_dims=1)  # B x R x (h, w)
    height, width = tf.unstack(tf.gather(sides, index), axis=-1)  # B x R
    options = (size, sampling_ratio)
    rows, of_rows = _neighbours(low[..., 1], high[..., 1], limits[..., 0], height, *options)
    columns, of_columns = _neighbours(low[..., 0], high[..., 0], limits[..., 1], width, *options)
    image = tf.range(batch)[:, None]  # B x 1
    start = tf.gather(first, index) + image * tf.gather(areas, index)  # B x R
    # B x R x n x n x 2s x 2s
    cells = rows[:, :, :, None, :, None] * width[:, :, None, None, None, None] + columns[:, :, None, :, None]
    cells += start[:, :, None, None, None, None]
    weights = of_rows[:, :, :, None, :, None] * of_columns[:, :, None, :, None]
    count = (2 * sampling_ratio) ** 2
    flat = tf.concat([tf.reshape(f, [-1, channels]) for f in features], axis=0)
    pooled = weighted_rows(flat, tf.reshape(cells, [-1, count]), tf.reshape(weights, [-1, count]))
    return tf.reshape(pooled, [batch, tf.shape(rois)[1], size, size, channels])


def _in_cells(rois: tf.Tensor, kind: str, stride: int | tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
    """Upper left and lower right corners [B,R,2] (x, y) in cells of the map, as ``kind`` counts them."""
    if kind == "align":
        return rois[..., :2] / stride - 0.5, (rois[..., 2:] + 1.0) / stride - 0.5
    low, high = rois[..., :2] / stride, rois[..., 2:] / stride
    return low, tf.maximum(high, low + 1.0) if kind == "align_v1" else high


def _weighted_sum(features: tf.Tensor, rows: tf.Tensor, columns: tf.Tensor) -> tf.Tensor:
    """Sums features [B,h,w,C] with rows [B,R,n,h] and columns [B,R,n,w]: [B,R,n,n,C]."""
    batch, height, width = tf.unstack(tf.shape(features)[:3])
    channels = features.shape[-1]
    rois, size = tf.shape(rows)[1], rows.shape[2]
    rows, columns = tf.cast(rows, features.dtype), tf.cast(columns, features.dtype)
    lines = tf.matmul(  # B x (R n) x (w C)
        tf.reshape(rows, [batch, rois * size, height]),
        tf.reshape(features, [batch, height, width * channels]),
    )
    lines = tf.reshape(lines, [batch, rois, size, width, channels])
    return tf.matmul(columns[:, :, None], lines)


def _corner_weights(low, high, limit, cells, size, _):
    """Weights [B,R,n,cells] of one axis: n + 1 points from ``low`` to ``high`` [B,R], neighbours averaged.

    The last point is one whole *cell* beyond ``high``. Points outside [0, limit) give 0, and between
    the last cell and the limit the value is extrapolated from the last two cells, as the published pooling
    does; of a map of one cell it is that cell's.
    """
    extent = tf.maximum(high - low + 1.0, 0.0)
    points = (
        low[..., None] + tf.range(size + 1, dtype=tf.float32) * (extent / size)[..., None]
    )  # B x R x (n + 1)
    limit = limit[..., None]  # B x 1 x 1
    first = tf.minimum(tf.floor(points), tf.cast(tf.maximum(limit - 2, 0), tf.float32))
    known = tf.logical_and(points >= 0.0, points < tf.cast(limit, tf.float32))
    fraction = tf.where(limit > 1, points - first, 0.0)  # beside a single cell there is none
    weights = _two_cells(tf.cast(first, tf.int32), fraction, known, cells)
    return 0.5 * (weights[:, :, :-1] + weights[:, :, 1:])


def _bin_weights(low, high, limit, cells, size, sampling_ratio):
    """Weights [B,R,n,cells] of one axis: the points of each of n equal bins, averaged."""
    weights = _two_cells(*_bin_points(low, high, limit, size, sampling_ratio), cells)
    batch, rois = tf.unstack(tf.shape(low))
    return tf.reduce_mean(tf.reshape(weights, [batch, rois, size, sampling_ratio, cells]), axis=3)


def _bin_points(low, high, limit, size, sampling_ratio):
    """``sampling_ratio`` points in each of n equal bins from ``low`` to ``high`` [B,R]; limit [B,R] or [B,1].

    A point within one cell outside the map takes the border's value, one further out 0. Gives of each point
    [B,R,n s] its cell, the fraction of a cell behind that, and whether it is known.
    """
    bin_size = (high - low) / size
    fractions = (tf.range(size * sampling_ratio, dtype=tf.float32) + 0.5) / sampling_ratio
    points = low[..., None] + fractions * bin_size[..., None]  # B x R x (n s)
    last = tf.cast(limit, tf.float32)[..., None] - 1.0
    known = tf.logical_and(points >= -1.0, points <= last + 1.0)
    points = tf.clip_by_value(points, 0.0, last)
    first = tf.minimum(tf.floor(points), tf.maximum(last - 1.0, 0.0))
    return tf.cast(first, tf.int32), points - first, known


def _neighbours(low, high, limit, cells, size, sampling_ratio):
    """Cells and weights [B,R,n,2s] of one axis: what :func:`_bin_weights` has beside zeros."""
    first, fraction, known = _bin_points(low, high, limit, size, sampling_ratio)
    share = tf.cast(known, tf.float32) / sampling_ratio
    both = tf.stack([first, tf.minimum(first + 1, cells[..., None] - 1)], axis=-1)  # B x R x (n s) x 2
    weights = tf.stack([(1.0 - fraction) * share, fraction * share], axis=-1)
    shape = [*tf.unstack(tf.shape(low)), size, 2 * sampling_ratio]
    return tf.reshape(both, shape), tf.reshape(weights, shape)


def _two_cells(first, fraction, known, cells):
    """Weights [..., cells]: 1 - fraction on cell ``first``, fraction on the next; 0 where not ``known``."""
    fraction = tf.where(known, fraction, 0.0)[..., None]
    share = tf.cast(known, tf.float32)[..., None] - fraction
    return tf.one_hot(first, cells) * share + tf.one_hot(first + 1, cells) * fraction


def _crop_and_resize(features, rois, size, stride, sampling_ratio):
    """Samples by ``tf.image.crop_and_resize``, then averages each bin.

    The kernel puts its first and last sample on the corners of the box it is given, in units of (cells - 1);
    bins want theirs half a sample inside the RoI's edges, and cell k of the map has its centre at k + 0.5.
    """
    shape = tf.shape(features)
    batch, count = tf.unstack(tf.shape(rois)[:2])
    samples = size * sampling_ratio
    low, high = _in_cells(rois, "align", stride)
    step = (high - low) / samples
    first, last = low + 0.5 * step, low + (samples - 0.5) * step
    scale = tf.cast(tf.reverse(shape[1:3], [0]) - 1, tf.float32)  # (w, h) - 1
    boxes = tf.reverse(tf.stack([first, last], axis=2) / scale, axis=[-1])  # B x R x 2 x 2 (y, x)
    crops = tf.image.crop_and_resize(
        tf.cast(features, tf.float32),  # the kernel has no bfloat16
        tf.reshape(boxes, [-1, 4]),
        tf.repeat(tf.range(batch), count),
        [samples, samples],
    )  # (B R) x (n s) x (n s) x C, float32
    if sampling_ratio > 1:
        crops = tf.nn.avg_pool2d(crops, sampling_ratio, sampling_ratio, "VALID")
    crops = tf.reshape(crops, [batch, count, size, size, features.shape[-1]])
    return tf.cast(crops, features.dtype)
