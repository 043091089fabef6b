"""What a run consists of, made from its experiment: networks, data, pictures."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import tensorflow as tf

from fgfi_tf.data import registry as datasets
from fgfi_tf.data.classes import ClassChoice
from fgfi_tf.data.records import PreparedDataset
from fgfi_tf.drawing import draw_boxes, montage, overlay_mask
from fgfi_tf.errors import UserError
from fgfi_tf.imitation.distiller import Distiller
from fgfi_tf.imitation.layer import ImitationLoss
from fgfi_tf.imitation.levels import Pairs, pair_by_stride
from fgfi_tf.imitation.weight import RunningWeight
from fgfi_tf.models import loading, registry
from fgfi_tf.models.detector import Batch, Detector
from fgfi_tf.prediction import draw_detections, split_detections
from fgfi_tf.training import batches
from fgfi_tf.training.checkpoints import CheckpointManager, averaged_weights
from fgfi_tf.training.config import AUTO, ExperimentConfig
from fgfi_tf.training.optimizers import build_optimizer, inner_optimizer
from fgfi_tf.training.run_folder import RunFolder
from fgfi_tf.training.strategy import worker_index

PICTURES = 4


def open_split(config: ExperimentConfig, split: str, classes: str | ClassChoice) -> PreparedDataset:
    """A split of the experiment's data, prepared where it is not yet. Raises UserError."""
    return datasets.open_split(
        config.dataset,
        config.data_dir,
        split,
        config.prepared_dir,
        config.max_megapixels,
        classes=classes,
        val_fraction=config.val_fraction,
        options=config.options_of("dataset"),
    )


def build_distiller(
    config: ExperimentConfig,
    class_names: Sequence[str],
    classes: str = "",
    log: Callable[[str], None] = lambda line: None,
    options: Mapping[str, Any] | None = None,
) -> Distiller:
    """The compiled model to train; to be called in the strategy's scope.

    ``classes`` is for its metadata, see ``ModelMetadata``; ``log`` is given a line where initial weights or
    teacher are of other classes; ``options`` are the student's, where the training objects decided some.

    Raises:
        UserError: a checkpoint (teacher or initial weights) that cannot be used.
    """
    student = registry.build(
        config.model,
        input_size=config.size,
        class_names=class_names,
        dataset=config.dataset,
        classes=classes,
        weight_decay=config.decay_rate,
        extensions=config.extension_names,
        resize=config.resize,
        **(config.options_of("model") if options is None else options),
    )
    if config.init_checkpoint:
        if note := loading.load_initial_weights(student, config.init_checkpoint, config.init_pixels):
            log(note)
    teacher = load_teacher(config, class_names) if config.imitation else None
    if teacher is not None and teacher.class_names != tuple(class_names):
        log(
            f"the teacher detects other classes ({', '.join(teacher.class_names)}); its features are imitated"
        )
    if teacher is not None:
        _check_soft_labels(config, student, teacher)
    distiller = Distiller(
        student,
        teacher,
        _imitation(config, student, teacher) if teacher is not None else None,
        imitation_weight=_weight(config),
        warmup_steps=config.imitation_warmup_steps,
        end_step=config.imitation_end_step,
        soft_label_weight=config.soft_label_weight if teacher is not None else 0.0,
        seed=config.seed,
        clip_norm=config.clip_norm,
        gradient_accumulation=config.gradient_accumulation,
        labelled_share=config.labelled_share,
    )
    distiller.compile(
        optimizer=build_optimizer(config),
        jit_compile=config.jit_compile,
        steps_per_execution=config.steps_per_execution,
    )
    return distiller


def load_teacher(config: ExperimentConfig, class_names: Sequence[str]) -> Detector:
    """The frozen teacher of an experiment, which may detect other classes: only its features are imitated."""
    teacher = loading.load_detector(
        config.teacher_checkpoint,
        model=config.teacher_model,
        input_size=config.size,
        class_names=class_names,
        any_classes=True,
    )
    teacher.trainable = False
    return teacher.inference_copy()


def _imitation(config: ExperimentConfig, student: Detector, teacher: Detector) -> ImitationLoss:
    pairs, sizes = _pairs(config, student, teacher), None
    if config.imitation_levels == "assigned":
        sizes = student.imitation_sizes()
    if sizes is not None and len(sizes) != len(student.feature_channels):
        raise UserError(
            f"--imitation_levels=assigned: {config.model} does not say the strides of its feature maps; "
            "choose best or each"
        )
    return ImitationLoss(
        teacher.feature_channels,
        psi=config.psi,
        normalization=config.imitation_normalization,
        region=config.imitation_region,
        compute=config.imitation_compute,
        activation="relu" if config.imitation_adaptation == "published" else "linear",
        comparison=config.imitation_comparison,
        levels=config.imitation_levels,
        level_sizes=sizes,
        pairs=pairs,
        **student.imitation_options(),
    )


def _check_soft_labels(config: ExperimentConfig, student: Detector, teacher: Detector) -> None:
    """Raises UserError where teacher and student do not predict the same things."""
    if not config.soft_label_weight:
        return
    shapes = []
    for network, name in ((student, config.model), (teacher, config.teacher_model or "the teacher")):
        if type(network).log_probabilities is Detector.log_probabilities:
            raise UserError(f"--soft_label_weight: {name} has no predictions that soft labels can compare")
        outputs = network(tf.zeros([1, *config.size, 3]), training=False)
        shapes.append(tuple(network.log_probabilities(outputs).shape))
    if shapes[0] != shapes[1] or student.class_names != teacher.class_names:
        raise UserError(
            "--soft_label_weight: teacher and student must predict the same classes at as many anchors; the "
            f"teacher has {shapes[1][1]} anchors and {', '.join(teacher.class_names)}, the student "
            f"{shapes[0][1]} and {', '.join(student.class_names)}"
        )


def _pairs(config: ExperimentConfig, student: Detector, teacher: Detector) -> Pairs:
    """(student's map, teacher's map) of each comparison. Raises UserError where nothing pairs."""
    ours, theirs = (network.feature_strides for network in (student, teacher))
    maps, their_maps = len(student.feature_channels), len(teacher.feature_channels)
    try:
        return pair_by_stride(ours, theirs, maps, their_maps)
    except ValueError as error:
        gives = [f"{their_maps} of stride {_listed(theirs)}", f"{maps} of stride {_listed(ours)}"]
        if not (ours and theirs):
            gives = [str(their_maps), str(maps)]
        raise UserError(
            f"--teacher_checkpoint={config.teacher_checkpoint}: {error}: {config.teacher_model} gives "
            f"{gives[0]}, {config.model} {gives[1]}"
        ) from error


def _listed(strides: Sequence[int]) -> str:
    return ", ".join(map(str, strides))


def _weight(config: ExperimentConfig) -> float | RunningWeight:
    if config.imitation_weight != AUTO:
        return config.imitation_weight
    return RunningWeight(config.imitation_share) if config.imitation else 0.0


def build_manager(
    config: ExperimentConfig, distiller: Distiller, folder: RunFolder, *, writes: bool = True
) -> CheckpointManager:
    """What saves and restores a run: student, adaptation, optimizer, moving averages and step."""
    state = {"student": distiller.student, "optimizer": distiller.optimizer}
    if distiller.imitation is not None:
        state["imitation"] = distiller.imitation
    if isinstance(distiller.imitation_weight, RunningWeight):
        state["imitation_weight"] = distiller.imitation_weight
    averages = averaged_weights(inner_optimizer(distiller.optimizer), distiller.student.trainable_variables)
    # Copies: a checkpoint takes an optimizer's slots from the optimizer alone.
    copies = [tf.Variable(average, trainable=False) for average in averages]
    if copies:
        state["averages"] = copies

    def before_save() -> None:
        if writes:
            folder.check_there()
        for copy, average in zip(copies, averages, strict=True):
            copy.assign(average)

    step = tf.Variable(0, dtype=tf.int64, trainable=False, name="step")
    return CheckpointManager(
        folder.checkpoints,
        state,
        step,
        keep=config.keep_checkpoints,
        writes=writes,
        fingerprint=config.model,
        before_save=before_save,
    )


def build_batches(
    config: ExperimentConfig,
    dataset: PreparedDataset,
    student: Detector,
    strategy: tf.distribute.Strategy,
    start_step: int,
    unlabelled: PreparedDataset | None = None,
) -> tf.data.Dataset | tf.distribute.DistributedDataset:
    """Training batches from a step on, each global batch shared out over workers and replicas."""
    worker, workers = worker_index(strategy)
    replicas = strategy.num_replicas_in_sync // workers
    shares = replicas * config.gradient_accumulation
    shard = (worker, workers)
    found = batches.training_batches(config, dataset, student, start_step, shard, unlabelled, shares)
    if workers == 1:
        return found  # Keras splits each batch over the replicas
    # Each worker reads its own share only: Keras must not divide it by the workers again.
    local = (config.batch_size + config.unlabelled_images) // workers
    sizes = [local // replicas + (i < local % replicas) for i in range(replicas)]
    return strategy.distribute_datasets_from_function(lambda context: found.rebatch(sizes))


def picture_drawer(distiller: Distiller, dataset: PreparedDataset) -> Callable[[], dict[str, np.ndarray]]:
    """A function that draws a split's first images, with the imitation mask where there is one.

    ``detections`` has the ground truth of each image on the left and what the student detects on the right.
    """
    student = distiller.student
    batch = next(iter(batches.evaluation_batches(student, dataset, min(PICTURES, dataset.num_examples))))
    batch["scale"] = tf.ones_like(batch["scale"])  # draw in pixels of the network input
    batch["image_size"] = tf.cast(batch["content_size"], tf.int32)
    images = batch["image"].numpy()

    @tf.function(autograph=False)
    def detect():
        return student.detect(student(student.preprocess(batch["image"]), training=False), batch)

    names = [name.decode() for name in batch["image_id"].numpy()]
    labelled = [_with_truth(image, i, batch, student) for i, image in enumerate(images)]
    pictures = {}
    if distiller.imitation is not None:
        size = images.shape[1:3]
        masks = distiller.imitation.masks(
            student.imitation_anchors(*size),
            *student.imitation_boxes(batch),
            student.imitation_valid_mask(batch, *size),
        )
        for (level, _), mask in zip(distiller.imitation.paired(), masks, strict=True):
            drawn = [overlay_mask(image, m) for image, m in zip(images, mask.numpy(), strict=True)]
            pictures[f"imitation_mask/level_{level}"] = montage(drawn)

    def draw() -> dict[str, np.ndarray]:
        found = split_detections({key: value.numpy() for key, value in detect().items()})
        drawn = [
            draw_detections(image, f, student.class_names) for image, f in zip(images, found, strict=True)
        ]
        pairs = [picture for pair in zip(labelled, drawn, strict=True) for picture in pair]
        captions = [f"{name}: {what}" for name in names for what in ("ground truth", "detections")]
        return {"detections": montage(pairs, captions), **pictures}

    return draw


def _with_truth(image: np.ndarray, row: int, batch: Batch, student: Detector) -> np.ndarray:
    valid = batch["valid"][row].numpy()
    labels = [student.class_names[int(i)] for i in batch["classes"][row].numpy()[valid]]
    return draw_boxes(image, batch["boxes"][row].numpy()[valid], labels)
