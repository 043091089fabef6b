"""scripts/export.py and predict.py: from a checkpoint to checked files, and detections from any of them."""

from __future__ import annotations

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import describe
import export as export_script
import numpy as np
import predict
import pytest
import tensorflow as tf
from PIL import Image

from fgfi_tf import cli
from fgfi_tf.data.images import read_image
from fgfi_tf.deploy import command, counting, describe_command
from fgfi_tf.deploy.material import Material
from fgfi_tf.errors import UserError
from fgfi_tf.models import registry
from fgfi_tf.prediction import Predictor

EXAMPLES = Path(__file__).resolve().parents[2] / "scripts" / "examples"


def run(script, *arguments) -> int:
    with pytest.raises(SystemExit) as end:
        cli.run(script.main, [f"{script.__name__}.py", *arguments])
    return end.value.code


def test_what_is_written(exported):
    names = ["check.json", "detector.json", "model.json", "model.tflite", "model_int8.tflite", "savedmodel"]
    assert sorted(path.name for path in exported.iterdir()) == names
    rows = json.loads((exported / "check.json").read_text())["rows"]
    assert [row["name"] for row in rows] == ["source", "model.tflite", "model_int8.tflite", "SavedModel"]
    assert [row["size"] for row in rows[1:3]] == [
        (exported / name).stat().st_size for name in ("model.tflite", "model_int8.tflite")
    ]
    exact, rounded, saved = (row["difference"] for row in rows[1:])
    assert exact["images"] == 4 and exact["detections"] > 20
    assert saved["matched"] == saved["detections"] and saved["box"] < 0.05 and saved["score"] < 1e-4
    assert exact["matched"] > 0.9 * exact["detections"]
    assert rounded["score"] > exact["score"]
    assert set(rows[1]["latency_ms"]) == {"1", "2"} and set(rows[3]["latency_ms"]) == {"all"}
    assert min(rows[1]["latency_ms"].values()) > 0


@pytest.mark.parametrize("name", ["model.tflite", "model_int8.tflite", "savedmodel"])
def test_predict_from_any_of_them(exported, photos, tmp_path, capsys, name):
    code = run(predict, f"--model_path={exported / name}", f"--images={photos}", f"--output_dir={tmp_path}")
    assert code == 0
    assert capsys.readouterr().out.startswith("6 of 6 images")
    assert len(list(tmp_path.glob("*.txt"))) == len(list(tmp_path.glob("*.png"))) == 6
    assert sum(len(file.read_text().splitlines()) for file in tmp_path.glob("*.txt")) > 20


def test_describe_from_any_of_them(exported, checkpoint, capsys):
    for path in (exported / "model_int8.tflite", exported / "savedmodel", checkpoint):
        assert run(describe, str(path), "--nolayers") == 0
        assert "multiply-adds: 0." in capsys.readouterr().out


def test_files_count_what_they_compute(detector, exported):
    found = counting.of_detector(detector)
    file = counting.of_file(exported / "model.tflite")
    # narrow groups are dense there, with zeros; the rest is as it was
    assert found.multiply_adds < file.multiply_adds < 2 * found.multiply_adds
    pixels, stem, *_ = (layer for layer in file.layers if layer.kind == "CONV_2D")
    assert stem.multiply_adds == 64 * 96 * 27 * 24
    # int8: pixels four at once and the stem two, and means of 3 x 3 as convolutions, at strides 4, 8 and 16
    means = sum(
        channels * (3 * height - 1) * (3 * width - 1)
        for height, width, channels in ((16, 24, 24), (8, 12, 60), (4, 6, 120))
    )
    extra = 64 * 96 * 3 * (12 - 3) + 64 * 96 * 24 * 27 + means
    assert counting.of_file(exported / "model_int8.tflite").multiply_adds == file.multiply_adds + extra
    saved = counting.of_saved_model(exported / "savedmodel")
    assert saved.multiply_adds == file.multiply_adds - pixels.multiply_adds
    config = describe_command.DescribeConfig(str(exported / "model.tflite"), layers=False)
    *_, said = describe_command.describe(config).splitlines()
    assert said == f"multiply-adds: {file.multiply_adds / 1e9:.3f} G"


def test_example_for_a_device_needs_nothing_of_this_package(exported, photos, tmp_path):
    pytest.importorskip("ai_edge_litert", reason="needs the extra [tflite]")
    turned = Image.Exif()
    turned[0x0112] = 6  # of a telephone that was held upright
    Image.open(photos / "0.png").rotate(90, expand=True).save(tmp_path / "0.png", exif=turned)
    example, given = (
        str(EXAMPLES / "detect_tflite.py"),
        [str(exported / "model.tflite"), str(tmp_path / "0.png")],
    )
    program = f"""
import runpy, sys
found = runpy.run_path({example!r})["main"](*{given!r}, 0.1)
assert not {{"tensorflow", "fgfi_tf", "keras"}} & set(sys.modules)
print(len(found))
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    *lines, count = done.stdout.splitlines()
    image = read_image(tmp_path / "0.png")
    np.testing.assert_array_equal(image, Image.open(photos / "0.png"))
    expected = Predictor.load(exported / "model.tflite")(image[None])[0]
    shown = expected["scores"] >= 0.1
    assert int(count) == len(lines) == shown.sum() > 3
    printed = np.array([[float(word) for word in line.split()[1:]] for line in lines])
    np.testing.assert_allclose(printed[:, 0], expected["scores"][shown], atol=0.002)
    np.testing.assert_allclose(printed[:, 1:], expected["boxes"][shown], atol=1.0)


def test_served_model_needs_tensorflow_alone(exported, photos):
    paths = EXAMPLES / "request_rest.py", exported / "savedmodel", photos / "0.png"
    example, served, photo = map(str, paths)
    program = f"""
import importlib.util, json, sys
import numpy as np, tensorflow as tf
from PIL import Image
def example():
    spec = importlib.util.spec_from_file_location("example", {example!r})
    module = importlib.util.module_from_spec(spec); spec.loader.exec_module(module)
    return module
example = example()
serve = tf.saved_model.load({served!r}).signatures["serving_default"]
def server(body):  # as TensorFlow Serving's REST interface does: rows in, rows out
    rows = json.loads(body)["instances"]
    images = tf.constant([row["images"] for row in rows], tf.uint8)
    found = {{name: value.numpy() for name, value in serve(images=images).items()}}
    rows = [{{name: value[i].tolist() for name, value in found.items()}} for i in range(len(rows))]
    return json.dumps({{"predictions": rows}}).encode()
image = np.asarray(Image.open({photo!r}))
for pictures in ([image], [image, image[::-1]], [image[:33, :47]] * 3):  # any number, any size
    found = example.detections(server(example.body(pictures)), 0.1)
    assert len(found) == len(pictures) and all(found)
assert "fgfi_tf" not in sys.modules and "tf_keras" not in sys.modules
print(json.dumps(example.detections(server(example.body([image])), 0.1)[0]))
"""
    own = {key: value for key, value in os.environ.items() if key != "TF_USE_LEGACY_KERAS"}  # set by addons
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, env=own, check=False
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    image = np.asarray(Image.open(photos / "0.png"))
    expected = Predictor.load(exported / "savedmodel")(image[None])[0]
    shown = expected["scores"] >= 0.1
    np.testing.assert_allclose([row[1] for row in found], expected["scores"][shown], rtol=1e-4)
    np.testing.assert_allclose([row[2] for row in found], expected["boxes"][shown], atol=0.01)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--format=tflit"], "--format=tflit: did you mean tflite?"),
        (["--format="], "--format is empty: known are onnx, savedmodel, tflite"),
        (["--format=tflite", "--quantize=int4"], "--quantize=int4: did you mean int8?"),
        (["--quantize=int8"], "--quantize=int8 is of TFLite files: --format=tflite"),
        (["--images=a", "--data_dir=b"], "give pictures (--images) or labelled data (--data_dir), not both"),
        (["--check_images=-1"], "--check_images=-1: must be at least 0"),
        (["--format=tflite", "--quantize=int8", "--calibration_images=0"], "--calibration_images=0: --quant"),
        (["--checkpoint=a/model.onnx"], "--checkpoint=a/model.onnx is an export itself: name the run folder"),
        (["--checkpoint=configs/a.cfg"], "--checkpoint=configs/a.cfg is a file of flags: name the run"),
        (["--checkpoint="], "--checkpoint is missing"),
        (["--output_dir="], "--output_dir is missing"),
    ],
)
def test_flags_that_cannot_work(capsys, arguments, message):
    assert run(export_script, "--checkpoint=a", "--output_dir=b", *arguments) == 1
    assert message in capsys.readouterr().err


def test_int8_without_pictures(checkpoint, tmp_path, capsys):
    given = [f"--checkpoint={checkpoint}", f"--output_dir={tmp_path / 'out'}", "--format=tflite"]
    assert run(export_script, *given, "--quantize=int8") == 1
    assert "--quantize=int8 is calibrated on pictures: --images or --data_dir" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_a_detector_in_two_stages_is_refused_before_its_data_are_looked_for(tmp_path, capsys):
    faster = registry.build("faster_rcnn_vgg11", input_size=(64, 0), class_names=("a",), width=0.02)
    tf.train.Checkpoint(student=faster).write(str(tmp_path / "checkpoints/ckpt-1"))
    faster.metadata.write(tmp_path / "checkpoints")
    arguments = (f"--checkpoint={tmp_path}", f"--output_dir={tmp_path / 'files'}", "--format=tflite")
    assert run(export_script, *arguments, f"--data_dir={tmp_path / 'nowhere'}") == 1
    assert "faster_rcnn_vgg11 has no raw head" in capsys.readouterr().err


def test_files_that_are_there_are_kept(checkpoint, exported, capsys):
    before = (exported / "model.tflite").read_bytes()
    given = [f"--checkpoint={checkpoint}", f"--output_dir={exported}", "--format=tflite"]
    assert run(export_script, *given) == 1
    assert "model.tflite and 3 more files are there already" in capsys.readouterr().err
    assert (exported / "model.tflite").read_bytes() == before


def test_an_export_is_replaced_whole(checkpoint, tmp_path, capsys):
    """A file of the earlier one, beside the new card, would be run with classes and sizes of another."""
    for name in ("model.tflite", "model_int8.tflite", "model.onnx", "savedmodel/saved_model.pb", "notes.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text(name)
    command._remove_others(tmp_path, ["model.tflite"])
    assert len(list(tmp_path.iterdir())) == 5  # without a card, no export
    (tmp_path / "detector.json").touch()
    given = [f"--checkpoint={checkpoint}", f"--output_dir={tmp_path}", "--format=tflite", "--latency_runs=0"]
    assert run(export_script, *given, "--overwrite") == 0
    written = {"model.tflite", "detector.json", "model.json", "check.json"}
    assert {path.name for path in tmp_path.iterdir()} == {"notes.txt", *written}
    assert (tmp_path / "model.tflite").stat().st_size > 100_000
    assert "not compared with its source: no pictures" in capsys.readouterr().out


def test_files_do_not_go_into_a_saved_model(detector, tmp_path):
    """Nothing would tell which of the two the folder names."""
    (tmp_path / "saved_model.pb").touch()
    config = command.ExportConfig("run", str(tmp_path), "tflite")
    with pytest.raises(UserError, match="is a SavedModel; name another folder for files"):
        command._files(config, detector, Material())


def test_why_there_are_no_pictures(detector, tmp_path):
    (tmp_path / "flags.cfg").write_text(f"--model=shuffledet_0.25x\n--data_dir={tmp_path}\n")
    config = command.ExportConfig(str(tmp_path), "out")
    assert "ImageSets" in command._material(config, detector).missing
    with pytest.raises(UserError, match="ImageSets"):  # asked for
        command._material(dataclasses.replace(config, val_split="val"), detector)


def test_without_pictures_it_says_so(checkpoint, tmp_path, capsys):
    given = [f"--checkpoint={checkpoint}", f"--output_dir={tmp_path / 'saved'}", "--latency_runs=0"]
    assert run(export_script, *given) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"SavedModel: {tmp_path / 'saved'} (")
    assert "not compared with its source: no pictures (--images or --data_dir names some)" in shown
    assert (tmp_path / "saved" / "assets.extra" / "check.json").is_file()
