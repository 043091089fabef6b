"""Weight files with changed bytes, cut short or of noise: every reader gives a sane result or one line."""

import os
import pathlib
import tempfile

import h5py
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pth_writer import save
from test_tf1_shuffledet import write_checkpoint

from fgfi_tf.errors import UserError
from fgfi_tf.interop.h5 import read_h5
from fgfi_tf.interop.pth import read_pth
from fgfi_tf.interop.pth_tensors import MAX_REPEATED
from fgfi_tf.models.shuffledet import tf1_weights as tf1_shuffledet

LONG = bool(os.environ.get("FGFI_LONG_TESTS"))
HERE = pathlib.Path(__file__).parent


def fuzz(examples):
    """The same few inputs at each run; with FGFI_LONG_TESTS many, and new ones."""
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow]
    return settings(
        max_examples=examples * (50 if LONG else 1),
        derandomize=not LONG,
        deadline=None,
        suppress_health_check=checks,
    )


@st.composite
def changed(draw, wholes):
    """One of ``wholes`` with some bytes changed, mostly in front, or cut short; or noise."""
    whole = draw(st.sampled_from(wholes))
    kind = draw(st.sampled_from(["bytes", "bytes", "bytes", "cut", "noise"]))
    if kind == "noise":
        return draw(st.binary(max_size=200))
    if kind == "cut":
        return whole[: draw(st.integers(0, len(whole) - 1))]
    last = draw(st.sampled_from([100, 1000, len(whole)]))
    content = bytearray(whole)
    for place in draw(st.lists(st.integers(0, min(last, len(whole)) - 1), min_size=1, max_size=4)):
        content[place] = draw(st.integers(0, 255))
    return bytes(content)


def arrays_or_one_line(read, path):
    try:
        arrays = read(path)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error) and len(str(error)) < 500
        return
    for key, array in arrays.items():
        assert isinstance(key, str) and isinstance(array, np.ndarray)
        assert array.size <= path.stat().st_size + MAX_REPEATED
        np.copy(array)  # its memory is there


def torch_files():
    state = {"a": np.arange(6, dtype=np.float32).reshape(2, 3), "b": {"c": [1, 2.5, None, ("x",)]}}
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder) / "a.pth"
        made = [save(state, path, zip_format).read_bytes() for zip_format in (True, False)]
    return made + [file.read_bytes() for file in sorted((HERE / "torch_files").glob("*.pth"))]


@fuzz(600)
@given(content=changed(torch_files()))
def test_pth(tmp_path, content):
    path = tmp_path / "a.pth"
    path.write_bytes(content)
    arrays_or_one_line(read_pth, path)


@fuzz(200)
@given(data=st.data())
def test_h5(tmp_path, data):
    whole, path = tmp_path / "whole.h5", tmp_path / "a.h5"
    if not whole.exists():
        with h5py.File(whole, "w") as file:
            for layer in ("block1_conv1", "block1_conv2"):
                file[f"model_weights/{layer}/{layer}/kernel:0"] = np.ones([3, 3, 3, 2], np.float32)
                file[f"model_weights/{layer}/{layer}/bias:0"] = np.ones(2, np.float32)
            file.create_dataset("fc1/kernel", data=np.ones([8, 8]), chunks=(4, 4), compression="gzip")
    path.write_bytes(data.draw(changed([whole.read_bytes()])))
    arrays_or_one_line(read_h5, path)


@fuzz(200)
@given(data=st.data())
def test_tf1_checkpoints(tmp_path, data):
    arrays = {f"conv{i}/W": np.ones([3, 3, 2, i], np.float32) for i in (1, 2, 3)}
    if not (tmp_path / "whole.index").exists():
        write_checkpoint(tmp_path, arrays, "whole")
    which = data.draw(st.sampled_from([".index", ".data-00000-of-00001"]))
    for suffix in (".index", ".data-00000-of-00001"):
        content = (tmp_path / f"whole{suffix}").read_bytes()
        (tmp_path / f"a{suffix}").write_bytes(data.draw(changed([content])) if suffix == which else content)
    path = tmp_path / "a"
    assert tf1_shuffledet.is_reference_checkpoint(path) is False
    try:
        found = tf1_shuffledet._read(path, list(arrays), backbone_hint=False)
    except UserError as error:
        assert str(path) in str(error) and "\n" not in str(error)
        return
    for name, value in arrays.items():  # a change that TensorFlow's checksums let pass changed nothing
        np.testing.assert_array_equal(found[name], value)


@pytest.mark.parametrize("path", ["~nosuchuser/vgg16.pth", "~nosuchuser/vgg16.h5"])
def test_the_home_of_nobody(path):
    read = read_pth if path.endswith("pth") else read_h5
    with pytest.raises(UserError, match=f"{path}: no such file"):
        read(pathlib.Path(path))
