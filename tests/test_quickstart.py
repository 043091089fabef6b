"""The quickstart's steps: what is done again and what is not, and what a signal leaves behind."""

import importlib
import json
import subprocess

import pytest

from fgfi_tf.errors import UserError

# Not an import: sorted ones would stand elsewhere as soon as `make quickstart` has made its folder.
quickstart = importlib.import_module("quickstart")

# Stands for every script: makes what it is told to make, and notes that it ran.
SCRIPT = """
import sys
from pathlib import Path
flags = dict(flag[2:].split("=", 1) for flag in sys.argv[1:] if "=" in flag)
name = Path(sys.argv[0]).stem
made = Path(flags.get("report_dir") or flags.get("results_dir") or flags["output_dir"])
made.mkdir(parents=True, exist_ok=name == "train")
with open("ran.txt", "a") as ran:
    print(made.name, file=ran)
if name == "make_toy_kitti":
    (made / "training" / "image_2").mkdir(parents=True)
    (made / "ImageSets").mkdir()
    (made / "ImageSets" / "val.txt").write_text("000000")
    (made / "training" / "image_2" / "000000.png").write_bytes(b"")
if flags.get("seed") == "13" and name == "train":
    sys.exit(1)
"""
ALL = ["toy_kitti", "teacher", "student", "student_imitating"]
ALL += ["teacher", "student", "student_imitating", "exported", "pictures", "report"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    """A repository whose scripts take no time; the current folder is another one."""
    (tmp_path / "repository" / "scripts").mkdir(parents=True)
    (tmp_path / "repository" / "configs" / "quickstart").mkdir(parents=True)
    for step in quickstart.steps(quickstart.QuickstartConfig()):
        (tmp_path / "repository" / "scripts" / step.script).write_text(SCRIPT)
    for name in ("teacher", "student"):
        (tmp_path / "repository" / "configs" / "quickstart" / f"{name}.cfg").write_text("--steps=3\n")
    (tmp_path / "work").mkdir()
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setattr(quickstart, "REPOSITORY", tmp_path / "repository")
    return tmp_path


def run(*flags):
    """Which steps ran, by what they made."""
    ran = quickstart.Path("ran.txt")
    ran.unlink(missing_ok=True)
    assert quickstart.main(["quickstart.py", *flags]) == 0
    return ran.read_text().split()


def test_nothing_is_done_twice_but_the_comparison(world, capsys):
    assert run() == ALL
    assert run() == ["report"]
    assert capsys.readouterr().out.count("done before") == 9


def test_changed_flags_redo_what_they_change(world, capsys):
    run()
    students = ["student", "student_imitating"]
    assert run("--student_steps=5") == [*students, *students, "exported", "pictures", "report"]
    assert "made anew: its flags, or what it builds on, changed" in capsys.readouterr().out
    assert run("--student_steps=5", "--images=8") == ALL
    (world / "repository" / "configs" / "quickstart" / "teacher.cfg").write_text("--steps=4\n")
    assert run("--student_steps=5", "--images=8") == ALL[1:]


def test_what_was_deleted_is_made_again(world):
    run()
    quickstart.shutil.rmtree("quickstart/exported")
    assert run() == ["exported", "report"]


def test_an_unfinished_training_goes_on_and_is_not_removed(world):
    with pytest.raises(UserError, match=r"the step failed \(train the teacher\)"):
        quickstart.main(["quickstart.py", "--seed=13"])
    quickstart.Path("quickstart/teacher/checkpoint").write_text("kept")
    with pytest.raises(UserError, match="failed"):
        quickstart.main(["quickstart.py", "--seed=13"])
    assert quickstart.Path("quickstart/teacher/checkpoint").read_text() == "kept"


@pytest.mark.parametrize("name", ["toy_kitti", "student"])
def test_a_folder_that_it_did_not_make_is_left_alone(world, name):
    mine = quickstart.Path("quickstart") / name / "mine.txt"
    mine.parent.mkdir(parents=True)
    mine.write_text("mine")
    for flags in ([], ["--seed=2"]):  # the second start knows the steps before it
        with pytest.raises(UserError, match=f"{name} is there already and this quickstart did not make it"):
            quickstart.main(["quickstart.py", *flags])
    assert mine.read_text() == "mine" and len(list(mine.parent.iterdir())) == 1


def test_an_empty_folder_is_nobodys(world):
    quickstart.Path("quickstart/teacher").mkdir(parents=True)
    assert run() == ALL


@pytest.mark.parametrize("text", ["", "[]", "{", '{"scenes": {}}', '{"scenes": 1}'])
def test_a_damaged_record_is_named(world, text):
    run()
    quickstart.Path("quickstart/steps.json").write_text(text)
    with pytest.raises(
        UserError, match=r"steps\.json is damaged \(.+\); delete it and the folders beside it"
    ):
        quickstart.main(["quickstart.py"])


def test_an_output_folder_whose_name_the_comparison_would_cut_is_refused_at_once(world):
    with pytest.raises(UserError, match="--output_dir=a,b: the comparison separates folders by commas"):
        quickstart.main(["quickstart.py", "--output_dir=a,b"])
    assert not quickstart.Path("a,b").exists()


def test_printed_commands_can_be_copied(world, capsys):
    run()
    printed = [line.strip() for line in capsys.readouterr().out.splitlines() if "scripts/" in line]
    assert len(printed) == 10
    quickstart.shutil.rmtree("quickstart/exported")
    (export,) = [line for line in printed if "export.py" in line]
    assert subprocess.run(export, shell=True, check=False).returncode == 0
    assert quickstart.Path("quickstart/exported").is_dir()


def test_the_record_is_readable(world):
    run()
    record = json.loads(quickstart.Path("quickstart/steps.json").read_text())
    assert all(step["done"] for step in record.values()) and len(record) == 10
