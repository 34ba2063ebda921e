"""Profiles of shop exports: which header means which platform, and how its columns become orders and order lines.

One YAML file a profile; this folder's `profiles/` holds those known, a brand adds its own beside its configuration.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Literal

from pydantic import Field

from cdp.config import Strict, parse
from cdp.errors import ConfigError, FatalError
from connectors.settings import ColumnRule, MappedStream

FOLDER = Path(__file__).parent / "profiles"


class ProfileColumn(Strict):
    """Like a column rule of sources.yaml, with what exports need besides."""

    from_: str | list[str] | None = Field(
        None, alias="from", description="source column, or names it had over the years"
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
    aggregate: Literal["first", "sum", "max"] = Field("first", description="over the rows of one order")


class ProfileStream(Strict):
    columns: dict[str, str | ProfileColumn]


class Profile(Strict):
    """One kind of export file."""

    name: str
    platform: str
    title: str
    grain: Literal["order", "item"] = Field(description="what one row is")
    requires: list[str | list[str]] = Field(description="header cells that must be there; a list means one of them")
    nulls: list[str] = Field(default_factory=lambda: ["-", "--", "无", "null"])
    timezone: str = "Asia/Shanghai"
    streams: dict[str, ProfileStream]

    def fits(self, names: Sequence[str]) -> bool:
        """Whether the header holds the core of this profile."""
        return not self.missing(names)

    def missing(self, names: Sequence[str]) -> list[str]:
        """What of the core the header lacks."""
        have = {_plain(name) for name in names}
        wanted = [[item] if isinstance(item, str) else item for item in self.requires]
        return [" | ".join(options) for options in wanted if not have & {_plain(option) for option in options}]

    def mapping(self, stream: str, names: Sequence[str], shop: str) -> tuple[MappedStream, Mapping[str, ProfileColumn]]:
        """The rules of *stream* for a file with header *names*: of names that changed over the years, the one there is.

        Columns that this file does not have are left out.
        """
        columns: dict[str, ProfileColumn] = {}
        for target, given in self.streams[stream].columns.items():
            rule = given if isinstance(given, ProfileColumn) else ProfileColumn.model_validate({"from": given})
            resolved = _resolved(rule, names)
            if resolved is not None:
                columns[target] = resolved
        fixed = {"platform": self.platform, "shop": shop}
        rules: dict[str, str | ColumnRule] = {target: _rule(rule) for target, rule in columns.items()}
        rules |= {name: ColumnRule.model_validate({"value": value}) for name, value in fixed.items()}
        return MappedStream.model_validate({"columns": rules, "nulls": self.nulls}), columns


def load_profiles(extra: Path | None = None) -> dict[str, Profile]:
    """All profiles by name; one of the brand's own goes before ours of the same name. Raises `ConfigError`."""
    files = sorted(FOLDER.glob("*.yaml")) + (sorted(extra.glob("*.yaml")) if extra else [])
    profiles: dict[str, Profile] = {}
    for file in files:
        profile = parse(file.read_text(encoding="utf-8"), Profile, file=str(file))
        profiles[profile.name] = profile
    return profiles


def recognise(names: Sequence[str], profiles: Mapping[str, Profile], *, file: str) -> Profile:
    """The profile whose core this header holds; of several, the one that asks for most.

    Raises `FatalError` with a report that helps to write a profile when none fits.
    """
    fitting = [profile for profile in profiles.values() if profile.fits(names)]
    if fitting:
        return max(fitting, key=lambda profile: (len(profile.requires), profile.name))
    raise FatalError(report(names, profiles, file=file), hint="write a profile: docs/guides/bring-your-own-data.md")


def report(names: Sequence[str], profiles: Mapping[str, Profile], *, file: str) -> str:
    """What the header holds, and how near each profile comes."""
    near = sorted(profiles.values(), key=lambda profile: (len(profile.missing(names)), profile.name))[:3]
    told = "; ".join(f"`{profile.name}` lacks {', '.join(profile.missing(names))}" for profile in near)
    return f"{file}: no profile knows this header ({len(names)} columns: {', '.join(names)}); nearest: {told}"


def profile_called(name: str, profiles: Mapping[str, Profile]) -> Profile:
    if name not in profiles:
        raise ConfigError(f"no shop profile `{name}`", hint=f"known: {', '.join(sorted(profiles))}")
    return profiles[name]


def _plain(name: str) -> str:
    """Header cells compared without white space and with ASCII brackets: exports mix both forms."""
    return "".join(name.split()).replace("（", "(").replace("）", ")").partition("#")[0]


def _resolved(rule: ProfileColumn, names: Sequence[str]) -> ProfileColumn | None:
    by_plain = {_plain(name): name for name in reversed(names)}
    if rule.from_ is not None:
        options = [rule.from_] if isinstance(rule.from_, str) else rule.from_
        found = next((by_plain[_plain(option)] for option in options if _plain(option) in by_plain), None)
        return rule.model_copy(update={"from_": found}) if found else None
    parts = rule.join or rule.hash
    if parts is None:
        return rule
    there = [part if part.startswith("_") else by_plain.get(_plain(part)) for part in parts]
    kept = [part for part in there if part]
    return rule.model_copy(update={"join" if rule.join else "hash": kept}) if kept else None


def _rule(rule: ProfileColumn) -> ColumnRule:
    fields = {
        "from": rule.from_ if isinstance(rule.from_, str) else None,
        "value": rule.value,
        "join": rule.join,
        "with": rule.with_,
        "hash": rule.hash,
        "format": rule.format,
    }
    return ColumnRule.model_validate({key: value for key, value in fields.items() if value is not None})
