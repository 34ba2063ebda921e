"""Taking people out of DuckDB files: rows and cells first, then the file is written anew, because a deleted row stays
readable in the free blocks of the file it was deleted from."""

from __future__ import annotations

import json
import os
import shutil
from pathlib import Path

import duckdb
import pyarrow as pa

from cdp.privacy.traces import Traces
from warehouse.connection import STORAGE_VERSION
from warehouse.erasure_files import Hits, fetch, put_in_place, quoted, sync, text
from warehouse.publish import Published

# The graph's own tables are cleaned by `identity_assertions.forget`; ours are the models that feed it, and the reasons
# that people write.
_GRAPH, _WRITTEN = "identity", "assertion"
# Tables that keep a forgotten one_id by design, so that it still resolves to what it was.
_KEEP_ONE_IDS = ("one_id_registry", "identity_change")


def erase_tables(con: duckdb.DuckDBPyConnection, catalog: str, traces: Traces, *, apply: bool) -> dict[str, Hits]:
    """Every table of *catalog* but the graph's: what it holds of these people; with *apply* it holds it no longer."""
    found = {}
    traces = traces.as_published()
    for schema, table in _tables(con, catalog):
        if schema == _GRAPH and not table.startswith("int_") and table != _WRITTEN:
            continue
        hits = _hits(con, catalog, schema, table, traces)
        if not hits.count:
            continue
        found[f"{schema}.{table}"] = hits
        if apply:
            _remove(con, f"{quoted(catalog)}.{quoted(schema)}.{quoted(table)}", hits)
    return found


def _tables(con: duckdb.DuckDBPyConnection, catalog: str) -> list[tuple[str, str]]:
    rows = con.execute(
        "select schema_name, table_name from duckdb_tables() where database_name = ? and not internal order by all",
        [catalog],
    ).fetchall()
    return [(row[0], row[1]) for row in rows]


def _hits(con: duckdb.DuckDBPyConnection, catalog: str, schema: str, table: str, traces: Traces) -> Hits:
    columns = con.execute(
        "select column_name, data_type from duckdb_columns() where database_name = ? and schema_name = ?"
        " and table_name = ? order by column_index",
        [catalog, schema, table],
    ).fetchall()
    name = f"{quoted(catalog)}.{quoted(schema)}.{quoted(table)}"
    where = traces.hit_sql([(row[0], row[1]) for row in columns], table)
    if where == "false":
        return Hits()
    whole: set[int] = set()
    cells: dict[int, dict[str, object]] = {}
    for row in fetch(con, f"select rowid as _place, * from {name} where {where}"):
        place = int(row.pop("_place"))
        if traces.judge(row, relation=table) == "whole":
            whole.add(place)
        elif changed := traces.emptied(row, relation=table):
            cells[place] = changed
    return Hits(len(whole) + len(cells), frozenset(whole), cells)


def _remove(con: duckdb.DuckDBPyConnection, name: str, hits: Hits) -> None:
    """One transaction for a table, so that a stop leaves it as it was or as it should be."""
    con.execute("begin transaction")
    try:
        for place, changed in sorted(hits.cells.items()):
            listed = ", ".join(f"{quoted(column)} = ?" for column in changed)
            con.execute(f"update {name} set {listed} where rowid = ?", [*changed.values(), place])
        if hits.whole:
            con.register("gone_places", pa.table({"place": pa.array(sorted(hits.whole), pa.int64())}))
            con.execute(f"delete from {name} where rowid in (select place from gone_places)")
            con.unregister("gone_places")
        con.execute("commit")
    except BaseException:
        con.execute("rollback")
        raise


def compact(path: Path, *, spare: Path) -> None:
    """Write a DuckDB file anew, so that it holds what its tables hold and nothing else. *spare*: a folder for the copy,
    on the same disk."""
    if not path.exists():
        return
    spare.mkdir(parents=True, exist_ok=True)
    fresh = spare / f"{path.name}.{os.getpid()}.fresh"
    _unlink(fresh)
    with duckdb.connect(":memory:") as con:
        con.execute(f"attach {text(str(path))} as held")
        con.execute("checkpoint held")
        con.execute(f"attach {text(str(fresh))} as fresh (storage_version '{STORAGE_VERSION}')")
        con.execute("copy from database held to fresh")
        con.execute("checkpoint fresh")
    fresh.chmod(path.stat().st_mode & 0o777)
    sync(fresh)
    put_in_place(fresh, path)
    _unlink(path.with_name(f"{path.name}.wal"))


def erase_version(version: Published, path: Path, traces: Traces, *, apply: bool) -> dict[str, Hits]:
    """One file of a published version: what it holds of these people; with *apply* readers get it without from their
    next connection on. Its manifest keeps its counts true."""
    found = erase_database(path, traces, apply=apply)
    if found and apply and path == version.path:
        with duckdb.connect(":memory:") as con:
            con.execute(f"attach {text(str(path))} as held (read_only)")
            counts = {
                table: int(con.execute(f"select count(*) from held.{quoted(schema)}.{quoted(table)}").fetchall()[0][0])
                for schema, table in _tables(con, "held")
            }
        _keep_manifest(version, counts, path.stat().st_size)
    return found


def erase_database(path: Path, traces: Traces, *, apply: bool) -> dict[str, Hits]:
    """A DuckDB file that nobody writes to: what its tables hold of these people; with *apply* a file without takes its
    place, and who has it open reads on in the old one."""
    with duckdb.connect(":memory:") as con:
        con.execute(f"attach {text(str(path))} as held (read_only)")
        found = erase_tables(con, "held", traces, apply=False)
    if not found or not apply:
        return found
    scratch = path.with_name(f"{path.name}.tmp")  # of an interrupted publish's kind: swept away by the next one
    _unlink(scratch)
    shutil.copyfile(path, scratch)
    scratch.chmod(path.stat().st_mode & 0o777)
    with duckdb.connect(":memory:") as con:
        con.execute(f"attach {text(str(scratch))} as held")
        erase_tables(con, "held", traces, apply=True)
        con.execute("checkpoint held")
    compact(scratch, spare=path.parent)
    put_in_place(scratch, path)
    return found


def _keep_manifest(version: Published, counts: dict[str, int], size: int) -> None:
    for name in (f"marts-{version.version}.json", "current.json"):
        manifest = version.folder / name
        if not manifest.exists():
            continue
        data = json.loads(manifest.read_text(encoding="utf-8"))
        if data["version"] != version.version:
            continue
        data["tables"] = {table: counts.get(table, rows) for table, rows in data["tables"].items()}
        data["size"] = size
        temporary = manifest.with_name(f"{name}.tmp")
        temporary.write_text(json.dumps(data, ensure_ascii=False, indent=1), encoding="utf-8")
        sync(temporary)
        put_in_place(temporary, manifest)


def table_hits(path: Path, traces: Traces) -> int:
    """How many rows of all tables of a DuckDB file hold something of these people."""
    found, traces = 0, traces.as_published()
    with duckdb.connect(":memory:") as con:
        con.execute(f"attach {text(str(path))} as held (read_only)")
        for schema, table in _tables(con, "held"):
            columns = con.execute(
                "select column_name, data_type from duckdb_columns() where database_name = 'held' and schema_name = ?"
                " and table_name = ?",
                [schema, table],
            ).fetchall()
            listed = [
                (name, kind)
                for name, kind in columns
                if not (table in _KEEP_ONE_IDS and name in ("one_id", "other_id", "current_one_id"))
            ]
            where = traces.hit_sql(listed, table)
            name = f"held.{quoted(schema)}.{quoted(table)}"
            found += int(con.execute(f"select count(*) from {name} where {where}").fetchall()[0][0])
    return found


def _unlink(path: Path) -> None:
    for name in (path, path.with_name(f"{path.name}.wal")):
        name.unlink(missing_ok=True)
