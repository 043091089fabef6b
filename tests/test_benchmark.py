"""The benchmark's own arithmetic, and that both sides of it compute the same thing."""

import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fgfi_tf.errors import UserError

SCRIPTS = Path(__file__).resolve().parent.parent / "scripts"


@pytest.fixture(autouse=True)
def _scripts_on_path(monkeypatch):
    monkeypatch.syspath_prepend(str(SCRIPTS))


def test_contenders_take_turns_after_the_warm_up():
    from benchmark import timing

    order = []
    contenders = {"a": lambda: order.append("a"), "b": lambda: order.append("b")}
    measurements = timing.alternate(contenders, 2, warmup=1, units=3.0)
    assert "".join(order) == "ababab"
    assert [len(m.seconds) for m in measurements] == [2, 2]
    assert [len(m.cpu_seconds) for m in measurements] == [2, 2]


def test_ratio_spread_and_rate():
    from benchmark import timing

    ours = timing.Measurement("ours", [1.0, 2.0, 4.0], [1.0, 1.0, 1.0], units=8)
    theirs = timing.Measurement("theirs", [5.0, 5.0, 10.0], [4.0, 4.0, 4.0])
    result = timing.Result("case", "title", [ours, theirs], "note")
    assert result.ratio(theirs) == 0.4
    assert result.cpu_ratio(theirs) == 0.25
    assert ours.spread == 1.5
    assert ours.rate == 4.0
    assert "| theirs | 5000.00 | 5000.00 | 100% | 4000.00 | 0.40 | 0.25 | 0.2 |" in result.to_markdown()
    assert result.to_json()["contenders"][1]["minimum"] == 5.0


def test_a_fresh_contender_is_made_for_its_turn_and_gone_after_it():
    from benchmark import timing

    events = []

    class Stream:
        def __init__(self):
            events.append("made")

        def __call__(self):
            events.append("ran")

        def __del__(self):
            events.append("gone")

    contenders = {"stream": timing.Fresh(Stream), "other": lambda: events.append("other")}
    timing.alternate(contenders, 2, warmup=0)
    assert events == ["made", "ran", "gone", "other"] * 2


def test_a_budget_ends_the_rounds_but_leaves_three():
    from benchmark import timing

    (measured,) = timing.alternate({"a": lambda: None}, 50, warmup=0, budget=1e-9)
    assert len(measured.seconds) == timing.LEAST_ROUNDS == 3


def test_units_may_differ_between_contenders():
    from benchmark import timing

    units = {"a": 2.0, "b": 6.0}
    measured = timing.alternate({"a": lambda: None, "b": lambda: None}, 1, warmup=0, units=units)
    assert [m.units for m in measured] == [2.0, 6.0]


def test_a_loss_that_is_not_finite_is_told():
    from benchmark import timing

    with pytest.raises(FloatingPointError, match="ours: the loss is nan"):
        timing.alternate({"ours": lambda: float("nan")}, 1)


def _measured(**seconds):
    from benchmark import timing

    rows = [timing.Measurement(name, [value], [value / 2]) for name, value in seconds.items()]
    return timing.Result("case", "title", rows)


def test_shares_and_rates_by_hand():
    from benchmark import input_pipeline, parts, processes, steps

    result = _measured(ours=2.0, without=1.5)
    result.measurements[1].name = steps.NO_LAYER
    assert "takes 25.0% of the step (of its CPU time 25.0%" in steps.layer_share(result)
    result = _measured(step=4.0, mask=0.1)
    result.measurements[0].name = parts.STEP
    assert parts.share_of(result, "mask") == 0.025
    result = _measured(pipeline=2.0, decoding=1.5, step=0.5)
    names = (input_pipeline.PIPELINE, input_pipeline.DECODING, input_pipeline.STEP)
    for row, name, units in zip(result.measurements, names, (60, 60, 2), strict=True):
        row.name, row.units = name, units
    # 30 images/s of the pipeline against 40 decoded and 4 used
    assert "delivers 0.75 of bare decoding (aim: 0.9) and 7.5 times" in input_pipeline.rates(result)
    assert processes.overhead(10.0, 8.0) == pytest.approx(0.25)


def test_rows_of_processes_by_hand():
    from benchmark import processes, timing

    rows = processes._rows(
        {
            "one": {"seconds": [0.5, 0.5, 2.0], "loss": 3.0},
            "two": {"seconds": [1.0], "loss": 3.0},
            "late": {"seconds": [], "loss": float("nan")},
        },
        4,
    )
    assert [row["images/s"] for row in rows[:2]] == [8.0, 4.0]
    assert rows[1]["first / this"] == 0.5
    table = timing.Table("fast_step", "title", rows, "note")
    assert "| two | 1000.00 | 1000.00 | 1 | 4.00 | 0.50 | 3.00 |" in table.to_markdown()
    assert "| late | nan |" in table.to_markdown()
    assert table.to_json()["rows"][0]["steps"] == 3


def test_the_work_of_one_convolution_by_hand():
    from benchmark import limits

    from fgfi_tf.models.convolutions import ConvBN

    grouped = ConvBN(12, 6, groups=3)  # 4 channels of each group go into 2
    work = limits.convolution_work(grouped, (2, 5), training=False)
    assert (work.flops, work.values) == (2 * 10 * 4 * 6, 10 * 12 + 10 * 6)
    work = limits.convolution_work(grouped, (2, 5), training=True)
    assert (work.flops, work.values) == (3 * 480, 3 * 120 + 11 * 60)
    depthwise = ConvBN(8, 8, 3, 2, depthwise=True)
    work = limits.convolution_work(depthwise, (2, 5), training=False)
    assert (work.flops, work.values) == (2 * 10 * 9 * 8, 40 * 8 + 10 * 8)
    stem = ConvBN(3, 4, 3)  # no gradient of its input
    assert limits.convolution_work(stem, (1, 1), training=True).flops == 2 * 2 * 27 * 4


@pytest.mark.parametrize(
    "variant, published", [("shuffledet_1x", 5.1), ("shuffledet_0.5x", 1.5), ("shuffledet_0.25x", 0.67)]
)
def test_the_work_of_the_networks_is_about_what_the_paper_says(variant, published):
    from benchmark import limits

    from fgfi_tf.models.shuffledet import ShuffleDet

    detector = ShuffleDet(variant)  # 384 x 1248
    multiplications = limits.network_work(detector, training=False, with_head=False).flops / 2e9
    assert multiplications == pytest.approx(published, rel=0.06)


def test_rates_and_their_shares_by_hand():
    from benchmark import limits, timing

    step = timing.Measurement("ours", [0.5, 0.5], [1.0, 1.0], units=4.0)
    found = limits.row(step, limits.Work(2e9, 1e9), value_bytes=4, rate=16e9, bandwidth=32e9)
    assert found["GFLOP/s"] == 4.0 and found["of the product's"] == 0.25
    assert found["GB/s"] == 8.0 and found["of the copy's"] == 0.25 and found["images/s"] == 8.0


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc/self/status")
def test_the_peak_of_a_process_is_not_its_parents():
    from benchmark import resident

    program = "from benchmark import resident; print(resident.most_resident(), resident.resident())"
    held = np.ones(2**30, np.uint8)  # 1 GB more than the child needs
    done = subprocess.run([sys.executable, "-c", program], cwd=SCRIPTS, capture_output=True, check=True)
    peak, now = map(float, done.stdout.split())
    assert now <= peak < resident.most_resident() - held.nbytes / 2**21


SMALL = ("--size=64x128", "--models=shuffledet_0.25x", "--batch=1", "--repeats=1", "--warmup=0")
FRCNN = ("--frcnn_size=160x192", "--frcnn_width=0.125", "--frcnn_batch=1", "--repeats=1")
PROCESSES = ("--process_rounds=1", "--process_steps=2", "--global_batch=2", "--notorch")


@pytest.mark.parametrize(
    "case, flags, expected",
    [
        ("kitti_eval", ("--frames=20,40", "--repeats=1"), "### kitti_eval: 40 frames"),
        ("voc_eval", ("--frames=20,40", "--repeats=1"), "### voc_eval: 40 images, 800 detections"),
        pytest.param(
            "pipeline",
            (*SMALL, "--drawn_frames=3", "--round_images=2"),
            "### pipeline: drawn jpg of 375x1242 to 64x128, batch 1",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "limits",
            (*SMALL, "--notorch"),
            "### limits: shuffledet_0.25x imitating, 64x128, batch 1, float32",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "inference", (*SMALL, "--notorch"), "All predictions are the same", marks=pytest.mark.long
        ),
        pytest.param(
            "imitation_loss",
            (*SMALL, "--objects=2"),
            "mask and loss, without the adaptation",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "frcnn_step",
            (*FRCNN, "--notorch"),
            "vgg11 imitating vgg16, width 0.125, 160x192, batch 1",
            marks=pytest.mark.slow,
        ),
        pytest.param(
            "frcnn_inference,frcnn_parts",
            (*FRCNN, "--notorch"),
            "### frcnn_parts, RoIAlign with gradient",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "yolo_step,yolo_inference",
            ("--yolo_size=64x64", "--yolo_width=0.125", "--yolo_batch=1", "--repeats=1", "--notorch"),
            "### yolo_inference: yolov2_0.25x, 64x64, batch 1",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "ssd_inference",
            ("--ssd_batch=1", "--repeats=1", "--notorch"),
            "### ssd_inference: ssd300_vgg16, 300x300, batch 1",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "fpn_step,fpn_inference",
            ("--fpn_size=64x64", "--fpn_batch=1", "--repeats=1", "--notorch"),
            "### fpn_inference: faster_rcnn_resnet50_fpn, 64x64, batch 1",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "fast_step",
            (*SMALL, *PROCESSES, "--fast=none"),
            "0.25x with imitation, 64x128, batch 2",
            marks=pytest.mark.long,
        ),
        pytest.param(
            "peak_memory",
            (*SMALL, *FRCNN, "--memory_of=shuffledet,faster_rcnn,ssd", "--ssd_batch=1", "--notorch"),
            "### peak_memory: ssd300_vgg16, 300x300, batch 1",
            marks=pytest.mark.long,
        ),
    ],
)
def test_each_case_runs_at_a_tiny_size(case, flags, expected, tmp_path, capsys):
    _script().main(["benchmark.py", f"--cases={case}", f"--output_dir={tmp_path}", *flags])
    assert expected in capsys.readouterr().out
    report = json.loads((tmp_path / "benchmark.json").read_text())
    assert {"CPU", "TensorFlow", "TensorFlow threads", "PyTorch"} <= set(report["environment"])
    assert report["results"][0]["case"].startswith(case.split(",")[0])
    assert expected in (tmp_path / "benchmark.md").read_text()


def test_unknown_configurations_are_told():
    with pytest.raises(UserError, match="--fast: unknown configuration 'x'; known are none, bfloat16"):
        _script().main(["benchmark.py", "--cases=fast_step", "--fast=x"])


def test_unknown_families_are_told():
    with pytest.raises(UserError, match="--memory_of: unknown family 'x'; known are shuffledet, faster_rcnn"):
        _script().main(["benchmark.py", "--cases=peak_memory", "--memory_of=x"])


def test_made_up_objects_lie_in_the_image():
    from benchmark import workload

    batch = workload.make_batch(2, (96, 320), objects=7)
    assert batch["boxes"].shape == (2, 7, 4)
    assert np.all(batch["boxes"][..., :2] >= 0)
    assert np.all(batch["boxes"][..., 2:] <= [319, 95])
    assert np.all(batch["boxes"][..., 2:] > batch["boxes"][..., :2])


def _script():
    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPTS / "benchmark.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


def test_an_unknown_case_is_told():
    with pytest.raises(UserError, match="unknown case 'nonsense'; known are imitation_step"):
        _script().main(["benchmark.py", "--cases=nonsense"])


def test_the_step_without_the_layer_has_none():
    """A method that it overrides must be one that the distiller calls."""
    from benchmark import workload
    from benchmark.steps import TeacherOnly

    student, teacher = workload.seeded_pair("shuffledet_0.25x", (32, 64))
    batch = workload.prepared(student, workload.make_batch(2, (32, 64)))
    model = workload.make_distiller(student, teacher, distiller_class=TeacherOnly)
    assert float(model.train_step(batch)["imitation_loss"]) < 1e-20
