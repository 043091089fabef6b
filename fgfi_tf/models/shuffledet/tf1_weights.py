"""ShuffleDet weights from the TensorFlow 1 checkpoints of the 2019 code.

Four kinds are read: an ImageNet backbone (conv1 and group1-3 only), a student, a training
checkpoint (with ``*/Momentum`` slots and ``global_step``, which are skipped), and the teacher's
copy inside a training checkpoint, under the prefix ``shuffleDet_supervisor/``.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import tensorflow as tf

from fgfi_tf.errors import UserError, first_line
from fgfi_tf.models.convolutions import ConvBN

if TYPE_CHECKING:
    from fgfi_tf.models.shuffledet.model import ShuffleDet

TEACHER_PREFIX = "shuffleDet_supervisor/"
# what TensorFlow raises for checkpoints that are missing or damaged
_DAMAGE = (tf.errors.OpError, ValueError, IndexError, RuntimeError, TypeError, OSError)
BACKBONE_GROUPS = ("conv1/", "group1/", "group2/", "group3/")


def is_reference_checkpoint(path: str | Path) -> bool:
    """Whether ``path`` (a checkpoint prefix) is a checkpoint of the 2019 code."""
    try:
        names = tf.train.load_checkpoint(str(path)).get_variable_to_shape_map()
    except _DAMAGE:
        return False
    return any(name.endswith("conv1/bn/mean/EMA") for name in names)


def load_trained(model: ShuffleDet, path: str | Path, *, or_backbone: bool = False) -> bool:
    """Assigns a checkpoint's weights, of whichever kind it is; False where it is none of the 2019 code.

    Raises UserError as :func:`load`, or where it holds a backbone alone and may not (``or_backbone``).
    """
    if not is_reference_checkpoint(path):
        return False
    names = dict(tf.train.list_variables(str(path)))
    if not any(name.endswith("conv12/kernels") for name in names):
        if not or_backbone:
            raise UserError(f"{path} holds a backbone alone, not a trained detector")
        load(model, path, backbone_only=True)
        return True
    try:
        load(model, path)
    except UserError as error:
        # An imitation run of the 2019 code keeps its teacher under a prefix.
        if not any(name.startswith(TEACHER_PREFIX) for name in names):
            raise
        try:
            load(model, path, prefix=TEACHER_PREFIX)
        except UserError:  # neither: what the student lacks is what is told
            raise error from None
    return True


def load(model: ShuffleDet, path: str | Path, *, prefix: str = "", backbone_only: bool = False) -> None:
    """Assigns a checkpoint's weights to ``model``.

    Args:
        model: of the checkpoint's width, not folded.
        path: checkpoint prefix, e.g. ``model.ckpt-1``.
        prefix: ``TEACHER_PREFIX`` for the teacher inside a training checkpoint.
        backbone_only: load conv1 and group1-3 and leave the rest as it is.

    Raises:
        UserError: if the file cannot be read, lacks variables (they are named), or holds
            another model's shapes. The model is then unchanged.
    """
    _assign(path, _assignments(model, backbone_only), prefix, model.variant, backbone_hint=not backbone_only)


def load_adaptation(layer: Any, path: str | Path) -> None:
    """Assigns ``adaptation/conv`` of a training checkpoint to a built imitation layer, an ``ImitationLoss``.

    Raises:
        UserError: if the file cannot be read, lacks it, or its shape differs.
    """
    table = {"kernels": (layer.kernels[0], 1), "biases": (layer.biases[0], 1)}
    _assign(path, table, "adaptation/conv/", "model with this adaptation")


def _assign(
    path: str | Path,
    table: dict[str, tuple[tf.Variable, int]],
    prefix: str,
    what: str,
    *,
    backbone_hint: bool = False,
) -> None:
    """Assigns each variable of a table (see :func:`_assignments`), or none of them."""
    arrays = _read(path, [prefix + name for name in table], backbone_hint=backbone_hint)
    values = []
    for (name, value), (variable, shuffle_groups) in zip(arrays.items(), table.values(), strict=True):
        if list(value.shape) != variable.shape.as_list() or value.dtype != np.float32:
            raise UserError(
                f"{path} does not hold a {what}: {name} is {value.dtype} "
                f"{list(value.shape)}, the model has float32 {variable.shape.as_list()}"
            )
        values.append(value.reshape(shuffle_groups, -1).T.reshape(-1) if shuffle_groups > 1 else value)
    for (variable, _), value in zip(table.values(), values, strict=True):
        variable.assign(value)


def _assignments(model: ShuffleDet, backbone_only: bool) -> dict[str, tuple[tf.Variable, int]]:
    """Checkpoint name to (variable, groups of the shuffle its channels have gone through)."""
    table: dict[str, tuple[tf.Variable, int]] = {}
    for name, conv in model.backbone.convolutions().items():
        if not backbone_only or name.startswith(BACKBONE_GROUPS) or name == "conv1":
            table.update(_conv_assignments(name, conv))
    if not backbone_only:
        table["conv12/kernels"] = (model.head.kernel, 1)
        table["conv12/biases"] = (model.head.bias, 1)
    return table


def _conv_assignments(name: str, conv: ConvBN) -> dict[str, tuple[tf.Variable, int]]:
    norm, groups = conv.norm, conv.shuffle_groups
    return {
        f"{name}/W": (conv.kernel, 1),
        f"{name}/bn/gamma": (norm.gamma, groups),
        f"{name}/bn/beta": (norm.beta, groups),
        f"{name}/bn/mean/EMA": (norm.moving_mean, groups),
        f"{name}/bn/variance/EMA": (norm.moving_variance, groups),
    }


def _read(path: str | Path, names, *, backbone_hint: bool) -> dict[str, np.ndarray]:
    try:
        reader = tf.train.load_checkpoint(str(path))
        missing = [name for name in names if not reader.has_tensor(name)]
        if not missing:
            return {name: reader.get_tensor(name) for name in names}
    except _DAMAGE as error:
        raise UserError(f"cannot read the checkpoint {path}: {first_line(error)}") from error
    hint = ""
    if backbone_hint and all("added3" in name or "conv12" in name for name in missing):
        hint = "; it looks like a backbone: load it with backbone_only"
    shown = ", ".join(missing[:5]) + (f" and {len(missing) - 5} more" if len(missing) > 5 else "")
    raise UserError(f"{path} lacks {len(missing)} of {len(names)} variables: {shown}{hint}")
