"""A run does not go on over other data than it was trained on, whatever the files' sizes and times say."""

from __future__ import annotations

import hashlib
import os
import shutil

import numpy as np
import pytest
import tiny_detector
from PIL import Image
from voc_fixtures import write_devkit

from fgfi_tf.data import registry
from fgfi_tf.errors import UserError
from fgfi_tf.models.metadata import ModelMetadata
from fgfi_tf.training import data_state, run
from fgfi_tf.training.checkpoints import FOLDER
from fgfi_tf.training.run_log import RunLog


@pytest.fixture(name="data")
def data_fixture(tmp_path):
    return tiny_detector.write_kitti(tmp_path / "data", frames=8, empty=(3,))


def in_place(path, change) -> None:
    """Changes a file's bytes and keeps its size and time."""
    state, data = path.stat(), path.read_bytes()
    changed = change(data)
    assert len(changed) == len(data) and changed != data
    path.write_bytes(changed)
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))


def edit_label(data):
    in_place(data / "training/label_2/000002.txt", lambda text: text.replace(b" 1.50", b" 1.60", 1))


def replace_image(data):
    image = np.asarray(Image.open(data / "training/image_2/000001.png"))
    Image.fromarray(255 - image).save(data / "training/image_2/000001.png")


def shorten_list(data):
    (data / "ImageSets/train.txt").write_text("000000\n000001\n000002\n")


def lengthen_list(data):
    with (data / "ImageSets/train.txt").open("a") as file:
        file.write("000006\n000007\n")


def reverse_list(data):
    lines = (data / "ImageSets/train.txt").read_text().splitlines()
    (data / "ImageSets/train.txt").write_text("\n".join(reversed(lines)))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (edit_label, "1 image with another label (000002)"),
        (replace_image, "1 image with another image (000001)"),
        (shorten_list, "3 images gone (000003, 000004, 000005)"),
        (lengthen_list, "2 images new (000006, 000007)"),
        (reverse_list, "the same images in another order"),
    ],
    ids=lambda value: getattr(value, "__name__", None),
)
def test_a_resume_over_other_data_stops_and_says_what_differs(experiment, data, caplog, change, message):
    config = {"data_dir": str(data), "batch_size": 2}
    run.train(experiment(**config, steps=3, schedule_steps=6))
    change(data)
    with pytest.raises(UserError) as raised:
        run.train(experiment(**config, steps=6, schedule_steps=6))
    text = str(raised.value)
    assert "kitti/train is not what the run in" in text and f": {message}. Restore it" in text
    assert "--allow_changed_data" in text and "\n" not in text
    result = run.train(experiment(**config, steps=4, schedule_steps=6, allow_changed_data=True))
    assert result.finished
    assert f"going on with other data than before: {message}" in caplog.text
    assert "--noallow_changed_data" in result.folder.flags.read_text()  # it holds for that once
    assert run.train(experiment(**config, steps=5, schedule_steps=6)).finished


def test_data_in_another_place_is_the_same_data(experiment, data, tmp_path):
    run.train(experiment(data_dir=str(data), batch_size=2, steps=3, schedule_steps=6))
    shutil.copytree(data, tmp_path / "copy", ignore=shutil.ignore_patterns("tfrecords"))
    again = experiment(data_dir=str(tmp_path / "copy"), batch_size=2, steps=4, schedule_steps=6)
    assert run.train(again).finished


def test_a_new_run_in_the_folder_of_another_compares_nothing(experiment, data):
    run.train(experiment(data_dir=str(data), batch_size=2, steps=3))
    shorten_list(data)
    assert run.train(experiment(data_dir=str(data), batch_size=2, steps=3, overwrite=True)).finished


def test_digests_are_of_contents(data, tmp_path):
    dataset = registry.open_split("kitti", data, "val")
    found = data_state.digests(dataset)
    assert list(found) == ["000006", "000007"]
    for name, folder, suffix, i in (("000006", "image_2", "png", 0), ("000007", "label_2", "txt", 1)):
        contents = (data / "training" / folder / f"{name}.{suffix}").read_bytes()
        assert found[name][i] == hashlib.blake2b(contents, digest_size=6).hexdigest()
    voc = registry.open_split("voc", write_devkit(tmp_path / "voc"), "2012_train")
    assert {len(values) for values in data_state.digests(voc).values()} == {2}


def test_records_alone_are_what_is_compared(data):
    dataset = registry.open_split("kitti", data, "val")
    dataset.files = ()
    found = data_state.digests(dataset)
    assert list(found) == ["000006", "000007"] and len(set(found.values())) == 2


def test_many_differences_are_cut_short():
    before = {f"{i:06d}": ("a", "b") for i in range(9)}
    now = {"000000": ("c", "b"), "x": ("a", "b")}
    assert data_state.differences(before, now) == (
        "8 images gone (000001, 000002, 000003, 000004, 000005, ...); 1 image new (x); "
        "1 image with another image (000000)"
    )
    assert data_state.differences(before, before) == ""


def test_malformed_state_is_one_clear_line(tmp_path):
    (tmp_path / "data.tsv").write_bytes(b"\xff\xfe")
    with pytest.raises(
        UserError, match=r"data.tsv cannot be read: .*; delete it to go on without a comparison"
    ):
        data_state.read(tmp_path / "data.tsv")


def test_other_classes_than_the_runs_are_refused(experiment, data, tmp_path):
    config = experiment(data_dir=str(data), output_dir=str(tmp_path / "run"))
    ModelMetadata("tiny", (64, 96), ("Car", "Pedestrian")).write(tmp_path / "run" / FOLDER)
    dataset = registry.open_split("kitti", data, "train", progress=False)
    data_state.check(
        config, tmp_path / "run", dataset, RunLog(None), writes=True
    )  # it has learnt nothing yet
    (tmp_path / "run" / FOLDER / "ckpt-1.index").touch()
    with pytest.raises(
        UserError, match="learns Car, Pedestrian, kitti/train now gives Car, Pedestrian, Cyclist: "
    ):
        data_state.check(config, tmp_path / "run", dataset, RunLog(None), writes=True)
