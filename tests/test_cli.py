"""What every script shares: one line and exit code 1 for a mistake, quiet start of TensorFlow."""

import subprocess
import sys

import pytest

from fgfi_tf import cli
from fgfi_tf.errors import UserError


def run(main):
    with pytest.raises(SystemExit) as ended:
        cli.run(main, ["scripts/train.py"])
    return ended.value.code


def test_exit_code_is_what_main_returns():
    assert run(lambda argv: None) == 0
    assert run(lambda argv: 3) == 3


def test_a_users_mistake_is_one_line(capsys):
    def main(argv):
        raise UserError("--steps=0:\n  must be at least 1")

    assert run(main) == 1
    assert capsys.readouterr().err == "train.py: error: --steps=0: must be at least 1\n"


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (NotADirectoryError(20, "Not a directory", "a.png/b"), "a.png/b: Not a directory"),
        (OSError(28, "No space left on device"), "No space left on device"),
    ],
)
def test_a_file_that_cannot_be_written_is_one_line(error, line, capsys):
    def main(argv):
        raise error

    assert run(main) == 1
    assert capsys.readouterr().err == f"train.py: error: {line}\n"


@pytest.mark.parametrize(
    "error", [OSError("of no file"), ValueError("a fault"), ConnectionRefusedError(111, "x")]
)
def test_a_fault_leaves_its_traceback(error):
    def main(argv):
        raise error

    with pytest.raises(type(error)):
        cli.run(main, ["scripts/train.py"])


def test_interruption_ends_with_130(capsys):
    def main(argv):
        raise KeyboardInterrupt

    assert run(main) == 130
    assert capsys.readouterr().err == "interrupted\n"


@pytest.mark.parametrize(
    "code",
    [
        "from fgfi_tf import cli; cli.start_tensorflow()",
        "import sys; sys.modules['tensorflow'] = None; from fgfi_tf import cli; cli.start_tensorflow()",
    ],
)
def test_starting_tensorflow_is_quiet_unless_it_fails(code):
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    if "None" in code:
        assert done.returncode == 1 and "tensorflow" in done.stderr.splitlines()[-1]
    else:
        assert done.returncode == 0 and done.stderr == ""


def test_warnings_are_plain_lines_printed_once():
    code = (
        "from fgfi_tf import cli; cli.start_tensorflow(); from absl import logging; import tensorflow as tf;"
        "logging.warning('ckpt-3 is damaged'); tf.get_logger().warning('slow');"
        "tf.get_logger().warning('`on_train_batch_end` is slow compared to the batch time')"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr == "WARNING: ckpt-3 is damaged\nWARNING: slow\n"
