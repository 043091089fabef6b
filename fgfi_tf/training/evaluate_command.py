"""``scripts/evaluate.py`` on a model: flags, detection on a split, and ``--watch`` beside a training run."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fgfi_tf.data import registry as datasets
from fgfi_tf.data.classes import ClassChoice, parse
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.data.splits import VAL_FRACTION
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import command
from fgfi_tf.evaluation import results as result_formats
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.comparison import Comparison
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.models import registry
from fgfi_tf.options import check_values, not_negative, option, options_of, positive
from fgfi_tf.outputs import OutputFolder
from fgfi_tf.training.config import DATASET, DETECTOR, extensions_option
from fgfi_tf.training.evaluated_model import Model

if TYPE_CHECKING:  # it imports TensorFlow, which result files do without
    from fgfi_tf.data.records import PreparedDataset
    from fgfi_tf.models.metadata import ModelMetadata

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
        "", _MODEL, "Dataset to evaluate on (empty: that of the training, with its options).", chooses=DATASET
    )
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    data_dir: str = option("", _MODEL, "Folder of the raw dataset.")
    prepared_dir: str = option("", _MODEL, "Folder for the TFRecords made once (empty: inside --data_dir).")
    max_megapixels: float = option(
        MAX_MEGAPIXELS, _MODEL, "Largest picture that is prepared; larger ones are an error.", check=positive
    )
    val_split: str = option(
        "", _MODEL, "Split to evaluate on: a list in ImageSets (empty: the run's own --val_split, else val)."
    )
    classes: str = option(
        "",
        _MODEL,
        "With --checkpoint, merges and ignored classes of the labels, as train.py takes them (empty: those "
        "of the training); of result files of KITTI or VOC, their classes.",
    )
    val_fraction: float = option(
        -1.0, _MODEL, "Share that is the split val where the data has no splits (-1: that of the training)."
    )
    batch_size: int = option(
        0, _MODEL, "Images at a time (0: 8, or 1 where they would be padded).", check=not_negative
    )
    results_dir: str = option(
        "", _MODEL, "Write the detections there, in the format --results (see --overwrite)."
    )
    results: str = option(
        "", _MODEL, "Format of --results_dir (empty: the protocol's own).", chooses=result_formats.CHOICE
    )
    extensions: str = extensions_option(_MODEL)
    model: str = option(
        "",
        _MODEL,
        "Detector; needed for files of other programs only (TF1, .pth, .weights).",
        chooses=DETECTOR,
    )
    poll_seconds: float = option(
        10.0, _MODEL, "Seconds between looks for a new checkpoint.", check=not_negative
    )


def evaluate(config: EvaluateConfig) -> None:
    """Evaluates a model, a run while it trains, or folders of result files.

    Raises:
        UserError: for whatever is wrong with flags, data or checkpoints.
    """
    check_values(config)
    if config.compare and config.data_dir:
        _evaluate_models(*_models_side_by_side(config))
    elif not config.checkpoint:
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
    elif config.split or config.allow_missing:
        raise UserError(
            "--split and --allow_missing are of result files; of a model, --val_split names what is evaluated"
        )
    elif config.watch:
        if config.output_json or config.report_dir or config.results_dir:
            raise UserError(
                "--watch notes results in the run folder; --output_json, --report_dir and --results_dir are "
                "for the evaluation of one checkpoint"
            )
        _watch(config)
    else:
        _evaluate_models(config, {config.name: Model.find(config.checkpoint)})


def _models_side_by_side(config: EvaluateConfig) -> tuple[EvaluateConfig, dict[str, Model]]:
    """The models of --compare, and the flags with the checkpoint of the first, whose run decides the split.

    Raises:
        UserError: one cannot be found, or they detect different classes.
    """
    if config.checkpoint or config.detections or config.labels or config.watch or config.results_dir:
        raise UserError(
            "--compare of models takes --data_dir, and none of --checkpoint, --detections, --labels, --watch "
            "and --results_dir"
        )
    folders = command.folders(config)
    models = {name: Model.find(path, "compare") for name, path in folders.items()}
    first, *others = models.items()
    for name, model in others:
        if model.class_names != first[1].class_names:
            raise UserError(
                f"--compare: {name} detects {', '.join(model.class_names)}, {first[0]} "
                f"{', '.join(first[1].class_names)}; evaluate them one by one"
            )
    return dataclasses.replace(config, checkpoint=folders[first[0]]), models


def _evaluate_models(config: EvaluateConfig, models: Mapping[str, Model]) -> None:
    """One model, or several of the same classes, on a split."""
    Comparison(config.baseline, config.teacher).check(list(models))
    first = next(iter(models.values()))
    config = _with_run_settings(config, first.metadata)
    protocol = _protocol(config)
    command.check_outputs(config, protocol)
    dataset = _open(config, first.metadata)
    truth = protocol.ground_truth(dataset.labels(), dataset.class_names)
    output = OutputFolder(config.results_dir, "results_dir", config.overwrite)
    if config.results_dir:
        inputs = [path for files in dataset.files for path in files if path is not None]
        output.check(_result_files(config, protocol, _nothing(protocol, dataset)), inputs)
    results, detections = {}, {}
    for name, model in models.items():
        results[name], detections[name] = model.evaluate(dataset, protocol, config.batch_size, config.model)
    if config.results_dir:
        named = dataclasses.replace(detections[config.name], coco_ids=truth.coco_ids)
        output.append_all(_result_files(config, protocol, named))
        print(f"result files: {config.results_dir}")
    folder = datasets.entry(config.dataset).image_folder(config.data_dir, config.val_split)
    config = dataclasses.replace(config, images=config.images or str(folder or ""))
    split = "" if config.compare else config.val_split
    command.show_results(config, protocol, truth, detections, results, str(first.path), split)


def _protocol(config: EvaluateConfig) -> Protocol:
    """The protocol of the flags. Raises UserError, also for a wrong --published or --results."""
    protocol = command.open_protocol(config, datasets.entry(config.dataset).protocol)
    protocol.check_published(config.published)
    if config.results:
        result_formats.format_of(config.results)
    return protocol


def _open(config: EvaluateConfig, metadata: ModelMetadata | None) -> PreparedDataset:
    """The split. Raises UserError where it holds no object of a class that the model detects."""
    dataset = datasets.open_split(
        config.dataset,
        config.data_dir,
        config.val_split,
        config.prepared_dir,
        config.max_megapixels,
        classes=_choice(config, metadata),
        val_fraction=config.val_fraction,
        options=config.options,
    )
    frames = dataset.labels()
    if any(len(frame["classes"]) for frame in frames) and all(np.all(frame["ignore"]) for frame in frames):
        held = ", ".join(dataset.class_names[len(dataset.learnt_names) :])
        raise UserError(
            f"{dataset.name} holds none of {', '.join(dataset.learnt_names)}, which the model detects, but "
            f"{held}: --classes=NAME=CLASS says which of them is which"
        )
    return dataset


def _choice(config: EvaluateConfig, metadata: ModelMetadata | None) -> ClassChoice:
    """The model's own classes, with the merges of ``--classes`` or of its training."""
    choice = parse(config.classes or (metadata.classes if metadata else ""))
    if metadata is None:
        return choice
    if choice.learnt and set(map(str.lower, choice.learnt)) != set(map(str.lower, metadata.class_names)):
        raise UserError(f"--classes={config.classes}: the model detects {', '.join(metadata.class_names)}")
    return choice.of_model(metadata.class_names)


def _result_files(config: EvaluateConfig, protocol: Protocol, detections: Boxes) -> dict[str, str]:
    if config.results:
        return result_formats.FORMATS[config.results].write(detections, config.val_split)
    return protocol.result_files(detections, config.val_split)


def _nothing(protocol: Protocol, dataset: PreparedDataset) -> Boxes:
    """A table of the images of a split without a detection."""
    nothing = {"boxes": np.zeros((0, 4)), "scores": np.zeros(0), "classes": np.zeros(0, np.int32)}
    frames = dict.fromkeys(dataset.image_ids, nothing)
    return protocol.detections(frames, dataset.learnt_names)


def _with_run_settings(config: EvaluateConfig, metadata: ModelMetadata | None) -> EvaluateConfig:
    """Fills in the dataset and the split: those of the checkpoint's own run where there is one."""
    from fgfi_tf.training import flags
    from fgfi_tf.training.run_folder import FLAGS_FILE

    dataset, split, fraction = config.dataset, config.val_split, config.val_fraction
    options = options_of(config, "dataset")
    path = Path(config.checkpoint)
    for folder in (path, path.parent, path.parent.parent):
        if (folder / FLAGS_FILE).is_file():
            run = flags.read_flagfile(folder / FLAGS_FILE, config.extensions)
            dataset = dataset or run.dataset
            options = options if config.dataset else run.options_of("dataset")
            if dataset == run.dataset:
                split = split or run.val_split
                fraction = run.val_fraction if fraction == -1 else fraction
            break
    if not dataset and metadata is not None:
        dataset = metadata.dataset
    elif not dataset and config.model:
        dataset = registry.declaration(config.model).dataset
    return dataclasses.replace(
        config,
        dataset=dataset or "kitti",
        options=options,
        val_split=split or "val",
        val_fraction=VAL_FRACTION if fraction == -1 else fraction,
    )


def _watch(config: EvaluateConfig) -> None:
    from absl import logging

    from fgfi_tf.models.metadata import ModelMetadata
    from fgfi_tf.training import checkpoints, evaluator
    from fgfi_tf.training.run_folder import RunFolder

    folder = RunFolder(Path(config.checkpoint))
    waiting = "" if folder.root.is_dir() else " (there is no such folder yet: waiting for a run to make it)"
    print(f"watching {folder.root}; it ends with training{waiting}", flush=True)
    # the model says which classes are evaluated; it is there before the first step
    while not (ModelMetadata.read(folder.checkpoints) or folder.finished.is_file()):
        time.sleep(config.poll_seconds)
    metadata = ModelMetadata.read(folder.checkpoints)
    config = _with_run_settings(config, metadata)
    protocol, dataset = _protocol(config), _open(config, metadata)
    run = evaluator.CheckpointEvaluator(dataset, protocol, config.batch_size, config.model)
    results, passed = evaluator.ResultLog(folder), set()
    results.recover()
    for path in evaluator.new_checkpoints(
        folder, lambda: passed | set(results.results()), config.poll_seconds
    ):
        try:
            result, _ = run(path)
            best = results.add(path, dict(result.metrics))
        except UserError as error:  # deleted meanwhile as one of the older ones, or damaged
            logging.warning("skipped: %s", error)
            passed.add(checkpoints.step_of(path))
            continue
        note = f"  (best so far, kept in {folder.best})" if best else ""
        table = protocol.table({path.name: result}, config.published, config.val_split)
        print(f"\n{table}{note}", flush=True)
    if done := results.results():
        step = evaluator.best_step(done)
        ranking, value = next(iter(done[step].items()))
        print(f"\ntraining has ended; best: step {step}, {ranking} {100 * value:.2f}, in {folder.best}")
