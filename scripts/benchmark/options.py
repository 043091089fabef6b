"""The flags of ``scripts/benchmark.py``, as the cases see them."""

from __future__ import annotations

import dataclasses
import importlib.util

from fgfi_tf.options import at_least, not_negative, options_in, positive
from fgfi_tf.training.parsing import parse_numbers, parse_size

# So small that networks with random weights stay what they are over the rounds.
LEARNING_RATE, MOMENTUM = 1e-6, 0.9


_option = options_in("Benchmark")


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure and how."""

    cases: str = _option("all", "Comma separated names (see scripts/benchmark.py), or all.")
    models: str = _option("shuffledet_0.5x,shuffledet_0.25x", "ShuffleDet students to measure.")
    size: str = _option("384x1248", "ShuffleDet's input, height x width.")
    batch: str = _option("1,2,8", "Images in a batch.")
    repeats: int = _option(10, "Timed rounds; in each every contender runs once.", check=at_least(1))
    warmup: int = _option(2, "Rounds before them that do not count.", check=not_negative)
    budget: float = _option(
        60.0, "Seconds after which a table gets no more rounds, once it has 3 (0: none).", check=not_negative
    )
    threads: int = _option(0, "Threads of TensorFlow and of PyTorch (0: as they choose).", check=not_negative)
    precision: str = _option(
        "float32", "bfloat16 adds both sides in it to the steps.", ("float32", "bfloat16")
    )
    xla: str = _option("auto", "Also ours under XLA (auto: where there is a GPU).", ("auto", "yes", "no"))
    frcnn_size: str = _option("600x800", "Faster R-CNN's input, height x width.")
    frcnn_batch: str = _option("1,4", "Its images in a batch.")
    frcnn_width: float = _option(1.0, "Its channels, times this.", check=positive)
    yolo_models: str = _option("yolov2_0.25x", "YOLOv2 students to measure.")
    yolo_size: str = _option("416x416", "YOLOv2's input, height x width.")
    yolo_batch: str = _option("1,8", "Its images in a batch.")
    yolo_width: float = _option(1.0, "Its channels, times this, the teacher's too.", check=positive)
    ssd_batch: str = _option("1,8", "SSD300's images in a batch.")
    fpn_size: str = _option("608x800", "The FPN's input, height x width, multiples of 32.")
    fpn_batch: str = _option("1,2", "Its images in a batch.")
    objects: str = _option("1,10,100", "Objects an image of the case `imitation_loss`.")
    data_dir: str = _option("", "Raw KITTI folder of the case `pipeline` (empty: drawn images, png and jpg).")
    drawn_frames: int = _option(32, "How many images to draw for it.", check=at_least(1))
    round_images: int = _option(64, "Images that a round of it takes.", check=at_least(1))
    frames: str = _option("500,1000,2000,3769", "Frames of the evaluation cases.")
    fast: str = _option(
        "none,bfloat16,jit_compile,steps_per_execution,gradient_accumulation",
        "Configurations of the case `fast_step`; float16 is one more (very slow on CPUs).",
    )
    global_batch: int = _option(
        4, "Images of an update in the cases `fast_step` and `scaling`.", check=at_least(1)
    )
    process_rounds: int = _option(
        2, "Fresh processes for each configuration of these, taking turns.", check=at_least(1)
    )
    process_steps: int = _option(8, "Steady steps that each of them times.", check=at_least(1))
    process_limit: float = _option(150.0, "Seconds after which such a process is given up.", check=positive)
    torch: bool = _option(True, "Also run the PyTorch side where torch is installed.")
    torch_compile: bool = _option(False, "Also torch.compile (it compiles for minutes).")
    output_dir: str = _option("", "Also write benchmark.md and benchmark.json here.")
    memory_of: str = _option(
        "shuffledet,faster_rcnn,yolov2,ssd,fpn", "Families of the case `peak_memory`, comma separated."
    )
    peak_of: str = _option("", "Internal: the family; ours takes three steps, prints the memory in MB.")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width)."""
        return parse_size("size", self.size)

    @property
    def frcnn_input(self) -> tuple[int, int]:
        """(height, width)."""
        return parse_size("frcnn_size", self.frcnn_size)

    @property
    def batches(self) -> list[int]:
        """ShuffleDet's batch sizes."""
        return list(parse_numbers("batch", self.batch, int))

    @property
    def frcnn_batches(self) -> list[int]:
        """Faster R-CNN's."""
        return list(parse_numbers("frcnn_batch", self.frcnn_batch, int))

    @property
    def yolo_input(self) -> tuple[int, int]:
        """(height, width)."""
        return parse_size("yolo_size", self.yolo_size)

    @property
    def yolo_batches(self) -> list[int]:
        """YOLOv2's batch sizes."""
        return list(parse_numbers("yolo_batch", self.yolo_batch, int))

    @property
    def ssd_batches(self) -> list[int]:
        """SSD300's batch sizes."""
        return list(parse_numbers("ssd_batch", self.ssd_batch, int))

    @property
    def fpn_input(self) -> tuple[int, int]:
        """(height, width)."""
        return parse_size("fpn_size", self.fpn_size)

    @property
    def fpn_batches(self) -> list[int]:
        """The FPN's batch sizes."""
        return list(parse_numbers("fpn_batch", self.fpn_batch, int))

    @property
    def rounds(self) -> dict:
        """What ``timing.alternate`` is to be told."""
        return {"repeats": self.repeats, "warmup": self.warmup, "budget": self.budget}

    @property
    def students(self) -> list[str]:
        """Names of models."""
        return self.models.split(",")


def has_torch(options: Options) -> bool:
    """Whether the PyTorch side is wanted and can run."""
    return options.torch and importlib.util.find_spec("torch") is not None


def has_gpu() -> bool:
    """Whether TensorFlow sees one."""
    import tensorflow as tf

    return bool(tf.config.list_physical_devices("GPU"))


def wants_xla(options: Options) -> bool:
    """Whether ours is also measured under XLA."""
    return options.xla == "yes" or (options.xla == "auto" and has_gpu())
