"""数数 (ThinkingData) log lines: `#`-prefixed system fields and `properties`.

`#time` is wall time without a zone; `#zone_offset` in properties or the source's time zone gives the instant.
"""

from __future__ import annotations

from cdp.streams import Stream
from connectors.canonical import columns
from connectors.registry import SourceContext
from connectors.settings import ThinkingDataSource
from connectors.tracking.lines import LinesConnector

RECORDS = Stream(
    "thinkingdata",
    "records",
    ("record_key",),
    columns(
        """record_key, type!, event_name, event_id, time!, account_id, distinct_id, first_check_id, ip,
        properties:json, app_id"""
    ),
    mode="append",
    description="one record of any type; time is text as sent",
)
STREAMS = (RECORDS,)
FIELDS = {
    "record_key": "#uuid|_line",
    "type": "#type",
    "event_name": "#event_name",
    "event_id": "#event_id",
    "time": "#time",
    "account_id": "#account_id",
    "distinct_id": "#distinct_id",
    "first_check_id": "#first_check_id",
    "ip": "#ip",
    "properties": "properties",
    "app_id": "#app_id",
}
KNOWN = ("#flush_time", "#device_id", "#server_time", "#transaction_property")


def build(context: SourceContext) -> LinesConnector:
    return LinesConnector(context, RECORDS, FIELDS, KNOWN)


def identity_fields(settings: ThinkingDataSource) -> tuple[tuple[str, str, str], ...]:
    """(field, identifier type, scope)."""
    fields = {
        "account_id": (settings.login_id_type, settings.login_id_scope),
        "distinct_id": (settings.anonymous_id_type, settings.anonymous_scope),
        "properties.#device_id": ("device_id", settings.anonymous_scope),
    }
    fields |= {name: (field.type, field.scope) for name, field in settings.identities.items()}
    return tuple((name, kind, scope) for name, (kind, scope) in sorted(fields.items()))
