"""Which rows are whose: the strongest identifier says, short ids count only where their fields stand."""

from __future__ import annotations

from datetime import UTC, datetime

import duckdb
import pytest

from cdp.privacy.traces import Traces, canonical, happened_at, is_distinctive

TRACES = Traces(
    frozenset({("member_id", "77"), ("phone", "13612345678"), ("openid", "oABCdef-123_456"), ("email", "A.b@x.cn")}),
    one_ids=frozenset({"p0123456789abcdef01234"}),
    orders=frozenset({("shop", "A-1")}),
    names=frozenset({"欧阳铁柱"}),
)


@pytest.mark.parametrize(
    "text",
    [
        "13612345678", "call +86 136-1234-5678 now", "0086136 1234 5678", "１３６１２３４５６７８",
        '{"mobile":13612345678}',
        r'"a\n13612345678"', "x|oABCdef-123_456|y", "a.b@x.cn", '{"member_id": 77}', '{"login_id":"77"}',
    ],
)  # fmt: skip
def test_an_identifier_is_found_however_it_is_spelt(text: str) -> None:
    assert TRACES.in_text(text)
    with duckdb.connect() as con:
        assert con.execute("select regexp_matches(?, ?)", [text, TRACES.pattern]).fetchall() == [(True,)]


@pytest.mark.parametrize(
    "text",
    ["913612345678", "136123456780", "oABCdef-123_4567", '{"quantity": 77}', "77", '{"member_id": 770}', "za.b@x.cny"],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert not TRACES.in_text(text)
    with duckdb.connect() as con:
        assert con.execute("select regexp_matches(?, ?)", [text, TRACES.pattern]).fetchall() == [(False,)]


@pytest.mark.parametrize(
    ("row", "relation", "verdict"),
    [
        ({"member_id": "77", "phone": None}, "people", "whole"),
        ({"member_id": "78", "phone": "13612345678"}, "people", "cells"),
        ({"member_id": "0", "phone": "13612345678"}, "people", "whole"),
        ({"member_id": "79", "inviter_member_id": "77"}, "people", "cells"),
        ({"inviter_value": "77", "invitee_value": "80"}, "canonical__referrals", "whole"),
        ({"identifiers": [{"type": "phone", "scope": "", "value": "13612345678"},
                          {"type": "member_id", "scope": "", "value": "78"}]}, "events", "cells"),
        ({"one_id": "p0123456789abcdef01234", "value": "x"}, "fct_tags_current", "whole"),
        ({"one_id": "pother", "referred_by_one_id": "p0123456789abcdef01234"}, "dim_people", "cells"),
        ({"identities": '{"$identity_login_id":"78","$identity_mobile":"13612345678"}'}, "records", "cells"),
        ({"order_id": "A-1", "_source": "shop"}, "canonical__order_lines", "whole"),
    ],
)  # fmt: skip
def test_the_strongest_identifier_of_a_row_says_whose_it_is(
    row: dict[str, object], relation: str, verdict: str
) -> None:
    assert TRACES.judge(row, relation=relation) == verdict


def test_a_row_of_somebody_else_loses_only_the_mention() -> None:
    row = {
        "member_id": "78",
        "phone": "13612345678",
        "name": "欧阳铁柱",
        "store_id": "77",
        "properties": '{"mobile":13612345678,"note":"call 13612345678","quantity":77,"member_id":77}',
        "identifiers": [{"type": "phone", "scope": "", "value": "13612345678"}],
        "_row_hash": 1,
    }
    assert TRACES.emptied(row) == {
        "phone": None,
        "name": None,
        "properties": '{"mobile":null,"note":"call ***","quantity":77,"member_id":null}',
        "identifiers": [],
    }


def test_traces_outlive_a_restart() -> None:
    assert Traces.from_json(TRACES.to_json()) == TRACES


def test_forms() -> None:
    assert canonical(" +86 136-1234-5678 ") == "13612345678"
    assert canonical("A.B@x.cn") == "a.b@x.cn"
    assert canonical("oABC") == "oABC"
    assert not is_distinctive("20250001")
    assert is_distinctive("M0000001")
    assert happened_at({"time": 1740902400000}, "sensors__records") == datetime(2025, 3, 2, 8, tzinfo=UTC)
    assert happened_at({"registered_at": None, "updated_at": None}, "canonical__people") is None
