"""A published version with everything the report reads, made by the project's own builders from a small brand."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from cdp.config import parse
from cdp.funnels.config import FunnelsConfig
from cdp.metrics.config import MetricsConfig
from cdp.tags.config import TagsConfig
from tests.analytics.brand import AS_OF, COLUMNS, ROOT, ZONE, build_marts, run_model
from tests.operations.homes import land_batches
from warehouse.analytics import build_funnels, build_ltv, build_metrics, build_tags
from warehouse.connection import open_warehouse
from warehouse.expectations import CheckResult
from warehouse.home import Home
from warehouse.publish import publish

CHECKS = [
    CheckResult("one_id__unique", "marts.dim_people", True, "error", "0 rows", (), "each person once"),
    CheckResult("city__not_null", "marts.dim_people", False, "warn", "12 of 400 rows", ("138****8000",), "city known"),
]


def make_home(root: Path) -> Home:
    """A home with its brand's configuration and nothing else."""
    home = Home(root)
    home.config.mkdir(parents=True)
    (home.config / "cdp.yaml").write_text("name: 山茶集 <&>\n", encoding="utf-8")
    return home


def publish_brand(home: Home, *, people: int, seed: int = 7) -> Path:
    """Build the marts of a generated brand, run every analytics step on two days, and publish."""
    with open_warehouse(home, as_of=AS_OF, timezone=ZONE) as con:
        for name, columns in COLUMNS.items():
            con.execute(f"create or replace table marts_db.marts.{name} ({columns})")
        build_marts(con, people=people, seed=seed)
        con.execute("update marts_db.marts.dim_people set identifier_count = 3, is_friend = true, group_count = 1")
        con.execute("update marts_db.marts.dim_people set identifier_types = ['unionid', 'openid', 'phone']")
        metrics = _config("metrics.yaml", MetricsConfig)
        for as_of in (AS_OF - timedelta(days=1), AS_OF):
            con.execute("set variable as_of = ?::timestamptz", [as_of])
            build_ltv(con, metrics, as_of=as_of, timezone=ZONE)
            run_model(con, "fct_person_features")
            build_tags(con, _config("tags.yaml", TagsConfig), as_of=as_of, timezone=ZONE)
        build_funnels(con, _config("funnels.yaml", FunnelsConfig), as_of=AS_OF, timezone=ZONE)
        build_metrics(con, metrics, as_of=AS_OF, timezone=ZONE)
        published = publish(home, con, version="20260302", checks=CHECKS, now=AS_OF)
    for source, stream in (("shop", "orders"), ("wecom", "relations"), ("mini_program", "records")):
        land_batches(home, source, stream, [people] * 5, until=AS_OF)
    return published.path


def _config(name: str, model: type) -> object:
    return parse((ROOT / "config" / name).read_text(encoding="utf-8"), model, file=name)
