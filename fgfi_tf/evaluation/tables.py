"""The AP table as text for a terminal."""

from __future__ import annotations

from fgfi_tf.evaluation.kitti import DIFFICULTIES, Evaluation, Result

_NAME, _CELL = 12, 10


def ap_table(evaluation: Evaluation, title: str = "") -> str:
    """AP11 and AP40 (and orientation similarity where computed) in percent, one line a class.

    A class without any detection shows ``-``: the development kit writes no result for it.
    """
    measures = ["AP11", "AP40"]
    if any(result.similarity is not None for _, _, result in evaluation):
        measures += ["AOS11", "AOS40"]
    heading = f"KITTI 2D, {evaluation.protocol} protocol, {evaluation.n_frames} frames, percent"
    lines = [f"{title}: {heading}" if title else heading]
    block = _CELL * len(DIFFICULTIES)
    lines.append(" " * _NAME + "".join(f"{name:>{block}}" for name in measures))
    lines.append(" " * _NAME + "".join(f"{name:>{_CELL}}" for _ in measures for name in DIFFICULTIES))
    for class_name, by_difficulty in evaluation.results.items():
        cells = [_percent(result, name) for name in measures for result in by_difficulty.values()]
        lines.append(f"{class_name:<{_NAME}}" + "".join(f"{cell:>{_CELL}}" for cell in cells))
    means = [f"{100 * evaluation.mean_ap(positions):.2f}" for positions in (11, 40)]
    lines.append(f"{'mean of nine':<{_NAME}}" + "".join(f"{cell:>{block}}" for cell in means))
    return "\n".join(lines)


def _percent(result: Result, measure: str) -> str:
    value = getattr(result, measure.lower())
    return f"{100 * value:.2f}" if result.evaluated and value is not None else "-"
