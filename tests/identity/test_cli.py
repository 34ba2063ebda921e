"""`cdp identity …` on a home, by what it prints."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from pathlib import Path

import pytest
from typer.testing import CliRunner

from app.main import app
from cdp.errors import CdpError
from cdp.identity.rules import IdentityRules
from tests.identity.brands import Brand, seen
from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.identity_store import resolve_identities
from warehouse.secrets import identity_secret

RUN = CliRunner()


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with two people in it, resolved."""
    path = tmp_path_factory.mktemp("brand")
    assert RUN.invoke(app, ["init", str(path)]).exit_code == 0
    home = Home(path)
    with open_warehouse(home, as_of=datetime.now(UTC), timezone="Asia/Shanghai") as con:
        brand = Brand(con=con)
        brand.add(
            seen(member_id="m1", phone="136 1234 0001"), seen("login", 1, member_id="m1", anonymous_id="a1"),
            seen("order", 2, member_id="m2", phone="13612340001"),
        )  # fmt: skip
        resolve_identities(
            con, IdentityRules(), run_id="first", as_of=datetime(2025, 6, 1, tzinfo=UTC), secret=identity_secret(home)
        )
    return path


def cdp(directory: Path, *words: str) -> str:
    done = RUN.invoke(app, ["--home", str(directory), "identity", *words])
    if isinstance(done.exception, CdpError):
        raise done.exception
    assert done.exit_code == 0, (done.output, done.exception)
    return done.output


def test_show_masks_phones_unless_asked(directory: Path) -> None:
    assert "13612340001" not in cdp(directory, "show", "m1")
    person = json.loads(cdp(directory, "show", "m1", "--json", "--plain"))
    assert [item["value"] for item in person["identifiers"]] == ["m1", "13612340001", "a1"]
    assert person["kind"] == "person"


def test_explain_and_why_not(directory: Path, tmp_path: Path) -> None:
    text = cdp(directory, "explain", "phone:13612340001", "a1", "--draw", str(tmp_path / "graph.html"))
    assert "one person" in text
    assert "13612340001" not in text
    assert "<svg" in (tmp_path / "graph.html").read_text(encoding="utf-8")
    assert "13612340001" not in (tmp_path / "graph.html").read_text(encoding="utf-8")
    assert "better owner" in cdp(directory, "why-not", "m1", "m2")


def test_phones_stay_masked_in_sentences_and_row_keys_of_every_answer(directory: Path) -> None:
    home = Home(directory)
    with open_warehouse(home, as_of=datetime.now(UTC), timezone="Asia/Shanghai") as con:
        con.execute(
            "update identity.evidence set source_key = 'remark|wm1|13612340001|a.b@example.cn' where row_id = 1"
        )
    done = cdp(directory, "unlink", "m1", "phone:13612340001", "--reason", "typed in by staff", "--json")
    answers = [
        done, cdp(directory, "withdraw", json.loads(done)["assertion_ids"][0]),
        cdp(directory, "why-not", "m2", "phone:13612340001", "--json"), cdp(directory, "why-not", "m1", "m2"),
        cdp(directory, "explain", "m1", "phone:13612340001", "--json"), cdp(directory, "explain", "m1", "13612340001"),
        cdp(directory, "show", "m1", "--json"), cdp(directory, "health", "--json"), cdp(directory, "changes", "--json"),
    ]  # fmt: skip
    assert [answer for answer in answers if "13612340001" in answer or "a.b@" in answer] == []
    assert "136****0001" in answers[0]
    assert "13612340001" in cdp(directory, "explain", "m1", "phone:13612340001", "--plain")


def test_decisions_and_their_withdrawal(directory: Path) -> None:
    done = json.loads(cdp(directory, "unlink", "m1", "a1", "--reason", "two people at one desk", "--json"))
    assert done["after"]["same"] is False
    assert "ids returned" in cdp(directory, "withdraw", done["assertion_ids"][0])
    assert json.loads(cdp(directory, "explain", "m1", "a1", "--json"))["same"] is True


def test_questions_about_the_whole(directory: Path, tmp_path: Path) -> None:
    assert json.loads(cdp(directory, "health", "--json"))["contradictions"] == 0
    assert "rejected values" in cdp(directory, "health")
    assert json.loads(cdp(directory, "changes", "--json"))[0]["op"] == "mint"
    assert json.loads(cdp(directory, "as-of", "m1", "--valid", "2025-06-02", "--json"))[0]["one_id"]
    rules = tmp_path / "other.yaml"
    rules.write_text("types: {phone: {max_links: {}}, member_id: {limit: 2}}", encoding="utf-8")
    assert json.loads(cdp(directory, "what-if", str(rules), "--json"))["report"]["merges"] == 1
    assert "holds" in cdp(directory, "scenarios")
    assert "0 changes" in cdp(directory, "rebuild")


def test_forget_is_a_dry_run_until_applied(directory: Path) -> None:
    assert "would erase" in cdp(directory, "forget", "m2")
    assert json.loads(cdp(directory, "show", "m2", "--json"))["one_id"]
    assert "found in none" in cdp(directory, "forget", "m2", "--apply")
    with pytest.raises(CdpError, match="no identifier or one_id"):
        cdp(directory, "show", "m2")


def test_a_home_never_resolved_says_so(tmp_path: Path) -> None:
    assert RUN.invoke(app, ["init", str(tmp_path)]).exit_code == 0
    with pytest.raises(CdpError, match=r"not there|never resolved"):
        cdp(tmp_path, "health")
