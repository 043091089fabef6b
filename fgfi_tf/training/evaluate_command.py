"""``scripts/evaluate.py`` on a model: flags, detection on a split, and ``--watch`` beside a training run."""

from __future__ import annotations

import dataclasses
import time
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from fgfi_tf.data import registry as datasets
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.models import registry
from fgfi_tf.outputs import OutputFolder
from fgfi_tf.training import early
from fgfi_tf.training.config import option

if TYPE_CHECKING:  # it imports TensorFlow, which result files do without
    from fgfi_tf.data.records import PreparedDataset

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
    dataset: str = option(
        "", _MODEL, "Dataset to evaluate on (empty: that of the training).", names=datasets.names
    )
    data_dir: str = option("", _MODEL, "Folder of the raw dataset.")
    prepared_dir: str = option("", _MODEL, "Folder for the TFRecords made once (empty: inside --data_dir).")
    max_megapixels: float = option(
        MAX_MEGAPIXELS, _MODEL, "Largest picture that is prepared; larger ones are an error."
    )
    val_split: str = option(
        "", _MODEL, "Split to evaluate on: a list in ImageSets (empty: the run's own --val_split, else val)."
    )
    batch_size: int = option(
        0, _MODEL, "Images at a time (0: 8, or 1 where they would be padded to the largest)."
    )
    results_dir: str = option(
        "",
        _MODEL,
        "Write the detections there, in the dataset's own format (see --overwrite).",
    )
    model: str = option(
        "", _MODEL, "Detector; needed for TF1 checkpoints and .pth files only.", names=registry.names
    )
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
    from fgfi_tf.prediction import Predictor
    from fgfi_tf.training import checkpoints, evaluator

    command.check_outputs(config)
    path, predictor = Path(config.checkpoint), None
    if path.joinpath("saved_model.pb").is_file():
        predictor = Predictor.load(path)
    else:  # before the data is prepared
        early.check_checkpoint("checkpoint", str(path))
        path = checkpoints.find_checkpoint(path)
    config = _with_run_settings(config, predictor.dataset if predictor else _trained_on(path, config.model))
    dataset, protocol = _open(config)
    truths = protocol.truths(dataset.labels(), dataset.class_names)
    output = OutputFolder(config.results_dir, "results_dir", config.overwrite)
    if config.results_dir:
        output.check(_result_names(protocol, dataset, config.val_split))
    if predictor is not None:
        frames = evaluator.predict_split(predictor, dataset)
        detections = protocol.detections(frames, predictor.class_names)
        result = protocol.evaluate(detections, truths)
    else:
        run = evaluator.CheckpointEvaluator(dataset, protocol, config.batch_size, config.model)
        result, detections = run(path)
    print(protocol.table({str(path): result}, config.published, config.val_split))
    if config.results_dir:
        output.append_all(protocol.result_files(detections, config.val_split))
        print(f"result files: {config.results_dir}")
    if config.output_json:
        command.write_json(config.output_json, result.to_json())
    if config.report_dir:
        folder = datasets.entry(config.dataset).image_folder(config.data_dir, config.val_split)
        named = dataclasses.replace(config, images=config.images or str(folder or ""))
        results = {config.name: result}
        command.write_report(named, protocol, truths, {config.name: detections}, results, config.val_split)


def _open(config: EvaluateConfig) -> tuple[PreparedDataset, Protocol]:
    from fgfi_tf.evaluation import registry as protocols

    protocol = protocols.get(datasets.entry(config.dataset).protocol, config.protocol)
    protocol.check_published(config.published)
    return datasets.open_split(
        config.dataset, config.data_dir, config.val_split, config.prepared_dir, config.max_megapixels
    ), protocol


def _result_names(protocol: Protocol, dataset: PreparedDataset, split: str) -> list[str]:
    """The result files of a split, whatever is detected."""
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "classes": np.zeros(0, np.int32)}
    frames = dict.fromkeys(dataset.image_ids, nothing)
    detections = protocol.detections(frames, dataset.class_names[: dataset.num_training_classes])
    return list(protocol.result_files(detections, split))


def _trained_on(path: Path, model: str) -> str:
    """The dataset that a checkpoint was trained on, "" where nothing says."""
    from fgfi_tf.models.card import ModelCard

    card = ModelCard.read(path.parent)
    if card is not None:
        return card.dataset
    return registry.detector_class(model).default_dataset if model else ""


def _with_run_settings(config: EvaluateConfig, trained_on: str) -> EvaluateConfig:
    """Fills in the dataset and the split: those of the checkpoint's own run where there is one."""
    from fgfi_tf.training import flags
    from fgfi_tf.training.run_folder import FLAGS_FILE

    dataset, split = config.dataset, config.val_split
    path = Path(config.checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / FLAGS_FILE).is_file():
            run = flags.read_flagfile(folder / FLAGS_FILE)
            dataset = dataset or run.dataset
            split = split or (run.val_split if dataset == run.dataset else "")
            break
    return dataclasses.replace(config, dataset=dataset or trained_on or "kitti", val_split=split or "val")


def _watch(config: EvaluateConfig) -> None:
    from absl import logging

    from fgfi_tf.training import checkpoints, evaluator
    from fgfi_tf.training.run_folder import RunFolder

    folder = RunFolder(Path(config.checkpoint))
    waiting = "" if folder.root.is_dir() else " (there is no such folder yet: waiting for a run to make it)"
    print(f"watching {folder.root}; it ends with training{waiting}", flush=True)
    while not (config.dataset and config.val_split) and not folder.flags.is_file():
        time.sleep(config.poll_seconds)
    config = _with_run_settings(config, "")
    dataset, protocol = _open(config)
    run = evaluator.CheckpointEvaluator(dataset, protocol, config.batch_size, config.model)
    results, passed = evaluator.ResultLog(folder), set()
    results.recover()
    for path in evaluator.new_checkpoints(
        folder, lambda: passed | set(results.results()), config.poll_seconds
    ):
        try:
            result, _ = run(path)
            best = results.add(path, protocol.figures(result))
        except UserError as error:  # deleted meanwhile as one of the older ones, or damaged
            logging.warning("passed over: %s", error)
            passed.add(checkpoints.step_of(path))
            continue
        note = f"  (best so far, kept in {folder.best})" if best else ""
        print(
            f"\n{protocol.table({path.name: result}, config.published, config.val_split)}{note}", flush=True
        )
    done = results.results()
    if done:
        step = evaluator.best_step(done)
        ranking, value = next(iter(done[step].items()))
        value *= 100
        print(f"\ntraining has ended; best: step {step}, {ranking} {value:.2f}, in {folder.best}")
