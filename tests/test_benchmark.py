"""The benchmark's own arithmetic, and that both sides of it compute the same thing."""

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


def test_made_up_objects_lie_in_the_image():
    from benchmark import workload

    batch = workload.make_batch(2, (96, 320), objects=7)
    assert batch["boxes"].shape == (2, 7, 4)
    assert np.all(batch["boxes"][..., :2] >= 0)
    assert np.all(batch["boxes"][..., 2:] <= [319, 95])
    assert np.all(batch["boxes"][..., 2:] > batch["boxes"][..., :2])


def test_an_unknown_case_is_told():
    import importlib.util

    spec = importlib.util.spec_from_file_location("benchmark_script", SCRIPTS / "benchmark.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    with pytest.raises(UserError, match="unknown case 'nonsense'; known are imitation_step"):
        script.main(["benchmark.py", "--cases=nonsense"])


@pytest.mark.slow
def test_both_sides_have_the_same_losses_and_gradients():
    pytest.importorskip("torch")
    from benchmark import steps, torch_shuffledet, workload

    size = (64, 128)
    student = workload.seeded_detector("shuffledet_0.25x", size, seed=0)
    teacher = workload.seeded_detector(workload.TEACHER, size, seed=1)
    batch = workload.prepared(student, workload.make_batch(2, size))
    ours = workload.make_distiller(student, teacher)
    theirs = torch_shuffledet.TorchImitationStep(student, teacher, ours.imitation, batch)
    assert "Same losses" in steps.check_equal(ours, theirs, batch)
