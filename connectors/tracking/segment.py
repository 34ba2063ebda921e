"""Segment / RudderStack messages: identify, track, page, screen, group, alias; one a line, or the batches SDKs post.

De-duplicated on `messageId`; a message without one is known by its content.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from cdp.streams import Stream
from connectors.canonical import columns
from connectors.registry import SourceContext
from connectors.settings import SegmentSource
from connectors.tracking.lines import LinesConnector

MESSAGES = Stream(
    "segment",
    "messages",
    ("message_id",),
    columns(
        """message_id, type!, event, name, anonymous_id, user_id, previous_id, group_id, timestamp, original_timestamp,
        sent_at, received_at, properties:json, traits:json, context:json, integrations:json"""
    ),
    mode="append",
    description="one message; times are text as sent",
)
STREAMS = (MESSAGES,)
FIELDS = {
    "message_id": "messageId|_line",
    "type": "type",
    "event": "event",
    "name": "name",
    "anonymous_id": "anonymousId",
    "user_id": "userId",
    "previous_id": "previousId",
    "group_id": "groupId",
    "timestamp": "timestamp",
    "original_timestamp": "originalTimestamp",
    "sent_at": "sentAt",
    "received_at": "receivedAt",
    "properties": "properties",
    "traits": "traits",
    "context": "context",
    "integrations": "integrations",
}
KNOWN = ("channel", "writeKey", "version", "category", "options", "request_ip", "rudderId", "_metadata")


def build(context: SourceContext) -> LinesConnector:
    return LinesConnector(context, MESSAGES, FIELDS, KNOWN, expand)


def expand(payload: Mapping[str, Any]) -> list[Any]:
    """The messages of a posted batch, each with what the batch says for all; [] where the line is one message.

    What is no message comes out as it is, for landing to reject.
    """
    batch = payload.get("batch")
    if not isinstance(batch, list):
        return []
    shared = {key: payload[key] for key in ("sentAt", "receivedAt", "context", "integrations") if key in payload}
    return [{**shared, **message} if isinstance(message, dict) else message for message in batch]


def identity_fields(settings: SegmentSource) -> tuple[tuple[str, str, str], ...]:
    """(field, identifier type, scope); `traits.` and `context.` fields name the place inside the message."""
    login = (settings.login_id_type, settings.login_id_scope)
    fields = {
        "user_id": login,
        "anonymous_id": (settings.anonymous_id_type, settings.anonymous_scope),
        "traits.phone": ("phone", ""),
        "traits.email": ("email", ""),
        "traits.unionid": ("unionid", ""),
        "context.device.id": ("device_id", settings.anonymous_scope),
    }
    if settings.appid:
        fields["traits.openid"] = ("openid", settings.appid)
    fields |= {name: (field.type, field.scope) for name, field in settings.identities.items()}
    return tuple((name, kind, scope) for name, (kind, scope) in sorted(fields.items()))
