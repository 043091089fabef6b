"""A dataset that somebody else wrote: one class, ``register``, and everything else comes from the house."""

import numpy as np
import pytest
from own_fixtures import open_split, picture, text

from fgfi_tf.data import registry
from fgfi_tf.data.dataset import Dataset, Frame
from fgfi_tf.errors import UserError


class Points(Dataset):
    """Pictures with a line ``name x y quality`` an object; a box is 3 x 3 around its point."""

    protocol = "voc"
    attributes = {"quality": ((), np.float32)}

    def frames(self, data_dir, split, radius=1):
        found = []
        for path in sorted(data_dir.glob(f"{split}*.txt")):
            lines = [line.split() for line in path.read_text().splitlines()]
            points = np.array([line[1:3] for line in lines], float).reshape(-1, 2)
            found.append(
                Frame(
                    path.stem,
                    path.with_suffix(".png"),
                    path,
                    boxes=np.concatenate([points - radius, points + radius], axis=1),
                    names=[line[0] for line in lines],
                    attributes={"quality": np.array([line[3] for line in lines], float)},
                )
            )
        return found


@pytest.fixture(name="points")
def _points(tmp_path):
    registry.register("points", Points())
    text(picture(tmp_path / "train1.png").with_suffix(".txt"), "ant 5 6 0.1", "bee 39 3 0.75")
    text(picture(tmp_path / "train2.png").with_suffix(".txt"))
    yield tmp_path
    registry.unregister("points")


def test_it_is_prepared_like_every_other(points, caplog):
    data = open_split("points", points, "train")
    assert data.name == "points/train" and data.image_ids == ("train1", "train2")
    assert data.learnt_names == ("ant", "bee") and registry.entry("points").protocol == "voc"
    first, second = data.records().as_numpy_iterator()
    assert first["boxes"].tolist() == [[4, 5, 6, 7], [38, 2, 39, 4]] and second["boxes"].shape == (0, 4)
    np.testing.assert_array_equal(first["attributes"]["quality"], np.float32([0.1, 0.75]))
    assert "boxes that reached over the edge of their image, cut: 1, in train1" in caplog.text
    (labels, _) = data.labels()
    assert labels["quality"].tolist() == [0.1, 0.75] and labels["boxes"][1].tolist() == [38, 2, 40, 4]
    assert labels["image_size"].tolist() == [20, 40] and data.image_sizes().tolist() == [[20, 40]] * 2
    assert data.files[0] == (points / "train1.png", points / "train1.txt")
    assert open_split("points", points, "train", classes="bee,ant=ignore").learnt_names == ("bee",)
    points_only = open_split("points", points, "train", options={"radius": 0}, prepared_dir=points / "other")
    assert points_only.labels()[0]["boxes"][0].tolist() == [5, 6, 5, 6]


def test_what_goes_wrong_is_told_by_the_house(points):
    with pytest.raises(UserError, match="the split 'test' holds no picture"):
        open_split("points", points, "test")
    text(points / "train2.txt", "bee 60 3 1")
    with pytest.raises(UserError, match="train2.txt: the box 59 2 61 4 .* is outside the image"):
        open_split("points", points, "train")
    (points / "train2.txt").write_text("bee nan 3 1")
    with pytest.raises(UserError, match="train2.txt: the box nan 2 nan 4 .* is not of finite numbers"):
        open_split("points", points, "train")
    with pytest.raises(UserError, match="there is a dataset 'points' already"):
        registry.register("points", Points())
    with pytest.raises(
        UserError, match="unknown dataset 'pints'; known are coco, folder, kitti, points, voc"
    ):
        open_split("pints", points, "train")
    with pytest.raises(UserError, match="--data_dir is missing: the folder of the raw points data"):
        open_split("points", "", "train")
    with pytest.raises(ValueError, match="a: boxes, names, ignore and attributes differ in their number"):
        Frame("a", points, boxes=[[0, 0, 1, 1]], names=[])


@pytest.mark.parametrize("entry", [Points, 3])
def test_what_is_no_dataset_is_not_registered(entry):
    with pytest.raises(UserError, match="dataset 'mine': .* is no instance of fgfi_tf.data.dataset.Dataset"):
        registry.register("mine", entry)
    assert "mine" not in registry.names()
