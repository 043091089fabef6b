"""PyTorch's files read without PyTorch: those that PyTorch wrote, a hand-made writer, and an enemy."""

import importlib.util
import pathlib
import subprocess
import sys
import zipfile

import numpy as np
import pytest
from pth_writer import MAGIC, Raw, Tensor, Writer, integer, items, name, pickled, save, text

from fgfi_tf.errors import UserError
from fgfi_tf.interop.pth import read_pth

HERE = pathlib.Path(__file__).parent
DEEP = 200_000
FORMATS = pytest.mark.parametrize("zip_format", [True, False], ids=["new", "old"])


def same(arrays, expected):
    """Names in order, shapes, dtypes and values."""
    assert list(arrays) == list(expected)
    for key, value in expected.items():
        assert (arrays[key].dtype, arrays[key].shape) == (value.dtype, value.shape), key
        np.testing.assert_array_equal(arrays[key], value, key)


def refused(path, message, content=None, **kwargs):
    if content is not None:
        save(content, path, **kwargs)
    with pytest.raises(UserError, match=message) as caught:
        read_pth(path)
    assert str(caught.value).startswith(f"{path}: ") and len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize("file", ["old_stream2", "new_zip2", "checkpoint_stream2", "checkpoint_zip2"])
def test_files_that_pytorch_wrote(file):
    folder = HERE / "torch_files"
    same(read_pth(folder / f"{file}.pth"), np.load(folder / f"{file.split('_')[0]}.npz"))


def test_views_that_pytorch_wrote_by_hand():
    """Of ``base``, 0..23 as [2,3,4]: its transpose, rows 1 and 2 of its second half, every other element."""
    for file in ("old_stream2", "new_zip2"):
        arrays = read_pth(HERE / "torch_files" / f"{file}.pth")
        assert arrays["transposed"][3].tolist() == [[3, 15], [7, 19], [11, 23]]
        assert arrays["offset"].tolist() == [[16, 17, 18, 19], [20, 21, 22, 23]]
        assert arrays["strided"].tolist() == [[[1, 3], [9, 11]], [[13, 15], [21, 23]]]
        assert arrays["expanded"].tolist() == [[1.5, 1.5]] * 3
        assert (arrays["scalar"].shape, float(arrays["scalar"])) == ((), 2.5)
        assert (arrays["bfloat16"].dtype, arrays["bfloat16"].tolist()) == (np.float32, [0, 1, 3, 100])
        assert np.shares_memory(arrays["offset"], arrays["strided"])
        assert not arrays["offset"].flags.writeable


@pytest.mark.skipif(importlib.util.find_spec("torch") is None, reason="PyTorch is not installed")
def test_everything_that_this_pytorch_writes(tmp_path):
    subprocess.run([sys.executable, HERE / "torch_program.py", tmp_path], check=True)
    paths = sorted(tmp_path.glob("*.pth"))
    assert len(paths) == 20
    for path in paths:
        same(read_pth(path), np.load(tmp_path / f"{path.name.split('_')[0]}.npz"))


@FORMATS
def test_values_beside_the_tensors_are_passed_over(tmp_path, zip_format):
    weights = np.arange(6, dtype=np.float32).reshape(2, 3)
    others = {"a": 1, "b": [None, True, 2.5, -(2**70)], "c": ("x", ()), ("d", 1): {}}
    for content in (
        {"module.a.weight": weights, **others},
        {"model": {"a.weight": weights, **others}, "optimizer": {"state": {0: weights}}},
        {"state_dict": {"a.weight": weights}, "model": "vgg16"},
    ):
        same(read_pth(save(content, tmp_path / "a.pth", zip_format)), {"a.weight": weights})


def test_big_endian_archives(tmp_path):
    """The new format has the machine's byte order, the old one little-endian numbers from any machine."""
    state = {"a": np.array([1.5, -2.0]), "b": np.array([258], np.int32), "c": np.array([True, False])}
    same(read_pth(save(state, tmp_path / "a.pth", order="big")), state)
    kinds = ["torch.BFloat16Storage", "torch.ComplexFloatStorage"]
    bits = [np.array([0x3FC0, 0xC000], np.uint16), np.array([0x3F80000040000000], np.uint64)]
    tensors = [Tensor(b, 0, b.shape, (1,), kind) for b, kind in zip(bits, kinds, strict=True)]
    arrays = read_pth(save(dict(zip("ab", tensors, strict=True)), tmp_path / "a.pth", order="big"))
    same(arrays, {"a": np.array([1.5, -2.0], np.float32), "b": np.array([1 + 2j], np.complex64)})


def test_old_files_of_python_2(tmp_path):
    """Strings of bytes, ``OrderedDict`` made of a list of pairs, a storage that is a part of another one."""
    whole = np.arange(10, dtype=np.float32)
    writer = Writer()
    writer.storages.append(whole)
    view = items(text("part"), integer(4), integer(3))
    storage = (b"U\x07storage", name("torch.FloatStorage"), b"U\x010", b"U\x03cpu", integer(10), view)
    arguments = items(items(*storage) + b"Q", integer(1), items(integer(2)), items(integer(1)))
    tensor = name("torch._utils._rebuild_tensor") + arguments + b"R"
    pairs = b"](](U\x08a.weight" + tensor + b"ee"
    opcodes = name("collections.OrderedDict") + b"(" + pairs + b"tR"
    machine = writer.value({"little_endian": True})
    heads = [integer(MAGIC), integer(1001), machine, opcodes, b"](U\x010e"]
    path = tmp_path / "a.pth"
    path.write_bytes(b"".join(map(pickled, heads)) + (10).to_bytes(8, "little") + whole.tobytes())
    same(read_pth(path), {"a.weight": np.array([5, 6], np.float32)})


HOSTILE = {
    "a call": (name("builtins.eval") + items(text("open('ran', 'w')")) + b"R", "it holds builtins.eval"),
    "os": (b"cposix\nsystem\n" + items(text("touch ran")) + b"R", "it holds posix.system"),
    "a stack global": (text("os") + text("system") + b"\x93" + items(text("touch ran")) + b"R", "os.system"),
    "a dotted global": (text("torch") + text("serialization.load") + b"\x93", "torch.serialization.load"),
    "instances": (b"(" + text("touch ran") + b"ios\nsystem\n", "the pickle instruction INST"),
    "objects": (b"(" + name("os.system") + text("touch ran") + b"o", "it holds os.system"),
    "an extension": (b"\x82\x01", "the pickle instruction EXT1"),
    "a model": (name("torch.nn.modules.linear.Linear") + b")\x81}b", "Linear: save the model's state_dict"),
    "a called value": (text("a") + b")R", "a call of something that is no function"),
    "a called storage": (name("torch.FloatStorage") + b")R", "a call of torch.FloatStorage"),
    "attributes": (b"}}b", "attributes of a dict"),
    "a tensor as key": (b"}" + items(b"]") + b"Ns", "a list as the key"),
    "another reference": (items(*[text("module")] * 5) + b"Q", "a reference to something that is no storage"),
    "too few": (b"000R", "damaged"),
    "no memo": (b"h\x01", "damaged"),
    "no marks": (b"t", "damaged"),
    "nothing": (b"", "damaged"),
    "a long string": (b"X\xff\xff\xff\x7fa", "damaged"),
    "many bytes": (b"\x8e" + b"\xff" * 7 + b"\x7f", "damaged"),
}


@FORMATS
@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_pickles(tmp_path, monkeypatch, zip_format, case):
    monkeypatch.chdir(tmp_path)
    opcodes, message = HOSTILE[case]
    refused(tmp_path / "a.pth", message, {"a": np.zeros(2), "b": Raw(opcodes)}, zip_format=zip_format)
    assert not (tmp_path / "ran").exists()


def test_depth_and_sharing_cost_nothing(tmp_path):
    """200,000 lists in each other; 2^200 lists that are one; a key whose hash overflows the C stack."""
    path, weights = tmp_path / "a.pth", np.zeros(2)
    shared = b"]q\x00" + b"(h\x00h\x00eq\x00" * 200
    for opcodes in (b"]" * DEEP + b"a" * (DEEP - 1), b"]" + b"\x85" * DEEP, shared):
        same(read_pth(save({"a": weights, "b": Raw(opcodes)}, path)), {"a": weights})
    refused(path, "a tuple as the key", {"a": weights, "b": Raw(b"})" + b"\x85" * DEEP + b"Ns")})


@FORMATS
def test_sizes_that_are_not_there(tmp_path, zip_format):
    path, storage = tmp_path / "a.pth", np.arange(6, dtype=np.float32)
    for offset, shape, strides, message in (
        (0, (7,), (1,), "goes beyond its storage"),
        (4, (3,), (1,), "goes beyond its storage"),
        (0, (2, 4), (3, 1), "goes beyond its storage"),
        (0, (2,), (2**61,), "goes beyond its storage"),
        (-1, (2,), (1,), "a size that is no number"),
        (0, (2,), (-1,), "a size that is no number"),
        (0, (2**200,), (0,), "a size that is no number"),
        (0, (True,), (1,), "a size that is no number"),
        (0, (2.0,), (1,), "a size that is no number"),
        (0, (2**50,), (0,), "larger than its storage"),
        (0, (2,), (1, 1), "1 dimensions and 2 strides"),
        (0, (1,) * 33, (1,) * 33, "33 dimensions"),
    ):
        tensor = Tensor(storage, offset, shape, strides)
        refused(path, f"damaged .*{message}", {"a": tensor}, zip_format=zip_format)
    save({"a": Tensor(storage, 0, (3, 0), (2**50, 1)), "b": Tensor(storage, 5, (), ())}, path, zip_format)
    same(read_pth(path), {"a": np.zeros((3, 0), np.float32), "b": np.array(5, np.float32)})
    two = Tensor(storage, 0, (6,), (1,)), Tensor(storage, 0, (3,), (1,), "torch.DoubleStorage")
    refused(path, "storage 0 has two sizes", dict(zip("ab", two, strict=True)), zip_format=zip_format)
    refused(path, "another size", {"a": two[1]}, zip_format=zip_format)


@FORMATS
def test_every_truncation_is_noticed(tmp_path, zip_format):
    path = save({"a": np.arange(3.0), "b": np.arange(4, dtype=np.int32)}, tmp_path / "a.pth", zip_format)
    whole = path.read_bytes()
    for size in range(len(whole)):
        path.write_bytes(whole[:size])
        refused(path, "damaged or not a PyTorch file: .")


def test_archives_that_pytorch_would_not_write(tmp_path):
    path = save({"a": np.zeros(1000)}, tmp_path / "a.pth")
    with zipfile.ZipFile(path) as archive:
        members = {member: archive.read(member) for member in archive.namelist()}

    def rewrite(members, compression=zipfile.ZIP_STORED):
        with zipfile.ZipFile(path, "w", compression) as archive:
            for member, content in members.items():
                archive.writestr(member, content)

    rewrite(members, zipfile.ZIP_DEFLATED)
    refused(path, "a compressed archive")
    rewrite({**members, "archive/byteorder": b"middle"})
    refused(path, "byte order 'middle'")
    rewrite({member: content for member, content in members.items() if "pkl" not in member})
    refused(path, "an archive without data.pkl")
    rewrite({member: content for member, content in members.items() if "data/" not in member})
    refused(path, "damaged .*archive/data/0")
    rewrite({**members, "archive/data/0": bytes(7999)})
    refused(path, "storage 0 is of another size")
    rewrite(members)
    content = bytearray(path.read_bytes())
    content[content.index(bytes(8000)) + 4000] ^= 1
    path.write_bytes(content)
    refused(path, "Bad CRC-32 for file 'archive/data/0'")


def test_files_without_weights(tmp_path):
    path = tmp_path / "a.pth"
    refused(path, "no such file")
    refused(path, "holds a list, not a dictionary of weights", [1, 2])
    refused(path, "holds no weights", {"model": {}, "b": np.zeros(1)})
    path.write_bytes(b"")
    refused(path, "damaged or not a PyTorch file")
    path.write_bytes(pickled(integer(MAGIC + 1)))
    refused(path, "does not begin with PyTorch's magic number")
