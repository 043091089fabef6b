"""The progress bar, which is one line however many losses there are, and when losses are read."""

from __future__ import annotations

import fcntl
import os
import pty
import select
import struct
import sys
import termios
from pathlib import Path

import pytest
import tensorflow as tf

from fgfi_tf.errors import UserError
from fgfi_tf.training import callbacks, progress, run


@pytest.mark.parametrize("columns", [40, 80, 300])
def test_bar_keeps_to_its_line(monkeypatch, columns):
    leader, follower = pty.openpty()
    fcntl.ioctl(follower, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
    monkeypatch.setattr(progress, "BAR_SECONDS", 0.0)
    with open(follower, "w") as terminal:
        monkeypatch.setattr(sys, "stdout", terminal)
        bar = progress.ProgressBar(17, 40000)
        bar.on_train_batch_end(0, {"loss": 31.12345, "class_loss": 1.2e-06, "box": 5.0})
        shown = b""
        while select.select([leader], [], [], 0.3)[0]:
            shown += os.read(leader, 10000)
        bar.on_train_end()
    os.close(leader)
    line = shown.decode().split("\r")[-1]
    assert "18/40000" in line and len(line) < columns
    assert ("loss=31.1, class_loss=1.2e-6, box=5" in line) == (columns == 300)


def test_duration():
    assert progress.duration(3661.9) == "1:01:01"
    assert progress.duration(-1) == "0:00:00"


def test_bar_reads_losses_only_where_it_moves(monkeypatch, capsys):
    monkeypatch.setattr(progress, "BAR_SECONDS", 1000.0)
    bar, read = progress.ProgressBar(0, 5), []
    for batch in range(5):
        bar.on_train_batch_end(batch, Logs(float(batch), read))
    bar.on_train_end()
    assert read == [4.0]  # those of the last step
    assert capsys.readouterr().out.rstrip().endswith("loss=4]")


class Logs(dict):
    """Logs that note when they are read."""

    def __init__(self, value, read):
        super().__init__(loss=value)
        self._read = read

    def items(self):
        self._read.append(self["loss"])
        return super().items()


def watched(at_once=lambda previous, step: False):
    stop = callbacks.StopOnNonFinite(0, Path("/none"), at_once)
    return stop, []


def test_losses_are_read_a_step_later_and_at_the_end():
    stop, read = watched()
    for batch, value in enumerate((1.0, 2.0, 3.0)):
        stop.on_train_batch_end(batch, Logs(value, read))
        assert read == [1.0, 2.0][:batch]
    stop.on_train_end()
    assert read == [1.0, 2.0, 3.0]


def test_a_loss_that_is_not_finite_is_named_by_its_own_step():
    stop, read = watched()
    stop.on_train_batch_end(0, Logs(1.0, read))
    stop.on_train_batch_end(1, Logs(float("nan"), read))
    with pytest.raises(UserError, match="stopped at step 2: loss is nan"):
        stop.on_train_batch_end(2, Logs(1.0, read))
    stop, read = watched()
    stop.on_train_batch_end(0, Logs(float("inf"), read))
    with pytest.raises(UserError, match="stopped at step 1: loss is inf"):
        stop.on_train_end()  # before the last step is saved


def test_losses_are_read_at_once_where_something_is_written():
    stop, read = watched(lambda previous, step: step == 2)
    stop.on_train_batch_end(0, Logs(1.0, read))
    with pytest.raises(UserError, match="stopped at step 2: loss is nan"):
        stop.on_train_batch_end(1, Logs(float("nan"), read))


def test_what_a_run_writes_is_checked_before(experiment):
    written = progress.written_at(experiment(summary_every=50, checkpoint_every=70, picture_every=0), 20)
    steps = [step for step in range(21, 141) if written(step - 1, step)]
    assert steps == [21, 30, 50, 70, 100, 140]


def test_keras_hands_over_tensors(experiment, monkeypatch):
    seen = []
    monkeypatch.setattr(
        callbacks.StepCounter, "on_step", lambda self, previous, step, logs: seen.append(type(logs["loss"]))
    )
    run.train(experiment(steps=2, picture_every=2, evaluate_every=3))
    assert all(issubclass(kind, tf.Tensor) for kind in seen) and len(seen) == 2
