"""Whether two ways to run a network detect the same."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

TOP = 10
# Near-equal candidates may swap in suppression: that many of the best may be others.
LEAST_SHARE = 0.9


def same_dense(found: np.ndarray, expected: np.ndarray, what: str, tolerance: float = 1e-3) -> float:
    """The largest difference of two dense outputs.

    Raises:
        AssertionError: it is above the tolerance, the shapes differ, or the expected outputs are too
            small for the tolerance to say anything.
    """
    if found.shape != expected.shape:
        raise AssertionError(f"{what}: {found.shape} is not {expected.shape}")
    if not np.std(expected) > 100 * tolerance:
        raise AssertionError(f"{what}: outputs of deviation {np.std(expected):.1e} cannot be told from zeros")
    worst = float(np.abs(found - expected).max())
    if not worst <= tolerance:
        raise AssertionError(f"{what}: outputs differ by {worst:.1e}, more than {tolerance:.0e}")
    return worst


def same_boxes(
    found: Mapping[str, np.ndarray],
    expected: Mapping[str, np.ndarray],
    what: str,
    *,
    top: int = TOP,
    least: float = LEAST_SHARE,
) -> float:
    """The share of the expected best ``top`` detections of each image that ``found`` has.

    One counts as found where some detection of its class has its score within 1e-3 and its box
    within half a pixel. Both are dicts of ``boxes`` [B,K,4], ``scores``, ``classes`` [B,K] and ``count``.

    Raises:
        AssertionError: fewer than ``least`` are found, or there is nothing to find.
    """
    hits = total = 0
    for image, count in enumerate(expected["count"]):
        have = slice(int(found["count"][image]))
        for k in range(min(top, int(count))):
            total += 1
            same = found["classes"][image, have] == expected["classes"][image, k]
            same &= np.abs(found["scores"][image, have] - expected["scores"][image, k]) <= 1e-3
            offset = np.abs(found["boxes"][image, have] - expected["boxes"][image, k]).max(axis=-1, initial=0)
            hits += bool(np.any(same & (offset <= 0.5)))
    if not total:
        raise AssertionError(f"{what}: there is no detection to compare")
    if hits < least * total:
        raise AssertionError(f"{what}: only {hits} of the {total} best detections are the same")
    return hits / total
