"""Class names as data: what is learnt, merged, ignored and refused, for every dataset."""

import os

import pytest
from own_fixtures import open_split, picture, text, xml
from test_kitti_builder import CAR, make_raw

from fgfi_tf.data.classes import ClassChoice, parse, resolve
from fgfi_tf.errors import UserError

COUNTS = {"Helmet": 3, "helmet": 1, "vest": 2, "dog": 5}


def table(text="", counts=COUNTS, published=(), ignored=()):
    return resolve(parse(text), counts, published, ignored, "own/train")


def test_nothing_named_learns_the_classes_of_the_labels():
    found = table()
    assert (found.learnt, found.ignored, found.unknown) == (("dog", "Helmet", "vest"), (), {})
    assert found.indices(["helmet", "HELMET", "vest", "dog"]).tolist() == [1, 1, 2, 0]


def test_published_names_stay_where_the_labels_hold_one_of_them():
    found = table(published=("cat", "dog"), ignored=("bird",))
    assert found.learnt == ("cat", "dog") and found.ignored == ("bird", "Helmet", "vest")
    assert found.unknown == {"Helmet": 4, "vest": 2}
    assert table(published=("cat",), ignored=("bird",)).learnt == ("dog", "Helmet", "vest")
    assert table(counts={}, published=("cat",)).learnt == ("cat",)


def test_a_list_merges_and_ignores():
    found = table("Vest, helmet,dog=ignore")
    assert found.learnt == ("Vest", "helmet") and found.ignored == ("dog",)
    assert found.indices(["vest", "Helmet", "dog"]).tolist() == [0, 1, 2]
    found = table("worn,helmet=worn,VEST=Worn,dog=IGNORE")
    assert found.learnt == ("worn",) and found.indices(["vest", "Helmet", "dog"]).tolist() == [0, 0, 1]
    found = table("helmet=dog")  # of the classes of the labels
    assert found.learnt == ("dog", "vest") and found.indices(["Helmet", "dog"]).tolist() == [0, 0]
    found = table("dog=animal,vest=ignore")
    assert found.learnt == ("animal", "Helmet") and found.ignored == ("vest",)
    found = table("van=car", {"Van": 1, "car": 1}, ("Car", "Bus"), ("Van", "Tram"))
    assert found.learnt == ("Car", "Bus") and found.ignored == ("Tram",) and found.index["van"] == 0


def test_what_a_list_does_not_name_is_refused():
    with pytest.raises(
        UserError, match="own/train: the labels hold classes .* does not name: dog 5, vest 2; add"
    ):
        table("helmet")
    # the labels hold Helmet: a misspelt class is named beside what was meant
    with pytest.raises(
        UserError, match=r"Helmet 4.* names what no label is of: halmet \(did you mean helmet\?\)"
    ):
        table("halmet,dog,vest")
    assert table("helmet,cat", published=("cat", "dog"), ignored=("vest",)).ignored == ("dog", "vest")


def test_a_list_leaves_something_to_learn():
    with pytest.raises(UserError, match="own/train: --classes leaves no class to learn.*vest 2"):
        table("helmet=ignore,vest=ignore,dog=ignore")
    assert table("dog=ignore", counts={}).learnt == ()  # pictures without an object


def test_a_models_classes_decide():
    choice = parse("helmet,vest,cap=helmet,dog=ignore").of_model(("helmet",))
    assert choice == ClassChoice(("helmet",), {"cap": "helmet", "dog": "ignore"})
    found = resolve(choice, {"cap": 1, "dog": 1, "vest": 4}, (), (), "own/val")
    assert (found.learnt, found.ignored, found.unknown) == (("helmet",), ("dog", "vest"), {"vest": 4})
    assert parse(choice.merges) == ClassChoice((), {"cap": "helmet", "dog": "ignore"})


def test_names_of_a_file(tmp_path):
    path = text(tmp_path / "my classes.txt", "# mine", "hard hat", "", "vest", "dog=ignore")
    assert parse(str(path)) == parse("hard hat,vest,dog=ignore")
    path.write_bytes(b"\xef\xbb\xbfhelmet\r\nvest\r\n")
    assert parse(str(path)).learnt == ("helmet", "vest")


@pytest.mark.parametrize(
    "value, message",
    [
        ("a,,b", "--classes: '' is neither NAME, NAME=CLASS nor NAME=ignore"),
        ("a,b=", "--classes: 'b=' is neither"),
        ("a,b=a=c", "--classes: 'b=a=c' is neither"),
        ("a,A", "--classes: 'A' is named twice"),
        ("a,b=a,B=ignore", "--classes: 'B' is named twice"),
        ("a,ignore=b", "--classes: 'ignore=b': write NAME=ignore for each class"),
        ("a,b=c", "--classes: b=c: 'c' is none of a"),
        ("none.txt", "none.txt: cannot be read: No such file"),
        ("folder/none", "folder/none: cannot be read: No such file"),
    ],
)
def test_malformed_lists(value, message):
    with pytest.raises(UserError, match=message):
        parse(value)


def test_an_empty_file(tmp_path):
    path = text(tmp_path / "empty.txt", "# nothing")
    with pytest.raises(UserError, match="empty.txt: the file is empty; it must hold a class name a line"):
        parse(str(path))


def test_a_merge_into_what_is_not_learnt():
    with pytest.raises(UserError, match="--classes: van=bus: 'bus' is none of car"):
        table("van=bus", {"car": 1, "van": 1}, ("car",))
    with pytest.raises(UserError, match="--classes: vest=dog: 'dog' is none of Helmet"):
        table("dog=ignore,vest=dog")


def test_the_same_records_serve_every_choice(tmp_path):
    """KITTI's frames hold a car, a van and a DontCare area each."""
    root = make_raw(tmp_path)
    plain = open_split("kitti", root, "train")
    merged = open_split("kitti", root, "train", classes="van=car")
    two = open_split("kitti", root, "train", classes="Van,Car,DontCare=ignore")
    assert plain.record_paths == merged.record_paths == two.record_paths
    expected = {plain: [0, 3, 8], merged: [0, 0, 7], two: [1, 0, 2]}
    for data, classes in expected.items():
        sample = data.sample(0)
        ignore = [index >= len(data.learnt_names) for index in classes]
        assert sample["classes"].numpy().tolist() == classes and sample["classes"].dtype == "int32"
        assert sample["ignore"].numpy().tolist() == ignore
        frame = data.labels()[0]
        assert frame["classes"].tolist() == classes and frame["ignore"].tolist() == ignore
        assert [data.class_names[index].lower() for index in classes][2] == "dontcare"
    assert merged.learnt_names == ("Car", "Pedestrian", "Cyclist") and two.learnt_names == ("Van", "Car")
    assert two.choice == parse("Van,Car,dontcare=ignore")


def test_kitti_with_classes_of_ones_own(tmp_path, caplog):
    root = make_raw(tmp_path)
    for path in (root / "training/label_2").glob("*.txt"):
        path.write_text(CAR.replace("Car", "hand") + "\n" + CAR.replace("Car", "Foot") + "\n")
    assert open_split("kitti", root, "train").learnt_names == ("Foot", "hand")
    (root / "training/label_2/f0.txt").write_text(CAR + "\n")
    data = open_split("kitti", root, "train")
    assert data.learnt_names == ("Car", "Pedestrian", "Cyclist")
    assert "kitti/train: objects of classes that are not learnt: Foot 3, hand 3 (--classes" in caplog.text
    assert data.labels()[0]["ignore"].tolist() == [True, True]
    with pytest.raises(UserError, match="kitti/train: .* does not name: Foot 3; add each, or Foot=CLASS or"):
        open_split("kitti", root, "train", classes="hand")


def test_another_split_of_the_same_detector(tmp_path, caplog):
    for name, label in (("train/a", "helmet"), ("train/b", "Vest"), ("val/c", "dog")):
        xml(picture(tmp_path / f"{name}.png").with_suffix(".xml"), (label, 1, 1, 9, 9))
    train = open_split("folder", tmp_path, "train")
    assert train.learnt_names == ("helmet", "Vest")
    val = open_split("folder", tmp_path, "val", classes=train.choice)
    assert val.learnt_names == train.learnt_names and val.class_names == ("helmet", "Vest", "dog")
    assert val.labels()[0]["ignore"].tolist() == [True] and "folder/val: objects of classes" in caplog.text
    assert [frame["image_id"] for frame in train.labels()] == ["train/a", "train/b"]


def test_labels_edited_in_place_are_other_records(tmp_path):
    """Of the same length, under the same time: the records are of the labels themselves."""
    root = make_raw(tmp_path)
    path = root / "training/label_2/f3.txt"
    open_split("kitti", root, "train")
    state = path.stat()
    path.write_text(path.read_text().replace("Car ", "Bar "))
    os.utime(path, ns=(state.st_atime_ns, state.st_mtime_ns))
    data = open_split("kitti", root, "train")
    assert data.sample(0)["classes"].numpy().tolist() == data.labels()[0]["classes"].tolist() == [9, 3, 8]
    assert data.class_names[9] == "Bar"
