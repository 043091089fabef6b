"""Writes a report: one self-contained HTML file, Markdown, JSON, and every picture as a file.

folder/index.html   everything in one file, to open or to send
folder/report.md    tables, with links to the figures
folder/report.json  all numbers in full precision
folder/figures/*.png, folder/pictures/*.jpg, *.png
"""

from __future__ import annotations

import io
import json
import os
from pathlib import Path

from PIL import Image

from fgfi_tf.errors import UserError
from fgfi_tf.evaluation.report import plots
from fgfi_tf.evaluation.report.data import Figure, Gallery, Picture, ReportData, Table, format_value
from fgfi_tf.evaluation.report.html import to_html

# Full colour resolution: else thin coloured lines turn grey.
_JPEG = {"format": "JPEG", "quality": 88, "subsampling": 0}


def write(data: ReportData, folder: str | os.PathLike[str]) -> Path:
    """Writes all files and returns the path of the HTML file; other files of the folder stay.

    Raises UserError where the folder cannot be written.
    """
    folder = Path(folder)
    files = render_pictures(data)
    texts = {
        "index.html": to_html(data, files),
        "report.md": to_markdown(data),
        "report.json": json.dumps(data.numbers, indent=1) + "\n",
    }
    try:
        for name, content in (files | {name: text.encode() for name, text in texts.items()}).items():
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(content)
    except OSError as error:
        raise UserError(f"{folder}: the report cannot be written: {error.strerror}") from None
    return folder / "index.html"


def render_pictures(data: ReportData) -> dict[str, bytes]:
    """Path in the report folder -> content, of every figure (PNG) and picture (JPEG or PNG)."""
    files = {}
    for section in data.sections:
        for part in section.parts:
            if isinstance(part, Figure):
                files[f"figures/{part.name}.png"] = plots.render(part)
            elif isinstance(part, Gallery):
                for picture in part.pictures:
                    files[picture.path] = _encode(picture)
    return files


def _encode(picture: Picture) -> bytes:
    out, image = io.BytesIO(), Image.fromarray(picture.image)
    if picture.few_colors:
        image.quantize(256, dither=Image.Dither.NONE).save(out, format="PNG", optimize=True)
    else:
        image.save(out, **_JPEG)
    return out.getvalue()


def to_markdown(data: ReportData) -> str:
    """The report as Markdown, figures as links."""
    lines = [f"# {data.title}", "", data.subtitle, ""]
    lines += [f"- {name}: {value}" for name, value in data.facts]
    for section in data.sections:
        lines += ["", f"## {section.title}", ""]
        lines += [section.text, ""] if section.text else []
        for part in section.parts:
            lines += [f"### {part.title}", ""] if part.title else []
            if isinstance(part, Table):
                lines += _markdown_table(part)
            elif isinstance(part, Figure):
                lines += [f"![{part.title}](figures/{part.name}.png)", "", part.caption, ""]
            else:
                lines += [part.note, ""] if part.note else []
                for picture in part.pictures:
                    lines += [f"![{picture.caption}]({picture.path})", "", picture.caption, ""]
    return "\n".join(lines).rstrip() + "\n"


def _markdown_table(table: Table) -> list[str]:
    groups = [name for name, span in table.groups for _ in range(span)] or [""] * len(table.columns)
    names = [_cell(f"{group} {column}".strip()) for group, column in zip(groups, table.columns, strict=True)]
    lines = [" | ".join(["| ", *names]) + " |", "|---" + "|---:" * len(names) + "|"]
    for row in table.rows:
        cells = [_cell(format_value(value, row.style == "difference")) for value in row.values]
        lines.append(" | ".join([f"| {_cell(row.label)}", *cells]) + " |")
    return [*lines, "", table.note, ""] if table.note else [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|")
