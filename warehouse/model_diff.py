"""What a changed model would change: its rows and columns now, against those that readers have."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import duckdb

from cdp.errors import ConfigError, FatalError
from cdp.privacy.masking import mask_sql, mask_text
from warehouse.connection import MARTS_SCHEMA
from warehouse.models import Model, executable_sql
from warehouse.touched_people import touch_nobody

_PUBLISHED = "diff_published"
_NEW = "temp.diff_new"
_SAMPLE = 5


@dataclass(frozen=True)
class ModelDiff:
    """Model *name* against the published version. Counts are rows, matched by the model's grain.

    *changed*: column -> rows of both whose value differs. *sample*: keys of changed or one-sided rows, masked.
    """

    name: str
    added_columns: tuple[str, ...] = ()
    removed_columns: tuple[str, ...] = ()
    retyped_columns: Mapping[str, tuple[str, str]] = field(default_factory=dict)
    rows_before: int = 0
    rows_after: int = 0
    only_before: int = 0
    only_after: int = 0
    changed_rows: int = 0
    changed: Mapping[str, int] = field(default_factory=dict)
    sample: tuple[str, ...] = ()

    @property
    def same(self) -> bool:
        """Nothing a reader could see differs."""
        return (
            not (self.added_columns or self.removed_columns or self.retyped_columns or self.changed_rows)
            and self.only_before == self.only_after == 0
        )


def diff_model(con: duckdb.DuckDBPyConnection, model: Model, published: Path) -> ModelDiff:
    """Run the query of *model* on *con*, keep nothing of it, and compare with the table in the file *published*.

    Raises `ConfigError` for a model that is not published, `FatalError` when the query fails.
    """
    if model.schema != MARTS_SCHEMA:
        raise ConfigError(f"`{model.name}` is not published", hint="models of the schema `marts` are")
    con.execute(f"attach '{published}' as {_PUBLISHED} (read_only)")
    touch_nobody(con)
    try:
        con.execute(f"create or replace temp table diff_new as {_query(model)}")
        return _compare(con, model)
    except duckdb.Error as error:
        raise FatalError(f"{model.path}: model `{model.name}` failed: {str(error).splitlines()[0]}") from error
    finally:
        con.execute(f"drop table if exists {_NEW}")
        con.execute(f"detach {_PUBLISHED}")


def _query(model: Model) -> str:
    if not model.masked:
        return executable_sql(model)
    masks = ", ".join(f'{mask_sql(chr(34) + name + chr(34), mask)} as "{name}"' for name, mask in model.masked.items())
    return f"select * replace ({masks}) from ({executable_sql(model)}\n)"


def _compare(con: duckdb.DuckDBPyConnection, model: Model) -> ModelDiff:
    old_table = f'{_PUBLISHED}.{MARTS_SCHEMA}."{model.relation}"'
    after = _types(con, _NEW)
    rows_after = _count(con, _NEW)
    if not _exists(con, model):
        return ModelDiff(model.name, added_columns=tuple(after), rows_after=rows_after, only_after=rows_after)
    before = _types(con, old_table)
    shared = [name for name in after if name in before and name not in model.grain]
    matched = all(name in before for name in model.grain)
    changes: dict[str, int] = {}
    only_before = only_after = changed_rows = 0
    sample: tuple[str, ...] = ()
    if matched:
        joined = _joined(model, old_table)
        differs = [f'old."{name}" is distinct from new."{name}"' for name in shared]
        both = "old_there and new_there"
        either = " or ".join(differs) or "false"
        counts = con.execute(
            f"select count(*) filter (where new_there is null), count(*) filter (where old_there is null), "
            f"count(*) filter (where {both} and ({either}))"
            + "".join(f", count(*) filter (where {both} and {text})" for text in differs)
            + f" from {joined}"
        ).fetchall()[0]
        only_before, only_after, changed_rows = counts[:3]
        changes = {name: count for name, count in zip(shared, counts[3:], strict=True) if count}
        keys = ", ".join(f'coalesce(old."{name}", new."{name}") as "{name}"' for name in model.grain)
        rows = con.execute(
            f"select {keys} from {joined} where new_there is null or old_there is null or {either} "
            f"order by all limit {_SAMPLE}"
        ).fetchall()
        sample = tuple(" | ".join(mask_text(value) for value in row) for row in rows)
    return ModelDiff(
        name=model.name,
        added_columns=tuple(name for name in after if name not in before),
        removed_columns=tuple(name for name in before if name not in after),
        retyped_columns={n: (before[n], after[n]) for n in after if n in before and before[n] != after[n]},
        rows_before=_count(con, old_table),
        rows_after=rows_after,
        only_before=only_before,
        only_after=only_after,
        changed_rows=changed_rows,
        changed=changes,
        sample=sample,
    )


def _joined(model: Model, old_table: str) -> str:
    on = " and ".join(f'old."{name}" is not distinct from new."{name}"' for name in model.grain)
    return (
        f"(select *, true as old_there from {old_table}) as old "
        f"full join (select *, true as new_there from {_NEW}) as new on {on}"
    )


def _exists(con: duckdb.DuckDBPyConnection, model: Model) -> bool:
    return bool(
        con.execute(
            "select 1 from information_schema.tables where table_catalog = ? and table_schema = ? and table_name = ?",
            [_PUBLISHED, MARTS_SCHEMA, model.relation],
        ).fetchall()
    )


def _types(con: duckdb.DuckDBPyConnection, table: str) -> dict[str, str]:
    return {row[0]: row[1] for row in con.execute(f"describe {table}").fetchall()}


def _count(con: duckdb.DuckDBPyConnection, table: str) -> int:
    return int(con.execute(f"select count(*) from {table}").fetchall()[0][0])
