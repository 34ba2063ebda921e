"""The sync ledger's tables. Every statement is idempotent; instants are ISO texts in UTC."""

from __future__ import annotations

VERSION = 2

TABLES = """
create table if not exists meta (key text primary key, value text not null);

-- one row per tag our app created: the only tags that may be sent
create table if not exists register (
    tag_id text primary key, group_id text not null, key text not null, tag_group text not null, value text not null,
    name text not null, group_name text not null, ord integer not null, state text not null, since text not null,
    synced integer not null default 0, group_ord integer
);
-- one row per tag about to be created, written before the call, so that a crash leaves no tag of ours unknown
create table if not exists intents (
    key text primary key, group_name text not null, name text not null, at text not null
);

-- one row per plan
create table if not exists plans (
    plan_id text primary key, plan_hash text not null, kind text not null, planned_at text not null,
    expires_at text not null, author text not null, verdict text not null, state text not null, summary text not null
);
-- one row per decision on a plan
create table if not exists decisions (
    plan_id text not null, plan_hash text not null, decision text not null, who text not null, at text not null,
    reason text not null, by_author integer not null
);
-- one row per apply of a plan
create table if not exists runs (
    run_id integer primary key autoincrement, plan_id text not null unique, app text not null, fence integer not null,
    state text not null, started_at text not null, finished_at text, reason text, progress text, progress_at text
);
-- one row per relation that a run changes
create table if not exists ops (
    run_id integer not null, seq integer not null, phase integer not null, userid text not null,
    external_userid text not null, one_id text, add_keys text not null, remove_keys text not null, state text not null,
    attempt integer not null default 0, started_at text, code integer, at text, reason text,
    primary key (run_id, seq)
) without rowid;
create index if not exists ops_by_customer on ops (external_userid, userid);

-- one row per relation: its tags as we last read them back
create table if not exists reads (
    userid text not null, external_userid text not null, tag_ids text not null, read_at text not null,
    primary key (userid, external_userid)
) without rowid;
-- one row per employee: when all its relations were last read
create table if not exists rota (userid text primary key, read_at text not null) without rowid;
-- one row per callback about a relation: somebody changed it by hand
create table if not exists hints (
    digest text primary key, userid text not null, external_userid text not null, change text not null, at text not null
);

-- one row per pair that people changed and that rests until `until`
create table if not exists frozen (
    userid text not null, external_userid text not null, key text not null, since text not null, until text not null,
    reason text not null, primary key (userid, external_userid, key)
) without rowid;
-- one row per difference between what we left and what we later read
create table if not exists drift (
    userid text not null, external_userid text not null, key text not null, direction text not null,
    seen_at text not null, expected_at text not null, by text not null, policy text not null,
    primary key (userid, external_userid, key, direction, expected_at)
) without rowid;

-- one row per tag a control person would have got
create table if not exists held_control (
    one_id text not null, experiment text not null, key text not null, first_at text not null, last_at text not null,
    primary key (one_id, experiment, key)
) without rowid;
-- one row per tag that waits for a person to become a contact
create table if not exists pending (
    one_id text not null, key text not null, created_at text not null, expires_at text not null, state text not null,
    changed_at text not null, primary key (one_id, key)
) without rowid;
-- one row per keyed phone or unionid of a person who waits; the value itself is not here
create table if not exists pending_keys (
    match text not null, one_id text not null, primary key (match, one_id)
) without rowid;
-- one row per person who may never be tagged again
create table if not exists tombstones (one_id text primary key, at text not null, reason text not null);
-- one row per relation of somebody forgotten that still has tags of ours in WeCom; goes when they are off
create table if not exists farewells (
    customer text not null, userid text not null, sealed text not null, tag_ids text not null, since text not null,
    primary key (customer, userid)
) without rowid;

-- one row per tag and plan: how many people wanted it
create table if not exists sizes (
    plan_id text not null, key text not null, people integer not null, at text not null, primary key (plan_id, key)
) without rowid;
-- one row per return code and run
create table if not exists codes (
    run_id integer not null, path text not null, code integer not null, kind text not null, first_at text not null,
    times integer not null, primary key (run_id, path, code)
) without rowid;

create table if not exists lease (
    app text primary key, holder text not null, fence integer not null, heartbeat_at text not null,
    expires_at text not null
);

-- append-only; each row's hash covers the one before
create table if not exists audit (
    seq integer primary key, at text not null, who text not null, action text not null, plan_id text not null,
    plan_hash text not null, detail text not null, previous text not null, hash text not null
);
create trigger if not exists audit_no_delete before delete on audit
begin select raise(abort, 'the audit log only grows'); end;
"""
# Off only while a forgotten person's words are taken out of it.
AUDIT_ONLY_GROWS = """
create trigger if not exists audit_no_update before update on audit
begin select raise(abort, 'the audit log only grows'); end
"""

# table -> columns that came after version 1, for ledgers made before
LATER: dict[str, dict[str, str]] = {"register": {"group_ord": "integer"}}
