"""The user ID graph: resolve what changed, keep one_ids, write the map, registry and feed in one commit."""

from collections.abc import Iterator
from dataclasses import asdict
from typing import Any

import dagster as dg

from cdp.identity.rules import IdentityRules
from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.sql_assets import made
from warehouse.identity_store import resolve_identities
from warehouse.secrets import identity_secret

# Tables and views of the identity schema that others read, and what one row of each is.
IDENTITY_TABLES = {
    "identifier": "one row per identifier: type, scope, normalised value",
    "identifier_value": "one row per distinct raw value and the identifier it normalises to",
    "resolved": "raw value → the person it belongs to now, with the time it is valid for",
    "people": "one row per resolved person or shared thing",
    "alias": "every one_id ever published and where it leads now",
    "identity_map": "identifier → one_id with history (SCD2)",
    "identity_change": "the change feed: mint, merge, split, move, resurrect, retire, forget",
}
# What of the report is worth a line while it runs; all of it is in the asset's metadata.
NOTED = ("mode", "identifiers", "people", "merges", "splits", "refusals", "changes")


def identity_key(table: str) -> dg.AssetKey:
    return dg.AssetKey(["identity", table])


@dg.multi_asset(
    name="identity",
    specs=[
        dg.AssetSpec(
            identity_key(table),
            deps=[dg.AssetKey(["identity", "int_identity__evidence"])],
            group_name="identity",
            owners=["team:identity"],
            kinds={"duckdb", "python"},
            description=text,
        )
        for table, text in IDENTITY_TABLES.items()
    ],
    pool="warehouse",
)
def identity(context: dg.AssetExecutionContext, brand_home: BrandHome) -> Iterator[Any]:
    """Resolve identifiers to people; nothing is written unless every gate passes."""
    with track(context, "resolve identities") as tracker, brand_home.warehouse(context) as con:
        report = resolve_identities(
            con,
            brand_home.config("identity.yaml", IdentityRules),
            run_id=context.run.run_id,
            as_of=brand_home.as_of(context),
            secret=identity_secret(brand_home.home),
            progress=lambda stage, *_: tracker(0, phase=str(stage)),
        )
        facts = {name: value for name, value in asdict(report).items() if isinstance(value, (int, float, str))}
        tracker.note(**{name: facts[name] for name in NOTED if name in facts})
        for table in IDENTITY_TABLES:
            yield made(con, f"identity.{table}", reads=["identity.int_identity__evidence"], **facts)
