"""A report as one HTML file that needs nothing beside it: styles and pictures are inside."""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from html import escape

from fgfi_tf.evaluation.report.data import Figure, Gallery, ReportData, Row, Section, Table, format_value

_STYLE = """
:root { color-scheme: light dark; --page: #fbfbfa; --card: #ffffff; --ink: #24292f; --soft: #667080;
  --line: #e4e7eb; --accent: #3465a4; --good: #23774f; --bad: #b4432f; --wash: #f3f5f7; }
@media (prefers-color-scheme: dark) { :root { --page: #15181c; --card: #1d2126; --ink: #e3e6ea;
  --soft: #98a2ae; --line: #30363d; --accent: #7aa7e0; --good: #62c193; --bad: #ea8a76; --wash: #23282e; } }
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink);
  font: 15px/1.55 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 40px 24px 80px; }
h1 { font-size: 28px; line-height: 1.2; margin: 0 0 6px; letter-spacing: -.01em; }
h2 { font-size: 20px; margin: 52px 0 6px; letter-spacing: -.005em; }
h3 { font-size: 15px; margin: 26px 0 8px; }
p { margin: 0 0 12px; max-width: 76ch; }
.subtitle, .note, figcaption { color: var(--soft); }
.note, figcaption { font-size: 13px; }
.facts { display: flex; flex-wrap: wrap; gap: 8px 28px; margin: 20px 0 8px; padding: 0; }
.facts div { display: flex; flex-direction: column; }
.facts dt { color: var(--soft); font-size: 12px; }
.facts dd { margin: 0; font-weight: 600; font-variant-numeric: tabular-nums; }
nav { border-top: 1px solid var(--line); border-bottom: 1px solid var(--line); padding: 10px 0;
  margin-top: 20px; display: flex; flex-wrap: wrap; gap: 6px 22px; font-size: 14px; }
nav a { color: var(--accent); text-decoration: none; }
nav a:hover { text-decoration: underline; }
.scroll { overflow-x: auto; margin-bottom: 6px; }
table { border-collapse: collapse; font-size: 14px; font-variant-numeric: tabular-nums; }
th, td { padding: 6px 12px; text-align: right; white-space: nowrap; }
th { font-weight: 500; color: var(--soft); font-size: 13px; }
th.group { text-align: center; color: var(--ink); font-weight: 600; border-bottom: 1px solid var(--line); }
th[scope=row] { text-align: left; color: var(--ink); font-size: 14px; padding-left: 0; padding-right: 24px; }
thead tr:last-child th { border-bottom: 1px solid var(--soft); }
tbody td, tbody th { border-bottom: 1px solid var(--line); }
td.first { padding-left: 26px; }
tr.muted td, tr.muted th[scope=row] { color: var(--soft); }
tr.difference td, tr.difference th[scope=row] { background: var(--wash); font-size: 13px; }
tr.difference th[scope=row] { color: var(--soft); }
tr.total td, tr.total th[scope=row] { font-weight: 600; }
td.up { color: var(--good); } td.down { color: var(--bad); }
figure { margin: 16px 0 8px; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; }
figure.plot img { background: #fff; border: 1px solid var(--line); padding: 12px; }
figcaption { margin-top: 6px; }
.gallery { display: grid; gap: 14px 16px; }
.gallery figure { margin: 0; }
@media print { body { background: #fff; } h2 { break-after: avoid; } figure, table { break-inside: avoid; } }
"""


def to_html(data: ReportData, files: Mapping[str, bytes]) -> str:
    """The whole document. ``files`` maps the path of every figure and picture to its content."""
    sections = "\n".join(_section(section, files) for section in data.sections)
    links = "".join(f'<a href="#{_anchor(s.title)}">{escape(s.title)}</a>' for s in data.sections)
    facts = "".join(
        f"<div><dt>{escape(name)}</dt><dd>{escape(value)}</dd></div>" for name, value in data.facts
    )
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(data.title)}</title>\n<style>{_STYLE}</style>\n</head>\n<body>\n<main>\n"
        f'<header>\n<h1>{escape(data.title)}</h1>\n<p class="subtitle">{escape(data.subtitle)}</p>\n'
        f'<dl class="facts">{facts}</dl>\n<nav>{links}</nav>\n</header>\n'
        f"{sections}\n</main>\n</body>\n</html>\n"
    )


def _anchor(title: str) -> str:
    return re.sub(r"[^a-z0-9]+", "-", title.lower()).strip("-")


def _section(section: Section, files: Mapping[str, bytes]) -> str:
    text = f"<p>{escape(section.text)}</p>\n" if section.text else ""
    parts = "\n".join(_part(part, files) for part in section.parts)
    heading = f"<h2>{escape(section.title)}</h2>"
    return f'<section id="{_anchor(section.title)}">\n{heading}\n{text}{parts}\n</section>'


def _part(part: Table | Figure | Gallery, files: Mapping[str, bytes]) -> str:
    heading = f"<h3>{escape(part.title)}</h3>\n" if part.title else ""
    if isinstance(part, Table):
        return heading + _table(part)
    if isinstance(part, Figure):
        image = _image(files, f"figures/{part.name}.png", part.title)
        return f'{heading}<figure class="plot">{image}{_caption(part.caption)}</figure>'
    note = f'<p class="note">{escape(part.note)}</p>\n' if part.note else ""
    pictures = "\n".join(
        f"<figure>{_image(files, p.path, p.caption)}{_caption(p.caption)}</figure>" for p in part.pictures
    )
    columns = f"grid-template-columns: repeat({part.columns}, minmax(0, 1fr))"
    return f'{heading}{note}<div class="gallery" style="{columns}">\n{pictures}\n</div>'


def _image(files: Mapping[str, bytes], path: str, alt: str) -> str:
    kind = "png" if path.endswith(".png") else "jpeg"
    content = base64.b64encode(files[path]).decode()
    return f'<img alt="{escape(alt)}" src="data:image/{kind};base64,{content}">'


def _caption(text: str) -> str:
    return f"<figcaption>{escape(text)}</figcaption>" if text else ""


def _table(table: Table) -> str:
    starts, cells, column = {0}, "", 0
    for name, span in table.groups:
        starts.add(column)
        column += span
        head = f'<th class="group" colspan="{span}" scope="colgroup">{escape(name)}</th>'
        cells += head if name else f'<td colspan="{span}"></td>'
    groups = f"<tr><td></td>{cells}</tr>" if table.groups else ""
    names = "".join(f'<th scope="col">{escape(name)}</th>' for name in table.columns)
    body = "\n".join(_row(row, starts) for row in table.rows)
    note = f'<p class="note">{escape(table.note)}</p>' if table.note else ""
    content = f"<thead>{groups}<tr><th></th>{names}</tr></thead>\n<tbody>\n{body}\n</tbody>"
    return f'<div class="scroll"><table>\n{content}\n</table></div>\n{note}'


def _row(row: Row, starts: set[int]) -> str:
    signed = row.style == "difference"
    cells = ""
    for column, value in enumerate(row.values):
        names = ["first"] if column in starts else []
        if signed and isinstance(value, int | float) and abs(value) >= 0.05:
            names.append("up" if value > 0 else "down")
        attribute = f' class="{" ".join(names)}"' if names else ""
        cells += f"<td{attribute}>{escape(format_value(value, signed))}</td>"
    style = f' class="{row.style}"' if row.style else ""
    return f'<tr{style}><th scope="row">{escape(row.label)}</th>{cells}</tr>'
