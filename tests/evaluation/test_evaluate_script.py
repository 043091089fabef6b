"""``scripts/evaluate.py`` on text files, as a user starts it."""

import json
import subprocess
import sys

import pytest
from places import REPOSITORY

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command
from fgfi_tf.training import evaluate_command

RESULT = "{} -1 -1 -10 {} 20 {} 120 -1 -1 -1 -1000 -1000 -1000 -10 {}\n"
LABEL = "{} 0.00 0 -10 {} 20 {} 120 -1 -1 -1 -1000 -1000 -1000 -10\n"


@pytest.fixture
def folders(tmp_path):
    """One car found, one missed, and a false one with a lower score; AP11 1/11."""
    for name, files in {
        "labels": {"000001": LABEL.format("Car", 0, 100) + LABEL.format("Car", 300, 400), "000002": ""},
        "results": {"000001": RESULT.format("car", 0, 100, 0.9), "000002": RESULT.format("car", 0, 100, 0.5)},
    }.items():
        (tmp_path / name).mkdir()
        for frame, text in files.items():
            (tmp_path / name / f"{frame}.txt").write_text(text)
    (tmp_path / "val.txt").write_text("000001\n000002\n")
    return tmp_path


def config(folders, **options):
    given = {"labels": str(folders / "labels"), "detections": str(folders / "results")} | options
    return command.FilesConfig(**given)


def run_script(*flags):
    return subprocess.run(
        [sys.executable, str(REPOSITORY / "scripts" / "evaluate.py"), *flags], capture_output=True, text=True
    )


def test_the_script(folders):
    results = folders / "out" / "ap.json"
    flags = [f"--detections={folders}/results", f"--labels={folders}/labels", f"--split={folders}/val.txt"]
    done = run_script(*flags, "--protocol=reference", f"--output_json={results}")
    assert done.returncode == 0, done.stderr
    assert "reference protocol, 2 frames" in done.stdout and "9.09" in done.stdout
    values = json.loads(results.read_text())
    assert list(values) == ["Car", "Pedestrian", "Cyclist"]
    assert values["Car"]["easy"]["AP11"] == pytest.approx(1 / 11)
    assert values["Car"]["easy"]["AP40"] == 0.0 and len(values["Car"]["easy"]["precision41"]) == 41
    assert values["Car"]["hard"]["n_gt"] == 2 and not values["Cyclist"]["easy"]["evaluated"]


def test_a_mistake_is_one_line_and_exit_code_1(folders):
    (folders / "results" / "000002.txt").unlink()
    done = run_script(f"--detections={folders}/results", f"--labels={folders}/labels")
    assert done.returncode == 1 and done.stdout == ""
    assert (
        done.stderr.strip()
        .splitlines()[-1]
        .startswith(f"evaluate.py: error: {folders}/results/000002.txt: no such file")
    )
    assert "Traceback" not in done.stderr


def test_files_alone_do_not_load_tensorflow(folders):
    code = (
        "import sys; sys.path.insert(0, 'scripts'); import evaluate; "
        f"evaluate.main(['evaluate.py', '--detections={folders}/results', '--labels={folders}/labels']); "
        "assert 'tensorflow' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=REPOSITORY)
    assert done.returncode == 0, done.stderr


def test_the_table(folders, capsys):
    command.evaluate_files(config(folders))
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "KITTI 2D, official protocol, 2 frames, percent"
    assert lines[3].split() == ["Car", "9.09", "9.09", "9.09", "0.00", "0.00", "0.00"]
    assert lines[4].split() == ["Pedestrian", *["-"] * 6]
    assert lines[6].split() == ["mean", "of", "nine", "3.03", "0.00"]


def test_orientation_columns_where_angles_are_given(folders, capsys):
    for folder in ("labels", "results"):
        for path in (folders / folder).iterdir():
            path.write_text(path.read_text().replace(" -10 ", " 0.5 ", 1))
    command.evaluate_files(config(folders))
    assert "AOS11" in capsys.readouterr().out


def test_missing_files_only_with_the_flag(folders, capsys):
    (folders / "results" / "000002.txt").unlink()
    with pytest.raises(UserError, match="000002.txt: no such file"):
        command.evaluate_files(config(folders))
    command.evaluate_files(config(folders, allow_missing=True))
    assert "9.09" in capsys.readouterr().out


def test_compare_and_report(folders, capsys):
    both = f"1x={folders}/results,mine={folders}/results"
    output = folders / "both.json"
    command.evaluate_files(
        config(folders, detections="", compare=both, output_json=str(output), report_dir=str(folders / "r"))
    )
    assert "1x: KITTI 2D" in capsys.readouterr().out
    assert set(json.loads(output.read_text())) == {"1x", "mine"}
    html = (folders / "r" / "index.html").read_text()
    assert "published 1x" in html and "gain of mine over 1x" in html


@pytest.mark.parametrize(
    "options, message",
    [
        ({"labels": ""}, "--labels is missing"),
        ({"compare": "a=b"}, "give --detections or --compare, not both"),
        ({"detections": "", "compare": "a"}, "'a' is not name=DIR"),
        ({"detections": "", "compare": "a=x,a=y"}, "'a=y' is not name=DIR with a name of its own"),
        ({"published": "2x"}, "--published=2x is not one of 1x, 0.5x"),
        ({"output_json": "/dev/null/x.json"}, "/dev/null/x.json: cannot be written"),
        (
            {"metric": "voc", "min_overlap": "car=0.7"},
            "--min_overlap: the IoU of a match is fixed by the rules",
        ),
    ],
)
def test_wrong_flags(folders, options, message):
    with pytest.raises(UserError, match=message):
        command.evaluate_files(config(folders, **options))


@pytest.mark.parametrize("flag", ["labels", "split"])
def test_an_input_is_not_written_over(folders, flag):
    (folders / "input").write_text("000001\n")
    given = {flag: str(folders / "input"), "output_json": f"{folders}/results/../input", "overwrite": True}
    with pytest.raises(UserError, match=f"input is the file of --{flag}: name another one"):
        command.evaluate_files(config(folders, **given))


@pytest.mark.parametrize("part", ["report.json", "figures/precision_recall.png"])
def test_a_report_folder_with_files_of_others(folders, part):
    path = folders / "paper" / part
    path.parent.mkdir(parents=True)
    path.write_text("{}")
    with pytest.raises(UserError, match="paper: (report.json|figures) is there and is of no report"):
        command.evaluate_files(config(folders, report_dir=str(folders / "paper")))


@pytest.mark.parametrize(
    "flags, message",
    [
        ({"split": "list.txt"}, "--split and --allow_missing are of result files; of a model, --val_split"),
        ({"allow_missing": True}, "--split and --allow_missing are of result files"),
        ({"watch": True, "report_dir": "report"}, "--watch notes results in the run folder; --output_json"),
        ({"watch": True, "results_dir": "found"}, "--watch notes results in the run folder"),
    ],
)
def test_flags_that_a_model_does_not_take(flags, message):
    with pytest.raises(UserError, match=message):
        evaluate_command.evaluate(evaluate_command.EvaluateConfig(checkpoint="run", data_dir="data", **flags))


@pytest.mark.parametrize("flag", ["baseline", "teacher"])
def test_a_model_alone_is_compared_with_nobody(monkeypatch, flag):
    monkeypatch.setattr(evaluate_command.Model, "find", lambda *_: None)  # told before anything is read
    wrong = evaluate_command.EvaluateConfig(checkpoint="run", data_dir="data", **{flag: "foo"})
    with pytest.raises(UserError, match=f"--{flag}=foo is none of the compared models: model"):
        evaluate_command.evaluate(wrong)
