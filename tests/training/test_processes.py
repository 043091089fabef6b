"""Training processes that are killed, stopped, or run out of disk: the same command goes on exactly."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import tensorflow as tf
import tiny_detector
import train
from voc_fixtures import write_devkit

from fgfi_tf.training.checkpoints import list_checkpoints

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {
    **os.environ,
    "PYTHONPATH": f"{HERE.parents[1]}{os.pathsep}{HERE}",
    "CUDA_VISIBLE_DEVICES": "-1",
    "PYTHONUNBUFFERED": "1",
}
ENVIRONMENT.pop("TF_CONFIG", None)
FLAGS = {
    "model": "tiny",
    "input_size": "64x96",
    "batch_size": 4,
    "learning_rate": 0.02,
    "drift": "10x6",
    "summary_every": 1,
    "picture_every": 0,
}


class Run:
    """One command for ``scripts/train.py`` with the tiny detectors."""

    def __init__(self, kitti: Path, folder: Path, **flags):
        self.folder = folder
        flags = {**FLAGS, "data_dir": kitti, "output_dir": folder, **flags}
        self.command = [
            sys.executable,
            str(HERE / "tiny_detector.py"),
            *(f"--{k}={v}" for k, v in flags.items()),
        ]

    def here(self) -> None:
        """Trains in this process, which has TensorFlow already."""
        tiny_detector.register()
        assert train.main(["train.py", *self.command[2:]]) == 0

    def start(self, **environment) -> subprocess.Popen:
        return subprocess.Popen(
            self.command,
            env={**ENVIRONMENT, **environment},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )

    def finish(self, process: subprocess.Popen | None = None, code: int = 0) -> str:
        process = process or self.start()
        output, _ = process.communicate(timeout=300)
        assert process.returncode == code, output[-3000:]
        return output

    def weights(self, step: int) -> dict[str, np.ndarray]:
        reader = tf.train.load_checkpoint(str(self.folder / "checkpoints" / f"ckpt-{step}"))
        names = [name for name in reader.get_variable_to_shape_map() if name.endswith("VARIABLE_VALUE")]
        return {name: reader.get_tensor(name) for name in names}


def wait_for_step(process: subprocess.Popen, step: int) -> str:
    """Reads the log until it tells of a step; what was read."""
    lines = []
    for line in process.stdout:
        lines.append(line)
        if line.startswith(f"step {step}/"):
            return "".join(lines)
    raise AssertionError(f"ended before step {step}: {''.join(lines)[-3000:]}")


def assert_same_weights(first: dict, second: dict, atol: float = 1e-6) -> None:
    assert first.keys() == second.keys()
    for name, value in first.items():
        np.testing.assert_allclose(second[name], value, atol=atol, rtol=0, err_msg=name)


@pytest.fixture(scope="module", name="teacher")
def teacher_fixture(kitti, tmp_path_factory):
    run = Run(kitti, tmp_path_factory.mktemp("teacher") / "run", model="tiny_teacher", steps=3)
    run.here()
    return {
        "imitation": "true",
        "teacher_model": "tiny_teacher",
        "teacher_checkpoint": run.folder,
        "imitation_warmup_steps": 20,
    }


@pytest.fixture(scope="module", name="whole")
def whole_fixture(kitti, tmp_path_factory, teacher):
    """30 steps without interruption, imitation from step 20 on."""
    run = Run(kitti, tmp_path_factory.mktemp("whole") / "run", steps=30, checkpoint_every=5, **teacher)
    run.here()
    return run


@pytest.mark.long  # the next but one has it of random moments
def test_killed_at_step_17_goes_on_exactly(kitti, tmp_path, teacher, whole):
    run = Run(kitti, tmp_path / "run", steps=30, checkpoint_every=5, **teacher)
    process = run.start()
    wait_for_step(process, 17)
    process.kill()
    process.communicate()
    assert list_checkpoints(run.folder / "checkpoints")[-1].name in ("ckpt-15", "ckpt-20")
    assert "going on from" in run.finish()
    assert_same_weights(whole.weights(30), run.weights(30))


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "code"), [("SIGTERM", 143), pytest.param("SIGINT", 130, marks=pytest.mark.long)]
)
def test_a_signal_saves_exits_with_its_code_and_goes_on_exactly(kitti, tmp_path, teacher, whole, name, code):
    run = Run(kitti, tmp_path / "run", steps=30, checkpoint_every=100, **teacher)
    process = run.start()
    wait_for_step(process, 7)
    process.send_signal(getattr(signal, name))
    output, _ = process.communicate(timeout=120)
    assert process.returncode == code, output[-3000:]
    assert f"stopped by {name} at step " in output
    run.here()
    assert_same_weights(whole.weights(30), run.weights(30))


@pytest.mark.slow
@pytest.mark.parametrize(("kills", "steps"), [(3, 300), pytest.param(40, 6000, marks=pytest.mark.long)])
def test_killed_at_random_moments_ends_as_if_it_had_not_been(kitti, tmp_path, kills, steps):
    command = [sys.executable, HERE / "crash_loop_program.py", kitti, tmp_path, str(kills), str(steps)]
    done = subprocess.run(command, env=ENVIRONMENT, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0, done.stderr[-3000:]
    # An attempt may find nothing left to do; most must have been cut short.
    assert int(done.stdout.split("killed ")[-1].split()[0]) >= 0.6 * kills
    whole, killed = (Run(kitti, tmp_path / name) for name in ("whole", "killed"))
    assert_same_weights(whole.weights(steps), killed.weights(steps), atol=0)
    results = [json.loads((run.folder / "evaluation/results.json").read_text()) for run in (whole, killed)]
    assert results[0] == results[1]
    assert [int(step) for step in results[0]] == list(range(20, steps + 1, 20))
    best = max(results[0], key=lambda step: (results[0][step]["mAP11"], -int(step)))
    for run in (whole, killed):
        files = ["ckpt-{}.data-00000-of-00001", "ckpt-{}.index", "model.json"]
        assert sorted(p.name for p in (run.folder / "best").iterdir()) == [
            name.format(best) for name in files
        ]
        left = {p.name for p in (run.folder / "checkpoints").iterdir()}
        kept = range(steps - 40, steps + 1, 10)
        assert left == {"model.json", *(name.format(step) for step in kept for name in files[:2])}


@pytest.mark.slow
def test_disk_too_small_for_a_checkpoint_keeps_the_older_ones(kitti, tmp_path):
    resource = pytest.importorskip("resource")
    run = Run(kitti, tmp_path / "run", steps=2, schedule_steps=4, checkpoint_every=2)
    run.here()
    run = Run(kitti, tmp_path / "run", steps=4, schedule_steps=4, checkpoint_every=2)

    def limit() -> None:  # writing beyond 20 kB fails, as on a full disk
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))

    process = subprocess.Popen(
        run.command,
        env=ENVIRONMENT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        preexec_fn=limit,
    )
    output, _ = process.communicate(timeout=300)
    assert process.returncode == 1
    assert "could not save checkpoint" in output and "kept: ckpt-2" in output
    assert "error: the last checkpoint, of step 4, could not be saved" in output
    assert "Traceback" not in output
    assert [p.name for p in list_checkpoints(run.folder / "checkpoints")] == ["ckpt-2"]
    run.here()


def test_wrong_flags_are_told_before_tensorflow_starts(kitti, tmp_path):
    process = Run(kitti, tmp_path / "run", imitaton="true").start(TF_CPP_MIN_LOG_LEVEL="3")
    output, _ = process.communicate(timeout=60)
    assert process.returncode == 1
    assert (
        output.strip().splitlines()[-1] == "train.py: error: unknown flag --imitaton; did you mean imitation?"
    )
    assert "Traceback" not in output
    assert tiny_detector.CLASSES  # the launcher is the module imported here


def cluster(count: int) -> list[dict[str, str]]:
    """TF_CONFIG of each of several workers on this machine."""
    sockets = [socket.socket() for _ in range(count)]
    for one in sockets:
        one.bind(("127.0.0.1", 0))
    addresses = [f"127.0.0.1:{one.getsockname()[1]}" for one in sockets]
    for one in sockets:
        one.close()
    return [
        {"TF_CONFIG": json.dumps({"cluster": {"worker": addresses}, "task": {"type": "worker", "index": i}})}
        for i in range(count)
    ]


@pytest.mark.slow
def test_two_workers_train_as_one_process_with_two_replicas(kitti, tmp_path, teacher):
    flags = {**teacher, "steps": 12, "checkpoint_every": 6, "imitation_warmup_steps": 4}
    together = Run(kitti, tmp_path / "one", virtual_cpus=2, **flags)
    together.finish()
    # The chief evaluates on its own while the other waits for it.
    run = Run(kitti, tmp_path / "two", **flags, evaluate_every=6)
    workers = [run.start(**environment) for environment in cluster(2)]
    first, second = [run.finish(worker) for worker in workers]
    assert "step 12/12" in first and "step 12/12" not in second
    assert "mean of nine" in first and "mean of nine" not in second
    assert len(list((run.folder / "best").glob("ckpt-*.index"))) == 1
    assert [p.name for p in list_checkpoints(run.folder / "checkpoints")] == ["ckpt-6", "ckpt-12"]
    assert not list((run.folder / "checkpoints").glob("worker-*"))
    expected, found = together.weights(12), run.weights(12)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-6, rtol=1e-6, err_msg=name)


@pytest.mark.long
def test_two_workers_train_faster_rcnn_on_images_of_many_shapes_as_one_process(tmp_path):
    data = write_devkit(tmp_path / "voc")
    flags = {
        "model": "faster_rcnn_vgg11",
        "input_size": "160x0",
        "width": 0.05,
        "drift": "150x100",  # of the tiny detector's flags: as if not given
        "dataset": "voc",
        "train_split": "2012_train",
        "learning_rate": 0.003,
        "clip_norm": 10,
    }
    guide = Run(data, tmp_path / "guide", **{**flags, "model": "faster_rcnn_vgg16", "steps": 1})
    guide.finish()
    flags |= {
        "imitation": "true",
        "teacher_model": "faster_rcnn_vgg16",
        "teacher_checkpoint": guide.folder,
        "imitation_weight": 0.01,
        "steps": 5,
    }
    together = Run(data, tmp_path / "one", virtual_cpus=2, **flags)
    together.finish()
    run = Run(data, tmp_path / "two", **flags)
    for worker in [run.start(**environment) for environment in cluster(2)]:
        run.finish(worker)
    expected, found = together.weights(5), run.weights(5)
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, atol=1e-5, rtol=1e-5, err_msg=name)


@pytest.mark.slow
def test_a_worker_alone_names_the_missing_one_and_gives_up(kitti, tmp_path):
    (environment, _) = cluster(2)
    missing = json.loads(environment["TF_CONFIG"])["cluster"]["worker"][1]
    process = Run(kitti, tmp_path / "run", steps=2, worker_timeout=3).start(**environment)
    output, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert (
        f"train.py: error: worker 1 ({missing}) did not answer within --worker_timeout=3 seconds"
        in output.splitlines()
    )


@pytest.mark.slow
def test_ctrl_c_ends_the_wait_for_the_other_workers(kitti, tmp_path):
    (environment, _) = cluster(2)
    host, _, port = json.loads(environment["TF_CONFIG"])["cluster"]["worker"][0].rpartition(":")
    process = Run(kitti, tmp_path / "run", steps=2).start(**environment)
    for _ in range(600):  # TensorFlow listens, then waits
        try:
            socket.create_connection((host, int(port)), timeout=1.0).close()
            break
        except OSError:
            time.sleep(0.1)
    process.send_signal(signal.SIGINT)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGINT, output  # 130 to a shell
    assert "Traceback" not in output


@pytest.mark.slow
def test_a_port_in_use_is_named(kitti, tmp_path):
    (environment, _) = cluster(2)
    address = json.loads(environment["TF_CONFIG"])["cluster"]["worker"][0]
    with socket.socket() as taken:
        taken.bind(("0.0.0.0", int(address.rsplit(":", 1)[1])))
        taken.listen()
        process = Run(kitti, tmp_path / "run", steps=2).start(**environment)
        output, _ = process.communicate(timeout=120)
    assert process.returncode == 1
    assert f"cannot listen on {address}, which this worker is to have: is the port in use?" in output
    assert "Traceback" not in output


@pytest.mark.slow
@pytest.mark.parametrize(
    "killed", [pytest.param(0, id="chief", marks=pytest.mark.long), pytest.param(1, id="worker")]
)
def test_a_killed_worker_is_restarted_and_training_goes_on(kitti, tmp_path, killed):
    # Whoever starts the killed one again gives it the same flags, --overwrite among them.
    (tmp_path / "cluster.cfg").write_text("--overwrite=true\n")
    run = Run(kitti, tmp_path / "run", steps=200, checkpoint_every=10, flagfile=tmp_path / "cluster.cfg")
    environments = cluster(2)
    workers = [run.start(**environment) for environment in environments]
    wait_for_step(workers[0], 25)
    workers[killed].kill()
    workers[killed].communicate()
    workers[killed] = run.start(**environments[killed])
    outputs = [run.finish(worker) for worker in workers]
    assert "a worker of the cluster is gone" in outputs[1 - killed]
    assert "going on from" in outputs[0]
    assert "finished at step 200" in outputs[0]


@pytest.mark.slow
def test_sigterm_of_one_worker_stops_all_after_a_checkpoint(kitti, tmp_path):
    run = Run(kitti, tmp_path / "run", steps=100_000, checkpoint_every=50_000)
    workers = [run.start(**environment) for environment in cluster(2)]
    wait_for_step(workers[0], 5)
    workers[1].send_signal(signal.SIGTERM)
    outputs = [run.finish(worker, 143) for worker in workers]
    assert "stopped by SIGTERM" in outputs[1]
    assert "stopped by a signal to another worker" in outputs[0]
    assert len(list_checkpoints(run.folder / "checkpoints")) == 1
