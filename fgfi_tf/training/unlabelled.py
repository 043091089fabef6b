"""Pictures without labels: what the frozen teacher detects in them says where the student imitates it.

The teacher runs once over the folder. Its detections lie beside the prepared records in a file that is named
by the pictures and the teacher, and is made anew where either changes; so a run that goes on detects nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
from tqdm import tqdm

from fgfi_tf.data import builder, splits
from fgfi_tf.data import registry as datasets
from fgfi_tf.data.classes import IGNORE, ClassChoice, resolve
from fgfi_tf.data.dataset import Dataset, Frame
from fgfi_tf.data.images import image_size
from fgfi_tf.data.records import PreparedDataset, locked
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import results
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.paths import user_path
from fgfi_tf.prediction import ImageFile, Predictor, find_images, predict_files
from fgfi_tf.training import build
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.run_log import RunLog
from fgfi_tf.training.teacher import hash_files

NAME = "unlabelled"
_BATCH = 8


def check_batch(config: ExperimentConfig, replicas: int) -> None:
    """Raises UserError unless each replica's micro-batches hold as many images of either kind."""
    shares = replicas * config.gradient_accumulation
    sizes = {"batch_size": config.batch_size, "unlabelled_batch_size": config.unlabelled_images}
    for name, images in sizes.items() if config.unlabelled_dir else ():
        if images % shares:
            raise UserError(
                f"--{name}={images}: with --unlabelled_dir it must be a multiple of {shares}, so that each "
                "device, and each micro-batch of --gradient_accumulation, gets as many"
            )


def open_pictures(
    config: ExperimentConfig, dataset: PreparedDataset, log: RunLog, progress: bool = True
) -> PreparedDataset | None:
    """The pictures of ``--unlabelled_dir`` with the teacher's boxes as objects, ready to read; None without.

    Pictures of the training and the validation split are left out, and those in which the teacher is sure of
    nothing. Where boxes serve as labels, those of classes that are not learnt are left out; otherwise all are
    of the first class, which nothing reads.

    Raises:
        UserError: no picture there, or none with a box; a teacher that cannot be loaded, or, for labels, that
            detects none of the classes; a folder that cannot be written.
    """
    if not config.unlabelled_dir:
        return None
    root = user_path(config.unlabelled_dir)
    folder = user_path(config.prepared_dir) if config.prepared_dir else root / "tfrecords"
    there, labelled = find_images([root], folder), _labelled_files(config, dataset)
    files = [file for file in there if file.path.resolve() not in labelled]
    if not files:
        raise UserError(
            f"--unlabelled_dir={root}: every picture there is one of {dataset.name} or {config.val_split}"
        )
    path = _detections(config, dataset.learnt_names, files, folder, log, progress)
    frames = teacher_frames(
        files,
        results.read_csv(path, scored=True),
        path,
        config.unlabelled_min_score,
        dataset.learnt_names,
        _class_of(dataset) if config.unlabelled_labels else None,
    )
    if not frames:
        wanted = f"one of {', '.join(dataset.learnt_names)}" if config.unlabelled_labels else "an object"
        raise UserError(
            f"--unlabelled_dir={root}: in none of {len(files)} pictures the teacher finds {wanted} with a "
            f"score of {config.unlabelled_min_score:g} (--unlabelled_min_score)"
        )
    notes = [
        f"+ {len(frames)} unlabelled pictures, {sum(len(frame.names) for frame in frames)} boxes of the "
        f"teacher above {config.unlabelled_min_score:g}" + ", labels too" * config.unlabelled_labels
    ]
    if without := len(files) - len(frames):
        notes.append(f"{without} without one are left out")
    if known := len(there) - len(files):
        notes.append(f"{known} that {dataset.name} or {config.val_split} holds are left out")
    log("; ".join(notes))
    raw = builder.prepare(Dataset(), frames, NAME, folder, progress, config.max_megapixels)
    choice = ClassChoice(dataset.learnt_names)
    table = resolve(choice, raw.counts(), dataset.learnt_names, (), NAME)
    return PreparedDataset(NAME, raw, table, choice)


def teacher_frames(
    files: Sequence[ImageFile],
    found: Boxes,
    path: Path,
    min_score: float,
    learnt: Sequence[str],
    class_of: Mapping[str, str] | None = None,
) -> list[Frame]:
    """The pictures with the boxes of ``found`` whose score is at least ``min_score``, if there are any.

    Boxes are cut to their picture. ``path`` is the file that they are from; ``class_of`` says which class of
    ``learnt`` a lower-case name of the teacher's means, boxes of others being left out; without it all are of
    the first.
    """
    if not found.image_ids:  # the teacher has found nothing anywhere
        return []
    found = found.take(found.scores >= min_score).by_image()
    ends = np.searchsorted(found.image, np.arange(len(found.image_ids)), side="right")
    rows_of = dict(zip(found.image_ids, np.split(np.arange(len(found)), ends[:-1]), strict=True))
    frames = []
    for file in files:
        rows = rows_of.get(file.name, np.arange(0))
        if not len(rows):
            continue
        names = [learnt[0] if class_of is None else class_of.get(n.lower(), "") for n in found.names(rows)]
        height, width = image_size(file.path)
        boxes, last = found.boxes[rows], np.array([width - 1, height - 1])
        inside = (boxes[:, :2] <= last).all(axis=1) & (boxes[:, 2:] >= 0).all(axis=1)
        kept = np.flatnonzero(inside & np.array([bool(name) for name in names]))
        if len(kept):
            boxes = np.clip(boxes[kept], 0, [*last, *last])
            frames.append(Frame(file.name, file.path, path, boxes, [names[row] for row in kept]))
    return frames


def _labelled_files(config: ExperimentConfig, dataset: PreparedDataset) -> set[Path]:
    """The picture files of the training and the validation split, where there is one."""
    paths = [files[0] for files in dataset.files]
    try:
        reader, root = datasets.entry(config.dataset), user_path(config.data_dir)
        options = config.options_of("dataset")
        frames = splits.frames_of(reader, root, config.val_split, config.val_fraction, options)
        paths += [frame.image_path for frame in frames]
    except UserError:  # told where it is evaluated
        pass
    return {path.resolve() for path in paths if path is not None}


def _class_of(dataset: PreparedDataset) -> dict[str, str]:
    """The classes to learn by their names in lower case, and by those of what is merged into them."""
    merged = {name: to for name, to in dataset.choice.renamed.items() if to != IGNORE}
    return {**merged, **{name.lower(): name for name in dataset.learnt_names}}


def _detections(
    config: ExperimentConfig,
    class_names: Sequence[str],
    files: Sequence[ImageFile],
    folder: Path,
    log: RunLog,
    progress: bool,
) -> Path:
    """The file of everything that the teacher detects, whatever its score; complete or not there."""
    path = folder / f"teacher-{_fingerprint(config, files)}.csv"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with locked(folder / ".teacher.lock"):
            if not path.is_file():
                found = _detect(config, class_names, files, log, progress)
                scratch = path.with_suffix(".new")
                scratch.write_text(results.write_csv(found)[results.CSV_FILE], encoding="utf-8")
                scratch.replace(path)
    except OSError as error:
        raise UserError(
            f"{folder}: cannot be written: {error.strerror}; --prepared_dir names another folder"
        ) from error
    return path


def _detect(
    config: ExperimentConfig,
    class_names: Sequence[str],
    files: Sequence[ImageFile],
    log: RunLog,
    progress: bool,
) -> Boxes:
    teacher = build.load_teacher(config, class_names)
    predictor = Predictor.of_detector(teacher)
    failed: list[UserError] = []
    found = {}
    with tqdm(total=len(files), desc="the teacher detects", unit="image", disable=not progress) as bar:
        for file, _, detections in predict_files(
            predictor, files, failed.append, config.max_megapixels, _BATCH
        ):
            found[file.name] = detections
            bar.update()
    for error in failed:
        log.warn(f"skipped: {error}")
    return Boxes.of_detections(found, teacher.class_names)


def _fingerprint(config: ExperimentConfig, files: Sequence[ImageFile]) -> str:
    """12 hex digits over the teacher's files, the network input, what is too large, and the pictures' names,
    sizes and times."""
    digest = hash_files(config, f"{config.teacher_model} {config.size} {config.max_megapixels}\n")
    for file in files:
        state = file.path.stat()
        digest.update(f"{file.name}\n{state.st_size} {state.st_mtime_ns}\n".encode())
    return digest.hexdigest()[:12]
