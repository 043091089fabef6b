"""``scripts/compress.py``: a distilled student, pruned or made ready for int8, still imitating."""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING

from fgfi_tf.errors import UserError
from fgfi_tf.options import at_least, inner_fraction, not_negative, option
from fgfi_tf.paths import is_occupied
from fgfi_tf.training.config import extensions_option

if TYPE_CHECKING:  # they import TensorFlow
    import tf_keras as keras

    from fgfi_tf.training.config import ExperimentConfig

METHODS = ("quantize", "prune")
#: Of the run's learning rate: rounding changes little, what pruning took has to be learnt again. A pruned
#: ShuffleDet 0.25x had 50.2 AP11 after 150 steps at a tenth, 45.6 at a hundredth (49.1 before).
SHARES = {"quantize": 0.01, "prune": 0.1}
#: Share of the steps in which the rate rises: the optimizer begins anew, and knows no sizes of gradients yet.
WARMUP = 0.1
RECORD_FILE = "compress.json"
_GROUP = "Compression"


@dataclasses.dataclass(frozen=True)
class CompressConfig:
    """Options of a compression."""

    run: str = option("", _GROUP, "Run folder of the trained student; it goes on as its flags say.")
    output_dir: str = option("", _GROUP, "Run folder to write, a new one; export.py and evaluate.py take it.")
    method: str = option(
        "quantize",
        _GROUP,
        "quantize: fine-tuning under int8's rounding, for export.py --quantize=int8; prune: the smallest "
        "weights become 0.",
        choices=METHODS,
    )
    steps: int = option(300, _GROUP, "Updates.", check=at_least(1))
    sparsity: float = option(
        0.5,
        _GROUP,
        "With --method=prune, the share of weights that become 0, most of them in wide layers.",
        check=inner_fraction,
    )
    learning_rate: float = option(
        0.0,
        _GROUP,
        "Highest learning rate, which falls to a hundredth (0: a tenth of the run's to prune, a hundredth to "
        "quantize).",
        check=not_negative,
    )
    data_dir: str = option("", _GROUP, "Folder of the raw dataset (empty: that of the run).")
    teacher_checkpoint: str = option("", _GROUP, "Checkpoint of the teacher (empty: that of the run).")
    extensions: str = extensions_option(_GROUP)


def check_flags(config: CompressConfig) -> None:
    """Raises UserError for flags that cannot work, before TensorFlow is imported."""
    for name in ("run", "output_dir"):
        if not getattr(config, name):
            raise UserError(f"--{name} is missing")
    if config.method == "prune" and config.steps < 2:
        raise UserError(f"--steps={config.steps}: pruning takes at least 2, at the end of which it is done")
    folder = Path(config.output_dir)
    if is_occupied(folder):
        raise UserError(f"--output_dir={folder} is there already: name a new folder")


def compress(config: CompressConfig) -> str:
    """Trains and writes a run folder; a line of what came of it. Raises UserError."""
    import tensorflow as tf
    import tf_keras as keras

    from fgfi_tf.deploy.compress import prune, quantize
    from fgfi_tf.training import build, checkpoints, flags, restoring, unlabelled
    from fgfi_tf.training.run_folder import RunFolder
    from fgfi_tf.training.run_log import RunLog

    run = _fine_tuning(config)
    prefix, metadata = restoring.find(config.run)
    dataset = build.open_split(run, run.train_split, run.classes)
    others = unlabelled.open_pictures(run, dataset, RunLog(None))
    distiller = restoring.build(run, metadata)
    restoring.restore(distiller, prefix)
    student = distiller.student
    student.begins_from(metadata.options, checkpoints.step_of(prefix))
    first: dict[str, float] = {}
    seen = keras.callbacks.LambdaCallback(on_train_batch_end=lambda _, logs: first or first.update(logs))
    hooks, quantized = [seen, _shown(run)], None
    if config.method == "prune":
        hooks.append(prune.MagnitudePruning(student, config.sparsity, config.steps))
    else:
        quantized = quantize.QuantizedLayers(student)
    folder = RunFolder(Path(config.output_dir))
    folder.root.mkdir(parents=True, exist_ok=True)  # one that cannot be written is told before the steps
    start = checkpoints.step_of(prefix)  # the data go on
    batches = build.build_batches(run, dataset, student, tf.distribute.get_strategy(), start, others)
    with dataset.reading():
        history = distiller.fit(batches, steps_per_epoch=config.steps, verbose=0, callbacks=hooks)
    if quantized is not None:
        quantized.restore()
    loss = history.history["loss"][-1]
    if not loss < float("inf"):
        raise UserError(f"the loss became {loss}: give a smaller --learning_rate")
    folder.flags.write_text(flags.to_flagfile(run))
    manager = build.build_manager(run, distiller, folder)
    manager.step.assign(config.steps)
    if manager.save() is None:
        raise UserError(f"--output_dir={folder.root}: the checkpoint could not be written")
    student.metadata.write(folder.checkpoints)
    zero = prune.sparsity(student)
    first = {name: float(value) for name, value in first.items()}
    losses = {name: float(values[-1]) for name, values in history.history.items()}
    record = {**dataclasses.asdict(config), "first_losses": first, "losses": losses, "zero": zero}
    (folder.root / RECORD_FILE).write_text(json.dumps(record, indent=1) + "\n")
    return (
        f"{folder.root}: {config.method}, {config.steps} steps, loss of the first {first['loss']:.3f}, "
        f"mean {loss:.3f}, zeros {zero:.3f}"
    )


def _shown(run: ExperimentConfig) -> keras.callbacks.Callback:
    """A bar on a terminal; else lines of the first steps, which tell how long it takes."""
    import tensorflow as tf

    from fgfi_tf.training import progress, schedules

    if sys.stdout.isatty():
        return progress.ProgressBar(0, run.steps)
    schedule, images = schedules.build_schedule(run), run.batch_size + run.unlabelled_images
    return progress.Summaries(
        0, None, 0, lambda step: float(schedule(tf.constant(step))), images, print, run.steps
    )


def _fine_tuning(config: CompressConfig) -> ExperimentConfig:
    """The run's flags with those of the fine-tuning: float32, a short warm-up, a learning rate that falls."""
    from fgfi_tf.training import restoring

    run = restoring.read_run(
        config.run, config.extensions, data_dir=config.data_dir, teacher_checkpoint=config.teacher_checkpoint
    )
    highest = config.learning_rate or run.learning_rate * SHARES[config.method]
    return dataclasses.replace(
        run,
        output_dir=config.output_dir,
        init_checkpoint="",
        steps=config.steps,
        learning_rate=highest,
        final_learning_rate=highest / 100,
        schedule="cosine",
        schedule_steps=0,
        lr_decay_steps="",
        lr_warmup_steps=int(WARMUP * config.steps),
        imitation_warmup_steps=0,
        imitation_end_step=0,
        evaluate_every=0,
        picture_every=0,
        ema=0.0,
        mixed_precision="none",
        jit_compile=False,
        steps_per_execution=1,  # masks follow each update
    )
