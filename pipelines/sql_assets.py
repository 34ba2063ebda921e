"""Models as assets: one asset per SQL file, one step per layer, one connection per step."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

import models
from cdp.privacy.traces import FIELDS, NAME_FIELDS
from pipelines.days import asked_days, brand_days
from pipelines.progress import track
from pipelines.resources import BrandHome
from warehouse.models import (
    Model,
    ModelGraph,
    ModelRun,
    check_models,
    column_lineage,
    load_models,
    qualified_name,
    run_models,
)

PREVIEW_ROWS = 5
# Columns that say who somebody is, whatever a model says of them.
_PERSONAL = {*FIELDS, *NAME_FIELDS, "value", "value_norm"}
Before = Callable[[duckdb.DuckDBPyConnection, BrandHome], None]


@cache
def model_graph() -> ModelGraph:
    """The project's models, read once a process."""
    return load_models(Path(models.__file__).parent)


def key_of(relation: str) -> dg.AssetKey:
    """Asset key of `schema.relation`: the words one types in SQL."""
    return dg.AssetKey(relation.split("."))


def model_assets(
    step: str,
    names: Sequence[str],
    *,
    known: Mapping[str, Sequence[dg.AssetKey]],
    timezone: str,
    job: str,
    before: Before | None = None,
    also_after: Iterable[dg.AssetKey] = (),
) -> dg.AssetsDefinition:
    """A step that makes the models *names*. *known*: relations that no model makes -> the assets that give them.

    *before* runs on the same connection first. *also_after*: assets the step must wait for without reading them. Models
    with a `partition:` day are partitioned by the brand's days (*timezone*): a run of *job* makes what has changed, and
    any other run (a backfill) makes the days it was asked for again and nothing else of them.
    """
    graph = model_graph()
    extra = list(also_after)

    @dg.multi_asset(
        name=step,
        specs=[_spec(graph, graph[name], known, extra, timezone) for name in names],
        pool="warehouse",
        can_subset=True,
        backfill_policy=dg.BackfillPolicy.single_run(),
    )
    def build(context: dg.AssetExecutionContext, brand_home: BrandHome) -> Iterator[dg.MaterializeResult[Any]]:
        chosen = [name for name in names if key_of(name) in context.selected_asset_keys]
        backfill = context.run.job_name != job and any(graph[name].partition for name in chosen)
        with track(context, step.replace("_", " ")) as tracker, brand_home.warehouse(context) as con:
            if before:
                before(con, brand_home)
            schema = check_models(graph, con)
            done: list[ModelRun] = []

            def one_done(run: ModelRun) -> None:
                done.append(run)
                tracker(len(done), len(chosen), run.name)

            days = asked_days(context) if backfill else None
            run_models(con, graph, chosen, one_done, days=days, full=brand_home.full(context))
            tracker.note(models=len(done), rows=sum(run.rows or 0 for run in done))
            for run in done:
                yield _result(con, graph, run, column_lineage(graph, run.name, schema))

    return build


def _spec(
    graph: ModelGraph,
    model: Model,
    known: Mapping[str, Sequence[dg.AssetKey]],
    extra: Sequence[dg.AssetKey],
    timezone: str,
) -> dg.AssetSpec:
    deps: set[dg.AssetKey] = set(extra)
    for name in model.depends:
        deps |= {key_of(name)} if name in graph.models else set(known.get(name, ()))
    columns = [dg.TableColumn(column.name, description=column.description) for column in model.columns]
    ordered: list[dg.AssetKey] = sorted(deps, key=lambda key: key.to_user_string())
    return dg.AssetSpec(
        key_of(model.name),
        deps=ordered,
        group_name=model.layer,
        owners=[f"team:{model.owner}"],
        kinds={"duckdb", "sql", "view" if model.materialized == "view" else "table"},
        description=f"{model.description}\n\ngrain: {', '.join(model.grain)}",
        metadata={"dagster/column_schema": dg.TableSchema(columns=columns)},
        partitions_def=brand_days(timezone) if model.partition else None,
    )


def _result(
    con: duckdb.DuckDBPyConnection, graph: ModelGraph, run: ModelRun, lineage: Mapping[str, Sequence[str]]
) -> dg.MaterializeResult[Any]:
    metadata: dict[str, Any] = {
        "seconds": round(run.seconds, 3),
        "dagster/column_lineage": _column_lineage(lineage),
        "dagster/column_schema": _live_columns(con, run.name, graph[run.name]),
    }
    if run.rows is not None:  # a view holds no rows, and to count them would compute it
        metadata |= {"dagster/row_count": run.rows, "preview": preview(con, run.name, graph[run.name])}
    return dg.MaterializeResult(asset_key=key_of(run.name), metadata=metadata)


def _column_lineage(lineage: Mapping[str, Sequence[str]]) -> dg.TableColumnLineage:
    return dg.TableColumnLineage(
        {
            column: [
                dg.TableColumnDep(dg.AssetKey(source.rsplit(".", 1)[0].split(".")), source.rsplit(".", 1)[1])
                for source in sources
            ]
            for column, sources in lineage.items()
        }
    )


def made(
    con: duckdb.DuckDBPyConnection, relation: str, *, reads: Iterable[str] = (), **facts: Any
) -> dg.MaterializeResult[Any]:
    """What a table that code makes tells of itself: rows, columns, a preview, and *facts*. *reads*: the tables it is
    made from; an id or key that one of them has too comes from there, everything else is computed."""
    rows = con.execute(f"select count(*) from {qualified_name(relation)}").fetchall()[0][0]
    columns = [name for name, _, _ in _described(con, relation)]
    lineage = {
        column: [f"{table}.{column}" for table in reads if column in {name for name, _, _ in _described(con, table)}]
        for column in columns
        if column.endswith(("_id", "_key"))
    }
    return dg.MaterializeResult(
        asset_key=key_of(relation),
        metadata={
            "dagster/row_count": rows,
            "dagster/column_schema": _live_columns(con, relation),
            "dagster/column_lineage": _column_lineage({column: found for column, found in lineage.items() if found}),
            "preview": preview(con, relation),
            **facts,
        },
    )


def _live_columns(con: duckdb.DuckDBPyConnection, relation: str, model: Model | None = None) -> dg.TableSchema:
    """Columns of a table or view as they are in the database: type, and meaning by model, by comment, or by name."""
    words = {column.name: column.description for column in model.columns} if model else {}
    known = model_graph().words
    return dg.TableSchema(
        [
            dg.TableColumn(name, kind, description=words.get(name) or comment or known.get(name))
            for name, kind, comment in _described(con, relation)
        ]
    )


def _described(con: duckdb.DuckDBPyConnection, relation: str) -> list[tuple[str, str, str | None]]:
    """(name, type, comment) of the columns of `schema.relation`."""
    schema, _, table = relation.partition(".")
    return con.execute(
        "select column_name, data_type, comment from duckdb_columns() where schema_name = ? and table_name = ?"
        " and not internal order by column_index",
        [schema, table],
    ).fetchall()


def preview(con: duckdb.DuckDBPyConnection, relation: str, model: Model | None = None) -> dg.MetadataValue:
    """A few rows as a Markdown table, without columns that say who somebody is."""
    personal = {column.name for column in model.columns if column.sensitivity == "personal"} if model else set()
    names = [name for name, _, _ in _described(con, relation) if name not in personal | _PERSONAL]
    listed = ", ".join(f'"{name}"' for name in names)
    rows = con.execute(f"select {listed} from {qualified_name(relation)} limit {PREVIEW_ROWS}").fetchall()
    cells = [[_cell(cell) for cell in row] for row in rows]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *cells]))


def _cell(value: Any) -> str:
    text = "" if value is None else str(value)
    return " ".join(text[:60].replace("|", "¦").split())
