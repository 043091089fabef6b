"""TF_CONFIG: what is refused and how, how it is made of Slurm's variables, and waiting for workers."""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fgfi_tf.errors import UserError
from fgfi_tf.training import cluster

ROOT = Path(__file__).resolve().parents[2]
TWO = {"worker": ["a:1", "b:2"]}


def config(**parts) -> dict[str, str]:
    return {"TF_CONFIG": json.dumps(parts)}


def test_a_worker_of_two():
    found = cluster.read_cluster(config(cluster=TWO, task={"type": "worker", "index": 1}))
    assert found.workers == [("worker", 0, "a:1"), ("worker", 1, "b:2")]
    assert found.address == "b:2"


def test_the_chief_is_the_first_worker_and_an_index_may_be_text():
    addresses = {"worker": ["a:1"], "chief": ["c:3"], "ps": ["d:4"]}
    found = cluster.read_cluster(config(cluster=addresses, task={"type": "worker", "index": "0"}))
    assert found.workers == [("chief", 0, "c:3"), ("worker", 0, "a:1")]
    assert found.address == "a:1"


@pytest.mark.parametrize(
    "environment",
    [
        {},
        {"TF_CONFIG": " "},
        config(cluster={"worker": ["a:1"]}),
        config(cluster={"chief": ["a:1"]}, task={}),
    ],
)
def test_one_worker_is_no_cluster(environment):
    assert cluster.read_cluster(environment) is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{", "it is not JSON"),
        ("[]", 'it has no "cluster"'),
        ({"task": {"type": "worker", "index": 0}}, 'it has no "cluster"'),
        ({"cluster": {}}, 'the cluster has no "worker"'),
        ({"cluster": {"worker": "a:1,b:1"}}, '"worker" is no list of host:port'),
        ({"cluster": {"worker": ["a", "b"]}}, '"worker" is no list of host:port'),
        ({"cluster": TWO}, 'it has no "task" with "type" and "index"'),
        ({"cluster": TWO, "task": {"index": 0}}, 'it has no "task" with "type" and "index"'),
        (
            {"cluster": TWO, "task": {"type": "chief", "index": 0}},
            "the task's type is 'chief', the cluster has worker",
        ),
        (
            {"cluster": TWO, "task": {"type": "worker", "index": 2}},
            "the task's index is 2, the cluster's go from 0 to 1",
        ),
        ({"cluster": TWO, "task": {"type": "worker", "index": -1}}, "the task's index is -1"),
        ({"cluster": TWO, "task": {"type": "worker", "index": "one"}}, "the task's index is 'one'"),
    ],
)
def test_malformed(text, message):
    with pytest.raises(UserError) as raised:
        cluster.read_cluster({"TF_CONFIG": text if isinstance(text, str) else json.dumps(text)})
    assert str(raised.value).startswith(f"TF_CONFIG is malformed: {message}")
    assert '; expected {"cluster": {"worker": ' in str(raised.value)
    assert "\n" not in str(raised.value)


ALONE = {"worker": ["a:1"]}


@pytest.mark.parametrize("cluster_of", [TWO, ALONE], ids=["two", "alone"])
@pytest.mark.parametrize(
    ("task", "message"),
    [
        ("[]", 'it has no "task" with "type" and "index"'),
        ("null", 'it has no "task" with "type" and "index"'),
        ('"worker"', 'it has no "task" with "type" and "index"'),
        ('{"type": "worker", "index": "x"}', "the task's index is 'x'"),
        ('{"type": "worker", "index": {}}', "the task's index is {}"),
        ('{"type": "worker", "index": []}', "the task's index is []"),
        ('{"type": "worker", "index": null}', "the task's index is None"),
        ('{"type": "worker", "index": true}', "the task's index is True"),
        ('{"type": "worker", "index": 1e400}', "the task's index is inf"),
        ('{"type": "worker", "index": NaN}', "the task's index is nan"),
        ('{"type": "worker", "index": 0.0}', "the task's index is 0.0"),
        ('{"type": "worker", "index": "\u0661"}', "the task's index is '\u0661'"),
        ('{"type": "worker", "index": "3_8"}', "the task's index is '3_8'"),
        ('{"type": "worker", "index": ' + "9" * 4000 + "}", "the task's index is 99999"),
        ('{"type": "evaluator", "index": 0}', "the task's type is 'evaluator', the cluster has worker"),
        ('{"type": [], "index": 0}', "the task's type is [], the cluster has worker"),
        ('{"type": null, "index": 0}', "the task's type is None, the cluster has worker"),
    ],
)
def test_malformed_tasks(cluster_of, task, message):
    with pytest.raises(UserError) as raised:
        cluster.read_cluster({"TF_CONFIG": f'{{"cluster": {json.dumps(cluster_of)}, "task": {task}}}'})
    assert str(raised.value).startswith(f"TF_CONFIG is malformed: {message}")
    assert len(str(raised.value)) < 300


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("{}", 'it has no "cluster"'),
        ("null", 'it has no "cluster"'),
        ('{"cluster": []}', 'it has no "cluster"'),
        ('{"cluster": {"worker": null}}', '"worker" is no list of host:port'),
        ('{"cluster": {"worker": []}}', 'the cluster has no "worker"'),
        ('{"cluster": {"worker": ["a:x", "b:1"]}}', '"worker" is no list of host:port'),
        ('{"cluster": {"worker": ["a:1", "b:65536"]}}', '"worker" is no list of host:port'),
        ('{"cluster": {"worker": ["a:1", "a:1"]}}', "a:1 is the address of two workers"),
        ("[" * 100_000, "it is not JSON"),
        ('{"cluster": ' * 100_000, "it is not JSON"),
        ('{"cluster": {"worker": [' + "9" * 5000 + "]}}", ""),
    ],
    ids=lambda text: text[:30],
)
def test_malformed_clusters(text, message):
    with pytest.raises(UserError) as raised:
        cluster.read_cluster({"TF_CONFIG": text})
    assert str(raised.value).startswith(f"TF_CONFIG is malformed: {message}")


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
tasks = json_values | st.fixed_dictionaries({"type": st.just("worker") | json_values, "index": json_values})


@settings(max_examples=200, deadline=None)
@given(
    st.fixed_dictionaries(
        {"cluster": st.sampled_from([TWO, ALONE]) | st.dictionaries(st.just("worker"), json_values)},
        optional={"task": tasks},
    )
)
def test_any_tf_config_is_refused_in_a_line_or_names_a_worker(found):
    try:
        read = cluster.read_cluster({"TF_CONFIG": json.dumps(found)})
    except UserError as error:
        assert "TF_CONFIG is malformed" in str(error)
    else:
        assert read is None or read.address in TWO["worker"]


@pytest.mark.parametrize(
    ("text", "nodes"),
    [
        ("login", ["login"]),
        ("gpu1,gpu2", ["gpu1", "gpu2"]),
        ("gpu[01-03,07],login", ["gpu01", "gpu02", "gpu03", "gpu07", "login"]),
        ("r[1-2]n[08-09]-ib", ["r1n08-ib", "r1n09-ib", "r2n08-ib", "r2n09-ib"]),
        ("n[9-11]", ["n9", "n10", "n11"]),
    ],
)
def test_slurm_node_lists(text, nodes):
    assert list(cluster.expand_nodes(text)) == nodes


def slurm(nodes: str, tasks: int, rank: int) -> dict[str, str]:
    return {"SLURM_STEP_NODELIST": nodes, "SLURM_STEP_NUM_TASKS": str(tasks), "SLURM_PROCID": str(rank)}


def test_slurm_tasks_are_workers():
    found = cluster.read_cluster({"TF_CONFIG": cluster.slurm_config(slurm("gpu[1-2]", 2, 1), port=77)})
    assert (found.address, found.workers[0]) == ("gpu2:77", ("worker", 0, "gpu1:77"))
    # Two tasks a node: neighbours share a node and need ports of their own.
    found = cluster.read_cluster({"TF_CONFIG": cluster.slurm_config(slurm("gpu[1-2]", 4, 2), port=77)})
    assert [address for *_, address in found.workers] == ["gpu1:77", "gpu1:78", "gpu2:77", "gpu2:78"]
    assert found.address == "gpu2:77"
    assert cluster.read_cluster({"TF_CONFIG": cluster.slurm_config(slurm("gpu1", 1, 0))}) is None


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"SLURM_STEP_NODELIST": ""},
            "SLURM_STEP_NODELIST=: a list of nodes is expected, like gpu[01-03],login",
        ),
        ({"SLURM_STEP_NODELIST": "gpu[1-"}, "SLURM_STEP_NODELIST=gpu[1-: a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu[]"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu[a-b]"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu[1-2]]"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu[[1-2]]"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu1,,gpu2"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu1 gpu2"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu[\u0661-\u0662]"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NODELIST": "gpu[3-1]"}, "SLURM_STEP_NODELIST=gpu[3-1]: a range ends before it begins"),
        ({"SLURM_STEP_NODELIST": "a[1-999999999][3-1],b"}, "a range ends before it begins"),
        ({"SLURM_STEP_NODELIST": "gpu[1-999999999]"}, "gpu[1-999999999] lists more than 100000 nodes"),
        ({"SLURM_STEP_NODELIST": "a" + "[1-9]" * 2000}, "lists more than 100000 nodes"),
        ({"SLURM_STEP_NODELIST": "a[1-" + "9" * 5000 + "]"}, "a list of nodes is expected"),
        ({"SLURM_STEP_NUM_TASKS": ""}, "SLURM_STEP_NUM_TASKS=: a whole number is expected"),
        ({"SLURM_STEP_NUM_TASKS": "two"}, "SLURM_STEP_NUM_TASKS=two: a whole number is expected"),
        ({"SLURM_STEP_NUM_TASKS": "0"}, "SLURM_STEP_NUM_TASKS=0: 1 to 100000 tasks are expected"),
        ({"SLURM_STEP_NUM_TASKS": "999999999"}, "SLURM_STEP_NUM_TASKS=999999999: 1 to 100000 tasks"),
        ({"SLURM_PROCID": ""}, "SLURM_PROCID=: a whole number is expected"),
        ({"SLURM_PROCID": "-1"}, "SLURM_PROCID=-1: a whole number is expected"),
        ({"SLURM_PROCID": "0_1"}, "SLURM_PROCID=0_1: a whole number is expected"),
        ({"SLURM_PROCID": "2"}, "SLURM_PROCID=2: the step's 2 tasks go from 0 to 1"),
    ],
    ids=lambda value: str(value)[:40],
)
def test_slurm_variables_that_are_none(changes, message):
    with pytest.raises(UserError) as raised:
        cluster.slurm_config({**slurm("gpu[1-2]", 2, 1), **changes})
    assert message in str(raised.value)
    assert len(str(raised.value)) < 200


@pytest.mark.parametrize(
    ("port", "message"),
    [
        ("x", "a port is expected"),
        ("", "a port is expected"),
        ("-1", "a port is expected"),
        ("0", "ports up to 65535"),
        ("65536", "ports up to 65535"),
        ("9" * 5000, "a port is expected"),
    ],
    ids=["x", "empty", "-1", "0", "65536", "long"],
)
def test_slurm_port(port, message, monkeypatch):
    for name, value in slurm("gpu[1-2]", 2, 1).items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        cluster.main(["cluster", port])


def test_slurm_mistakes():
    with pytest.raises(
        UserError, match="SLURM_STEP_NODELIST is not set: this is no task of a Slurm job step"
    ):
        cluster.slurm_config({})
    with pytest.raises(UserError, match="3 tasks on 2 nodes: every node needs as many"):
        cluster.slurm_config(slurm("gpu[1-2]", 3, 0))


def test_batch_script_for_slurm_starts_every_task_with_its_own_tf_config(tmp_path):
    # A stand-in for srun, which runs the command once for each task with Slurm's variables set.
    srun = tmp_path / "srun"
    srun.write_text(
        "#!/bin/bash\nfor rank in 0 1; do\n"
        'SLURM_STEP_NODELIST="node[08-09]" SLURM_STEP_NUM_TASKS=2 SLURM_PROCID=$rank "$@" || exit 1\ndone\n'
    )
    python = tmp_path / "python"  # tells of a training instead of starting it
    python.write_text(
        f'#!/bin/bash\nif [ "$1" = -m ]; then exec {sys.executable} "$@"; fi\necho "$TF_CONFIG"\necho "$@"\n'
    )
    for file in (srun, python):
        file.chmod(0o755)
    environment = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}", "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        ["bash", ROOT / "configs/cluster/slurm.sh", "--flagfile=a.cfg", "--output_dir=runs/b c"],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert lines[1::2] == ["scripts/train.py --flagfile=a.cfg --output_dir=runs/b c"] * 2
    for rank, line in enumerate(lines[::2]):
        found = json.loads(line)
        assert found["cluster"]["worker"] == ["node08:12345", "node09:12345"]
        assert found["task"] == {"type": "worker", "index": rank}


def test_kubernetes_manifest_gives_each_pod_its_tf_config():
    text = (ROOT / "configs/cluster/kubernetes.yaml").read_text()
    line = next(line for line in text.splitlines() if "cluster" in line and "task" in line)
    value = line.split("value: ", 1)[1].strip().strip("'").replace("$(INDEX)", "1")
    found = cluster.read_cluster({"TF_CONFIG": value})
    assert len(found.workers) == 2 and found.index == 1
    assert f"completions: {len(found.workers)}" in text and f"parallelism: {len(found.workers)}" in text


@pytest.fixture(name="watched")
def watched_fixture(monkeypatch):
    """One worker that listens, this one, and two that do not; the pipe whose end ends the watching."""
    with socket.socket() as listening, socket.socket() as closed:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        closed.bind(("127.0.0.1", 0))
        port = closed.getsockname()[1]
        workers = ["127.0.0.1:1", f"127.0.0.1:{listening.getsockname()[1]}", f"127.0.0.1:{port}"]
        task = {"type": "worker", "index": 0}
        monkeypatch.setenv("TF_CONFIG", json.dumps({"cluster": {"worker": workers}, "task": task}))
        reading, writing = os.pipe()
        with os.fdopen(reading) as stdin, os.fdopen(writing, "w") as end:
            monkeypatch.setattr(sys, "stdin", stdin)
            yield port, end


def test_a_worker_that_does_not_come_up_is_told_of_and_given_up(watched, monkeypatch, capsys):
    signals = []
    monkeypatch.setattr(os, "kill", lambda process, number: signals.append((process, number)))
    cluster.watch("train.py", timeout=0.5, patience=0.1, pause=10.0)
    name = f"worker 2 (127.0.0.1:{watched[0]})"
    assert capsys.readouterr().err.splitlines() == [
        f"waiting for {name}",
        f"train.py: error: {name} did not answer within --worker_timeout=0.5 seconds",
    ]
    assert signals == [(os.getppid(), signal.SIGKILL)]


def test_watching_ends_with_the_process(watched, monkeypatch, capsys):
    monkeypatch.setattr(os, "kill", lambda *_: pytest.fail("nothing is to be killed"))
    watched[1].close()
    cluster.watch("train.py", timeout=0.0, patience=30.0)
    assert capsys.readouterr().err == ""
