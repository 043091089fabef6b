"""The flags of ``scripts/benchmark.py``, as the cases see them."""

from __future__ import annotations

import dataclasses


def _option(default, text: str, choices: tuple[str, ...] = ()):
    return dataclasses.field(
        default=default, metadata={"group": "Benchmark", "help": text, "choices": choices}
    )


@dataclasses.dataclass(frozen=True)
class Options:
    """What to measure and how."""

    cases: str = _option("all", "Comma separated names (see scripts/benchmark.py), or all.")
    models: str = _option("shuffledet_0.5x,shuffledet_0.25x", "Students to measure.")
    size: str = _option("384x1248", "Network input, height x width.")
    batch: str = _option("1,2,8", "Images in a batch.")
    repeats: int = _option(10, "Timed rounds; in each every contender runs once.")
    threads: int = _option(0, "Threads of TensorFlow and of PyTorch (0: as they choose).")
    data_dir: str = _option("", "Raw KITTI folder of the case `pipeline` (empty: drawn images).")
    torch: bool = _option(True, "Also run the PyTorch side where torch is installed.")
    torch_compile: bool = _option(False, "Also torch.compile (it compiles for minutes).")
    output_dir: str = _option("", "Also write benchmark.md and benchmark.json here.")
    peak_of: str = _option("", "Internal: ours or torch; take three steps, print the peak memory in MB.")

    @property
    def input_size(self) -> tuple[int, int]:
        """(height, width)."""
        height, width = self.size.split("x")
        return int(height), int(width)

    @property
    def batches(self) -> list[int]:
        """The batch sizes."""
        return [int(value) for value in self.batch.split(",")]

    @property
    def students(self) -> list[str]:
        """Names of models."""
        return self.models.split(",")


def has_torch(options: Options) -> bool:
    """Whether the PyTorch side is wanted and can run."""
    import importlib.util

    return options.torch and importlib.util.find_spec("torch") is not None
