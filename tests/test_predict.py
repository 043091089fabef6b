"""scripts/predict.py on folders as people have them: nothing lost, nothing overwritten, everything named."""

from __future__ import annotations

import json
import re

import numpy as np
import picture_files
import predict
import pytest
from PIL import Image

from fgfi_tf import cli
from fgfi_tf.data.readers import voc as voc_reader
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry as protocols
from fgfi_tf.evaluation.voc import files as voc_io
from fgfi_tf.prediction import Predictor

KITTI_CLASSES = ("Car", "Pedestrian", "Cyclist")


def one_box(images) -> dict[str, np.ndarray]:
    """Finds in every picture one object as large as it, whose score is the first pixel's red."""
    count, height, width, _ = images.shape
    return {
        "boxes": np.array([[[0, 0, width - 1, height - 1]]] * count, np.float32),
        "scores": np.asarray(images)[:, :1, 0, 0].astype(np.float32) / 256,  # exact in binary
        "classes": np.zeros((count, 1), np.int32),
        "count": np.ones(count, np.int32),
    }


@pytest.fixture(name="run")
def run_fixture(monkeypatch, tmp_path):
    """Runs the script on pictures in ``in`` with results in ``out``; gives its exit code."""
    (tmp_path / "in").mkdir()

    def run(*arguments, classes=KITTI_CLASSES, dataset="kitti", images=None, out=None) -> int:
        model = Predictor(one_box, classes, "MODEL", dataset)
        monkeypatch.setattr(Predictor, "load", lambda path, name: model)
        given = [f"--images={images or tmp_path / 'in'}", f"--output_dir={out or tmp_path / 'out'}"]
        with pytest.raises(SystemExit) as end:
            cli.run(predict.main, ["predict.py", "--model_path=MODEL", *given, *arguments])
        return end.value.code

    return run


def picture(path, level=64, size=(8, 6), **settings):
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", size, (level, level, level)).save(path, **settings)
    return path


def written(folder) -> dict[str, bytes]:
    return {str(p.relative_to(folder)): p.read_bytes() for p in sorted(folder.rglob("*")) if p.is_file()}


def kitti_line(width, height, level) -> bytes:
    box = f"0.0 0.0 {float(width - 1)} {float(height - 1)}"
    return f"Car -1 -1 0.0 {box} 0 0 0 0 0 0 0 {level / 256}\n".encode()


def test_pictures_and_result_files(run, tmp_path, capsys):
    picture(tmp_path / "in/a.png", 64)
    picture(tmp_path / "in/b.BMP", 128, (10, 5))
    assert run() == 0
    assert re.fullmatch(
        rf"2 of 2 images, \d+\.\d images/s: pictures and result files in {tmp_path}/out\n",
        capsys.readouterr().out,
    )
    found = written(tmp_path / "out")
    assert sorted(found) == ["a.png", "a.txt", "b.png", "b.txt"]
    assert found["a.txt"] == kitti_line(8, 6, 64) and found["b.txt"] == kitti_line(10, 5, 128)
    with Image.open(tmp_path / "out/b.png") as drawn:
        assert drawn.size == (10, 5)


def test_upright_and_of_8_bits(run, tmp_path):
    (tmp_path / "in/side.png").parent.mkdir(exist_ok=True)
    levels = np.array(picture_files.STORED, np.uint8)
    Image.fromarray(levels).save(tmp_path / "in/side.png", exif=picture_files.exif(6))
    Image.fromarray(np.full((6, 8), 64 * 257, np.uint16)).save(tmp_path / "in/deep.png")
    assert run() == 0
    assert (tmp_path / "out/side.txt").read_bytes() == kitti_line(2, 3, picture_files.SHOWN[6][0][0])
    assert (tmp_path / "out/deep.txt").read_bytes() == kitti_line(8, 6, 64)


def test_unreadable_pictures_are_passed_over_and_listed(run, tmp_path, capsys):
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/z.png")
    (tmp_path / "in/bomb.png").write_bytes(picture_files.png(100_000, 100_000, 8, 2, b""))
    (tmp_path / "in/cut.jpg").write_bytes(picture_files.jpeg(np.zeros((50, 50, 3), np.uint8))[:-40])
    (tmp_path / "in/._a.png").write_bytes(b"\x00\x05\x16\x07")
    (tmp_path / "in/.hidden").mkdir()
    picture(tmp_path / "in/.hidden/b.png")
    (tmp_path / "in/new\nline.png").write_bytes((tmp_path / "in/a.png").read_bytes())
    assert run() == 1
    assert sorted(written(tmp_path / "out")) == ["a.png", "a.txt", "z.png", "z.txt"]
    shown = capsys.readouterr()
    assert re.fullmatch(r"2 of 5 images, .* images/s: .*\n", shown.out)
    *lines, heading, bomb, cut, name = shown.err.splitlines()
    assert [line.removeprefix("predict.py: error: ") for line in lines] == [
        line.strip() for line in (bomb, cut, name)
    ]
    assert heading == "skipped, 3:"
    assert "bomb.png: 100000 x 100000 pixels are more than 100 megapixels (--max_megapixels" in bomb
    assert "cut.jpg: the image is unreadable or truncated" in cut
    assert "new\\nline.png': result files cannot hold the characters of this name" in name


def test_a_long_list_of_failures_is_cut(run, tmp_path, capsys):
    for number in range(25):
        (tmp_path / f"in/{number}.png").write_bytes(b"")
    assert run() == 1
    assert capsys.readouterr().err.splitlines()[-22:][::21] == ["skipped, 25:", "  and 5 more"]


def test_the_size_limit_is_a_flag(run, tmp_path, capsys):
    picture(tmp_path / "in/a.png", size=(100, 100))
    assert run("--max_megapixels=0.009") == 1
    assert "a.png: 100 x 100 pixels are more than 0.009 megapixels" in capsys.readouterr().err
    assert run("--max_megapixels=0.01") == 0


@pytest.fixture(name="killed_at_the_third")
def killed_at_the_third_fixture(run, tmp_path, monkeypatch):
    """Ctrl-C in the third of the pictures a, b and c."""
    for name in "abc":
        picture(tmp_path / f"in/{name}.png")
    calls, detect = [], one_box

    def killed(images):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return detect(images)

    monkeypatch.setitem(globals(), "one_box", killed)


@pytest.mark.usefixtures("killed_at_the_third")
def test_results_are_written_as_pictures_are_done(run, tmp_path):
    """What was done before is there."""
    names = voc_reader.CLASS_NAMES
    assert run("--batch_size=1", classes=names, dataset="voc") == 130
    found = written(tmp_path / "out")
    assert found["comp4_det_images_aeroplane.txt"] == b"a 0.25 1.0 1.0 8.0 6.0\nb 0.25 1.0 1.0 8.0 6.0\n"
    assert sorted(found) == sorted(["a.png", "b.png", *(f"comp4_det_images_{name}.txt" for name in names)])


@pytest.mark.usefixtures("killed_at_the_third")
def test_results_of_one_file_hold_what_was_found_before_an_interruption(run, tmp_path):
    assert run("--batch_size=1", "--results=coco,csv", "--nopictures") == 130
    found = written(tmp_path / "out")
    assert [row["image_name"] for row in json.loads(found["detections.json"])] == ["a", "b"]
    assert [line.split(",")[0] for line in found["detections.csv"].decode().split()] == ["image", "a", "b"]


def test_two_flags_for_one_thing(run, tmp_path, capsys):
    picture(tmp_path / "in/a.png")
    assert run("--results=csv", "--format=voc") == 1
    assert "give --format or --results, not both" in capsys.readouterr().err


def test_no_two_results_are_one(run, tmp_path):
    picture(tmp_path / "in/a.png", 64)
    picture(tmp_path / "in/a.bmp", 128)
    picture(tmp_path / "in/cam1/0001.png", 32)
    picture(tmp_path / "in/cam2/0001.png", 16)
    assert run() == 0
    found = written(tmp_path / "out")
    scores = {name: float(text.split()[-1]) * 256 for name, text in found.items() if name.endswith(".txt")}
    assert scores == {"a.png.txt": 64, "a.bmp.txt": 128, "cam1/0001.txt": 32, "cam2/0001.txt": 16}
    assert {name for name in found if name.endswith(".png")} == {
        f"{name.removesuffix('.txt')}.png" for name in scores
    }


def test_two_folders_and_a_file(run, tmp_path):
    for camera, level in (("cam1", 32), ("cam2", 16)):
        picture(tmp_path / camera / "0001.png", level)
    images = f"{tmp_path}/cam1,{tmp_path}/cam2,{tmp_path}/cam1/0001.png"
    assert run(images=images) == 0
    assert {name for name in written(tmp_path / "out") if name.endswith("txt")} == {
        "cam1/0001.txt",
        "cam2/0001.txt",
    }


def test_a_list_that_is_longer_than_a_path_may_be(run, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    names = [f"picture_{number:04d}.png" for number in range(400)]
    for name in names[:2]:
        Image.new("RGB", (96, 64)).save(tmp_path / name)
    assert run(images=",".join(f"{name}" for name in names[:2] * 200)) == 0


def test_a_name_with_a_comma(run, tmp_path):
    path = picture(tmp_path / "in/a,b.png")
    assert run(images=path) == 0
    assert (tmp_path / "out/a,b.txt").is_file()


@pytest.mark.parametrize("arguments", [[], ["--overwrite"]])
def test_inputs_are_never_written_over(run, tmp_path, capsys, arguments):
    path = picture(tmp_path / "in/a.png")
    before = path.read_bytes()
    assert run(*arguments, out=tmp_path / "in") == 1
    assert "in: a.png is an input and would be overwritten" in capsys.readouterr().err
    assert written(tmp_path / "in") == {"a.png": before}


def test_files_of_others_are_kept_unless_told(run, tmp_path, capsys):
    picture(tmp_path / "in/a.png")
    (tmp_path / "out").mkdir()
    (tmp_path / "out/a.txt").write_text("a label")
    assert run() == 1
    assert "a.txt is there already; name another folder, or --overwrite" in capsys.readouterr().err
    assert written(tmp_path / "out") == {"a.txt": b"a label"}
    assert run("--overwrite") == 0
    assert (tmp_path / "out/a.txt").read_bytes() == kitti_line(8, 6, 64)
    assert run() == 1  # its own results, which somebody may have corrected since
    assert run("--overwrite") == 0
    assert (tmp_path / "out/a.txt").read_bytes() == kitti_line(8, 6, 64)  # not twice


def test_results_inside_the_input_are_no_input(run, tmp_path):
    picture(tmp_path / "in/a.png")
    for arguments in ([], ["--overwrite"]):
        assert run(*arguments, out=tmp_path / "in/found") == 0
        assert sorted(written(tmp_path / "in/found")) == ["a.png", "a.txt"]


@pytest.mark.parametrize(
    "model, arguments, message",
    [
        (
            {"dataset": ""},
            [],
            "MODEL does not say what it was trained on.*--results=kitti or --results=comp4",
        ),
        (
            {"dataset": "", "classes": ("hot dog",)},
            ["--format=kitti"],
            "MODEL does not fit .*class 'hot dog'",
        ),
        ({"classes": ("hot dog",)}, [], "MODEL does not fit the format of the results: .*class 'hot dog'"),
        ({"dataset": "mine"}, [], "unknown dataset 'mine'"),
        ({}, ["--format=yolo"], "--format=yolo: no such protocol; known are coco, kitti"),
        (
            {},
            ["--results=kitti,yolo"],
            "--results=yolo: no such format of result files; known are coco, comp4",
        ),
        ({}, ["--results=cocoo"], "--results=cocoo: no such format of result files; did you mean coco?"),
        ({}, ["--results=kitti,wider"], r"1 files would be written twice, such as a.txt: give fewer formats"),
        ({}, ["--batch_size=0"], "--batch_size=0: must be at least 1"),
    ],
)
def test_a_model_without_a_format_fails_before_a_picture_is_read(
    run, tmp_path, capsys, monkeypatch, model, arguments, message
):
    picture(tmp_path / "in/a.png")
    monkeypatch.setattr("fgfi_tf.prediction.read_image", lambda *_: pytest.fail("a picture was read"))
    assert run(*arguments, **model) == 1
    assert re.search(message, capsys.readouterr().err)
    assert not (tmp_path / "out").exists()


def test_a_format_can_be_chosen(run, tmp_path):
    picture(tmp_path / "in/a.png")
    assert run("--format=voc", dataset="", classes=("dog", "cat")) == 0
    assert (tmp_path / "out/comp4_det_images_dog.txt").read_text() == "a 0.25 1.0 1.0 8.0 6.0\n"
    assert (tmp_path / "out/comp4_det_images_cat.txt").read_text() == ""


def test_several_formats_at_once(run, tmp_path):
    picture(tmp_path / "in/cam1/a.webp", 64, lossless=True)
    assert run("--results=csv, comp4,coco,kitti,csv", "--nopictures", classes=("Car",)) == 0
    found = {name: text.decode() for name, text in written(tmp_path / "out").items()}
    assert sorted(found) == ["cam1/a.txt", "comp4_det_images_Car.txt", "detections.csv", "detections.json"]
    assert found["cam1/a.txt"].encode() == kitti_line(8, 6, 64)
    assert found["comp4_det_images_Car.txt"] == "cam1/a 0.25 1.0 1.0 8.0 6.0\n"
    assert found["detections.csv"].splitlines()[1] == "cam1/a,Car,0.25,0.0,0.0,7.0,5.0"
    assert json.loads(found["detections.json"])[0]["image_id"] == "cam1/a"


def test_files_that_are_no_pictures_are_counted(run, tmp_path, capsys):
    picture(tmp_path / "in/a.png")
    for name in ("b.HEIC", "c.heic", "notes.txt", "README", ".DS_Store"):
        (tmp_path / "in" / name).write_text("")
    assert run() == 0
    assert capsys.readouterr().err == (
        "skipped, as they are not called like pictures: 2 .heic, 1 no suffix, 1 .txt\n"
    )


SIZES = [(8, 6), (9, 6), (8, 6), (8, 6), (9, 6), (8, 6)]


def test_batches_are_of_pictures_of_one_size(run, tmp_path, monkeypatch):
    for number, size in enumerate(SIZES):
        picture(tmp_path / f"in/{number}.png", 8 * number, size)
    (tmp_path / "in/2b.png").write_bytes(b"")  # skipped between two of a batch
    shapes, detect = [], one_box

    def seen(images):
        shapes.append(tuple(images.shape[:3]))
        return detect(images)

    monkeypatch.setitem(globals(), "one_box", seen)
    names = voc_reader.CLASS_NAMES
    for batch_size, wanted in ((3, [(3, 6, 8), (1, 6, 8), (2, 6, 9)]), (1, [(1, 6, w) for w, _ in SIZES])):
        shapes.clear()
        out = tmp_path / f"out{batch_size}"
        assert run(f"--batch_size={batch_size}", classes=names, dataset="voc", out=out) == 1
        assert shapes == wanted
    assert written(tmp_path / "out3") == written(tmp_path / "out1")
    lines = (tmp_path / "out3/comp4_det_images_aeroplane.txt").read_text().splitlines()
    assert lines == [f"{n} {8 * n / 256} 1.0 1.0 {w}.0 {h}.0" for n, (w, h) in enumerate(SIZES)]


def test_results_of_all_images_in_one_file(run, tmp_path):
    picture(tmp_path / "in/a.png")
    picture(tmp_path / "in/b.png", 128)
    assert run("--results=coco", dataset="", classes=("hot dog",)) == 0
    rows = json.loads((tmp_path / "out/detections.json").read_text())
    assert [(row["image_id"], row["score"]) for row in rows] == [("a", 0.25), ("b", 0.5)]
    assert rows[0]["bbox"] == [0.0, 0.0, 8.0, 6.0] and rows[0]["category_name"] == "hot dog"
    assert run("--results=csv", out=tmp_path / "csv") == 0
    lines = (tmp_path / "csv/detections.csv").read_text().splitlines()
    assert len(lines) == 3 and lines[1].endswith(",0.25,0.0,0.0,7.0,5.0")
    assert run("--results=csv", out=tmp_path / "csv") == 1  # is there already


def test_what_predict_writes_of_names_with_blanks_evaluate_reads(run, tmp_path):
    picture(tmp_path / "in/my photo.png")
    picture(tmp_path / "in/a  b/ c.png", 128)
    ids = ["a  b/ c", "my photo"]
    assert run(classes=voc_reader.CLASS_NAMES, dataset="voc") == 0
    found = voc_io.read_detections(tmp_path / "out", "images", ids)
    assert found.image.tolist() == [0, 1] and found.scores.tolist() == [0.5, 0.25]
    np.testing.assert_array_equal(found.boxes, [[1, 1, 8, 6]] * 2)
    assert run(out=tmp_path / "kitti") == 0
    (tmp_path / "labels").mkdir()
    (tmp_path / "labels/my photo.txt").write_text("Car 0 0 0 0 0 7 5 1 1 1 1 1 1 1\n")
    kitti = protocols.get("kitti")
    truths = kitti.read_ground_truth(str(tmp_path / "labels"), "")
    detections = kitti.read_detections(str(tmp_path / "kitti"), truths, "", False)
    np.testing.assert_array_equal(detections.boxes, [[0, 0, 7, 5]])


def test_flags_that_are_missing(capsys):
    for name in ("model_path", "images", "output_dir"):
        given = [f"--{n}=x" for n in ("model_path", "images", "output_dir") if n != name]
        with pytest.raises(UserError, match=f"--{name} is missing"):
            predict.main(["predict.py", *given])
