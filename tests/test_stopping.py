"""Signals and a closed standard output: what only asks, what ends a command, and with which exit code."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from fgfi_tf import cli, stopping

CODES = [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)]


def send(name: str) -> None:
    os.kill(os.getpid(), getattr(signal, name))


@pytest.fixture(autouse=True)
def _same_handlers_afterwards():
    before = [signal.getsignal(number) for number in stopping.SIGNALS]
    yield
    assert [signal.getsignal(number) for number in stopping.SIGNALS] == before


@pytest.mark.parametrize(("name", "code"), CODES)
def test_a_signal_ends_a_command_with_its_exit_code(name, code, capsys):
    def main(argv):
        send(name)
        pytest.fail("the signal was lost")

    with pytest.raises(SystemExit) as ended:
        cli.run(main, ["predict.py"])
    assert ended.value.code == code
    assert capsys.readouterr().err == ("interrupted\n" if name == "SIGINT" else f"ended by {name}\n")


@pytest.mark.parametrize(("name", "code"), CODES)
def test_a_signal_only_asks_work_that_saves(name, code):
    with stopping.asking() as request:
        assert request.name == ""
        send(name)
        send("SIGTERM")
        assert request.name == name
    assert stopping.exit_code(request.name) == code


@pytest.mark.parametrize("first", ["SIGINT", "SIGTERM"])
def test_a_second_interruption_does_not_wait(first):
    with pytest.raises(KeyboardInterrupt), stopping.asking():
        send(first)
        send("SIGINT")


def test_nohup_is_respected():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with stopping.ending(), stopping.asking() as request:
            send("SIGHUP")
            assert request.name == ""
    finally:
        signal.signal(signal.SIGHUP, before)


def test_output_that_closes_asks_once_and_is_lost(monkeypatch):
    reading, writing = os.pipe()
    os.close(reading)
    with os.fdopen(writing, "w") as output:
        monkeypatch.setattr(sys, "stdout", output)
        with stopping.asking() as request:
            print("lost", flush=True)
            assert request.name == "SIGPIPE"
            print("lost as well", flush=True)
            assert not sys.stdout.isatty()
        assert sys.stdout is output
    assert stopping.exit_code("SIGPIPE") == 141


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="there is no /dev/full")
def test_a_full_disk_under_the_log_asks_for_nothing(monkeypatch):
    output = open("/dev/full", "w")
    monkeypatch.setattr(sys, "stdout", output)
    with stopping.asking() as request:
        print("lost", flush=True)
        assert request.name == ""
    stopping.discard_output(output)
    output.close()


@pytest.mark.parametrize("lost", [False, True])
def test_a_signal_whose_exception_an_import_changed_or_lost(lost, capsys):
    def main(argv):
        try:
            send("SIGTERM")
        except KeyboardInterrupt:
            if not lost:
                raise AttributeError("datetime") from None
        with stopping.asking() as request:  # the training that comes after
            assert request.name == "SIGTERM"
            return stopping.exit_code(request.name)

    with pytest.raises(SystemExit) as ended:
        cli.run(main, ["train.py"])
    assert ended.value.code == 143
    assert capsys.readouterr().err == ("" if lost else "ended by SIGTERM\n")


def run(code: str, **options) -> tuple[int, str]:
    process = subprocess.Popen([sys.executable, "-c", code], stderr=subprocess.PIPE, text=True, **options)
    _, errors = process.communicate(timeout=120)
    return process.returncode, errors


def test_a_third_interruption_kills_where_the_second_was_lost():
    program = """
import contextlib, os, signal, sys
from fgfi_tf import stopping
with stopping.asking() as request:
    os.kill(os.getpid(), signal.SIGINT)
    with contextlib.suppress(KeyboardInterrupt):
        os.kill(os.getpid(), signal.SIGINT)
    print(request.name, file=sys.stderr, flush=True)
    os.kill(os.getpid(), signal.SIGINT)
    print("goes on", file=sys.stderr)
"""
    assert run(program) == (-signal.SIGINT, "SIGINT\n")


@pytest.mark.parametrize("count", [1, 100_000])
def test_output_closed_by_its_reader_ends_without_a_traceback(count):
    reading, writing = os.pipe()
    os.close(reading)
    code = f"from fgfi_tf import cli; cli.run(lambda argv: print('a line\\n' * {count}), ['evaluate.py'])"
    assert run(code, stdout=writing) == (141, "")
    os.close(writing)


@pytest.mark.parametrize("closed", [">&-", ">&- 2>&-", "<&- >&- 2>&-"])
def test_output_that_was_never_open_is_nothing(tmp_path, closed):
    (tmp_path / "program.py").write_text("""
import os, sys
from fgfi_tf import cli, stopping
def main(argv):
    with stopping.asking() as request, open(argv[1], "w") as file:
        print("nobody reads it", flush=True)
        os.write(1, b"nor this")
        return 7 if request.name == "" and not sys.stdout.isatty() and file.fileno() > 2 else 1
cli.run(main)
""")
    command = f"{sys.executable} {tmp_path}/program.py {tmp_path}/file {closed}"
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    assert subprocess.run(command, shell=True, env=environment, timeout=120).returncode == 7
    assert (tmp_path / "file").read_text() == ""


@pytest.mark.parametrize(("name", "code"), CODES)
def test_a_signal_while_tensorflow_starts(name, code):
    # Its import takes seconds: the signal falls into it.
    program = f"""
import os, signal, sys, threading
os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
from fgfi_tf import cli
def main(argv):
    threading.Timer(0.3, os.kill, (os.getpid(), signal.{name})).start()
    cli.start_tensorflow()
    print("started", file=sys.stderr)
cli.run(main, ["train.py"])
"""
    found, errors = run(program)
    assert found == code
    assert errors.splitlines()[-1] == ("interrupted" if name == "SIGINT" else f"ended by {name}")
    assert "Traceback" not in errors and "started" not in errors
