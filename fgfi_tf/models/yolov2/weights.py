"""Darknet's weight files into YOLOv2 detectors and out of them; see ``fgfi_tf.interop.darknet_weights``."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING

from absl import logging

from fgfi_tf.errors import UserError
from fgfi_tf.interop import darknet_weights
from fgfi_tf.models.builtin import AUTO

if TYPE_CHECKING:
    from fgfi_tf.models.yolov2.model import YOLOv2


def load(model: YOLOv2, path: Path | str, *, or_trunk: bool = False) -> bool:
    """Loads a file; False where it is none of Darknet by its name.

    A whole detector brings the number of images that it has seen, and where ``--reorg`` leaves it open, the
    passthrough's original order, with which the published files were trained; the metadata then says so.

    Args:
        model: of the file's width, classes and number of anchors; not folded.
        path: ``*.weights``, or ``*.conv.23`` of the trunk alone.
        or_trunk: whether it may hold the trunk alone.

    Raises:
        UserError: as ``darknet_weights.load_weights``, or it holds a trunk and may not.
    """
    if not darknet_weights.is_darknet(path):
        return False
    network = model.network
    if _is_trunk(model, Path(path)):
        if not or_trunk:
            raise UserError(f"{path} holds a backbone alone, not a trained detector")
        darknet_weights.load_weights(path, network.trunk_convolutions())
        return True
    seen = darknet_weights.load_weights(path, network.convolutions(), network.predict)
    model.history.images.assign(seen)
    take_original_reorg(model, str(path))
    return True


def _is_trunk(model: YOLOv2, path: Path) -> bool:
    """Whether a file ends exactly behind the trunk."""
    trunk = model.network.trunk_convolutions()
    values = sum(conv.kernel.shape.num_elements() + 4 * conv.filters for conv in trunk)
    data = path.read_bytes() if path.is_file() else b""
    return bool(data) and len(data) - darknet_weights.read_header(data, path)[1] == 4 * values


def take_original_reorg(model: YOLOv2, source: str) -> None:
    """Where ``auto`` is to decide: the passthrough of weights that were trained with the original one."""
    if model.reorg_option != AUTO:
        return
    try:
        model.network.set_reorg("original")
    except ValueError:  # it is not defined for this width, so the file is of the other one
        return
    logging.info("%s: --reorg=original, as its weights are for", source)
    model.reorg_option = "original"
    if model.metadata is not None:
        options = {**model.metadata.options, "reorg": "original"}
        model.metadata = dataclasses.replace(model.metadata, options=options)


def save(model: YOLOv2, path: Path | str, images_seen: int = 0) -> None:
    """Writes a ``.weights`` file, for a cfg whose passthrough is ``[reorg]`` or ``[reorg3d]`` as ``model``'s.

    Raises:
        ValueError: an inference copy, whose batch norm is not there any more.
    """
    if model.folded:
        raise ValueError("an inference copy has no batch norm to write; save the detector itself")
    network = model.network
    darknet_weights.save_weights(path, network.convolutions(), network.predict, images_seen)
