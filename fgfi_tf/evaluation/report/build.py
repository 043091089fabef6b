"""The report on one model, or several side by side, for any protocol."""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fgfi_tf.evaluation import analysis
from fgfi_tf.evaluation.boxes import Boxes
from fgfi_tf.evaluation.comparison import ALONE, Comparison
from fgfi_tf.evaluation.protocol import Protocol
from fgfi_tf.evaluation.report import figures, pictures, same_images
from fgfi_tf.evaluation.report.data import ReportData
from fgfi_tf.evaluation.report.tables import Run, ap_section


def build(
    protocol: Protocol,
    runs: Sequence[Run],
    ground_truth: Boxes,
    images: Path | None = None,
    comparison: Comparison = ALONE,
    min_score: float = 0.3,
) -> ReportData:
    """The report on one or more models evaluated on the same images.

    Args:
        protocol: that gave the results.
        runs: the models; several are shown with what they gain, see ``comparison``.
        ground_truth: of the evaluated images.
        images: folder of ``<image id>.png`` or ``.jpg``; without it there are no pictures.
        comparison: the baseline and the teacher of several models.
        min_score: the lowest score drawn in the images that are shown of all of them.

    Raises UserError: an unknown published row; the image folder is absent or holds no image of these.
    """
    protocol.check_published(*(row for run in runs for row in run.published))
    ground_truth = ground_truth.by_image()
    ids = ground_truth.image_ids
    detections = {run.name: run.detections.select(ids, allow_missing=True).by_image() for run in runs}
    runs = [dataclasses.replace(run, detections=detections[run.name]) for run in runs]
    folder = pictures.ImageFolder.of(images, ids) if images else None
    settings = {name: protocol.settings(found, ground_truth) for name, found in detections.items()}
    main = {name: figures.main_settings(protocol, own) for name, own in settings.items()}
    analyses = {
        name: analysis.analyse(found, ground_truth, settings[name], protocol.rule())
        for name, found in detections.items()
    }
    shown = np.any([one.own for one in main[runs[0].name]], axis=0)  # labelled objects of evaluated classes
    sizes = ground_truth.image_sizes if folder is None else folder.sizes(ids)
    sections = [
        ap_section(protocol, runs, comparison),
        figures.precision_section(runs, main[runs[0].name]),
        figures.analysis_section(protocol, analyses),
        figures.recall_section(protocol, runs, main, ground_truth, sizes),
    ]
    if folder and len(runs) > 1:
        sections.insert(1, same_images.section(detections, ground_truth.take(shown), folder, min_score))
    if folder:
        worst = {
            name: [part for part in analyses[name] if any(part.setting is one for one in main[name])]
            for name in detections
        }
        sections.append(pictures.section(detections, worst, ground_truth, folder))
    return ReportData(
        title=f"{protocol.title}: {', '.join(detections)}",
        subtitle="Average precision; what the detections get wrong; what is missed.",
        facts=(
            ("Images", f"{len(ids):,}"),
            ("Objects", f"{int(shown.sum()):,}"),
            ("Detections", " / ".join(f"{len(found):,}" for found in detections.values())),
            *protocol.facts(runs[0].result, ground_truth),
        ),
        sections=tuple(section for section in sections if section is not None),
        numbers={run.name: _numbers(protocol, run, ids, analyses[run.name]) for run in runs},
    )


def _numbers(
    protocol: Protocol, run: Run, image_ids: Sequence[str], parts: Sequence[analysis.Analysis]
) -> dict[str, Any]:
    counts: dict[str, Any] = {}
    for part in parts:
        of_class = counts.setdefault(part.setting.class_name, {})
        of_class.update({part.setting.name: part.counts()} if part.setting.name else part.counts())
    return {
        "protocol": protocol.variant,
        "images": len(image_ids),
        "metrics": dict(run.result.metrics),
        "results": run.result.to_json(),
        "analysis": counts,
        "published": {
            row: {" ".join(filter(None, key)): value for key, value in protocol.published[row].items()}
            for row in run.published
        },
    }
