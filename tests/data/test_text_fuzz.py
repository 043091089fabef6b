"""Random and damaged text: every reader of labels, results and lists gives a sane result or a UserError.

``FGFI_LONG_TESTS=1`` draws some thousand texts for each reader.
"""

import os
import tempfile
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from fgfi_tf.data import edges, kitti_text, text_files
from fgfi_tf.data.dataset import Frame
from fgfi_tf.data.readers import kitti as kitti_reader
from fgfi_tf.data.readers import voc as voc_reader
from fgfi_tf.data.readers import voc_xml
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.boxes import ONE_BASED, Boxes
from fgfi_tf.evaluation.kitti import ap as kitti
from fgfi_tf.evaluation.kitti import files as kitti_io
from fgfi_tf.evaluation.voc import ap as voc
from fgfi_tf.evaluation.voc import files as voc_io

EXAMPLES = 4000 if os.environ.get("FGFI_LONG_TESTS") == "1" else 150
fuzz = settings(
    max_examples=EXAMPLES,
    deadline=None,
    derandomize=EXAMPLES < 1000,
    suppress_health_check=[HealthCheck.too_slow, HealthCheck.function_scoped_fixture],
)

LABEL = b"Car 0.25 1 1.85 387.63 181.54 423.81 203.12 1.67 1.87 3.69 -16.53 2.39 58.49 1.57"
RESULT = b"Pedestrian -1 -1 -10 10.5 20 110 220.25 -1 -1 -1 -1000 -1000 -1000 -10 0.75"
XML = b"""<?xml version="1.0" encoding="utf-8"?><annotation><size>
<width>60</width><height>80</height><depth>3</depth></size><object><name>dog</name><truncated>0</truncated><difficult>1</difficult><bndbox>
<xmin>11</xmin><ymin>21</ymin><xmax>30</xmax><ymax>40.5</ymax></bndbox></object></annotation>"""
COMP4 = b"my photo 0.5 1 2 30 40"
# what breaks readers: numbers that are none or huge, separators, control characters, marks, other encodings
TOKENS = [
    b.encode()
    for b in "1e308 -1e308 1e-400 1e999 nan inf 3_8 0x1f 1e 1.5.2 -1 0 3 1000 1.51 -5 Car Van".split()
]
TOKENS += [
    b.encode()
    for b in "\u0663 \u00a0 \u2028 \ufeff \u3000 \u4e2d ../x a.jpg <a> </annotation> &amp; &x;".split()
]
TOKENS += [
    b"",
    b" ",
    b"\n",
    b"\r",
    b"\t",
    b"\x00",
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b"\x85",
    b"\x7f",
    b"\xff\xfe",
    b"\xef\xbb\xbf",
]
TOKENS += [b"x" * 300, b"9" * 400, b"0." + b"0" * 400 + b"1"]
ENCODINGS = (
    "utf-16 utf-32 gbk gb2312 big5 ansi foo hex idna punycode cp037 latin-1 ascii undefined mbcs".split()
)


@st.composite
def damaged(draw, line):
    """Some copies of a line in which a few tokens or bytes were replaced, inserted or cut."""
    text = draw(st.sampled_from([b"\n", b"\r\n"])).join([line] * draw(st.integers(1, 3)))
    for _ in range(draw(st.integers(0, 3))):
        start = draw(st.integers(0, len(text)))
        if draw(st.booleans()):  # a whole token
            start = text.rfind(b" ", 0, start) + 1
            end = text.find(b" ", start)
            end = len(text) if end < 0 else end
        else:
            end = min(len(text), start + draw(st.integers(0, 4)))
        text = text[:start] + draw(st.sampled_from(TOKENS) | st.binary(max_size=4)) + text[end:]
    return draw(
        st.sampled_from([text, text, text, b"\xef\xbb\xbf" + text, text.decode("latin-1").encode("utf-16")])
    )


@pytest.fixture(name="folder", scope="module")
def _folder():
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder)


def attempt(read, folder):
    """What a reader gives, or None where it refuses: with a line that names the file."""
    try:
        return read()
    except UserError as error:
        assert str(folder) in str(error) and len(str(error)) < 3000
        assert str(error).isprintable()
        return None


@fuzz
@given(damaged(LABEL) | st.binary(max_size=200))
def test_kitti_labels(folder, content):
    path = folder / "a.txt"
    path.write_bytes(content)
    labels = attempt(lambda: kitti_io.read_labels(folder, ["a"]), folder)
    frame = attempt(lambda: kitti_reader.read_labels([Frame("a", path, path)])[0], folder)
    assert labels is None or frame is not None  # what evaluation reads, training reads
    if labels is None:
        known = [name.lower() for name in kitti_text.CLASS_NAMES]
        assert frame is None or any(name.lower() not in known for name in frame.names)
        return
    np.testing.assert_array_equal(labels.boxes, frame.boxes)
    np.testing.assert_array_equal(
        [kitti_text.CLASS_NAMES[index].lower() for index in labels.classes],
        [name.lower() for name in frame.names],
    )
    for value in (frame.boxes, *frame.attributes.values()):
        assert (
            np.isfinite(value.astype(np.float32)).all() and np.abs(value.astype(float)).max(initial=0) <= 1e6
        )
    assert (labels.boxes[:, 2:] >= labels.boxes[:, :2]).all() and set(labels.columns["occlusion"]) <= {
        -1,
        0,
        1,
        2,
        3,
    }
    assert all(t == -1 or 0 <= t <= 1 for t in labels.columns["truncation"])
    assert len(labels) == sum(
        bool(line.strip()) for line in content.removeprefix(b"\xef\xbb\xbf").split(b"\n")
    )
    cut = attempt(lambda: edges.cut_to_image(labels.boxes, (375, 1242), path)[0], folder)
    assert cut is None or (cut >= 0).all() and (cut <= [1241, 374, 1241, 374]).all()


@fuzz
@given(damaged(RESULT) | st.binary(max_size=200))
def test_kitti_results(folder, content):
    (folder / "a.txt").write_bytes(content)
    found = attempt(lambda: kitti_io.read_detections(folder, ["a"]), folder)
    if found is None:
        return
    assert np.isfinite(found.scores).all() and np.abs(found.boxes).max(initial=0) <= 1e6
    (folder / "a.txt").write_bytes(LABEL)
    for protocol in kitti.VARIANTS:
        values = kitti.evaluate(found, kitti_io.read_labels(folder, ["a"]), protocol)
        assert all(0 <= r.ap11 <= 1 and 0 <= r.ap40 <= 1 for _, _, r in values)


@fuzz
@given(
    damaged(XML.replace(b" ", b"\n")) | damaged(XML) | st.binary(max_size=200),
    st.sampled_from(["utf-8"] * 4 + ENCODINGS),
)
def test_voc_annotations(folder, content, encoding):
    path = folder / "a.xml"
    path.write_bytes(content.replace(b"utf-8", encoding.encode()))
    annotation = attempt(lambda: voc_xml.read_annotation(path), folder)
    if annotation is None:
        return
    assert annotation.image_size is None or min(annotation.image_size) > 0
    boxes = annotation.boxes
    assert (boxes[:, 2:] >= boxes[:, :2]).all() and np.abs(boxes).max(initial=0) <= 1e6 + 1
    truths = attempt(lambda: voc_io.read_ground_truth(folder, ["a"]), folder)
    known = [name.lower() in voc_reader.CLASS_NAMES for name in annotation.names]
    np.testing.assert_array_equal(truths.boxes, boxes[known] + 1)


@fuzz
@given(damaged(COMP4) | st.binary(max_size=200))
def test_voc_results(folder, content):
    (folder / "comp4_det_val_dog.txt").write_bytes(content)
    images = ("my photo", "a")
    found = attempt(lambda: voc_io.read_detections(folder, "val", images, allow_missing=True), folder)
    if found is None:
        return
    assert np.isfinite(found.scores).all() and np.abs(found.boxes).max(initial=0) <= 1e6
    truth = {"boxes": np.array([[0.0, 1, 29, 39]]), "classes": [11], "difficult": [False]}
    frames = [{"image_id": name, **truth} for name in images]
    truths = Boxes.of_ground_truth(frames, voc_reader.CLASS_NAMES).to(ONE_BASED)
    for protocol in voc.VARIANTS:
        result = voc.evaluate(found, truths, protocol).results["dog"]
        assert 0 <= result.ap_11point <= 1 and 0 <= result.ap_area <= 1


@fuzz
@given(damaged(b"000001 -1") | damaged(b"my photo") | st.binary(max_size=100))
def test_lists(folder, content):
    path = folder / "list.txt"
    path.write_bytes(content)
    ids = attempt(lambda: text_files.read_ids(path), folder)
    if ids is None:
        return
    for name in ids:
        assert name and name == name.strip() and "/" not in name and "\\" not in name and "\0" not in name
        assert not (folder / f"{name}.xml").exists() or name == "a"  # any id can be looked for
        assert (folder / f"{name}.xml").parent == folder


def test_deep_and_exploding_annotations(folder):
    path = folder / "a.xml"
    path.write_bytes(b"<annotation>" + b"<a>" * 100_000 + b"</a>" * 100_000 + b"</annotation>")
    assert voc_xml.read_annotation(path).names == ()
    entities = "".join(f'<!ENTITY e{i} "{f"&e{i - 1};" * 10}">' for i in range(1, 12))
    path.write_text(f'<!DOCTYPE a [<!ENTITY e0 "lol">{entities}]><annotation>&e11;</annotation>')
    assert attempt(lambda: voc_xml.read_annotation(path), folder) is None
