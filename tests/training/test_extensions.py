"""``--extensions`` and the flags of what is registered: a stranger's file from the command line to a run."""

from __future__ import annotations

import dataclasses
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import tiny_detector

from fgfi_tf import extensions
from fgfi_tf.errors import UserError
from fgfi_tf.export import export
from fgfi_tf.models import registry
from fgfi_tf.models.loading import load_detector
from fgfi_tf.options import Option
from fgfi_tf.prediction import Predictor
from fgfi_tf.training import early, evaluate_command, flags, run, run_folder
from fgfi_tf.training.config import ExperimentConfig
from fgfi_tf.training.validation import validate

# As a stranger writes it; what the detector computes is that of the tests.
STRANGER = """
from fgfi_tf.models.declaration import Declaration
from fgfi_tf.models.registry import register
from fgfi_tf.options import Option, positive
from tiny_detector import TinyDetector


class Stranger(TinyDetector):
    declaration = Declaration(
        options=(
            Option("channels", 8, "Channels of the feature.", check=positive),
            Option("wild", True, "Whether it is wild."),
        ),
        input_size=(64, 96),
        weights="the stranger's own files (.str)",
        recipe={"learning_rate": 0.003, "drift": "10x6", "batch_size": 4},
    )

    def __init__(self, *, channels, wild, **kwargs):
        super().__init__(channels, **kwargs)
        self.wild = wild


register("stranger", Stranger)
"""


@pytest.fixture(name="forget", autouse=True)
def forget_fixture(monkeypatch):
    """A function that makes this process one that has imported no extension."""

    def forget():
        monkeypatch.setattr(extensions, "_LOADED", set())
        if "stranger" in registry.names():
            registry.unregister("stranger")

    forget()
    yield forget
    forget()


@pytest.fixture(name="file")
def file_fixture(tmp_path):
    path = tmp_path / "mine" / "stranger.py"
    path.parent.mkdir()
    path.write_text(STRANGER)
    return path


def parse(*arguments: str) -> ExperimentConfig:
    return flags.parse(["train.py", *arguments])


def test_a_strangers_detector_has_its_flags_and_defaults(file, monkeypatch, capsys):
    monkeypatch.chdir(file.parent)
    config = parse("--extensions=stranger.py", "--model=stranger", "--nowild", "--channels=6", "--drift=2x2")
    assert config.extensions == str(file)  # wherever it is resumed from
    assert config.options == {"wild": False, "channels": 6, "drift": "2x2"}
    assert config.options_of("model") == {
        "channels": 6,
        "wild": False,
    }  # --drift: what is given wins over the recipe
    assert (config.input_size, config.learning_rate, config.batch_size) == ("64x96", 0.003, 4)
    assert config.dataset == "kitti"
    teacher = early.teacher_command(dataclasses.replace(config, teacher_checkpoint="runs/teacher"))
    assert f"--model=stranger --data_dir=DATA --extensions={file} " in teacher
    with pytest.raises(SystemExit):
        parse("--help", "--model", "stranger", f"--extensions={file}")
    shown = " ".join(capsys.readouterr().out.split())
    assert "Options of stranger (--model): --channels=INT Channels of the feature. Default: 8." in shown
    assert "Weights to start from: a run folder or checkpoint; imagenet (of a backbone" in shown
    assert "; the stranger's own files (.str)" in shown
    assert "--[no]wild Whether it is wild. Default: on." in shown
    assert "Learning rate after the warm-up. Default: 0.003." in shown
    assert "--dropout" not in shown
    for arguments, message in (
        (["--channels=0"], "--channels=0: must be above 0"),
        (["--channels=x"], "flag --channels=x"),
        (
            ["--dropout=0.1"],
            r"--dropout: the detector stranger has no such option \(it has --channels, --wild\)",
        ),
        (
            ["--model=shuffledet_1x", "--nowild"],
            r"--wild: the detector shuffledet_1x has no such option \(it has --dropout",
        ),
        (["--model=strangr", "--channels=4"], "--model=strangr: no such detector; did you mean stranger"),
        (["--model=strangr", "--help"], "--model=strangr: no such detector; did you mean stranger"),
    ):
        with pytest.raises(UserError, match=message):
            parse("--model=stranger", *arguments)


def test_a_run_remembers_its_extension(file, kitti, tmp_path, forget):
    training = [
        *("--model=stranger", "--channels=6", "--steps=2", "--checkpoint_every=1", "--picture_every=0"),
        *(f"--data_dir={kitti}", f"--output_dir={tmp_path / 'run'}", "--batch_size=2"),
    ]
    config = validate(parse(f"--extensions={file}", *training))
    run.train(config)
    folder = tmp_path / "run"
    assert f"--extensions={file}\n" in (folder / "flags.cfg").read_text()
    metadata = json.loads((folder / "checkpoints/model.json").read_text())
    assert (metadata["extensions"], metadata["options"]) == ([str(file)], {"channels": 6})

    forget()  # as another command does, which is given the run folder alone
    detector = load_detector(folder)
    assert type(detector).__name__ == "Stranger" and detector.feature_channels == (6,)
    exported = export(detector, tmp_path / "exported")
    forget()
    assert flags.read_flagfile(folder / "flags.cfg") == config
    forget()
    given = [f"--checkpoint={folder}", f"--data_dir={kitti}", f"--output_json={tmp_path / 'ap.json'}"]
    evaluate_command.evaluate(flags.parse(["evaluate.py", *given], evaluate_command.EvaluateConfig))
    assert "AP11" in (tmp_path / "ap.json").read_text()
    forget()
    predictor = Predictor.load(exported)
    assert predictor.dataset == "kitti" and "stranger" in registry.names()
    forget()
    moved = file.with_name("moved.py")
    file.rename(moved)
    with pytest.raises(
        UserError, match=rf"model.json: extensions={file}: no such file; pass --extensions with"
    ):
        load_detector(folder)
    with pytest.raises(UserError, match=rf"--extensions={file}: no such file .*a run folder remembers"):
        flags.read_flagfile(folder / "flags.cfg")
    assert Predictor.load(exported).dataset == "kitti"  # a SavedModel needs no code of its detector
    again = parse(f"--extensions={moved}", *training)
    run_folder.open_run(again)  # the same run, its extension elsewhere
    assert f"--extensions={moved}\n" in (folder / "flags.cfg").read_text()
    assert load_detector(folder).feature_channels == (6,)


def test_an_option_named_like_one_of_earlier_versions_may_be_of_another_type():
    declared = registry.Declaration(options=(Option("width", 4, "Channels."),))
    registry.register("whole", "no_such_module:Whole", declaration=declared)
    try:
        with pytest.raises(UserError, match="flag --width=0.0"):
            parse("--model=whole", "--width=0.0")
        assert parse("--model=whole", "--width=0").options == {"width": 0}
    finally:
        registry.unregister("whole")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1\n", "registers nothing: it is to call register"),
        ("import math\n\nmath.sqrt(-1)\n", "bad.py, line 3: ValueError: "),
        ("def broken(:\n", "bad.py, line 1: SyntaxError: "),
        ("import no_such_thing\n", "bad.py, line 1: ModuleNotFoundError: No module named 'no_such_thing'"),
        ("open('/no/such/file')\n", "bad.py, line 1: FileNotFoundError: "),
        (
            "from fgfi_tf.models import registry\nregistry.register('tiny', 'a:b', declaration="
            "registry.declaration('tiny'))\n",
            "bad.py: there is a model 'tiny' already",
        ),
    ],
)
def test_files_that_are_no_extensions(tmp_path, text, message):
    path = tmp_path / "bad.py"
    path.write_text(text)
    with pytest.raises(UserError) as raised:
        parse(f"--extensions={path}")
    assert str(raised.value).startswith(f"--extensions={path}") and message in str(raised.value)
    assert "\n" not in str(raised.value)


@pytest.mark.parametrize("name", [".", "..", ".a", "a..b"])
def test_what_is_neither_a_file_nor_a_module(name):
    with pytest.raises(
        UserError, match=rf"--extensions={re.escape(name)}: is neither a file that ends in .py nor"
    ):
        extensions.resolve(name)


def test_names_that_are_no_extensions(tmp_path):
    with pytest.raises(UserError, match="--extensions=none.py: no such file"):
        parse("--extensions=none.py")
    with pytest.raises(
        UserError, match=r"--extensions=no_such.module: no such module \(is its folder in PYTHON"
    ):
        parse("--extensions=no_such.module")
    with pytest.raises(UserError, match="--extensions=json: registers nothing"):
        parse("--extensions=json")


def test_modules_and_several_files(file, tmp_path, monkeypatch):
    (tmp_path / "package_of_mine").mkdir()
    (tmp_path / "package_of_mine" / "__init__.py").write_text("")
    other = STRANGER.replace('register("stranger"', 'register("other_stranger"')
    (tmp_path / "package_of_mine" / "detector.py").write_text(other)
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        config = parse(f"--extensions={file},package_of_mine.detector", "--model=other_stranger")
        assert config.extensions == f"{file},package_of_mine.detector"
        assert {"stranger", "other_stranger"} < set(registry.names())
        parse(f"--extensions={file}", "--model=stranger")  # a second time it is not imported again
    finally:
        registry.unregister("other_stranger")


def test_an_extension_that_another_one_has_imported(tmp_path, monkeypatch):
    package = tmp_path / "package_of_two"
    package.mkdir()
    (package / "__init__.py").write_text("")
    (package / "first.py").write_text("from package_of_two import second\n" + STRANGER)
    (package / "second.py").write_text(STRANGER.replace('register("stranger"', 'register("other_stranger"'))
    monkeypatch.syspath_prepend(str(tmp_path))
    try:
        parse("--extensions=package_of_two.first,package_of_two.second", "--model=other_stranger")
    finally:
        registry.unregister("other_stranger")
        registry.unregister("stranger")


def test_every_script_takes_extensions(file):
    config = flags.parse(["evaluate.py", f"--extensions={file}"], evaluate_command.EvaluateConfig)
    assert config.extensions == str(file) and "stranger" in registry.names()
    scripts = Path(__file__).resolve().parents[2] / "scripts"
    for name in ("train", "evaluate", "export", "predict", "study", "inspect_data"):
        done = subprocess.run(
            [sys.executable, scripts / f"{name}.py", f"--extensions={file}.txt/none.py"],
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 1
        assert f"{name}.py: error: --extensions={file}.txt/none.py: no such file" in done.stderr


LAZY = """
from fgfi_tf.models.registry import Declaration, register
from fgfi_tf.options import Option

register("lazy", "no_such_module:Lazy", declaration=Declaration(options=(Option("depth", 3, "Layers."),)))
"""
PLAN = """
[study]
title = Depths
seeds = 0
flags = --model=lazy --data_dir={data}
[deep]
flags = --depth=7
"""


def test_a_study_of_a_strangers_detector(tmp_path):
    """Its code is not imported for the flags, and each training is told of the file."""
    (tmp_path / "lazy.py").write_text(LAZY)
    (tmp_path / "plan.cfg").write_text(PLAN)
    script = Path(__file__).resolve().parents[2] / "scripts" / "study.py"
    command = [sys.executable, script, "--plan=plan.cfg", "--extensions=lazy.py", "--data_dir=d", "--dry_run"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    line = next(line for line in done.stdout.splitlines() if line.startswith("  deep, seed 0: "))
    assert "--model=lazy --data_dir=d --depth=7 " in line
    assert line.endswith(f"--extensions={tmp_path / 'lazy.py'}")


def test_flags_and_help_of_our_own_detectors_need_no_tensorflow():
    program = (
        "import sys\nfrom fgfi_tf.training import flags\n"
        "config = flags.parse(['train.py', '--model=faster_rcnn_vgg11', '--width=0.5'])\n"
        "assert config.options == {'width': 0.5}\n"
        "from fgfi_tf.training.validation import validate_values\n"
        "flags.to_flagfile(config)\n"
        "try:\n    flags.parse(['train.py', '--help', '--model=faster_rcnn_vgg16'])\n"
        "except SystemExit:\n    pass\n"
        "assert not {'tensorflow', 'tf_keras'} & set(sys.modules)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, done.stderr
    assert "Options of faster_rcnn_vgg16 (--model):" in done.stdout


def test_the_model_alone_means_its_published_recipe():
    config = parse("--model=faster_rcnn_vgg11")
    assert (config.input_size, config.dataset, config.options) == ("600x0", "voc", {})
    assert config == ExperimentConfig.of(model="faster_rcnn_vgg11")
    assert parse("--model=faster_rcnn_vgg16", "--dataset=kitti", "--input_size=300x0").dataset == "kitti"
    config = parse("--model=efficientnet_b0_shuffledet")
    assert (config.input_size, config.dataset) == ("384x1248", "kitti")
    assert config.options_of("model") == {"dropout": 0.0, "anchors": "published"}
    assert parse("--dropout=0.25").options_of("model") == {"dropout": 0.25, "anchors": "published"}


def test_a_runs_flags_with_options_start_the_same_run(tmp_path):
    config = parse("--model=faster_rcnn_vgg11", "--width=0.123456789", "--roi_pooling=align", "--seed=4")
    text = flags.to_flagfile(config)
    assert (
        "# Options of faster_rcnn_vgg11 (--model)\n--width=0.123456789\n--roi_pooling=align\n"
        "--frozen_layers=-1\n--dropout=0.5\n--roi_batch=0"
    ) in text
    (tmp_path / "flags.cfg").write_text(text)
    assert flags.read_flagfile(tmp_path / "flags.cfg") == config


EARLIER = "--model={}\n--input_size={}\n--width={}\n--roi_pooling={}\n--dropout={}\n--seed=3\n"


@pytest.mark.parametrize(
    ("lines", "options"),
    [
        (("shuffledet_0.5x", "384x1248", "0.0", "", "-1.0"), {"dropout": 0.5, "anchors": "published"}),
        (("shuffledet_0.5x", "384x1248", "0.0", "", "0.25"), {"dropout": 0.25, "anchors": "published"}),
        (("mobilenet_v2_shuffledet", "64x96", "0", "", "-1"), {"dropout": 0.0, "anchors": "published"}),
        (
            ("faster_rcnn_vgg11", "600x0", "0.0", "", "-1.0"),
            {"width": 1.0, "roi_pooling": "reference", "frozen_layers": -1, "dropout": 0.5, "roi_batch": 0},
        ),
        (
            ("faster_rcnn_vgg11", "600x0", "0.25", "align", "0.0"),
            {"width": 0.25, "roi_pooling": "align", "frozen_layers": -1, "dropout": 0.0, "roi_batch": 0},
        ),
    ],
)
def test_flagfiles_of_earlier_versions_resolve_as_before(tmp_path, lines, options):
    (tmp_path / "flags.cfg").write_text(EARLIER.format(*lines))
    config = flags.read_flagfile(tmp_path / "flags.cfg")
    assert config.options_of("model") == options
    assert (config.input_size, config.seed) == (lines[1], 3)


def test_a_run_of_an_earlier_version_goes_on_and_another_is_refused(experiment, tmp_path):
    config = experiment(steps=3)
    run.train(config)
    folder = tmp_path / "run"
    text = (folder / "flags.cfg").read_text()
    assert "--dropout=0.3\n" in text
    earlier = text.replace("--dropout=0.3\n", "--dropout=-1.0\n--width=0.0\n--roi_pooling=\n")
    earlier = "".join(line for line in earlier.splitlines(True) if not line.startswith("--extensions"))
    (folder / "flags.cfg").write_text(earlier)
    assert run.train(config).finished
    with pytest.raises(UserError, match=r"already holds another run, started with --dropout=0.3"):
        run.train(experiment(steps=3, options={"dropout": 0.1}))


def test_names_of_the_tests_are_gone_where_they_are_not_registered():
    assert set(tiny_detector.NAMES) < set(registry.names())
    tiny_detector.unregister()
    with pytest.raises(UserError, match="--model=tiny: no such detector"):
        validate(ExperimentConfig(model="tiny", output_dir="runs/x"))
    tiny_detector.register()
