"""The registry of ids without a database: publish one partition after another and see who keeps which id."""

from __future__ import annotations

import numpy as np

from cdp.identity.graph import Ints
from cdp.identity.lasting import Frozen, Holdings, assign


class Ledger:
    """Nodes 0…n-1 with fixed class and standing; -1 in a partition means "not there"."""

    def __init__(self, class_: Ints, standing: Ints) -> None:
        count = len(class_)
        self.class_, self.standing = class_.astype(np.int64), standing.astype(np.int64)
        self.current = np.full(count, -1, dtype=np.int64)
        self.home = np.full(count, -1, dtype=np.int64)
        self.frozen: dict[int, Ints] = {}
        self.minted = 0

    def publish(self, labels: Ints) -> Ints:
        """Give the clusters of *labels* their ids; returns the id of every node."""
        here = np.flatnonzero(labels >= 0)
        clusters, cluster = np.unique(labels[here], return_inverse=True)
        place = np.full(len(labels), -1, dtype=np.int64)
        place[here] = np.arange(len(here))
        pairs = [(number, node) for number, nodes in self.frozen.items() for node in place[nodes].tolist() if node >= 0]
        frozen = np.array(pairs, dtype=np.int64).reshape(-1, 2)
        standing = np.argsort(np.argsort(self.standing[here]))
        given = assign(
            Holdings(cluster.astype(np.int32), self.class_[here], standing, self.current[here], self.home[here]),
            Frozen(frozen[:, 0], frozen[:, 1]),
            len(clusters),
        )
        number = given.number.copy()
        open_ = np.flatnonzero(number < 0)
        order = open_[np.argsort(given.anchor[open_])]
        number[order] = self.minted + np.arange(len(order))
        self.minted += len(order)
        for dead in np.setdiff1d(self.current[self.current >= 0], number).tolist():
            self.frozen[dead] = np.flatnonzero(self.current == dead)
        for woken in given.resurrected.tolist():
            del self.frozen[woken]
        self.current = np.full(len(labels), -1, dtype=np.int64)
        self.current[here] = number[cluster]
        fresh = (self.home < 0) & (self.current >= 0)
        self.home[fresh] = self.current[fresh]
        return self.current.copy()
