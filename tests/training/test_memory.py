"""The line before the first step where a batch will not fit into memory."""

from __future__ import annotations

import psutil
import pytest
import tensorflow as tf

from fgfi_tf.models import registry
from fgfi_tf.training import memory, run
from fgfi_tf.training.config import ExperimentConfig


def test_bytes_of_what_a_network_computes():
    kernel = tf.zeros([3, 3, 3, 10])

    def network(inputs):
        # 16 x 24 x 10 twice, a view of them, and 4 x 6 x 10, float32
        features = tf.nn.relu(tf.nn.conv2d(inputs, kernel, 1, "SAME"))
        return tf.nn.max_pool2d(tf.reshape(features, [1, 16, 24, 10]), 4, 4, "SAME")

    assert memory.activation_bytes(network, 16, 24) == 4 * (2 * 16 * 24 * 10 + 4 * 6 * 10)


@pytest.mark.parametrize(
    ("name", "size", "measured"),
    # bytes an image that steps took on a CPU: the peak less what was there before and a gradient a weight
    [("shuffledet_0.5x", (192, 624), 198e6), ("shuffledet_0.25x", (192, 624), 158e6)],
)
def test_estimate_is_near_what_was_measured(name, size, measured):
    student = registry.build(name, input_size=size, class_names=("a", "b", "c"))
    each = memory.activation_bytes(lambda inputs: student(inputs, training=False), *size)
    assert 0.8 * measured < each < 1.25 * measured


class Student:
    """As wide as its input, twice: 8 bytes a pixel and channel."""

    input_size, resize, trainable_variables = (64, 96), "stretch", ()

    def __call__(self, inputs, training):
        return tf.nn.relu(inputs * 2.0)


EACH = 64 * 96 * 3 * 4 * 2  # bytes an image


def told(monkeypatch, free, student=None, over=None, **options) -> str:
    monkeypatch.setattr(memory, "free_bytes", lambda device: free)
    options = ExperimentConfig(batch_size=12, **options)
    return memory.warning(options, student or Student(), over or tf.distribute.OneDeviceStrategy("cpu:0"))


def test_what_fits_is_not_told(monkeypatch):
    assert told(monkeypatch, 12 * EACH) == ""
    assert told(monkeypatch, None) == ""
    assert told(monkeypatch, 3 * EACH, gradient_accumulation=4) == ""


def test_a_batch_that_does_not_fit_is_told_with_what_would(monkeypatch):
    monkeypatch.setattr(memory, "GB", 1e6)
    text = told(monkeypatch, 5 * EACH)
    assert text == (
        "a step on 12 images of 64 x 96 takes about 1.8 GB, and 0.7 GB of CPU:0 are free: it will hardly "
        "fit. --gradient_accumulation=3 would, or --batch_size=5"
    )
    assert "--gradient_accumulation=12 would, or --batch_size=1" in told(
        monkeypatch, 1.5 * EACH, gradient_accumulation=4
    )
    assert told(monkeypatch, EACH / 2).endswith("A smaller --input_size or --mixed_precision takes less")


def test_parts_of_a_cpu_share_its_memory(monkeypatch):
    class Two:
        """Two replicas on one CPU."""

        cluster_resolver = None

        class extended:  # noqa: N801
            worker_devices = ("/job:localhost/device:CPU:0", "/job:localhost/device:CPU:1")

    assert told(monkeypatch, 12 * EACH, over=Two()) == ""
    assert "a step on 12 images" in told(monkeypatch, 7 * EACH, over=Two())
    assert told(monkeypatch, 7 * EACH, over=Two()).endswith(
        "--gradient_accumulation=2 would, or --batch_size=6"
    )


def test_images_that_keep_their_aspect_ratio_are_at_most_2_to_1(monkeypatch):
    student = Student()
    student.resize = "shorter_side"
    for size, shape in (((600, 0), "600 x 1200"), ((600, 1000), "600 x 1000")):
        student.input_size = size
        assert f"a step on 12 images of {shape} takes" in told(monkeypatch, 10 * EACH, student)


def test_free_memory_of_this_machine():
    free = memory.free_bytes("/job:localhost/device:CPU:0")
    assert 0 < free < psutil.virtual_memory().total


def test_a_container_has_what_its_limit_leaves(tmp_path, monkeypatch):
    resident = psutil.Process().memory_info().rss
    for text, at_most in (("max\n", None), (f"{resident + 50_000_000}\n", 50_000_000)):
        (tmp_path / "memory.max").write_text(text)
        monkeypatch.setattr(memory, "CONTAINER_LIMIT", tmp_path / "memory.max")
        free = memory.free_bytes("/job:localhost/device:CPU:0")
        assert free > 50_000_000 if at_most is None else abs(free - at_most) < 20_000_000


def test_a_run_tells_it_before_its_first_step(experiment, monkeypatch, capsys, caplog):
    monkeypatch.setattr(memory, "free_bytes", lambda device: 1000)
    result = run.train(experiment(steps=1))
    assert "it will hardly fit" in caplog.text
    log = (result.folder.root / "train.log").read_text()
    assert log.index("it will hardly fit") < log.index("step 1/1")
