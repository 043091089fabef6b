"""The report: its files, that the HTML is complete in itself, and what it says."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from PIL import Image

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import kitti, plots, report, report_kitti
from fgfi_tf.evaluation.comparison import Comparison
from fgfi_tf.evaluation.kitti_types import Detections, Labels
from fgfi_tf.evaluation.report_data import (
    Bars,
    Curves,
    Figure,
    Gallery,
    Line,
    Picture,
    ReportData,
    Row,
    Section,
    Table,
    format_value,
)

VOID = {"meta", "img"}


class Document(HTMLParser):
    """Checks that tags are balanced; collects texts and references."""

    def __init__(self, html):
        super().__init__()
        self.open, self.texts, self.references, self.anchors = [], [], [], set()
        self.feed(html)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.references += [value for key, value in attrs if key in ("src", "href")]
        self.anchors |= {value for key, value in attrs if key == "id"}
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if data.strip():
            self.texts.append(data.strip())


def a_report():
    line = Line("model <a>", np.linspace(0, 1, 3), np.array([1.0, 0.8, np.nan]), "#3465a4")
    table = Table(
        "T",
        ("x", "y"),
        (Row("first", (12.34, 7)), Row("none", (None, "text")), Row("change", (-1.26, 0.0), "difference")),
        (("group", 2),),
        "a note",
    )
    figure = Figure("curves", "C", (Curves("P", (line,), "recall", "precision"),), "a caption")
    bars = Bars("B", ("k",), (("s", "#3465a4", (0.5,)), ("t", "#b4432f", (0.25,))), "share")
    picture = Picture("one", "a picture", np.full((4, 6, 3), 200, np.uint8))
    sections = (
        Section("Tables & figures", (table, figure, Figure("bars", "", (bars,)))),
        Section("Pictures", (Gallery("G", (picture,), "seen", 2),), "some text"),
    )
    return ReportData("Title <1>", "below", (("Frames", "2"),), sections, {"a": 1.5})


def test_files(tmp_path):
    path = report.write(a_report(), tmp_path / "deep" / "report")
    assert path.name == "index.html" and path.is_file()
    assert json.loads((path.parent / "report.json").read_text()) == {"a": 1.5}
    for name in ("figures/curves.png", "figures/bars.png", "pictures/one.jpg"):
        with Image.open(path.parent / name) as image:
            image.load()


def test_html_is_complete_in_itself(tmp_path):
    html = report.write(a_report(), tmp_path).read_text()
    document = Document(html)
    for text in (
        "Title <1>",
        "group",
        "12.3",
        "7",
        "\N{EN DASH}",
        "\N{MINUS SIGN}1.3",
        "a note",
        "a caption",
        "seen",
    ):
        assert text in document.texts
    assert "http" not in html and "<script" not in html
    assert sum(r.startswith("data:image/png;base64,") for r in document.references) == 2
    assert sum(r.startswith("data:image/jpeg;base64,") for r in document.references) == 1
    links = [r[1:] for r in document.references if r.startswith("#")]
    assert links == ["tables-figures", "pictures"] and set(links) <= document.anchors


def test_markdown(tmp_path):
    report.write(a_report(), tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert "# Title <1>" in lines and "- Frames: 2" in lines
    assert "|  | group x | group y |" in lines and "| first | 12.3 | 7 |" in lines
    assert "![C](figures/curves.png)" in lines and "![a picture](pictures/one.jpg)" in lines


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: the report cannot be written"):
        report.write(a_report(), tmp_path / "file")


@pytest.mark.parametrize(
    "value, signed, text",
    [
        (3, False, "3"),
        (3.14159, False, "3.14"),
        (None, True, "\N{EN DASH}"),
        ("n", True, "n"),
        (2.5, True, "+2.50"),
    ],
)
def test_cells(value, signed, text):
    assert format_value(value, 2, signed) == text


def test_figures_are_white_and_drawn():
    figure = Figure(
        "f", "", (Curves("P", (Line("a", [0, 1], [1, 0], "#ff0000"),), "x", "y", ("low", "high")),)
    )
    png = plots.render(figure)
    assert png.startswith(b"\x89PNG")


# --- KITTI ------------------------------------------------------------------------------------


def kitti_case(rng, score=1.0):
    """Two cars and a pedestrian in each of three frames, one car not found, one false detection."""
    found, labelled = {}, {}
    for index in range(3):
        boxes = np.array([[10, 20, 110, 90], [200, 20, 300, 90], [350, 10, 380, 95]], float)
        kinds = ["Car", "Car", "Pedestrian"]
        labelled[f"{index:06d}"] = {"boxes": boxes, "classes": kinds, "occlusion": [0, 1, 0]}
        detected = np.concatenate([boxes[[0, 2]] + 1, [[150, 100, 190, 140]]])
        scores = score * rng.uniform(0.1, 1, 3)
        found[f"{index:06d}"] = {
            "boxes": detected,
            "classes": ["Car", "Pedestrian", "Cyclist"],
            "scores": scores,
        }
    return Detections.from_frames(found), Labels.from_frames(labelled)


@pytest.fixture
def image_folder(tmp_path):
    folder = tmp_path / "images"
    folder.mkdir()
    for index, suffix in enumerate(("png", "jpg")):
        Image.fromarray(np.full((150, 400, 3), 90, np.uint8)).save(folder / f"{index:06d}.{suffix}")
    return folder


def texts_of(html):
    return Document(html).texts


def test_one_model(tmp_path, image_folder):
    detections, labels = kitti_case(np.random.default_rng(0))
    run = report_kitti.Run("net", detections, kitti.evaluate(detections, labels), published="0.5x")
    path = report.write(report_kitti.build([run], labels, image_folder), tmp_path / "report")
    texts = texts_of(path.read_text())
    for text in (
        "KITTI 2D detection: net",
        "published 0.5x",
        "81.6",
        "57.4",
        "Worst frames",
        "Missed: tallest objects",
    ):
        assert any(text in found for found in texts), text
    assert any("Only the 2 of 3 frames" in found for found in texts)
    assert "Frame 000000: 1 error" in texts  # the missed car; of 0 cyclists 0 detections are looked at
    numbers = json.loads((path.parent / "report.json").read_text())["net"]
    assert numbers["results"]["Car"]["easy"]["AP11"] == run.evaluation["Car"]["easy"].ap11
    assert numbers["analysis"]["Car"]["moderate"]["missed"] == 3
    assert numbers["published"]["0.5x"]["Car"] == [81.6, 71.7, 61.2]


def test_several_models_with_their_gains(tmp_path, image_folder):
    first, labels = kitti_case(np.random.default_rng(0))
    nothing = Detections.from_frames(
        {name: {"boxes": [], "classes": [], "scores": []} for name in first.frame_ids}
    )
    runs = [
        report_kitti.Run(name, detections, kitti.evaluate(detections, labels))
        for name, detections in (("teacher", first), ("student", nothing), ("student-I", first))
    ]
    comparison = Comparison(baseline="student", teacher="teacher")
    data = report_kitti.build(runs, labels, image_folder, comparison=comparison, min_score=0.0)
    path = report.write(data, tmp_path / "report")
    texts = texts_of(path.read_text())
    rows = {row.label: row.values for row in data.sections[0].parts[0].rows}
    assert list(rows) == ["teacher", "student", "student-I", "gain of student-I over student"]
    assert rows["student"][:9] == (None,) * 9 and rows["student"][9] == 0
    assert rows["gain of student-I over student"] == ((None,) * 9 + (rows["teacher"][9],))
    assert "100 % of the gap to teacher" in data.sections[0].text
    # Ground truth and three models, 416 pixels each with gaps of 5; one row a frame.
    (montage,) = data.sections[1].parts[0].pictures
    assert data.sections[1].title == "The same frames" and montage.image.shape[1] == 4 * 416 + 5 * 5
    with Image.open(path.parent / "pictures" / "same_frames.png") as image:
        assert image.size == montage.image.shape[1::-1]
    assert any("Frame 000000, student:" in text for text in texts)
    assert set(json.loads((path.parent / "report.json").read_text())) == {"teacher", "student", "student-I"}


def test_without_images_there_are_no_pictures():
    detections, labels = kitti_case(np.random.default_rng(0))
    run = report_kitti.Run("net", detections, kitti.evaluate(detections, labels))
    data = report_kitti.build([run], labels)
    assert not [p for s in data.sections for p in s.parts if isinstance(p, Gallery)]


def test_image_folders_that_do_not_serve(tmp_path):
    detections, labels = kitti_case(np.random.default_rng(0))
    run = report_kitti.Run("net", detections, kitti.evaluate(detections, labels))
    with pytest.raises(UserError, match="nowhere: no such image folder"):
        report_kitti.build([run], labels, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image of the evaluated frames"):
        report_kitti.build([run], labels, tmp_path)
    (tmp_path / "000000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="000000.png: the image is unreadable or truncated"):
        report_kitti.build([run], labels, tmp_path)


def test_binned_recall():
    found = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 0], bool)
    values = np.array([0, 1, 2, 3, 4, 5, 50, 50, 50, -1], float)
    # [0, 5): 5 objects, 3 found; [5, 10): one object, too few; [10, 100): 3, too few
    recall = report_kitti.binned_recall(found, values, (0, 5, 10, 100))
    assert recall[0] == pytest.approx(0.6) and np.isnan(recall[1:]).all()
