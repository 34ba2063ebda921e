"""A first draft of a profile for an export that no profile knows: guesses, for a person to read and mend."""

from __future__ import annotations

from io import StringIO

import polars as pl
from ruamel.yaml import YAML

from connectors import canonical
from connectors.files.guess import Guess, Proposal, propose
from connectors.mapping import cleaned
from connectors.marketplaces.profile import FOLDER
from connectors.marketplaces.tables import ROW

# What nearly every state of an order says, in words of its own.
_STATES = {"取消": "closed", "关闭": "closed", "完成": "done", "成功": "done", "已发货": "shipped", "待收货": "shipped",
           "待发货": "paid", "已付款": "paid", "待付款": "created"}  # fmt: skip
_FEW_WORDS = 30


def profile_draft(frame: pl.DataFrame, name: str, *, file: str) -> str:
    """The YAML of a profile called *name* for *frame*: the text cells of an export under its header.

    Valid as it stands where an order id was found; what could not be told is in its comments.
    """
    orders = propose(frame, canonical.STREAMS_BY_NAME["orders"])
    lines = propose(frame, canonical.STREAMS_BY_NAME["order_lines"])
    profile: dict[str, object] = {
        "name": name,
        "platform": name.removesuffix("_orders"),
        "title": file,
        "grain": _grain(frame, orders),
        "requires": [guess.source for guess in orders.columns.values()][:5] or _names(frame)[:5],
    }
    streams = {"orders": {"columns": _columns(orders)}}
    if {"product_id", "product_name"} & set(lines.columns) and "order_id" in lines.columns:
        found = _columns(lines)
        found.setdefault("line_id", {"join": [lines.columns["order_id"].source, "_occurrence"]})
        streams["order_lines"] = {"columns": found}
    profile["streams"] = streams
    used = {guess.source for proposal in (orders, lines) for guess in proposal.columns.values()}
    unused = [column for column in _names(frame) if column not in used]
    return "\n".join([*_remarks(frame, orders, unused, file), _yaml(profile)])


def _names(frame: pl.DataFrame) -> list[str]:
    return [column for column in frame.columns if column != ROW]


def _grain(frame: pl.DataFrame, orders: Proposal) -> str:
    found = orders.columns.get("order_id")
    ids = cleaned(frame[found.source]).drop_nulls() if found else pl.Series([], dtype=pl.String)
    return "item" if ids.n_unique() < len(ids) else "order"


def _columns(proposal: Proposal) -> dict[str, object]:
    return {target: _rule(target, guess) for target, guess in proposal.columns.items() if target not in _FIXED}


_FIXED = ("platform", "shop")  # the profile and the source say these


def _rule(target: str, guess: Guess) -> object:
    if target == "status":
        return {"from": guess.source, "contains": _STATES}
    if target in ("receiver_phone", "phone", "buyer_id"):
        return {"from": guess.source, "unmasked": True}
    return {"from": guess.source, "format": guess.format} if guess.format else guess.source


def _remarks(frame: pl.DataFrame, orders: Proposal, unused: list[str], file: str) -> list[str]:
    """What a person has to look at, as comments."""
    told = [
        f"# 由 {file} 生成的初稿，请逐行核对。Drafted from that file: read every line before the first load.",
        f"# 写法参照 / written like those in {FOLDER.parent.name}/{FOLDER.name}",
        "# grain: item = one row an item; amounts then stand on every row (aggregate: first) or add up (sum).",
        f"# 未使用，原样保留 / not used, kept as they are: {', '.join(unused) or '-'}",
    ]
    if "order_id" not in orders.columns:
        told.append("# 缺少订单号，请补上 / no column was found for the required order_id: name it")
    if status := orders.columns.get("status"):
        words = cleaned(frame[status.source]).drop_nulls().unique(maintain_order=True)
        if len(words) <= _FEW_WORDS:
            told.append(f"# {status.source} holds: {', '.join(words)}")
    return ["".join(character if character.isprintable() else " " for character in line) for line in told]


def _yaml(profile: dict[str, object]) -> str:
    out, writer = StringIO(), YAML()
    writer.width, writer.allow_unicode = 120, True
    writer.indent(mapping=2, sequence=4, offset=2)
    writer.dump(profile, out)
    return out.getvalue()
