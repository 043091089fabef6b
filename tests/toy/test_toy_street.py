"""Drawn scenes: the same bytes for the same seed, labels that agree with the picture."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fgfi_tf.data import edges, registry
from fgfi_tf.data.dataset import Frame
from fgfi_tf.data.readers import kitti
from fgfi_tf.errors import UserError
from fgfi_tf.toy import figures, solids, street
from fgfi_tf.toy.painter import Painter, Thing

SIZE = (96, 312)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    root = tmp_path_factory.mktemp("toy")
    street.write(root / "a", 6, 3, seed=5, image_size=SIZE, progress=False)
    return root


def contents(root):
    return {str(p.relative_to(root)): p.read_bytes() for p in sorted(root.rglob("*.*"))}


def test_the_same_seed_gives_the_same_bytes_and_another_seed_others(folder):
    first = contents(folder / "a")
    street.write(folder / "b", 6, 3, seed=5, image_size=SIZE, progress=False)
    street.write(folder / "c", 6, 3, seed=6, image_size=SIZE, progress=False)
    assert contents(folder / "b") == first
    other = contents(folder / "c")
    assert other.keys() == first.keys()
    assert all(other[name] != data for name, data in first.items() if name.endswith(".png"))


def test_the_layout_is_kittis_and_the_builder_reads_it(folder):
    assert {"ImageSets/train.txt", "training/image_2/000008.png", "training/label_2/000008.txt"} <= contents(
        folder / "a"
    ).keys()
    train = registry.open_split("kitti", folder / "a", "train", folder / "records", progress=False)
    val = registry.open_split("kitti", folder / "a", "val", folder / "records", progress=False)
    assert train.image_ids == tuple(f"{i:06d}" for i in range(6))
    assert val.image_ids == ("000006", "000007", "000008")
    sizes = {tuple(sample["image_size"].numpy()) for sample in train.records()}
    assert sizes == {SIZE}


def test_an_existing_data_set_is_not_overwritten(folder):
    with pytest.raises(UserError, match="already holds a data set"):
        street.write(folder / "a", 1, 0, image_size=SIZE, progress=False)
    with pytest.raises(UserError, match=r"cannot draw 0 \+ 0 frames of 96 x 312"):
        street.write(folder / "d", 0, 0, image_size=SIZE, progress=False)


@pytest.fixture(scope="module")
def scenes():
    return [street.draw_scene(np.random.default_rng([1, i]), (128, 416)) for i in range(25)]


@pytest.mark.parametrize("size", [(512, 64), (375, 32), (32, 104), (48, 156), (32, 32)])
def test_unusual_sizes_have_labels_that_can_be_read(tmp_path, size):
    for seed in range(30):
        scene = street.draw_scene(np.random.default_rng(seed), size)
        for line in scene.labels:
            numbers = np.array(line.split()[1:], float)
            assert np.isfinite(numbers).all()
            x1, y1, x2, y2 = numbers[3:7]
            assert 0 <= x1 < x2 <= size[1] - 1 and 0 <= y1 < y2 <= size[0] - 1


def test_an_interrupted_drawing_is_no_data_set(tmp_path, monkeypatch):
    draw, drawn = street.draw_scene, []

    def interrupted(rng, size):
        drawn.append(1)
        if len(drawn) == 3:
            raise KeyboardInterrupt
        return draw(rng, size)

    monkeypatch.setattr(street, "draw_scene", interrupted)
    with pytest.raises(KeyboardInterrupt):
        street.write(tmp_path, 3, 1, image_size=(32, 104), progress=False)
    assert not (tmp_path / "training").exists()
    street.write(tmp_path, 3, 1, image_size=(32, 104), progress=False)  # the same command goes on
    assert len(list((tmp_path / "training/image_2").iterdir())) == 4
    assert sorted(path.name for path in tmp_path.iterdir()) == ["ImageSets", "training"]


def test_labels_are_valid_and_varied(scenes, tmp_path):
    """Every class to learn, DontCare areas, occlusion, truncation, and small and large objects."""
    frames = [Frame(str(i), Path(), tmp_path / f"{i}.txt") for i in range(len(scenes))]
    for frame, scene in zip(frames, scenes, strict=True):
        frame.label_path.write_text("\n".join(scene.labels))
    labelled = kitti.read_labels(frames)
    names = [name for frame in labelled for name in frame.names]
    objects = {key: np.concatenate([f.attributes[key] for f in labelled]) for key in kitti.Kitti.attributes}
    objects["boxes"] = np.concatenate([frame.boxes for frame in labelled])
    assert {"Car", "Pedestrian", "Cyclist", "Van", "DontCare"} <= set(names)
    assert min(names.count(n) for n in ("Car", "Pedestrian", "Cyclist")) > 12
    edges.cut_to_image(objects["boxes"], (128, 416), tmp_path)
    real = {key: column[np.array(names) != "DontCare"] for key, column in objects.items()}
    assert set(real["occlusion"]) == {0, 1, 2}
    assert max(real["truncation"]) > 0.2 and min(real["truncation"]) == 0
    heights = real["boxes"][:, 3] - real["boxes"][:, 1]
    assert min(heights) >= 15 / 375 * 128 - 0.01 and min(heights) < 10 and max(heights) > 60
    assert np.all(np.abs(real["alpha"]) <= np.pi) and np.all(real["location"][:, 2] > 0)


def test_projected_height_follows_depth():
    """1.75 m at 10 m with a focal length of 1.92 image heights: 0.336 of the image height."""
    rng = np.random.default_rng(0)
    painter = Painter(rng, (200, 600))
    size = (1.75, 0.65, 0.8)
    person = Thing("Pedestrian", size, np.array([0.0, 1.65, 10.0]), 0.0, figures.pedestrian(rng, size), True)
    painter.paint(person, 1)
    assert person.box[3] - person.box[1] == pytest.approx(0.336 * 200, rel=0.05)
    foot = 0.46 * 200 + 1.92 * 200 * 1.65 / 10  # the ground at 10 m
    assert person.box[3] == pytest.approx(foot, abs=3)


def square(x, depth, half=1.0):
    points = np.array([(-half, 0, 0), (half, 0, 0), (half, 2 * half, 0), (-half, 2 * half, 0)])
    shape = solids.Primitive(points, (200, 10, 10))
    return Thing("Car", (2 * half, 2 * half, 2 * half), np.array([x, 1.65, depth]), 0.0, [shape], True)


def labels_of(painter, things):
    things.sort(key=lambda thing: -thing.location[2])
    for number, thing in enumerate(things, start=1):
        painter.paint(thing, number)
    return [line.split() for line in street._labels(painter, things)]


def test_occlusion_is_what_is_covered():
    """Focal length 384 px: the far square (2 m at 20 m) spans x = -19.2 .. 19.2 px about the middle,
    the near one (2 m at 10 m, 1.2 m to the left) covers it up to x = -7.68: 0.3 of it."""
    painter = Painter(np.random.default_rng(0), (200, 600))
    lines = labels_of(painter, [square(-1.2, 10.0), square(0.0, 20.0)])
    assert [(line[0], float(line[13]), line[2]) for line in lines] == [("Car", 10, "0"), ("Car", 20, "1")]
    lines = labels_of(Painter(np.random.default_rng(0), (200, 600)), [square(-0.8, 10.0), square(0.0, 20.0)])
    assert [line[2] for line in lines] == ["0", "2"]  # 0.7 of it
    hidden = labels_of(
        Painter(np.random.default_rng(0), (200, 600)), [square(0.0, 10.0), square(0.0, 12.0, 0.4)]
    )
    assert len(hidden) == 1  # what is covered altogether has no label


def test_truncation_is_the_share_outside():
    """200 x 600, focal 384: at 10 m the right border is x = 7.8125 m. A square from 6.8125 to 8.8125."""
    painter = Painter(np.random.default_rng(0), (200, 600))
    (line,) = labels_of(painter, [square(7.8125, 10.0)])
    assert float(line[1]) == pytest.approx(0.5, abs=0.02)
    assert float(line[6]) == 599.0


def test_a_box_is_tight_around_its_pixels():
    painter = Painter(np.random.default_rng(0), (200, 600))
    thing = square(0.0, 10.0)
    painter.paint(thing, 1)
    rows, columns = np.nonzero(painter.owner == 1)
    # focal 384 px: 2 m at 10 m are 76.8 px, centred at x = 300, standing at y = 92 + 63.36
    np.testing.assert_allclose(thing.box, [300 - 38.4, 155.36 - 76.8, 300 + 38.4 - 1, 155.36 - 1], atol=1e-6)
    assert abs(columns.min() / 2 - thing.box[0]) <= 1 and abs(rows.max() / 2 - 1 - thing.box[3]) <= 1


def test_far_objects_become_dont_care_areas():
    """0.8 m at 60 m are 5.1 px of 200, less than 15/375: one area with a margin of 1.6 px."""
    painter = Painter(np.random.default_rng(0), (200, 600))
    (line,) = labels_of(painter, [square(0.0, 60.0, 0.4)])
    assert line[:4] == ["DontCare", "-1", "-1", "-10"] and line[8:] == ["-1"] * 3 + ["-1000"] * 3 + ["-10"]
    box = [float(v) for v in line[4:8]]
    np.testing.assert_allclose(
        box, [300 - 2.56 - 1.6, 102.56 - 5.12 - 1.6, 300 + 2.56 - 1 + 1.6, 102.56 - 1 + 1.6], atol=0.006
    )


@pytest.mark.parametrize("flag", ["--train=-1", "--val=-1", "--seed=-1"])
def test_a_negative_number_is_refused_by_name(flag, tmp_path):
    script = Path(__file__).parents[2] / "scripts" / "make_toy_kitti.py"
    done = subprocess.run(
        [sys.executable, str(script), f"--output_dir={tmp_path / 'toy'}", flag],
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr == f"make_toy_kitti.py: error: {flag}: must be at least 0\n"
    assert not (tmp_path / "toy").exists()
