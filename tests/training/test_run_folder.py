"""The run folder: what counts as a run, what is never deleted, what --overwrite and the next start delete."""

from __future__ import annotations

import errno
import fcntl
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.training import flags, run
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.evaluator import ResultLog
from fgfi_tf.training.run_folder import held, open_run


@pytest.fixture(name="config")
def config_fixture(tmp_path):
    """A function from changes to an experiment in one folder."""
    return lambda **changes: ExperimentConfig(output_dir=str(tmp_path / "run"), **changes)


CHECKPOINT = ("ckpt-3.index", "ckpt-3.data-00000-of-00001")
RUN = [
    *(f"checkpoints/{name}" for name in (*CHECKPOINT, "model.json")),
    *(f"best/{name}" for name in (*CHECKPOINT, "model.json")),
    "tensorboard/train/events.out.tfevents.1.host.2.0.v2",
    "tensorboard/evaluation/events.out.tfevents.1.host.2.0.v2",
    "evaluation/results.json",
    "finished",
]
FOREIGN = [
    "thesis.tex",
    "notes/idea.txt",
    "checkpoints/keep.txt",
    "checkpoints/mine/ckpt-3.index",
    "best/readme",
    "tensorboard/other/events.out.tfevents.1",
    "evaluation/plot.png",
]


def fill(root: Path, names: list[str]) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(name)


def tree(root: Path) -> dict[str, str]:
    """Every file, byte by byte a character."""
    files = (path for path in sorted(root.rglob("*")) if path.is_file())
    return {str(path.relative_to(root)): path.read_bytes().decode("latin-1") for path in files}


@pytest.mark.parametrize("name", [name for name in RUN if name != "checkpoints/model.json"])
def test_whatever_a_run_computed_makes_a_folder_its_own(config, name):
    folder = open_run(config())
    fill(folder.root, [name])
    before = tree(folder.root)
    with pytest.raises(UserError, match="already holds another run, started with --learning_rate=0.02"):
        open_run(config(learning_rate=0.5))
    assert tree(folder.root) == before


def test_a_teacher_that_was_moved(config, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "teacher").mkdir()
    folder = open_run(config(teacher_checkpoint="teacher"))
    fill(folder.root, ["checkpoints/ckpt-3.index"])
    open_run(config(teacher_checkpoint=f"{tmp_path}/elsewhere/../teacher"))  # the same by another way
    (tmp_path / "other" / "teacher").mkdir(parents=True)
    with pytest.raises(UserError, match="already holds another run, started with --teacher_checkpoint="):
        open_run(config(teacher_checkpoint="other/teacher"))
    (tmp_path / "teacher").rmdir()
    for another in ("other", "gone/teacher", ""):
        with pytest.raises(UserError, match="already holds another run"):
            open_run(config(teacher_checkpoint=another))
    open_run(config(teacher_checkpoint="other/teacher"))
    assert "--teacher_checkpoint=other/teacher\n" in folder.flags.read_text()


def test_results_of_one_split_do_not_compete_with_those_of_another(config):
    folder = open_run(config(val_split="val"))
    fill(folder.root, ["checkpoints/ckpt-3.index"])
    open_run(config(val_split="test"))
    fill(folder.root, ["evaluation/results.json"])
    with pytest.raises(
        UserError, match="--val_split=val: .*results.json is of test: give that again, or move"
    ):
        open_run(config(val_split="val"))


@pytest.mark.parametrize("change", [("", "imagenet"), ("imagenet", ""), ("imagenet", "imagenet.h5")])
def test_other_weights_to_start_from_are_another_run(config, change):
    before, after = change
    fill(open_run(config(init_checkpoint=before)).root, ["checkpoints/ckpt-3.index"])
    with pytest.raises(UserError, match="already holds another run"):
        open_run(config(init_checkpoint=after))


@pytest.mark.parametrize(
    "left", ["best/ckpt-3.index", "best/model.json", "evaluation/results.json", "finished"]
)
def test_a_run_without_its_checkpoints_is_not_started_anew_unasked(config, left):
    folder = open_run(config())
    fill(folder.root, [left])
    before = tree(folder.root)
    with pytest.raises(UserError, match=f"holds {left} of a run whose checkpoints/ is empty: put the"):
        open_run(config())
    assert tree(folder.root) == before
    open_run(config(overwrite=True))
    assert list(tree(folder.root)) == ["flags.cfg"]


def test_a_run_that_never_came_to_a_checkpoint_goes_on(config):
    folder = open_run(config())
    fill(folder.root, ["checkpoints/model.json", "tensorboard/train/events.out.tfevents.1"])
    before = tree(folder.root)
    open_run(config())
    assert tree(folder.root) == before


def test_a_worker_that_owns_no_files_writes_none(config):
    folder = open_run(config(), writes=False)
    assert not folder.root.exists()
    open_run(config())
    fill(folder.root, RUN)
    before = tree(folder.root)
    open_run(config(overwrite=True, learning_rate=0.5), writes=False)
    with pytest.raises(UserError, match="already holds another run"):
        open_run(config(learning_rate=0.5), writes=False)
    assert tree(folder.root) == before


def test_flags_alone_are_no_run(config):
    folder = open_run(config())
    fill(folder.root, ["checkpoints/model.json"])
    open_run(config(learning_rate=0.5))
    assert flags.read_flagfile(folder.flags).learning_rate == 0.5


def test_a_first_start_killed_while_it_wrote_the_flags(config, tmp_path):
    fill(tmp_path / "run", ["flags.new"])
    assert list(tree(open_run(config()).root)) == ["flags.cfg"]


@pytest.mark.parametrize("overwrite", [False, True])
def test_flags_of_somebody_else_are_left_alone(config, tmp_path, overwrite):
    fill(tmp_path / "run", ["flags.cfg"])
    with pytest.raises(UserError, match="is not empty and holds no run: choose another folder"):
        open_run(config(overwrite=overwrite))
    assert tree(tmp_path / "run") == {"flags.cfg": "flags.cfg"}


def test_overwriting_deletes_what_a_run_writes_and_nothing_else(config):
    folder = open_run(config())
    litter = ["checkpoints/worker-12/ckpt-3.index", "checkpoints/ckpt-4_temp/part-00000-of-00001.index"]
    fill(folder.root, [*RUN, *litter, *FOREIGN, "best.new/ckpt-3.index", "evaluation/results.new"])
    open_run(config(overwrite=True, learning_rate=0.5))
    assert sorted(tree(folder.root)) == sorted(["flags.cfg", *FOREIGN])
    assert not (folder.root / "tensorboard/train").exists()


def test_litter_of_kills_is_cleaned_up(config):
    folder = open_run(config())
    litter = [
        "checkpoints/worker-140234/ckpt-3.index",
        "checkpoints/ckpt-4_temp/part-00000-of-00001.data-00000-of-00001",
        "checkpoints/ckpt-4.data-00000-of-00001",  # without an index
        "checkpoints/model.json.new",
        "best.new/ckpt-3.index",
        "best.new/model.json",
        "flags.new",
    ]
    fill(folder.root, [*RUN, *litter, *FOREIGN])
    open_run(config())
    kept = set(RUN) - {"finished"}  # it is not yet again
    assert set(tree(folder.root)) == {"flags.cfg", *kept, *FOREIGN}
    assert not (folder.root / "best.new").exists()


def test_litter_of_kills_in_evaluations_is_cleaned_up_by_the_next_one(config):
    folder = open_run(config())
    litter = [
        "best/ckpt-4.data-00000-of-00001",
        "best/ckpt-5.index.new",
        "best/model.json.new",
        "evaluation/results.new",
    ]
    fill(folder.root, [*RUN, *litter, *FOREIGN])
    folder.results.write_text('{"3": {"mAP11": 0.5}}')
    ResultLog(folder).recover()
    assert set(tree(folder.root)) == {"flags.cfg", *RUN, *FOREIGN}


@pytest.mark.parametrize(("count", "steps"), [("", 2), ("0", 2), ("1", 6)])
def test_a_job_that_slurm_requeued_does_not_overwrite_itself(experiment, monkeypatch, count, steps):
    run.train(experiment(schedule_steps=6))
    monkeypatch.setenv("SLURM_RESTART_COUNT", count)
    assert run.train(experiment(overwrite=True, steps=2, schedule_steps=6)).step == steps


def test_the_only_best_checkpoint_of_an_older_version_is_kept(config):
    folder = open_run(config())
    fill(folder.root, [*RUN, *(f"best.new/{name}" for name in (*CHECKPOINT, "model.json"))])
    shutil.rmtree(folder.best)
    open_run(config())
    assert sorted(p.name for p in folder.best.iterdir()) == sorted((*CHECKPOINT, "model.json"))


def test_a_file_is_no_run_folder(config, tmp_path):
    (tmp_path / "run").write_text("mine")
    for overwrite in (False, True):
        with pytest.raises(UserError, match="--output_dir=.*run is a file: choose a folder"):
            open_run(config(overwrite=overwrite))
    below = ExperimentConfig(output_dir=str(tmp_path / "run" / "below"))
    with pytest.raises(UserError, match="--output_dir=.* cannot be written: Not a directory"):
        open_run(below)
    assert (tmp_path / "run").read_text() == "mine"


def test_a_name_that_no_file_system_takes(tmp_path):
    with pytest.raises(UserError, match="cannot be written: File name too long"):
        open_run(ExperimentConfig(output_dir=str(tmp_path / ("x" * 300))))


@pytest.mark.parametrize("step", [2, 6])
def test_a_run_folder_deleted_while_training_is_an_error(experiment, monkeypatch, step):
    root, original = Path(experiment().output_dir), run.callbacks.StepCounter.on_step

    def on_step(self, previous, now, logs):
        original(self, previous, now, logs)
        if now == step:
            shutil.rmtree(root)

    monkeypatch.setattr(run.callbacks.StepCounter, "on_step", on_step)
    with pytest.raises(UserError, match="run is gone, or its flags.cfg: the run folder was deleted or moved"):
        run.train(experiment(summary_every=100))
    assert not root.exists()


@pytest.mark.parametrize("overwrite", [False, True])
def test_two_trainings_are_never_in_one_folder(experiment, monkeypatch, overwrite):
    """The second leaves everything as it is; the first goes on, and after it the folder is free."""
    root, original, refused = Path(experiment().output_dir), run.callbacks.StepCounter.on_step, []

    def on_step(self, previous, now, logs):
        original(self, previous, now, logs)
        if now == 4:
            before = tree(root)
            with pytest.raises(UserError) as error:
                run.train(experiment(overwrite=overwrite))
            assert tree(root) == before
            refused.append(str(error.value))

    monkeypatch.setattr(run.callbacks.StepCounter, "on_step", on_step)
    assert run.train(experiment()).finished
    wait = "another training is at work there: wait until it ends, or choose another folder"
    assert refused == [f"--output_dir={root}: {wait}"]
    monkeypatch.undo()
    assert run.train(experiment(steps=8, schedule_steps=8, overwrite=True)).step == 8


def test_a_process_that_was_killed_holds_nothing(tmp_path):
    program = (
        "import sys, pathlib\nfrom fgfi_tf.training.run_folder import held\n"
        "with held(pathlib.Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"
    )
    command = [sys.executable, "-c", program, str(tmp_path / "run")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as other:
        try:
            assert other.stdout.readline() == "held\n"
            with pytest.raises(UserError, match="another training is at work there"), held(tmp_path / "run"):
                pass
        finally:
            other.kill()
        other.wait()
        with held(tmp_path / "run"):
            assert not list((tmp_path / "run").iterdir())


def test_a_file_system_that_locks_no_folders_keeps_nobody_out(tmp_path, monkeypatch):
    def flock(descriptor, operation):
        raise OSError(errno.EBADF, "Bad file descriptor")

    monkeypatch.setattr(fcntl, "flock", flock)
    with held(tmp_path / "run"), held(tmp_path / "run"):
        pass


def test_a_folder_that_cannot_be_made_is_left_to_who_opens_it(tmp_path):
    (tmp_path / "run").write_text("mine")
    with held(tmp_path / "run"), held(tmp_path / "run" / "below"):
        assert (tmp_path / "run").read_text() == "mine"
