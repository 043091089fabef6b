"""The progress bar: one line, whatever the terminal's width and the number of losses."""

from __future__ import annotations

import os
import re
import shutil

import pytest

from fgfi_tf.training import progress


@pytest.mark.parametrize(
    ("columns", "shown"),
    [(80, ["loss"]), (110, ["loss", "class_loss"]), (300, ["loss", "class_loss", "box"])],
)
def test_bar_keeps_to_its_line(monkeypatch, capsys, columns, shown):
    monkeypatch.setattr(shutil, "get_terminal_size", lambda: os.terminal_size((columns, 24)))
    bar = progress.ProgressBar(17, 40000)
    bar.on_train_batch_end(0, {"loss": 31.12345, "class_loss": 1.2e-06, "box": 5.0})
    line = re.split("[\b\r]", capsys.readouterr().out)[-1]
    assert "18/40000" in line and len(line.rstrip("\n")) < columns
    assert re.findall(r"(\w+): [\d.e-]+", line.split("ETA")[1])[-len(shown) :] == shown


def test_duration():
    assert progress.duration(3661.9) == "1:01:01"
    assert progress.duration(-1) == "0:00:00"
