"""Commands that are waited for: their exit code, their lines, and signals."""

import os
import signal
import subprocess
import sys
import time

import pytest
from places import REPOSITORY

from fgfi_tf import processes

CODE = "import os, sys; print('one'); print(os.environ['LAST'], file=sys.stderr); sys.exit({})"


def test_exit_codes_and_lines_of_several():
    with processes.Commands().listening() as commands:
        for name, code in (("a", 3), ("b", 0)):
            commands.start(name, [sys.executable, "-u", "-c", CODE.format(code)], {"LAST": f"two of {name}"})
        events = list(commands.events())
    assert [what for name, what in events if name == "a"] == ["one\n", "two of a\n", 3]
    assert [what for name, what in events if name == "b"] == ["one\n", "two of b\n", 0]


def test_handlers_are_put_back():
    before = signal.getsignal(signal.SIGINT)
    assert processes.run_and_wait([sys.executable, "-c", ""]) == 0
    assert signal.getsignal(signal.SIGINT) is before


def test_bytes_that_are_no_text(tmp_path):
    code = "import sys; sys.stdout.buffer.write(b'caf\\xe9\\nna\\xc3\\xafve\\n\\xff'); sys.exit(4)"
    with processes.Commands().listening() as commands:
        commands.start("a", [sys.executable, "-c", code])
        assert list(commands.events()) == [("a", "caf\\xe9\n"), ("a", "naïve\n"), ("a", "\\xff"), ("a", 4)]


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
        wait_for(tmp_path / "started")
        os.kill(process.pid, number)
        assert process.wait(30) == 128 + number
    assert (tmp_path / "saved").read_text() == "whole"


def wait_for(path):
    deadline = time.monotonic() + 30
    while not path.exists() and time.monotonic() < deadline:
        time.sleep(0.05)


def test_an_error_stops_what_runs_and_waits_for_it(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(OSError, match="full"), processes.Commands().listening() as commands:
        commands.start("a", [sys.executable, "-c", SLOW_SAVER])
        wait_for(tmp_path / "started")
        raise OSError("full")
    assert (tmp_path / "saved").read_text() == "whole"


def test_a_terminal_that_is_gone_stops_what_runs(tmp_path):
    """SIGHUP comes when nothing can be printed any more."""
    saver = SLOW_SAVER.replace("SIGINT", "SIGHUP")
    program = (
        "import sys; sys.path[:0] = sys.argv[1:]; from fgfi_tf import processes;"
        f"sys.exit(processes.run_and_wait([sys.executable, '-c', {saver!r}]))"
    )
    ours, theirs = os.openpty()
    command = [sys.executable, "-c", program, str(REPOSITORY)]
    with subprocess.Popen(command, cwd=tmp_path, stdout=theirs, start_new_session=True) as process:
        os.close(theirs)
        wait_for(tmp_path / "started")
        os.close(ours)  # the terminal's window is closed
        process.send_signal(signal.SIGHUP)
        process.wait(30)
    assert (tmp_path / "saved").read_text() == "whole"
