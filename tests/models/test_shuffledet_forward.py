"""ShuffleDet's outputs for a checkpoint of the 2019 code against that code's own.

The checkpoint is too large to lie in the repository, so this needs the shared data. Decoding, targets,
losses and masks are in ``test_shuffledet_golden.py`` and need none.
"""

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.interop import tf1_shuffledet
from fgfi_tf.models.shuffledet import ShuffleDet

pytestmark = pytest.mark.shared_data


@pytest.fixture(scope="module")
def golden(shared_path):
    folder = shared_path("golden/shuffledet")
    return {"forward": np.load(folder / "forward.npz"), "folder": folder}


@pytest.fixture(scope="module")
def imported(golden):
    model = ShuffleDet("shuffledet_0.5x")
    tf1_shuffledet.load(model, golden["folder"] / "model.ckpt-1")
    return model


@pytest.fixture(scope="module")
def image(golden):
    # The reference decoded with the accurate integer DCT.
    data = tf.io.read_file(str(golden["folder"] / "input_000001.jpg"))
    return tf.io.decode_jpeg(data, dct_method="INTEGER_ACCURATE")[None]


@pytest.mark.parametrize("folded", [False, True])
def test_forward_of_the_imported_checkpoint(golden, imported, image, folded):
    model = imported.folded_copy() if folded else imported
    resized = tf.image.resize(tf.cast(image, tf.float32), model.input_size)
    outputs = tf.function(model)(model.preprocess(resized))
    expected = golden["forward"]
    np.testing.assert_allclose(outputs["predictions"], expected["preds"], atol=1e-3)
    feature = outputs["features"][0][0, ::4, ::6]
    np.testing.assert_allclose(feature, expected["feature"], atol=1e-3, rtol=1e-4)

    decoded, score, classes = model.decode(outputs)
    np.testing.assert_allclose(decoded, expected["det_boxes_cxcywh"], atol=0.05)
    np.testing.assert_allclose(score, expected["score"], atol=1e-4)
    np.testing.assert_array_equal(classes, expected["class_index"])

    size = expected["image_size_hw"]
    scale = np.array(model.input_size, np.float32) / size.astype(np.float32)
    detections = model.detect(outputs, {"scale": scale[None], "image_size": size[None]})
    count = int(detections["count"][0])
    assert count == len(expected["nms_scores"])
    order = np.argsort(-expected["nms_scores"], kind="stable")
    np.testing.assert_allclose(detections["boxes"][0, :count], expected["nms_boxes_xyxy"][order], atol=0.05)
    np.testing.assert_array_equal(detections["classes"][0, :count], expected["nms_classes"][order])
