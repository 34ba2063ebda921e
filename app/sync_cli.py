"""`cdp sync`: tags to WeCom, step by step. Only `apply`, `resume` and `pending` write outside."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict
from datetime import datetime, timedelta
from typing import Annotated, Any

import typer
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Column, Table

from app.context import brand, console, home
from cdp.sync.model import WATERFALL
from pipelines import sync_steps
from pipelines.sync_steps import Desk, desk
from warehouse import sync_drift, sync_plan
from warehouse.sync_page import STATES, WORDS, step_text

app = typer.Typer(no_args_is_help=True)

HELD, STOPPED, PARTIAL = 2, 3, 4
PlanId = Annotated[str | None, typer.Argument(help="plan id, or the start of one; default: the newest")]
Json = Annotated[bool, typer.Option("--json", help="machine-readable output")]
Who = Annotated[str | None, typer.Option("--as", help="who acts; default: CDP_USER or the login name")]
Reason = Annotated[str, typer.Option("--reason", help="why; kept with the decision")]


def words() -> dict[str, str]:
    """The brand's language."""
    return WORDS[brand().locale]


@app.command()
def plan(
    canary: Annotated[float | None, typer.Option(help="share written first and verified, e.g. 0.02")] = None,
    library: Annotated[bool, typer.Option("--library", help="show only what changes in the tag library")] = False,
    who: Who = None,
    as_json: Json = False,
) -> None:
    """Work out what would change. Writes nothing outside. Exit code 2 when held, 3 when stopped."""
    with desk(home(), who=who) as open_desk:
        made = sync_steps.plan(open_desk, canary=canary)
        _print_plan(made.summary, str(open_desk.home.plans / made.plan_id / "plan.html"), as_json, only_library=library)
    _exit_for(made.summary["verdict"])


@app.command()
def show(plan_id: PlanId = None, as_json: Json = False) -> None:
    """Show a plan: verdict, gates, changes per tag, where each segment goes, samples, forecast."""
    with desk(home()) as open_desk:
        stored = sync_plan.load(open_desk.home, open_desk.ledger, plan_id)
        _print_plan(stored.summary, str(stored.folder / "plan.html"), as_json)


@app.command()
def approve(reason: Reason, plan_id: PlanId = None, who: Who = None, as_json: Json = False) -> None:
    """Release a held plan. The approval is bound to the plan's hash."""
    with desk(home(), who=who) as open_desk:
        stored = sync_steps.approve(open_desk, plan_id, reason=reason)
    _say(as_json, {"plan_id": stored.plan_id, "plan_hash": stored.plan_hash, "decision": "approved"})


@app.command()
def reject(reason: Reason, plan_id: PlanId = None, who: Who = None, as_json: Json = False) -> None:
    """Turn a plan down; it is kept for comparison."""
    with desk(home(), who=who) as d:
        stored = sync_plan.reject(d.home, d.ledger, plan_id, who=d.who, reason=reason, now=d.now())
    _say(as_json, {"plan_id": stored.plan_id, "plan_hash": stored.plan_hash, "decision": "rejected"})


@app.command()
def apply(plan_id: PlanId = None, who: Who = None, as_json: Json = False) -> None:
    """Send a plan. Safe to interrupt and to repeat. Exit codes: 0 done, 2 held, 3 stopped, 4 partly failed."""
    _apply(plan_id, who, as_json)


@app.command()
def resume(plan_id: PlanId = None, who: Who = None, as_json: Json = False) -> None:
    """Go on with an apply that stopped or died."""
    _apply(plan_id, who, as_json)


def _apply(plan_id: str | None, who: str | None, as_json: bool) -> None:
    with desk(home(), who=who) as open_desk, sync_steps.stop_on_signals() as stop, bars(as_json) as progress:
        report = sync_steps.apply(open_desk, plan_id, stop=stop, progress=progress)
    _say(as_json, _plain(asdict(report)), title=report.outcome)
    if report.reason and report.reason.startswith("signal "):
        raise typer.Exit(128 + getattr(signal.Signals, report.reason.removeprefix("signal ")))
    if report.outcome != "DONE":
        raise typer.Exit(STOPPED if report.outcome == "STOPPED" else PARTIAL)


@app.command()
def verify(plan_id: PlanId = None, as_json: Json = False) -> None:
    """Read back what a plan wrote. Exit code 4 when something WeCom acknowledged is not there."""
    with desk(home()) as open_desk, bars(as_json) as progress:
        report = sync_steps.verify(open_desk, plan_id, progress=progress)
    facts = {**asdict(report), "outcome": report.outcome}
    facts["gaps"] = report.gaps if as_json else [" ".join(gap) for gap in report.gaps[:20]]
    _say(as_json, facts, title=report.outcome)
    if report.gap:
        raise typer.Exit(PARTIAL)


@app.command()
def undo(plan_id: PlanId = None, who: Who = None, as_json: Json = False) -> None:
    """Plan the way back from an applied plan, for relations still as we left them. Then approve and apply that plan."""
    with desk(home(), who=who) as open_desk, bars(as_json) as progress:
        undone = sync_steps.undo(open_desk, plan_id, progress=progress)
        page = str(open_desk.home.plans / undone.plan.plan_id / "plan.html")
    _print_plan(undone.plan.summary, page, as_json)
    if not as_json:
        _say(False, {"changed since": undone.left, "gone": undone.gone})
    _exit_for(undone.plan.verdict)


@app.command()
def adopt(
    group: Annotated[str, typer.Argument(help="name of the tag group in WeCom")], who: Who = None, as_json: Json = False
) -> None:
    """Take over a tag group that this app created in WeCom but the register does not know."""
    with desk(home(), who=who) as open_desk:
        taken = sync_steps.adopt(open_desk, group)
    _say(as_json, {"group": group, "tags": taken})


@app.command()
def drift(
    everyone: Annotated[bool, typer.Option("--all", help="read every employee, not only those that are due")] = False,
    days: Annotated[int, typer.Option(min=1, help="show drift of this many days")] = 30,
    as_json: Json = False,
) -> None:
    """Read employees on the rota and show what others changed, by employee, tag and direction."""
    with desk(home()) as open_desk, bars(as_json) as progress:
        report = sync_steps.drift(open_desk, everyone=everyone, progress=progress)
        rows = sync_drift.summary(open_desk.ledger, since=open_desk.now() - timedelta(days=days))
    if as_json:
        console.print_json(json.dumps({"found": len(report.drift), "new": report.new, "drift": rows}, default=str))
        return
    table = Table(*(_word(name) for name in ("employee", "tag", "direction", "by", "relation count", "last seen")))
    for row in rows:
        table.add_row(*(_state(str(value)) for value in row.values()))
    console.print(table)
    _say(False, {"found": len(report.drift), "new": report.new, "put to rest": report.frozen})


@app.command()
def pending(who: Who = None, as_json: Json = False) -> None:
    """Tag customers who were added lately and whose tags were waiting. Meant to run every minute."""
    with desk(home(), who=who) as open_desk, sync_steps.stop_on_signals() as stop:
        report = sync_steps.fire_pending(open_desk, stop=stop)
    _say(as_json, {"outcome": "nothing waits"} if report is None else _plain(asdict(report)))
    if report is not None and report.outcome != "DONE":
        raise typer.Exit(STOPPED if report.outcome == "STOPPED" else PARTIAL)


@app.command()
def explain(
    person: Annotated[str, typer.Argument(help="one_id, or external_userid")],
    tag: Annotated[str | None, typer.Argument(help="group/value; default: every synced tag")] = None,
    as_json: Json = False,
) -> None:
    """Why a person has a tag in WeCom or has it not: rule, relations, ops, attempts, codes, last read-back."""
    with desk(home()) as open_desk:
        facts = sync_steps.explain(open_desk, person, tag)
    if as_json:
        console.print_json(json.dumps(facts, ensure_ascii=False, default=str))
        return
    for name, value in facts.items():
        console.print(f"[bold]{name}[/]")
        for line in value if isinstance(value, list) else [value]:
            text = json.dumps(line, ensure_ascii=False, default=str) if isinstance(line, dict) else str(line)
            console.print(f"  {text}", highlight=False, markup=False, soft_wrap=True)


@app.command()
def release(
    userid: Annotated[str, typer.Argument(help="employee")],
    external_userid: Annotated[str, typer.Argument(help="customer")],
    as_json: Json = False,
) -> None:
    """End the rest of a relation whose tags people changed; the next plan treats it like any other."""
    with desk(home()) as open_desk:
        count = open_desk.ledger.release_frozen(userid, external_userid, now=open_desk.now())
        open_desk.ledger.audit(open_desk.who, "release", now=open_desk.now(), userid=userid, pairs=count)
    _say(as_json, {"released": count})


@app.command()
def forget(
    one_id: Annotated[str, typer.Argument(help="the person")], reason: Reason, who: Who = None, as_json: Json = False
) -> None:
    """Never tag this person again: planner, sender and waiting tags all obey. The next plan removes our tags."""
    with desk(home(), who=who) as open_desk:
        open_desk.ledger.forget(one_id, reason=reason, now=open_desk.now())
        open_desk.ledger.audit(open_desk.who, "forget", now=open_desk.now(), one_id=one_id, reason=reason)
    _say(as_json, {"forgotten": one_id})


@app.command()
def stop(
    clear: Annotated[bool, typer.Option("--clear", help="take the kill switch away again")] = False,
) -> None:
    """Throw the kill switch: a running apply ends after the calls in flight, and none starts until it is cleared."""
    path = home().root / "data" / "sync.stop"
    if clear:
        path.unlink(missing_ok=True)
    else:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.touch()
    console.print(f"{path.name}: {'cleared' if clear else 'set'}")


@app.command()
def status(as_json: Json = False) -> None:
    """Plans and runs, newest first, with progress and sign of life."""
    with desk(home()) as open_desk:
        rows = [
            {**dict(row), "progress": json.loads(row["progress"] or "{}")}
            for row in open_desk.ledger.rows(
                "select plan_id, kind, verdict, plans.state, planned_at, run_id, runs.state as run_state, reason,"
                " progress, progress_at from plans left join runs using (plan_id) order by planned_at desc limit 20"
            )
        ]
        for row in rows:
            row["sign_of_life"] = _alive(open_desk, row)
    if as_json:
        console.print_json(json.dumps(rows, ensure_ascii=False))
        return
    heads = (_word(name) for name in ("verdict", "state", "run", "progress", "sign of life"))
    table = Table(Column(_word("plan"), no_wrap=True), *heads)
    for row in rows:
        done = row["progress"]
        count = f"{done['done']:,}/{done['total']:,}" if done else ""
        states = (_word(row["verdict"]), _state(row["state"]), _state(row["run_state"] or ""))
        table.add_row(row["plan_id"], *states, count, row["sign_of_life"])
    console.print(table)


def _alive(open_desk: Desk, row: Mapping[str, Any]) -> str:
    """When a running apply last showed itself; after 60 s it counts as gone."""
    if row["run_state"] != "running" or not row["progress_at"]:
        return (row["progress_at"] or "")[:19]
    age = (open_desk.now() - _instant(row["progress_at"])).total_seconds()
    return f"{age:.0f} s ago" if age <= 60 else f"no sign of life for {age:.0f} s"


@app.command()
def log(
    limit: Annotated[int, typer.Option(min=1, help="rows, newest last")] = 50,
    as_json: Json = False,
) -> None:
    """The audit log: who did what, when, why, with which plan. Its hash chain is checked first."""
    with desk(home()) as open_desk:
        length = open_desk.ledger.check_audit()
        rows = [
            {**dict(row), "detail": json.loads(row["detail"])}
            for row in reversed(open_desk.ledger.rows("select * from audit order by seq desc limit ?", (limit,)))
        ]
    if as_json:
        console.print_json(json.dumps(rows, ensure_ascii=False))
        return
    heads = (_word(name) for name in ("at", "who", "what"))
    table = Table("#", *heads, Column(_word("plan"), no_wrap=True), _word("detail"))
    for row in rows:
        detail = json.dumps(row["detail"], ensure_ascii=False)
        table.add_row(str(row["seq"]), row["at"][:19], row["who"], _state(row["action"]), row["plan_id"], detail)
    console.print(table)
    console.print(f"{length} {_word('chain intact')}")


# -- printing ----------------------------------------------------------------------------------------------------------


def _print_plan(summary: Mapping[str, Any], page: str, as_json: bool, *, only_library: bool = False) -> None:
    if as_json:
        console.print_json(json.dumps(dict(summary), ensure_ascii=False))
        return
    word, locale = words(), brand().locale
    colour = {"READY": "green", "EMPTY": "green", "HELD": "yellow", "STOPPED": "red"}[summary["verdict"]]
    console.print(f"[bold {colour}]{summary['verdict']}[/] {word[summary['verdict']]}  {summary['plan_id']}")
    for change in summary["library"]:
        console.print(f"  {step_text(change, word)}", highlight=False, markup=False)
    if only_library:
        return
    for gate in summary["gates"]:
        if gate["verdict"] != "pass":
            console.print(f"  [bold]{word[gate['verdict']]}[/] {gate[locale]}", highlight=False)
    console.print(changes_table(summary["tags"], word))
    console.print(waterfall_table(summary["tags"], word))
    for tag in summary.get("flapping", ()):
        counted = f"{tag['people']:,} {word['people']}, {word['flips']} {tag['flips']}"
        told = f"{word['churn_held']} {tag['key']}: {counted}; {word['rule']}: {tag['rule']}"
        console.print(f"  {told}", highlight=False, markup=False, soft_wrap=True)
    for side in ("add", "remove"):
        for line in summary["samples"][side]:
            console.print(f"  {word[side]} {line}", highlight=False, markup=False)
    cost = summary["forecast"]
    calls = cost["calls"] + cost["verify_calls"] + cost["library_calls"]
    console.print(
        f"{word['forecast']}: {calls:,} {word['calls']}, {cost['seconds']:,.0f} {word['seconds']},"
        f" {cost['quota_share']:.1%} {word['quota']}"
    )
    console.print(f"{page}\n{word['next']}: {_next(summary)}", highlight=False, soft_wrap=True)


def _next(summary: Mapping[str, Any]) -> str:
    """The command that follows a plan."""
    return {
        "READY": f"cdp sync apply {summary['plan_id']}",
        "HELD": f"cdp sync approve {summary['plan_id']} --reason '…'",
        "STOPPED": "cdp sync plan",
        "EMPTY": "cdp sync status",
    }[summary["verdict"]]


def changes_table(tags: Sequence[Mapping[str, Any]], word: Mapping[str, str]) -> Table:
    """Relations per tag: now, +, −, after, %."""
    table = Table(word["tag"], *(word[name] for name in ("now", "add", "remove", "after")), "%")
    for tag in tags:
        change = f"{(tag['after'] - tag['now']) / tag['now']:+.0%}" if tag["now"] else ""
        numbers = [f"{tag['now']:,}", f"+{tag['add']:,}", f"−{tag['remove']:,}", f"{tag['after']:,}", change]
        table.add_row(tag["key"], *numbers)
    return table


def waterfall_table(tags: Sequence[Mapping[str, Any]], word: Mapping[str, str]) -> Table:
    """People per tag and what becomes of them; the columns add up to the segment."""
    steps = [step for step in WATERFALL if any(tag[step] for tag in tags)]
    table = Table(word["tag"], word["segment"], *(word[step] for step in steps))
    for tag in tags:
        table.add_row(tag["key"], f"{tag['segment']:,}", *(f"{tag[step]:,}" for step in steps))
    return table


@contextmanager
def bars(quiet: bool) -> Iterator[Any]:
    """A progress bar per phase on the terminal; nothing with --json."""
    if quiet:
        yield None
        return
    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=console, transient=True) as bars:
        tasks: dict[str, Any] = {}

        def update(phase: str, done: int, total: int) -> None:
            if phase not in tasks:
                tasks[phase] = bars.add_task(phase, total=total)
            bars.update(tasks[phase], completed=done, total=total)

        yield update


def _say(as_json: bool, facts: Mapping[str, Any], *, title: str = "") -> None:
    if as_json:
        console.print_json(json.dumps(facts, ensure_ascii=False, default=str))
        return
    if title:
        console.print(f"[bold]{title}[/]")
    for name, value in facts.items():
        if value not in (None, [], {}, 0):
            console.print(f"  {_word(name)}: {_told(value)}", highlight=False, markup=False)


def _word(name: str) -> str:
    """*name* in the brand's language; itself where that has no word for it."""
    return words().get(name, name)


def _state(name: str) -> str:
    """A state, an action or who acted, in the brand's language; itself where that has no word for it."""
    return STATES[brand().locale].get(name, name)


def _told(value: Any) -> str:
    """A value in a line: counts of a mapping one after the other, without those that are nothing."""
    if isinstance(value, Mapping):
        return "  ".join(
            f"{STATES[brand().locale].get(str(name)) or _word(str(name))} {item}"
            for name, item in value.items()
            if item not in (None, [], {}, 0)
        )
    return "  ".join(str(item) for item in value) if isinstance(value, (list, tuple)) else str(value)


def _plain(value: Mapping[str, Any]) -> dict[str, Any]:
    return {str(key): _plain(item) if isinstance(item, Mapping) else item for key, item in value.items()}


def _exit_for(verdict: str) -> None:
    code = {"HELD": HELD, "STOPPED": STOPPED}.get(verdict, 0)
    if code:
        raise typer.Exit(code)


def _instant(text: str) -> datetime:
    return datetime.fromisoformat(text)
