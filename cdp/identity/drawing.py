"""A person's graph as one SVG: identifiers, evidence, the strongest chain, what was refused."""

from __future__ import annotations

from collections.abc import Sequence
from html import escape
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

WIDTH, HEIGHT = 960, 640
# Room for what stands beside the nodes: half of the longest line of text, the title above, the legend below.
SIDE, TOP, BOTTOM = 120, 60, 140
# Colour by class of identifier, told apart by shape of the text as well (the type is written out).
COLOURS = {
    "member_id": "#1f5fa8", "crm_id": "#1f5fa8", "reg_id": "#1f5fa8", "phone": "#b05a00", "email": "#b05a00",
    "device_id": "#5b6470", "anonymous_id": "#5b6470",
}  # fmt: skip
ACCOUNT = "#1a7f4b"
# Words stay readable where a line runs behind them.
_HALO = "<style>text { paint-order: stroke; stroke: #ffffff; stroke-width: 4px; stroke-linejoin: round }</style>"


def draw(
    names: Sequence[str],
    links: Sequence[tuple[str, str, str]],
    refused: Sequence[tuple[str, str, str]],
    chain: Sequence[str],
    *,
    title: str,
) -> str:
    """SVG text. *names*: `type:value` of the person's identifiers; *links*: (a, b, decision); *refused*: (a, b,
    reason),
    dashed, one end may lie outside the person; *chain*: names along the strongest chain, drawn bold."""
    every = list(dict.fromkeys([*names, *(end for pair in (*links, *refused) for end in pair[:2] if end)]))
    place = dict(zip(every, layout(every, [(a, b) for a, b, _ in (*links, *refused)]).tolist(), strict=True))
    bold = {frozenset(pair) for pair in pairwise(chain)}
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" role="img" '
        f'font-family="system-ui, sans-serif" font-size="12">{_HALO}<title>{escape(title)}</title>'
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#ffffff"/>'
        f'<text x="20" y="30" font-size="16" fill="#1b1f24">{escape(title)}</text>'
    ]
    for a, b, decision in links:
        width = 4 if frozenset((a, b)) in bold else 1.5
        style = 'stroke-dasharray="2 4" ' if decision == "redundant" else ""
        parts.append(_line(place[a], place[b], "#1b1f24" if width > 2 else "#8b949e", width, style, decision))
    for a, b, reason in refused:
        if a in place and b in place:
            parts.append(_line(place[a], place[b], "#c0262d", 1.5, 'stroke-dasharray="7 5" ', reason))
    inside = set(names)
    parts += [_node(name, place[name], inside=name in inside) for name in every]
    parts.append(_legend())
    return "".join(parts) + "</svg>"


def layout(names: Sequence[str], pairs: Sequence[tuple[str, str]]) -> NDArray[np.float64]:
    """Places on the canvas by springs (Fruchterman and Reingold 1991), from a circle: the same graph, the same
    picture."""
    count = len(names)
    angle = np.arange(count) * 2 * np.pi / max(count, 1)
    where = np.stack([np.cos(angle), np.sin(angle)], axis=1)
    number = {name: index for index, name in enumerate(names)}
    ends = np.array([(number[a], number[b]) for a, b in pairs if a in number and b in number and a != b]).reshape(-1, 2)
    ideal = 1.6 / np.sqrt(max(count, 1))
    for step in range(150 if 2 < count <= 400 else 0):
        apart = where[:, None, :] - where[None, :, :]
        distance = np.maximum(np.hypot(apart[..., 0], apart[..., 1]), 1e-3)
        push = (apart * (ideal**2 / distance**2)[..., None]).sum(axis=1)
        along = where[ends[:, 0]] - where[ends[:, 1]]
        pull = along * (np.hypot(along[:, 0], along[:, 1]) / ideal)[:, None]
        np.add.at(push, ends[:, 0], -pull)
        np.add.at(push, ends[:, 1], pull)
        length = np.maximum(np.hypot(push[:, 0], push[:, 1]), 1e-9)
        where = where + push / length[:, None] * np.minimum(length, 0.12 * (1 - step / 150))[:, None]
    low, high = where.min(axis=0, initial=0), where.max(axis=0, initial=0)
    scale = (where - low) / np.maximum(high - low, 1e-9)
    return scale * [WIDTH - 2 * SIDE, HEIGHT - TOP - BOTTOM] + [SIDE, TOP]


def _line(a: list[float], b: list[float], colour: str, width: float, style: str, tip: str) -> str:
    return (
        f'<line x1="{a[0]:.1f}" y1="{a[1]:.1f}" x2="{b[0]:.1f}" y2="{b[1]:.1f}" stroke="{colour}" '
        f'stroke-width="{width}" {style}><title>{escape(tip)}</title></line>'
    )


def _node(name: str, at: list[float], *, inside: bool) -> str:
    kind, _, value = name.partition(":")
    colour = COLOURS.get(kind.partition("@")[0], ACCOUNT)
    fill = colour if inside else "#ffffff"
    short = value if len(value) <= 16 else f"{value[:13]}…"
    shown = kind if len(kind) <= 34 else f"{kind[:31]}…"
    return (
        f'<g><title>{escape(name)}</title><circle cx="{at[0]:.1f}" cy="{at[1]:.1f}" r="9" fill="{fill}" '
        f'stroke="{colour}" stroke-width="2"/>'
        f'<text x="{at[0]:.1f}" y="{at[1] + 24:.1f}" text-anchor="middle" fill="#1b1f24">{escape(short)}</text>'
        f'<text x="{at[0]:.1f}" y="{at[1] + 38:.1f}" text-anchor="middle" fill="#57606a" font-size="10">'
        f"{escape(shown)}</text></g>"
    )


def _legend() -> str:
    rows = (("strongest chain", "#1b1f24", 4, ""), ("evidence", "#8b949e", 1.5, ""),
            ("also seen", "#8b949e", 1.5, "2 4"), ("refused or kept back", "#c0262d", 1.5, "7 5"))  # fmt: skip
    return "".join(
        f'<line x1="20" y1="{HEIGHT - 84 + 18 * row}" x2="60" y2="{HEIGHT - 84 + 18 * row}" stroke="{colour}" '
        f'stroke-width="{width}" stroke-dasharray="{dash}"/>'
        f'<text x="70" y="{HEIGHT - 80 + 18 * row}" fill="#1b1f24">{words}</text>'
        for row, (words, colour, width, dash) in enumerate(rows)
    )
