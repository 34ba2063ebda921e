"""A chart or a graph as a file that opens without a network: .svg, .png, or a page for phone, screen and paper."""

from __future__ import annotations

from html import escape
from io import StringIO
from pathlib import Path
from typing import Any

from cdp.errors import ConfigError

FORMS = (".svg", ".png", ".html")
_PAGE = """<!doctype html>
<html lang="zh"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{title}</title><style>
body {{ margin: 0; padding: 1rem; background: #fff }} @media print {{ body {{ padding: 0 }} }}
svg {{ display: block; width: 100%; max-width: 60rem; height: auto; margin: 0 auto }}
</style></head><body>{svg}</body></html>
"""


def picture_page(svg: str, *, title: str) -> str:
    """*svg*, our own text, as a page that fits its window."""
    return _PAGE.format(title=escape(title), svg=svg)


def write_chart(chart: Any, path: Path, *, title: str) -> None:
    """Write *chart* (Altair) to *path* in the form of its ending. Raises `ConfigError` on another ending."""
    if path.suffix not in FORMS:
        raise ConfigError(f"a chart is {', '.join(FORMS[:-1])} or {FORMS[-1]}, not `{path.suffix}`")
    if path.suffix != ".html":
        chart.save(str(path))
        return
    svg = StringIO()
    chart.save(svg, format="svg")
    path.write_text(picture_page(svg.getvalue(), title=title), encoding="utf-8")
