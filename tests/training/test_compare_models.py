"""evaluate.py --compare of models: one table, one report, the numbers of each alone."""

from __future__ import annotations

import json

import pytest
import tiny_detector

from fgfi_tf.errors import UserError
from fgfi_tf.training import evaluate_command, run
from fgfi_tf.training.evaluate_command import EvaluateConfig


@pytest.fixture(name="models")
def models_fixture(experiment, tmp_path):
    """Two runs of other seeds, by name."""
    found = {}
    for seed, name in enumerate(("first", "second")):
        changes = {"output_dir": str(tmp_path / name), "seed": seed, "steps": 3, "picture_every": 0}
        found[name] = str(run.train(experiment(**changes)).folder.root)
    return found


def compared(models, kitti, **options):
    text = ",".join(f"{name}={path}" for name, path in models.items())
    evaluate_command.evaluate(EvaluateConfig(compare=text, data_dir=str(kitti), **options))


def test_side_by_side_is_each_alone(models, kitti, tmp_path, capsys):
    both, report = tmp_path / "both.json", tmp_path / "report"
    compared(models, kitti, output_json=str(both), report_dir=str(report), baseline="second")
    printed = capsys.readouterr().out
    assert "first" in printed and "second" in printed and f"report: {report}" in printed
    for name, path in models.items():
        alone = tmp_path / f"{name}.json"
        evaluate_command.evaluate(
            EvaluateConfig(checkpoint=path, data_dir=str(kitti), output_json=str(alone))
        )
        assert json.loads(both.read_text())[name] == json.loads(alone.read_text())
    page = (report / "index.html").read_text()
    assert "first" in page and "second" in page
    assert (report / "pictures" / "same_images.png").is_file()  # the images were found


def test_what_cannot_be_compared(models, kitti, experiment, tmp_path):
    with pytest.raises(UserError, match="--compare of models takes --data_dir, and none of --checkpoint"):
        compared(models, kitti, results_dir=str(tmp_path / "results"))
    with pytest.raises(UserError, match="--compare: no checkpoint at /no/run"):
        compared({**models, "third": "/no/run"}, kitti)
    with pytest.raises(UserError, match="'third' is not name=DIR"):
        evaluate_command.evaluate(EvaluateConfig(compare="third", data_dir=str(kitti)))
    other = run.train(experiment(output_dir=str(tmp_path / "cars"), classes="Car", steps=1)).folder.root
    names = ", ".join(tiny_detector.CLASSES)
    with pytest.raises(
        UserError, match=f"--compare: third detects Car, first {names}; evaluate them one by one"
    ):
        compared({**models, "third": str(other)}, kitti)
