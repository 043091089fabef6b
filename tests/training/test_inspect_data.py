"""``scripts/inspect_data.py``: what it says of a small folder, worked out by hand."""

import json
import shutil

import inspect_data
import numpy as np
import pytest
from own_fixtures import picture, xml

from fgfi_tf.data import inspection, policies
from fgfi_tf.data.inspection import Objects
from fgfi_tf.errors import UserError
from fgfi_tf.training import inspect_command
from fgfi_tf.training.inspect_command import InspectConfig


@pytest.fixture(name="photos")
def _photos(tmp_path):
    """Pictures of 40 x 20; train holds a and b, valid c, which is a again."""
    root = tmp_path / "photos"
    for name, objects in {
        "train/a": [("dog", 1, 1, 20, 10), ("Dog", 1, 1, 4, 2)],
        "train/b": [("cat", 1, 1, 41, 20)],
    }.items():
        xml(picture(root / f"{name}.png").with_suffix(".xml"), *objects)
    (root / "valid").mkdir()
    for suffix in ("png", "xml"):
        shutil.copy(root / f"train/a.{suffix}", root / f"valid/c.{suffix}")
    return root


def test_what_is_said_of_a_sound_folder(photos, tmp_path, capsys):
    page = tmp_path / "page"
    arguments = ["inspect_data.py", str(photos), f"--output_dir={page}", "--input_size=40x160"]
    assert inspect_data.main(arguments) == 0
    out = capsys.readouterr().out
    assert "|  | train objects | train pictures | valid objects | valid pictures |" in out
    assert "| cat | 1 | 1 | 0 | 0 |" in out and "| Dog | 2 | 1 | 2 | 1 |" in out
    assert "| all | 3 | 2 | 2 | 1 |" in out
    # 4 x 2 pixels become 16 wide and 4 high: as long as a cell; the others are larger
    assert "smaller than a cell" not in out
    assert "In several splits: 1 picture; results on them mean nothing." in out
    assert "Over the edge of their picture, and cut: 1 box." in out
    assert "train: train/a = valid: valid/c" in out
    report = json.loads((page / "report.json").read_text())
    assert report["duplicates"] == [["train: train/a", "valid: valid/c"]] and not report["problems"]
    html = (page / "index.html").read_text()
    assert html.count("<figure>") + html.count("<figure ") >= 4 and "valid/c, 40 x 20, 2 objects" in html
    assert (page / "figures/object_sizes.png").stat().st_size > 5000
    assert len(list((page / "pictures").iterdir())) == 3


def test_what_stops_a_training_is_listed(photos, capsys):
    (photos / "train/b.png").write_bytes((photos / "train/b.png").read_bytes()[:200])
    xml(photos / "valid/c.xml", ("dog", 50, 1, 60, 9))
    config = InspectConfig(data_dir=str(photos), input_size="20x40")
    assert inspect_command.run(config, progress=False) == 1
    out = capsys.readouterr().out
    assert "A training stops at 2 problems; see below." in out
    assert "b.png: the image is unreadable or truncated" in out
    assert "valid: " in out and "c.xml: the box 49 0 59 8" in out and "is outside the image" in out
    # at 20 x 40 the picture keeps its size: of 20 x 10 and 4 x 2 pixels the second is below a cell of 16
    assert "At --input_size=20x40, 1 of 2 objects (50%) are smaller than a cell" in out.replace("\n", " ")


def test_labels_that_cannot_be_read(photos, tmp_path, capsys):
    (photos / "valid/c.xml").write_text("<annotation>")
    assert inspect_command.run(InspectConfig(data_dir=str(photos)), progress=False) == 1
    assert "c.xml: not a VOC annotation" in capsys.readouterr().out
    with pytest.raises(UserError, match="--data_dir is missing"):
        inspect_command.run(InspectConfig())
    with pytest.raises(UserError, match="there is no such folder"):
        inspect_command.run(InspectConfig(data_dir=str(tmp_path / "nowhere")), progress=False)


def test_the_page_is_not_written_into_the_data(photos):
    for place in (photos, photos / "page"):
        with pytest.raises(UserError, match=f"--output_dir={place}: is in --data_dir"):
            inspect_command.run(InspectConfig(data_dir=str(photos), output_dir=str(place)), progress=False)
    assert not (photos / "index.html").exists()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"pictures": -3}, "--pictures=-3: must be at least 0"),
        ({"stride": 0}, "--stride=0: must be at least 1"),
        ({"input_size": "0x0"}, "--input_size=0x0: a side must be at least 1"),
    ],
)
def test_numbers_that_make_no_sense(photos, options, message):
    with pytest.raises(UserError, match=message):
        inspect_command.run(InspectConfig(data_dir=str(photos), **options), progress=False)


@pytest.mark.parametrize("count", [0, 1, 2])
def test_as_many_pictures_as_were_asked_for(photos, tmp_path, count):
    config = InspectConfig(data_dir=str(photos), output_dir=str(tmp_path / "page"), pictures=count)
    inspect_command.run(config, progress=False)
    drawn = list((tmp_path / "page").glob("pictures/train_*"))
    assert len(drawn) == count


def test_what_no_split_can_read_is_told_once(tmp_path):
    for name in "abcde":
        xml(picture(tmp_path / f"{name}.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    config = InspectConfig(data_dir=str(tmp_path), val_fraction=0.5)

    def said() -> str:
        with pytest.raises(UserError) as raised:
            inspect_command.run(config, progress=False)
        return str(raised.value)

    (tmp_path / "b.xml").write_text("<annotation>")
    assert said().count("\n") == 0 and said().startswith(
        f"train, val: {tmp_path}/b.xml: not a VOC annotation"
    )
    (tmp_path / "c.xml").write_text("<annotation>")
    head, *problems = said().splitlines()
    assert head == f"{tmp_path}: no split can be read:"
    assert [line.partition(".xml")[0][-1] for line in problems] == ["b", "c"]
    for path in tmp_path.glob("*.xml"):
        path.unlink()
    assert f"train, val: {tmp_path}: none of the 5 pictures has a label file (.xml or .txt" in said()


def test_a_suggestion_that_most_objects_do_not_reach_says_so(tmp_path, capsys):
    """Objects of 9 x 9 pixels in pictures of 40 x 20: no input of that size makes them 32."""
    for name in "ab":
        xml(picture(tmp_path / f"own/{name}.png").with_suffix(".xml"), ("dog", 1, 1, 9, 9))
    inspect_command.run(InspectConfig(data_dir=str(tmp_path / "own"), val_fraction=0.5), progress=False)
    assert "too small for an input at which most objects are as long as 2 cells" in capsys.readouterr().out


def test_sizes_at_the_network_input():
    # a picture of 100 x 200 (h x w) and one of 400 x 200, an object of 10 x 20 in each
    objects = Objects(np.zeros(2, int), np.array([[10.0, 20], [10, 20]]), np.array([[100, 200], [400, 200]]))
    stretch, letterbox, shorter = map(policies.resize, ("stretch", "letterbox", "shorter_side"))
    assert objects.at_input((50, 400), stretch).tolist() == [[5, 40], [1.25, 40]]
    # as large as fits into 50 x 400: half the size, and an eighth
    assert objects.at_input((50, 400), letterbox).tolist() == [[5, 10], [1.25, 2.5]]
    assert objects.at_input((50, 0), shorter).tolist() == [[5, 10], [2.5, 5]]
    found = objects.at_input((50, 80), shorter)  # the cap of 80: 80/200 and 80/400
    np.testing.assert_allclose(found, [[4, 8], [2, 4]], rtol=1e-6)


def test_the_suggested_size():
    """Pictures of 300 x 600; nine objects 48 long, one 6 long: 90 % reach 16 at a third of that size."""
    images = np.tile([300, 600], (10, 1))
    sizes = np.array([[10.0, 48]] * 9 + [[3, 6]])
    stretch = policies.resize("stretch")
    size, reached = inspection.suggested_size(Objects(np.zeros(10, int), sizes, images), images, 16, stretch)
    # the 10 % quantile lies between 6 and 48, nine tenths of the way: 43.8;
    # 16 / 43.8 of 300 x 600 is 109.6 x 219.2
    assert size == (128, 224) and reached == 0.9
    small = Objects(np.zeros(10, int), sizes / 10, images)
    assert inspection.suggested_size(small, images, 16, stretch) == (
        (320, 608),
        0.0,
    )  # not above the pictures
    large = np.tile([3000, 6000], (10, 1))
    size, _ = inspection.suggested_size(Objects(np.zeros(10, int), sizes, large), large, 16, stretch)
    assert size == (736, 1440)  # a million pixels, 707.1 x 1414.2, rounded up to 32


def test_sizes_follow_the_resize_policy(photos, capsys):
    """Pictures of 40 x 20 at 160 x 160: stretched, objects 9 high become 72; in a letterbox 36."""
    images = np.tile([20, 40], (4, 1))
    objects = Objects(np.zeros(4, int), np.tile([9.0, 4], (4, 1)), images)
    for name, expected in (("stretch", [72, 16]), ("letterbox", [36, 16])):
        assert objects.at_input((160, 160), policies.resize(name)).tolist() == [expected] * 4
    for resize, small in (("", False), ("letterbox", True)):
        config = InspectConfig(data_dir=str(photos), input_size="160x40", resize=resize)
        inspect_command.run(config, progress=False)
        # of 4 x 2 pixels: stretched to 4 x 16, in the letterbox to 4 x 2
        assert ("smaller than a cell" in capsys.readouterr().out.replace("\n", " ")) == small


def test_a_class_that_no_label_has_is_told(photos, capsys):
    for classes, told in (("dog,cta,cat=ignore", True), ("dog,cat", False), ("", False)):
        inspect_command.run(InspectConfig(data_dir=str(photos), classes=classes), progress=False)
        out = capsys.readouterr().out.replace("\n", " ")
        assert ("--classes names what no label is of: cta (did you mean cat?)." in out) == told
        assert ("no label" in out) == told


def test_a_suggestion_leaves_most_objects_two_cells(tmp_path, capsys):
    """Objects of 64 pixels in pictures of 128 x 256: half of that makes them 32, two cells of 16."""
    for i in range(10):
        path = picture(tmp_path / "own" / f"{i}.png", 256, 128)
        xml(path.with_suffix(".xml"), ("cup", 1, 1, 64, 64), size=(256, 128))
    config = InspectConfig(data_dir=str(tmp_path / "own"), val_fraction=0.5)
    assert inspect_command.run(config, progress=False) == 0
    assert (
        "--input_size=64x128: the smallest at which most objects are as long as 2 cells of the feature map, "
        "32 pixels (100% of them are); larger finds more." in capsys.readouterr().out
    )
