"""Commands that are waited for: their exit code, their lines, and signals."""

import os
import signal
import subprocess
import sys
import time

import pytest
from places import REPOSITORY

from fgfi_tf import processes


def test_exit_code_and_lines():
    lines = []
    code = "import sys; print('one'); print('two', file=sys.stderr); sys.exit(3)"
    assert processes.run_and_wait([sys.executable, "-u", "-c", code], lines.append) == 3
    assert lines == ["one\n", "two\n"]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    assert processes.run_and_wait([sys.executable, "-c", ""]) == 0
    assert signal.getsignal(signal.SIGINT) is before


SLOW_SAVER = """
import signal, sys, time
def save(number, frame):
    time.sleep(0.7)
    open("saved", "w").write("whole")
    sys.exit(128 + number)
signal.signal(signal.SIGINT, save)
signal.signal(signal.SIGTERM, save)
open("started", "w").close()
time.sleep(30)
"""


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_waits_until_the_child_has_saved(tmp_path, number):
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]; from fgfi_tf import processes;"
        f"sys.exit(processes.run_and_wait([sys.executable, '-c', {SLOW_SAVER!r}]))"
    )
    places = [str(REPOSITORY)]
    with subprocess.Popen([sys.executable, "-c", program, *places], cwd=tmp_path) as process:
        deadline = time.monotonic() + 30
        while not (tmp_path / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        os.kill(process.pid, number)
        assert process.wait(30) == 128 + number
    assert (tmp_path / "saved").read_text() == "whole"
