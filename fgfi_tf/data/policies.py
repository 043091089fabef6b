"""Resize and augmentation policies by name. Imports no TensorFlow, as policies are named by flags.

A detector chooses one of each (``Detector.resize``, ``Detector.augmentation``), and ``--resize`` and
``--augmentation`` change that. A new policy is a class and one ``register`` here.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from fgfi_tf.errors import UserError
from fgfi_tf.options import Option, at_least, fraction, not_negative, unit_interval
from fgfi_tf.registries import Registry, resolved

if TYPE_CHECKING:
    from fgfi_tf.data.augment import Augmentation
    from fgfi_tf.data.resize import Resize


@dataclasses.dataclass(frozen=True)
class AugmentationEntry:
    """An augmentation policy.

    Attributes:
        kind: the class, or where it is: ``"module:name"``.
        options: what users can choose about it; values go to ``kind.from_options`` by name.
    """

    kind: type[Augmentation] | str
    options: tuple[Option, ...] = ()


#: Of policies themselves, or where they are: ``"module:name"``.
RESIZE: Registry[Resize | str] = Registry("resize policy")
AUGMENTATION: Registry[AugmentationEntry] = Registry("augmentation policy")


def resize(name: str) -> Resize:
    """The resize policy of a name. Raises UserError for an unknown one."""
    return resolved(RESIZE.get(name))


def augmentation(name: str, values: Mapping[str, Any] | None = None) -> Augmentation:
    """The augmentation policy of a name, with values of its options; those left out have their defaults.

    Raises UserError as :func:`check_options` does.
    """
    check_options(name, values or {})
    entry = AUGMENTATION.get(name)
    defaults = {option.name: option.default for option in entry.options}
    return resolved(entry.kind).from_options(**{**defaults, **(values or {})})


def augmentation_options(name: str) -> tuple[Option, ...]:
    """What users can choose about an augmentation policy. Raises UserError for an unknown one."""
    return AUGMENTATION.get(name).options


def check_options(name: str, values: Mapping[str, Any]) -> None:
    """Raises UserError for an unknown augmentation policy, or what is not an option or no value of one."""
    known = {option.name: option for option in augmentation_options(name)}
    for flag, value in values.items():
        if flag not in known:
            listed = ", ".join(f"--{other}" for other in known) or "none"
            raise UserError(f"--{flag}: the augmentation policy {name} has no such option (it has {listed})")
        known[flag].validate(value)


def number_range(text: str) -> tuple[float, float]:
    """'0.5,1.5' to (0.5, 1.5). Raises ValueError where that is no range of numbers that are not negative."""
    low, high = (float(part) for part in text.split(","))
    if not 0 <= low <= high < float("inf"):
        raise ValueError(text)
    return low, high


def pair(text: str) -> tuple[int, int]:
    """'150x100' to (150, 100). Raises ValueError for anything else."""
    match = re.fullmatch(r"(\d+)x(\d+)", text.strip().lower())
    if not match:
        raise ValueError("two whole numbers are expected, like 384x1248")
    return int(match.group(1)), int(match.group(2))


def _is_range(value: str) -> str:
    try:
        number_range(value)
    except ValueError:
        return "two numbers are expected, lowest and highest, not negative"
    return ""


def _is_pair(value: str) -> str:
    try:
        pair(value)
    except ValueError as error:
        return str(error)
    return ""


_FLIP = Option(
    "flip",
    0.5,
    "Probability of a horizontal flip.",
    check=unit_interval,
)
#: What ``--help`` says of them.
RESIZE_HELP = (
    "How an image becomes the network input: stretch (to --input_size), letterbox (as large as fits into "
    "it, padded), varying_letterbox (into another size around it every ten steps of training), shorter_side "
    "(to a length; --input_size is short side x largest long side), torchvision (as that, never cropped, "
    "padded to multiples of 32)."
)
for _name in ("stretch", "shorter_side", "letterbox", "torchvision"):
    RESIZE.register(_name, f"fgfi_tf.data.resize:{_name.upper()}")
RESIZE.register("varying_letterbox", "fgfi_tf.data.varying:VARYING_LETTERBOX")
AUGMENTATION.register("none", AugmentationEntry("fgfi_tf.data.augment:Augmentation"))
AUGMENTATION.register(
    "kitti",
    AugmentationEntry(
        "fgfi_tf.data.augment:KittiAugmentation",
        (
            Option("brightness", 50, "Brightness changes by up to +- this, in 0..255.", check=not_negative),
            Option("contrast", "0.5,1.5", "Range of the contrast factor.", check=_is_range),
            Option("saturation", "0.3,1.7", "Range of the saturation factor.", check=_is_range),
            Option(
                "drift",
                "150x100",
                "Largest random shift of the left and upper border, x by y, in pixels of the image file.",
                check=_is_pair,
            ),
            _FLIP,
        ),
    ),
)
AUGMENTATION.register(
    "yolo",
    AugmentationEntry(
        "fgfi_tf.data.augment_darknet:DarknetAugmentation",
        (
            Option("jitter", 0.3, "Width and height each change by up to this share.", check=fraction),
            Option("hue", 0.1, "The hue moves by up to +- this share of the circle.", check=not_negative),
            Option("saturation", 1.5, "Most that saturation is multiplied or divided by.", check=at_least(1)),
            Option("exposure", 1.5, "Most that brightness is multiplied or divided by.", check=at_least(1)),
            _FLIP,
            Option(
                "canvas",
                2048,
                "Largest side of the square that a picture is put into before it is resized; that of the "
                "largest network input, as in Darknet, takes the least time.",
                check=at_least(1),
            ),
        ),
    ),
)
AUGMENTATION.register(
    "voc",
    AugmentationEntry(
        "fgfi_tf.data.augment:VocAugmentation",
        (
            Option(
                "flip",
                0.5,
                "0.5: an epoch holds every image and its mirror image; 0: the images alone.",
                check=lambda value: (
                    "" if value in (0, 0.5) else "expected is 0.5 (each image and its mirror image) or 0"
                ),
            ),
        ),
    ),
)
AUGMENTATION.register(
    "ssd",
    AugmentationEntry(
        "fgfi_tf.data.ssd_augment:SSDAugmentation",
        (
            Option("brightness", 32.0, "Brightness changes by up to +- this, in 0..255.", check=not_negative),
            Option("contrast", "0.5,1.5", "Range of the contrast factor.", check=_is_range),
            Option("saturation", "0.5,1.5", "Range of the saturation factor.", check=_is_range),
            Option("hue", 18.0, "The hue is turned by up to +- so many degrees.", check=not_negative),
            Option(
                "expand",
                4.0,
                "Half of the images are put on a canvas of up to so many times their sides (1: none).",
                check=at_least(1),
            ),
            Option("crop", True, "Cut out a part that overlaps an object by at least .1 to .9."),
            _FLIP,
        ),
    ),
)
