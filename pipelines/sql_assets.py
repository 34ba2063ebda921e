"""Models as assets: one asset per SQL file, one step per layer, one connection per step."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

import dagster as dg
import duckdb

import models
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
    metadata: dict[str, Any] = {"seconds": round(run.seconds, 3), "dagster/column_lineage": _column_lineage(lineage)}
    if run.rows is not None:
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


def preview(con: duckdb.DuckDBPyConnection, relation: str, model: Model | None = None) -> dg.MetadataValue:
    """A few rows as a Markdown table; personal columns are left out."""
    personal = {column.name for column in model.columns if column.sensitivity == "personal"} if model else set()
    target = qualified_name(relation)
    names = [row[0] for row in con.execute(f"describe {target}").fetchall() if row[0] not in personal]
    listed = ", ".join(f'"{name}"' for name in names)
    rows = con.execute(f"select {listed} from {target} limit {PREVIEW_ROWS}").fetchall()
    cells = [[str(cell)[:60].replace("|", "¦") for cell in row] for row in rows]
    return dg.MetadataValue.md("\n".join(f"| {' | '.join(row)} |" for row in [names, ["---"] * len(names), *cells]))
