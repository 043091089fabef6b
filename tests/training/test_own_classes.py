"""Classes of one's own from the folder to the evaluated model: training, model.json and evaluation agree."""

from __future__ import annotations

import json

import pytest
from own_fixtures import open_split, picture, xml

from fgfi_tf.errors import UserError
from fgfi_tf.training import announce, evaluate_command, run, show_imitation

CLASSES = "helmet,vest,cap=helmet,dog=ignore"


@pytest.fixture(name="photos", scope="module")
def _photos(tmp_path_factory):
    """Eight pictures without a split, each with a helmet, a cap, a vest and a dog."""
    root = tmp_path_factory.mktemp("own") / "photos"
    for i in range(8):
        path = picture(root / f"day{i % 2}/{i}.jpg", 96, 64)
        objects = [
            ("Helmet", 1, 1, 30, 30),
            ("cap", 40, 1, 60, 20),
            ("vest", 1, 40, 30, 60),
            ("dog", 50, 30, 90, 60),
        ]
        xml(path.with_suffix(".xml"), *objects, size=(96, 64))
    return root


def test_a_split_without_the_first_class_is_shown_with_the_model_s_classes(experiment, tmp_path):
    for name, kinds in (("train/a", ("cat", "dog")), ("train/b", ("cat", "dog")), ("val/c", ("dog",))):
        path = picture(tmp_path / f"data/{name}.png", 96, 64)
        boxes = [(kind, 1 + 45 * i, 5, 40 + 45 * i, 50) for i, kind in enumerate(kinds)]
        xml(path.with_suffix(".xml"), *boxes, size=(96, 64))
    data = {"dataset": "folder", "data_dir": str(tmp_path / "data"), "batch_size": 2, "steps": 1}
    teacher = run.train(experiment(**data, model="tiny_teacher", output_dir=str(tmp_path / "teacher")))
    imitating = {"imitation": True, "teacher_model": "tiny_teacher"}
    config = experiment(**data, **imitating, teacher_checkpoint=str(teacher.folder.root))
    seen = show_imitation.look(config, str(run.train(config).folder.root), "val/c", (0.5,))
    assert seen.labels == ["dog"] and len(seen.boxes) == 1


def _evaluated(capsys, **options):
    capsys.readouterr()
    evaluate_command.evaluate(evaluate_command.EvaluateConfig(**options))
    return capsys.readouterr().out


def test_train_and_evaluate_agree(experiment, photos, tmp_path, capsys):
    config = experiment(
        dataset="folder", data_dir=str(photos), classes=CLASSES, val_fraction=0.4, steps=3, evaluate_every=3
    )
    folder = run.train(config).folder
    printed = capsys.readouterr().out
    card = json.loads((folder.checkpoints / "model.json").read_text())
    assert card["class_names"] == ["helmet", "vest"] and card["classes"] == "cap=helmet,dog=ignore"
    assert card["dataset"] == "folder"
    train = int(printed.split("train: ")[1].split(" images")[0])
    assert f"train: {train} images; helmet {2 * train}, vest {train}; ignored: dog {train}" in printed
    assert list(json.loads(folder.results.read_text())) == ["3"]

    output = tmp_path / "ap.json"
    options = {"checkpoint": str(folder.root), "data_dir": str(photos), "output_json": str(output)}
    printed = _evaluated(capsys, **options)
    assert "helmet" in printed and "dog" not in printed
    # the merges and the share of the run's own flags: two helmets a picture
    assert json.loads(output.read_text())["helmet"]["positives"] == 2 * (8 - train)
    _evaluated(capsys, **{**options, "classes": "dog=vest,cap=ignore", "val_split": "all"})
    found = json.loads(output.read_text())
    assert (found["helmet"]["positives"], found["vest"]["positives"]) == (8, 16)
    with pytest.raises(UserError, match="--classes: vest=ignore: 'vest' is a class of the model"):
        _evaluated(capsys, **{**options, "classes": "vest=ignore"})
    with pytest.raises(UserError, match="--classes=cap: the model detects helmet, vest"):
        _evaluated(capsys, **{**options, "classes": "cap"})
    with pytest.raises(UserError, match="already holds another run, started with --classes="):
        run.train(experiment(dataset="folder", data_dir=str(photos), classes="helmet,vest,cap,dog"))


def test_a_model_of_other_classes(experiment, photos, kitti, capsys):
    folder = run.train(experiment(steps=2, checkpoint_every=2)).folder
    with pytest.raises(UserError, match="folder/val holds none of Car, Pedestrian, Cyclist, .* but .*cap"):
        _evaluated(capsys, checkpoint=str(folder.root), dataset="folder", data_dir=str(photos))


def test_a_class_that_no_label_has_is_told_before_the_first_step(photos, experiment):
    for classes, told in (
        ("helmet,cap=helmet,dog=ignore,vset,vest=ignore", "vset (did you mean vest?)"),
        ("helmet,cap=helmet,dog=ignore,vest,spade", "spade"),
        ("helmet,cap=helmet,dog=ignore,vest", ""),
        ("cap=ignore", ""),  # no list of what is learnt
    ):
        dataset = open_split("folder", photos, "all", classes=classes)
        found = announce.absent_classes(dataset)
        assert found == (f"--classes names what no label is of: {told}" if told else "")
    config = experiment(dataset="folder", data_dir=str(photos), classes=f"{CLASSES},spade", steps=1)
    log = (run.train(config).folder.root / "train.log").read_text()
    assert log.index("--classes names what no label is of: spade") < log.index("step 1/1")


def test_what_a_list_does_not_name_stops_a_training(experiment, photos):
    with pytest.raises(UserError, match="folder/train: the labels hold classes .* does not name: cap"):
        run.train(experiment(dataset="folder", data_dir=str(photos), classes="helmet,vest,dog=ignore"))
