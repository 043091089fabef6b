"""Checks of an experiment: every choice that cannot work is told in one line that names its flag."""

from __future__ import annotations

import dataclasses

from fgfi_tf.data import policies
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.evaluation.command import parse_overlaps
from fgfi_tf.models import registry
from fgfi_tf.options import check_values
from fgfi_tf.training.config import AUTO, ExperimentConfig


def validate(config: ExperimentConfig) -> ExperimentConfig:
    """Returns the config; raises UserError, one line naming the flag, where it cannot work."""
    validate_values(config)
    _validate_model(config)
    return config


def validate_values(config: ExperimentConfig) -> None:
    """What of :func:`validate` needs no detector, and so no TensorFlow."""
    if not config.output_dir:
        raise UserError("--output_dir is missing: the folder to write the run to")
    _validate_names(config)
    check_values(config)
    _validate_optimization(config)
    _validate_imitation(config)
    config.size  # noqa: B018  raises where it is malformed


def _validate_names(config: ExperimentConfig) -> None:
    """What is chosen by name, and the options that came with it."""
    if not config.imitation:
        config = dataclasses.replace(config, teacher_model="")
    chosen = config.chosen()
    if fault := chosen.unknown_name():
        raise UserError(fault)
    for name, value in config.options.items():
        if name not in chosen.options:
            raise UserError(chosen.misplaced(name) or f"unknown flag --{name}; see --help")
        chosen.options[name].validate(value)


def _validate_model(config: ExperimentConfig) -> None:
    kind = registry.detector_class(config.model)
    name = config.resize or kind.declaration.resize
    resize = policies.resize(name)
    try:
        resize.check_input_size(config.size)
    except UserError as error:
        raise UserError(f"--input_size={error} ({config.model})") from error
    if not resize.fixed_size and not kind.takes_any_size:
        raise UserError(f"--resize={name}: {config.model} takes network inputs of one size")
    check_inputs(config.model, name, config.size, config.model)
    if config.jit_compile and not resize.fixed_size:
        raise UserError(f"--jit_compile: XLA would compile {config.model} anew for every shape of image")
    if config.jit_compile and config.options_of("model").get("roi_pooling") == "crop_and_resize":
        raise UserError("--jit_compile: XLA has no --roi_pooling=crop_and_resize; align is its like")


def check_inputs(model: str, resize_name: str, size: tuple[int, int], role: str) -> None:
    """Raises UserError where a detector's network cannot take what a resize policy makes of ``--input_size``.

    ``role`` says in the message what the detector is.
    """
    kind, resize = registry.detector_class(model), policies.resize(resize_name)
    try:
        kind.check_input_size(size)
    except UserError as error:
        raise UserError(f"--input_size={error} ({role})") from error
    multiple = kind.input_multiple
    if resize.fixed_size and any(side % multiple for side in size):
        raise UserError(
            f"--input_size={size[0]}x{size[1]}: height and width must be divisible by {multiple} ({role})"
        )
    if not resize.fixed_size and resize.multiple % multiple:
        raise UserError(
            f"--resize={resize_name}: sides of network inputs must be multiples of {multiple} ({role}), as "
            "--resize=torchvision and letterbox make them"
        )


def _validate_optimization(config: ExperimentConfig) -> None:
    if config.batch_size % config.gradient_accumulation:
        raise UserError(
            f"--gradient_accumulation={config.gradient_accumulation} does not divide "
            f"--batch_size={config.batch_size}"
        )
    if config.weight_decay and config.optimizer not in ("sgdw", "lamb"):
        raise UserError(
            f"--weight_decay={config.weight_decay} needs --optimizer=sgdw or lamb; "
            "the L2 penalty of the published recipe is --decay_rate"
        )
    boundaries = config.lr_boundaries
    if config.schedule == "step" and not boundaries:
        raise UserError("--schedule=step needs --lr_decay_steps")
    if any(step <= before for before, step in zip((0, *boundaries), boundaries, strict=False)):
        raise UserError(f"--lr_decay_steps={config.lr_decay_steps}: each step must be above the one before")
    if config.evaluate_every % config.checkpoint_every:
        raise UserError(
            f"--evaluate_every={config.evaluate_every}: checkpoints are evaluated, so it must be a multiple "
            f"of --checkpoint_every={config.checkpoint_every}"
        )
    if config.metric:
        protocols.protocol_class(config.metric)
    parse_overlaps(config.min_overlap)
    if config.devices and config.virtual_cpus:
        raise UserError("--devices and --virtual_cpus exclude each other")


def _validate_imitation(config: ExperimentConfig) -> None:
    weight, share = config.imitation_weight, config.imitation_share
    if weight != AUTO and share != ExperimentConfig.imitation_share:
        raise UserError(f"--imitation_share={share} needs --imitation_weight={AUTO}")
    if config.soft_label_weight and not config.imitation:
        raise UserError("--soft_label_weight needs --imitation, which has the teacher (its weight may be 0)")
    if config.imitation_comparison != "squared_error" and config.imitation_region != "fine_grained":
        raise UserError(
            f"--imitation_region={config.imitation_region} has no effect with "
            f"--imitation_comparison={config.imitation_comparison}, which compares whole maps"
        )
    if config.imitation and not config.teacher_checkpoint:
        raise UserError("--imitation needs --teacher_checkpoint (the run folder of a trained teacher)")
    _validate_unlabelled(config)
    if config.imitation_end_step and config.imitation_end_step <= config.imitation_warmup_steps:
        raise UserError("--imitation_end_step must be 0 or above --imitation_warmup_steps")


def _validate_unlabelled(config: ExperimentConfig) -> None:
    if config.unlabelled_dir and not config.imitation:
        raise UserError(
            "--unlabelled_dir needs --imitation: without labels there is only a teacher to learn of"
        )
    for name in ("unlabelled_min_score", "unlabelled_labels", "unlabelled_batch_size"):
        if not config.unlabelled_dir and getattr(config, name) != getattr(ExperimentConfig, name):
            raise UserError(f"--{name} needs --unlabelled_dir")
    if config.unlabelled_images % config.gradient_accumulation:
        raise UserError(
            f"--gradient_accumulation={config.gradient_accumulation} does not divide "
            f"--unlabelled_batch_size={config.unlabelled_images}"
        )
