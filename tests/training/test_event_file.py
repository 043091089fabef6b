"""TensorBoard's event files: what they hold, and that they cost no run."""

from __future__ import annotations

import os

import numpy as np
import pytest
import tensorflow as tf

from fgfi_tf.training.event_file import EventFile


def events(folder):
    """(step, tag, number) of every scalar."""
    found = []
    for path in sorted(folder.glob("events.out.tfevents.*")):
        for event in tf.compat.v1.train.summary_iterator(str(path)):
            found += [(event.step, value.tag, tf.make_ndarray(value.tensor)) for value in event.summary.value]
    return found


def test_scalars_and_pictures(tmp_path):
    file = EventFile(tmp_path / "train")
    assert not (tmp_path / "train").exists()  # a start that fails leaves nothing
    file.scalars(7, "train", {"loss": 1.5, "rate": 0.25})
    file.write(8, lambda: tf.summary.image("a", np.zeros([1, 2, 3, 3], np.uint8)))
    assert [(step, tag) for step, tag, _ in events(tmp_path / "train")] == [
        (7, "train/loss"), (7, "train/rate"), (8, "a"),
    ]  # fmt: skip
    assert events(tmp_path / "train")[0][2] == 1.5


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="there is no /dev/full")
def test_a_full_disk_is_told_once(tmp_path, caplog):
    file = EventFile(tmp_path)
    file.scalars(1, "train", {"loss": 1.0})
    (path,) = tmp_path.glob("events.out.tfevents.*")
    descriptor = next(
        int(name)
        for name in os.listdir("/proc/self/fd")
        if os.path.realpath(f"/proc/self/fd/{name}") == str(path)
    )
    full, kept = os.open("/dev/full", os.O_WRONLY), os.dup(descriptor)
    os.dup2(full, descriptor)
    try:
        for step in (2, 3):
            file.scalars(step, "train", {"loss": float(step)})
    finally:
        os.dup2(kept, descriptor)
        os.close(full)
        os.close(kept)
    assert caplog.text.count(f"TensorBoard's summaries in {tmp_path} are lost: ") == 1


def test_a_folder_that_cannot_be_made_is_told_once(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    file = EventFile(tmp_path / "file" / "train")
    for step in (1, 2):
        file.scalars(step, "train", {"loss": 1.0})
    assert caplog.text.count("summaries in") == 1
