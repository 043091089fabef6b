"""The comparison of an export with its source, and its table; worked out by hand."""

from __future__ import annotations

import numpy as np

from fgfi_tf.deploy import check, runtimes
from fgfi_tf.deploy.check import Difference, Row


def found(*rows):
    """Rows of (x1, y1, x2, y2, score, class)."""
    table = np.array(rows, np.float64).reshape(-1, 6)
    return {"boxes": table[:, :4], "scores": table[:, 4], "classes": table[:, 5].astype(int)}


def test_differences_by_hand():
    source = [
        found(
            (0, 0, 10, 10, 0.9, 0), (20, 20, 30, 30, 0.5, 1), (5, 5, 9, 9, 0.05, 0)
        ),  # the last does not count
        found((0, 0, 8, 8, 0.4, 2)),
        found(),
    ]
    other = [
        found((0, 0, 12, 10, 0.8, 0), (20, 20, 30, 30, 0.6, 0)),  # the second is of another class
        found((0, 0, 8, 8.5, 0.45, 2), (0, 0, 8, 8, 0.1, 2)),  # the exact one, though its score is lower
        found((1, 1, 2, 2, 0.9, 0)),
    ]
    difference = check.compare(source, other)
    assert (difference.images, difference.detections, difference.matched) == (3, 3, 2)
    assert difference.box == 2.0 and difference.box_mean == 1.0
    np.testing.assert_allclose(difference.score, 0.3)


def test_each_is_found_once():
    source = [found((0, 0, 10, 10, 0.9, 0), (0, 0, 10, 10, 0.8, 0))]
    assert check.compare(source, [found((0, 0, 10, 10, 0.9, 0))]).matched == 1


def test_overlap_of_a_half_is_the_same():
    source = [found((0, 0, 10, 10, 0.9, 0))]
    assert check.compare(source, [found((0, 0, 10, 5, 0.9, 0))]).matched == 1
    assert check.compare(source, [found((0, 0, 10, 4.9, 0.9, 0))]).matched == 0


def test_table():
    rows = [
        Row("source", 0, 1_500_000_000, metrics={"mAP": 0.5}),
        Row(
            "model.tflite",
            2_500_000,
            1_600_000_000,
            Difference(20, 30, 29, 1.25, 0.1, 0.031),
            {"mAP": 0.4875},
            {"1": 20.5, "2": 12.25},
        ),
    ]
    heading, source, file = check.table(rows).splitlines()
    titles = "MB  G mult-adds  found again  box, px   score    mAP  change  ms, 1 thread  ms, 2 threads"
    assert heading == " " * 16 + titles
    assert source == f"source{1.5:25.3f}{50:37.2f}"
    values = "2.50        1.600     29 of 30     1.25  0.0310  48.75   -1.25         20.50          12.25"
    assert file == "model.tflite  " + values
    written = check.as_json(rows, "val")
    assert written["pictures"] == "val"
    assert written["rows"][0]["difference"] is None
    assert written["rows"][1]["difference"]["matched"] == 29
    assert written["rows"][1]["latency_ms"] == {"1": 20.5, "2": 12.25}


def test_table_leaves_out_what_is_not_known():
    assert (
        check.table([Row("source"), Row("SavedModel", 1_000_000)])
        == "              MB\nsource\nSavedModel  1.00"
    )


def test_latency_is_the_median(monkeypatch):
    clock = iter([0.0, 0.010, 1.0, 1.002, 2.0, 2.004])
    monkeypatch.setattr(runtimes.time, "perf_counter", lambda: next(clock))
    calls = []
    np.testing.assert_allclose(runtimes.latencies_ms([lambda: calls.append(1)], 3), [4.0])
    assert len(calls) == 5  # the first two do not count


def test_latency_of_what_is_slow_stops_early(monkeypatch):
    clock = iter(range(100))
    monkeypatch.setattr(runtimes.time, "perf_counter", lambda: next(clock))
    calls = []
    assert runtimes.latencies_ms([lambda: calls.append(1)], 50, most_seconds=3.0) == [1000.0]
    assert len(calls) == 5


def test_latencies_are_taken_in_turn(monkeypatch):
    clock = iter([0.0, 0.010, 1.0, 1.002, 2.0, 2.004, 3.0, 3.008, 4.0, 4.012, 5.0, 5.001])
    monkeypatch.setattr(runtimes.time, "perf_counter", lambda: next(clock))
    calls = []
    found = runtimes.latencies_ms([lambda: calls.append("a"), lambda: calls.append("b")], 3)
    np.testing.assert_allclose(found, [10.0, 2.0])  # of 10, 4, 12 and of 2, 8, 1
    assert "".join(calls) == "aabb" + "ab" * 3
