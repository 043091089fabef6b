"""The report: its files, that the HTML is complete in itself, and what it says."""

import json
from html.parser import HTMLParser

import numpy as np
import pytest
from matplotlib.figure import Figure as MatplotlibFigure
from PIL import Image

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import registry
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.comparison import Comparison
from fgfi_tf.evaluation.kitti.files import TYPE_NAMES
from fgfi_tf.evaluation.kitti.result import CLASS_NAMES
from fgfi_tf.evaluation.protocol import Measure, Metrics, Protocol, Result
from fgfi_tf.evaluation.report import plots
from fgfi_tf.evaluation.report import write as report
from fgfi_tf.evaluation.report.build import Run, build
from fgfi_tf.evaluation.report.data import (
    Bars,
    Curves,
    Figure,
    Gallery,
    Line,
    Picture,
    Points,
    ReportData,
    Row,
    Section,
    Table,
    format_value,
)
from fgfi_tf.evaluation.report.figures import binned_recall
from fgfi_tf.evaluation.report.tables import ap_section

KITTI, VOC = registry.get("kitti"), registry.get("voc")

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


def test_a_bar_in_a_name_does_not_end_a_cell_of_markdown(tmp_path):
    table = Table("T", ("a|b",), (Row("c|d", ("e|f",)),))
    report.write(ReportData("", "", (), (Section("S", (table,)),), {}), tmp_path)
    lines = (tmp_path / "report.md").read_text().splitlines()
    assert r"|  | a\|b |" in lines and r"| c\|d | e\|f |" in lines


def test_a_folder_that_cannot_be_written(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(UserError, match="file: the report cannot be written"):
        report.write(a_report(), tmp_path / "file")


@pytest.mark.parametrize(
    "value, signed, text",
    [
        (3, False, "3"),
        (3.14159, False, "3.1"),
        (None, True, "\N{EN DASH}"),
        ("n", True, "n"),
        (2.5, True, "+2.5"),
    ],
)
def test_cells(value, signed, text):
    assert format_value(value, signed) == text


def test_figures_are_white_and_drawn():
    figure = Figure(
        "f", "", (Curves("P", (Line("a", [0, 1], [1, 0], "#ff0000"),), "x", "y", ("low", "high")),)
    )
    png = plots.render(figure)
    assert png.startswith(b"\x89PNG")


def test_a_dollar_is_no_formula_and_many_columns_have_room():
    names = tuple(f"imitating, weight {number} at cost $5_$ x" for number in range(12))
    values = tuple({0: 0.1, 1: 0.2} for _ in names)
    panel = Points("cost $5_$", names, values, ("#ff0000",) * 12, (None,) * 12, "AP $_$")
    png = plots.render(Figure("f", "", (panel,), columns=1))
    few = plots.render(
        Figure("f", "", (Points("", ("a",), ({0: 0.1},), ("#ff0000",), (None,), ""),), columns=1)
    )
    width, narrow = (int.from_bytes(file[16:20], "big") for file in (png, few))  # of the PNG header
    assert width > 1.5 * narrow


@pytest.mark.parametrize("top", [0.004, 0.03, 0.07, 0.19, 0.28, 0.8])
def test_an_axis_tells_its_steps_as_they_are(top):
    axes = MatplotlibFigure().add_subplot()
    plots._draw_points(axes, Points("", ("a",), ({0: top},), ("#ff0000",), (None,), "AP"))
    axes.figure.canvas.draw()
    told = [(tick.get_position()[1], tick.get_text()) for tick in axes.get_yticklabels()]
    assert len(told) > 3
    assert all(float(text.removesuffix("%")) == pytest.approx(100 * value) for value, text in told)


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
    return Boxes.of_detections(found, CLASS_NAMES), Boxes.of_ground_truth(labelled, TYPE_NAMES)


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
    run = Run("net", detections, KITTI.evaluate(detections, labels), published=("0.5x",))
    path = report.write(build(KITTI, [run], labels, image_folder), tmp_path / "report")
    texts = texts_of(path.read_text())
    for text in (
        "KITTI 2D detection: net",
        "published 0.5x",
        "81.6",
        "57.4",
        "Worst images",
        "Missed: tallest objects",
    ):
        assert any(text in found for found in texts), text
    assert any("Only the 2 of 3 images" in found for found in texts)
    assert "Image 000000: 1 error" in texts  # the missed car; of 0 cyclists 0 detections are looked at
    numbers = json.loads((path.parent / "report.json").read_text())["net"]
    assert numbers["results"]["Car"]["easy"]["AP11"] == run.result["Car"]["easy"].ap11
    assert numbers["analysis"]["Car"]["moderate"]["missed"] == 3
    assert numbers["published"]["0.5x"]["Car hard"] == 61.2


def test_several_models_with_their_gains(tmp_path, image_folder):
    first, labels = kitti_case(np.random.default_rng(0))
    nothing = Boxes.of_detections(
        {name: {"boxes": [], "classes": [], "scores": []} for name in first.image_ids},
        CLASS_NAMES,
    )
    runs = [
        Run(name, detections, KITTI.evaluate(detections, labels))
        for name, detections in (("teacher", first), ("student", nothing), ("student-I", first))
    ]
    comparison = Comparison(baseline="student", teacher="teacher")
    data = build(KITTI, runs, labels, image_folder, comparison=comparison, min_score=0.0)
    path = report.write(data, tmp_path / "report")
    texts = texts_of(path.read_text())
    rows = {row.label: row.values for row in data.sections[0].parts[0].rows}
    assert list(rows) == ["teacher", "student", "student-I", "gain of student-I over student"]
    assert rows["student"][:9] == (None,) * 9 and rows["student"][9] == 0
    assert rows["gain of student-I over student"] == ((None,) * 9 + (rows["teacher"][9],))
    assert "100 % of the gap to teacher" in data.sections[0].text
    # Ground truth and three models, 416 pixels each with gaps of 5; one row a frame.
    (montage,) = data.sections[1].parts[0].pictures
    assert data.sections[1].title == "The same images" and montage.image.shape[1] == 4 * 416 + 5 * 5
    with Image.open(path.parent / "pictures" / "same_images.png") as image:
        assert image.size == montage.image.shape[1::-1]
    assert any("Image 000000, student:" in text for text in texts)
    assert set(json.loads((path.parent / "report.json").read_text())) == {"teacher", "student", "student-I"}


def test_without_images_there_are_no_pictures():
    detections, labels = kitti_case(np.random.default_rng(0))
    run = Run("net", detections, KITTI.evaluate(detections, labels))
    data = build(KITTI, [run], labels)
    assert not [p for s in data.sections for p in s.parts if isinstance(p, Gallery)]


def test_image_folders_that_do_not_serve(tmp_path):
    detections, labels = kitti_case(np.random.default_rng(0))
    run = Run("net", detections, KITTI.evaluate(detections, labels))
    with pytest.raises(UserError, match="nowhere: no such image folder"):
        build(KITTI, [run], labels, tmp_path / "nowhere")
    with pytest.raises(UserError, match="holds no image of the evaluated ones"):
        build(KITTI, [run], labels, tmp_path)
    (tmp_path / "000000.png").write_bytes(b"no picture")
    with pytest.raises(UserError, match="000000.png: the image is unreadable or truncated"):
        build(KITTI, [run], labels, tmp_path)


def test_an_unreadable_picture_costs_itself_alone(tmp_path, image_folder, caplog):
    detections, labels = kitti_case(np.random.default_rng(0))
    run = Run("net", detections, KITTI.evaluate(detections, labels))
    names = {p.name for p in image_folder.iterdir()}
    (image_folder / "000000.png").write_bytes(b"no picture")
    with caplog.at_level("WARNING"):
        data = build(KITTI, [run], labels, image_folder)
    assert f"the report goes without 1 of {len(names)} images: " in caplog.text
    assert "000000.png: the image is unreadable or truncated" in caplog.text
    pictures = [
        p for s in data.sections for part in s.parts if isinstance(part, Gallery) for p in part.pictures
    ]
    assert pictures and not any("000000" in picture.caption for picture in pictures)


def test_images_whose_ids_differ_in_a_slash_have_pictures_of_their_own(tmp_path):
    truth, found = {}, {}
    for level, name in ((40, "cam 1/a"), (200, "cam 1_a")):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.fromarray(np.full((60, 80, 3), level, np.uint8)).save(tmp_path / f"{name}.png")
        truth[name] = {"boxes": [[10.0, 10, 60, 50]], "classes": [0], "difficult": [False]}
        found[name] = {"boxes": [[10.0, 10, 20, 20]], "classes": [0], "scores": [0.9]}
    labels, detections = Boxes.of_ground_truth(truth, ("dog",)), Boxes.of_detections(found, ("dog",))
    run = Run("net", detections, VOC.evaluate(detections, labels))
    path = report.write(build(VOC, [run], labels, tmp_path), tmp_path / "report")
    levels = []
    for name in ("image_0.jpg", "image_1.jpg"):
        with Image.open(path.parent / "pictures" / name) as image:
            levels.append(int(np.asarray(image)[2, 2, 0]))
    assert sorted(level // 100 for level in levels) == [0, 2]
    assert "(pictures/image_0.jpg)" in (path.parent / "report.md").read_text()


def test_names_that_matplotlib_takes_otherwise(monkeypatch):
    """An underscore at the beginning hides a label; a letter that the font lacks is warned of."""
    seen = []
    monkeypatch.setattr(plots.Canvas, "legend", lambda self, handles, labels, **look: seen.extend(labels))
    lines = tuple(Line(name, np.arange(2), np.ones(2), "#3465a4") for name in ("_x", "\u884c\u4eba"))
    assert plots.render(Figure("f", "F", (Curves("P", lines, "r", "p"),)))[:4] == b"\x89PNG"
    assert seen == [" _x", "\u884c\u4eba"]


def test_binned_recall():
    found = np.array([1, 1, 0, 0, 1, 1, 1, 1, 1, 0], bool)
    values = np.array([0, 1, 2, 3, 4, 5, 50, 50, 50, -1], float)
    # [0, 5): 5 objects, 3 found; [5, 10): one object, too few; [10, 100): 3, too few
    recall = binned_recall(found, values, (0, 5, 10, 100))
    assert recall[0] == pytest.approx(0.6) and np.isnan(recall[1:]).all()


def test_panels_of_recall_without_a_single_value_are_left_out():
    """Five cats are 30 high, of which two are found, and one dog is: there is a panel of cats alone."""
    boxes = [[20 * i, 0, 20 * i + 9, 29] for i in range(6)]
    frame = {"image_id": "a", "boxes": boxes, "classes": [0] * 5 + [1], "difficult": [False] * 6}
    found = {"boxes": [boxes[0], boxes[1], boxes[5]], "scores": [0.9, 0.8, 0.7], "classes": [0, 0, 1]}
    truths, detections = (
        VOC.ground_truth([frame], ("cat", "dog")),
        VOC.detections({"a": found}, ("cat", "dog")),
    )
    runs = [Run(name, detections, VOC.evaluate(detections, truths)) for name in ("one", "two")]
    sections = {section.title: section for section in build(VOC, runs, truths).sections}
    (figure,) = sections["Which objects are found"].parts
    (panel,) = figure.panels
    assert panel.title == "cat: by object height"
    assert [np.nanmax(line.y) for line in panel.lines] == [0.4, 0.4]


# --- VOC --------------------------------------------------------------------------------------

CLASSES = ("cat", "dog", "cow")


def voc_case(n_classes=3):
    """Of dogs all is found, of cats nothing, cows there are none; one difficult cat."""
    names = (*CLASSES, *(f"class{i}" for i in range(3, n_classes)))
    frame = {
        "image_id": "a",
        "boxes": [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]],
        "classes": [0, 0, 1],
        "difficult": [False, True, False],
    }
    found = {"boxes": [[0, 0, 9, 3], [40, 0, 49, 9]], "scores": [0.9, 0.8], "classes": [0, 1]}
    nothing = {"boxes": [], "scores": [], "classes": []}
    truths = VOC.ground_truth([frame], names)
    return truths, VOC.detections({"a": found}, names), VOC.detections({"a": nothing}, names)


@pytest.mark.parametrize("n_classes", [3, 14])
def test_voc_report_of_two_models(tmp_path, n_classes):
    Image.fromarray(np.full([60, 100, 3], 90, np.uint8)).save(tmp_path / "a.jpg")
    truths, some, nothing = voc_case(n_classes)
    runs = [
        Run("none", nothing, VOC.evaluate(nothing, truths)),
        Run("some", some, VOC.evaluate(some, truths), ("VGG11", "VGG11-I")),
    ]
    data = build(VOC, runs, truths, tmp_path)
    report.write(data, tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    if n_classes == 3:  # a model is a row
        assert "| dog | cow | mean | mean, present |" in text
        assert "| some | 0.0 | 100.0 | \N{EN DASH} | 33.3 | 50.0 |" in text
        assert "| published VGG11 | 66.6 | 58.3 | 63.2 | 59.6 | \N{EN DASH} |" in text
    else:  # a class is
        assert "| dog | 0.0 | 100.0 | 100.0 | 58.3 | 41.7 | 72.6 | 27.4 |" in text
        assert "| cow | – | – | – | 63.2 | – | 73.5 | – |" in text
    assert "- Objects: 3" in text and "- Difficult: 1" in text and "The same images" in text
    assert "Image a, some: 2 errors" in text
    assert "Every range holds fewer than 5 objects." in text
    assert not (tmp_path / "report/figures/recall.png").exists()
    numbers = json.loads((tmp_path / "report/report.json").read_text())
    assert numbers["some"]["analysis"]["cat"]["localisation"] == 1
    np.testing.assert_allclose(numbers["some"]["results"]["dog"]["AP11"], 1)
    with pytest.raises(UserError, match="--published=VGG19 is not one of VGG16, VGG11, VGG11-I"):
        build(VOC, [Run("x", some, runs[1].result, ("VGG19",))], truths)


def test_curves_begin_at_the_axis_and_end_where_the_detections_do():
    # Two objects of three are found, after one wrong detection and before another.
    boxes = np.array([[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9]])
    frame = {"image_id": "a", "boxes": boxes, "classes": [0, 0, 0], "difficult": [False] * 3}
    truths = VOC.ground_truth([frame], ("cat", "cow"))
    found = {
        "boxes": [[0, 50, 9, 59], boxes[0], boxes[1], [0, 70, 9, 79]],
        "scores": [0.9, 0.8, 0.7, 0.6],
        "classes": [0] * 4,
    }
    detections = VOC.detections({"a": found}, ("cat", "cow"))
    data = build(VOC, [Run("m", detections, VOC.evaluate(detections, truths))], truths)
    (panel,) = data.sections[1].parts[0].panels
    (line,) = panel.lines
    np.testing.assert_allclose(line.x, np.array([0, 0, 1, 2, 2, 2]) / 3)
    np.testing.assert_allclose(line.y, np.array([2, 2, 2, 2, 1.5, 0]) / 3)


# --- a stranger's protocol --------------------------------------------------------------------


class Hits(Protocol):
    """The share of images with a detection."""

    def evaluate(self, detections, ground_truth):
        return Metrics({"hits": len(np.unique(detections.image)) / len(ground_truth.image_ids)})


class Many(Result):
    """Three numbers of each of five classes, and one of all: a class is a row then."""

    metrics = {"all": 0.5}

    def measures(self):
        values = {(f"c{i}", key): i / 10 for i in range(5) for key in ("AP", "AP50", "AR")}
        return (Measure("M", {**values, ("", "all"): 0.5}),)


def test_many_numbers_of_many_classes():
    truths, some, _ = voc_case()
    comparison = Comparison("m", "")
    section = ap_section(Hits(), [Run("m", some, Many()), Run("n", some, Many())], comparison)
    (table,) = section.parts
    assert table.groups == (("m", 3), ("n", 3), ("gain of n over m", 3))
    assert table.columns == ("AP", "AP50", "AR") * 3
    assert [row.label for row in table.rows] == ["c0", "c1", "c2", "c3", "c4", "all"]
    assert table.rows[2].values == (20.0,) * 6 + (0.0,) * 3
    assert table.rows[5].values == (50.0, None, None, 50.0, None, None, 0.0, None, None)
    assert section.text.startswith("n gains no points of all over m (50.0 against 50.0). Percent.")


def test_a_report_of_a_protocol_that_defines_nothing_but_its_numbers(tmp_path):
    Image.fromarray(np.full([60, 100, 3], 90, np.uint8)).save(tmp_path / "a.jpg")
    truths, some, nothing = voc_case()
    protocol = Hits()
    runs = [
        Run(name, found, protocol.evaluate(found, truths)) for name, found in (("n", nothing), ("s", some))
    ]
    report.write(build(protocol, runs, truths, tmp_path), tmp_path / "report")
    text = (tmp_path / "report/report.md").read_text()
    assert "# Detection: n, s" in text and "| gain of s over n | +100.0 |" in text
    assert "## What the detections are" in text and "## Precision and recall" not in text
    assert "| dog | 1 | 1 | 0 | 0 | 0 | 0 | 0 |" in text  # one dog, found
    assert protocol.table({"": runs[1].result}).splitlines()[2].split() == ["hits", "100.0"]
