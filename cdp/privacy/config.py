"""`config/privacy.yaml`: how long what is kept."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from cdp.config import Strict
from cdp.metrics.durations import Duration


class Retention(Strict):
    """Rows of one stream or table may grow as old as *keep*, measured by *by*; older ones are removed.

    *stream*: `family.stream` of raw, of all sources or of *source*; every version of a row goes when its newest is too
    old. *table*: `schema.table` of the warehouse. *files*: a folder of the home (`logs`, `inbox`, `reports`,
    `backups`, `data/plans`, `data/collected`), by when a file was last written.
    *rejects*: rejected rows of every source.
    """

    stream: str | None = Field(default=None, pattern=r"^[a-z_]+\.[a-z_]+$")
    source: str | None = None
    table: str | None = Field(default=None, pattern=r"^[a-z_]+\.[a-z_]+$")
    files: Literal["logs", "inbox", "reports", "backups", "data/plans", "data/collected"] | None = None
    rejects: bool = False
    keep: Duration
    by: str | None = Field(default=None, pattern=r"^[A-Za-z_][A-Za-z0-9_]*$")

    @model_validator(mode="after")
    def _one_place(self) -> Retention:
        places = [self.stream, self.table, self.files, self.rejects or None]
        if sum(place is not None for place in places) != 1:
            raise ValueError("a rule is for one of `stream`, `table`, `files` and `rejects`")
        if self.table is not None and self.by is None:
            raise ValueError("a rule for a table says by which column: `by: …_at`")
        if self.source is not None and self.stream is None:
            raise ValueError("`source` narrows a rule for a `stream`")
        return self

    @property
    def name(self) -> str:
        """What the rule is for, in one word."""
        source = f"@{self.source}" if self.source else ""
        return f"{self.stream or self.table or self.files or 'rejects'}{source}"


class PrivacyConfig(Strict):
    """The whole of `config/privacy.yaml`. Nothing is removed by age unless a rule says so."""

    retention: list[Retention] = Field(default_factory=list)
