"""Profiles of shop exports: which header means which platform, and how its columns become orders and order lines.

One YAML file a profile; this folder's `profiles/` holds those known, a brand adds its own beside its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator, model_validator

from cdp.config import Strict, nearest, parse
from cdp.errors import ConfigError
from connectors import canonical
from connectors.settings import ColumnRule, MappedStream

# Rows of these are as new as the order they stand beside, where they have no date of their own.
OF_ORDERS = ("order_lines", "refunds")
DATED = "updated_at"
FOLDER = Path(__file__).parent / "profiles"


class ProfileColumn(Strict):
    """Like a column rule of sources.yaml, with what exports need besides."""

    from_: str | list[str] | None = Field(
        None, alias="from", description="source column, or several: the first of them that holds something"
    )
    value: str | None = None
    join: list[str] | None = None
    with_: str = Field("-", alias="with")
    hash: list[str] | None = None
    format: str | list[str] | None = None
    map: dict[str, str] | None = None
    contains: dict[str, str] | None = Field(None, description="part of the cell -> canonical value, first match wins")
    unmasked: bool = Field(False, description="starred or encrypted cells (`1******6198`, `##…`) are empty")
    where: dict[str, str] | None = Field(
        None, description="column -> text it must hold in that row for the cell to count (sums of refunded items)"
    )
    absolute: bool = Field(False, description="an amount without its sign: what a bill takes off stands as -5.00")
    aggregate: Literal["first", "sum", "max"] = Field("first", description="over the rows of one order")


class ProfileStream(Strict):
    rows: dict[str, str] | None = Field(
        None, description="column -> regular expression of the whole cell; other rows are no rows of this stream"
    )
    columns: dict[str, ProfileColumn]

    @field_validator("columns", mode="before")
    @classmethod
    def _by_name_alone(cls, value: Any) -> Any:
        if not isinstance(value, dict):
            return value
        return {target: {"from": rule} if isinstance(rule, str) else rule for target, rule in value.items()}


class Profile(Strict):
    """One kind of export file."""

    name: str
    platform: str
    title: str
    grain: Literal["order", "item"] = Field(description="what one row is")
    requires: list[str | list[str]] = Field(
        min_length=1, description="header cells that must be there; a list means one of them"
    )
    nulls: list[str] = Field(default_factory=lambda: ["-", "--", "无", "null"])
    beside: list[str] = Field(
        default_factory=list, description="sheets of the same workbook that hold nothing we read (汇总, 说明)"
    )
    timezone: str = "Asia/Shanghai"
    streams: dict[str, ProfileStream]

    @model_validator(mode="after")
    def _known(self) -> Profile:
        faults = [fault for name, stream in self.streams.items() for fault in _faults(name, stream)]
        if faults:
            raise ValueError("; ".join(faults))
        return self

    def fits(self, names: Sequence[str]) -> bool:
        """Whether the header holds the core of this profile."""
        return not self.missing(names)

    def missing(self, names: Sequence[str]) -> list[str]:
        """What of the core the header lacks."""
        have = {_plain(name) for name in names}
        wanted = [[item] if isinstance(item, str) else item for item in self.requires]
        return [" | ".join(options) for options in wanted if not have & {_plain(option) for option in options}]

    def counts_rows(self, stream: str) -> bool:
        """Whether rules of *stream* count rows that are alike (`_occurrence`), which takes the whole table."""
        return any("_occurrence" in _inputs(rule) for rule in self.streams[stream].columns.values())

    def reads(self, names: Sequence[str]) -> list[str]:
        """The columns of a header that this profile makes something of."""
        rules = [rule for stream in self.streams.values() for rule in stream.columns.values()]
        read = {_plain(name) for rule in rules for name in _inputs(rule)}
        return [name for name in names if _plain(name) in read]

    def mapping(self, stream: str, names: Sequence[str], shop: str) -> tuple[MappedStream, Mapping[str, ProfileColumn]]:
        """The rules of *stream* for a file with header *names*. Columns that this file does not have are left out.

        `from` is the list of those of its names that are there; the mapping reads the column `source_of` names.
        """
        columns: dict[str, ProfileColumn] = {}
        given = self.streams[stream].columns
        if stream in OF_ORDERS and "orders" in self.streams and (dated := self.streams["orders"].columns.get(DATED)):
            given = {DATED: dated, **given}
        for target, rule in given.items():
            resolved = _resolved(rule, names)
            if resolved is not None:
                columns[target] = resolved
        fixed = {"platform": self.platform, "shop": shop}
        rules: dict[str, str | ColumnRule] = {target: _rule(rule) for target, rule in columns.items()}
        rules |= {name: ColumnRule.model_validate({"value": value}) for name, value in fixed.items()}
        return MappedStream.model_validate({"columns": rules, "nulls": self.nulls}), columns


def load_profiles(extra: Path | None = None) -> dict[str, Profile]:
    """All profiles by name; one of the brand's own goes before ours of the same name. Raises `ConfigError`.

    *extra*: the folder of the brand's own, which need not be there.
    """
    files = sorted(FOLDER.glob("*.yaml")) + (sorted(extra.glob("*.yaml")) if extra else [])
    profiles: dict[str, Profile] = {}
    for file in files:
        profile = parse(file.read_text(encoding="utf-8"), Profile, file=str(file))
        profiles[profile.name] = profile
    return profiles


def best(names: Sequence[str], profiles: Mapping[str, Profile]) -> Profile | None:
    """The profile whose core this header holds; of several, the one that reads most of its columns."""
    fitting = [profile for profile in profiles.values() if profile.fits(names)]
    if not fitting:
        return None
    return max(fitting, key=lambda profile: (len(profile.reads(names)), len(profile.requires), profile.name))


def report(names: Sequence[str], profiles: Mapping[str, Profile], *, file: str) -> str:
    """What the header holds, how near each profile comes, and which columns the nearest knows nothing of."""
    near = sorted(
        profiles.values(),
        key=lambda profile: (len(profile.missing(names)) / len(profile.requires), -len(profile.reads(names))),
    )[:3]
    told = "; ".join(f"`{profile.name}` lacks {', '.join(profile.missing(names))}" for profile in near)
    text = f"{file}: no profile knows this header ({len(names)} columns: {', '.join(names)}); nearest: {told}"
    if near and (foreign := [name for name in names if name not in near[0].reads(names)]):
        text += f"; unknown to `{near[0].name}`: {', '.join(foreign)}"
    return text


def profile_called(name: str, profiles: Mapping[str, Profile]) -> Profile:
    if name not in profiles:
        raise ConfigError(f"no shop profile `{name}`", hint=f"known: {', '.join(sorted(profiles))}")
    return profiles[name]


def _faults(name: str, stream: ProfileStream) -> list[str]:
    """What names of a profile's stream mean nothing."""
    if name not in canonical.STREAMS_BY_NAME:
        return [f"no stream `{name}`{nearest(name, sorted(canonical.STREAMS_BY_NAME))}"]
    known = [column.name for column in canonical.STREAMS_BY_NAME[name].columns]
    return [
        f"{name} has no column `{target}`{nearest(target, known)}" for target in stream.columns if target not in known
    ]


def _inputs(rule: ProfileColumn) -> list[str]:
    return [*options(rule), *(rule.join or []), *(rule.hash or [])]


def options(rule: ProfileColumn) -> list[str]:
    """The source columns of which the first that holds something counts."""
    return [rule.from_] if isinstance(rule.from_, str) else list(rule.from_ or [])


def source_of(rule: ProfileColumn) -> str:
    """The one column a resolved rule reads; of several, the one made of them (`联系手机 | 联系电话`)."""
    return " | ".join(options(rule))


def _plain(name: str) -> str:
    """Header cells compared without white space, quotes and marks, and with ASCII brackets: exports mix both forms."""
    plain = "".join(name.split()).replace("（", "(").replace("）", ")").partition("#")[0]
    return plain.strip("\"'=*")


def named(name: str, names: Sequence[str]) -> str | None:
    """The column of a header that is meant by *name*; None when there is none."""
    return next((there for there in names if _plain(there) == _plain(name)), None)


def _resolved(rule: ProfileColumn, names: Sequence[str]) -> ProfileColumn | None:
    """*rule* with the names as this header writes them; None when it has nothing the rule could be made from."""
    where = {named(name, names) or name: text for name, text in (rule.where or {}).items()} or None
    if rule.from_ is not None:
        found = [there for option in options(rule) if (there := named(option, names))]
        return rule.model_copy(update={"from_": found, "where": where}) if found else None
    parts = rule.join or rule.hash
    if parts is None:
        return rule
    kept = [there for part in parts if (there := part if part.startswith("_") else named(part, names))]
    return rule.model_copy(update={"join" if rule.join else "hash": kept}) if kept else None


def _rule(rule: ProfileColumn) -> ColumnRule:
    fields = {
        "from": source_of(rule) or None,
        "value": rule.value,
        "join": rule.join,
        "with": rule.with_,
        "hash": rule.hash,
        "format": rule.format,
    }
    return ColumnRule.model_validate({key: value for key, value in fields.items() if value is not None})
