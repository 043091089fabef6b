"""RunningWeight and what the distiller shows: hand numbers, parts, empty steps, precision."""

import numpy as np
import pytest
import tensorflow as tf
import tf_keras as keras
from test_distiller import OneConv, batch_of, distiller

from fgfi_tf.imitation.distiller import OBSERVED, Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.imitation.weight import RunningWeight


def test_the_weight_by_hand(run_mode):
    weight = RunningWeight(0.5, decay=0.75)
    update, read = run_mode(weight.update), run_mode(lambda: weight())
    assert float(read()) == 0.0  # nothing is known
    update(tf.constant(8.0), tf.constant(2.0))
    assert float(read()) == pytest.approx(0.5 * 8 / 2)
    update(tf.constant(4.0), tf.constant(6.0))
    # 0.75 * 0.25 * 8 + 0.25 * 4 = 2.5 over 0.75 * 0.25 * 2 + 0.25 * 6 = 1.875
    assert float(read()) == pytest.approx(0.5 * 2.5 / 1.875)
    for empty in (0.0, float("nan")):
        update(tf.constant(99.0), tf.constant(empty))  # a step without a position to imitate
        assert float(read()) == pytest.approx(0.5 * 2.5 / 1.875)


@pytest.mark.parametrize(
    ("share", "decay", "message"),
    [
        (0.0, 0.9, "the share of the imitation loss must be above 0; got 0.0"),
        (float("inf"), 0.9, "the share of the imitation loss must be above 0; got inf"),
        (float("nan"), 0.9, "the share of the imitation loss must be above 0; got nan"),
        (1.0, 1.0, "the decay of a running average must be at least 0 and below 1; got 1.0"),
    ],
)
def test_impossible_arguments_are_refused(share, decay, message):
    with pytest.raises(ValueError) as raised:
        RunningWeight(share, decay)
    assert str(raised.value) == message


class Known(OneConv):
    """Its detection losses are 3 and 1 + step, whatever its outputs."""

    def detection_losses(self, outputs, batch):
        return {"first": tf.constant(3.0), "second": 1.0 + tf.cast(batch["seed"][1], tf.float32)}


def known(weight, **options):
    layer = ImitationLoss((4,), kernel_initializer="glorot_uniform")
    model = Distiller(Known(penalty=0.1), OneConv(), layer, imitation_weight=weight, **options)
    model.compile(optimizer=keras.optimizers.SGD(0.0))
    return model


def shown(model, run_mode, steps, **batch):
    step, found = run_mode(model.train_step), []
    for _ in range(steps):
        found.append({name: float(value) for name, value in step(batch_of(**batch)).items()})
        model.reset_metrics()
    return found


def test_the_distiller_keeps_the_share(run_mode):
    model = known(RunningWeight(2.0, decay=0.5))
    first, second, third = shown(model, run_mode, 3)
    raw = first["imitation_loss_unweighted"]
    assert raw > 0 and first["imitation_loss"] == first["imitation_weight"] == 0.0
    # Detection losses 4, 5, 6 (the penalty is none), the imitation loss stays: 2 * 4 / raw, then
    # 2 * (0.25 * 4 + 0.5 * 5) / (0.75 * raw).
    assert second["imitation_weight"] == pytest.approx(2 * 4 / raw, rel=1e-5)
    assert second["imitation_loss"] == pytest.approx(2 * 4, rel=1e-5)
    assert third["imitation_weight"] == pytest.approx(2 * 3.5 / 0.75 / raw, rel=1e-5)
    assert third["loss"] == pytest.approx(6 + third["penalty"] + third["imitation_loss"], rel=1e-5)


def test_the_average_runs_during_the_warm_up_and_the_weight_shown_is_the_schedules(run_mode):
    model = known(RunningWeight(1.0, decay=0.0), warmup_steps=2, end_step=3)
    found = shown(model, run_mode, 4)
    raw = found[0]["imitation_loss_unweighted"]
    weights = [step["imitation_weight"] for step in found]
    assert weights == pytest.approx([0, 0, 5 / raw, 0], rel=1e-5)
    assert [step["imitation_loss"] for step in found] == pytest.approx([0, 0, 5, 0], rel=1e-5)


def test_steps_without_objects_change_no_weight(run_mode):
    model = known(RunningWeight(1.0))
    shown(model, run_mode, 1)
    before = float(model.imitation_weight())
    empty = shown(model, run_mode, 1, objects=False)[0]
    assert empty["imitation_loss"] == empty["imitation_mask_share"] == 0.0
    assert float(model.imitation_weight()) == before > 0


def test_what_is_shown_beside_the_loss(run_mode):
    """The upper left of 2 x 3 cells is in the mask of both images; linear outputs live."""
    model = distiller(imitation_weight=0.25)
    found = shown(model, run_mode, 1)[0]
    assert found["imitation_mask_share"] == pytest.approx(1 / 6)
    assert found["imitation_active_share"] == 1.0
    assert found["imitation_weight"] == 0.25
    assert found["imitation_loss"] == pytest.approx(0.25 * found["imitation_loss_unweighted"], rel=1e-6)
    assert set(OBSERVED) <= found.keys() and "detection_loss" not in found


def test_the_mean_share_of_live_outputs_is_that_of_steps_with_a_mask(run_mode):
    model = distiller()
    step = run_mode(model.train_step)
    for objects in (False, True, False):
        logs = step(batch_of(objects=objects))
    assert float(logs["imitation_active_share"]) == 1.0
    assert float(logs["imitation_mask_share"]) == pytest.approx(1 / 18)


@pytest.mark.parametrize("parts", [1, 2])
def test_a_checkpoint_repeats_the_weight_bitwise(tmp_path, run_mode, parts):
    def made():
        keras.utils.set_random_seed(1)
        model = distiller(imitation_weight=RunningWeight(0.7), gradient_accumulation=parts)
        state = {"model": model, "weight": model.imitation_weight, "optimizer": model.optimizer}
        return model, run_mode(model.train_step), tf.train.Checkpoint(**state)

    whole, step, checkpoint = made()
    for number in range(4):
        if number == 2:
            path = checkpoint.write(str(tmp_path / "c"))
        step(batch_of())
    again, step, checkpoint = made()
    checkpoint.read(path).assert_existing_objects_matched()
    for _ in range(2):
        step(batch_of())
    assert float(again.imitation_weight()) > 0
    variables = [model.trained_variables + list(model.imitation_weight.variables) for model in (whole, again)]
    for first, second in zip(*variables, strict=True):
        np.testing.assert_array_equal(first.numpy(), second.numpy())
