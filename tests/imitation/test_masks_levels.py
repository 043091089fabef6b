"""The mask over five levels, a box's best IoU being that over all of them, against literal loops."""

import numpy as np
import tensorflow as tf

from fgfi_tf.imitation import masks


def test_masks_over_levels(shared_path, run_mode):
    golden = np.load(shared_path("golden/multi_level_mask/masks.npz"))
    anchors = [tf.constant(golden[f"anchors_{level}"]) for level in range(5)]
    found = run_mode(masks.fine_grained_masks)(
        anchors, tf.constant(golden["boxes"]), tf.constant(golden["valid"]), float(golden["psi"])
    )
    for level, mask in enumerate(found):
        np.testing.assert_array_equal(mask, golden[f"mask_a_{level}"].astype(bool))
