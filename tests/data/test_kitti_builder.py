"""Preparation: what comes back, in which order, and what a broken or changed folder does."""

import contextlib
import io
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import picture_files
import pytest
import tensorflow as tf
from PIL import Image

from fgfi_tf.data import kitti_text, registry, transforms
from fgfi_tf.data.records import record_offsets
from fgfi_tf.errors import UserError

CAR = "Car 0.25 1 1.85 2.25 3.5 20.75 18 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
VAN = CAR.replace("Car", "Van")
DONT_CARE = "DontCare -1 -1 -10 5 6 7 8 -1 -1 -1 -1000 -1000 -1000 -10"


def make_raw(root, count=4, suffix="png"):
    """Frames f3, f2, f1, f0 of 24 x 32 pixels; f1 has no objects."""
    rng = np.random.default_rng(0)
    for folder in ("training/image_2", "training/label_2", "ImageSets"):
        (root / folder).mkdir(parents=True)
    for i in range(count):
        pixels = rng.integers(0, 255, (24, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"training/image_2/f{i}.{suffix}")
        text = "" if i == 1 else f"{CAR}\n{VAN}\n{DONT_CARE}\n"
        (root / f"training/label_2/f{i}.txt").write_text(text)
    (root / "ImageSets/train.txt").write_text("".join(f"f{i}\n" for i in reversed(range(count))))
    return root


@pytest.mark.parametrize("suffix", ["png", "jpg"])
def test_everything_of_the_raw_layout_comes_back(tmp_path, suffix):
    root = make_raw(tmp_path, suffix=suffix)
    data = registry.open_split("kitti", root, "train", progress=False)
    assert (data.num_examples, data.max_boxes, len(data.learnt_names)) == (4, 8, 3)
    assert data.class_names == kitti_text.CLASS_NAMES
    assert data.image_ids == ("f3", "f2", "f1", "f0")
    samples = list(data.records().as_numpy_iterator())
    assert [s["image_id"].decode() for s in samples] == ["f3", "f2", "f1", "f0"]  # the split's order
    first = samples[0]
    assert first["image"] == (root / f"training/image_2/f3.{suffix}").read_bytes()  # not encoded anew
    assert first["image_size"].tolist() == [24, 32] and first["image_size"].dtype == np.int32
    np.testing.assert_array_equal(first["boxes"], np.float32([[2.25, 3.5, 20.75, 18]] * 2 + [[5, 6, 7, 8]]))
    assert first["classes"].tolist() == [0, 3, 8] and first["classes"].dtype == np.int32
    assert first["ignore"].tolist() == [False, True, True]
    attributes = first["attributes"]
    assert attributes["truncation"].tolist() == [0.25, 0.25, -1]
    assert attributes["occlusion"].tolist() == [1, 1, -1]
    assert attributes["dimensions"].shape == (3, 3) and attributes["location"][2].tolist() == [-1000] * 3
    assert attributes["alpha"][2] == attributes["rotation_y"][2] == -10
    empty = samples[2]
    assert empty["boxes"].shape == (0, 4) and empty["attributes"]["dimensions"].shape == (0, 3)


def test_labels_have_the_digits_of_the_text(tmp_path):
    data = registry.open_split("kitti", make_raw(tmp_path), "train", progress=False)
    labels = data.labels()
    assert [frame["image_id"] for frame in labels] == ["f3", "f2", "f1", "f0"]
    assert labels[0]["rotation_y"].tolist() == [1.57, 1.57, -10] and labels[0]["boxes"].dtype == np.float64
    assert labels[2]["boxes"].shape == (0, 4)


def test_any_record_is_read_by_its_index_in_a_graph(tmp_path):
    data = registry.open_split("kitti", make_raw(tmp_path), "train", progress=False)
    order = tf.data.Dataset.from_tensor_slices(np.array([2, 0, 3, 0], np.int64))
    names = [s["image_id"].numpy().decode() for s in order.map(data.sample)]
    assert names == ["f1", "f3", "f0", "f3"]


def test_test_frames_have_no_objects(tmp_path):
    root = make_raw(tmp_path)
    (root / "testing/image_2").mkdir(parents=True)
    Image.new("RGB", (32, 24)).save(root / "testing/image_2/t0.png")
    data = registry.open_split("kitti", root, "test", progress=False)
    (sample,) = data.records().as_numpy_iterator()
    assert sample["image_id"] == b"t0" and sample["boxes"].shape == (0, 4)
    assert data.labels()[0]["boxes"].shape == (0, 4) and data.max_boxes == 8


def test_records_are_written_once_and_anew_when_the_raw_files_change(tmp_path, caplog):
    root = make_raw(tmp_path)
    registry.open_split("kitti", root, "train", progress=False)
    (first,) = (tmp_path / "tfrecords").rglob("*.tfrecord*")
    written = first.stat().st_mtime_ns
    registry.open_split("kitti", root, "train", progress=False)
    assert list((tmp_path / "tfrecords").rglob("*.tfrecord*")) == [first]
    assert first.stat().st_mtime_ns == written
    (root / "training/label_2/f3.txt").write_text(f"{CAR}\n")
    data = registry.open_split("kitti", root, "train", progress=False)
    assert next(iter(data.records()))["boxes"].shape == (1, 4)
    assert "have changed since" in caplog.text and str(first.parent.parent) in caplog.text
    (root / "ImageSets/train.txt").write_text("f0\n")
    assert registry.open_split("kitti", root, "train", progress=False).num_examples == 1


def test_nothing_is_printed_but_the_progress_bar(tmp_path, capfd):
    registry.open_split("kitti", make_raw(tmp_path), "train", progress=False)
    quiet = capfd.readouterr()
    assert quiet.out == "" and quiet.err == ""
    registry.open_split("kitti", make_raw(tmp_path / "other"), "train", progress=True)
    shown = capfd.readouterr()
    assert shown.out == "" and "preparing train" in shown.err and "4/4" in shown.err


def test_no_network_is_asked_for_anything(tmp_path, monkeypatch):
    def refuse(*args, **kwargs):
        raise AssertionError(f"a connection was tried: {args}")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    data = registry.open_split("kitti", make_raw(tmp_path), "train", progress=False)
    assert sum(1 for _ in data.records()) == 4
    assert not list(tmp_path.rglob("downloads"))


def broken_png():
    stream = io.BytesIO()
    Image.fromarray(np.random.default_rng(1).integers(0, 255, (24, 32, 3), dtype=np.uint8)).save(
        stream, "png"
    )
    return stream.getvalue()


@pytest.mark.parametrize(
    "data, message",
    [
        (b"", "f2.png: the image is unreadable or truncated: cannot identify image file"),
        (b"no image", "f2.png: the image is unreadable or truncated"),
        (broken_png()[:-400], "f2.png: the image is unreadable or truncated"),
        (broken_png()[:40], "f2.png: the image is unreadable or truncated"),
    ],
)
def test_a_broken_image_is_named_and_nothing_half_valid_stays(tmp_path, data, message):
    root = make_raw(tmp_path)
    path = root / "training/image_2/f2.png"
    good = path.read_bytes()
    path.write_bytes(data)
    with pytest.raises(UserError) as error:
        registry.open_split("kitti", root, "train", progress=False)
    assert message in str(error.value) and "\n" not in str(error.value)
    assert not list((root / "tfrecords").rglob("*.tfrecord*"))
    path.write_bytes(good)
    assert registry.open_split("kitti", root, "train", progress=False).num_examples == 4


def replace_f2(root, content: bytes, name="f2.png"):
    (root / "training/image_2/f2.png").unlink()
    (root / "training/image_2" / name).write_bytes(content)


def test_records_hold_pictures_as_they_are_shown(tmp_path, run_mode):
    """f2 is stored as 32 x 24 pixels of which EXIF makes 24 x 32, of 16 bits, as BMP; the graph reads all."""
    levels = np.arange(32 * 24, dtype=np.uint16).reshape(32, 24) % 251
    turned, deep, bmp = io.BytesIO(), io.BytesIO(), io.BytesIO()
    stored = Image.fromarray(levels.astype(np.uint8))
    stored.save(turned, "PNG", exif=picture_files.exif(6))
    Image.fromarray(levels.T * 257).save(deep, "PNG")
    stored.transpose(Image.Transpose.TRANSPOSE).save(bmp, "BMP")
    shown = {turned: levels[::-1].T, deep: levels.T, bmp: levels.T}
    for number, (stream, expected) in enumerate(shown.items()):
        root = make_raw(tmp_path / str(number))
        replace_f2(root, stream.getvalue())
        sample = list(registry.open_split("kitti", root, "train", progress=False).records())[1]
        assert sample["image_id"] == b"f2" and sample["image_size"].numpy().tolist() == [24, 32]
        pixels = run_mode(transforms.decode_image)(sample["image"]).numpy()
        np.testing.assert_array_equal(pixels, np.repeat(expected[..., None], 3, axis=2))


def test_boxes_are_of_the_upright_picture(tmp_path):
    """Stored 24 wide and 32 high, shown 32 wide and 24 high, or the other way round."""
    root = make_raw(tmp_path)
    pixels = np.zeros((32, 24, 3), np.uint8)
    replace_f2(root, picture_files.jpeg(pixels, exif=picture_files.exif(8)), "f2.JPG")
    assert registry.open_split("kitti", root, "train", progress=False).num_examples == 4
    (root / "training/label_2/f2.txt").write_text(CAR.replace("20.75", "31"))
    assert registry.open_split("kitti", root, "train", progress=False).num_examples == 4
    (root / "training/image_2/f2.JPG").write_bytes(picture_files.jpeg(pixels))
    with pytest.raises(UserError, match="f2.txt: the box .* is outside the image, which is 24 wide"):
        registry.open_split("kitti", root, "train", progress=False)


def test_hidden_files_are_passed_over(tmp_path):
    root = make_raw(tmp_path)
    (root / "testing/image_2").mkdir(parents=True)
    Image.new("RGB", (32, 24)).save(root / "testing/image_2/t0.png")
    for path in ("testing/image_2/._t0.png", "training/image_2/._f2.png", "training/image_2/.f3.png"):
        (root / path).write_bytes(b"\x00\x05\x16\x07")
    assert registry.open_split("kitti", root, "test", progress=False).image_ids == ("t0",)
    assert registry.open_split("kitti", root, "train", progress=False).num_examples == 4


def test_a_jpeg_whose_end_is_zeros_is_named(tmp_path):
    root = make_raw(tmp_path, suffix="jpg")
    picture_files.zeros_at_the_end(root / "training/image_2/f1.jpg")
    with pytest.raises(UserError, match="f1.jpg: the image is unreadable or truncated: its JPEG data is"):
        registry.open_split("kitti", root, "train", progress=False)


def test_what_is_too_large_is_named_and_the_limit_is_a_choice(tmp_path):
    root = make_raw(tmp_path)
    path = root / "training/image_2/f2.png"
    path.write_bytes(picture_files.png(100_000, 100_000, 8, 2, b""))
    with pytest.raises(UserError, match="f2.png: 100000 x 100000 pixels are more than 100 megapixels"):
        registry.open_split("kitti", root, "train")
    Image.new("RGB", (300, 200)).save(path)
    with pytest.raises(UserError, match="f2.png: 300 x 200 pixels are more than 0.05 megapixels"):
        registry.open_split("kitti", root, "train", "", 0.05)
    assert registry.open_split("kitti", root, "train", "", 0.06).num_examples == 4


@contextlib.contextmanager
def largest_file(size):
    """Files cannot grow beyond ``size`` bytes: what a full disk is to a writer."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


@pytest.mark.parametrize("size", [0, 5000])
def test_a_full_disk_is_named(tmp_path, size):
    root = make_raw(tmp_path)
    with largest_file(size), pytest.raises(UserError) as error:
        registry.open_split("kitti", root, "train", progress=False)
    message = str(error.value)
    assert message.startswith(f"cannot write the prepared records to {root / 'tfrecords'}")
    assert message.endswith(": File too large; --prepared_dir names another folder")
    assert registry.open_split("kitti", root, "train", progress=False).num_examples == 4


def test_a_flipped_byte_of_the_records_is_one_line(tmp_path):
    root = make_raw(tmp_path)
    registry.open_split("kitti", root, "train", progress=False)
    (path,) = (root / "tfrecords").rglob("*.tfrecord*")
    whole = path.read_bytes()
    first = record_offsets(path)[1]  # the length of the first record's data, its CRC, the data, its CRC
    for position in (0, 3, 7, 8, 12, first // 2, first - 1, first, len(whole) - 1):
        path.write_bytes(whole[:position] + bytes([whole[position] ^ 0x40]) + whole[position + 1 :])
        with pytest.raises(UserError, match="damaged.*to prepare anew") as error:
            data = registry.open_split("kitti", root, "train", progress=False)
            with data.reading():
                list(data.records())
        assert str(path.parent) in str(error.value) and "\n" not in str(error.value)
    path.write_bytes(whole)
    data = registry.open_split("kitti", root, "train", progress=False)
    with data.reading():
        assert len(list(data.records())) == 4


def test_other_errors_pass_through_reading(tmp_path):
    data = registry.open_split("kitti", make_raw(tmp_path), "train", progress=False)
    with pytest.raises(KeyError), data.reading():
        raise KeyError("not of the records")


def test_wrong_labels_are_named_before_images_are_read(tmp_path):
    root = make_raw(tmp_path)
    (root / "training/label_2/f0.txt").write_text(f"{CAR}\n{CAR.replace('1.85', 'left')}\n")
    (root / "training/label_2/f2.txt").write_text("Car")
    (root / "training/image_2/f3.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        registry.open_split("kitti", root, "train", progress=False)
    lines = str(error.value).splitlines()
    assert lines[0] == "2 problems:" and "f2.txt line 1: 1 fields" in lines[1]
    assert "f0.txt line 2: alpha (field 4) is 'left'" in lines[2]


def test_boxes_over_the_edge_are_cut_by_up_to_a_pixel(tmp_path, caplog):
    """Images are 32 wide and 24 high: the last pixel is (31, 23)."""
    root = make_raw(tmp_path)
    over = CAR.replace("2.25 3.5 20.75 18", "-1 -0.5 32 24")
    (root / "training/label_2/f3.txt").write_text(f"{over}\n{CAR}\n")
    (root / "training/label_2/f0.txt").write_text(CAR.replace("20.75", "31.52"))
    data = registry.open_split("kitti", root, "train", progress=False)
    samples = list(data.records().as_numpy_iterator())
    np.testing.assert_array_equal(samples[0]["boxes"], [[0, 0, 31, 23], [2.25, 3.5, 20.75, 18]])
    np.testing.assert_array_equal(samples[3]["boxes"], [[2.25, 3.5, 31, 18]])
    assert caplog.text.count("over the edge of their image, cut: 2, in f3, f0") == 1
    # evaluation takes them as they are, like the development kit
    assert data.labels()[0]["boxes"][0].tolist() == [-1, -0.5, 32, 24]
    registry.open_split("kitti", root, "train", progress=False)
    assert caplog.text.count(", cut:") == 1  # once, when the records are written


def test_every_frame_with_a_box_outside_its_image_or_a_broken_image_is_named(tmp_path):
    root = make_raw(tmp_path)
    (root / "training/label_2/f0.txt").write_text(f"{CAR}\n{CAR.replace('20.75', '33.5')}\n")
    (root / "training/label_2/f3.txt").write_text(CAR.replace("2.25", "-1.01"))
    (root / "training/image_2/f1.png").write_bytes(b"")
    with pytest.raises(UserError) as error:
        registry.open_split("kitti", root, "train", progress=False)
    lines = str(error.value).splitlines()
    assert lines[0] == "3 problems:" and "f1.png: the image is unreadable" in lines[2]
    assert "f3.txt: the box -1.01 3.5 20.75 18 (xmin" in lines[1]
    assert "f0.txt: the box 2.25 3.5 33.5 18 (xmin ymin xmax ymax, counted from 0) is outside" in lines[3]
    assert "which is 32 wide and 24 high" in lines[3]
    assert not list(tmp_path.rglob("*.tfrecord-*"))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(
        UserError, match="cannot write the prepared records to .*--prepared_dir names another"
    ):
        registry.open_split("kitti", make_raw(tmp_path / "raw"), "train", tmp_path / "file", progress=False)


def test_truncated_records_are_refused(tmp_path):
    root = make_raw(tmp_path)
    registry.open_split("kitti", root, "train", progress=False)
    (path,) = (root / "tfrecords").rglob("*.tfrecord*")
    os.truncate(path, path.stat().st_size - 5)
    with pytest.raises(UserError, match="the prepared records are damaged or cut short; delete their folder"):
        registry.open_split("kitti", root, "train", progress=False)


def test_record_offsets_are_those_of_the_format(tmp_path):
    """Each record takes 8 + 4 + its length + 4 bytes."""
    path = str(tmp_path / "x.tfrecord")
    with tf.io.TFRecordWriter(path) as writer:
        for length in (3, 0, 10):
            writer.write(b"x" * length)
    assert record_offsets(path) == [0, 19, 35]


@pytest.mark.slow
def test_a_killed_preparation_leaves_nothing_half_valid(tmp_path):
    root = make_raw(tmp_path, count=300)
    code = f"""from fgfi_tf.data import registry
registry.open_split("kitti", {str(root)!r}, "train", progress=False)"""
    repository = Path(__file__).resolve().parents[2]
    process = subprocess.Popen([sys.executable, "-c", code], cwd=repository, stderr=subprocess.DEVNULL)
    deadline = time.monotonic() + 60
    while not list(root.glob("tfrecords/**/*incomplete*")) and process.poll() is None:
        assert time.monotonic() < deadline
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    data = registry.open_split("kitti", root, "train", progress=False)
    assert sum(1 for _ in data.records()) == 300
    assert not list(root.glob("tfrecords/**/*incomplete*"))
