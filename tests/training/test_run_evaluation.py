"""best/ and results.json: they agree whatever ends a run, and every evaluation that is due is made."""

from __future__ import annotations

import functools
import itertools
import json
import os
import signal
import sys

import pytest

from fgfi_tf.errors import UserError
from fgfi_tf.training import checkpoints, evaluator, run
from fgfi_tf.training.run_folder import RunFolder


class Killed(BaseException):
    """Stands for the end of the process: nothing catches it."""


class Killer:
    """Raises Killed at the n-th operation on files, as Python tells of them before it does them."""

    EVENTS = {"open", "os.rename", "os.remove", "os.mkdir", "os.rmdir", "os.scandir", "os.listdir"}

    def __init__(self):
        self.left = -1
        sys.addaudithook(self._hook)  # there is no way to remove one

    def _hook(self, event: str, arguments: tuple) -> None:
        if self.left >= 0 and event in self.EVENTS:
            self.left -= 1
            if self.left < 0:
                raise Killed

    def dies(self, function, operations: int) -> bool:
        """Whether ``function`` wanted more operations than it was given."""
        self.left = operations
        try:
            function()
            return False
        except Killed:
            return True
        finally:
            self.left = -1


killer = Killer()


def save(folder: RunFolder, step: int) -> None:
    """A checkpoint whose files tell its step."""
    folder.checkpoints.mkdir(parents=True, exist_ok=True)
    for name in (f"ckpt-{step}.index", f"ckpt-{step}.data-00000-of-00001"):
        (folder.checkpoints / name).write_text(f"{step}")
    (folder.checkpoints / "model.json").write_text("{}")


def held(folder: RunFolder) -> list[int]:
    """Steps of the whole checkpoints in best/."""
    found = []
    for path in checkpoints.list_checkpoints(folder.best):
        step = checkpoints.step_of(path)
        files = [path.with_name(f"{path.name}{end}") for end in (".index", ".data-00000-of-00001")]
        assert [file.read_text() for file in files] == [f"{step}"] * 2
        assert (folder.best / "model.json").read_text() == "{}"
        found.append(step)
    return found


def best_of(folder: RunFolder) -> int | None:
    """What results.json calls the best: the highest first figure, of equal ones the earliest."""
    if not folder.results.is_file():
        return None
    found = {int(step): figures["mAP11"] for step, figures in json.loads(folder.results.read_text()).items()}
    return min(found, key=lambda step: (-found[step], step))


# The figures of checkpoints 1, 2, 3: better each time, worse, equal.
@pytest.mark.parametrize("figures", [(0.1, 0.2, 0.3), (0.3, 0.2, 0.1), (0.2, 0.1, 0.2), (0.0, 0.0, 0.0)])
def test_killed_at_any_operation_best_is_what_the_results_say(tmp_path, figures):
    for count in itertools.count():
        folder = RunFolder(tmp_path / str(count))
        died = 0
        for step, value in enumerate(figures, start=1):
            save(folder, step)
            log = evaluator.ResultLog(folder)
            # Each is killed once, at the same operation, and made up for.
            add = functools.partial(log.add, folder.checkpoints / f"ckpt-{step}", {"mAP11": value})
            died += killer.dies(add, count)
            best = best_of(folder)
            assert best is None or best in held(folder)  # at every moment
            log = evaluator.ResultLog(folder)
            died += killer.dies(log.recover, count)
            log.recover()
            best = best_of(folder)
            assert held(folder) == ([] if best is None else [best])
            if step not in log.results():
                log.add(folder.checkpoints / f"ckpt-{step}", {"mAP11": value})
            assert held(folder) == [best_of(folder)]
            names = {path.name for path in folder.best.iterdir()}
            assert names == {
                "model.json",
                *(f"ckpt-{best_of(folder)}{e}" for e in (".index", ".data-00000-of-00001")),
            }
            assert [p.name for p in folder.evaluation.iterdir()] == ["results.json"]
        assert sorted(log.results()) == [1, 2, 3]
        if not died:
            break
    assert count > 10


def test_the_best_is_the_same_in_any_order(tmp_path):
    figures = {1: 0.2, 2: 0.5, 3: 0.5, 4: 0.1}
    for order in itertools.permutations(figures):
        folder = RunFolder(tmp_path / "".join(map(str, order)))
        for step in order:
            save(folder, step)
            evaluator.ResultLog(folder).add(folder.checkpoints / f"ckpt-{step}", {"mAP11": figures[step]})
        assert held(folder) == [2]


def test_nothing_is_deleted_that_the_results_do_not_know(tmp_path):
    folder = RunFolder(tmp_path)
    save(folder, 4)
    evaluator.ResultLog(folder).add(folder.checkpoints / "ckpt-4", {"mAP11": 0.4})
    for path in (folder.results, *folder.checkpoints.glob("ckpt-4.*")):
        path.unlink()
    evaluator.ResultLog(folder).recover()
    assert held(folder) == [4]


def test_a_best_checkpoint_that_is_missing_is_copied_again(tmp_path):
    folder = RunFolder(tmp_path)
    for step in (1, 2):
        save(folder, step)
        evaluator.ResultLog(folder).add(folder.checkpoints / f"ckpt-{step}", {"mAP11": 1.0 - step / 10})
    for path in folder.best.iterdir():
        path.unlink()
    evaluator.ResultLog(folder).recover()
    assert held(folder) == [1]


def test_a_checkpoint_deleted_while_it_was_evaluated_is_not_recorded(tmp_path):
    folder = RunFolder(tmp_path)
    save(folder, 1)
    (folder.checkpoints / "ckpt-1.index").unlink()
    with pytest.raises(UserError, match="ckpt-1 cannot be copied to .*best: No such file"):
        evaluator.ResultLog(folder).add(folder.checkpoints / "ckpt-1", {"mAP11": 1.0})
    assert evaluator.ResultLog(folder).results() == {}


def test_results_that_are_damaged(tmp_path):
    folder = RunFolder(tmp_path)
    folder.evaluation.mkdir()
    for text in ("{", "[]", '{"x": {}}'):
        folder.results.write_text(text)
        with pytest.raises(UserError, match="results.json is malformed: .*; move it away"):
            evaluator.ResultLog(folder).results()


@pytest.fixture(name="at_evaluation")
def at_evaluation_fixture(monkeypatch):
    """A function that makes something happen once, at the evaluation of a checkpoint."""

    def at(step: int, happens) -> None:
        done = []

        def evaluate(self, path):
            if checkpoints.step_of(path) == step and not done:
                done.append(step)
                happens()
            return call(self, path)

        call = evaluator.CheckpointEvaluator.__call__
        monkeypatch.setattr(evaluator.CheckpointEvaluator, "__call__", evaluate)

    return at


def kill():
    raise Killed


def agrees(folder: RunFolder) -> bool:
    return [checkpoints.step_of(p) for p in checkpoints.list_checkpoints(folder.best)] == [best_of(folder)]


@pytest.mark.parametrize("step", [3, pytest.param(6, marks=pytest.mark.long)])
def test_an_evaluation_that_a_kill_fell_on_is_made_up_for(experiment, tmp_path, at_evaluation, step):
    whole = run.train(experiment(evaluate_every=3, output_dir=str(tmp_path / "whole"))).folder
    config = experiment(evaluate_every=3, keep_checkpoints=1)
    at_evaluation(step, kill)
    with pytest.raises(Killed):
        run.train(config)
    folder = RunFolder(tmp_path / "run")
    assert not folder.finished.exists()
    assert run.train(config).finished
    assert json.loads(folder.results.read_text()) == json.loads(whole.results.read_text())
    assert agrees(whole) and agrees(folder)


@pytest.mark.parametrize("step", [3, 6])
def test_a_signal_gives_an_evaluation_up_and_the_next_start_makes_up_for_it(
    experiment, tmp_path, at_evaluation, capsys, step
):
    config = experiment(evaluate_every=3, keep_checkpoints=1)
    at_evaluation(step, lambda: os.kill(os.getpid(), signal.SIGTERM))
    result = run.train(config)
    assert (result.step, result.finished, result.stopped_by, result.exit_code) == (
        step,
        False,
        "SIGTERM",
        143,
    )
    assert f"evaluation of ckpt-{step} given up for SIGTERM" in capsys.readouterr().out
    folder = RunFolder(tmp_path / "run")
    assert not folder.finished.exists()
    assert run.train(config).exit_code == 0
    assert sorted(json.loads(folder.results.read_text())) == ["3", "6"]
    assert agrees(folder)


def test_evaluations_of_a_finished_run_are_made_when_asked_for_later(experiment, capsys):
    folder = run.train(experiment(checkpoint_every=2)).folder
    (folder.checkpoints / "ckpt-4.data-00000-of-00001").write_bytes(b"")
    assert run.train(experiment(checkpoint_every=2, evaluate_every=2)).finished
    assert sorted(json.loads(folder.results.read_text())) == ["2", "6"]
    assert agrees(folder)


@pytest.mark.parametrize(("name", "code"), [("SIGINT", 130), ("SIGTERM", 143), ("SIGHUP", 129)])
def test_signals_save_and_end_with_their_exit_code(experiment, monkeypatch, name, code):
    original = run.callbacks.StepCounter.on_step

    def on_step(self, previous, now, logs):
        original(self, previous, now, logs)
        if now == 4:
            os.kill(os.getpid(), getattr(signal, name))

    monkeypatch.setattr(run.callbacks.StepCounter, "on_step", on_step)
    result = run.train(experiment())
    assert (result.step, result.stopped_by, result.exit_code) == (4, name, code)
    assert checkpoints.list_checkpoints(result.folder.checkpoints)[-1].name == "ckpt-4"


def test_a_closed_output_saves(experiment, monkeypatch):
    reading, writing = os.pipe()
    original = run.callbacks.StepCounter.on_step

    def on_step(self, previous, now, logs):
        original(self, previous, now, logs)
        if now == 3:
            os.close(reading)

    monkeypatch.setattr(run.callbacks.StepCounter, "on_step", on_step)
    with os.fdopen(writing, "w", buffering=1) as output:
        monkeypatch.setattr(sys, "stdout", output)
        result = run.train(experiment(checkpoint_every=100))
    # The next line of the log is that of step 4.
    assert (result.step, result.stopped_by, result.exit_code) == (4, "SIGPIPE", 141)
    assert checkpoints.list_checkpoints(result.folder.checkpoints)[-1].name == "ckpt-4"
