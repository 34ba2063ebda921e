"""What would break: the tags and funnels that read a column, or that need a consent purpose."""

from __future__ import annotations

from collections.abc import Collection

from cdp.errors import ConfigError
from cdp.funnels.config import Funnel, FunnelsConfig
from cdp.tags.compile import lineage
from cdp.tags.config import TagsConfig
from cdp.tags.expressions import columns_of


def funnel_reads(funnel: Funnel) -> tuple[str, ...]:
    """Columns a funnel reads, as `marts.table.column`."""
    found = {"one_id", "event_name", "event_at", "event_key", *funnel.hold}
    found |= {funnel.unit} - {"person"}
    for condition in (*(step.where for step in funnel.steps), *(item.where for item in funnel.exclude)):
        found |= set(columns_of(condition)) if condition else set()
    for step in funnel.steps:
        found |= set(step.hold.values())
    reads = {f"marts.fct_journey.{name}" for name in found}
    if funnel.breakdown:
        tables = {"person": "dim_people", "first_touch": "fct_touches", "last_touch": "fct_touches"}
        reads.add(f"marts.{tables.get(funnel.breakdown.at, 'fct_journey')}.{funnel.breakdown.by}")
    return tuple(sorted(reads))


def affected(
    tags: TagsConfig,
    funnels: FunnelsConfig,
    *,
    columns: Collection[str] = (),
    purposes: Collection[str] = (),
) -> tuple[str, ...]:
    """Tag groups (`tag:id`) and funnels (`funnel:id`) that read one of *columns* (`marts.table.column`) or need one of
    *purposes*, in the order of their files."""
    gone, withdrawn = set(columns), set(purposes)
    reads = lineage(tags)
    found = [f"tag:{g.id}" for g in tags.tag_groups if gone & set(reads[g.id]) or g.consent_purpose in withdrawn]
    found += [
        f"funnel:{f.id}" for f in funnels.funnels if gone & set(funnel_reads(f)) or f.consent_purpose in withdrawn
    ]
    return tuple(found)


def require_consent(tags: TagsConfig, funnels: FunnelsConfig, *, granted: Collection[str]) -> None:
    """Raise `ConfigError` that lists every tag group and funnel whose consent purpose is not among *granted*."""
    needed = {item.consent_purpose for item in (*tags.tag_groups, *funnels.funnels) if item.consent_purpose}
    missing = sorted(needed - set(granted))
    if missing:
        users = ", ".join(affected(tags, funnels, purposes=missing))
        raise ConfigError(
            f"no consent for {', '.join(f'`{name}`' for name in missing)}, which {users} need",
            hint="declare it under `purposes` in config/tags.yaml, or take its tags and funnels out of the files",
        )
