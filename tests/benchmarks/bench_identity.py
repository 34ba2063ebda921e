"""Speed of identity resolution, from raw id strings to the published map, by stage.

`python -m tests.benchmarks.bench_identity --people 1500000` prints the stages of a first run, of a run without change,
and of a run with 1 % new evidence, with the peak memory of the process. Ten million people are 65 million identifiers.
"""

from __future__ import annotations

import argparse
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

import duckdb

from cdp.identity.rules import IdentityRules
from tests.identity.brands import DIGEST, EVIDENCE, SECRET
from warehouse.identity_store import IdentityReport, resolve_identities

# One statement per kind of evidence; {n} people, the same seed gives the same brand. `m`, `p`, … are ids of person i.
PERSON = """
create or replace macro member(i) as 'M' || lpad(i::text, 9, '0');
create or replace macro phone(i) as '1' || (30 + hash(i, 1) % 70)::text || lpad((i * 7919 % 100000000)::text, 8, '0');
create or replace macro union_id(i) as 'oU' || substr(md5('u' || i), 1, 26);
create or replace macro open_id(i) as 'oA' || substr(md5('o' || i), 1, 26);
create or replace macro external(i) as 'wm' || substr(md5('e' || i), 1, 30);
create or replace macro cookie(i, k) as substr(md5('c' || i || '-' || k), 1, 24);
create or replace macro instant(i, k) as timestamptz '2024-06-01 00:00:00+00' + to_seconds((hash(i, k) %
31536000)::bigint);
create or replace macro id(t, s, v) as {'type': t, 'scope': s, 'value': v};
"""
ROWS = (
    # member file: member + phone (one phone in fifty is the family's, also given by the next member)
    "select 'crm', 'm' || i, 'bind', instant(i, 0), instant(i, 0), [id('member_id', '', member(i)),"
    " id('phone', '', phone(i - (i % 50 = 1)::int))] from range({low}, {high}) t(i) where hash(i, 2) % 100 < 60",
    "select 'wechat', 'u' || i, 'bind', instant(i, 3), instant(i, 3), [id('unionid', '', union_id(i)),"
    " id('openid', 'wx1', open_id(i))] from range({low}, {high}) t(i) where hash(i, 4) % 100 < 70",
    "select 'wecom', 'e' || i, 'bind', instant(i, 5), instant(i, 5), [id('external_userid', 'ww1', external(i)),"
    " id('unionid', '', union_id(i))] from range({low}, {high}) t(i) where hash(i, 4) % 100 < 40",
    "select 'mini', 'l' || i, 'login', instant(i, 6), instant(i, 6), [id('member_id', '', member(i)),"
    " id('openid', 'wx1', open_id(i))] from range({low}, {high}) t(i) where hash(i, 2) % 100 < 50",
    "select 'shop', 'b' || i || '-' || k, 'order', instant(i, 7 + k), instant(i, 7 + k),"
    " [id('buyer_id', 'tmall:1', 'tb' || i), id('phone', '', phone(i))]"
    " from range({low}, {high}) t(i), range(2) o(k) where hash(i, 9) % 100 < 40",
    "select 'track', 't' || i || '-' || k, 'login', instant(i, 20 + k), instant(i, 20 + k) + interval 1 hour,"
    " [id('anonymous_id', '', cookie(i, k % 3)), id('openid', 'wx1', open_id(i))]"
    " from range({low}, {high}) t(i), range(4) o(k) where hash(i, 4) % 100 < 55",
    "select 'track', 'a' || i || '-' || k, 'co_occurrence', instant(i, 40 + k), instant(i, 40 + k),"
    " [id('anonymous_id', '', cookie(i, k % 3))] from range({low}, {high}) t(i), range(2) o(k)",
)


def fill(con: duckdb.DuckDBPyConnection, low: int, high: int) -> None:
    """Evidence of people *low* to *high* into the model's table."""
    con.execute("create schema if not exists identity")
    con.execute(EVIDENCE.format(made_at="", evidence_id=""))
    con.execute(PERSON)
    made_at = con.execute("select coalesce(max(made_at), 0) + 1 from identity.int_identity__evidence").fetchall()[0][0]
    for rows in ROWS:
        con.execute(f"""insert into identity.int_identity__evidence
            select *, {made_at}, {DIGEST} from (
                select source, source_key, kind, event_time, last_time, event_time as recorded_at,
                    1::double as confidence, 1::bigint as observations, identifiers
                from ({rows.format(low=low, high=high)})
                    as t(source, source_key, kind, event_time, last_time, identifiers)
            )""")


def peak() -> float:
    """Most memory the process has held until now, GiB."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2


def show(name: str, report: IdentityReport, seconds: float, processor: float, edges: int) -> None:
    stages = "  ".join(f"{stage} {value:.1f}" for stage, value in report.stages.items())
    print(
        f"{name}: {seconds:.1f} s ({processor:.1f} of processor time, {report.mode}), {report.identifiers:,} "
        f"identifiers, {edges:,} edges, {report.people:,} people, {report.new_evidence:,} new rows, "
        f"peak {peak():.1f} GiB\n  {stages}",
        flush=True,
    )


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--people", type=int, default=300_000)
    parser.add_argument("--memory", default="4GiB")
    people = parser.parse_args().people
    with tempfile.TemporaryDirectory() as folder:
        con = duckdb.connect(
            str(Path(folder) / "warehouse.duckdb"),
            config={
                "memory_limit": parser.parse_args().memory,
                "preserve_insertion_order": False,
                "temp_directory": folder,
            },
        )
        con.execute("set TimeZone = 'UTC'")
        begin = time.perf_counter()
        fill(con, 0, people)
        count = con.execute("select count(*) from identity.int_identity__evidence").fetchall()[0][0]
        print(f"generated {count:,} rows of evidence in {time.perf_counter() - begin:.1f} s")
        whole: tuple[float, float] | None = None
        for name, low, high in (("first run", 0, 0), ("no change", 0, 0), ("1 % more", people, people + people // 100)):
            fill(con, low, high)
            begin, cpu = time.perf_counter(), time.process_time()
            report = resolve_identities(
                con, IdentityRules(), run_id=name, as_of=datetime(2025, 6, 1, tzinfo=UTC), secret=SECRET,
                progress=lambda stage: print(f"  peak until then {peak():.1f} GiB; {stage} …", flush=True),
            )  # fmt: skip
            seconds, cpu = time.perf_counter() - begin, time.process_time() - cpu
            edges = con.execute("select count(*) from identity.edge").fetchall()[0][0]
            show(name, report, seconds, cpu, edges)
            whole = whole or (seconds, cpu)
            print(f"  {seconds / whole[0]:.1%} of the first run's time, {cpu / whole[1]:.1%} of its processor time")


if __name__ == "__main__":
    main()
