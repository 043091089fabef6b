"""Whether our Faster R-CNN and the one in PyTorch compute the same from the same weights."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import numpy as np
import tensorflow as tf

from benchmark import detections, snapshots
from benchmark.steps import GRADIENT_TOLERANCE
from benchmark.timing import Elsewhere
from benchmark.torch_process import TorchObject, TorchProcess
from benchmark.workload import exact_products
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.models.faster_rcnn import FasterRCNN, roi_align

# Rounding may turn the order of two scores or an IoU at a threshold, and one box pushes out others.
LEAST_PROPOSALS = 0.98


def same_proposals(found: np.ndarray, expected: np.ndarray, least: float = LEAST_PROPOSALS) -> float:
    """The share of the boxes [N,4] that ``found`` [M,4] has, within half a pixel.

    Raises:
        AssertionError: it is below ``least``, or the numbers of boxes differ by more.
    """
    nearest = np.abs(expected[:, None] - found[None]).max(axis=-1).min(axis=1, initial=np.inf)
    share = float(np.mean(nearest <= 0.5))
    if share < least or abs(len(found) - len(expected)) > (1 - least) * len(expected):
        raise AssertionError(
            f"only {share:.1%} of {len(expected)} proposals are among the {len(found)} of the other side"
        )
    return share


@exact_products()
def check_step(distiller: Distiller, theirs: TorchObject, batch: Mapping[str, np.ndarray]) -> str:
    """Dense outputs, proposals, and for the same samples all losses and some gradients; what was seen.

    PyTorch (a ``torch_faster_rcnn.TorchFasterRCNNStep``) is given our RPN outputs for its proposals, and our
    proposals and random numbers for its losses: each part is compared without the noise of those before.

    Raises:
        AssertionError: a part differs.
    """
    student = distiller.student
    outputs = student(student.preprocess(batch["image"]))
    dense = theirs.call("outputs")
    expected = [outputs[name][0] for name in ("features", "rpn_scores", "rpn_deltas")]
    for name, a, b in zip(("features", "RPN scores", "RPN deltas"), dense, expected, strict=True):
        close(a, b.numpy(), 1e-4, name)
    config = student.config
    regions = student.propose(
        outputs, tf.constant(batch["content_size"]), config.train_pre_nms, config.train_post_nms
    )
    kept = [boxes[:n] for boxes, n in zip(regions.boxes.numpy(), regions.count.numpy(), strict=True)]
    found = theirs.call("proposals", *(outputs[name][0].numpy() for name in ("rpn_scores", "rpn_deltas")))
    share = min(same_proposals(a, b) for a, b in zip(found, kept, strict=True))

    rows = regions.boxes.shape[1] + batch["boxes"].shape[1]
    anchors = outputs["rpn_deltas"][0][0].shape.num_elements() // 4
    drawn = student.random_numbers(distiller.seed_of(0), anchors, rows)
    drawn = {name: numbers.numpy() for name, numbers in drawn.items()}
    random = [_of_image(drawn, len(boxes), batch["boxes"].shape[1]) for boxes in kept]
    worst_loss, worst = _compare_losses(distiller, theirs.call("losses_and_gradients", kept, random), batch)
    return (
        f"Same losses to {worst_loss:.0e} and gradients to {worst:.0e} (relative L2) for the same random "
        f"numbers and proposals; {share:.1%} of the proposals are the same."
    )


def close(found: np.ndarray, expected: np.ndarray, tolerance: float, what: str) -> None:
    """Raises AssertionError where two arrays differ by more than ``tolerance`` of the largest value."""
    worst = np.abs(found - expected).max() / np.abs(expected).max()
    if not worst <= tolerance:
        raise AssertionError(f"{what}: the two sides differ by {worst:.1e} of the largest value")


def _of_image(drawn: Mapping[str, np.ndarray], proposals: int, truths: int) -> dict:
    """Our random numbers have a place for each row of padding too; the truths' are the last."""
    return {**drawn, "rois": np.concatenate([drawn["rois"][:proposals], drawn["rois"][-truths:]])}


def _compare_losses(distiller: Distiller, theirs: tuple[dict, dict], batch) -> tuple[float, float]:
    @tf.function
    def compute():
        with tf.GradientTape() as tape:
            terms = distiller.losses_of(
                tf.nest.map_structure(tf.constant, dict(batch)), tf.constant(0, tf.int64)
            )
            loss = tf.add_n(list(terms.values()))
        return terms, tape.gradient(loss, distiller.trained_variables)

    terms, gradients = compute()
    torch_terms, torch_gradients = theirs
    if set(terms) != set(torch_terms):
        raise AssertionError(f"the terms are {sorted(terms)} and {sorted(torch_terms)}")
    worst_loss = 0.0
    for name, value in torch_terms.items():
        np.testing.assert_allclose(terms[name], value, rtol=1e-3, atol=1e-6, err_msg=name)
        worst_loss = max(worst_loss, abs(float(terms[name]) - value) / max(abs(value), 1e-6))
    ours = {v.ref(): g.numpy() for v, g in zip(distiller.trained_variables, gradients, strict=True)}
    student = distiller.student
    first = next(layer for layer in student.base.convolutions if layer.trainable)
    kernels = {"first": first.kernel, "fc7": student.head.fc7.kernel}
    if distiller.imitation is not None:
        kernels["adaptation"] = distiller.imitation.kernels[0]
    worst = 0.0
    for name, kernel in kernels.items():
        a, b = ours[kernel.ref()], torch_gradients[name]
        worst = max(worst, float(np.linalg.norm(a - b) / np.linalg.norm(b)))
        if not worst <= GRADIENT_TOLERANCE:
            raise AssertionError(f"the gradients of {name} differ by {worst:.1e}")
    return worst_loss, worst


@exact_products()
def check_inference(
    student: FasterRCNN, inputs: tf.Tensor, batch: Mapping, contenders: Mapping[str, Callable[[], dict]]
) -> str:
    """Every contender's best boxes against those of eager Keras; returns what was seen.

    Raises:
        AssertionError: they differ.
    """
    size = {key: tf.constant(batch[key]) for key in ("content_size", "scale", "image_size")}
    expected = {name: value.numpy() for name, value in student.detect(student(inputs), size).items()}
    shares = []
    for name, call in contenders.items():
        found = call()
        if "boxes" in found:
            shares.append(detections.same_boxes(found, expected, name, top=20, least=0.8))
    return f"Of the 20 best boxes of eager Keras each has at least {min(shares):.0%}."


@exact_products()
def torch_parts(
    torch: TorchProcess, student: FasterRCNN, outputs: Mapping, rois: tf.Tensor, batch: Mapping
) -> dict[str, Elsewhere]:
    """PyTorch's forms of ``faster_rcnn.parts_case``, the pooling compared with ours first."""
    source = snapshots.faster_rcnn(student, tuple(batch["image"].shape[1:3]))
    arrays = {name: outputs[name][0].numpy() for name in ("rpn_scores", "rpn_deltas")}
    boxes = [b[v] for b, v in zip(batch["boxes"], batch["valid"], strict=True)]
    theirs = torch.make("torch_forward.FasterRCNNParts", source, arrays, boxes)
    pooling = torch.make("torch_forward.Pooling", outputs["features"][0].numpy(), rois.numpy())
    ours = roi_align.roi_align(outputs["features"][0], rois).numpy()
    close(pooling.call("run")[0], ours.reshape(-1, *ours.shape[2:]), 1e-4, "RoIAlign")
    return {
        "proposals (training)": theirs.contender("proposals"),
        "RoIAlign with gradient": pooling.contender("run"),
        "anchor targets": theirs.contender("assign"),
    }
