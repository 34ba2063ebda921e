"""Charts of the daily report as SVG text, made by Vega-Lite in this process: no browser, no network.

Every chart is drawn narrow, so that it can be read on a phone, and colours are chosen to be told apart in grey.
"""

from __future__ import annotations

import re
import unicodedata
import zlib
from collections.abc import Mapping, Sequence
from typing import Any, Literal

FONT = "system-ui, 'PingFang SC', 'Microsoft YaHei', 'Noto Sans CJK SC', 'Noto Sans SC', sans-serif"
MAIN, SOFT, UP, DOWN, INK, GRID = "#0f766e", "#99c9c4", "#0f766e", "#b45309", "#334155", "#e2e8f0"
SERIES = ("#0f766e", "#b45309", "#1d4ed8", "#9d174d", "#4d7c0f", "#6d28d9", "#0e7490", "#a16207")
_WIDTH = 430
_FONT_SIZE = 12
_CONFIG = {
    "font": FONT,
    "background": None,
    "view": {"stroke": None},
    "axis": {
        "labelFontSize": _FONT_SIZE,
        "titleFontSize": _FONT_SIZE,
        "titleFontWeight": "normal",
        "labelColor": INK,
        "titleColor": INK,
        "gridColor": GRID,
        "domainColor": "#94a3b8",
        "tickColor": "#94a3b8",
        "labelLimit": 220,
    },
    "legend": {"labelFontSize": _FONT_SIZE, "labelColor": INK, "title": None, "orient": "top", "labelLimit": 200},
    "text": {"fontSize": _FONT_SIZE, "color": INK},
}

Row = Mapping[str, Any]


def bars(rows: Sequence[Row], *, colour: str = MAIN) -> str:
    """Horizontal bars in the given order. Rows: `label`, `value` (≥ 0), `text` (written at the bar's end)."""
    longest = max((float(row["value"]) for row in rows), default=0.0) or 1.0
    category = _category("label", [str(row["label"]) for row in rows])
    plot = _WIDTH - category["axis"]["minExtent"] - 12
    texts = max((_text_width(str(row["text"])) for row in rows), default=0) * _FONT_SIZE / 2 * 1.12 + 8
    room = plot / max(plot - texts, plot * 0.3)
    base = {"y": category, "x": _hidden("value", longest * room)}
    layer = [
        {"mark": {"type": "bar", "color": colour, "height": {"band": 0.72}}, "encoding": base},
        {
            "mark": {"type": "text", "align": "left", "dx": 4},
            "encoding": {**base, "text": {"field": "text", "type": "nominal"}},
        },
    ]
    return _svg(rows, {"layer": layer, "height": {"step": 27}})


def columns(rows: Sequence[Row], *, unit: Literal["day", "month"] = "day") -> str:
    """Columns over time. Rows: `at` (ISO date), `value`; optional `kind`, which stacks them in colours."""
    axis = {"title": None, "labelOverlap": True, "labelSeparation": 8, "labelFlush": False, "grid": False}
    if unit == "day":
        x = {"field": "at", "type": "temporal", "timeUnit": "yearmonthdate", "axis": {**axis, "format": "%m-%d"}}
    else:
        rows = [{**row, "at": str(row["at"])[2:7]} for row in rows]
        x = {"field": "at", "type": "ordinal", "axis": {**axis, "labelAngle": 0, "labelOverlap": "parity"}}
    encoding: dict[str, Any] = {"x": x, "y": _amount("value")}
    if any("kind" in row for row in rows):
        encoding["color"] = _coloured("kind", rows)
    mark = {"type": "bar", "color": MAIN, "width": {"band": 0.8}}
    return _svg(rows, {"mark": mark, "encoding": encoding, "height": 190})


def lines(rows: Sequence[Row], *, x_title: str, y_format: str = "~s") -> str:
    """One line per series over whole numbers. Rows: `x`, `y`, `series`; the series keep their order."""
    encoding = {
        "x": {"field": "x", "type": "quantitative", "axis": {"title": x_title, "grid": False, "tickMinStep": 1}},
        "y": {**_amount("y"), "axis": {"title": None, "format": y_format, "tickCount": 5}},
        "color": _coloured("series", rows),
    }
    mark = {"type": "line", "point": {"size": 18}, "strokeWidth": 1.8}
    return _svg(rows, {"mark": mark, "encoding": encoding, "height": 210})


def heatmap(rows: Sequence[Row], *, x_title: str) -> str:
    """Shares by row and column. Rows: `y` (text, in order), `x` (whole number), `value` (0 to 1), `text`."""
    highest = max((float(row["value"]) for row in rows), default=0.0) or 1.0
    x = {"field": "x", "type": "ordinal", "axis": {"title": x_title, "labelAngle": 0, "orient": "top"}}
    base = {"x": x, "y": _category("y", list(dict.fromkeys(str(row["y"]) for row in rows)))}
    scale = {"domain": [0, highest], "range": ["#f0fdfa", "#0f766e"]}
    ink = {"condition": {"test": f"datum.value > {highest * 0.55}", "value": "white"}, "value": INK}
    layer = [
        {
            "mark": {"type": "rect", "stroke": "white"},
            "encoding": {**base, "color": {"field": "value", "type": "quantitative", "scale": scale, "legend": None}},
        },
        {
            "mark": {"type": "text", "fontSize": 11},
            "encoding": {**base, "text": {"field": "text", "type": "nominal"}, "color": ink},
        },
    ]
    return _svg(rows, {"layer": layer, "height": {"step": 24}})


def waterfall(rows: Sequence[Row]) -> str:
    """From one total to the next by its parts. Rows: `label`, `start`, `end`, `text`, `kind` (total, up or down)."""
    names = [str(row["label"]) for row in rows]
    base = {"y": _category("label", names)}
    edges = [float(row[edge]) for row in rows for edge in ("start", "end")]
    low, high = min(edges, default=0.0), max(edges, default=1.0)
    # Totals are drawn from 0; where the parts are small beside them, the axis begins later so that they can be seen.
    parts = [float(row[edge]) for row in rows if row["kind"] != "total" for edge in ("start", "end")]
    floor = min(parts, default=low)
    room = (max(parts, default=high) - floor) or high or 1.0
    first = max(0.0, floor - room) if low >= 0 else low
    scale = {"domain": [first, high + (high - first) * 0.3], "nice": False, "zero": False, "clamp": True}
    colour = {
        "field": "kind",
        "type": "nominal",
        "scale": {"domain": ["total", "up", "down"], "range": ["#64748b", UP, DOWN]},
        "legend": None,
    }
    position = {"field": "start", "type": "quantitative", "scale": scale, "axis": None}
    drawn = [{**row, "right": max(row["start"], row["end"])} for row in rows]
    layer = [
        {
            "mark": {"type": "bar", "height": {"band": 0.72}},
            "encoding": {**base, "x": position, "x2": {"field": "end"}, "color": colour},
        },
        {
            "mark": {"type": "text", "align": "left", "dx": 4},
            "encoding": {
                **base,
                "x": {**position, "field": "right"},
                "text": {"field": "text", "type": "nominal"},
            },
        },
    ]
    return _svg(drawn, {"layer": layer, "height": {"step": 27}})


def _category(field: str, names: Sequence[str]) -> dict[str, Any]:
    """A labelled axis of names, wide enough for them also where the machine has no font to measure Chinese with."""
    widest = max((_text_width(name) for name in names), default=0)
    extent = min(220.0, widest * _FONT_SIZE / 2 * 1.08 + 4)
    axis = {"title": None, "grid": False, "ticks": False, "domain": False, "minExtent": extent, "labelPadding": 6}
    return {"field": field, "type": "nominal", "sort": None, "axis": axis}


def _text_width(text: str) -> int:
    """Width in halves of a full-width character."""
    return sum(2 if unicodedata.east_asian_width(letter) in "WF" else 1 for letter in text)


def _hidden(field: str, highest: float) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "axis": None, "scale": {"domain": [0, highest]}}


def _amount(field: str) -> dict[str, Any]:
    return {"field": field, "type": "quantitative", "axis": {"title": None, "format": "~s", "tickCount": 5}}


def _coloured(field: str, rows: Sequence[Row]) -> dict[str, Any]:
    names = list(dict.fromkeys(str(row[field]) for row in rows))
    colours = [SERIES[index % len(SERIES)] for index in range(len(names))]
    legend = None if len(names) < 2 else {"columns": 4}
    return {"field": field, "type": "nominal", "scale": {"domain": names, "range": colours}, "legend": legend}


def _svg(rows: Sequence[Row], body: Mapping[str, Any]) -> str:
    """*body* drawn over *rows*. Ids inside the picture are made its own, because a page holds many pictures."""
    import vl_convert  # 40 MB of library: only where a report is made

    spec = {
        "$schema": "https://vega.github.io/schema/vega-lite/v5.json",
        "data": {"values": list(rows)},
        "width": _WIDTH,
        "config": _CONFIG,
        "autosize": {"type": "fit-x", "contains": "padding"},
        **body,
    }
    svg: str = vl_convert.vegalite_to_svg(spec)
    own = f"c{zlib.crc32(repr((body, rows)).encode())}_"
    return re.sub(r'(id="|url\(#|xlink:href="#|href="#)', rf"\g<1>{own}", svg)
