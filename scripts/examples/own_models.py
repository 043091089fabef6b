"""Imitation between two networks of one's own: python scripts/examples/own_models.py"""

import keras  # Keras 3; with `import tf_keras as keras`, ImitationLoss is that of fgfi_tf.imitation.layer
import numpy as np
import tensorflow as tf

from fgfi_tf.geometry.anchors import anchor_grid
from fgfi_tf.imitation.keras3 import ImitationLoss

BATCH, HEIGHT, WIDTH, STRIDE = 4, 96, 128, 16
SHAPE = (HEIGHT, WIDTH, 3)


def networks() -> tuple[keras.Model, keras.Model]:
    """A small student with a head, and a large teacher, each cut at its map of stride 16."""
    small = keras.applications.MobileNetV2(SHAPE, alpha=0.35, include_top=False, weights=None)
    features = small.get_layer("block_13_expand_relu").output
    student = keras.Model(small.input, [features, keras.layers.Conv2D(1, 1)(features)])
    # weights="imagenet", or those of your own trained detector: a teacher should know something.
    large = keras.applications.ResNet50(include_top=False, weights=None, input_shape=SHAPE)
    return student, keras.Model(large.input, large.get_layer("conv4_block6_out").output)


def draw(random: np.random.Generator) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Images [B, H, W, 3], boxes [B, 2, 4] as corners in their pixels, and which of the boxes are real."""
    corner = random.uniform(0, [WIDTH - 48, HEIGHT - 48], (BATCH, 2, 2))
    boxes = np.concatenate([corner, corner + random.uniform(24, 48, (BATCH, 2, 2))], -1).astype(np.float32)
    valid = np.array([[True, True], [True, False]] * (BATCH // 2))  # every second image holds one object
    images = random.normal(0.0, 0.2, (BATCH, *SHAPE)).astype(np.float32)
    for image, (x1, y1, x2, y2) in zip(np.argwhere(valid)[:, 0], boxes[valid].astype(int), strict=True):
        images[image, y1:y2, x1:x2] += 1.0
    return images, boxes, valid


def main(steps: int = 50) -> list[tuple[float, float]]:
    """Trains the student; returns the detection and the imitation loss of every step."""
    student, teacher = networks()
    imitation = ImitationLoss(teacher_channels=[teacher.output.shape[-1]])
    imitation.build([student.output[0].shape])
    # A convolution that adapts the student's map to the teacher's learns as well: both sets of variables.
    variables = student.trainable_variables + imitation.trainable_variables
    optimizer = keras.optimizers.Adam(1e-3)
    optimizer.build(variables)
    anchors = anchor_grid(HEIGHT // STRIDE, WIDTH // STRIDE, STRIDE, sizes=[24, 48], ratios=[0.5, 1.0, 2.0])

    @tf.function
    def step(images, boxes, valid):
        taught = teacher(images, training=False)
        with tf.GradientTape() as tape:
            features, logits = student(images, training=True)
            inside = tf.cast(imitation.masks([anchors], boxes, valid)[0], tf.float32)
            entropy = tf.nn.sigmoid_cross_entropy_with_logits(inside, logits[..., 0])
            detection = tf.reduce_mean(entropy)  # your detector's own losses
            imitated = imitation([features], [taught], [anchors], boxes, valid)
            loss = detection + 0.1 * imitated
        optimizer.apply_gradients(zip(tape.gradient(loss, variables), variables, strict=True))
        return detection, imitated

    random, losses = np.random.default_rng(0), []
    for number in range(steps):
        losses.append(tuple(float(value) for value in step(*draw(random))))
        if number % 10 == 9:
            detection, imitated = np.mean(losses[-10:], axis=0)
            print(f"step {number + 1}: detection {detection:.3f}, imitation {imitated:.3f}")
    return losses


if __name__ == "__main__":
    main()
