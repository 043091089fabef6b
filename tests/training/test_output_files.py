"""Commands on a real run: what evaluate.py may write over, and records that rot after they were written."""

import shutil

import pytest

from fgfi_tf.data import registry
from fgfi_tf.errors import UserError
from fgfi_tf.training import evaluate_command, evaluator, run


@pytest.fixture(name="own_kitti")
def _own_kitti(kitti, tmp_path):
    """A copy that a test may damage."""
    return shutil.copytree(kitti, tmp_path / "kitti", ignore=shutil.ignore_patterns("tfrecords"))


def files(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_evaluate_keeps_labels_and_everything_else_unless_told(experiment, own_kitti, tmp_path, monkeypatch):
    run.train(experiment(steps=2, data_dir=str(own_kitti)))
    labels = own_kitti / "training/label_2"
    before = files(labels)

    def evaluate(**changes):
        given = {"checkpoint": experiment().output_dir, "data_dir": str(own_kitti), **changes}
        evaluate_command.evaluate(evaluate_command.EvaluateConfig(**given))

    with monkeypatch.context() as patch:
        patch.setattr(evaluator, "CheckpointEvaluator", lambda *_: pytest.fail("something was detected"))
        for overwrite in (False, True):
            with pytest.raises(
                UserError, match="--results_dir=.*label_2: 000009.txt is an input and would be"
            ):
                evaluate(results_dir=str(labels), overwrite=overwrite)
        page = tmp_path / "index.html"
        page.write_text("<p>mine</p>")
        for flag, value in (("output_json", labels / "000009.txt"), ("report_dir", tmp_path)):
            with pytest.raises(UserError, match=f"--{flag}=.* is there and"):
                evaluate(**{flag: str(value)})
    assert files(labels) == before and page.read_text() == "<p>mine</p>"
    outputs = {"results_dir": str(tmp_path / "results"), "output_json": str(tmp_path / "ap.json")}
    evaluate(**outputs)
    first = files(tmp_path / "results")
    with pytest.raises(UserError, match="results: 000009.txt and 2 more files are there already"):
        evaluate(**outputs)
    (tmp_path / "results/000009.txt").write_text("corrected by hand")
    evaluate(**outputs, overwrite=True)
    assert files(tmp_path / "results") == first


def test_damaged_records_end_training_and_evaluation_with_a_line(experiment, own_kitti):
    config = experiment(steps=2, data_dir=str(own_kitti))
    run.train(config)
    for split in ("train", "val"):
        registry.open_split("kitti", own_kitti, split)
    for path in own_kitti.rglob("*.tfrecord*"):
        content = bytearray(path.read_bytes())
        for position in range(len(content) // 40, len(content), len(content) // 20):
            content[position] ^= 1  # in the pictures, which are nearly all of it
        path.write_bytes(content)
    with pytest.raises(UserError, match="kitti/train: a prepared record is damaged; delete .*tfrecords.*"):
        run.train(experiment(steps=4, schedule_steps=2, data_dir=str(own_kitti)))
    with pytest.raises(UserError, match="kitti/val: a prepared record is damaged; delete .*tfrecords.*"):
        evaluate_command.evaluate(
            evaluate_command.EvaluateConfig(checkpoint=config.output_dir, data_dir=str(own_kitti))
        )
