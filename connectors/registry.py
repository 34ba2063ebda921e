"""Which kinds of source exist, and how a configured one becomes a connector.

Connectors are imported when one of their kind is built, so that listing sources loads no driver and needs no secret.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from importlib import import_module
from pathlib import Path
from typing import Any

from cdp.streams import Connector, RawSource, Stream
from connectors.settings import SourcesConfig


@dataclass(frozen=True)
class Kind:
    """One kind of source. *module* has `build(context)`, *streams* names the module holding its `STREAMS`."""

    name: str
    family: str
    module: str
    streams: str
    summary: str


KINDS: dict[str, Kind] = {
    kind.name: kind
    for kind in (
        Kind("wecom", "wecom", "connectors.wecom.connector", "connectors.wecom.streams", "企业微信 over its API"),
        Kind(
            "official_account",
            "official_account",
            "connectors.official_account.connector",
            "connectors.official_account.streams",
            "公众号 followers over its API",
        ),
        Kind("sensors", "sensors", "connectors.tracking.sensors", "connectors.tracking.sensors", "神策 log lines"),
        Kind("segment", "segment", "connectors.tracking.segment", "connectors.tracking.segment", "Segment messages"),
        Kind(
            "thinkingdata",
            "thinkingdata",
            "connectors.tracking.thinkingdata",
            "connectors.tracking.thinkingdata",
            "数数 log lines",
        ),
        Kind("file", "canonical", "connectors.files.connector", "connectors.canonical", "CSV, XLSX, Parquet, JSONL"),
        Kind("sqlite", "canonical", "connectors.database.connector", "connectors.canonical", "SQLite tables"),
        Kind("postgres", "canonical", "connectors.database.connector", "connectors.canonical", "PostgreSQL tables"),
        Kind("mysql", "canonical", "connectors.database.connector", "connectors.canonical", "MySQL/MariaDB tables"),
        Kind(
            "shop_export",
            "canonical",
            "connectors.marketplaces.connector",
            "connectors.canonical",
            "order files of Taobao, JD, Douyin, Pinduoduo, Youzan, …",
        ),
        Kind(
            "chat_archive",
            "canonical",
            "connectors.chat_archive.connector",
            "connectors.canonical",
            "decrypted chat-archive lines",
        ),
    )
}


@dataclass(frozen=True)
class SourceContext:
    """Everything a connector may know of its surroundings; nothing else is read from outside.

    *root*: the home, for relative paths. *now*: the instant of this pull (UTC), which no window may pass.
    *timezone*: zone of times written without one, unless the source or column says otherwise.
    """

    name: str
    settings: Any
    root: Path
    environment: Mapping[str, str]
    now: datetime
    timezone: str


def build(
    name: str,
    settings: Any,
    *,
    root: Path,
    environment: Mapping[str, str],
    now: datetime,
    timezone: str = "Asia/Shanghai",
) -> Connector:
    """The connector of source *name*. Raises `ConfigError` when a secret it needs is not set; connects to nothing."""
    context = SourceContext(name, settings, root, environment, now, settings.timezone or timezone)
    connector: Connector = import_module(KINDS[settings.connector].module).build(context)
    return connector


def all_streams() -> tuple[Stream, ...]:
    """Every stream of every family, once, whether or not a source of it is configured."""
    modules = dict.fromkeys(kind.streams for kind in KINDS.values())
    return tuple(stream for module in modules for stream in import_module(module).STREAMS)


def source_streams(settings: Any) -> tuple[Stream, ...]:
    """The streams a configured source gives, without building it: needs no secret and touches nothing."""
    kind = KINDS[settings.connector]
    module = import_module(kind.module)
    if hasattr(module, "streams_of"):  # knows of budgets and modes stream by stream
        given: tuple[Stream, ...] = module.streams_of(settings)
        return given
    streams = module_streams(kind)
    if settings.reject_budget is None:
        return streams
    return tuple(replace(stream, reject_budget=settings.reject_budget) for stream in streams)


def module_streams(kind: Kind) -> tuple[Stream, ...]:
    """The streams a kind declares."""
    streams: tuple[Stream, ...] = import_module(kind.streams).STREAMS
    return streams


def raw_sources(config: SourcesConfig, *, timezone: str = "Asia/Shanghai") -> tuple[RawSource, ...]:
    """What SQL may know of each configured source (disabled ones too: what they landed stays)."""
    return tuple(_raw_source(name, settings, timezone) for name, settings in config.sources.items())


def _raw_source(name: str, settings: Any, timezone: str) -> RawSource:
    facts: dict[str, str] = {"timezone": settings.timezone or timezone}
    for key in ("corpid", "appid", "shop", "login_id_type", "login_id_scope", "anonymous_id_type", "anonymous_scope"):
        value = getattr(settings, key, None)
        if value is not None and not str(value).startswith(("env:", "file:")):
            facts[key] = str(value)
    fields: tuple[tuple[str, str, str], ...] = ()
    if hasattr(settings, "identities"):
        fields = import_module(KINDS[settings.connector].module).identity_fields(settings)
    return RawSource(name, settings.connector, KINDS[settings.connector].family, facts, fields)
