"""The KITTI evaluation against the development kit's results and against the plain loop."""

import dataclasses
import json
import tarfile

import literal_kitti
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from places import GOLDEN

from fgfi_tf.data import text_files
from fgfi_tf.errors import UserError
from fgfi_tf.evaluation import matching
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.kitti import ap as kitti
from fgfi_tf.evaluation.kitti import files as kitti_io
from fgfi_tf.evaluation.kitti.files import TYPE_NAMES
from fgfi_tf.evaluation.kitti.result import CLASS_NAMES, ap_table

VARIANTS = {"official": "official", "reference": "seed"}


def check_against(result, expected):
    """One class and difficulty of the goldens."""
    found = result.to_json()
    for key in ("evaluated", "n_gt", "n_thresholds", "thresholds", "tp_fp_fn"):
        assert found[key] == expected[key], key
    for key in ("AP11", "AP40", "precision41"):
        np.testing.assert_allclose(found[key], expected[key], rtol=0, atol=1e-12, err_msg=key)


def read_golden(archives, folder, name, labels_name):
    for archive in (f"labels_{labels_name}", f"detections_{name}"):
        with tarfile.open(archives / f"{archive}.tar.xz") as tar:
            tar.extractall(folder, filter="data") if hasattr(tarfile, "data_filter") else tar.extractall(
                folder
            )
    frames = tuple(text_files.read_ids(archives / f"frames_{labels_name}.txt"))
    labels = kitti_io.read_labels(folder / "label_2", frames)
    return kitti_io.read_detections(folder / "data", frames), labels


@pytest.mark.parametrize("protocol", kitti.VARIANTS)
@pytest.mark.parametrize("name", ["adversarial", "recall_grid"])
def test_results_of_the_development_kit(tmp_path, name, protocol):
    detections, labels = read_golden(GOLDEN / "kitti_ap", tmp_path, name, name)
    expected = json.loads((GOLDEN / "kitti_ap" / "expected.json").read_text())[name][VARIANTS[protocol]]
    for class_name, difficulty, result in kitti.evaluate(detections, labels, protocol):
        check_against(result, expected[class_name][difficulty])


@pytest.mark.shared_data
def test_results_of_the_development_kit_on_the_validation_set(tmp_path, shared_path):
    archives = shared_path("golden/kitti_ap")
    detections, labels = read_golden(archives, tmp_path, "frustum", "val")
    expected = json.loads((archives / "expected.json").read_text())["frustum"]
    for protocol, variant in VARIANTS.items():
        for class_name, difficulty, result in kitti.evaluate(detections, labels, protocol):
            check_against(result, expected[variant][class_name][difficulty])


# --- against the plain loop -------------------------------------------------------------------


def detections_of(frames):
    return Boxes.of_detections(frames, CLASS_NAMES)


def labels_of(frames):
    return Boxes.of_ground_truth(frames, TYPE_NAMES)


alphas = st.sampled_from([-1.5, 0.0, 0.5, 3.0])
scores = st.sampled_from([-2e7, -1.0, 0.0, 0.2, 0.5, 0.5, 0.9, 1.0]) | st.floats(0, 1, width=32)
sizes = st.tuples(
    st.sampled_from([100.0, 100.0, 100.0, 40.0, 40.0, 40.01, 0.0]),
    st.sampled_from([40.0, 50.0, 80.0, 39.99, 25.0, 30.0, 24.99]),
)
places = st.tuples(st.sampled_from([-10.0, 0.0, 0.01, 5.0, 12.0, 200.0]), st.sampled_from([0.0, 2.0]))
# parts of a box at and around the minimum overlaps
shares = st.sampled_from([1.0, 0.5, 0.7, 0.51, 0.71, 0.69, 0.9, 1 / 0.7, 1.1, 2.0])


def part_of(box, wide, high, shift):
    x1, y1, x2, y2 = box
    return (x1 + shift, y1, x1 + shift + wide * (x2 - x1), y1 + high * (y2 - y1))


@st.composite
def frames_of(draw, main_class):
    """A frame where most detections lie on an object and most DontCare areas on a detection."""
    types = st.sampled_from([main_class] * 12 + ["Van", "Person_sitting", *CLASS_NAMES, "Truck"])
    fresh = st.builds(lambda place, size: (*place, place[0] + size[0], place[1] + size[1]), places, sizes)
    shifts = st.sampled_from([0.0, 0.0, 0.0, 3.0, 15.0])
    truths = draw(
        st.lists(
            st.fixed_dictionaries(
                {
                    "type": types,
                    "box": fresh,
                    "occlusion": st.sampled_from([0] * 8 + [1, 2, 3]),
                    "truncation": st.sampled_from([0.0] * 9 + [0.15, 0.16, 0.3, 0.5, 0.51]),
                    "alpha": alphas,
                }
            ),
            min_size=3,
            max_size=8,
        )
    )
    on_truth = st.sampled_from([truth["box"] for truth in truths])
    places_of_found = (
        on_truth
        | st.builds(part_of, on_truth, shares, st.just(1.0), shifts)
        | (st.builds(part_of, on_truth, st.just(1.0), shares, shifts) | fresh)
    )
    found = draw(
        st.lists(
            st.fixed_dictionaries({"type": types, "box": places_of_found, "score": scores, "alpha": alphas}),
            min_size=5,
            max_size=14,
        )
    )
    on_found = st.sampled_from([detection["box"] for detection in found])
    for box in draw(st.lists(st.builds(part_of, on_found, shares, st.just(1.0), st.just(0.0)), max_size=2)):
        area = {"type": "DontCare", "box": box, "occlusion": -1, "truncation": -1.0, "alpha": -10.0}
        truths.insert(draw(st.integers(0, len(truths))), area)
    return truths, found


empty_frame = st.just(([], []))
scenes = st.sampled_from(CLASS_NAMES).flatmap(
    lambda name: st.lists(frames_of(name) | empty_frame, min_size=1, max_size=4)
)


def as_arrays(scene):
    def columns(objects, *keys):
        named = {"boxes": [o["box"] for o in objects], "classes": [o["type"] for o in objects]}
        return named | {key: [o[key.removesuffix("s")] for o in objects] for key in keys}

    detections = {f"{i:06d}": columns(d, "scores") for i, (_, d) in enumerate(scene)}
    labels = {f"{i:06d}": columns(t, "truncation", "occlusion") for i, (t, _) in enumerate(scene)}
    for i, (t, d) in enumerate(scene):
        labels[f"{i:06d}"]["alpha"] = [o["alpha"] for o in t]
        detections[f"{i:06d}"]["alpha"] = [o["alpha"] for o in d]
    return Boxes.of_detections(detections, TYPE_NAMES), labels_of(labels)


def check_against_loop(scene):
    detections, labels = as_arrays(scene)
    orientation = (detections.column("alpha") != 0).any()
    for protocol in kitti.VARIANTS:
        evaluation = kitti.evaluate(detections, labels, protocol)
        for class_name, difficulty, result in evaluation:
            expected = literal_kitti.evaluate(scene, class_name, difficulty, protocol == "official")
            expected["n_thresholds"] = len(expected["thresholds"])
            check_against(result, expected)
            if orientation:
                np.testing.assert_allclose(result.similarity, expected["similarity41"], atol=1e-12)
                assert result.aos11 == pytest.approx(np.mean(expected["similarity41"][::4]), abs=1e-12)


@settings(max_examples=120, deadline=None, derandomize=True, suppress_health_check=[HealthCheck.too_slow])
@given(scenes)
def test_equals_the_plain_loop(scene):
    check_against_loop(scene)


def crowd(seed, n_frames, n_truths, n_detections):
    """Frames where everything overlaps, with few distinct scores."""
    rng = np.random.default_rng(seed)

    def box():
        x, y, w, h = rng.integers(0, 12), rng.integers(0, 12), rng.integers(30, 60), rng.integers(22, 60)
        return (float(x), float(y), float(x + w), float(y + h))

    def objects(count, types):
        return [
            {
                "type": str(rng.choice(types)),
                "box": box(),
                "score": float(rng.integers(0, 9)) / 8,
                "occlusion": int(rng.integers(0, 3)),
                "truncation": 0.0,
                "alpha": float(rng.uniform(-3, 3)),
            }
            for _ in range(count)
        ]

    types = ["Car", "Car", "Pedestrian", "Van"]
    return [(objects(n_truths, types), objects(n_detections, types)) for _ in range(n_frames)]


def test_equals_the_plain_loop_in_crowds():
    check_against_loop(crowd(0, 6, 15, 40))


def test_blocks_do_not_change_the_result(monkeypatch):
    monkeypatch.setattr(matching, "_PAIR_BLOCK", 50)
    monkeypatch.setattr(matching, "_CELL_BLOCK", 700)
    check_against_loop(crowd(1, 5, 10, 20))


# --- worked by hand ---------------------------------------------------------------------------


def one_frame(detected, labelled):
    """Boxes 100 wide and high of cars: (x, score) detections and x of labels."""
    detected, labelled = np.array(detected, float).reshape(-1, 2), np.array(labelled, float).reshape(-1)
    square = lambda x: np.stack([x, 0 * x, x + 100, 0 * x + 100], axis=1)  # noqa: E731
    detections = {
        "boxes": square(detected[:, 0]),
        "scores": detected[:, 1],
        "classes": ["car"] * len(detected),
    }
    labels = {"boxes": square(labelled), "classes": ["CAR"] * len(labelled)}
    return detections_of({"a": detections}), labels_of({"a": labels})


def test_two_objects_found_one_false_positive_between():
    # recall 1/2 at precision 1, recall 1 at precision 2/3; both of the two scores are thresholds
    result = kitti.evaluate(*one_frame([(0, 0.9), (500, 0.8), (1000, 0.7)], [0, 1000]))["Car"]["easy"]
    assert result.thresholds.tolist() == [0.9, 0.7]
    assert (result.tp.tolist(), result.fp.tolist(), result.fn.tolist()) == ([1, 2], [0, 1], [1, 0])
    np.testing.assert_allclose(result.precision[:3], [1, 2 / 3, 0])
    assert result.ap11 == pytest.approx(1 / 11)
    assert result.ap40 == pytest.approx(2 / 3 / 40)


def test_perfect_detections_reach_one():
    places = np.arange(60) * 200
    result = kitti.evaluate(*one_frame([(x, 0.5 + x / 1e6) for x in places], places))["Car"]["hard"]
    assert result.n_gt == 60 and len(result.thresholds) == 41
    assert result.ap11 == result.ap40 == 1.0


@pytest.mark.parametrize("protocol", kitti.VARIANTS)
def test_nothing_at_all(protocol):
    evaluation = kitti.evaluate(*one_frame([], []), protocol)
    assert evaluation.mean_ap(11) == evaluation.mean_ap(40) == 0.0
    assert not any(result.evaluated for _, _, result in evaluation)
    assert kitti.evaluate(*one_frame([], [0]))["Car"]["easy"].n_gt == 1


def test_detections_of_a_class_that_nobody_labelled():
    """No AP but a dash in tables; in the kit's own numbers and the mean it is 0."""
    found = kitti.evaluate(*one_frame([(0, 0.9)], []))
    assert found["Car"]["easy"].evaluated and found["Car"]["easy"].ap11 == 0.0
    assert found.measures()[0].values["Car", "easy"] is None
    (line,) = [line for line in ap_table(found).splitlines() if line.startswith("Car")]
    assert line.split() == ["Car", *["-"] * 6]


def test_threshold_at_which_nothing_counts_has_precision_zero():
    # At the only threshold the Van takes the car's detection (it overlaps it more than the low one
    # that the Van took in the first pass): neither true nor false positives are left.
    truths = [
        {"type": "Van", "box": (0.0, 0.0, 100.0, 28.0), "occlusion": 0, "truncation": 0.0, "alpha": 0.0},
        {"type": "Car", "box": (0.0, 3.0, 100.0, 31.0), "occlusion": 0, "truncation": 0.0, "alpha": 0.0},
    ]
    detected = [
        {"type": "Car", "box": (0.0, 0.0, 100.0, 22.0), "score": 0.9, "alpha": 0.0},
        {"type": "Car", "box": (0.0, 1.0, 100.0, 29.0), "score": 0.8, "alpha": 0.0},
    ]
    result = kitti.evaluate(*as_arrays([(truths, detected)]))["Car"]["hard"]
    assert (result.tp.tolist(), result.fp.tolist(), result.fn.tolist()) == ([0], [0], [1])
    assert result.ap11 == 0.0 and np.isfinite(result.precision).all()


def test_an_object_takes_the_first_of_several_low_detections():
    # Both low ones overlap the first car enough, the second one (which overlaps it more) also the
    # second car: that one finds a detection only if the first took the first.
    def car(box, **more):
        return {"type": "Car", "box": box, "occlusion": 0, "truncation": 0.0, "alpha": 0.0, **more}

    truths = [
        car((0.0, 0.0, 100.0, 28.0)),
        car((0.0, 5.0, 100.0, 33.0)),
        car((500.0, 0.0, 600.0, 90.0)),
    ]
    found = [
        car((0.0, 0.0, 100.0, 20.0), score=0.9),
        car((0.0, 3.0, 100.0, 27.0), score=0.8),
        car((500.0, 0.0, 600.0, 90.0), score=0.1),
    ]
    result = kitti.evaluate(*as_arrays([(truths, found)]))["Car"]["hard"]
    assert (result.thresholds.tolist(), result.n_gt) == ([0.1], 3)
    assert (result.tp.tolist(), result.fp.tolist(), result.fn.tolist()) == ([1], [0], [0])


def test_orientation_needs_angles():
    detections, labels = one_frame([(0, 0.9)], [0])
    assert kitti.evaluate(detections, labels)["Car"]["easy"].similarity is None


def test_orientation_of_zero_angles_is_not_computed():
    scene = [
        (
            [{"type": "Car", "box": (0.0, 0.0, 50.0, 50.0), "occlusion": 0, "truncation": 0.0, "alpha": 0.5}],
            [{"type": "Car", "box": (0.0, 0.0, 50.0, 50.0), "score": 0.5, "alpha": 0.0}],
        )
    ]
    detections, labels = as_arrays(scene)
    assert kitti.evaluate(detections, labels)["Car"]["easy"].aos11 is None
    turned = dataclasses.replace(detections, columns={"alpha": np.array([0.25])})
    found = kitti.evaluate(turned, labels)["Car"]["easy"]
    assert found.aos11 == pytest.approx((1 + np.cos(0.25)) / 2 / 11)


def test_frames_are_chosen_and_ordered():
    boxes = {"boxes": [[0, 0, 50, 50]], "classes": ["Car"]}
    labels = labels_of({"a": boxes, "b": boxes, "c": boxes})
    detections = detections_of({"c": boxes | {"scores": [0.5]}, "a": boxes | {"scores": [0.9]}})
    result = kitti.evaluate(detections, labels.select(["c", "a"]))["Car"]["easy"]
    assert (result.n_gt, result.thresholds.tolist()) == (2, [0.9, 0.5])
    with pytest.raises(UserError, match="image b has no detections"):
        kitti.evaluate(detections, labels)
    with pytest.raises(UserError, match="image d has no labels"):
        kitti.evaluate(detections, labels.select(["a", "d"]))
    with pytest.raises(UserError, match="image a is listed more than once"):
        kitti.evaluate(detections, labels.select(["a", "a"]))
    filled = detections.select(labels.image_ids, allow_missing=True)
    assert kitti.evaluate(filled, labels)["Car"]["easy"].n_gt == 3
    with pytest.raises(UserError, match="protocol 'seed' is not one of official, reference"):
        kitti.evaluate(filled, labels, "seed")


@pytest.mark.parametrize("protocol", kitti.VARIANTS)
@pytest.mark.parametrize(
    ("truncation", "occlusion", "counted"),
    [
        (0.15, 0, "easy moderate hard"),
        (0.151, 0, "moderate hard"),
        (0.3, 1, "moderate hard"),
        (0.301, 1, "hard"),
        (0.3, 2, "hard"),
        (0.5, 2, "hard"),
        (0.501, 0, ""),
        (0.0, 1, "moderate hard"),
        (0.0, 3, ""),
    ],
)
def test_objects_at_the_limits_of_the_difficulties(truncation, occlusion, counted, protocol):
    """Occlusion at most 0, 1, 2 and truncation at most 0.15, 0.30, 0.50; 100 pixels high."""
    row = {
        "boxes": [[0.0, 0, 100, 100]],
        "classes": ["Cyclist"],
        "truncation": [truncation],
        "occlusion": [occlusion],
    }
    empty = {"boxes": [], "classes": [], "scores": []}
    evaluation = kitti.evaluate(detections_of({"a": empty}), labels_of({"a": row}), protocol)
    assert " ".join(name for name, result in evaluation["Cyclist"].items() if result.n_gt) == counted


@pytest.mark.parametrize(
    ("name", "width", "found"),
    [
        ("Car", 70, False),
        ("Car", 70.5, True),
        ("Pedestrian", 50, False),
        ("Pedestrian", 50.5, True),
        ("Cyclist", 50, False),
        ("Cyclist", 50.5, True),
    ],
)
def test_overlap_has_to_be_greater_than_the_limit(name, width, found):
    """A detection of so many hundredths of an object: 0.7 for cars, 0.5 for the others."""
    label = {"boxes": [[0.0, 0, 100, 100]], "classes": [name]}
    detection = {"boxes": [[0.0, 0, width, 100]], "classes": [name], "scores": [0.5]}
    evaluation = kitti.evaluate(detections_of({"a": detection}), labels_of({"a": label}))
    # recall 1 of one object: all of the 41 positions but 40 of them have no threshold
    assert evaluation[name]["easy"].ap11 == pytest.approx(found / 11)
