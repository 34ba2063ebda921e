"""The SQL layers: staging over raw, the evidence for identity, marts over both."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from functools import partial

import dagster as dg
import duckdb

from connectors import registry
from connectors.settings import SourcesConfig
from pipelines.defs.identity import IDENTITY_TABLES, identity_key
from pipelines.defs.sources import raw_key
from pipelines.resources import BrandHome
from pipelines.sql_assets import key_of, model_assets, model_graph
from warehouse.raw import register_raw
from warehouse.sync_export import register_sync
from warehouse.sync_ledger import SyncLedger

LAYERS = ("staging", "identity", "marts", "analytics")
LTV_KEY = dg.AssetKey(["marts", "fct_ltv_people"])


def model_layers(config: SourcesConfig, *, timezone: str, job: str) -> list[dg.AssetsDefinition]:
    """Steps `staging_models`, `identity_evidence`, `marts_models` and `feature_models`; see `model_assets`."""
    graph = model_graph()
    raw = _raw_relations(config)
    identity = {f"identity.{table}": [identity_key(table)] for table in IDENTITY_TABLES}
    known: Mapping[str, Sequence[dg.AssetKey]] = {**raw, **identity, "marts.fct_ltv_people": [LTV_KEY]}
    every_raw = sorted({key for keys in raw.values() for key in keys}, key=lambda key: key.to_user_string())
    layers = {layer: [name for name in graph.order if graph[name].layer == layer] for layer in LAYERS}
    make = partial(model_assets, known=known, timezone=timezone, job=job)
    return [
        make("staging_models", layers["staging"], before=_register, also_after=every_raw),
        make("identity_evidence", layers["identity"]),
        make("marts_models", layers["marts"]),
        make("feature_models", layers["analytics"]),
    ]


def _register(con: duckdb.DuckDBPyConnection, brand_home: BrandHome) -> None:
    """Name what has landed, before anything reads it."""
    config = brand_home.config("sources.yaml", SourcesConfig)
    sources = registry.raw_sources(config, timezone=brand_home.brand.timezone)
    register_raw(con, brand_home.home, sources, registry.all_streams())
    with SyncLedger(brand_home.home.sync_ledger) as ledger:
        register_sync(con, ledger)


def _raw_relations(config: SourcesConfig) -> dict[str, list[dg.AssetKey]]:
    """`raw.<family>__<stream>` -> the assets of the sources that land it."""
    relations: dict[str, list[dg.AssetKey]] = defaultdict(list)
    for name, settings in config.enabled().items():
        for stream in registry.source_streams(settings):
            relations[f"raw.{stream.family}__{stream.name}"].append(raw_key(name, stream.name))
    return relations


def evidence_key() -> dg.AssetKey:
    return key_of("identity.int_identity__evidence")
