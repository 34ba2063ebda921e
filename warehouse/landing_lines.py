"""Line files (one JSON object a line) read by DuckDB in one streaming pass, in bounded memory.

The pass writes every line, in order, to a temporary Parquet file. When no line is broken and none was seen before,
which is the rule, that file is the batch and a row's number is its place in it. Otherwise a second pass leaves out
what is rejected or known and writes the line numbers down.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from cdp.errors import FatalError
from cdp.streams import Column, JsonLines, Reject, Stream

# Larger than any honest event; a line beyond it is an error that names the file.
MAX_LINE_BYTES = 64 * 1024 * 1024
_SQL_TYPES = {
    "text": "varchar",
    "json": "varchar",
    "int": "bigint",
    "float": "double",
    "decimal": "decimal(18, 2)",
    "bool": "boolean",
    "timestamp": "timestamptz",
    "date": "date",
}
# A field `messageId|_line` is that key where the line has it, else the hash of the whole line.
OR_LINE = "|_line"
_BLOCK = 8 * 1024 * 1024


@dataclass(frozen=True)
class LinesResult:
    """*path*: the finished but not yet renamed Parquet file. received = landed + duplicates + len(rejects)."""

    path: Path
    received: int
    landed: int
    duplicates: int
    rejects: tuple[Reject, ...]
    drift: tuple[str, ...]

    def discard(self) -> None:
        self.path.unlink(missing_ok=True)


def read_lines(
    con: duckdb.DuckDBPyConnection, lines: JsonLines, stream: Stream, target: Path, constants: Mapping[str, Any]
) -> LinesResult:
    """Read *lines* beside *target*. *con* holds `known(_key_hash, …)`: the keys that have landed before."""
    parsed = target.with_name(f".{target.name}.parsed.tmp")
    try:
        con.execute(_pass_one(lines, stream, parsed, constants))
    except duckdb.Error as error:
        parsed.unlink(missing_ok=True)
        raise FatalError(
            f"{lines.source_file or lines.path}: cannot be read as JSON lines: {str(error).splitlines()[0]}",
            hint="expected UTF-8 text with one JSON object on each line",
        ) from error
    file = str(parsed)
    received, bad = con.execute(
        "select count(*), count(*) filter (where _reject is not null) from read_parquet(?)", [file]
    ).fetchall()[0]
    duplicates = _duplicates(con, file)
    drift = _drift(con, file, lines.known)
    if not bad and not duplicates and _line_count(lines.path) == received:
        return LinesResult(parsed, received, received, 0, (), drift)
    numbers = _line_numbers(lines.path, received)
    final = target.with_name(f".{target.name}.tmp")
    con.register("numbers", numbers.to_arrow())
    con.execute(_pass_two(file, final))
    rejects = _rejects(con, lines.path, file)
    con.unregister("numbers")
    parsed.unlink()
    landed = con.execute("select count(*) from read_parquet(?)", [str(final)]).fetchall()[0][0]
    return LinesResult(final, received, landed, received - landed - len(rejects), rejects, drift)


def _pass_one(lines: JsonLines, stream: Stream, target: Path, constants: Mapping[str, Any]) -> str:
    declared = [column for column in stream.columns if lines.fields.get(column.name, "_line") != "_line"]
    wanted = {
        lines.fields[column.name].removesuffix(OR_LINE): "JSON" if column.type == "json" else "VARCHAR"
        for column in declared
    }
    shape = json.dumps({**wanted, **dict.fromkeys(lines.known, "JSON")}, ensure_ascii=False)
    cells = [_cell(column, lines.fields) for column in stream.columns]
    facts = ", ".join(f"{_literal(value)} as {name}" for name, value in constants.items())
    content = content_sql(stream)
    key = _key(stream, lines.fields)
    return f"""
        copy (
            select
                *,
                {facts},
                {f"coalesce({key}, {content})" if key else content} as _key_hash,
                {f"case when {key} is not null then {content} end" if key else "cast(null as ubigint)"} as _row_hash
            from (
                select
                    {", ".join(cells)},
                    {_extra(list(wanted), lines.known)} as _extra,
                    {_reject(declared, lines.fields)} as _reject
                from (
                    select json, from_json(json, {_literal(shape)}) as f
                    from read_ndjson_objects(
                        {_literal(str(lines.path))}, ignore_errors = true, maximum_object_size = {MAX_LINE_BYTES},
                        compression = 'none'
                    )
                )
            )
        ) to {_literal(str(target))} (format parquet, compression zstd, compression_level 1)
    """


def content_sql(stream: Stream) -> str:
    """What identifies a line that has no id of its own: 64 bits of the MD5 of what it holds.

    Not DuckDB's `hash`, which is faster: lines of the same shape collide there, and a collision would lose a line.
    """
    columns = [column.name for column in stream.columns if column.name not in stream.key] + ["_extra"]
    cells = ", ".join(f"coalesce(cast({_quoted(name)} as varchar), chr(1))" for name in columns)
    return f"md5_number_lower(concat_ws(chr(31), {cells}))"


def _cell(column: Column, fields: Mapping[str, str]) -> str:
    """One declared column out of the parsed line; what does not fit its type is null here and a reject below.

    A key that is the hash of the line is not written out: the raw view makes it of `_key_hash`.
    """
    kind = _SQL_TYPES[column.type]
    key = fields.get(column.name)
    if key is None or key == "_line":
        return f"cast(null as {kind}) as {_quoted(column.name)}"
    if key.endswith(OR_LINE):
        return f"f.{_quoted(key.removesuffix(OR_LINE))} as {_quoted(column.name)}"
    value = f"f.{_quoted(key)}"
    if column.type == "json":
        value = f"cast({value} as varchar)"
    elif column.type != "text":
        value = f"try_cast({value} as {kind})"
    return f"{value} as {_quoted(column.name)}"


def _key(stream: Stream, fields: Mapping[str, str]) -> str:
    """The digest of a line's own key, null where the line has none; '' where no line of the stream has one."""
    if any(fields.get(name, "_line") == "_line" for name in stream.key):
        return ""
    if len(stream.key) == 1:
        return f"md5_number_lower({_quoted(stream.key[0])})"
    cells = [f"coalesce(cast({_quoted(name)} as varchar), chr(1))" for name in stream.key]
    return f"md5_number_lower(concat_ws(chr(31), {', '.join(cells)}))"


def _extra(declared: list[str], known: tuple[str, ...]) -> str:
    """Keys nobody declared, as JSON.

    The rule is a line that holds nothing new, and it has to be cheap: then it has as many keys as expected columns are
    filled. Only where the count differs are the names compared, and only where one is new is the line patched.
    """
    listed = ", ".join(_literal(name) for name in [*declared, *known])
    patch = _literal(json.dumps(dict.fromkeys(declared), ensure_ascii=False))
    filled = " + ".join(f"cast(f.{_quoted(name)} is not null as integer)" for name in [*declared, *known])
    news = f"len(list_filter(json_keys(json), lambda k: k not in ({listed}))) > 0"
    usual = "cast(null as varchar)"
    if known:
        parts = [f"'\"{name}\":' || cast(f.{_quoted(name)} as varchar)" for name in known]
        some = f"coalesce({', '.join(f'cast(f.{_quoted(name)} as varchar)' for name in known)})"
        usual = f"case when {some} is not null then '{{' || concat_ws(',', {', '.join(parts)}) || '}}' end"
    return f"""
        case
            when len(json_keys(json)) = {filled} then {usual}
            when {news} then cast(json_merge_patch(json, {patch}) as varchar)
            else {usual}
        end"""


def _reject(declared: list[Column], fields: Mapping[str, str]) -> str:
    """Why a line cannot land, as `column<TAB>reason`; null where it can."""
    tests = [
        ("json is null", "\tis not valid JSON"),
        ("json_type(json) <> 'OBJECT'", "\tis not a JSON object"),
    ]
    for column in declared:
        value = f"f.{_quoted(fields[column.name].removesuffix(OR_LINE))}"
        if column.required and not fields[column.name].endswith(OR_LINE):
            tests.append((f"coalesce(cast({value} as varchar), '') = ''", f"{column.name}\tis required and empty"))
        if column.type not in ("text", "json"):
            misfit = f"{value} is not null and try_cast({value} as {_SQL_TYPES[column.type]}) is null"
            tests.append((misfit, f"{column.name}\tis not a valid {column.type}"))
    return "case " + " ".join(f"when {test} then {_literal(reason)}" for test, reason in tests) + " end"


def _duplicates(con: duckdb.DuckDBPyConnection, file: str) -> int:
    """Lines whose key came before: earlier in the file or in an earlier batch."""
    total, distinct = con.execute(
        "select count(_key_hash), count(distinct _key_hash) from read_parquet(?) where _reject is null", [file]
    ).fetchall()[0]
    again = con.execute(
        "select count(*) from read_parquet(?) semi join known using (_key_hash) where _reject is null", [file]
    ).fetchall()[0][0]
    return (total - distinct) + again


def _pass_two(file: str, target: Path) -> str:
    return f"""
        copy (
            with keep as (
                select min(file_row_number) as file_row_number
                from read_parquet({_literal(file)}, file_row_number = true)
                anti join known using (_key_hash)
                where _reject is null
                group by _key_hash
            )
            select * exclude (_reject, file_row_number, ordinal, line), numbers.line as _row_number
            from read_parquet({_literal(file)}, file_row_number = true)
            semi join keep using (file_row_number)
            join numbers on numbers.ordinal = file_row_number
            order by file_row_number
        ) to {_literal(str(target))} (format parquet, compression zstd, compression_level 1)
    """


def _drift(con: duckdb.DuckDBPyConnection, file: str, known: tuple[str, ...]) -> tuple[str, ...]:
    rows = con.execute(
        "select distinct unnest(json_keys(_extra)) from (select distinct _extra from read_parquet(?)"
        " where _extra is not null limit 10000)",
        [file],
    ).fetchall()
    return tuple(sorted(row[0] for row in rows if row[0] not in known))


def _line_count(path: Path) -> int:
    """Lines of a file, the last one counted whether or not it ends in a line feed."""
    count, last = 0, b"\n"
    with path.open("rb") as handle:
        while block := handle.read(_BLOCK):
            count += block.count(b"\n")
            last = block[-1:]
    return count + (last != b"\n")


def _line_numbers(path: Path, rows: int) -> pl.DataFrame:
    """(ordinal from 0, line from 1) of every line that holds something. Raises `FatalError` when some are lost."""
    numbers = []
    with path.open("rb") as handle:
        numbers = [number for number, line in enumerate(handle, start=1) if line.strip()]
    if len(numbers) != rows:
        raise FatalError(
            f"{path}: {len(numbers)} lines hold something, yet {rows} were read",
            hint="report this file's shape: nothing of it was landed",
        )
    return pl.DataFrame({"ordinal": range(rows), "line": numbers}, schema={"ordinal": pl.Int64, "line": pl.Int64})


def _rejects(con: duckdb.DuckDBPyConnection, path: Path, file: str) -> tuple[Reject, ...]:
    rows = con.execute(
        "select numbers.line, _reject from read_parquet(?, file_row_number = true)"
        " join numbers on numbers.ordinal = file_row_number where _reject is not null order by 1",
        [file],
    ).fetchall()
    wanted = {line for line, _ in rows}
    raw = {}
    if wanted:
        with path.open("rb") as handle:
            raw = {n: line.decode("utf-8", "replace").rstrip("\r\n") for n, line in enumerate(handle, 1) if n in wanted}
    rejects = []
    for line, told in rows:
        column, _, reason = told.partition("\t")
        text = f"`{column}` {reason}" if column else f"line {reason}"
        rejects.append(Reject(text, raw[line], line, column or None))
    return tuple(rejects)


def _quoted(name: str) -> str:
    return '"' + name.replace('"', '""') + '"'


def _literal(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int):
        return f"cast({value} as bigint)"
    if hasattr(value, "isoformat"):
        return f"cast('{value.isoformat()}' as timestamptz)"
    return "'" + str(value).replace("'", "''") + "'"
