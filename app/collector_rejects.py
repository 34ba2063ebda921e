"""`cdp source rejects|replay _collector`: what the HTTP collector refused, mended and collected again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import orjson
import polars as pl

from app.collect_cli import folders_of
from cdp.errors import ConfigError
from connectors.collector.bodies import BodyError
from connectors.collector.collector import REJECTS, Collector
from connectors.collector.replay import decoded
from pipelines.collected import collector_config
from warehouse.home import Home

COLLECTOR = "_collector"
_SCHEMA = dict.fromkeys(("stream", "file", "column", "reason", "raw", "rejected_at"), pl.String()) | {
    "row_number": pl.Int64()
}


def refused(home: Home) -> pl.DataFrame:
    """What was refused, newest first, in the columns of rejected rows; `raw` is the whole line."""
    rows = [
        _row(path, line) for path in sorted(_folder(home).glob("*.jsonl")) for line in path.read_bytes().splitlines()
    ]
    return pl.DataFrame(rows, schema=_SCHEMA).reverse()


def _folder(home: Home) -> Path:
    return folders_of(home).of(REJECTS)


def _row(path: Path, line: bytes) -> dict[str, Any]:
    told = orjson.loads(line)
    return {
        "stream": told["endpoint"],
        "file": path.name,
        "row_number": told.get("index"),
        "reason": told["reason"],
        "raw": line.decode(),
        "rejected_at": told["received_at"],
    }


def write_refused(frame: pl.DataFrame, to: Path) -> None:
    """One JSON object a line, with the item as JSON where it is some, so that it can be mended in an editor."""
    to.parent.mkdir(parents=True, exist_ok=True)
    to.write_bytes(b"".join(orjson.dumps(_opened(orjson.loads(raw))) + b"\n" for raw in frame["raw"].reverse()))


def _opened(line: dict[str, Any]) -> dict[str, Any]:
    try:
        item = orjson.loads(line["raw"])
    except (KeyError, orjson.JSONDecodeError):
        return line
    return {name: value for name, value in line.items() if name != "raw"} | {"item": item}


def replay_refused(home: Home, path: Path) -> str:
    """Collect the mended lines of *path* again; what is still refused goes to rejects anew. Returns what happened.

    The files land with the next pull, once: repeats are known by content or message id. Raises `ConfigError` when a
    line is no line of rejects.
    """
    collector = Collector(collector_config(home), folders_of(home))
    kept, again = 0, 0
    lines = [_line(path, number, line) for number, line in enumerate(path.read_bytes().splitlines(), start=1) if line]
    logs = {name: collector.log(name) for name in {line["endpoint"] for line in lines} | {REJECTS}}
    for line in lines:
        try:
            received = decoded(line, collector.limits)
        except BodyError as error:
            logs[REJECTS].append(_again(collector, line, error.message))
            again += 1
            continue
        if received.lines:
            logs[line["endpoint"]].append(received.lines)
        for item in received.refused:
            logs[REJECTS].append(collector.reject_line(line["endpoint"], item.reason, item.raw, item.index))
        kept, again = kept + received.count, again + len(received.refused)
    for log in logs.values():
        log.close()
    return f"{len(lines)} lines: {kept} events collected again, {again} refused again; `cdp source pull` lands them"


def _again(collector: Collector, line: dict[str, Any], reason: str) -> bytes:
    raw = orjson.dumps(line["item"]) if "item" in line else str(line.get("raw") or line.get("raw_base64")).encode()
    return collector.reject_line(line["endpoint"], reason, raw)


def _line(path: Path, number: int, line: bytes) -> dict[str, Any]:
    try:
        told = orjson.loads(line)
        if isinstance(told, dict) and isinstance(told.get("endpoint"), str):
            return told
    except orjson.JSONDecodeError:
        pass
    raise ConfigError(
        f"{path}, line {number}: expected a JSON object with `endpoint`, `received_at` and `item`",
        hint="mend what `cdp source rejects _collector --to FILE.jsonl` wrote",
    )
