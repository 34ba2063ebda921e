"""The server's state in one SQLite file: schema, settings, and the few queries every endpoint shares.

Reads and writes go straight to SQLite (WAL, `synchronous=off`): a committed write survives the death of the process,
and a commit costs some tens of microseconds. Only settings, apps, staff and tags are kept in memory beside it.
"""

from __future__ import annotations

import json
import sqlite3
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import Any

SCHEMA = """
create table if not exists settings (key text primary key, value text not null);
create table if not exists apps (
    agentid integer primary key, name text not null, secret text not null unique,
    kind text not null default 'self_built', callable integer not null default 1, enabled integer not null default 1,
    visible text, trusted_ips text
);
create table if not exists tokens (
    token text primary key, host text not null, owner text not null, issued real not null, expires real not null,
    revoked integer not null default 0
);
create table if not exists staff (
    userid text primary key, name text not null, department text not null default '[1]', store_id text,
    in_scope integer not null default 1, status integer not null default 1, left_at integer
);
create table if not exists contacts (
    external_userid text primary key, name text not null, type integer not null default 1,
    gender integer not null default 0, avatar text not null default '', unionid text, openid text,
    corp_name text, position text
) without rowid;
create table if not exists relations (
    rid integer primary key, userid text not null, external_userid text not null, createtime integer not null,
    remark text not null default '', description text not null default '', tag_ids text not null default '',
    personal_tags text not null default '', remark_mobiles text not null default '',
    remark_corp_name text not null default '', oper_userid text not null default '',
    add_way integer not null default 0, state text not null default '',
    status text not null default 'normal', ended_at integer
);
create unique index if not exists relations_pair on relations (external_userid, userid);
create index if not exists relations_staff on relations (userid, rid);
create table if not exists tag_groups (
    group_id text primary key, name text not null, ord integer not null default 0, create_time integer not null,
    strategy_id integer, deleted integer not null default 0
);
create table if not exists tags (
    tag_id text primary key, group_id text not null, name text not null, ord integer not null default 0,
    create_time integer not null, agentid integer, deleted integer not null default 0
);
create table if not exists strategies (
    strategy_id integer primary key, name text not null, agentid integer, members text
);
create table if not exists groups (
    chat_id text primary key, name text not null, owner text not null, status integer not null default 0,
    create_time integer not null, notice text not null default '', dismissed integer not null default 0
);
create table if not exists group_members (
    chat_id text not null, member_id text not null, type integer not null, unionid text, join_time integer not null,
    join_scene integer not null, invitor text, state text, name text not null default '',
    primary key (chat_id, member_id)
) without rowid;
create table if not exists contact_ways (
    config_id text primary key, type integer not null, scene integer not null, state text not null default '',
    remark text not null default '', users text not null, skip_verify integer not null default 1,
    create_time integer not null, temporary integer not null default 0, by_api integer not null default 1
);
create table if not exists behavior (
    userid text not null, day integer not null, chat_cnt integer not null, message_cnt integer not null,
    reply_percentage real, avg_reply_time integer, negative_feedback_cnt integer not null,
    new_apply_cnt integer not null, new_contact_cnt integer not null, primary key (userid, day)
) without rowid;
create table if not exists transfers (
    external_userid text not null, handover text not null, takeover text not null, asked_at integer not null,
    resigned integer not null default 0, status integer not null default 2, taken_at integer not null default 0,
    primary key (external_userid, handover, takeover)
);
create table if not exists messages (
    msgid text primary key, chat_type text not null, sender text not null, content text not null,
    create_time integer not null, status integer not null default 0
);
create table if not exists message_sends (
    msgid text not null, userid text not null, external_userid text not null default '',
    status integer not null default 0, send_time integer not null default 0, chat_id text not null default '',
    primary key (msgid, external_userid, chat_id)
);
create table if not exists join_ways (config_id text primary key, body text not null);
create table if not exists acquisition_links (
    link_id text primary key, name text not null, state text not null, users text not null, create_time integer not null
);
create table if not exists webhook_messages (
    seq integer primary key, at real not null, key text not null, body text not null
);
create table if not exists oa_accounts (appid text primary key, secret text not null, bound integer not null default 1);
create table if not exists oa_followers (
    seq integer primary key, appid text not null, openid text not null, unionid text,
    subscribe integer not null default 1, subscribe_time integer not null,
    subscribe_scene text not null default 'ADD_SCENE_QR_CODE', qr_scene integer not null default 0,
    qr_scene_str text not null default '', remark text not null default '', tag_ids text not null default '',
    language text not null default 'zh_CN'
);
create unique index if not exists oa_followers_openid on oa_followers (appid, openid);
create table if not exists oa_tags (
    appid text not null, id integer not null, name text not null, primary key (appid, id)
);
create table if not exists mp_codes (
    code text primary key, appid text not null, kind text not null, openid text, unionid text, phone text,
    issued integer not null, used integer not null default 0
);
"""

# The self-built app of a practice corp: (agentid, secret). A secret of nothing real.
FIRST_APP = (1000002, "sandbox-secret-of-the-self-built-app-0001")

# What the public reference leaves open (†) is a setting, so that no client can come to depend on one answer.
DEFAULTS: dict[str, Any] = {
    "corpid": "ww5a7d0c3b9e1f2468",
    "unionid_bound": True,  # an open-platform account is bound to the corp
    "token_seconds": 7200,
    "token_same_while_valid": True,  # † a second gettoken inside the validity gives the same token
    "wrong_secret_per_hour": 2000,  # † afterwards the address is on hold for an hour
    "limits": {
        "enabled": True,
        "per_minute": 10_000,
        "per_hour": 150_000,
        "ip_per_minute": 20_000,
        "ip_per_hour": 600_000,
    },
    "latency_ms": {"default": 0},  # path (or `default`) -> milliseconds every call takes
    "concurrency": {"externalcontact/mark_tag": 5},  # more in flight -> 45033
    "pair_conflict_code": 45035,  # two writes on one (staff, customer)
    "customer_conflict_code": 45033,  # † two writes on one customer by different staff; 0 = allowed
    "tag_cap": 10_000,  # † corp and strategy tags together; old corps 3000
    "tags_per_pair": 3000,
    "pair_cap_code": 40058,  # †
    "mark_ids_max": 0,  # † 0 = no limit
    "mark_foreign_tags": True,  # † tags made elsewhere may be marked
    "mark_atomic": True,  # † a call fails as a whole
    "foreign_tag_code": 40068,  # † editing a tag the app did not create
    "delete_strips_customers": True,  # †
    "name_max": 30,
    "userid_list_max": 100,  # users report 64
    "short_page_rate": 0.0,  # share of batch pages that come short though more follows
    "list_empty_code": 84061,  # † `list` of a staff without customers; 0 = an empty list
    "removed_lag_seconds": 0,  # a relation removed by staff stays readable that long
    "api_raises_callbacks": False,  # † writes through the API raise no event
    "gender_as_string": False,
    "refuse_escaped_unicode": True,  # 40033 on a body with escaped Unicode
    "contact_way_cap": 500_000,
    "callback": {"url": "", "token": "", "aes_key": "", "loss_rate": 0.0, "repeat_rate": 0.0},
    "seed": 1,
    "clock_offset": 0.0,
}


def create(path: Path, settings: Mapping[str, Any] | None = None) -> sqlite3.Connection:
    """A connection to the state file at *path*, made when absent; *settings* are stored over what is there."""
    path.parent.mkdir(parents=True, exist_ok=True)
    con = sqlite3.connect(path, check_same_thread=False, isolation_level=None)
    con.execute("pragma journal_mode=wal")
    con.execute("pragma synchronous=off")
    con.execute("pragma cache_size=-65536")
    con.executescript(SCHEMA)
    for key, value in (settings or {}).items():
        con.execute("insert or replace into settings values (?, ?)", (key, json.dumps(value, ensure_ascii=False)))
    return con


def split(text: str) -> list[str]:
    """The list behind a comma-separated column ('' = empty)."""
    return text.split(",") if text else []


class State:
    """Settings, apps, staff and tags in memory; everything else by query. One thread owns it."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.con = create(path)
        self.con.row_factory = sqlite3.Row
        self.lock = threading.RLock()
        self.reload()

    def reload(self) -> None:
        """Read what is kept in memory afresh (after an admin call changed it by SQL)."""
        stored = {row["key"]: json.loads(row["value"]) for row in self.con.execute("select key, value from settings")}
        self.settings: dict[str, Any] = {**DEFAULTS, **stored}
        for key in ("limits", "latency_ms", "concurrency", "callback"):
            self.settings[key] = {**DEFAULTS[key], **self.settings[key]}
        self.apps = {row["agentid"]: dict(row) for row in self.con.execute("select * from apps")}
        for app in self.apps.values():
            app["visible"] = None if app["visible"] is None else frozenset(json.loads(app["visible"]))
            app["trusted_ips"] = None if app["trusted_ips"] is None else frozenset(json.loads(app["trusted_ips"]))
        self.staff = {row["userid"]: dict(row) for row in self.con.execute("select * from staff order by userid")}
        self.reload_tags()

    def reload_tags(self) -> None:
        """Tags and groups that are not deleted, strategy ones included."""
        self.groups = {
            row["group_id"]: dict(row)
            for row in self.con.execute("select * from tag_groups where not deleted order by rowid")
        }
        self.tags = {
            row["tag_id"]: dict(row) for row in self.con.execute("select * from tags where not deleted order by rowid")
        }

    def set(self, key: str, value: Any) -> None:
        """Change one setting; a mapping is merged into the stored one."""
        if isinstance(value, dict) and isinstance(self.settings.get(key), dict):
            value = {**self.settings[key], **value}
        self.con.execute("insert or replace into settings values (?, ?)", (key, json.dumps(value, ensure_ascii=False)))
        self.settings[key] = value

    def one(self, sql: str, *values: Any) -> sqlite3.Row | None:
        row: sqlite3.Row | None = self.con.execute(sql, values).fetchone()
        return row

    def all(self, sql: str, *values: Any) -> list[sqlite3.Row]:
        return self.con.execute(sql, values).fetchall()

    def add_first_app(self) -> None:
        """Give a corp without an app its self-built one, so that a client can get a token."""
        if not self.apps:
            agentid, secret = FIRST_APP
            self.run("insert into apps (agentid, name, secret) values (?, ?, ?)", agentid, "自建应用", secret)
            self.reload()

    def run(self, sql: str, *values: Any) -> int:
        """Execute one writing statement (committed at once); the number of rows it changed."""
        return self.con.execute(sql, values).rowcount

    def relation(self, userid: str, external_userid: str) -> sqlite3.Row | None:
        return self.one("select * from relations where external_userid = ? and userid = ?", external_userid, userid)

    def close(self) -> None:
        self.con.close()
