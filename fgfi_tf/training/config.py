"""The experiment: every choice of a training run as one typed, checked value.

Each field is also an absl flag of the same name (``fgfi_tf.training.flags``): name, type, default,
group and help text stand here, once.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from typing import Any

from fgfi_tf.data import policies
from fgfi_tf.data import registry as datasets
from fgfi_tf.data.images import MAX_MEGAPIXELS
from fgfi_tf.data.splits import VAL_FRACTION
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.models import registry
from fgfi_tf.options import (
    Chooses,
    Chosen,
    at_least,
    flag_fields,
    fraction,
    inner_fraction,
    not_negative,
    option,
    options_in,
    options_of,
    positive,
    unit_interval,
)
from fgfi_tf.training.parsing import parse_numbers, parse_size

AUTO = "auto"  # of imitation_weight
DETECTOR = Chooses("detector", registry.names)  # one that brings neither options nor a recipe
STUDENT = Chooses(
    "detector", registry.names, registry.options, lambda name: registry.declaration(name).flags()
)
DATASET = Chooses("dataset", datasets.names, lambda name: datasets.entry(name).options)
RESIZE = Chooses("resize policy", policies.RESIZE.names)
AUGMENTATION = Chooses("augmentation policy", policies.AUGMENTATION.names, policies.augmentation_options)


_model, _data, _optimization = options_in("Model"), options_in("Data"), options_in("Optimization")
_imitation, _augmentation = options_in("Imitation"), options_in("Augmentation")
_run, _hardware = options_in("Run folder and logging"), options_in("Devices and speed")


def _weight(value: float | str) -> str:
    good = value == AUTO or (not isinstance(value, str) and value >= 0)
    return "" if good else f"must be at least 0, or {AUTO}"


def _weights_help() -> str:
    """What each detector reads, those that other files register too."""
    read = dict.fromkeys(registry.declaration(name).weights for name in registry.names())
    return f"Weights to start from: {'; '.join(('a run folder or checkpoint', *filter(None, read)))}."


def extensions_option(group: str) -> Any:
    """The field of ``--extensions``, which every command that knows registries has."""
    return option(
        "",
        group,
        "Files (mine.py) and modules (package.mine), separated by commas, that register detectors, datasets "
        "or protocols of your own.",
    )


@dataclasses.dataclass(frozen=True)
class ExperimentConfig:
    """All options of a training run. Build it with ``fgfi_tf.training.flags.parse`` or by keyword.

    ``options`` are those of what is chosen by name, as the detector of ``model``, that are not at their
    defaults; each is a flag as well.
    """

    model: str = _model("shuffledet_0.5x", "Detector to train.", chooses=STUDENT)
    extensions: str = extensions_option("Model")
    input_size: str = _model(
        "384x1248",
        "Height x width of the network input; with --resize=shorter_side, as of Faster R-CNN, short side x "
        "largest long side (0: no limit).",
    )
    resize: str = _model(
        "",
        policies.RESIZE_HELP,
        chooses=RESIZE,
    )
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    init_checkpoint: str = _model(
        "",
        _weights_help,
    )
    init_pixels: str = _model(
        "auto",
        "Pixels that an ImageNet .pth of --init_checkpoint was trained on: caffe (BGR, 0..255, minus means) "
        "or torchvision (RGB, normalised). auto: by the file's name (vgg11_caffe.pth, vgg16-397923af.pth).",
        ("auto", "caffe", "torchvision"),
    )
    decay_rate: float = _model(
        0.0005,
        "Weight decay of the published recipes. ShuffleDet: penalty rate * 0.5 * ||W||^2 on conv12. Faster "
        "R-CNN, SSD and YOLOv2: rate * W added to the clipped gradient of every kernel.",
        check=not_negative,
    )

    dataset: str = _data("kitti", "Dataset to train on.", chooses=DATASET)
    data_dir: str = _data("", "Folder of the raw dataset.")
    prepared_dir: str = _data("", "Folder for the TFRecords made once (empty: inside --data_dir).")
    max_megapixels: float = _data(
        MAX_MEGAPIXELS, "Largest picture prepared; a larger one is an error.", check=positive
    )
    train_split: str = _data(
        "train",
        "Split to train on: of KITTI a list in ImageSets, of VOC one with its year (2007_trainval, "
        "07+12_trainval), of COCO the name behind instances_ (train2017).",
    )
    val_split: str = _data("val", "Split to evaluate on, and to draw pictures of.")
    classes: str = _data(
        "",
        "Classes to learn, e.g. helmet,vest,person; NAME=CLASS merges a class of the labels into another, "
        "NAME=ignore leaves its objects out of training and evaluation; or a file of such lines. Empty: "
        "those that the dataset is published with, else those of the labels of --train_split.",
    )
    val_fraction: float = _data(
        VAL_FRACTION,
        "Share of the pictures that are the split val where the data has no splits of its own.",
        check=fraction,
    )
    max_boxes: int = _data(
        0, "Objects per image that a batch has room for (0: as in the fullest image).", check=not_negative
    )

    batch_size: int = _optimization(
        32, "Images per update, over all devices and machines together.", check=at_least(1)
    )
    steps: int = _optimization(40000, "Updates to train for.", check=at_least(1))
    optimizer: str = _optimization(
        "sgd",
        "sgd: momentum SGD, the rate multiplies the velocity; adam; sgdw and lamb "
        "(tensorflow-addons): decoupled weight decay, layer-wise rates.",
        ("sgd", "adam", "sgdw", "lamb"),
    )
    learning_rate: float = _optimization(0.02, "Learning rate after the warm-up.", check=positive)
    final_learning_rate: float = _optimization(
        2e-9, "Learning rate at the end of the cosine schedule.", check=not_negative
    )
    schedule: str = _optimization("cosine", "How the learning rate falls.", ("cosine", "step", "constant"))
    schedule_steps: int = _optimization(
        0, "Steps that the cosine schedule spans (0: --steps).", check=not_negative
    )
    lr_decay_steps: str = _optimization("", "Steps at which --schedule=step falls, e.g. 25000,35000.")
    lr_decay_factor: float = _optimization(0.1, "Factor of each fall of --schedule=step.", check=positive)
    lr_warmup_steps: int = _optimization(
        0, "Steps in which the learning rate rises from 0.", check=not_negative
    )
    lr_warmup_power: float = _optimization(
        1.0,
        "How it rises: as this power of the share of those steps (1: linearly; 4: Darknet's burn-in).",
        check=positive,
    )
    momentum: float = _optimization(0.9, "Momentum of the SGD optimizers.", check=fraction)
    weight_decay: float = _optimization(
        0.0,
        "Decoupled weight decay of sgdw and lamb, per step, scaled with the schedule.",
        check=not_negative,
    )
    clip_norm: float = _optimization(
        0.0, "Clip the global gradient norm to this (0: never).", check=not_negative
    )
    ema: float = _optimization(
        0.0, "Decay of the moving average of weights used in evaluation (0: none).", check=fraction
    )
    gradient_accumulation: int = _optimization(
        1,
        "Compute each batch in this many micro-batches, one after the other, for one update: less memory. "
        "Losses are averaged over the whole batch; batch norm sees each micro-batch on its own.",
        check=at_least(1),
    )
    seed: int = _optimization(0, "Seed of weights, data order, augmentation and dropout.", check=not_negative)

    imitation: bool = _imitation(False, "Learn from a teacher by fine-grained feature imitation.")
    teacher_model: str = _imitation(
        "",
        "Detector that teaches (empty: what the model.json of --teacher_checkpoint says; files of other "
        "programs have none).",
        chooses=DETECTOR,
    )
    teacher_checkpoint: str = _imitation(
        "",
        "The teacher's run folder or checkpoint, or a trained file that its detector reads (.pth, .weights).",
    )
    psi: float = _imitation(
        0.5, "Share of a box's best IoU above which its anchors enter the mask.", check=unit_interval
    )
    imitation_weight: float | str = _imitation(
        1.0,
        "Weight of the imitation loss (lambda); auto: what keeps it at --imitation_share.",
        check=_weight,
    )
    imitation_share: float = _imitation(
        1.0,
        "With --imitation_weight=auto: the weighted imitation loss, as a multiple of the detection loss.",
        check=positive,
    )
    imitation_adaptation: str = _imitation(
        "linear",
        "What makes the student's features the teacher's: a convolution (linear), or with a ReLU after it as "
        "published, whose outputs can become 0 for ever.",
        ("linear", "published"),
    )
    imitation_warmup_steps: int = _imitation(0, "Imitation starts after this many steps.", check=not_negative)
    imitation_end_step: int = _imitation(0, "Imitation ends at this step (0: never).", check=not_negative)
    imitation_normalization: float = _imitation(
        2.0,
        "k in 'divided by k * mask positions': 2 for the 0.5x student, 4 for 0.25x.",
        check=positive,
    )
    imitation_region: str = _imitation(
        "fine_grained", "Where to imitate.", ("fine_grained", "gt_box", "full")
    )
    imitation_comparison: str = _imitation(
        "squared_error",
        "Distance to the teacher's features: the paper's, or of whole maps as in later papers: channel-wise "
        "distillation (cwd), Pearson correlation (pkd). Those two know no region, psi or normalization.",
        ("squared_error", "cwd", "pkd"),
    )
    soft_label_weight: float = _imitation(
        0.0,
        "Weight of a loss that makes the student's predictions follow the teacher's (0: none).",
        check=not_negative,
    )
    imitation_levels: str = _imitation(
        "best",
        "Where there are several feature maps, which ones a box marks: those whose anchors fit it best "
        "(best), the one that it belongs to by its size (assigned), every one (each).",
        ("best", "assigned", "each"),
    )
    imitation_compute: str = _imitation(
        "auto",
        "Adaptation at mask positions only (gathered), or everywhere (dense).",
        ("auto", "gathered", "dense"),
    )

    unlabelled_dir: str = _imitation(
        "",
        "Pictures without labels to learn from as well: the teacher is imitated near what it detects there.",
    )
    unlabelled_min_score: float = _imitation(
        0.5,
        "Lowest score of the teacher's detections on --unlabelled_dir that count.",
        check=inner_fraction,
    )
    unlabelled_labels: bool = _imitation(
        False, "These detections are labels of the detection losses too, those of the classes to learn."
    )
    unlabelled_batch_size: int = _imitation(
        0,
        "Pictures of --unlabelled_dir per update, beside --batch_size (0: as many).",
        check=not_negative,
    )

    augment: bool = _augmentation(True, "Augment training images.")
    augmentation: str = _augmentation(
        "", "How they are augmented; each policy has options of its own.", chooses=AUGMENTATION
    )

    output_dir: str = _run("", "Run folder: flags, checkpoints, TensorBoard files.")
    overwrite: bool = _run(False, "Delete the run that --output_dir holds and start anew.")
    allow_changed_data: bool = _run(
        False, "Go on with a run although the images or labels that it was trained on have changed."
    )
    summary_every: int = _run(
        50, "Steps between TensorBoard scalars (and lines of the log).", check=at_least(1)
    )
    checkpoint_every: int = _run(500, "Steps between checkpoints.", check=at_least(1))
    keep_checkpoints: int = _run(5, "Newest checkpoints to keep.", check=at_least(1))
    picture_every: int = _run(500, "Steps between TensorBoard pictures (0: never).", check=not_negative)
    evaluate_every: int = _run(0, "Steps between evaluations on --val_split (0: never).", check=not_negative)
    metric: str = _run("", "Protocol of --evaluate_every (empty: the dataset's).", chooses=protocols.CHOICE)
    min_overlap: str = _run("", "Classes and the IoU of a match, of --metric=kitti: Van=0.7,Car=0.5.")

    devices: str = _hardware("", "Devices to use, e.g. gpu:0,gpu:1 (empty: every GPU, else the CPU).")
    virtual_cpus: int = _hardware(
        0, "Split the CPU into this many devices (to try distribution).", check=not_negative
    )
    worker_timeout: int = _hardware(
        1800,
        "Seconds to wait at the start for the workers on other machines (0: for ever).",
        check=not_negative,
    )
    mixed_precision: str = _hardware(
        "none",
        "Compute in half precision; losses and weights stay float32. auto: bfloat16 where that is faster.",
        ("none", "float16", "bfloat16", "auto"),
    )
    jit_compile: bool = _hardware(False, "Compile the training step with XLA.")
    steps_per_execution: int = _hardware(1, "Steps run in one call of the graph.", check=at_least(1))

    @property
    def size(self) -> tuple[int, int]:
        """(height, width) of the network input."""
        return parse_size("input_size", self.input_size)

    @property
    def unlabelled_images(self) -> int:
        """Pictures without labels in each update, beside ``batch_size``."""
        return (self.unlabelled_batch_size or self.batch_size) if self.unlabelled_dir else 0

    @property
    def labelled_share(self) -> tuple[int, int]:
        """(k, n): k of every n images of an update count in the detection losses."""
        if self.unlabelled_labels or not self.unlabelled_dir:
            return 1, 1
        return self.batch_size, self.batch_size + self.unlabelled_images

    @classmethod
    def of(cls, **given: Any) -> ExperimentConfig:
        """The experiment of a command line that gives these flags alone; ``options`` are those that it gives.

        Unlike the constructor's, the defaults are those of the detector that is chosen.
        """
        chosen = Chosen(cls, given.get)
        return cls(**{**chosen.defaults, **given})

    def chosen(self) -> Chosen:
        """What the experiment has chosen by name, with its options and defaults."""
        return Chosen(self, lambda flag: getattr(self, flag))

    def options_of(self, flag: str) -> dict[str, Any]:
        """The options of what a flag, such as ``"model"``, has chosen, those at their defaults too."""
        return options_of(self, flag)

    def values(self) -> dict[str, Any]:
        """Every flag with its value, options of what is chosen behind those of the command."""
        chosen = self.chosen()
        values = {field.name: getattr(self, field.name) for field in flag_fields(self)}
        options = {name: option.default for name, option in chosen.options.items()}
        return {**values, **chosen.names, **options, **self.options}

    @property
    def extension_names(self) -> tuple[str, ...]:
        """The files and modules of ``--extensions``, resolved."""
        return tuple(filter(None, self.extensions.split(",")))

    @property
    def lr_boundaries(self) -> tuple[int, ...]:
        """Steps at which ``schedule=step`` falls."""
        return parse_numbers("lr_decay_steps", self.lr_decay_steps, int)


# Options that may differ when a run is taken up again: none of them changes what a step computes, or what
# they change is checked on its own (``schedules.check_schedule``; a teacher's name has to fit its file).
RESUMABLE = frozenset(
    "steps schedule_steps teacher_model extensions data_dir prepared_dir max_megapixels val_split "
    "output_dir overwrite allow_changed_data summary_every checkpoint_every keep_checkpoints "
    "picture_every evaluate_every devices virtual_cpus worker_timeout jit_compile steps_per_execution".split()
)
