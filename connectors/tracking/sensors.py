"""神策 (Sensors Analytics) log lines, as the official SDKs' logging consumers write them.

One JSON object a line: `type` is track, track_signup, track_id_bind, track_id_unbind, profile_* or item_*; `time` in
milliseconds; `identities` from IDM 3 on. A line without an id of its own is known by its content, so the same line
delivered twice lands once.
"""

from __future__ import annotations

from cdp.streams import Stream
from connectors.canonical import columns
from connectors.registry import SourceContext
from connectors.settings import SensorsSource
from connectors.tracking.lines import LinesConnector

RECORDS = Stream(
    "sensors",
    "records",
    ("record_key",),
    columns(
        """record_key!, type!, event, time:int!, distinct_id, original_id, login_id, anonymous_id, identities:json,
        properties:json, lib:json, project, recv_time:int"""
    ),
    mode="append",
    description="one record of any type; time and recv_time in milliseconds",
)
STREAMS = (RECORDS,)
# The HTTP collector writes `_record_key`, because a line it got twice differs in `recv_time`.
FIELDS = {column.name: column.name for column in RECORDS.columns} | {"record_key": "_record_key|_line"}
KNOWN = (
    "_track_id",
    "_flush_time",
    "_device_time",
    "time_free",
    "item_type",
    "item_id",
    "map_id",
    "user_id",
    "ver",
    "extractor",
    "dtk",
    "_hybrid_h5",
)
_ANONYMOUS = ("anonymous_id", "distinct_id", "$identity_anonymous_id", "$identity_cookie_id")
_DEVICES = (
    "$identity_android_id",
    "$identity_android_uuid",
    "$identity_idfv",
    "$identity_ios_uuid",
    "$identity_harmonyos_uuid",
    "$identity_mp_id",
)


def build(context: SourceContext) -> LinesConnector:
    return LinesConnector(context, RECORDS, FIELDS, KNOWN)


def identity_fields(settings: SensorsSource) -> tuple[tuple[str, str, str], ...]:
    """(field, identifier type, scope). `distinct_id` stands here for what it is before login."""
    fields = dict.fromkeys(_ANONYMOUS, (settings.anonymous_id_type, settings.anonymous_scope))
    fields |= dict.fromkeys(("login_id", "$identity_login_id"), (settings.login_id_type, settings.login_id_scope))
    fields |= dict.fromkeys(_DEVICES, ("device_id", settings.anonymous_scope))
    fields |= {
        "$identity_mobile": ("phone", ""),
        "$identity_email": ("email", ""),
        "$identity_mp_unionid": ("unionid", ""),
    }
    if settings.appid:
        fields["$identity_mp_openid"] = ("openid", settings.appid)
    fields |= {name: (field.type, field.scope) for name, field in settings.identities.items()}
    return tuple((name, kind, scope) for name, (kind, scope) in sorted(fields.items()))
