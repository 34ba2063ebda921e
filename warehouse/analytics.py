"""Analytics as the pipeline calls it.

Order: `build_ltv` (reads order facts), the model `marts.fct_person_features` (reads its predictions), `build_next_best`
(which tags may import), then `build_tags`, `build_funnels` and `build_metrics` in any order. All work as of the last
closed business day and replace their tables in one transaction each.
"""

from warehouse.analytics_common import require_person
from warehouse.analytics_funnel_reports import find_funnel, funnel_chart, run_published, stored_steps
from warehouse.analytics_funnels import FunnelReport, build_funnels, check_funnels, silent_steps
from warehouse.analytics_ltv import LtvReport, build_ltv
from warehouse.analytics_ltv_reports import ltv_chart, ltv_cohorts, ltv_models, ltv_of_channels, ltv_of_person
from warehouse.analytics_metric_reports import metric_rows, metric_texts, repurchase
from warehouse.analytics_metrics import MetricsReport, build_metrics
from warehouse.analytics_products import NextBestReport, build_next_best
from warehouse.analytics_tag_reports import (
    Explanation,
    PlanRow,
    Restatement,
    explain_tag,
    health_rows,
    plan_tags,
    replay_tags,
)
from warehouse.analytics_tags import TagReport, build_tags, check_tags, forget_tags, set_manual_tag

__all__ = [
    "Explanation",
    "FunnelReport",
    "LtvReport",
    "MetricsReport",
    "NextBestReport",
    "PlanRow",
    "Restatement",
    "TagReport",
    "build_funnels",
    "build_ltv",
    "build_metrics",
    "build_next_best",
    "build_tags",
    "check_funnels",
    "check_tags",
    "explain_tag",
    "find_funnel",
    "forget_tags",
    "funnel_chart",
    "health_rows",
    "ltv_chart",
    "ltv_cohorts",
    "ltv_models",
    "ltv_of_channels",
    "ltv_of_person",
    "metric_rows",
    "metric_texts",
    "plan_tags",
    "replay_tags",
    "repurchase",
    "require_person",
    "run_published",
    "set_manual_tag",
    "silent_steps",
    "stored_steps",
]
