"""Flags: what parses, what is refused and how, and that a run's flags file starts the same run."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from fgfi_tf import cli
from fgfi_tf.errors import UserError
from fgfi_tf.options import flag_fields
from fgfi_tf.training import flags
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.validation import validate


def parse(*arguments: str) -> ExperimentConfig:
    return flags.parse(["train.py", *arguments])


def test_defaults_are_the_published_recipe():
    config = parse()
    assert config == ExperimentConfig.of()
    assert (config.batch_size, config.steps, config.learning_rate) == (32, 40000, 0.02)
    assert config.size == (384, 1248)
    assert (config.resize, config.augmentation, config.options) == ("stretch", "kitti", {})
    assert parse("--drift=9x5").options == {"drift": "9x5"}


def test_command_line_wins_over_the_flag_file(tmp_path):
    path = tmp_path / "a.cfg"
    path.write_text("# a comment\n--steps=7\n--imitation\n--learning_rate=1e-3\n")
    config = parse(f"--flagfile={path}", "--steps=9", "--noimitation")
    assert (config.steps, config.imitation, config.learning_rate) == (9, False, 1e-3)


def test_flags_file_of_a_run_gives_the_same_experiment(tmp_path):
    config = parse(
        "--imitation", "--learning_rate=0.1234567890123", "--data_dir=/a b/c", "--noaugment", "--seed=3"
    )
    path = tmp_path / "flags.cfg"
    path.write_text(flags.to_flagfile(config))
    assert flags.read_flagfile(path) == config


def test_flag_files_name_each_other_by_their_own_folder(tmp_path):
    (tmp_path / "base.cfg").write_text("--steps=7\n--seed=5\n")
    (tmp_path / "child.cfg").write_text("--flagfile=base.cfg\n--steps=8\n")
    config = parse(f"--flagfile={tmp_path}/child.cfg", "--noaugment")
    assert (config.steps, config.seed, config.augment) == (8, 5, False)


def test_what_a_later_flag_chooses_drops_the_options_of_what_a_file_chose(tmp_path):
    (tmp_path / "base.cfg").write_text("--model=shuffledet_0.25x\n--drift=60x40\n--dropout=0.3\n")
    (tmp_path / "child.cfg").write_text("--flagfile=base.cfg\n--noaugment\n")
    file = f"--flagfile={tmp_path}/child.cfg"
    config = parse(file)
    assert config.options == {"drift": "60x40", "dropout": 0.3}
    assert parse(file, "--augmentation=none").options == {"dropout": 0.3}
    # Faster R-CNN brings an augmentation without a drift, and has a dropout of its own.
    assert parse(file, "--model=faster_rcnn_vgg11").options == {"dropout": 0.3}
    (tmp_path / "grandchild.cfg").write_text("--flagfile=child.cfg\n--augmentation=none\n")
    assert parse(f"--flagfile={tmp_path}/grandchild.cfg").options == {"dropout": 0.3}
    # A run's flags.cfg names all: another model takes what it knows.
    (tmp_path / "flags.cfg").write_text(flags.to_flagfile(config))
    assert parse(f"--flagfile={tmp_path}/flags.cfg", "--augmentation=none").options == {"dropout": 0.3}
    # What nobody chose is a mistake, on the command line and in a file, which is named.
    with pytest.raises(
        UserError, match=r"--drift: the augmentation policy none has no such option \(it has none\)$"
    ):
        parse(file, "--augmentation=none", "--drift=60x40")
    (tmp_path / "bad.cfg").write_text("--augmentation=none\n--drift=60x40\n")
    with pytest.raises(UserError, match=r"--drift: .*has none\) \(in .*bad.cfg\)$"):
        parse(f"--flagfile={tmp_path}/bad.cfg")
    (tmp_path / "bad.cfg").write_text("--flagfile=base.cfg\n--stepps=60\n")
    with pytest.raises(UserError, match=r"unknown flag --stepps; did you mean steps\? \(in .*bad.cfg\)$"):
        parse(f"--flagfile={tmp_path}/bad.cfg")


def test_flag_file_with_a_byte_order_mark(tmp_path):
    (tmp_path / "bom.cfg").write_bytes(b"\xef\xbb\xbf--model=shuffledet_0.25x\r\n--steps=7\r\n")
    config = parse(f"--flagfile={tmp_path}/bom.cfg")
    assert (config.model, config.steps) == ("shuffledet_0.25x", 7)
    (tmp_path / "utf16.cfg").write_text("--steps=7\n", encoding="utf-16")
    with pytest.raises(UserError, match="utf16.cfg: cannot read it"):
        parse(f"--flagfile={tmp_path}/utf16.cfg")


FLOATS = [field.name for field in dataclasses.fields(ExperimentConfig) if field.type == "float"]


@pytest.mark.parametrize("value", ["nan", "inf", "-inf"])
def test_a_number_that_is_not_finite(value):
    assert {"learning_rate", "clip_norm", "final_learning_rate", "lr_decay_factor"} < set(FLOATS)
    for name in FLOATS:
        with pytest.raises(UserError, match=f"^--{name}={value}: a finite number is expected$"):
            parse(f"--{name}={value}")
        with pytest.raises(UserError, match=f"^--{name}={value}: a finite number is expected$"):
            validate(dataclasses.replace(ExperimentConfig(output_dir="runs/x"), **{name: float(value)}))
    with pytest.raises(UserError, match=f"--contrast=0.5,{value}: two numbers"):
        validate(ExperimentConfig(output_dir="runs/x", options={"contrast": f"0.5,{value}"}))


def test_flag_file_that_names_itself(tmp_path):
    (tmp_path / "a.cfg").write_text("--flagfile=b.cfg\n")
    (tmp_path / "b.cfg").write_text("--flagfile=a.cfg\n")
    with pytest.raises(UserError, match="a.cfg names itself"):
        parse(f"--flagfile={tmp_path}/a.cfg")


@pytest.mark.parametrize(
    ("argument", "message"),
    [
        ("--imitaton", "unknown flag --imitaton; did you mean imitation?"),
        ("--zzzzzz=1", "unknown flag --zzzzzz; see --help"),
        ("--steps=many", "--steps=many"),
        ("--flagfile=/no/such/file.cfg", "/no/such/file.cfg"),
        ("--schedule=linear", "cosine|step|constant"),
        ("stray", "unexpected argument 'stray'"),
    ],
)
def test_bad_command_line(argument, message):
    with pytest.raises(UserError) as raised:
        parse(argument)
    assert message in str(raised.value)


VOC = {"model": "faster_rcnn_vgg11", "input_size": "600x0"}
SIZED = {"input_size": "64x72", "resize": "stretch"}
CROPPING = {"options": {"roi_pooling": "crop_and_resize"}}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"model": "shuffledet_2x"}, "--model=shuffledet_2x: no such detector; did you mean shuffledet_"),
        ({"imitation": True}, "--imitation needs --teacher_checkpoint"),
        ({"imitation": True, "teacher_checkpoint": "x", "teacher_model": "vgg"}, "--teacher_model=vgg"),
        ({"input_size": "380x1248"}, "--input_size=380x1248: height and width must be divisible by 16"),
        ({"input_size": "384"}, "--input_size=384: two whole numbers"),
        ({"output_dir": ""}, "--output_dir is missing"),
        ({"imitation_weight": -1.0}, "--imitation_weight=-1.0: must be at least 0, or auto"),
        ({"imitation_weight": float("inf")}, "--imitation_weight=inf: a finite number is expected"),
        ({"imitation_weight": "automatic"}, "--imitation_weight=automatic: must be at least 0, or auto"),
        ({"imitation_weight": "auto", "imitation_share": 0.0}, "--imitation_share=0.0: must be above 0"),
        ({"imitation_share": 0.5}, "--imitation_share=0.5 needs --imitation_weight=auto"),
        (
            {"imitation_adaptation": "publish"},
            "--imitation_adaptation=publish: did you mean published?",
        ),
        ({"batch_size": 0}, "--batch_size=0: must be at least 1"),
        ({"seed": 2**32}, "--seed=4294967296: must be at most 4294967295"),
        ({"steps": 10**20}, "--steps=100000000000000000000: must be at most 4294967295"),
        ({"learning_rate": 0.0}, "--learning_rate=0.0"),
        ({"lr_decay_factor": 0.0}, "--lr_decay_factor=0.0: must be above 0"),
        ({"dataset": "kiti"}, "--dataset=kiti: no such dataset; did you mean kitti?"),
        ({"learning_rate": float("nan")}, "--learning_rate=nan"),
        ({"momentum": float("nan")}, "--momentum=nan"),
        ({"psi": 1.5}, "--psi=1.5"),
        ({"ema": 1.0}, "--ema"),
        ({"gradient_accumulation": 3, "batch_size": 32}, "--gradient_accumulation=3 does not divide"),
        ({"weight_decay": 0.1}, "--decay_rate"),
        ({"schedule": "step"}, "--schedule=step needs --lr_decay_steps"),
        (
            {"schedule": "step", "lr_decay_steps": "35,25"},
            "--lr_decay_steps=35,25: each step must be above the one before",
        ),
        ({"lr_decay_steps": "0,25"}, "--lr_decay_steps=0,25: each step must be above the one before"),
        ({"lr_decay_steps": "soon"}, "lr_decay_steps"),
        ({"schedule": "stairs"}, "--schedule=stairs: "),
        ({"devices": "gpu:0", "virtual_cpus": 2}, "exclude each other"),
        ({"imitation_end_step": 5, "imitation_warmup_steps": 5}, "--imitation_end_step"),
        ({"options": {"contrast": "1.5,0.5"}}, "--contrast=1.5,0.5"),
        ({"options": {"saturation": "a,b"}}, "--saturation=a,b"),
        ({"options": {"drift": "150"}}, "--drift=150"),
        ({"options": {"flip": 2.0}}, "--flip=2.0"),
        (
            {"options": {"width": 0.5}},
            "--width: the detector shuffledet_0.5x has no such option (it has --dropout, --anchors)",
        ),
        (
            {"options": {"roi_pooling": "align"}},
            "--roi_pooling: the detector shuffledet_0.5x has no such option",
        ),
        ({"options": {"dropout": 1.0}}, "--dropout=1.0: must be at least 0 and below 1"),
        ({**VOC, "input_size": "20x0"}, "--input_size=20x0: expected are a short side of at least 32"),
        ({**VOC, "input_size": "600x500"}, "--input_size=600x500: expected are "),
        ({**VOC, "options": {"width": -1.0}}, "--width=-1.0: must be above 0"),
        ({**VOC, "options": {"width": 0.0}}, "--width=0.0: must be above 0"),
        ({**VOC, "options": {"roi_pooling": "alin"}}, "--roi_pooling=alin: did you mean align?"),
        ({"options": {"dropout": "much"}}, "--dropout=much: expected is a value of type float"),
        ({"options": {"dropout": float("nan")}}, "--dropout=nan: a finite number is expected"),
        ({"options": {"depth": 3}}, "unknown flag --depth"),
        (
            {**VOC, "options": {"drift": "10x10"}},
            "--drift: the augmentation policy voc has no such option (it has --flip)",
        ),
        (
            {**VOC, "options": {"flip": 0.3}},
            "--flip=0.3: expected is 0.5 (each image and its mirror image) or 0",
        ),
        (
            {"augmentation": "none", "options": {"flip": 0.2}},
            "--flip: the augmentation policy none has no such option (it ",
        ),
        (
            {"augmentation": "coco"},
            "--augmentation=coco: no such augmentation policy; known are kitti, none, ",
        ),
        ({"resize": "strech"}, "--resize=strech: no such resize policy; did you mean stretch?"),
        (
            {"resize": "shorter_side"},
            "--resize=shorter_side: shuffledet_0.5x takes network inputs of one size",
        ),
        ({**VOC, "resize": "letterbox"}, "--input_size=600x0: height and width must be above 0"),
        ({**VOC, "resize": "letterbox", "input_size": "600x20"}, "--input_size=600x20: expected are a short"),
        (
            {"model": "yolov2", "input_size": "64x96", "resize": "shorter_side"},
            "multiples of 32 (yolov2), as ",
        ),
        ({**SIZED, "model": "faster_rcnn_mobilenet_v2_fpn"}, "--input_size=64x72: height and width must be "),
        ({**VOC, **SIZED, **CROPPING, "jit_compile": True}, "--jit_compile: XLA has no --roi_pooling=crop_"),
        ({**VOC, "jit_compile": True}, "--jit_compile: XLA would compile faster_rcnn_vgg11 anew"),
    ],
)
def test_impossible_experiments(changes, message):
    config = dataclasses.replace(ExperimentConfig(output_dir="runs/x"), **changes)
    with pytest.raises(UserError) as raised:
        validate(config)
    assert message in str(raised.value)
    assert "\n" not in str(raised.value)


def test_help_explains_every_flag():
    text = flags.help_text("train.py")
    for field in flag_fields(ExperimentConfig):
        assert field.name in text
        help_text = field.metadata["help"]
        assert len(help_text() if callable(help_text) else help_text) > 15, field.name


def test_user_errors_are_one_line_and_exit_with_1(capsys):
    def main(argv):
        raise UserError("the file\nis missing")

    with pytest.raises(SystemExit) as raised:
        cli.run(main, ["/a/train.py"])
    assert raised.value.code == 1
    assert capsys.readouterr().err == "train.py: error: the file is missing\n"


WEIGHING = ("imitation_weight", "imitation_warmup_steps")
ADAPTATION = ("imitation_normalization", "imitation_adaptation")
CONFIG_FOLDER = Path(__file__).resolve().parents[2] / "configs"
CONFIGS = sorted(
    path for name in ("kitti", "quickstart", "voc", "wider") for path in (CONFIG_FOLDER / name).glob("*.cfg")
)


@pytest.mark.parametrize("path", CONFIGS, ids=lambda path: path.stem)
def test_shipped_flag_files_are_valid_experiments(path):
    config = parse(f"--flagfile={path}", "--output_dir=runs/x", "--teacher_checkpoint=runs/y")
    assert validate(config) == config
    assert config.evaluate_every > 0  # a curve of AP in TensorBoard
    if path.parent.name != "quickstart":  # whose commands say how many steps
        assert 3 <= config.steps / config.evaluate_every <= 20


def test_published_rows_differ_where_they_should():
    folder = CONFIG_FOLDER / "kitti"
    plain, imitating = (parse(f"--flagfile={folder}/shuffledet_0.25x{s}.cfg") for s in ("", "_imitation"))
    assert imitating.imitation_normalization == 4.0
    differing = {name for name, value in plain.values().items() if imitating.values()[name] != value}
    assert differing == {"imitation", "teacher_model", "teacher_checkpoint", "output_dir", *ADAPTATION}


def test_published_voc_rows():
    folder = CONFIG_FOLDER / "voc"
    student, control, alone, teacher = (
        parse(f"--flagfile={folder}/{name}.cfg")
        for name in ("vgg11_imitation", "vgg11_no_imitation", "vgg11", "vgg16")
    )
    differing = {name for name, value in student.values().items() if control.values()[name] != value}
    assert differing == {
        "imitation",
        "imitation_adaptation",
        "teacher_checkpoint",
        "teacher_model",
        *WEIGHING,
        "output_dir",
    }
    # batch, rate, and epochs of 2 x 5,011 images: published 16 x 3e-3 x 15, 4 x 3e-3 x 15, 1 x 1e-3 x 7
    for config, batch, rate, epochs, decay_epoch in (
        (student, 16, 3e-3, 15, 9),
        (alone, 4, 3e-3, 15, 9),
        (teacher, 1, 1e-3, 7, 6),
    ):
        epoch = 10022 // batch
        assert (config.batch_size, config.learning_rate, config.steps) == (batch, rate, epochs * epoch)
        assert config.lr_boundaries == ((decay_epoch - 1) * epoch,)
        assert (config.clip_norm, config.momentum, config.decay_rate) == (10.0, 0.9, 0.0005)
    assert (student.imitation_weight, student.imitation_warmup_steps, student.psi) == (0.01, 400, 0.5)
