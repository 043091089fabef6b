"""Command lines and flagfiles that are nonsense: one short line at once, whatever they hold."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from timing import within

from fgfi_tf.data.readers import kitti, voc
from fgfi_tf.errors import UserError
from fgfi_tf.training import flags


def message(*arguments: str) -> str:
    """The error of a command line, which comes at once and is one line."""
    with within(2), pytest.raises(UserError) as raised:
        flags.parse(["train.py", *arguments])
    text = str(raised.value)
    assert len(text) < 500 and "\n" not in text
    return text


@pytest.mark.parametrize(
    ("argument", "expected"),
    [
        ("--" + "x" * 1200, "unknown flag --" + "x" * 57 + "...; see --help"),
        ("--" + "imitation_" * 120 + "=1", "unknown flag --imitation_imitation_"),
        ("--" + "imitation_weight" * 12, "unknown flag --imitation_weight"),
        ("stray" * 1000, "unexpected argument 'straystray"),
        ("--nooverwrite=1", "--nooverwrite=1 does not take an argument"),
        ("--steps=" + "9" * 5000, "flag --steps=999"),
        ("--schedule=" + "x" * 100_000, "flag --schedule=xxx"),
        (
            "--output_dir=~nosuchuser/run",
            "--output_dir=~nosuchuser/run: no home folder is known for ~nosuchuser",
        ),
        (
            "--flagfile=~nosuchuser/a",
            "--flagfile=~nosuchuser/a: cannot read it: ~nosuchuser/a: no home folder",
        ),
        ("--flagfile=" + "x" * 5000, "cannot read it: File name too long"),
        ("-", "unexpected argument '-': flags look like --name=value"),
        ("---steps=1", "unexpected argument '---steps=1'"),
        ("---model=none", "unexpected argument '---model=none'"),
        ("---extensions=none", "unexpected argument '---extensions=none'"),
    ],
    ids=lambda text: text[:25],
)
def test_nonsense_is_one_short_line(argument, expected):
    assert expected in message(argument)


def test_flagfiles_that_are_none(tmp_path):
    file = tmp_path / "flags.cfg"
    file.write_text("--output_dir=a\0b\n")
    assert message(f"--flagfile={file}") == "a flag holds a NUL character"
    file.write_text("--flagfile=a\0b\n")
    assert "cannot read it: embedded null byte" in message(f"--flagfile={file}")
    file.write_text("--imitation_weigth_of_the_student=2\n" * 9000)
    assert message(f"--flagfile={file}").startswith("unknown flag --imitation_weigth_of_the_student; ")
    file.write_text("--steps=3\n" * 100_000)
    assert "amounts to more than 100 files or 10000 flags" in message(f"--flagfile={file}")
    file.write_bytes(b"\x89PNG\r\n\x1a\n\xff\xff")
    assert "cannot read it: 'utf-8' codec can't decode" in message(f"--flagfile={file}")


def test_flagfiles_that_name_each_other_without_end(tmp_path):
    # Each names the next twice: 2^30 lines.
    for i in range(30):
        (tmp_path / f"{i}.cfg").write_text(f"--flagfile={i + 1}.cfg\n" * 2)
    (tmp_path / "30.cfg").write_text("--steps=3\n")
    assert "amounts to more than" in message(f"--flagfile={tmp_path}/0.cfg")
    assert "amounts to more than" in message(f"--flagfile={tmp_path}/15.cfg")
    assert flags.parse(["train.py", f"--flagfile={tmp_path}/27.cfg"]).steps == 3


@settings(max_examples=100, deadline=1000)
@given(st.text(alphabet=st.characters(codec="utf-8"), max_size=300))
def test_any_text_as_a_flagfile_is_refused_in_a_line_or_parsed(tmp_path_factory, text):
    file = tmp_path_factory.mktemp("fuzz") / "flags.cfg"
    file.write_text(text, newline="")
    try:
        flags.parse(["train.py", f"--flagfile={file}"])
    except UserError as error:
        assert len(str(error)) < 600


def test_home_folders_are_found_in_flags(monkeypatch):
    monkeypatch.setenv("HOME", "/home/somebody")
    assert flags.parse(["train.py", "--output_dir=~/runs/a"]).output_dir == "/home/somebody/runs/a"
    assert flags.parse(["train.py", "--output_dir=a~b"]).output_dir == "a~b"


def test_a_home_folder_that_does_not_exist_is_a_line_in_the_library_too():
    for find in (kitti.check_data_dir, voc.find_devkit):
        with pytest.raises(UserError, match="~nosuchuser/data: no home folder is known for ~nosuchuser"):
            find("~nosuchuser/data")
