"""The truth: which identifiers occur, whose they are, and which of them the files can connect."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import polars as pl
from scipy.sparse import coo_matrix
from scipy.sparse.csgraph import connected_components

from sandbox.brand.ids import Bools, Ints


@dataclass
class Kind:
    """Identifiers of one type and scope: their values and owners; *offset* is their place among all nodes."""

    type: str
    scope: str
    values: pl.Series
    person: Ints
    offset: int
    occurs: Bools
    shared: pl.Series  # reason, '' = not shared
    scopes: pl.Series | None = None  # scope by identifier, when it is not one for all


@dataclass
class Evidence:
    """Collects, while files are written, what they reveal: identifiers that occur, and links between two of them."""

    kinds: dict[str, Kind] = field(default_factory=dict)
    size: int = 0
    edges: list[tuple[Ints, Ints]] = field(default_factory=list)
    extra: list[tuple[str, str, str, str]] = field(default_factory=list)  # type, scope, value, reason: nobody's

    def register(self, name: str, kind: str, scope: str, values: pl.Series, person: Ints) -> None:
        """Announce identifiers before any file uses them."""
        reasons = (
            pl.Series([""]).extend_constant("", len(values) - 1) if len(values) else pl.Series([], dtype=pl.String)
        )
        self.kinds[name] = Kind(kind, scope, values, person, self.size, np.zeros(len(values), dtype=bool), reasons)
        self.size += len(values)

    def share(self, name: str, index: Ints, reason: str) -> None:
        """These identifiers are used by several people; they connect nobody."""
        kind = self.kinds[name]
        kind.shared = kind.shared.scatter(index, [reason] * len(index)) if len(index) else kind.shared

    def see(self, name: str, index: Ints) -> None:
        """These identifiers occur in a file."""
        self.kinds[name].occurs[index[index >= 0]] = True

    def link(self, left: str, left_index: Ints, right: str, right_index: Ints) -> None:
        """One row of a file holds both, pair by pair (−1 = absent)."""
        keep = (left_index >= 0) & (right_index >= 0)
        self.see(left, left_index)
        self.see(right, right_index)
        a, b = self.kinds[left], self.kinds[right]
        self.edges.append((left_index[keep] + a.offset, right_index[keep] + b.offset))

    def identifiers(self) -> pl.DataFrame:
        """One row per identifier that occurs, with its person and what it can be connected to."""
        person = np.concatenate([kind.person for kind in self.kinds.values()])
        shared = np.concatenate([(kind.shared != "").to_numpy() for kind in self.kinds.values()])
        left = np.concatenate([edge[0] for edge in self.edges])
        right = np.concatenate([edge[1] for edge in self.edges])
        good = ~shared[left] & ~shared[right] & (person[left] == person[right])
        weights = np.ones(int(good.sum()), dtype=np.int8)
        graph = coo_matrix((weights, (left[good], right[good])), shape=(self.size, self.size))
        _, group = connected_components(graph, directed=False)
        frames = []
        for kind in self.kinds.values():
            part = slice(kind.offset, kind.offset + len(kind.values))
            frame = pl.DataFrame(
                {
                    "scope": _scopes(kind),
                    "value": kind.values,
                    "person_id": kind.person,
                    "linkable_group": group[part].astype(np.int64),
                    "shared": (kind.shared != "").to_numpy(),
                    "reason": kind.shared,
                    "occurs": kind.occurs,
                }
            ).filter("occurs")
            head = pl.lit(kind.type).alias("type")
            frames.append(frame.select(head, "scope", "value", "person_id", "linkable_group", "shared", "reason"))
        nobody = pl.DataFrame(self.extra, schema=["type", "scope", "value", "reason"], orient="row").unique(
            maintain_order=True
        )
        frames.append(
            nobody.select(
                "type", "scope", "value",
                pl.lit(-1, dtype=pl.Int64).alias("person_id"), pl.lit(-1, dtype=pl.Int64).alias("linkable_group"),
                pl.lit(True).alias("shared"), "reason",
            )
        )  # fmt: skip
        return pl.concat(frames)


def _scopes(kind: Kind) -> pl.Series:
    """The scope of each identifier."""
    if kind.scopes is not None:
        return kind.scopes
    return pl.select(pl.repeat(kind.scope, len(kind.values))).to_series()
