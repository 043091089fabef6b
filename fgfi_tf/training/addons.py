"""SGDW and LAMB of tensorflow-addons, on current TensorFlow: the only module that imports it.

tensorflow-addons 0.23 has ended development and has no release for Python 3.12 and later. It takes Keras 2
from ``tf.keras`` and ``keras.src``. On TensorFlow 2.18-2.21 its pure-Python parts run with tf_keras, once
these names lead there: ``tf.keras`` for the rest of the process, as TF_USE_LEGACY_KERAS=1 would have done.
"""

from __future__ import annotations

import os
import sys
import warnings
from types import ModuleType

import tensorflow as tf
import tf_keras as keras

from fgfi_tf.errors import UserError


def optimizers() -> ModuleType:
    """``tensorflow_addons.optimizers``. Raises UserError where it is not installed."""
    os.environ["TF_USE_LEGACY_KERAS"] = "1"
    import tf_keras.src.engine

    tf.keras = sys.modules["tensorflow.keras"] = keras
    sys.modules.setdefault("keras.src.engine", tf_keras.src.engine)
    try:
        with warnings.catch_warnings():
            # Both warnings of its import (end of life, untested TensorFlow) are known, see above.
            warnings.simplefilter("ignore")
            import tensorflow_addons
    except ImportError as error:
        raise UserError(
            "--optimizer=sgdw and --optimizer=lamb need tensorflow-addons (pip install "
            f"tensorflow-addons==0.23.0; it has no release for Python 3.12 and later): {error}"
        ) from error
    return tensorflow_addons.optimizers
