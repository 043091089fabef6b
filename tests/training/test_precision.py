"""What ``--mixed_precision`` means on machines that compute in bfloat16, and on those that emulate it."""

from pathlib import Path

import pytest
import tensorflow as tf
import tf_keras as keras

from fgfi_tf import devices
from fgfi_tf.training import precision, run

ZEN_4 = "processor\t: 0\nmodel name\t: AMD EPYC\nflags\t\t: fpu avx512f avx512_bf16 gfni\n"
CASCADE_LAKE = "processor\t: 0\nflags\t\t: fpu avx512f avx512_vnni\nbugs\t\t: spectre_v1\n"
SAPPHIRE_RAPIDS = "flags : fpu avx512f amx_bf16 amx_tile\n"
ARM = "processor\t: 0\nFeatures\t: fp asimd bf16\n"


def machine(monkeypatch, cpuinfo="", capabilities=()):
    gpus = [tf.config.PhysicalDevice(f"/gpu:{i}", "GPU") for i in range(len(capabilities))]
    details = {
        gpu.name: {} if value is None else {"compute_capability": value}
        for gpu, value in zip(gpus, capabilities, strict=True)
    }
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda kind: gpus if kind == "GPU" else [])
    monkeypatch.setattr(tf.config.experimental, "get_device_details", lambda gpu: details[gpu.name])

    def read_text(path):
        assert str(path) == "/proc/cpuinfo"
        if not cpuinfo:
            raise FileNotFoundError(path)
        return cpuinfo

    monkeypatch.setattr(Path, "read_text", read_text)


@pytest.mark.parametrize(
    "cpuinfo, capabilities, fast",
    [
        (ZEN_4, [], True),
        (SAPPHIRE_RAPIDS, [], True),
        (CASCADE_LAKE, [], False),
        (ARM, [], False),
        ("", [], False),
        (CASCADE_LAKE, [(8, 0), (9, 0)], True),
        (ZEN_4, [(9, 0), (7, 5)], False),
        (ZEN_4, [None], False),
    ],
)
def test_machines_that_compute_in_bfloat16(monkeypatch, cpuinfo, capabilities, fast):
    machine(monkeypatch, cpuinfo, capabilities)
    assert devices.computes_bfloat16() == fast
    assert precision.computed_in("auto") == ("bfloat16" if fast else "float32")
    assert bool(precision.warning("bfloat16")) == (not fast)
    with precision.precision("auto"):
        assert keras.mixed_precision.global_policy().name == ("mixed_bfloat16" if fast else "float32")
    assert keras.mixed_precision.global_policy().name == "float32"


@pytest.mark.parametrize(
    "name, kind", [("none", "float32"), ("float16", "float16"), ("bfloat16", "bfloat16")]
)
def test_what_is_said_is_done_on_every_machine(monkeypatch, name, kind):
    for cpuinfo in (ZEN_4, CASCADE_LAKE):
        machine(monkeypatch, cpuinfo)
        assert precision.computed_in(name) == kind
        assert not precision.warning(name) or name == "bfloat16"


@pytest.mark.parametrize("fast, kind", [(True, "bfloat16"), (False, "float32")])
def test_a_run_tells_what_it_computes_in(experiment, monkeypatch, fast, kind):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: fast)
    result = run.train(experiment(model="tiny_plain", mixed_precision="auto", steps=1))
    log = (result.folder.root / "train.log").read_text()
    assert f"on 1 device in {kind}; run folder" in log and "WARNING: this machine emulates" not in log


def test_a_run_that_emulates_says_so(experiment, monkeypatch):
    monkeypatch.setattr(precision, "computes_bfloat16", lambda: False)
    result = run.train(experiment(model="tiny_plain", mixed_precision="bfloat16", steps=1))
    log = (result.folder.root / "train.log").read_text()
    assert (
        "WARNING: this machine emulates bfloat16, which is slower than float32: --mixed_precision=auto" in log
    )
