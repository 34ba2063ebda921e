"""`cdp identity …`: who is who, why, and what to do about it."""

from __future__ import annotations

import getpass
import json
import re
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

import duckdb
import typer
from rich.table import Table

from app.context import brand, config, console, home, instant
from cdp.config import parse
from cdp.errors import CheckFailedError, ConfigError
from cdp.identity.drawing import draw
from cdp.identity.memory import run_scenario
from cdp.identity.rules import IdentityRules
from cdp.identity.scenario_page import scenario_page
from cdp.privacy.masking import mask_email, mask_phone
from warehouse import identity_assertions as decide
from warehouse import identity_queries as ask
from warehouse.chart_files import picture_page
from warehouse.connection import open_warehouse
from warehouse.identity_store import rebuild_identities
from warehouse.identity_tables import ensure_tables
from warehouse.secrets import identity_secret

app = typer.Typer(no_args_is_help=True)

_NAMED = re.compile(r"`([^`]+)`")
# Eleven digits of a phone and what stands before an @, wherever a source put them into the key of a row.
_PERSONAL = re.compile(r"(?<!\d)(1[3-9]\d)\d{4}(\d{4})(?!\d)|[\w.+-]+@")
_ID = Annotated[str, typer.Argument(help="`type:value`, `type@scope:value`, a bare value, or a one_id")]
_JSON = Annotated[bool, typer.Option("--json", help="machine-readable")]
_PLAIN = Annotated[bool, typer.Option("--plain", help="show phones and e-mails unmasked")]
_WHY = Annotated[str, typer.Option("--reason", help="kept with the decision")]
_DRAW = Annotated[Path | None, typer.Option("--draw", help="write the person's graph as .svg or .html")]


@contextmanager
def _warehouse(*, write: bool = False) -> Iterator[duckdb.DuckDBPyConnection]:
    """The home's warehouse; a home whose identities were never resolved is told so."""
    with open_warehouse(home(), as_of=datetime.now(UTC), timezone=brand().timezone, read_only=not write) as con:
        if write:
            ensure_tables(con)
        known = con.execute(
            "select 1 from duckdb_tables() where schema_name = 'identity' and table_name = 'run_manifest'"
        )
        if not known.fetchall():
            raise ConfigError("identities were never resolved in this home", hint="`cdp run` comes first")
        yield con


def _rules() -> IdentityRules:
    return config("identity.yaml", IdentityRules)


def _author() -> str:
    return getpass.getuser()


def _hide(name: Any, plain: bool) -> str:
    """An identifier's name, phones and e-mails masked unless *plain*."""
    text = "" if name is None else str(name)
    kind, _, value = text.partition(":")
    if plain or not value:
        return text
    if kind.startswith("phone"):
        return f"{kind}:{mask_phone(value) if kind == 'phone' else value[:4] + '…'}"
    return f"{kind}:{mask_email(value)}" if kind == "email" else text


def _masked(item: Any, plain: bool) -> Any:
    """The same structure with every identifier name masked; `value` beside `type` is masked too."""
    if isinstance(item, dict):
        found = {key: _masked(value, plain) for key, value in item.items()}
        if "type" in item and "value" in item:
            found["value"] = _hide(f"{item['type']}:{item['value']}", plain).partition(":")[2]
        return found
    if isinstance(item, list):
        return [_masked(value, plain) for value in item]
    return _hidden(item, plain) if isinstance(item, str) and ":" in item else item


def _hidden(text: str, plain: bool) -> str:
    """A name, or a sentence with names between backticks, masked unless *plain*."""
    return _NAMED.sub(lambda found: f"`{_hide(found[1], plain)}`", text) if "`" in text else _hide(text, plain)


def _print_json(item: Any, *, plain: bool = False) -> None:
    typer.echo(json.dumps(_masked(ask.as_plain(item), plain), ensure_ascii=False, indent=2))


@app.command()
def show(identifier: _ID, as_json: _JSON = False, plain: _PLAIN = False, drawing: _DRAW = None) -> None:
    """A person: ids, identifiers, what was refused, and which identifiers hold it together."""
    with _warehouse() as con:
        found = ask.show(con, ask.find(con, identifier))
    _draw(drawing, found, [], plain)
    if as_json:
        _print_json({key: value for key, value in found.items() if key != "links"}, plain=plain)
        return
    console.print(f"[bold]{found['one_id']}[/]  {found['kind']}", highlight=False)
    table = Table("type", "scope", "value", "first seen", "last seen")
    for item in found["identifiers"]:
        value = _hide(f"{item['type']}:{item['value']}", plain).partition(":")[2]
        epoch = f" (epoch {item['epoch']})" if item["epoch"] > 1 else ""
        table.add_row(item["type"] + epoch, item["scope"], value, _day(item["first_seen"]), _day(item["last_seen"]))
    console.print(table)
    for one, status in found["earlier_ids"]:
        console.print(f"earlier id {one} ({status})", highlight=False)
    for name, count in found["hinges"]:
        console.print(
            f"hinge: without {_hide(name, plain)} {count} identifiers would part", markup=False, highlight=False
        )
    for item in found["refused"]:
        line = f"{item['decision']} ({item['reason']}): {_hide(item['a'], plain)} – {_hide(item['b'], plain)}"
        console.print(line, markup=False, highlight=False)


def _day(at: datetime | None) -> str:
    return at.astimezone(UTC).strftime("%Y-%m-%d") if at else ""


def _draw(path: Path | None, person: dict[str, Any], strongest: list[str], plain: bool) -> None:
    if path is None:
        return
    refused = [(_hide(item["a"], plain), _hide(item["b"], plain), str(item["reason"])) for item in person["refused"]]
    links = [(_hide(a, plain), _hide(b, plain), decision) for a, b, decision in person["links"]]
    names = [_hide(_name(item), plain) for item in person["identifiers"]]
    picture = draw(names, links, refused, [_hide(name, plain) for name in strongest], title=str(person["one_id"]))
    if path.suffix == ".html":
        picture = picture_page(picture, title=str(person["one_id"]))
    path.write_text(picture, encoding="utf-8")
    console.print(f"drawn: {path}", markup=False, highlight=False)


def _name(item: dict[str, Any]) -> str:
    scope = f"@{item['scope']}" if item["scope"] else ""
    return f"{item['type']}{scope}:{item['value']}"


@app.command()
def explain(a: _ID, b: _ID, as_json: _JSON = False, plain: _PLAIN = False, drawing: _DRAW = None) -> None:
    """Why A and B are one person: the strongest chain of evidence, and the fewest edges whose loss parts them."""
    with _warehouse() as con:
        found = ask.explain(con, ask.find(con, a), ask.find(con, b))
        person = ask.show(con, ask.find(con, a)) if drawing else {}
    if drawing:
        _draw(drawing, person, [name for link in found.chain for name in (link.a, link.b)], plain)
    _tell(found, as_json, plain)


@app.command("why-not")
def why_not(a: _ID, b: _ID, as_json: _JSON = False, plain: _PLAIN = False) -> None:
    """Why A and B are not one person: what was refused between them, what was kept back, who decided."""
    with _warehouse() as con:
        _tell(ask.explain(con, ask.find(con, a), ask.find(con, b)), as_json, plain)


def _row_key(key: str | None, plain: bool) -> str | None:
    """The key of a source's row, with phones and addresses that it is made of masked unless *plain*."""
    if plain or key is None:
        return key
    return _PERSONAL.sub(lambda found: f"{found[1]}****{found[2]}" if found[1] else "***@", key)


def _with_masked_rows(found: ask.Explanation, plain: bool) -> ask.Explanation:
    chain = [
        replace(link, evidence=[(row[0], _row_key(row[1], plain), *row[2:]) for row in link.evidence])
        for link in found.chain
    ]
    return replace(found, chain=chain)


def _tell(found: ask.Explanation, as_json: bool, plain: bool) -> None:
    if as_json:
        _print_json(_with_masked_rows(found, plain), plain=plain)
        return
    names = f"{_hide(found.a, plain)} and {_hide(found.b, plain)}"
    if not found.same:
        console.print(f"{names}: two persons ({found.one_id}, {found.other_id})", markup=False, highlight=False)
        for sentence in found.why:
            console.print(f"- {_hidden(sentence, plain)}", markup=False, highlight=False)
        return
    console.print(f"{names}: one person, {found.one_id}", markup=False, highlight=False)
    for link in found.chain:
        head = f"  {_hide(link.a, plain)} – {_hide(link.b, plain)}: tier {link.tier}, {link.distinct_days} days"
        console.print(f"{head}, {_day(link.first_seen)} … {_day(link.last_seen)}", markup=False, highlight=False)
        for source, key, kind, first, _ in link.evidence:
            row = _row_key(key, plain) or "(erased)"
            console.print(f"      {kind} in {source}, row {row}, {_day(first)}", markup=False, highlight=False)
    if found.cut:
        edges = ", ".join(f"{_hide(x, plain)} – {_hide(y, plain)}" for x, y in found.cut)
        console.print(f"the fewest edges that part them: {edges}", markup=False, highlight=False)


def _decided(done: decide.Asserted, as_json: bool, plain: bool) -> None:
    if as_json:
        _print_json(replace(done, after=_with_masked_rows(done.after, plain)), plain=plain)
        return
    report = done.report
    console.print(
        f"done ({', '.join(done.assertion_ids)}): {report.merges} merged, {report.splits} split, "
        f"{report.resurrected} ids returned, {report.moved} identifiers moved",
        highlight=False,
    )
    for x, y in done.sacrificed:
        console.print(f"refused because of it: {_hide(x, plain)} – {_hide(y, plain)}", markup=False, highlight=False)
    _tell(done.after, False, plain)


@app.command()
def cut(a: _ID, b: _ID, reason: _WHY, as_json: _JSON = False, plain: _PLAIN = False) -> None:
    """The evidence that saw A and B together no longer counts. Other ways may still join them; they are listed."""
    _pair("cut_edge", a, b, reason, as_json, plain)


@app.command()
def link(a: _ID, b: _ID, reason: _WHY, as_json: _JSON = False, plain: _PLAIN = False) -> None:
    """A and B are one person, even against a limit."""
    _pair("must_link", a, b, reason, as_json, plain)


@app.command()
def unlink(a: _ID, b: _ID, reason: _WHY, as_json: _JSON = False, plain: _PLAIN = False) -> None:
    """A and B are two persons, whatever the evidence says."""
    _pair("cannot_link", a, b, reason, as_json, plain)


def _pair(kind: decide.Kind, a: str, b: str, reason: str, as_json: bool, plain: bool) -> None:
    with _warehouse(write=True) as con:
        done = decide.assert_pair(
            con, _rules(), kind, ask.find(con, a), ask.find(con, b), author=_author(), reason=reason,
            now=datetime.now(UTC), secret=identity_secret(home()),
        )  # fmt: skip
    _decided(done, as_json, plain)


@app.command()
def detach(identifier: _ID, reason: _WHY, as_json: _JSON = False, plain: _PLAIN = False) -> None:
    """Part one identifier from all other ids of its person."""
    with _warehouse(write=True) as con:
        done = decide.detach(
            con, _rules(), ask.find(con, identifier), author=_author(), reason=reason, now=datetime.now(UTC),
            secret=identity_secret(home()),
        )  # fmt: skip
    _decided(done, as_json, plain)


@app.command()
def withdraw(assertion_id: Annotated[str, typer.Argument(help="as shown when it was made")]) -> None:
    """Take a link, unlink or cut back; the former ids return."""
    with _warehouse(write=True) as con:
        report = decide.withdraw(con, _rules(), assertion_id, now=datetime.now(UTC), secret=identity_secret(home()))
    console.print(f"withdrawn: {report.merges} merged, {report.splits} split, {report.resurrected} ids returned")


@app.command()
def forget(
    identifiers: Annotated[list[str], typer.Argument(help="identifiers or one_ids")],
    apply: Annotated[bool, typer.Option("--apply", help="really erase; without it only the count is shown")] = False,
    only: Annotated[bool, typer.Option("--only", help="only these identifiers, not the whole person")] = False,
    keep_days: Annotated[
        int | None, typer.Option(help="days that old evidence stays barred; default: for ever")
    ] = None,
    reason: Annotated[str, typer.Option("--reason", help="who asked, and how; kept")] = "asked to be forgotten",
    as_json: _JSON = False,
) -> None:
    """Erase persons from the whole home: tables, files, snapshots, ledgers, plans. What comes again stays out."""
    from app.privacy_cli import print_json, show, told
    from pipelines.upkeep import scene
    from warehouse.erasure import erase, preview

    with told() as tell:
        where, now = scene(home(), progress=tell), datetime.now(UTC)
        if apply:
            report = erase(
                where, identifiers, actor=_author(), reason=reason, now=now, whole_person=not only, keep_days=keep_days
            )
        else:
            report = preview(where, identifiers, now=now, whole_person=not only)
    print_json(report) if as_json else show(report)


@app.command("what-if")
def what_if(
    rules_file: Annotated[Path, typer.Argument(help="another identity.yaml", exists=True, dir_okay=False)],
    as_of: Annotated[str | None, typer.Option(help="date or instant; default: now")] = None,
    as_json: _JSON = False,
) -> None:
    """What other rules would change on all data: merges, splits, moved people, tags, gates. Nothing is stored."""
    other = parse(rules_file.read_text(encoding="utf-8"), IdentityRules, file=str(rules_file))
    with _warehouse(write=True) as con:
        found = decide.what_if(con, other, as_of=instant(as_of), secret=identity_secret(home()))
    if as_json:
        _print_json(found)
        return
    report = found.report
    console.print(f"people: {found.people_before:,} → {found.people_after:,}", highlight=False)
    console.print(
        f"{report.merges:,} merges, {report.splits:,} splits, {report.minted:,} new ids, {report.retired:,} retired, "
        f"{found.moved_identifiers:,} identifiers move, {found.touched_people:,} people touched",
        highlight=False,
    )
    for word, pairs in (("merge", found.merges), ("split", found.splits)):
        for one, other_id in pairs[:5]:
            console.print(f"  {word}: {one} → {other_id}", highlight=False)
    if found.audiences:
        table = Table("tag", "value", "holders", "would leave", "would enter", "regrouped", title="affected tags")
        for tag in found.audiences[:20]:
            counts = (tag.holders, tag.leaving, tag.entering, tag.regrouped)
            table.add_row(tag.tag_group, tag.value, *(f"{count:,}" for count in counts))
        console.print(table)
    for fault in found.gates:
        console.print(f"gate: {fault}", markup=False, highlight=False)


@app.command()
def health(as_json: _JSON = False) -> None:
    """Rejected values, shared identifiers, refusals, contradictions, largest persons, recent runs."""
    with _warehouse() as con:
        found = ask.health(con)
    if as_json:
        _print_json(found)
        return
    for name, value in found.items():
        if isinstance(value, dict):
            console.print(_wrong_merges(value), highlight=False)
            continue
        if not isinstance(value, list):
            shown = f"{value:.3%}" if isinstance(value, float) else f"{value:,}"
            console.print(f"{name.replace('_', ' ')}: {shown}", highlight=False)
            continue
        if not value:
            console.print(f"{name.replace('_', ' ')}: none", highlight=False)
            continue
        table = Table(title=name.replace("_", " "), show_header=False, title_justify="left")
        for row in value:
            table.add_row(
                *(f"{cell:,}" if isinstance(cell, int) and not isinstance(cell, bool) else str(cell) for cell in row)
            )
        console.print(table)


def _wrong_merges(told: dict[str, Any]) -> str:
    """The estimate of unnoticed wrong merges in words."""
    if "expected" not in told:
        return "wrong merges: no estimate, nobody has an id of which a person holds but one"
    return (
        f"wrong merges that nothing contradicted, estimated: {told['expected']:.1f} "
        f"(95 %: {told['low']:,} to {told['high']:,}) among {told['people']:,} people"
    )


@app.command()
def changes(
    after: Annotated[int, typer.Option(help="run to begin after: the cursor of a consumer")] = 0,
    identifiers: Annotated[bool, typer.Option("--identifiers", help="one row per identifier as well")] = False,
    limit: Annotated[int, typer.Option(min=1)] = 1000,
    as_json: _JSON = False,
) -> None:
    """The change feed: mint, merge, split, resurrect, retire, forget, in order."""
    with _warehouse() as con:
        found = ask.changes(con, after_run=after, identifiers=identifiers, limit=limit)
    if as_json:
        _print_json(found)
        return
    table = Table("run", "seq", "op", "one_id", "other_id", "cause")
    for row in found:
        table.add_row(*(str(row[name] or "") for name in ("run", "seq", "op", "one_id", "other_id", "cause")))
    console.print(table)


@app.command("as-of")
def as_of(
    identifier: _ID,
    valid: Annotated[str | None, typer.Option(help="who it was on that day; default: now")] = None,
    known: Annotated[str | None, typer.Option(help="as we knew it on that day; default: now")] = None,
    as_json: _JSON = False,
) -> None:
    """Who an identifier was on day V, as known on day K."""
    with _warehouse() as con:
        found = ask.as_of(con, ask.find(con, identifier), valid=instant(valid), known=instant(known))
    if as_json:
        _print_json(found)
        return
    for row in found:
        told = "" if row["current_one_id"] == row["one_id"] else f", today {row['current_one_id']}"
        console.print(f"{row['one_id']}{told} (known since {_day(row['known_from'])})", highlight=False)
    if not found:
        console.print("nobody was known by it then")


@app.command()
def scenarios(
    page: Annotated[Path | None, typer.Option("--page", help="also write the cases as a page of Markdown")] = None,
) -> None:
    """Run the given/when/then cases of config/identity.yaml."""
    rules = _rules()
    if page:
        page.write_text(scenario_page(rules), encoding="utf-8")
    faults = []
    for scenario in rules.scenarios:
        broken = run_scenario(scenario, rules)
        faults += broken
        console.print(f"{'[red]broken[/]' if broken else '[green]holds [/]'} ", end="")
        console.print(scenario.name, markup=False, highlight=False)
    if faults:
        raise CheckFailedError("\n".join(faults), hint="mend the rules or the scenario in config/identity.yaml")


@app.command()
def rebuild() -> None:
    """Throw away all derived tables and resolve again from evidence and registry; ids stay."""
    with _warehouse(write=True) as con:
        report = rebuild_identities(
            con, _rules(), run_id="rebuild", as_of=datetime.now(UTC), secret=identity_secret(home()),
            progress=lambda stage: console.print(f"  {stage} …"),
        )  # fmt: skip
    console.print(f"rebuilt: {report.identifiers:,} identifiers, {report.people:,} people, {report.changes:,} changes")
