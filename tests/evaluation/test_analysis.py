"""The analysis of detections and objects, worked by hand."""

import numpy as np
import pytest

from fgfi_tf.evaluation import analysis, registry
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.kitti.files import TYPE_NAMES
from fgfi_tf.evaluation.protocol import Rule


def box(x, width=100.0, height=50.0):
    return [x, 0.0, x + width, height]


def scene(found, labelled, **labels):
    """One frame; ``found`` holds (box, class, score), ``labelled`` (box, class)."""
    detections = {
        "boxes": [f[0] for f in found],
        "classes": [f[1] for f in found],
        "scores": [f[2] for f in found],
    }
    objects = {"boxes": [t[0] for t in labelled], "classes": [t[1] for t in labelled]} | labels
    return Boxes.of_detections({"f": detections}, TYPE_NAMES), Boxes.of_ground_truth(
        {"f": objects}, TYPE_NAMES
    )


def analyses_of(detections, labels, protocol="official"):
    """class -> difficulty -> analysis."""
    own, found = registry.get("kitti", protocol), {}
    settings = own.settings(detections, labels)
    for part in analysis.analyse(detections, labels, settings, own.rule()):
        found.setdefault(part.setting.class_name, {})[part.setting.name] = part
    return found


def records_of(class_name, detections, labels, sizes=((375.0, 1242.0),)):
    own = registry.get("kitti")
    settings = own.settings(detections, labels)
    setting = next(one for one in settings if (one.class_name, one.name) == (class_name, "moderate"))
    return analysis.object_records(setting, own.rule(), detections, labels, sizes and np.array(sizes))


def counts_of(found, labelled, difficulty="moderate", class_name="Car", protocol="official", **labels):
    part = analyses_of(*scene(found, labelled, **labels), protocol)[class_name][difficulty]
    return {kind: number for kind, number in part.counts().items() if number}


CARS = [(box(x), "Car") for x in (0, 200, 400, 600, 800, 1000)]


def test_every_kind_once():
    found = [
        (box(0), "Car", 0.9),  # correct
        (box(2), "Car", 0.8),  # IoU 0.96 with the first car again
        (box(240), "Car", 0.7),  # IoU 60 / 140 with the second car
        (box(1200), "Car", 0.6),  # on a pedestrian
        (box(2000), "Car", 0.5),  # nothing there
        (box(400), "Car", 0.4),  # correct
        (box(600), "Car", 0.3),  # the seventh of six objects: not looked at
    ]
    counts = counts_of(found, [*CARS, (box(1200), "Pedestrian")])
    assert counts == {
        "correct": 2,
        "repeated": 1,
        "localisation": 1,
        "classification": 1,
        "background": 1,
        "missed": 4,
    }


@pytest.mark.parametrize(("shift", "kind"), [(81, "localisation"), (82.5, "background")])
def test_localisation_begins_above_an_overlap_of_a_tenth(shift, kind):
    # IoU 19 / 181 = 0.105, and 17.5 / 182.5 = 0.096
    assert counts_of([(box(shift), "Car", 0.9)], CARS[:1]) == {kind: 1, "missed": 1}


def test_rows_of_each_kind_and_of_missed_objects():
    found = [(box(2000), "Car", 0.1), (box(200), "Car", 0.9)]
    part = analyses_of(*scene(found, CARS[:2]))["Car"]["moderate"]
    assert part.rows_of("background").tolist() == [0] and part.rows_of("correct").tolist() == [1]
    assert part.rows_of("missed").tolist() == [0] and part.counted.tolist() == [0, 1] and part.n_gt == 2


def test_the_better_detection_has_the_object_whatever_the_file_order():
    found = [(box(5), "Car", 0.2), (box(0), "Car", 0.9)]
    part = analyses_of(*scene(found, CARS[:2]))["Car"]["moderate"]
    assert (part.rows.tolist(), part.kinds.tolist()) == ([1, 0], [analysis.CORRECT, analysis.REPEATED])


def test_a_detection_takes_the_best_free_object():
    # both overlap both by more than 0.7; the first takes the nearer, the second the one left
    found = [(box(6), "Car", 0.9), (box(5), "Car", 0.8)]
    assert counts_of(found, [(box(0), "Car"), (box(10), "Car")]) == {"correct": 2}


def test_detections_that_the_protocol_ignores_are_left_out():
    found = [
        (box(0), "Car", 0.9),  # on a Van
        (box(200), "Car", 0.8),  # on a car too far occluded
        (box(400), "Car", 0.7),  # in a DontCare area
        (box(600, height=20.0), "Car", 0.6),  # too low
        (box(800), "Car", 0.5),  # correct
    ]
    labelled = [
        (box(0), "Van"),
        (box(200), "Car"),
        (box(400, 120.0, 60.0), "DontCare"),
        (box(800), "Car"),
    ]
    occlusion = [0, 3, -1, 0]
    assert counts_of(found, labelled, occlusion=occlusion) == {"correct": 1}
    # the reference looks at low detections: it comes first, and there is one object
    assert counts_of(found, labelled, protocol="reference", occlusion=occlusion) == {
        "background": 1,
        "missed": 1,
    }


def test_overlap_limits_are_exclusive():
    # IoU exactly 0.5 is too little for a pedestrian; exactly 0.1 is background
    assert counts_of(
        [(box(0, height=25.0), "Pedestrian", 1)], [(box(0), "Pedestrian")], class_name="Pedestrian"
    ) == {
        "localisation": 1,
        "missed": 1,
    }
    found = [([0.0, 0.0, 10.0, 50.0], "Pedestrian", 1)]
    assert counts_of(found, [(box(0), "Pedestrian")], class_name="Pedestrian") == {
        "background": 1,
        "missed": 1,
    }


def test_objects_of_exactly_the_minimum_height():
    labelled = [(box(0, height=40.0), "Car"), (box(200, height=25.0), "Car")]
    for protocol, easy, moderate in (("official", 0, 1), ("reference", 1, 2)):
        for difficulty, count in (("easy", easy), ("moderate", moderate)):
            counts = counts_of([], labelled, difficulty, protocol=protocol)
            assert counts == ({"missed": count} if count else {})


def test_difficulties_have_their_own_objects():
    labelled = [(box(0), "Car"), (box(200, height=30.0), "Car")]
    found = [(box(0), "Car", 0.9), (box(200, height=30.0), "Car", 0.8)]
    assert counts_of(found, labelled, "easy") == {"correct": 1}
    assert counts_of(found, labelled, "moderate") == {"correct": 2}


def test_nothing_detected_and_nothing_labelled():
    assert counts_of([], CARS) == {"missed": 6}
    assert counts_of([(box(0), "Car", 0.5)], []) == {}
    assert counts_of([], []) == {}


def test_object_records():
    found = [(box(0), "Car", 0.9), (box(5000), "Car", 0.8), (box(400), "Car", 0.1)]
    labelled = [
        ([0.0, 10.0, 100.0, 60.0], "Car"),
        (box(400), "Car"),
        ([600.0, 100.0, 700.0, 150.0], "Pedestrian"),
    ]
    detections, labels = scene([(b, c, s) for b, c, s in found], labelled, occlusion=[0, 2, 0])
    records = records_of("Car", detections, labels)
    # two cars: the two best detections are looked at; the first has IoU 40 / 60 with its car
    assert records.found.tolist() == [False, False]
    found[0] = ([0.0, 11.0, 100.0, 60.0], "Car", 0.9)
    records = records_of("Car", scene(found, labelled)[0], labels)
    assert records.found.tolist() == [True, False]
    assert (records.height.tolist(), records.occlusion.tolist()) == ([50, 50], [0, 2])
    assert records.border.tolist() == [0, 0]
    pedestrian = records_of("Pedestrian", detections, labels, ((160.0, 750.0),))
    assert pedestrian.border.tolist() == [9]  # 159 - 150 from the lower border
    assert records_of("Pedestrian", detections, labels).border.tolist() == [100]
    assert np.isnan(records_of("Pedestrian", detections, labels, None).border[0])


@pytest.mark.parametrize("count, expected", [(9, [2, 0, 3]), (1, [2])])
def test_worst_images(count, expected):
    assert analysis.worst_images(np.array([2, 0, 5, 2]), count).tolist() == expected


def test_errors_per_image():
    frames = {name: {"boxes": [box(0)], "classes": ["Car"]} for name in ("a", "b", "c")}
    labels = Boxes.of_ground_truth(frames, TYPE_NAMES)
    found = {
        "a": {"boxes": [box(0)], "classes": ["Car"], "scores": [0.9]},
        "b": {"boxes": [box(900)], "classes": ["Car"], "scores": [0.8]},
        "c": {"boxes": [], "classes": [], "scores": []},
    }
    detections = Boxes.of_detections(found, TYPE_NAMES)
    moderate = [parts["moderate"] for parts in analyses_of(detections, labels).values()]
    errors = analysis.errors_per_image(moderate, detections, labels)
    assert errors.tolist() == [0, 2, 1]


# --- VOC: a detection looks at its best object alone, and difficult objects are left out -------------

CLASSES = ("cat", "dog", "cow")


def voc_scene():
    protocol = registry.get("voc")
    truths = protocol.ground_truth(
        [
            {
                "image_id": "a",
                "boxes": [[0, 0, 9, 9], [20, 0, 29, 9], [40, 0, 49, 9], [60, 0, 69, 9]],
                "classes": [0, 0, 1, 0],
                "difficult": [False, False, False, True],
            },
            {"image_id": "b", "boxes": [[0, 0, 9, 9]] * 3, "classes": [0, 0, 0], "difficult": [False] * 3},
        ],
        CLASSES,
    )
    rows = [
        # cat: five objects count, so the five best that count
        (0, [0, 0, 9, 9], 0.99),  # correct
        (0, [60, 0, 69, 9], 0.98),  # difficult: not counted
        (0, [0, 0, 9, 8], 0.97),  # repeated
        (0, [40, 0, 49, 9], 0.96),  # on a dog: classification
        (0, [20, 0, 29, 3], 0.95),  # IoU 0.4: localisation
        (0, [80, 0, 89, 9], 0.94),  # background
        (0, [20, 0, 29, 9], 0.93),  # correct, but beyond the five
        (1, [40, 0, 49, 9], 0.5),  # correct
    ]
    frame = dict(zip(("classes", "boxes", "scores"), map(list, zip(*rows, strict=True)), strict=True))
    nothing = {"classes": [], "boxes": [], "scores": []}
    return protocol.detections({"a": frame, "b": nothing}, CLASSES), truths


def test_voc_kinds_by_hand():
    detections, truths = voc_scene()
    protocol = registry.get("voc")
    settings = protocol.settings(detections, truths)
    parts = analysis.analyse(detections, truths, settings, protocol.rule())
    cat, dog, cow = parts
    np.testing.assert_array_equal(cat.rows, [0, 2, 3, 4, 5])
    names = [analysis.KINDS[kind] for kind in cat.kinds]
    assert names == ["correct", "repeated", "classification", "localisation", "background"]
    np.testing.assert_array_equal(cat.missed, [1, 4, 5, 6])
    assert dog.counts()["correct"] == 1 and len(dog.missed) == 0
    assert cow.n_gt == 0 and len(cow.rows) == 0
    np.testing.assert_array_equal(analysis.errors_per_image(parts, detections, truths), [5, 3])


def test_only_the_best_object_is_looked_at_by_voc():
    # Both detections overlap the first object most (IoU 0.8 and 0.7), the second one by 0.6 and more: KITTI
    # gives it the free one, VOC takes it as found twice.
    protocol = registry.get("voc")
    frame = {"image_id": "a", "boxes": [[0, 0, 99, 99], [0, 30, 99, 129]], "classes": [0, 0]}
    found = {"boxes": [[0, 2, 99, 101], [0, 10, 99, 109]], "classes": [0, 0], "scores": [0.9, 0.8]}
    truths = protocol.ground_truth([frame], ("cat",))
    detections = protocol.detections({"a": found}, ("cat",))
    settings = protocol.settings(detections, truths)
    (cat,) = analysis.analyse(detections, truths, settings, protocol.rule())
    assert [analysis.KINDS[kind] for kind in cat.kinds] == ["correct", "repeated"]
    (free,) = analysis.analyse(detections, truths, settings, Rule(best_only=False))
    assert [analysis.KINDS[kind] for kind in free.kinds] == ["correct", "correct"]
