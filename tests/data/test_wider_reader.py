"""WIDER FACE: the official layout as text and as MATLAB files, the evaluation kit's settings, stock TFDS."""

import numpy as np
import pytest
import tensorflow_datasets as tfds
import wider_fixtures

from fgfi_tf.data import registry
from fgfi_tf.data.readers import wider
from fgfi_tf.data.records import quiet_tfds
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols

LABELS = "wider_face_split/wider_face_{}_bbx_gt.txt"


@pytest.fixture(name="root")
def _root(tmp_path):
    return wider_fixtures.write_wider(tmp_path / "wider")


def open_split(root, split, **options):
    return registry.open_split("wider", root, split, progress=False, options=options)


def test_samples(root):
    """Row x y w h is x, y, x + w - 1, y + h - 1; the invalid face and the one without height are ignored."""
    dataset = open_split(root, "train")
    assert dataset.learnt_names == ("face",) and dataset.num_examples == 6
    assert dataset.image_ids[:2] == ("0--Parade/0_train", "1--Hand shaking/1_train")
    samples = list(dataset.records())
    assert len(samples[1]["boxes"]) == 0  # the line of zeros behind it is not taken for a picture
    rows = wider_fixtures.rows_of(root, "train")["0--Parade/2_train"]
    third = samples[2]
    np.testing.assert_array_equal(third["ignore"], [False, True, True])
    np.testing.assert_array_equal(third["boxes"][:, :2], rows[:, :2])
    np.testing.assert_array_equal(third["boxes"][:2, 2:], rows[:2, :2] + rows[:2, 2:4] - 1)
    np.testing.assert_array_equal(third["attributes"]["occlusion"], [2, 2, 2])
    np.testing.assert_array_equal(third["attributes"]["invalid"], [0, 1, 0])
    assert {"blur", "expression", "illumination", "pose"} < set(third["attributes"])
    # evaluation has the edges of the file again
    truth = protocols.get("wider").ground_truth(dataset.labels(), dataset.class_names)
    np.testing.assert_array_equal(
        truth.boxes[1:4], np.concatenate([rows[:, :2], rows[:, :2] + rows[:, 2:4]], 1)
    )


def test_splits_of_other_names_and_of_one_list(root):
    assert open_split(root, "validation").image_ids == open_split(root, "val").image_ids
    assert wider.Wider().splits(root) == ["train", "val"]
    (root / "WIDER_test/images/2--Demonstration").mkdir(parents=True)
    picture = next(root.glob("WIDER_val/images/*/*.jpg"))
    picture.rename(root / "WIDER_test/images/2--Demonstration/a.jpg")
    (root / LABELS.format("val")).unlink()
    test = open_split(root, "test")
    assert test.image_ids == ("2--Demonstration/a",) and len(test.labels()[0]["boxes"]) == 0


def test_matlab_labels_say_the_same(root):
    pytest.importorskip("scipy", reason="scipy reads MATLAB files")
    text = open_split(root, "train")
    wider_fixtures.write_label_mat(root, "train")
    (root / LABELS.format("train")).unlink()
    mat = {frame["image_id"]: frame for frame in open_split(root, "train").labels()}
    assert set(mat) == set(text.image_ids)  # by events there
    for frame in text.labels():
        for key, value in frame.items():
            np.testing.assert_array_equal(mat[frame["image_id"]][key], value, err_msg=key)


def test_the_kit_says_what_is_easy_medium_and_hard(root):
    pytest.importorskip("scipy", reason="scipy reads MATLAB files")
    protocol = protocols.get("wider")

    def faces(**options):
        dataset = open_split(root, "val", **options)
        found = protocol.evaluate(
            protocol.detections(
                dict.fromkeys(
                    dataset.image_ids,
                    {k: np.zeros(s) for k, s in (("boxes", (0, 4)), ("scores", 0), ("classes", 0))},
                ),
                ("face",),
            ),
            protocol.ground_truth(dataset.labels(), dataset.class_names),
        )
        return found.to_json()["faces"]

    assert faces() == {"all": 3}
    kit = wider_fixtures.write_kit(root, root / "elsewhere")
    assert faces() == {"all": 3}
    # pictures 0, 2 (three faces) and 3 have one that counts; 0 and 2 are of the first event
    assert faces(settings_dir=str(kit)) == {"easy": 2, "medium": 3, "hard": 3}
    for folder in ("ground_truth", "eval_tools/ground_truth"):
        (root / folder).parent.mkdir(exist_ok=True)
        kit = kit.rename(root / folder)
        assert faces() == {"easy": 2, "medium": 3, "hard": 3}
    with pytest.raises(UserError, match="--settings_dir=.*: holds no wider_easy_val.mat"):
        faces(settings_dir=str(root))
    text = root / LABELS.format("val")
    text.write_text(
        text.read_text().replace(
            "1--Hand shaking/3_val.jpg\n1\n", "1--Hand shaking/3_val.jpg\n2\n1 1 9 9 0 0 0 0 0 0\n"
        )
    )
    with pytest.raises(UserError, match="3_val: has 2 faces in the labels, 1 in the evaluation kit's"):
        faces()
    picture = root / "WIDER_val/images/0--Parade/0_val.jpg"
    picture.rename(picture.with_name("new.jpg"))
    text.write_text(text.read_text().replace("0_val", "new"))
    with pytest.raises(UserError, match="0--Parade/new: is not in the evaluation kit's wider_face_val.mat"):
        faces()


def test_boxes_over_the_edge_are_cut_and_nothing_is_left_of_some(root):
    """48 x 64 pixels: far over the right edge, beyond it, beyond the upper one."""
    text = root / LABELS.format("train")
    lines = text.read_text().splitlines()
    place = lines.index("0--Parade/0_train.jpg")
    lines[place + 1 : place + 3] = [
        "3",
        "40 10 60 20 0 0 0 0 0 0",
        "64 10 9 9 0 0 0 0 0 0",
        "5 -20 9 20 0 0 0 0 0 0",
    ]
    text.write_text("\n".join(lines))
    dataset = open_split(root, "train")
    sample = next(iter(dataset.records()))
    np.testing.assert_array_equal(sample["boxes"][0], [40, 10, 63, 29])
    np.testing.assert_array_equal(sample["ignore"], [False, True, True])
    np.testing.assert_array_equal(
        dataset.labels()[0]["boxes"][0], [40, 10, 99, 29]
    )  # evaluation: as they are


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (
            lambda t: t.replace("0--Parade/0_train.jpg", "0_train.jpg"),
            "line 1: '0_train.jpg' is no picture like",
        ),
        (lambda t: t.replace("\n1\n", "\none\n", 1), "line 2: the number of faces of 0--Parade/0_train.jpg"),
        (lambda t: t.replace("\n1\n", "\n2\n", 1), "line 4: a face is expected, x y w h blur expression"),
        (lambda t: t.replace(" 1 0 1 0 2 0 \n", " 1 0 1 0 2\n", 1), "line 3: a face is expected"),
        (lambda t: t.replace(" 1 0 1 0 2 0 \n", " 1 0 1 0 2 x\n", 1), "line 3: a face is expected"),
        (lambda t: t + "0--Parade/9.jpg", "the number of faces of 0--Parade/9.jpg is expected"),
        (lambda t: t + "0--Parade/9.jpg\n0\n", "there is no picture .*WIDER_train/images/0--Parade/9.jpg"),
    ],
)
def test_labels_that_are_wrong(root, change, message):
    text = root / LABELS.format("train")
    text.write_text(change(text.read_text()))
    with pytest.raises(UserError, match=message):
        open_split(root, "train")


def test_folders_that_hold_nothing(tmp_path):
    with pytest.raises(
        UserError, match="no WIDER FACE data; it must hold WIDER_train/images and wider_face_split"
    ):
        open_split(tmp_path, "train")


def test_stock_wider_face_gives_the_same_samples(root, tmp_path):
    pytest.importorskip("scipy", reason="scipy reads MATLAB files")
    stock = tmp_path / "stock"
    with quiet_tfds():
        builder = tfds.builder("wider_face", data_dir=stock)
        extracted = {f"wider_{split}": str(root) for split in ("train", "val", "test")}
        extracted["wider_annot"] = str(root)
        builder._split_generators = lambda _: {
            name: builder._generate_examples(split, extracted)
            for name, split in (("train", "train"), ("validation", "val"))
        }
        builder.download_and_prepare(
            file_format="tfrecord", download_config=tfds.download.DownloadConfig(try_download_gcs=False)
        )
    wider_fixtures.write_kit(root)
    wider_fixtures.write_kit(root, stock / "eval_tools" / "ground_truth")
    for split in ("train", "val"):
        ours, theirs = open_split(root, split), open_split(stock, split)
        expected = {s["image_id"].numpy(): s for s in ours.records()}
        assert theirs.num_examples == len(expected)
        for sample in theirs.records():
            own = expected[sample["image_id"].numpy()]
            for key in ("image", "classes", "ignore", "image_size"):
                np.testing.assert_array_equal(own[key], sample[key], err_msg=key)
            there = ~own["ignore"].numpy()
            np.testing.assert_array_equal(own["boxes"][there], sample["boxes"][there])
            for key, value in sample["attributes"].items():
                np.testing.assert_array_equal(own["attributes"][key], value, err_msg=key)
        labels = {frame["image_id"]: frame for frame in ours.labels()}
        for frame in theirs.labels():
            assert frame.keys() == labels[frame["image_id"]].keys()
    with pytest.raises(UserError, match="wider_face has no split 'all'; it has train, val, test"):
        open_split(stock, "all")
    with pytest.raises(UserError, match="has no split test"):
        open_split(stock, "test")


def test_the_real_pictures(shared_path):
    folder = shared_path("data/wider")
    frames = {split: wider.Wider().frames(folder, split) for split in ("train", "val")}
    rows = {s: np.concatenate(list(wider_fixtures.rows_of(folder, s).values())) for s in frames}
    for split, found in frames.items():
        assert sum(len(frame.boxes) for frame in found) == len(rows[split])
        assert sum(frame.ignore.sum() for frame in found) == (rows[split][:, 7] == 1).sum()
