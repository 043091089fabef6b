"""No command writes over a file that was there, unless told; never over its inputs."""

import os

import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.outputs import OutputFolder


def test_files_grow_and_folders_are_made(tmp_path):
    output = OutputFolder(tmp_path / "new", "output_dir")
    output.check(["a.txt", "deep/er/b.txt"])
    output.append("a.txt", b"one ")
    output.append_all({"a.txt": "two", "deep/er/b.txt": "ä"})
    assert (tmp_path / "new/a.txt").read_text() == "one two"
    assert (tmp_path / "new/deep/er/b.txt").read_bytes() == "ä".encode()


def test_what_is_there_stays(tmp_path):
    for name in "abc":
        (tmp_path / f"{name}.txt").write_text("mine")
    output = OutputFolder(tmp_path, "results_dir")
    output.check(["d.txt"])
    with pytest.raises(UserError) as error:
        output.check(["d.txt", "b.txt", "a.txt"])
    assert str(error.value) == (
        f"--results_dir={tmp_path}: b.txt and 1 more files are there already; name another folder, or "
        "--overwrite writes over what is there"
    )
    with pytest.raises(UserError, match="c.txt is there already; name another folder"):
        output.check(["c.txt"])
    with pytest.raises(UserError, match="a.txt: cannot be written: File exists"):
        output.append("a.txt", b"theirs")  # appeared after the check
    assert (tmp_path / "a.txt").read_text() == "mine"


def test_a_folder_that_cannot_be_made_is_told_before_the_work(tmp_path):
    (tmp_path / "a.png").write_text("")
    (tmp_path / "gone").symlink_to(tmp_path / "nowhere")
    with pytest.raises(UserError, match="--output_dir=.*out/deep: .*a.png is a file, not a folder"):
        OutputFolder(tmp_path / "a.png/out/deep", "output_dir").check([])
    with pytest.raises(UserError, match="--output_dir=.*gone is a link to what is not there"):
        OutputFolder(tmp_path / "gone", "output_dir").check([])


def test_a_link_to_nowhere_is_there(tmp_path):
    (tmp_path / "a.txt").symlink_to(tmp_path / "elsewhere.txt")
    with pytest.raises(UserError, match="a.txt is there already"):
        OutputFolder(tmp_path, "output_dir").check(["a.txt"])


def test_told_it_replaces_the_file_and_not_what_is_linked_to_it(tmp_path):
    original = tmp_path / "original.txt"
    original.write_text("mine")
    folder = tmp_path / "out"
    folder.mkdir()
    (folder / "soft.txt").symlink_to(original)
    os.link(original, folder / "hard.txt")
    (folder / "plain.txt").write_text("long before")
    output = OutputFolder(folder, "output_dir", overwrite=True)
    names = ["soft.txt", "hard.txt", "plain.txt"]
    output.check(names)
    output.append_all(dict.fromkeys(names, "new"))
    assert [(folder / name).read_text() for name in names] == ["new"] * 3
    assert original.read_text() == "mine"


@pytest.mark.parametrize("overwrite", [False, True])
@pytest.mark.parametrize("link", [None, os.symlink, os.link])
def test_an_input_is_never_replaced(tmp_path, overwrite, link):
    source = tmp_path / "in" / "a.png"
    source.parent.mkdir()
    source.write_bytes(b"picture")
    folder = source.parent if link is None else tmp_path / "out"
    folder.mkdir(exist_ok=True)
    if link is not None:
        link(source, folder / "a.png")
    output = OutputFolder(folder, "output_dir", overwrite)
    with pytest.raises(UserError, match="a.png is an input and would be overwritten; name another folder"):
        output.check(["b.png", "a.png"], inputs=[tmp_path / "absent.png", source])
    assert source.read_bytes() == b"picture"


def test_folders_that_cannot_be(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="--output_dir=.*file is a file, not a folder"):
        OutputFolder(tmp_path / "file", "output_dir").check([])
    with pytest.raises(UserError, match="a.txt: cannot be written: Not a directory"):
        OutputFolder(tmp_path / "file" / "sub", "output_dir").append("a.txt", b"")
    (tmp_path / "taken.txt").mkdir()
    for overwrite in (False, True):
        with pytest.raises(UserError, match="taken.txt: cannot be written: "):
            OutputFolder(tmp_path, "output_dir", overwrite).append("taken.txt", b"")
    for name in ("x" * 300, "a\0b"):
        with pytest.raises(UserError, match="cannot be written: "):
            OutputFolder(tmp_path, "output_dir").append(name, b"")


def test_a_folder_of_somebody_else(tmp_path, monkeypatch):
    """Told before the work is done; of a folder that is to be made, that which it is to be made in counts."""
    closed = tmp_path / "closed"
    closed.mkdir()
    monkeypatch.setattr(os, "access", lambda path, mode: path != closed)
    for folder in (closed, closed / "new" / "newer"):
        with pytest.raises(UserError, match=f"--output_dir={folder}: {closed} cannot be written to by this"):
            OutputFolder(folder, "output_dir", overwrite=True).check(["a.txt"])
    OutputFolder(tmp_path / "new", "output_dir").check(["a.txt"])
