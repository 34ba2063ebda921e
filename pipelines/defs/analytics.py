"""Lifetime value, tags with history, funnels and business metrics, written into the marts file."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import dagster as dg
from pydantic import BaseModel

from cdp.funnels.config import FunnelsConfig
from cdp.metrics.config import MetricsConfig
from cdp.sync.config import SyncConfig
from cdp.tags.config import TagsConfig
from pipelines.progress import track
from pipelines.resources import BrandHome
from pipelines.sql_assets import made
from warehouse.analytics import build_funnels, build_ltv, build_metrics, build_next_best, build_tags

Build = Callable[..., Any]

FEATURES = "fct_person_features"
ORDERS = "fct_orders"

# Step -> (what it builds with, its configuration, what must be there first, tables it writes and what one row is).
STEPS: dict[str, tuple[Build, str, type[BaseModel], Sequence[str], Mapping[str, str]]] = {
    "lifetime_value": (
        build_ltv,
        "metrics.yaml",
        MetricsConfig,
        [ORDERS, "fct_refunds", "dim_people"],
        {
            "fct_ltv_people": "one row per buyer: history net of refunds, prediction, grade",
            "dim_ltv_models": "one row per fitted model: parameters, hold-out report, publish flag",
            "fct_ltv_cohorts": "one row per cohort and month since acquisition: cumulative net revenue",
            "fct_ltv_channels": "one row per channel of origin: value so far, prediction, cost, payback month",
        },
    ),
    "next_best_product": (
        build_next_best,
        "metrics.yaml",
        MetricsConfig,
        ["fct_order_lines", "fct_events", "dim_products"],
        {
            "fct_next_best_product": "one row per person and rank: products likely to be bought next",
            "fct_next_best_quality": "one row: hit rate on a time split, beside popularity's",
        },
    ),
    "tags": (
        build_tags,
        "tags.yaml",
        TagsConfig,
        [FEATURES, "fct_next_best_product"],
        {
            "fct_tags_current": "one row per person, tag group and value",
            "fct_tag_history": "one row per person, tag group, value and span it held (SCD2)",
            "dim_tags": "one row per tag value: label, owner, holders",
            "fct_tag_group_runs": "one row per run and tag group: published or kept, entering, leaving, thresholds",
            "fct_tag_health": "one row per run, tag group and bound: what was measured before publishing",
            "fct_tag_manual": "one row per tag set by hand",
        },
    ),
    "funnels": (
        build_funnels,
        "funnels.yaml",
        FunnelsConfig,
        ["fct_journey", "fct_referrals", FEATURES],
        {
            "fct_funnel_steps": "one row per funnel, bucket, breakdown and step: reached, rates, matured rates",
            "fct_funnel_people": "one row per funnel and person: level, event ids, timings",
        },
    ),
    "metrics": (
        build_metrics,
        "metrics.yaml",
        MetricsConfig,
        [FEATURES, "fct_tag_history", "fct_ltv_people", "fct_touches", "fct_referrals", "fct_group_memberships"],
        {
            "fct_gmv_identity": "one row per period: the factors of net sales and what each explains of the change",
            "fct_first_order_conversion": "one row per period and window: new people and first orders",
            "fct_attribution_credit": "one row per order, model and touch: credit as a fraction, money to the cent",
            "fct_attribution_channels": "one row per model and channel: credited orders, incremental orders, effects",
            "dim_attribution_models": "one row per attribution model: settings, conversion probability",
            "fct_uplift": "one row per declared uplift and bin of its score: lift, gain, Qini, area",
            "fct_referral_edges": "one row per invitation: credited or why not, generation",
            "fct_referral_generations": "one row per campaign and generation: members, invitations, joined, K",
            "fct_referral_campaigns": "one row per campaign: seeds, reach, K, cycle time, ceiling",
            "fct_repurchase": "one row per named repurchase definition, variant and period",
            "fct_rfm": "one row per person with an order: recency, frequency, money and their scores",
            "fct_rfm_thresholds": "one row per run and dimension: the cuts of its scores",
            "fct_cohort_retention": "one row per kind of cohort, month of joining and month since: retained people",
            "fct_stage_flow": "one row per stage group, run and pair of stages: people who went that way",
            "fct_stage_stock": "one row per stage group, run and stage: stock before, in, out, stock",
            "fct_community_roles": "one row per group and member: owner, admin, staff, core, occasional or silent",
            "fct_community_activity": "one row per group and day: members, joined, active",
        },
    ),
}


def analytics_assets() -> list[dg.AssetsDefinition]:
    """Steps `lifetime_value`, `next_best_product`, `tags`, `funnels` and `metrics`."""
    return [_step(name, *entry) for name, entry in STEPS.items()]


def marts_key(table: str) -> dg.AssetKey:
    return dg.AssetKey(["marts", table])


def _step(
    name: str, build: Build, file: str, model: type[BaseModel], needs: Sequence[str], tables: Mapping[str, str]
) -> dg.AssetsDefinition:
    @dg.multi_asset(
        name=name,
        specs=[
            dg.AssetSpec(
                marts_key(table),
                deps=[marts_key(needed) for needed in needs],
                group_name="analytics",
                owners=["team:analytics"],
                kinds={"duckdb", "python"},
                description=text,
                metadata={"configuration": f"config/{file}"},
            )
            for table, text in tables.items()
        ],
        pool="warehouse",
    )
    def step(context: dg.AssetExecutionContext, brand_home: BrandHome) -> Any:
        with track(context, name.replace("_", " ")) as tracker, brand_home.warehouse(context) as con:
            brand = brand_home.brand
            more: dict[str, Any] = {}
            if name == "funnels":
                more["purposes"] = brand_home.config("tags.yaml", TagsConfig).purposes
            elif name == "metrics":
                more["control"] = brand_home.config("sync.yaml", SyncConfig).control
            build(con, brand_home.config(file, model), as_of=brand_home.as_of(context), timezone=brand.timezone, **more)
            reads = [f"marts.{needed}" for needed in needs]
            for table in tables:
                result = made(con, f"marts.{table}", reads=reads)
                tracker.note(**{table: (result.metadata or {})["dagster/row_count"]})
                yield result

    return step
