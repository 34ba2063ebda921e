"""`config/sources.yaml`: which sources a brand has, and how their columns map onto the canonical streams.

Every secret is a reference (`env:NAME` or `file:PATH`), never a value, so that the file can be committed and shown.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, field_validator, model_validator
from pydantic_core import PydanticCustomError

from cdp.config import Strict, nearest
from cdp.errors import ConfigError
from connectors import canonical

_DURATION = re.compile(r"^(\d+)\s*(s|m|h|d)$")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}
_SOURCE_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")


def duration(text: str) -> timedelta:
    """`30s`, `5m`, `2h` or `7d` as a timedelta; ValueError otherwise."""
    match = _DURATION.match(text.strip())
    if not match:
        raise ValueError(f"expected a duration like `30s`, `5m`, `2h` or `7d`; found `{text}`")
    return timedelta(**{_UNITS[match[2]]: int(match[1])})


def _is_reference(text: str) -> str:
    if not text.startswith(("env:", "file:")) or text.endswith(":"):
        raise PydanticCustomError("plain_secret", "a secret is given as `env:NAME` or `file:PATH`, never in plain text")
    return text


def _is_duration(text: str) -> str:
    duration(text)
    return text


Secret = Annotated[str, AfterValidator(_is_reference)]
Duration = Annotated[str, AfterValidator(_is_duration)]


def resolve(value: str, environment: Mapping[str, str], root: Path, *, where: str) -> str:
    """The text a setting stands for: `env:NAME` and `file:PATH` are looked up, anything else is itself.

    Raises `ConfigError` naming the variable or file that is missing, never a value.
    """
    if value.startswith("env:"):
        name = value.removeprefix("env:")
        if not environment.get(name):
            raise ConfigError(
                f"{where}: the environment variable `{name}` is not set", hint=f"export {name}=… before running"
            )
        return environment[name]
    if value.startswith("file:"):
        path = root / Path(value.removeprefix("file:")).expanduser()
        if not path.is_file():
            raise ConfigError(f"{where}: the secret file {path} is not there", hint="create it with mode 600")
        return path.read_text(encoding="utf-8").strip()
    return value


class ColumnRule(Strict):
    """How one canonical column is made from source columns; give one of `from`, `value`, `join` or `hash`."""

    from_: str | None = Field(None, alias="from", description="the source column")
    value: str | None = Field(None, description="the same text for every row")
    join: list[str] | None = Field(None, description="source columns joined with `with`; empty ones are left out")
    with_: str = Field("-", alias="with")
    hash: list[str] | None = Field(
        None, description="a stable id from these source columns; `_occurrence` counts equal rows of a file apart"
    )
    format: str | list[str] | None = Field(
        None, description="strptime format(s) of a time or date, or `epoch_s`, `epoch_ms`, `epoch_us`"
    )
    timezone: str | None = Field(None, description="zone of times written without one; default: the brand's")
    map: dict[str, str] | None = Field(None, description="source value -> canonical value")
    default: str | None = Field(None, description="used where the cell is empty, or `map` has no entry for it")
    scale: float | None = Field(None, description="a number is multiplied by this (0.01 turns 分 into 元)")
    split: str | None = Field(None, description="separator of a list in one cell (text_list columns)")

    @model_validator(mode="after")
    def _one_origin(self) -> ColumnRule:
        given = [name for name in ("from_", "value", "join", "hash") if getattr(self, name) is not None]
        if len(given) != 1:
            raise ValueError("give exactly one of `from`, `value`, `join`, `hash`")
        return self


class IdentifierRule(Strict):
    """One more identifier of a row, beside the well-known columns (member_id, phone, unionid, …)."""

    type: str
    scope: str = ""
    column: str = Field(description="the source column that holds the value")


class MappedStream(Strict):
    """What every mapped stream has, wherever its rows come from."""

    columns: dict[str, str | ColumnRule] = Field(
        default_factory=dict,
        description="canonical column -> source column (or a rule); a source column of the same name needs no entry",
    )
    identifiers: list[IdentifierRule] = Field(default_factory=list)
    mode: Literal["append", "versioned", "snapshot"] | None = Field(
        None, description="snapshot: each pull holds everything, what vanished is deleted; default: as the stream says"
    )
    reject_budget: float | None = Field(None, ge=0, le=1)
    nulls: list[str] = Field(default_factory=list, description="cell texts that mean empty, beside the empty text")


class FileStream(MappedStream):
    path: str | list[str] = Field(description="file, folder or glob, relative to the home")
    format: Literal["auto", "csv", "xlsx", "parquet", "jsonl"] = "auto"
    encoding: Literal["auto", "utf-8", "gb18030", "utf-16"] = "auto"
    delimiter: str | None = Field(None, description="one character, or `whitespace`; default: sniffed from the header")
    header: Literal[True] | list[str] = Field(True, description="column names, for files without a header row")
    skip_rows: int = Field(0, ge=0, description="lines above the header")
    sheet: str | int | None = None


class TableStream(MappedStream):
    table: str | None = None
    query: str | None = Field(None, description="a SELECT instead of a table; may not end in `;`")
    cursor: str | None = Field(None, description="column that grows with every change; without it each pull is full")
    key: list[str] | None = Field(None, description="source columns that identify a row; default: from `columns`")
    page: int = Field(20_000, ge=1, le=1_000_000, description="rows a page")
    deletes: bool = Field(False, description="compare keys after each pull and mark vanished rows deleted")

    @model_validator(mode="after")
    def _one_origin(self) -> TableStream:
        if (self.table is None) == (self.query is None):
            raise ValueError("give exactly one of `table` and `query`")
        return self


class Source(Strict):
    """What every source has."""

    enabled: bool = True
    lag: Duration = Field("5m", description="pulls end this long before the source's clock, for rows committed late")
    reject_budget: float | None = Field(None, ge=0, le=1, description="share of rows that may be rejected (0.01 = 1 %)")
    timezone: str | None = Field(None, description="zone of times written without one; default: the brand's")


class WeComSource(Source):
    """企业微信: staff, customers and relations, tag library, customer groups."""

    connector: Literal["wecom"]
    corpid: str
    secret: Secret
    base_url: str = "https://qyapi.weixin.qq.com"
    callback_token: Secret | None = None
    callback_aes_key: Secret | None = None
    streams: list[str] | None = Field(None, description="only these streams; default: all")
    options: dict[str, Any] = Field(default_factory=dict)


class OfficialAccountSource(Source):
    """公众号 followers."""

    connector: Literal["official_account"]
    appid: str
    secret: Secret
    base_url: str = "https://api.weixin.qq.com"


class TrackingField(Strict):
    type: str
    scope: str = ""


class TrackingSource(Source):
    """What all tracking logs share: where the lines are and what their id fields mean."""

    path: str | list[str] = Field(description="file, folder or glob of one JSON object a line (.gz too)")
    login_id_type: str = Field("member_id", description="identifier type of the login id / user id")
    login_id_scope: str = ""
    anonymous_id_type: str = "anonymous_id"
    anonymous_scope: str = Field("", description="site or app that hands out the anonymous ids")
    appid: str | None = Field(None, description="Mini Program / H5 appid of openids in this log")
    identities: dict[str, TrackingField] = Field(
        default_factory=dict, description="native id field (`$identity_mp_openid`, `traits.phone`) -> identifier"
    )


class SensorsSource(TrackingSource):
    """神策 log lines."""

    connector: Literal["sensors"]


class SegmentSource(TrackingSource):
    """Segment / RudderStack messages."""

    connector: Literal["segment"]


class ThinkingDataSource(TrackingSource):
    """数数 log lines."""

    connector: Literal["thinkingdata"]


class FileSource(Source):
    """CSV, XLSX, Parquet or JSONL files with a column mapping."""

    connector: Literal["file"]
    streams: dict[str, FileStream]


class SqliteSource(Source):
    connector: Literal["sqlite"]
    path: str = Field(description="the database file, relative to the home")
    streams: dict[str, TableStream]


class ServerDatabase(Source):
    """A database server; the account needs no right but SELECT."""

    host: str = "127.0.0.1"
    port: int | None = None
    database: str
    user: str
    password: Secret | None = None
    connect_timeout: int = Field(10, ge=1)
    read_timeout: int = Field(600, ge=1, description="seconds to wait for one page; then it is asked for again")
    ssl: bool = False
    streams: dict[str, TableStream]


class PostgresSource(ServerDatabase):
    connector: Literal["postgres"]


class MysqlSource(ServerDatabase):
    connector: Literal["mysql"]


class ShopExportSource(Source):
    """Order files exported from a public platform's back office; the header decides the profile."""

    connector: Literal["shop_export"]
    path: str | list[str]
    shop: str = Field(description="name of the shop; part of every order's key")
    sheets: list[str] | None = Field(None, description="of workbooks, these sheets; default: all that a profile knows")
    profile: str = Field("auto", description="profile name, or `auto` to go by the header")
    profiles: str = Field("config/profiles", description="folder of the brand's own profiles, relative to the home")


class ChatArchiveSource(Source):
    """Decrypted 会话内容存档 lines as events."""

    connector: Literal["chat_archive"]
    path: str | list[str]
    corpid: str
    keep_text: bool = Field(False, description="keep the words of text messages; default: only that one was sent")


SourceSettings = Annotated[
    WeComSource
    | OfficialAccountSource
    | SensorsSource
    | SegmentSource
    | ThinkingDataSource
    | FileSource
    | SqliteSource
    | PostgresSource
    | MysqlSource
    | ShopExportSource
    | ChatArchiveSource,
    Field(discriminator="connector"),
]


class SourcesConfig(Strict):
    """The whole of `config/sources.yaml`."""

    sources: dict[str, SourceSettings] = Field(default_factory=dict)

    @field_validator("sources", mode="before")
    @classmethod
    def _none_yet(cls, value: Any) -> Any:
        return {} if value is None else value

    @model_validator(mode="after")
    def _names(self) -> SourcesConfig:
        faults = [fault for name, source in self.sources.items() for fault in _faults(name, source)]
        if faults:
            path, _ = faults[0]
            text = "; ".join(message for _, message in faults)
            raise PydanticCustomError("mapping", "{text}", {"text": text, "path": path})
        return self

    def enabled(self) -> dict[str, Any]:
        """The sources that are switched on, in the file's order."""
        return {name: source for name, source in self.sources.items() if source.enabled}


Fault = tuple[list[str], str]


def _faults(name: str, source: Any) -> list[Fault]:
    """What is wrong with one source beyond its own fields, as (path in the file, message)."""
    faults: list[Fault] = []
    if not _SOURCE_NAME.match(name):
        faults.append((["sources", name], f"source `{name}`: a name is lowercase letters, digits and `_`, at most 40"))
    streams = getattr(source, "streams", None)
    if isinstance(streams, dict):
        faults += [fault for stream, mapping in streams.items() for fault in _mapping_faults(name, stream, mapping)]
    return faults


def _mapping_faults(source: str, name: str, mapping: MappedStream) -> list[Fault]:
    path = ["sources", source, "streams", name]
    if name not in canonical.STREAMS_BY_NAME:
        return [(path, f"no canonical stream `{name}`" + nearest(name, sorted(canonical.STREAMS_BY_NAME)))]
    names = [column.name for column in canonical.STREAMS_BY_NAME[name].columns]
    return [
        ([*path, "columns", column], f"{name} has no column `{column}`" + _nearest_or_some(column, names))
        for column in mapping.columns
        if column not in names
    ]


def _nearest_or_some(name: str, valid: list[str]) -> str:
    return nearest(name, valid) or f"; valid: {', '.join(valid)}"
