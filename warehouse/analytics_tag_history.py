"""The history of tags (`activation.tag_history`): what a run opens and ends in it, and what it says of each group.

What people hold and should hold is compared group by group where much differs (a first day), and of many groups at a
time where little does (a day later): the rows of a statement are bounded either way.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import duckdb

from cdp.metrics.durations import microseconds
from cdp.tags import compile as compiled
from cdp.tags.config import Group, TagsConfig
from warehouse.analytics_common import quoted
from warehouse.analytics_tag_health import HealthValue, measure_health, reason_to_keep
from warehouse.analytics_tag_living import changed_values_sql, count_tagged, keep_living, living_column

# People who were merged or forgotten since the last run.
_GONE = "select one_id from temp.tag_changed where is_gone"
# People with another value, over all groups of one comparison.
_TOGETHER = 2_000_000


@dataclass(frozen=True)
class GroupReport:
    """One tag group of one run. *status*: published, or kept (the last good version stays, for *reason*)."""

    tag_group: str
    tag_version: str
    status: str
    reason: str | None
    tagged: int
    entering: int
    leaving: int
    health: tuple[HealthValue, ...] = ()


@dataclass(frozen=True)
class _Run:
    number: int
    cut: datetime
    people: int
    versions: Mapping[str, str]

    @property
    def parameters(self) -> dict[str, Any]:
        return {"run": self.number, "cut": self.cut}


def write_history(
    con: duckdb.DuckDBPyConnection,
    tags: TagsConfig,
    *,
    cut: datetime,
    thresholds: Mapping[str, list[float]],
    people: int,
) -> tuple[int, list[GroupReport], int]:
    """Difference every group into the history, inside the caller's transaction, after `compare_with_living`. Returns
    the run's number (the last one's when nothing is new), a report per group, and the rows opened and ended."""
    definition = ";".join(f"{group.id}:{compiled.version_of(group, tags.scores)}" for group in tags.tag_groups)
    last = con.execute("select run, as_of, definition from activation.tag_runs order by run desc limit 1").fetchall()
    same = bool(last) and last[0][1] == cut and last[0][2] == definition
    versions = {group.id: compiled.version_of(group, tags.scores) for group in tags.tag_groups}
    run = _Run((last[0][0] if last else 0) + 1, cut, people, versions)
    con.execute("create or replace temp table tag_closing (row_id bigint, cause text)")
    tagged = count_tagged(con, tags)
    reports: list[GroupReport] = []
    added = 0
    for groups in _chunks(con, tags):
        found, rows = _apply(con, groups, run, tagged)
        reports += found
        added += rows
    _close(con, tags, run)
    keep_living(con, tags, kept={report.tag_group for report in reports if report.status == "kept"})
    added += _close_dropped_groups(con, tags, run)
    if same and added == 0 and _statuses(con, int(last[0][0])) == {r.tag_group: r.status for r in reports}:
        return int(last[0][0]), reports, 0
    con.execute("insert into activation.tag_runs values (?, ?, ?)", [run.number, cut, definition])
    _note(con, run, reports, thresholds)
    return run.number, reports, added


def drop_comparison(con: duckdb.DuckDBPyConnection) -> None:
    """Drop what `compare_with_living` and `write_history` made."""
    for name in ("tag_changed", "tag_differing", "tag_open", "tag_new", "tag_enter", "tag_leave", "tag_closing",
                 "tag_closed"):  # fmt: skip
        con.execute(f"drop table if exists temp.{name}")


def _chunks(con: duckdb.DuckDBPyConnection, tags: TagsConfig) -> Iterator[list[Group]]:
    """The groups in their order, as many at a time as differ for `_TOGETHER` people in all."""
    sizes = dict(con.execute("select tag_group, count(*) from temp.tag_differing group by tag_group").fetchall())
    chunk: list[Group] = []
    total = 0
    for group in tags.tag_groups:
        size = sizes.get(group.id, 0)
        if chunk and total + size > _TOGETHER:
            yield chunk
            chunk, total = [], 0
        chunk.append(group)
        total += size
    if chunk:
        yield chunk


def _apply(
    con: duckdb.DuckDBPyConnection, groups: Sequence[Group], run: _Run, tagged: Mapping[str, tuple[int, int]]
) -> tuple[list[GroupReport], int]:
    _difference(con, groups, run)
    entering, leaving = (
        dict(con.execute(f"select tag_group, count(*) from temp.{name} group by tag_group").fetchall())
        for name in ("tag_enter", "tag_leave")
    )
    reports: list[GroupReport] = []
    published: list[Group] = []
    added = 0
    for group in groups:
        now, before = tagged[group.id]
        health = measure_health(con, group, run.people, run.cut, now, before)
        version = run.versions[group.id]
        reason = reason_to_keep(con, group, health) or _not_due(con, group, run.cut, version)
        if reason:
            gone = _close_gone(con, group, run)
            reports.append(GroupReport(group.id, version, "kept", reason, now, 0, gone, health))
            added += gone
        else:
            come, go = entering.get(group.id, 0), leaving.get(group.id, 0)
            reports.append(GroupReport(group.id, version, "published", None, now, come, go, health))
            added += come + go
            published.append(group)
    _open_and_end(con, published, run)
    return reports, added


def _difference(con: duckdb.DuckDBPyConnection, groups: Sequence[Group], run: _Run) -> None:
    """Temp tables `tag_new` (what people who differ should hold), `tag_enter` and `tag_leave`, of *groups*."""
    con.execute(
        f"create or replace temp table tag_new as {' union all '.join(changed_values_sql(group) for group in groups)}"
    )
    same = (
        "living.person = fresh.person and living.tag_group = fresh.tag_group and living.value = fresh.value"
        " and living.rank = fresh.rank"
    )
    con.execute(
        "create or replace temp table tag_enter as"
        f" select * from temp.tag_new as fresh anti join temp.tag_open as living on {same}"
    )
    con.execute(
        f"create or replace temp table tag_leave as select * from temp.tag_open as living"
        f" anti join temp.tag_new as fresh on {same} where {_of(groups, 'living')}"
    )
    for group in groups:
        if group.on_empty == "keep_last":
            limit = microseconds(group.ttl) if group.ttl else None
            expired = f"coalesce(kept_since, $cut) + to_microseconds({limit}) <= $cut" if limit else "$cut is null"
            con.execute(
                f"""
                delete from temp.tag_leave
                where tag_group = {quoted(group.id)}
                    and person not in (select person from temp.tag_new where tag_group = {quoted(group.id)})
                    and one_id not in ({_GONE})
                    and one_id not in ({_refusing(group)})
                    and not ({expired})
                """,
                {"cut": run.cut},
            )


def _of(groups: Sequence[Group], alias: str) -> str:
    """Is the row of one of *groups*?"""
    return f"{alias}.tag_group in ({', '.join(quoted(group.id) for group in groups)})"


def _open_and_end(con: duckdb.DuckDBPyConnection, groups: Sequence[Group], run: _Run) -> None:
    """Open what entered the *groups*, and note what left in `tag_closing`."""
    if not groups:
        return
    refusing = [
        f"when living.tag_group = {quoted(group.id)} and living.one_id in ({_refusing(group)}) then 'consent'"
        for group in groups
        if group.consent_purpose
    ]
    con.execute(
        f"""
        insert into temp.tag_closing
        select row_id, case when valid_from = $cut then 'restated'
            when living.one_id in ({_GONE}) then 'identity' {" ".join(refusing)} else 'changed' end
        from temp.tag_leave as living where {_of(groups, "living")}
        """,
        {"cut": run.cut},
    )
    opened = con.execute(
        f"""
        insert into activation.tag_history
        select getvariable('tag_rows') + row_number() over (), fresh.person, fresh.one_id, fresh.tag_group, fresh.value,
            fresh.rank, $cut, null, $run, null,
            case when restated.person is not null then 'restated' else 'computed' end, null, null, versions.tag_version
        from temp.tag_enter as fresh
        inner join (values {", ".join(f"({quoted(group.id)}, {quoted(run.versions[group.id])})" for group in groups)})
            as versions (tag_group, tag_version) on versions.tag_group = fresh.tag_group
        left join (select distinct tag_group, person from temp.tag_leave where valid_from = $cut) as restated
            on restated.tag_group = fresh.tag_group and restated.person = fresh.person
        """,
        run.parameters,
    ).fetchall()[0][0]
    con.execute("set variable tag_rows = getvariable('tag_rows') + ?::bigint", [opened])
    for group in groups:
        _mark_kept(con, group, run)


def _close(con: duckdb.DuckDBPyConnection, tags: TagsConfig, run: _Run) -> None:
    """End the rows of `tag_closing`: the ended row is appended and the living one deleted, for an update scattered over
    the history would write all of it anew."""
    con.execute(
        """
        create or replace temp table tag_closed as
        select living.* replace (
            cast($cut as timestamptz) as valid_to, cast($run as bigint) as closed_run, closing.cause as closed_cause
        )
        from temp.tag_open as living
        inner join temp.tag_closing as closing on closing.row_id = living.row_id
        """,
        run.parameters,
    )
    con.execute("delete from activation.tag_history where row_id in (select row_id from temp.tag_closing)")
    forgotten = [group.id for group in tags.tag_groups if group.history == "none"]
    con.execute(
        "insert into activation.tag_history select * from temp.tag_closed"
        " where not list_contains($names::text[], tag_group)",
        {"names": forgotten},
    )
    if forgotten:
        con.execute(
            "delete from activation.tag_history"
            " where valid_to is not null and list_contains($names::text[], tag_group)",
            {"names": forgotten},
        )


def _close_gone(con: duckdb.DuckDBPyConnection, group: Group, run: _Run) -> int:
    """End the rows of people who were merged, forgotten or took consent back: a kept group keeps its values, not its
    ghosts, and what nobody agrees to does not wait for the group to be well."""
    where = f"tag_group = $grp and valid_to is null and one_id in ({_GONE} union all {_refusing(group)})"
    query = f"select count(*) from activation.tag_history where {where}"
    count = con.execute(query, {"grp": group.id}).fetchall()[0][0]
    if count:
        con.execute(
            "update activation.tag_history set valid_to = $cut, closed_run = $run,"
            f" closed_cause = case when one_id in ({_GONE}) then 'identity' else 'consent' end where {where}",
            run.parameters | {"grp": group.id},
        )
    return int(count)


def _close_dropped_groups(con: duckdb.DuckDBPyConnection, tags: TagsConfig, run: _Run) -> int:
    """End the living rows of groups that are no longer declared."""
    declared = [group.id for group in tags.tag_groups]
    known = con.execute("select distinct tag_group from activation.tag_group_runs").fetchall()
    names = [name for (name,) in known if name not in declared]
    if not names:
        return 0
    where = "valid_to is null and list_contains($names::text[], tag_group)"
    count = con.execute(f"select count(*) from activation.tag_history where {where}", {"names": names}).fetchall()[0][0]
    if count:
        con.execute(
            "update activation.tag_history set valid_to = $cut, closed_run = $run, closed_cause = 'dropped'"
            f" where {where}",
            run.parameters | {"names": names},
        )
    return int(count)


def _mark_kept(con: duckdb.DuckDBPyConnection, group: Group, run: _Run) -> None:
    """Remember since when a value outlives its rule, for `ttl`; forget it when the rule gives the value again."""
    if group.on_empty != "keep_last":
        return
    living, named = "tag_group = $grp and valid_to is null", "(select {} from {} where tag_group = $grp)"
    con.execute(
        f"update activation.tag_history set kept_since = $cut where {living} and kept_since is null"
        f" and person in {named.format('person', 'temp.tag_open')}"
        f" and person not in {named.format('person', 'temp.tag_new')}",
        {"grp": group.id, "cut": run.cut},
    )
    con.execute(
        f"update activation.tag_history set kept_since = null where {living} and kept_since is not null"
        f" and one_id in (select one_id from temp.tag_fresh where {living_column(group)} is not null)",
        {"grp": group.id},
    )


def _refusing(group: Group) -> str:
    """A query of the people who do not agree to the group's purpose."""
    if not group.consent_purpose:
        return "select one_id from temp.tag_wide where false"
    return f"select one_id from temp.tag_wide where not {compiled.consent_column(group.consent_purpose)}"


def _not_due(con: duckdb.DuckDBPyConnection, group: Group, cut: datetime, version: str) -> str | None:
    """Why a weekly group waits: its definition is the one published less than seven days ago."""
    if group.refresh == "daily":
        return None
    last = con.execute(
        "select as_of, tag_version from activation.tag_group_runs where tag_group = ? and status = 'published'"
        " order by run desc limit 1",
        [group.id],
    ).fetchall()
    if last and last[0][1] == version and cut < last[0][0] + timedelta(days=7) and cut != last[0][0]:
        return f"refreshed weekly, last on {last[0][0]:%Y-%m-%d %H:%M}"
    return None


def _statuses(con: duckdb.DuckDBPyConnection, run: int) -> dict[str, str]:
    """Tag group -> status of run *run*."""
    return dict(con.execute("select tag_group, status from activation.tag_group_runs where run = ?", [run]).fetchall())


def _note(
    con: duckdb.DuckDBPyConnection, run: _Run, reports: Sequence[GroupReport], thresholds: Mapping[str, list[float]]
) -> None:
    """What the run did, group by group, and how healthy the groups were."""
    groups = [
        [run.number, report.tag_group, run.cut, report.tag_version, report.status, report.reason, run.people,
         report.tagged, report.entering, report.leaving, thresholds.get(report.tag_group)]
        for report in reports
    ]  # fmt: skip
    health = [
        [run.number, report.tag_group, item.metric, item.value, item.low, item.high, item.severity, item.passed]
        for report in reports
        for item in report.health
    ]
    for table, rows in (("tag_group_runs", groups), ("tag_health", health)):
        if rows:
            marks = ", ".join(f"({', '.join('?' for _ in row)})" for row in rows)
            con.execute(f"insert into activation.{table} values {marks}", [value for row in rows for value in row])
