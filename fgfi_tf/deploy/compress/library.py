"""tensorflow-model-optimization, which is an extra."""

from __future__ import annotations

import importlib
from typing import Any

from fgfi_tf.errors import UserError


def tfmot() -> Any:
    """The package. Raises UserError where it is not installed."""
    try:
        return importlib.import_module("tensorflow_model_optimization")
    except ImportError as error:
        raise UserError(
            "compress.py needs tensorflow-model-optimization: pip install -e '.[compress]'"
        ) from error
