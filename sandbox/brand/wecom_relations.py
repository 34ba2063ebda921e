"""Who is whose friend in WeCom: staff, customer account, when, by which channel."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import polars as pl

from sandbox.brand import names
from sandbox.brand.ids import Bools, Floats, Ints, choose
from sandbox.brand.people import DAY, Calendar, People
from sandbox.brand.records import words


@dataclass
class Relations:
    """One row per (staff, customer account)."""

    account: Ints
    staff: Ints
    at: Floats
    channel: Ints  # index into `channel_ids`, -1 none
    first: Bools  # the account's first relation
    status: pl.Series


def channel_ids(people: People) -> list[str]:
    """Contact-way states: the brand's channels, then one counter code per store."""
    return [item[0] for item in names.CHANNELS] + [f"store_S{number + 1:03d}" for number in range(people.stores)]


def make_relations(rng: np.random.Generator, people: People, time: Calendar) -> Relations:
    """Friends by account, one to four staff each, begun soon after the person came."""
    friends = np.flatnonzero(people.account_friend)
    count = choose(rng, len(friends), (0.70, 0.21, 0.06, 0.03)) + 1
    account = np.repeat(friends, count)
    starts = np.concatenate([[0], np.cumsum(count)[:-1]])
    number = np.arange(len(account)) - np.repeat(starts, count)
    person = people.account_person[account]
    jump = rng.integers(1, max(2, people.staffs // 4), len(account)) * number
    staff = np.where(number == 0, people.staff[person], (people.staff[person] + jump) % people.staffs)
    pair = account * people.staffs + staff
    _, keep = np.unique(pair, return_index=True)
    keep.sort()
    account, staff, number, person = account[keep], staff[keep], number[keep], person[keep]
    wait = np.where(number == 0, rng.exponential(2.0, len(account)), rng.exponential(90.0, len(account))) * DAY
    at = np.minimum(people.born[person] + 300 + wait, time.end - 600)
    weights = [item[5] for item in names.CHANNELS] + [names.STORE_CHANNEL_WEIGHT]
    channel = choose(rng, len(account), weights)
    channel = np.where(channel == len(names.CHANNELS), len(names.CHANNELS) + staff % people.stores, channel)
    channel = np.where((people.inviter[person] >= 0) & (number == 0), 13, channel)
    channel = np.where(rng.random(len(account)) < 0.78, channel, -1)
    status = words(("normal", "oneway", "half", "removed"), choose(rng, len(account), (0.90, 0.04, 0.012, 0.048)))
    return Relations(account, staff, np.floor(at), channel, number == 0, status)
