"""The study script with a training that takes no time: resume, growing plans, failures, tables."""

import json
import re
import shutil
import signal
import subprocess
import sys
import threading
import time

import pytest
import study
from places import REPOSITORY

from fgfi_tf.errors import UserError
from fgfi_tf.paths import folder_locked, replace_text
from fgfi_tf.studies import results, runner
from fgfi_tf.studies import tables as study_tables
from fgfi_tf.studies.plan import read_plan

pytest.importorskip("scipy", reason="scipy computes the statistics of studies")

# Its AP depends on its flags alone, so that every number below can be worked out.
TRAIN = """
import json, sys
from pathlib import Path
flags = dict(flag[2:].split("=", 1) for flag in sys.argv[1:] if "=" in flag)
folder, seed, steps = Path(flags["output_dir"]), int(flags["seed"]), int(flags["steps"])
if Path(folder, "finished").exists():  # as the real one: there is nothing left to do
    sys.exit(0)
with open("ran.txt", "a") as ran:
    print(folder.parent.name, seed, file=ran)
if Path("fail").exists():
    sys.exit("train.py: error: no luck")
teacher = "teacher_checkpoint" in flags
if teacher and not list(Path(flags["teacher_checkpoint"], "checkpoints").glob("ckpt-*.index")):
    sys.exit("no teacher")
(folder / "evaluation").mkdir(parents=True)
(folder / "checkpoints").mkdir()
(folder / "checkpoints" / f"ckpt-{steps}.index").write_text("")
(folder / "finished").write_text("")
print(f"step {steps // 2}/{steps}: loss 1.0", flush=True)
final = 0.8 if steps == 40 else 0.1 + 0.01 * seed + (0.3 + 0.02 * seed) * teacher
curve = {str(steps // 2): {"mAP11": final / 2, "Car": 0.0}, str(steps): {"mAP11": final, "Car": 0.5}}
(folder / "evaluation" / "results.json").write_text(json.dumps(curve))
(folder / "metrics.csv").write_text("step,loss\\n1,9.0\\n2,4.5\\n")
"""
PLAN = """
[study]
title = Trial
seeds = 0-2
baseline = plain
teacher = teacher
flags = --model=shuffledet_0.25x --steps=30 --data_dir={data}
[teacher]
alone = yes
seeds = 0
flags = --model=shuffledet_0.5x --steps=40
[plain]
[imitating]
flags = --imitation --teacher_checkpoint={run:teacher}
"""
ALL = ["teacher 0", "plain 0", "imitating 0", "plain 1", "imitating 1", "plain 2", "imitating 2"]


@pytest.fixture
def world(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.py").write_text(TRAIN)
    (tmp_path / "trial.cfg").write_text(PLAN)
    monkeypatch.setattr(study, "TRAIN", tmp_path / "train.py")
    return tmp_path


def run(world, *flags):
    """Which runs were started."""
    (world / "ran.txt").unlink(missing_ok=True)
    assert study.main(["study.py", "--plan=trial.cfg", "--data_dir=toy", "--runs_dir=runs", *flags]) == 0
    return (world / "ran.txt").read_text().splitlines() if (world / "ran.txt").exists() else []


def test_all_then_nothing_then_what_is_new(world, capsys):
    assert run(world) == ALL
    assert run(world) == []
    assert "7 of 7 runs are done" in capsys.readouterr().out
    (world / "trial.cfg").write_text(PLAN.replace("seeds = 0-2", "seeds = 0-3"))
    assert run(world) == ["plain 3", "imitating 3"]
    (world / "trial.cfg").write_text(PLAN.replace("--imitation ", "--imitation --psi=0.7 "))
    assert run(world) == ["imitating 0", "imitating 1", "imitating 2"]


def test_plans_with_the_same_runs_share_them(world, monkeypatch):
    monkeypatch.setattr(results, "commit", lambda: "first")
    (world / "trial.cfg").write_text(PLAN.replace("seeds = 0-2", "runs = shared\nseeds = 0-2"))
    assert run(world) == ALL
    monkeypatch.setattr(results, "commit", lambda: "second")
    other = PLAN.replace("seeds = 0-2", "runs = shared\nseeds = 0-1") + "[psi]\nflags = --psi=0.3\n"
    (world / "other.cfg").write_text(other)
    assert run(world, "--plan=other.cfg") == ["psi 0", "psi 1"]
    lines = [json.loads(line) for line in (world / "other.jsonl").read_text().splitlines()]
    assert {line["arm"]: line["commit"] for line in lines} == {
        "teacher": "first", "plain": "first", "imitating": "first", "psi": "second",
    }  # fmt: skip


def test_plans_that_share_runs_share_results(world, monkeypatch):
    """Whoever has the results and not the run folders trains what is missing alone."""
    monkeypatch.setattr(results, "commit", lambda: "first")
    shared = PLAN.replace("seeds = 0-2", "runs = shared\nseeds = 0-2")
    (world / "trial.cfg").write_text(shared)
    assert run(world, "--runs_dir=elsewhere") == ALL
    monkeypatch.setattr(results, "commit", lambda: "second")
    other = shared.replace("[imitating]", "[taught]").replace("seeds = 0-2", "seeds = 1-3")
    (world / "other.cfg").write_text(other)
    assert run(world, "--plan=other.cfg", "--dry_run") == [] and not (world / "other.jsonl").exists()
    assert run(world, "--plan=other.cfg") == ["teacher 0", "plain 3", "taught 3"]
    lines = [json.loads(line) for line in (world / "other.jsonl").read_text().splitlines()]
    assert sorted((line["arm"], line["seed"]) for line in lines if line["commit"] == "first") == [
        ("plain", 1), ("plain", 2), ("taught", 1), ("taught", 2), ("teacher", 0),
    ]  # fmt: skip
    assert run(world, "--plan=other.cfg") == []
    (world / "alone.cfg").write_text(PLAN)  # of other runs, perhaps on other data
    (world / "broken.cfg").write_text("[study]")
    assert run(world, "--plan=alone.cfg") == ALL


def test_what_others_start_from_is_trained_again_where_it_is_not(world, capsys):
    run(world)
    shutil.move(world / "runs", world / "lost")
    assert run(world) == []  # nothing starts from it
    (world / "trial.cfg").write_text(PLAN.replace("seeds = 0-2", "seeds = 0-3"))
    (world / "train.py").write_text(TRAIN.replace("0.8 if", "0.7 if"))
    capsys.readouterr()
    run(world, "--dry_run")
    out = capsys.readouterr().out
    assert "7 of 9 runs are done" in out and "teacher, seed 0 is trained again: others start from it" in out
    assert run(world, "--jobs=2")[0] == "teacher 0"
    out = capsys.readouterr().out
    assert "[1 of 3] teacher, seed 0" in out and "[3 of 3]" in out
    lines = [json.loads(line) for line in (world / "trial.jsonl").read_text().splitlines()]
    teachers = [(line["again"], line["metrics"]["mAP11"]) for line in lines if line["arm"] == "teacher"]
    assert teachers == [(False, 0.8), (True, 0.7)] and len(lines) == 10
    text = (world / "trial.md").read_text()  # the first counts, and the second is told
    assert (
        "| teacher | 1 | 80.0 |" in text and "where its checkpoint was missing: teacher, seed 0: 70.0" in text
    )
    (world / "trial.cfg").write_text(PLAN.replace("seeds = 0-2", "seeds = 0-4"))
    assert run(world) == ["plain 4", "imitating 4"]
    # Of a finished run whose checkpoints were deleted train.py would refuse the folder.
    (folder,) = (world / "runs").glob("trial/teacher/seed0-*[0-9a-f]")
    shutil.rmtree(folder / "checkpoints")
    (folder / "study_seconds").write_text("5000\n")  # of the first time
    (world / "trial.cfg").write_text(PLAN.replace("seeds = 0-2", "seeds = 0-5"))
    anew = "if '--overwrite' in sys.argv:\n    import shutil; shutil.rmtree(folder)\n"
    first, start = TRAIN.split("if Path(folder", 1)
    (world / "train.py").write_text(f"{first}{anew}if Path(folder{start}")
    assert run(world) == ["teacher 0", "plain 5", "imitating 5"]
    assert float((folder / "study_seconds").read_text()) < 5000


def test_what_is_recorded(world):
    run(world)
    lines = [json.loads(line) for line in (world / "trial.jsonl").read_text().splitlines()]
    one = next(line for line in lines if line["arm"] == "imitating" and line["seed"] == 2)
    assert one["metrics"]["mAP11"] == pytest.approx(0.1 + 0.02 + 0.34) and set(one["curve"]) == {"15", "30"}
    assert one["losses"] == {"step": 2.0, "loss": 4.5} and one["seconds"] >= 0
    assert one["command"][-2:] == ["--teacher_checkpoint={run:teacher}", "--seed=2"]
    assert one["versions"]["python"] and one["machine"]["cores"] >= 1
    assert str(world) not in json.dumps(one)  # nobody's paths


def test_tables(world, capsys):
    run(world, "--report_dir=report")
    out = capsys.readouterr().out
    # Differences 0.30, 0.32, 0.34; plain 0.10, 0.11, 0.12; teacher 0.8: 0.32 of 0.69.
    assert (
        "imitating gains 32.0 points over plain, above it in 3 of 3 seeds: 46 % of the gap to teacher." in out
    )
    row = next(line for line in out.splitlines() if line.startswith("imitating  "))
    assert row.split()[:4] == ["imitating", "3", "43.0", "3.0"] and "+32.0" in row and "0.250" in row
    text = (world / "trial.md").read_text()
    assert text.startswith("<!-- written by scripts/study.py from trial.jsonl -->")
    assert "![](trial.png)" in text and "figures/" not in text
    assert (world / "trial.png").read_bytes().startswith(b"\x89PNG")
    numbers = json.loads((world / "report" / "report.json").read_text())
    assert numbers["arms"]["imitating"]["against"]["plain"]["gap_share"] == pytest.approx(0.32 / 0.69)
    assert "Against steps" in (world / "report" / "index.html").read_text()


def test_arms_that_differ_in_a_number_are_drawn_against_it(world, monkeypatch, capsys):
    drawn, original = [], study_tables.plots.render
    monkeypatch.setattr(
        study_tables.plots, "render", lambda figure: (drawn.append(figure), original(figure))[1]
    )
    text = PLAN.replace("seeds = 0-2\n", "seeds = 0-2\naxis = weight\naxis_scale = logarithmic\n", 1)
    text = text.replace("[study]\n", "[study]\npublished = 1: 40, 4:52.5\npublished_title = Paper\n")
    text = text.replace("[imitating]\n", "[imitating]\nat = 4\n")
    text += "[light]\nat = .5\nseeds = 0\nflags = --noimitation --imitation_weight=0.5\n"
    text += "[other]\nat = 2\nline = without\nflags = --noimitation --imitation_weight=2\n"
    (world / "trial.cfg").write_text(text)
    run(world)
    own, published = next(figure for figure in drawn if figure.name == "arms").panels
    assert (own.x_label, own.y_label, own.logarithmic) == ("weight", "mAP11", True)
    first, second = own.trends
    assert (first.name, first.x) == ("mean", (0.5, 4.0))  # in the order of the axis
    assert first.values[0] == pytest.approx({0: 0.1})
    assert first.values[1] == pytest.approx({0: 0.4, 1: 0.43, 2: 0.46})
    assert first.intervals[0] is None and 0.4 <= first.intervals[1][0] <= first.intervals[1][1] <= 0.46
    assert (second.name, second.x) == ("without", (2.0,))
    assert [(name, value) for name, value, _ in own.levels] == [
        ("teacher 80.0", pytest.approx(0.8)),
        ("plain 11.0", pytest.approx(0.11)),
    ]
    assert len({first.color, second.color, *(color for *_, color in own.levels)}) == 4
    (trend,) = published.trends
    assert (published.title, trend.x, published.levels) == ("Paper", (1.0, 4.0), ())
    assert [value[0] for value in trend.values] == pytest.approx([0.4, 0.525])


def test_an_arm_compared_with_others_than_the_baseline(world, capsys):
    # Weights are nothing to this training, so small imitating is as good as imitating; small is as plain.
    more = "[small]\nseeds = 0-1\nagainst = imitating\nflags = --imitation_weight=2\n"
    more += "[small_imitating]\nseeds = 0-1\n"
    more += "against = plain, small\nflags = --imitation --imitation_weight=2"
    (world / "trial.cfg").write_text(f"{PLAN}{more} --teacher_checkpoint={{run:teacher}}\n")
    run(world)
    out = capsys.readouterr().out
    # Differences 0.30, 0.32 of two seeds; 0.105 to 0.8: 0.31 of 0.695.
    gain = "gains 31.0 points over {}, above it in 2 of 2 seeds: 45 % of the gap to teacher."
    assert f"small_imitating {gain.format('plain')} small_imitating {gain.format('small')}" in out
    table = (world / "trial.md").read_text()
    assert "| small | 2 | 10.5 | 0.7 | – | – | – | – | – |" in table  # two values have no interval
    assert "| small_imitating | 2 | 41.5 | 2.1 | – | +31.0 |" in table
    assert "| small_imitating, against small | – | – | – | – | +31.0 |" in table
    assert "small loses 31.0 points to imitating, above it in 0 of 2 seeds. small_imitating" in out
    assert "imitating, against plain" not in table


def test_the_gap_is_that_to_the_teacher_an_arm_had(world, capsys):
    more = "[middle]\nalone = yes\nseeds = 0\n"
    more += "flags = --steps=30 --imitation --teacher_checkpoint={run:teacher}\n"
    more += "[taught]\nflags = --imitation --teacher_checkpoint={run:middle}\n"
    (world / "trial.cfg").write_text(PLAN + more)
    run(world)
    out = capsys.readouterr().out
    # 0.32 of 0.40 - 0.11, and of 0.80 - 0.11
    assert "taught gains 32.0 points over plain, above it in 3 of 3 seeds: 110 % of the gap to middle." in out
    assert (
        "imitating gains 32.0 points over plain, above it in 3 of 3 seeds: 46 % of the gap to teacher." in out
    )


def test_dry_run_runs_nothing_and_tells_the_time(world, capsys):
    assert run(world, "--dry_run") == []
    out = capsys.readouterr().out
    assert "0 of 7 runs are done; how long it takes is known once one is done" in out
    assert "imitating, seed 2: --model=shuffledet_0.25x --steps=30 --data_dir=toy --imitation" in out
    run(world)
    (world / "trial.cfg").write_text(PLAN.replace("seeds = 0-2", "seeds = 0-3"))
    capsys.readouterr()
    run(world, "--dry_run")
    # On a busy machine the seven runs of no work took a second or more each.
    assert re.search(r"7 of 9 runs are done; about \d+ s to go", capsys.readouterr().out)


def test_a_failure_names_the_run_and_keeps_what_is_done(world):
    (world / "fail").write_text("")
    with pytest.raises(UserError, match="teacher, seed 0 ended with 1: train.py: error: no luck"):
        run(world)
    (world / "fail").unlink()
    assert run(world) == ALL


# Waits until three have been started; the teacher, which all others need, runs alone.
TOGETHER = """
import os, time
if folder.parent.name != "teacher":
    Path(f"started-{os.getpid()}").write_text("")
    deadline = time.monotonic() + 30
    while len(list(Path().glob("started-*"))) < 3:
        assert time.monotonic() < deadline
        time.sleep(0.02)
"""


def test_several_at_the_same_time(world, capsys):
    (world / "train.py").write_text(TRAIN + TOGETHER)
    (world / "trial.cfg").write_text(
        PLAN.replace(
            "flags = --model=shuffledet_0.25x",
            "flags = --teacher_checkpoint={run:teacher} --model=shuffledet_0.25x",
        )
    )
    started = run(world, "--jobs=3")
    assert started[0] == "teacher 0" and sorted(started) == sorted(ALL)
    lines = [json.loads(line) for line in (world / "trial.jsonl").read_text().splitlines()]
    assert len(lines) == 7 and all(line["machine"]["at_once"] == 3 for line in lines)
    assert "3 runs at once" in (world / "trial.md").read_text()
    assert run(world, "--jobs=3") == []


@pytest.mark.parametrize(
    "flags, machine, given, wanted",
    [
        (["--jobs=2"], {"cores": 6}, "", "3"),
        (["--jobs=4"], {"cores": 2}, "", "1"),
        (["--jobs=2"], {"cores": 6}, "5", "5"),  # whoever sets it knows better
        (["--jobs=2"], {"cores": 6, "gpus": ["H100"]}, "", "None"),
        ([], {"cores": 6}, "", "None"),
    ],
)
def test_several_share_the_cores(world, monkeypatch, flags, machine, given, wanted):
    monkeypatch.setattr(results, "machine", lambda: machine)
    monkeypatch.delenv("TF_NUM_INTRAOP_THREADS", raising=False)
    if given:
        monkeypatch.setenv("TF_NUM_INTRAOP_THREADS", given)
    (world / "train.py").write_text(
        f"{TRAIN}\nimport os\nPath('threads.txt').write_text(str(os.environ.get('TF_NUM_INTRAOP_THREADS')))\n"
    )
    run(world, *flags)
    assert (world / "threads.txt").read_text() == wanted


def test_one_of_several_fails(world):
    stop = (
        "\nimport signal, time\n"
        "while 'plain' in str(folder) and not Path('ready').exists(): time.sleep(0.05)\n"
        "if 'plain' in str(folder): sys.exit('train.py: error: no luck')\n"
    )
    save = (
        "signal.signal(signal.SIGTERM, lambda *_: (Path('saved').write_text(''), sys.exit(143)))\n"
        "if 'imitating' in str(folder): Path('ready').write_text(''); time.sleep(30)\n"
    )
    (world / "train.py").write_text(TRAIN + stop + save)
    with pytest.raises(UserError, match="plain, seed 0 ended with 1: train.py: error: no luck"):
        run(world, "--jobs=2")
    assert (world / "saved").exists()
    assert [json.loads(line)["arm"] for line in (world / "trial.jsonl").read_text().splitlines()] == [
        "teacher"
    ]


def test_flags_that_are_missing(world):
    with pytest.raises(UserError, match="--jobs=0: must be at least 1"):
        study.main(["study.py", "--plan=trial.cfg", "--jobs=0"])
    with pytest.raises(UserError, match="--plan is missing"):
        study.main(["study.py"])
    with pytest.raises(UserError, match="--data_dir is missing: trial.cfg needs it"):
        study.main(["study.py", "--plan=trial.cfg"])
    (world / "trial.cfg").write_text(PLAN.replace("{data}", "{date}"))
    with pytest.raises(UserError, match=r"\{date\} is no place; known are \{data\}, \{run:ARM\}"):
        run(world)


def test_a_place_that_is_not_known_is_told_before_anything_runs(world):
    (world / "trial.cfg").write_text(PLAN + "[late]\nflags = --init_checkpoint={date}\n")
    with pytest.raises(UserError, match=r"\{date\} is no place"):
        run(world)
    assert not (world / "ran.txt").exists()


def test_a_metric_that_is_not_there_is_told_after_the_first_run(world):
    (world / "trial.cfg").write_text(PLAN.replace("[study]", "[study]\nmetric = mAP12"))
    for started in (["teacher 0"], []):
        (world / "ran.txt").write_text("")
        with pytest.raises(UserError, match="metric = mAP12: teacher, seed 0 has mAP11, Car"):
            run(world)
        text = (world / "ran.txt").read_text() if (world / "ran.txt").exists() else ""
        assert text.splitlines() == started
    (world / "trial.cfg").write_text(PLAN.replace("[study]", "[study]\nmetric = Car"))
    assert run(world) == ALL[1:]  # its result was kept


def test_arms_with_metrics_of_their_own(world):
    (world / "train.py").write_text(TRAIN.replace('"Car": 0.5', '("Van" if seed == 2 else "Car"): 0.5'))
    (world / "trial.cfg").write_text(PLAN.replace("[imitating]", "[van]\nseeds = 2\n[imitating]"))
    run(world)
    text = (world / "trial.md").read_text()
    assert "mAP11 | Car | Van" in text.replace("  ", " ")
    assert "| van | 12.0 | – | 50.0 |" in text and "| plain | 11.0 | 50.0 | 50.0 |" in text


def test_the_commit_is_that_of_the_start(world, monkeypatch):
    """The checkout may change while a training runs."""
    (world / "train.py").write_text(TRAIN + "Path('commit.txt').write_text('second')\n")
    (world / "commit.txt").write_text("first")
    monkeypatch.setattr(results, "commit", lambda: (world / "commit.txt").read_text())
    (world / "trial.cfg").write_text(PLAN.replace("seeds = 0-2", "seeds = 0"))
    run(world)
    lines = [json.loads(line) for line in (world / "trial.jsonl").read_text().splitlines()]
    assert [line["commit"] for line in lines] == ["first", "second", "second"]


def test_checkpoints_between_are_kept(world):
    run(world, "--dry_run")
    flags = runner.Runner(read_plan("trial.cfg"), world / "runs", "toy", study.TRAIN, print)
    assert "--evaluate_every=500" in flags.flags(flags.plan.arm("plain"), 0)  # 30 steps
    text = PLAN.replace("--steps=30", "--steps=1234 --checkpoint_every=100")
    (world / "trial.cfg").write_text(text)
    flags = runner.Runner(read_plan("trial.cfg"), world / "runs", "toy", study.TRAIN, print)
    given = flags.flags(flags.plan.arm("plain"), 0)
    assert "--evaluate_every=1300" in given and "--checkpoint_every=100" in given
    assert sum("checkpoint_every" in flag for flag in given) == 1


def test_an_error_of_the_study_keeps_the_time_of_what_runs(world, monkeypatch):
    save = "\nimport signal, time\nsignal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
    wait = "if 'imitating' in str(folder): Path('ready').write_text(''); time.sleep(30)\n"
    plain = "while 'plain' in str(folder) and not Path('ready').exists(): time.sleep(0.05)\n"
    (world / "train.py").write_text(TRAIN + save + wait + plain)
    original = results.append_result

    def append(plan, result):
        if result.arm == "plain":
            raise OSError(28, "No space left on device")
        original(plan, result)

    monkeypatch.setattr(results, "append_result", append)
    with pytest.raises(OSError, match="No space"):
        run(world, "--jobs=2")
    (folder,) = (world / "runs").glob("trial/imitating/seed0-*[0-9a-f]")
    assert (folder / "study_seconds").exists()


def test_a_line_that_the_tool_did_not_write(world):
    (world / "trial.jsonl").write_text("{}\n")
    with pytest.raises(UserError, match="trial.jsonl:1: is no result of a run"):
        run(world)


def test_two_studies_add_lines_at_the_same_moment(world):
    """The second reads the file only after the first has written its line."""
    run(world)
    lines = (world / "trial.jsonl").read_text().splitlines()
    (world / "trial.jsonl").write_text("".join(f"{line}\n" for line in lines[:-2]))
    plan = read_plan("trial.cfg")
    last = results.RunResult(**json.loads(lines[-1]))
    second = threading.Thread(target=results.append_result, args=(plan, last))
    with folder_locked(plan.path.parent, wait=True):
        second.start()
        second.join(0.3)
        assert second.is_alive()
        replace_text(world / "trial.jsonl", "".join(f"{line}\n" for line in lines[:-1]))
    second.join(30)
    assert (world / "trial.jsonl").read_text().splitlines() == lines


SLOW = """
import signal, sys, time
from pathlib import Path
signal.signal(signal.SIGINT, lambda *_: (time.sleep(0.5), Path("saved").write_text(""), sys.exit(130)))
Path("started").write_text("")
time.sleep(30)
"""


def test_ctrl_c_waits_for_the_training_to_save(world):
    (world / "train.py").write_text(SLOW)
    program = (
        f"import sys; sys.path[:0] = [{str(REPOSITORY / 'scripts')!r}, {str(REPOSITORY)!r}]; import study; "
        "from pathlib import Path; study.TRAIN = Path('train.py'); "
        "sys.exit(study.main(['study.py', '--plan=trial.cfg', '--data_dir=toy']))"
    )
    with subprocess.Popen([sys.executable, "-c", program], cwd=world) as process:
        deadline = time.monotonic() + 30
        while not (world / "started").exists() and time.monotonic() < deadline:
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        assert process.wait(30) == 130
    assert (world / "saved").exists() and not (world / "trial.jsonl").exists()
