"""The KITTI protocol as a plain loop over frames, thresholds, ground truths and detections.

Written from the description of the protocol alone; slow, and the measure of the fast evaluation.
A frame is (ground truths, detections), lists of dicts in file order.
"""

import math

LIMITS = {"easy": (40, 0, 0.15), "moderate": (25, 1, 0.30), "hard": (25, 2, 0.50)}
OVERLAP = {"Car": 0.7, "Pedestrian": 0.5, "Cyclist": 0.5}
NEIGHBOUR = {"Car": "Van", "Pedestrian": "Person_sitting", "Cyclist": None}


def intersection(a, b):
    w = min(a[2], b[2]) - max(a[0], b[0])
    h = min(a[3], b[3]) - max(a[1], b[1])
    return w * h if w > 0 and h > 0 else 0.0


def area(box):
    return (box[2] - box[0]) * (box[3] - box[1])


def iou(detection, truth):
    shared = intersection(detection, truth)
    return shared / (area(detection) + area(truth) - shared) if shared > 0 else 0.0


def truth_state(truth, name, limits, official):
    """0 counts, 1 is ignored, -1 is not looked at."""
    height, occlusion, truncation = limits
    if truth["type"] == NEIGHBOUR[name]:
        return 1
    if truth["type"] != name:
        return -1
    box_height = truth["box"][3] - truth["box"][1]
    outside = (
        box_height < height
        or (official and box_height == height)
        or truth["occlusion"] > occlusion
        or truth["truncation"] > truncation
    )
    return 1 if outside else 0


def detection_state(detection, name, limits, official):
    if official and int(abs(detection["box"][3] - detection["box"][1])) < limits[0]:
        return 1
    return 0 if detection["type"] == name else -1


def first_pass(frame, name, truth_states, detection_states):
    """Scores of the true positives without a score limit."""
    truths, detections = frame
    taken, scores = set(), []
    for i, truth in enumerate(truths):
        if truth_states[i] == -1:
            continue
        best, best_score = None, -10000000.0
        for j, detection in enumerate(detections):
            if detection_states[j] == -1 or j in taken:
                continue
            if iou(detection["box"], truth["box"]) > OVERLAP[name] and detection["score"] > best_score:
                best, best_score = j, detection["score"]
        if best is None:
            continue
        taken.add(best)
        if truth_states[i] == 0 and detection_states[best] == 0:
            scores.append(best_score)
    return scores


def second_pass(frame, name, truth_states, detection_states, threshold):
    """tp, fp, fn and the sum of similarities at a threshold."""
    truths, detections = frame
    used = [s >= 0 and d["score"] >= threshold for s, d in zip(detection_states, detections, strict=True)]
    taken, tp, fn, similarity = set(), 0, 0, 0.0
    for i, truth in enumerate(truths):
        if truth_states[i] == -1:
            continue
        best, best_overlap = None, 0.0
        for j, detection in enumerate(detections):
            if not used[j] or j in taken:
                continue
            overlap = iou(detection["box"], truth["box"])
            if not overlap > OVERLAP[name]:
                continue
            if detection_states[j] == 0:
                if best is None or detection_states[best] == 1 or overlap > best_overlap:
                    best, best_overlap = j, overlap
            elif best is None:
                best = j
        if best is None:
            fn += truth_states[i] == 0
            continue
        taken.add(best)
        if truth_states[i] == 0 and detection_states[best] == 0:
            tp += 1
            similarity += (1 + math.cos(truth["alpha"] - detections[best]["alpha"])) / 2
    left = [j for j in range(len(detections)) if used[j] and j not in taken and detection_states[j] == 0]
    fp = len(left)
    areas = [truth["box"] for truth in truths if truth["type"] == "DontCare"]
    for j in left:
        box = detections[j]["box"]
        shared = [intersection(box, dont_care) for dont_care in areas]
        if any(s > 0 and s / area(box) > OVERLAP[name] for s in shared):
            fp -= 1
    return tp, fp, fn, similarity


def choose_thresholds(scores, n_gt):
    scores = sorted(scores, reverse=True)
    chosen, recall = [], 0.0
    for i, score in enumerate(scores):
        if i < len(scores) - 1 and (i + 2) / n_gt - recall < recall - (i + 1) / n_gt:
            continue
        chosen.append(score)
        recall += 1.0 / 40.0
    return chosen[:41]


def evaluate(frames, name, difficulty, official):
    """Dict of thresholds, tp_fp_fn, precision41, similarity41, AP11, AP40, n_gt, evaluated."""
    limits = LIMITS[difficulty]
    states = [
        (
            [truth_state(t, name, limits, official) for t in truths],
            [detection_state(d, name, limits, official) for d in detections],
        )
        for truths, detections in frames
    ]
    n_gt = sum(t.count(0) for t, _ in states)
    scores = []
    for frame, state in zip(frames, states, strict=True):
        scores += first_pass(frame, name, *state)
    thresholds = choose_thresholds(scores, n_gt)
    counts, precision, similarity = [], [0.0] * 41, [0.0] * 41
    for k, threshold in enumerate(thresholds):
        parts = [second_pass(f, name, *s, threshold) for f, s in zip(frames, states, strict=True)]
        tp, fp, fn, total = (sum(column) for column in zip(*parts, strict=True))
        counts.append([tp, fp, fn])
        if tp + fp:
            precision[k], similarity[k] = tp / (tp + fp), total / (tp + fp)
    precision = [max(precision[k:]) for k in range(41)]
    similarity = [max(similarity[k:]) for k in range(41)]
    return {
        "evaluated": any(d["type"] == name for _, detections in frames for d in detections),
        "n_gt": n_gt,
        "thresholds": thresholds,
        "tp_fp_fn": counts,
        "precision41": precision,
        "similarity41": similarity,
        "AP11": sum(precision[::4]) / 11,
        "AP40": sum(precision[1:]) / 40,
    }
