"""``scripts/evaluate.py`` on a model: flags, detection on a split, and ``--watch`` beside a training run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command
from fgfi_tf.training.config import option

_MODEL = "A trained model on a dataset"


@dataclasses.dataclass(frozen=True)
class EvaluateConfig(command.FilesConfig):
    """Options of an evaluation, of a model or of result files."""

    checkpoint: str = option("", _MODEL, "Run folder, checkpoint or SavedModel to evaluate.")
    watch: bool = option(
        False,
        _MODEL,
        "Evaluate every new checkpoint of the run folder --checkpoint while training goes on, keep the "
        "best, write TensorBoard scalars; ends when training has ended.",
    )
    dataset: str = option("kitti", _MODEL, "Dataset to evaluate on.")
    data_dir: str = option("", _MODEL, "Folder of the raw dataset.")
    prepared_dir: str = option("", _MODEL, "Folder for the TFRecords made once (empty: inside --data_dir).")
    val_split: str = option("val", _MODEL, "Split to evaluate on: a list in ImageSets.")
    batch_size: int = option(8, _MODEL, "Images at a time.")
    results_dir: str = option("", _MODEL, "Write the detections there, as KITTI result files.")
    model: str = option("", _MODEL, "Detector; needed for TF1 checkpoints only.")
    poll_seconds: float = option(10.0, _MODEL, "Seconds between looks for a new checkpoint.")


def evaluate(config: EvaluateConfig) -> None:
    """Evaluates a model, a run while it trains, or folders of result files.

    Raises:
        UserError: for whatever is wrong with flags, data or checkpoints.
    """
    if not config.checkpoint:
        if config.watch:
            raise UserError("--watch needs --checkpoint, the folder of a run")
        if not (config.detections or config.compare):
            raise UserError(
                "nothing to evaluate: give --checkpoint=RUN, --detections=DIR or --compare=name=DIR,... "
                "(see --help)"
            )
        command.evaluate_files(config)
    elif config.detections or config.compare or config.labels:
        raise UserError("give --checkpoint with --data_dir, or result files with --labels, not both")
    elif config.watch:
        _watch(config)
    else:
        _evaluate_model(config)


def _evaluate_model(config: EvaluateConfig) -> None:
    from fgfi_tf.data import registry as datasets
    from fgfi_tf.evaluation import kitti, kitti_io
    from fgfi_tf.evaluation.tables import ap_table
    from fgfi_tf.prediction import Predictor
    from fgfi_tf.training import checkpoints, evaluator

    if not Path(config.checkpoint).joinpath("saved_model.pb").is_file():
        path = checkpoints.find_checkpoint(config.checkpoint)  # before the data is prepared
    else:
        path = Path(config.checkpoint)
    dataset = datasets.open_split(config.dataset, config.data_dir, config.val_split, config.prepared_dir)
    labels = evaluator.dataset_labels(dataset)
    if path.is_dir():
        detections = evaluator.predict_split(Predictor.load(path), dataset)
        evaluation = kitti.evaluate(detections, labels, config.protocol)
    else:
        run = evaluator.CheckpointEvaluator(dataset, config.protocol, config.batch_size, config.model)
        evaluation, detections = run(path)
    print(ap_table(evaluation, str(path)))
    if config.results_dir:
        kitti_io.write_detections(config.results_dir, detections)
        print(f"result files: {config.results_dir}")
    if config.output_json:
        command.write_json(config.output_json, evaluation.to_json())
    if config.report_dir:
        named = dataclasses.replace(
            config, images=config.images or str(Path(config.data_dir) / "training" / "image_2")
        )
        command.write_report(named, labels, {config.name: detections}, {config.name: evaluation})


def _watch(config: EvaluateConfig) -> None:
    from absl import logging

    from fgfi_tf.data import registry as datasets
    from fgfi_tf.evaluation.tables import ap_table
    from fgfi_tf.training import checkpoints, evaluator
    from fgfi_tf.training.run_folder import RunFolder

    dataset = datasets.open_split(config.dataset, config.data_dir, config.val_split, config.prepared_dir)
    run = evaluator.CheckpointEvaluator(dataset, config.protocol, config.batch_size, config.model)
    folder = RunFolder(Path(config.checkpoint))
    results, passed = evaluator.ResultLog(folder), set()
    print(f"watching {folder.root}; it ends with training", flush=True)
    for path in evaluator.new_checkpoints(
        folder, lambda: passed | set(results.results()), config.poll_seconds
    ):
        try:
            evaluation, _ = run(path)
        except UserError as error:  # deleted meanwhile as one of the older ones, or damaged
            logging.warning("passed over: %s", error)
            passed.add(checkpoints.step_of(path))
            continue
        best = results.add(path, evaluation)
        note = f"  (best so far, kept in {folder.best})" if best else ""
        print(f"\n{ap_table(evaluation, path.name)}{note}", flush=True)
    done = results.results()
    if done:
        step = max(done, key=lambda s: done[s]["mAP11"])
        mean = 100 * done[step]["mAP11"]
        print(f"\ntraining has ended; best: step {step}, mean of nine {mean:.2f}, in {folder.best}")
