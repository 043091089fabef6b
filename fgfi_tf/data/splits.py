"""The splits of folders that have none of their own, or name them as they like."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import logging

from fgfi_tf import options
from fgfi_tf.data.dataset import Dataset, Frame, canonical
from fgfi_tf.data.text_files import fits_a_line
from fgfi_tf.errors import UserError

VAL_FRACTION = 0.2
#: The split of every picture there is.
ALL = "all"


def frames_of(
    dataset: Dataset, data_dir: Path, split: str, val_fraction: float, options: Mapping[str, Any]
) -> list[Frame]:
    """The frames of a split: the dataset's own, or a share of its pictures.

    Where a folder has no splits, or a single list or folder, ``val`` is ``val_fraction`` of the pictures, by
    a hash of their ids, and ``train`` the others: a picture stays where it is when others are added. A single
    list of validation is whole, and nothing is left to train on.

    Raises:
        UserError: there is no such split, or it is empty; what the dataset raises.
    """
    own = dataset.splits(data_dir)
    if own is None:
        return _checked(dataset.frames(data_dir, split, **options), data_dir, split)
    match = dataset.find_split(data_dir, split, own)
    if split == ALL and match is None:
        every = [frame for name in own or [""] for frame in dataset.frames(data_dir, name, **options)]
        found = list({frame.image_path: frame for frame in reversed(every)}.values())[::-1]
    elif match is not None and (len(own) > 1 or canonical(match) != "train"):
        found = dataset.frames(data_dir, match, **options)
    elif len(own) > 1:
        raise UserError(f"{data_dir} has no split {split!r}; it has {', '.join(own)}")
    elif own and canonical(own[0]) == "val":
        raise UserError(
            f"{data_dir} has no split {split!r}, only {own[0]}: call that train, and --val_fraction makes "
            f"train and val of it; or give both, --train_split={own[0]} --val_split={own[0]}"
        )
    else:
        found = _share(
            dataset.frames(data_dir, own[0] if own else "", **options), data_dir, split, val_fraction
        )
    return _checked(found, data_dir, split)


def is_validation(image_id: str, fraction: float) -> bool:
    """Whether a picture is of the validation share: a function of its id alone."""
    return _place(image_id) < fraction


def _place(image_id: str) -> float:
    """Where a hash of its id puts a picture, in [0, 1)."""
    return int.from_bytes(hashlib.sha256(image_id.encode()).digest()[:8], "big") / 2**64


def _remedy(frames: Sequence[Frame]) -> str:
    """What leaves a picture to either split: a fraction of few digits, the smallest that does."""
    places = sorted(_place(frame.image_id) for frame in frames)
    for digits in range(1, 10):
        fraction = math.floor(places[0] * 10**digits + 1) / 10**digits
        if places[0] < fraction <= places[-1]:
            count = sum(place < fraction for place in places)
            return (
                f"--val_fraction={fraction:g} leaves {count} to val; --val_split=train takes train for both"
            )
    return "add pictures, or take this one for both: --val_fraction=0 --val_split=train"


def _share(frames: list[Frame], data_dir: Path, split: str, fraction: float) -> list[Frame]:
    wanted = canonical(split)
    if wanted not in ("train", "val"):
        raise UserError(
            f"{data_dir} has no split {split!r}: it has none of its own; --val_fraction makes train and val, "
            f"and {ALL} is every picture"
        )
    if fault := options.fraction(fraction):
        raise UserError(f"--val_fraction={fraction}: {fault}")
    found = [frame for frame in frames if is_validation(frame.image_id, fraction) == (wanted == "val")]
    if not found and frames:
        raise UserError(
            f"{data_dir}: --val_fraction={fraction} leaves no picture of {len(frames)} to {split!r} "
            f"(each picture's name decides); {_remedy(frames)}"
        )
    logging.info(
        "%s has no split of its own: %d of %d pictures are %s", data_dir, len(found), len(frames), wanted
    )
    return found


def _checked(frames: Sequence[Frame], data_dir: Path, split: str) -> list[Frame]:
    if not frames:
        raise UserError(f"{data_dir}: the split {split!r} holds no picture")
    seen: dict[str, Path] = {}
    for frame in frames:
        if not fits_a_line(frame.image_id):
            raise UserError(f"{frame.image_path}: its name has characters that result files cannot hold")
        other = seen.setdefault(frame.image_id, frame.image_path)
        if other is not frame.image_path:
            if other == frame.image_path:
                raise UserError(f"{frame.label_path}: {frame.image_path} is listed twice")
            raise UserError(
                f"{other} and {frame.image_path} have the same name {frame.image_id!r}: rename one"
            )
    return list(frames)
