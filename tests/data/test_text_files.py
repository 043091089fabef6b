"""Numbers, lists of ids and text files as every reader takes them, and how several problems are told."""

import pytest

from fgfi_tf import cli
from fgfi_tf.data import text_files
from fgfi_tf.errors import Problems, UserError


@pytest.mark.parametrize(
    "text, value",
    [("12", 12), ("-1.5", -1.5), ("+.5e1", 5), ("5.", 5), ("1E-3", 0.001), ("-0", 0), ("000012", 12)],
)
def test_numbers(text, value):
    assert text_files.number(text) == value and text_files.numbers([text, "1"]) == [value, 1]


@pytest.mark.parametrize(
    "text",
    ["", "nan", "-inf", "Infinity", "1e999", "3_8", "\u0663\u0668", "\uff11", "1,5", "0x1f", "1e", "1 2"],
)
def test_what_is_no_number(text):
    assert text_files.number(text) is None and text_files.numbers(["1", text]) is None


def ids(path, content):
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    return text_files.read_ids(path)


@pytest.mark.parametrize(
    "content, expected",
    [
        ("a\nb\n", {"a": 1, "b": 2}),
        ("\ufeffa\r\n\r\n  b  \r\n", {"a": 1, "b": 3}),
        ("000001  1\n000002 -1\n000003  0\n", {"000001": 1, "000002": 2, "000003": 3}),
        ("my photo\nimg 1\n", {"my photo": 1, "img 1": 2}),
        ("v1.2\n.hidden\n2008_000001", {"v1.2": 1, ".hidden": 2, "2008_000001": 3}),
        ("\u4e2d\u6587\u3000x\n", {"\u4e2d\u6587\u3000x": 1}),
    ],
)
def test_lists(tmp_path, content, expected):
    assert ids(tmp_path / "val.txt", content) == expected


@pytest.mark.parametrize(
    "content, message",
    [
        ("", "val.txt: the list is empty; it must hold one id a line"),
        ("\ufeff\n \n", "val.txt: the list is empty"),
        ("a\n\na\n", "val.txt line 3: 'a' is named twice, first in line 1"),
        ("a.jpg\n", "val.txt line 1: 'a.jpg' is no id: ids have no folder and no file extension; write 'a'"),
        ("a\nb.PNG\n", "val.txt line 2: 'b.PNG' is no id"),
        (
            "b.xml 1\n",
            "val.txt line 1: 'b.xml' is no id: ids have no folder and no file extension; write 'b'",
        ),
        ("/data/JPEGImages/0001.jpg\n", "is no id: ids have no folder and no file extension; write '0001'"),
        ("images\\0001.png\n", "is no id: ids have no folder and no file extension; write '0001'"),
        ("../x\n", "val.txt line 1: '../x' is no id: ids have no folder and no file extension; write 'x'"),
        ("x/..\n", "val.txt line 1: 'x/..' is no id: ids have no folder and no file extension"),
        ("a\nb\0c\n", r"val.txt line 2: 'b\x00c' holds characters that no id has"),
        ("a\tb\n", r"val.txt line 1: 'a\tb' holds characters that no id has"),
        ("x" * 251, "... is longer than a file's name can be"),
        ("\u4e2d" * 84, "... is longer than a file's name can be"),
        (b"\xff\xfea\0\n\0", "val.txt: cannot be read: it is not UTF-8 text; save it as UTF-8"),
    ],
)
def test_wrong_lists(tmp_path, content, message):
    with pytest.raises(UserError) as error:
        ids(tmp_path / "val.txt", content)
    assert message in str(error.value) and "\n" not in str(error.value)


def test_ids_of_nested_folders(tmp_path):
    path = tmp_path / "val.txt"
    path.write_text("cam1/a 1\ncam1/day 2/b 1\nc 1\n")
    assert text_files.read_ids(path, nested=True) == {"cam1/a": 1, "cam1/day 2/b": 2, "c": 3}
    with pytest.raises(UserError, match="line 1: 'cam1/a' is no id: ids have no folder .*; write 'a'"):
        text_files.read_ids(path)
    for line, hint in (
        ("cam1/a.jpg", "; write 'cam1/a'"),
        ("/cam1/a", "; write 'a'"),
        ("cam1\\a", "; write 'a'"),
        ("../a", "; write 'a'"),
        ("cam1//a", "; write 'a'"),
        ("a/..", ""),
    ):
        path.write_text(f"{line}\n")
        with pytest.raises(UserError) as error:
            text_files.read_ids(path, nested=True)
        assert str(error.value).endswith(
            f"is no id: ids are paths inside a folder, with no file extension{hint}"
        )
    path.write_text("x" * 200 + "/" + "y" * 200)
    assert len(text_files.read_ids(path, nested=True)) == 1


def test_ids_below_a_folder(tmp_path):
    for name in ("b.txt", "cam1/a.txt", "cam1/v1.2.txt", ".git/x.txt", "cam1/.x.txt", "c.xml"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("")
    assert text_files.ids_below(tmp_path, ".txt") == ("b", "cam1/a", "cam1/v1.2")


def test_lists_that_cannot_be_read(tmp_path):
    for path, reason in (("gone.txt", "No such file"), (".", "Is a directory"), ("a\0b", "null byte")):
        with pytest.raises(UserError, match=f"cannot be read: .*{reason}"):
            text_files.read_ids(tmp_path / path)


def test_problems_are_collected_up_to_twenty(capsys):
    problems = Problems()
    problems.raise_any()
    with problems.collect():
        raise UserError("a.txt: wrong")
    with pytest.raises(UserError, match=r"^a.txt: wrong$"):
        problems.raise_any()
    for i in range(18):
        problems.add(f"{i}.txt: wrong")
    with pytest.raises(UserError, match="^19 problems:\na.txt: wrong\n0.txt: wrong\n"):
        problems.raise_any()
    with pytest.raises(UserError, match="^20 problems, there may be more:\na.txt") as error:
        with problems.collect():
            raise UserError("last.txt: wrong")
    with pytest.raises(ZeroDivisionError), problems.collect():
        raise ZeroDivisionError

    def fail(argv):
        raise error.value

    with pytest.raises(SystemExit) as end:
        cli.run(fail, ["scripts/x.py"])
    lines = capsys.readouterr().err.splitlines()
    assert end.value.code == 1 and len(lines) == 21
    assert lines[0] == "x.py: error: 20 problems, there may be more:" and lines[20] == "  last.txt: wrong"
