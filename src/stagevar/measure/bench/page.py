"""A benchmark as one HTML file that needs nothing else: fronts, figures, bars by scale, pictures."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from io import StringIO
from itertools import groupby
from typing import Any

from stagevar.measure.bench.front import measured, plot
from stagevar.measure.bench.shown import KINDS, Shown
from stagevar.measure.bench.table import COLUMNS, caption, cells
from stagevar.measure.why.maps import STRONGEST, data_url

SIDE = 192
"""Longest side in pixels of a picture in the page."""

STYLE = """
body { font: 15px/1.45 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem; color: #1a1a1a }
table { border-collapse: collapse; font-size: 13px }
td, th { padding: .2rem .5rem; text-align: right; white-space: nowrap }
td:first-child, th:first-child { text-align: left }
tr + tr { border-top: 1px solid #e4e4e4 }
.wide { overflow-x: auto }
.warning { background: #fdf0d5; padding: .4rem .8rem; margin: .3rem 0 }
svg { max-width: 100%; height: auto }
.bars { display: flex; align-items: end; gap: 2px; height: 48px }
.bars i { width: 9px; background: #0072b2; min-height: 1px }
.bars i.plain { background: #999 }
figure { display: inline-block; margin: .3rem; text-align: center; font-size: 12px }
figure img { width: 128px; image-rendering: pixelated }
.set { display: inline-block; border: 1px solid #e4e4e4; margin: .2rem; text-align: center }
"""


def page(report: Mapping[str, Any], pictures: Sequence[Sequence[Shown]], against: str = "") -> str:
    """The page.

    Args:
        report: as ``bench.bench`` returns it.
        pictures: of every cell.
        against: Markdown of the comparison with an earlier report; empty if there is none.
    """
    commit = f", commit {report['commit'][:7]}" if report["commit"] else ""
    parts = [f"<h1>stagevar bench</h1><p>{report['date']}{commit}</p>"]
    for cell, shown in zip(report["cells"], pictures, strict=True):
        parts += _cell(cell, shown)
    if against:
        parts.append(f"<h2>Against an earlier report</h2><pre>{escape(against)}</pre>")
    head = f'<meta charset="utf-8"><title>stagevar bench</title><style>{STYLE}</style>'
    return f'<!doctype html><html lang="en"><head>{head}</head><body>{"".join(parts)}</body></html>\n'


def _cell(cell: Mapping[str, Any], shown: Sequence[Shown]) -> Iterator[str]:
    height, width = cell["size"]
    yield f"<h2>{escape(cell['model'])}, {width}x{height}, batch {cell['batch']}</h2>"
    yield from (f'<p class="warning">{escape(warning)}</p>' for warning in cell["warnings"])
    yield from (_svg(cell, quality) for quality in measured(cell))
    rows = ([text.strip("`") for text in cells(row, cell["scales"])] for row in cell["rows"])
    yield f'<div class="wide">{_table(COLUMNS, rows)}</div><p>{escape(caption(cell))}</p>'
    extra = [name for name in ("diversity", "lpips") if cell["rows"][0].get(name) is not None]
    if extra:
        figures = ([row["accelerator"], *(f"{row[name]:.4f}" for name in extra)] for row in cell["rows"])
        yield _table(["accelerator", *extra], figures)
    yield "<h3>Scale by scale</h3><p>Grey is the plain run, blue the accelerator; means of a picture.</p>"
    yield f'<div class="wide">{_scales(cell)}</div>'
    yield "<h3>Pictures</h3><p>Each: the picture, its difference to the plain run (yellow is "
    yield f"{STRONGEST} of 255 or more), and where rows ran (grey: the network left work out).</p>"
    for text, group in groupby(shown, key=lambda each: each.caption):
        yield f"<h4>{escape(text)}</h4>{''.join(map(_set, group))}"


def _svg(cell: Mapping[str, Any], quality: str) -> str:
    """A plot as markup of the page; ids of several plots must not meet."""
    plot(cell, quality).savefig(buffer := StringIO(), format="svg", metadata={"Date": None})
    text = buffer.getvalue()
    mark = f"{cell['asked']['model']}-{cell['batch']}-{'x'.join(map(str, cell['size']))}-{quality}-"
    mark = re.sub(r"[^\w-]", "_", mark)
    text = re.sub(r'(\bid="|url\(#|href="#)', rf"\1{mark}", text[text.index("<svg") :])
    return f"<figure>{text}</figure>"


def _table(head: Sequence[str], rows: Any) -> str:
    lines = "".join(f"<tr>{''.join(f'<td>{escape(str(cell))}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{''.join(f'<th>{escape(name)}</th>' for name in head)}</tr>{lines}</table>"


def _scales(cell: Mapping[str, Any]) -> str:
    """A row per accelerator, two bars per scale: of milliseconds, and of rows."""
    plain, lines = cell["rows"][0], []
    for name in ("milliseconds_by_scale", "rows_by_scale"):
        top = max(max(row[name]) for row in cell["rows"]) or 1.0
        for row in cell["rows"][1:]:
            pairs = zip(plain[name], row[name], strict=True)
            bars = "".join(f"<td>{_bars(usual / top, own / top)}{own:.4g}</td>" for usual, own in pairs)
            lines.append(f"<tr><td>{escape(row['accelerator'])}, {name.partition('_')[0]}</td>{bars}</tr>")
    head = "".join(f"<th>{grid}</th>" for grid in cell["grids"])
    return f"<table><tr><th></th>{head}</tr>{''.join(lines)}</table>"


def _bars(plain: float, own: float) -> str:
    bars = (f'<i class="{kind}" style="height:{100 * by:.0f}%"></i>' for kind, by in (("plain", plain), ("own", own)))
    return f'<div class="bars">{"".join(bars)}</div>'


def _set(shown: Shown) -> str:
    images = zip(KINDS, shown.images, strict=True)
    figures = "".join(f'<figure><img src="{data_url(image, SIDE)}" alt="{kind}"></figure>' for kind, image in images)
    return f'<div class="set">{figures}<br><code>{escape(shown.accelerator)}</code></div>'
