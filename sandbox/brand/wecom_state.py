"""WeCom as it stands: staff, customers, relations with `state`, hand-made tags, groups, contact ways, followers."""

from __future__ import annotations

import json
import sqlite3
from pathlib import Path

import numpy as np
import polars as pl

from sandbox.brand import names
from sandbox.brand.chats import Groups
from sandbox.brand.ids import LETTERS, Floats, Ints, choose, gather, random_text
from sandbox.brand.people import DAY, Calendar, People, full_names
from sandbox.brand.records import pick, staff_ids, words
from sandbox.brand.truth import Evidence
from sandbox.brand.wecom_relations import Relations, channel_ids
from sandbox.state import create


def write_state(
    path: Path, rng: np.random.Generator, people: People, relations: Relations, groups: Groups, evidence: Evidence,
    time: Calendar, *, grow: bool = False,
) -> None:  # fmt: skip
    """The server's state file: made afresh, or (*grow*) with what has become known since, and all else left alone."""
    for old in [] if grow else list(path.parent.glob(path.name + "*")):
        old.unlink()
    con = create(path, {"corpid": names.CORPID, "seed": 1})
    con.execute("begin")
    con.executemany(
        "insert or ignore into apps (agentid, name, secret) values (?, ?, ?)",
        [(names.AGENTID, "客户数据平台", names.APP_SECRET), (names.OTHER_AGENTID, "门店助手", names.OTHER_SECRET)],
    )
    _staff(con, rng, people)
    tags = _tags(con, rng, time)
    _contacts(con, rng, people)
    _relations(con, rng, people, relations, evidence, time, tags)
    _groups(con, people, groups, evidence, time)
    _ways(con, rng, people, time)
    _behavior(con, rng, people, relations, time)
    _followers(con, rng, people, evidence, time)
    _messages(con, rng, people, relations, groups, time)
    con.execute("commit")
    if not grow:
        con.execute("pragma wal_checkpoint(truncate)")
    con.close()


def _fill(con: sqlite3.Connection, table: str, frame: pl.DataFrame) -> None:
    columns, marks = ", ".join(frame.columns), ",".join("?" * frame.width)
    for low in range(0, frame.height, 100_000):
        con.executemany(
            f"insert or ignore into {table} ({columns}) values ({marks})", frame.slice(low, 100_000).iter_rows()
        )


def _staff(con: sqlite3.Connection, rng: np.random.Generator, people: People) -> None:
    number = np.arange(people.staffs)
    store = number % people.stores
    surname = gather(pl.Series(list(names.SURNAMES)), rng.integers(0, len(names.SURNAMES), people.staffs))
    given = gather(pl.Series(list(names.GIVEN)), rng.integers(0, len(names.GIVEN), people.staffs))
    frame = pl.DataFrame(
        {
            "userid": staff_ids(people),
            "name": surname + given,
            "department": [json.dumps([int(item) + 2]) for item in store],
            "store_id": [f"S{item + 1:03d}" for item in store],
        }
    )
    _fill(con, "staff", frame)


def _tags(con: sqlite3.Connection, rng: np.random.Generator, time: Calendar) -> list[list[str]]:
    """Console-made groups (no app owns them), one strategy group of the other app; the ids of the first by group."""
    made, created = [], int(time.start)
    for order, (group, labels) in enumerate(names.STAFF_GROUPS):
        ids = random_text(rng, len(labels) + 1, 30, LETTERS, "et").to_list()
        con.execute(
            "insert or ignore into tag_groups values (?, ?, ?, ?, null, 0)", (ids[0], group, 100 - order, created)
        )
        rows = [
            (key, ids[0], label, 50 - place, created)
            for place, (key, label) in enumerate(zip(ids[1:], labels, strict=True))
        ]
        con.executemany("insert or ignore into tags values (?, ?, ?, ?, ?, null, 0)", rows)
        made.append(ids[1:])
    ids = random_text(rng, 3, 30, LETTERS, "et").to_list()  # group, two tags
    con.execute("insert or ignore into strategies values (1, '华东规则组', ?, '[]')", (names.OTHER_AGENTID,))
    con.execute("insert or ignore into tag_groups values (?, '规则组标签', 0, ?, 1, 0)", (ids[0], created))
    own = [
        (ids[1], ids[0], "华东重点", 1, created, names.OTHER_AGENTID),
        (ids[2], ids[0], "华东普通", 0, created, names.OTHER_AGENTID),
    ]
    con.executemany("insert or ignore into tags values (?, ?, ?, ?, ?, ?, 0)", own)
    return [*made, ids[1:]]


def _contacts(con: sqlite3.Connection, rng: np.random.Generator, people: People) -> None:
    account = np.flatnonzero(people.account_friend)
    person = people.account_person[account]
    nick = gather(full_names(people), person)
    style = rng.integers(0, 4, len(account))
    nick = (
        pick(style == 0, nick.str.slice(0, 1) + "小姐")
        .fill_null(pick(style == 1, "🌸" + nick.str.slice(1)))
        .fill_null(nick)
    )
    frame = pl.DataFrame(
        {
            "external_userid": gather(people.external_userid, account),
            "name": nick,
            "gender": np.where(rng.random(len(account)) < 0.8, people.gender[person], 0),
            "avatar": "https://wx.qlogo.cn/mmhead/" + pl.Series(account).cast(pl.String) + "/0",
            "unionid": gather(people.unionid, account),
            "openid": gather(people.openid["oa"], account, people.account_oa[account]),
        }
    )
    _fill(con, "contacts", frame)
    partners = max(2, people.count // 400)
    ids = random_text(rng, partners, 30, prefix="wo")
    con.executemany(
        "insert or ignore into contacts (external_userid, name, type, gender, corp_name, position)"
        " values (?, ?, 2, 0, '山茶供应链有限公司', '采购')",
        [(key, f"供应商{number}") for number, key in enumerate(ids.to_list())],
    )
    userids = staff_ids(people).to_list()
    con.executemany(
        "insert or ignore into relations (userid, external_userid, createtime, oper_userid, add_way)"
        " values (?, ?, ?, ?, 3)",
        [
            (userids[number % len(userids)], key, 1_700_000_000, userids[number % len(userids)])
            for number, key in enumerate(ids.to_list())
        ],
    )


def _relations(
    con: sqlite3.Connection, rng: np.random.Generator, people: People, relations: Relations, evidence: Evidence,
    time: Calendar, tags: list[list[str]],
) -> None:  # fmt: skip
    size = len(relations.account)
    person = people.account_person[relations.account]
    userid, external = gather(staff_ids(people), relations.staff), gather(people.external_userid, relations.account)
    channels = pl.Series(channel_ids(people))
    ways = np.array([item[6] for item in names.CHANNELS] + [1] * people.stores)
    add_way = np.where(
        relations.channel >= 0, ways[np.maximum(relations.channel, 0)], rng.choice([2, 3, 4, 6, 24, 0], size)
    )
    marked = rng.random(size) < 0.35
    first = gather(pl.Series(tags[0]), choose(rng, size, (0.6, 0.3, 0.1)), marked)
    second = gather(pl.Series(tags[1]), people.taste[person], rng.random(size) < 0.2)
    third = gather(pl.Series(tags[3]), rng.integers(0, 2, size), rng.random(size) < 0.01)
    together = pl.select(pl.concat_str([first, second, third], separator=",", ignore_nulls=True)).to_series()
    known = people.is_member[person] | people.has_crm[person]
    shares = {item for pair in people.family + people.recycled for item in pair}
    plain = ~np.isin(person, np.array(sorted(shares), dtype=np.int64))
    noted = (rng.random(size) < 0.18) & known & plain
    wrong = noted & people.is_member[person] & (rng.random(size) < 0.01)
    mates = np.flatnonzero(people.is_member)
    phone = np.where(wrong, people.phone_first[mates[rng.integers(0, len(mates), size)]], people.phone_first[person])
    ended_at = np.minimum(relations.at + 20 * DAY, time.end - 60)
    live = (relations.status != "removed").to_numpy() | (ended_at >= time.view)
    listed = np.where(live, relations.account, -1)
    evidence.link("external", listed, "unionid", listed)
    evidence.link("external", listed, "phone", np.where(noted & ~wrong & live, phone, -1))
    evidence.see("phone", np.where(noted & live, phone, -1))
    nick = gather(full_names(people), person)
    frame = pl.DataFrame(
        {
            "userid": userid,
            "external_userid": external,
            "createtime": relations.at.astype(np.int64),
            "remark": pick(rng.random(size) < 0.5, nick, ""),
            "tag_ids": together.fill_null(""),
            "personal_tags": pick(rng.random(size) < 0.08, words(names.PERSONAL_TAGS, rng.integers(0, 5, size)), ""),
            "remark_mobiles": gather(people.phones, phone, noted).fill_null(""),
            "oper_userid": pick(rng.random(size) < 0.8, external).fill_null(userid),
            "add_way": add_way.astype(np.int64),
            "state": gather(channels, relations.channel, relations.channel >= 0).fill_null(""),
            "status": pick((relations.status == "removed").to_numpy() & live, pl.lit("normal")).fill_null(
                relations.status
            ),
            "ended_at": pl.Series(np.where(live, -1, ended_at).astype(np.int64)).replace(-1, None),
        }
    )
    _fill(con, "relations", frame.filter(pl.Series(relations.at < time.view)))
    over = frame.filter(pl.Series(~live)).select("ended_at", "external_userid", "userid")
    con.executemany(  # of an older view: over by now
        "update relations set status = 'removed', ended_at = ?"
        " where external_userid = ? and userid = ? and status <> 'removed'",
        over.iter_rows(),
    )


def _groups(con: sqlite3.Connection, people: People, groups: Groups, evidence: Evidence, time: Calendar) -> None:
    """Groups and their members; the owner is one of them."""
    userids = staff_ids(people).to_list()
    table = list(zip(groups.chat_id, groups.owner.tolist(), groups.created.astype(int).tolist(), strict=True))
    con.executemany(
        "insert or ignore into groups (chat_id, name, owner, status, create_time) values (?, ?, ?, 0, ?)",
        [(key, f"山茶集福利{place + 1}群", userids[owner], at) for place, (key, owner, at) in enumerate(table)],
    )
    con.executemany(
        "insert or ignore into group_members (chat_id, member_id, type, join_time, join_scene) values (?, ?, 1, ?, 1)",
        [(key, userids[owner], at) for key, owner, at in table],
    )
    evidence.link("external", groups.account, "unionid", groups.account)
    invited = groups.scene == 1
    frame = pl.DataFrame(
        {
            "chat_id": gather(pl.Series(groups.chat_id), groups.chat),
            "member_id": gather(people.external_userid, groups.account),
            "type": np.full(len(groups.chat), 2),
            "unionid": gather(people.unionid, groups.account),
            "join_time": groups.joined.astype(np.int64),
            "join_scene": groups.scene,
            "invitor": gather(pl.Series(userids), groups.owner[groups.chat], invited),
            "state": pick(groups.scene == 3, pl.lit("group_qr")),
            "name": gather(full_names(people), people.account_person[groups.account]),
        }
    )
    _fill(con, "group_members", frame.filter(pl.Series(groups.joined < time.view)))


def _ways(con: sqlite3.Connection, rng: np.random.Generator, people: People, time: Calendar) -> None:
    userids = staff_ids(people).to_list()
    keys = random_text(rng, len(channel_ids(people)), 32, "0123456789abcdef").to_list()
    links = [
        (f"cawcd{keys[place][:16]}", item[1], item[0], json.dumps(userids[:20]), int(time.end - 80 * DAY))
        for place, item in enumerate(names.CHANNELS)
        if item[6] == 16
    ]
    con.executemany("insert or ignore into acquisition_links values (?, ?, ?, ?, ?)", links)
    rows = []
    for place, state in enumerate(channel_ids(people)):
        if place < len(names.CHANNELS) and names.CHANNELS[place][6] == 16:
            continue
        shop = place - len(names.CHANNELS)
        users = userids[shop :: people.stores][:100] if shop >= 0 else userids[:20]
        rows.append((keys[place], 2, 2, state, state, json.dumps(users), 1, int(time.end - 80 * DAY + place), 0, 1))
    con.executemany("insert or ignore into contact_ways values (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", rows)


def _behavior(
    con: sqlite3.Connection, rng: np.random.Generator, people: People, relations: Relations, time: Calendar
) -> None:
    """Sixty days of figures for the first two hundred staff."""
    shown = min(people.staffs, 200)
    days = np.arange(60)
    staff, day = np.repeat(np.arange(shown), 60), np.tile(days, shown)
    start = time.end - (60 - day) * DAY
    new = np.bincount(
        relations.staff * 61 + np.clip(((relations.at - (time.end - 60 * DAY)) // DAY).astype(np.int64), -1, 59) + 1,
        minlength=people.staffs * 61,
    ).reshape(people.staffs, 61)[:shown, 1:].ravel()  # fmt: skip
    chats = rng.poisson(12, len(staff))
    frame = pl.DataFrame(
        {
            "userid": gather(staff_ids(people), staff),
            "day": start.astype(np.int64),
            "chat_cnt": chats,
            "message_cnt": chats * rng.integers(2, 9, len(staff)),
            "reply_percentage": np.round(rng.uniform(60, 99, len(staff)), 2),
            "avg_reply_time": rng.integers(1, 60, len(staff)),
            "negative_feedback_cnt": rng.poisson(0.2, len(staff)),
            "new_apply_cnt": new + rng.poisson(0.4, len(staff)),
            "new_contact_cnt": new,
        }
    )
    _fill(con, "behavior", frame.filter(pl.Series(start + DAY <= time.view)))


SCENES = ("ADD_SCENE_QR_CODE", "ADD_SCENE_SEARCH", "ADD_SCENE_PROFILE_CARD", "ADD_SCENE_PAID", "ADD_SCENE_OTHERS")


def _followers(
    con: sqlite3.Connection, rng: np.random.Generator, people: People, evidence: Evidence, time: Calendar
) -> None:
    """Official Account followers (a few have left); the Mini Program account is there for its code exchanges."""
    con.executemany(
        "insert or ignore into oa_accounts values (?, ?, 1)",
        [(names.OA_APPID, names.OA_SECRET), (names.MP_APPID, names.MP_SECRET)],
    )
    con.executemany(
        "insert or ignore into oa_tags values (?, ?, ?)",
        [(names.OA_APPID, 2, "星标组"), (names.OA_APPID, 100, "老会员")],
    )
    account = np.flatnonzero(people.account_oa)
    stays = rng.random(len(account)) < 0.94
    evidence.link("openid_oa", account[stays], "unionid", account[stays])
    person = people.account_person[account]
    at = np.minimum(people.born[person] + rng.exponential(20 * DAY, len(account)), time.end - 3600)
    scene = choose(rng, len(account), (0.5, 0.2, 0.1, 0.1, 0.1))
    channels = pl.Series([item[0] for item in names.CHANNELS])
    frame = pl.DataFrame(
        {
            "appid": [names.OA_APPID] * len(account),
            "openid": gather(people.openid["oa"], account),
            "unionid": gather(people.unionid, account),
            "subscribe": stays.astype(np.int64),
            "subscribe_time": at.astype(np.int64),
            "subscribe_scene": words(SCENES, scene),
            "qr_scene_str": gather(channels, rng.integers(0, len(channels), len(account)), scene == 0).fill_null(""),
            "tag_ids": pick(rng.random(len(account)) < 0.1, pl.lit("100"), ""),
        }
    )
    _fill(con, "oa_followers", frame.filter(pl.Series(at < time.view)))


_MESSAGES_EVERY, _SENDERS = 15, 200  # days between two corp messages; staff who send them


def _messages(
    con: sqlite3.Connection, rng: np.random.Generator, people: People, relations: Relations, groups: Groups,
    time: Calendar,
) -> None:  # fmt: skip
    """Corp messages of the last four months to half of the customers, and every other time to the groups too. One staff
    in five never confirms; of what goes out a little meets those who are no friends or have had their messages."""
    userids = staff_ids(people)
    for number in range(8):
        at = time.end - (8 - number) * _MESSAGES_EVERY * DAY + 36_000
        [single, group] = random_text(rng, 2, 24, LETTERS, "msg").to_list()
        confirmed = np.where(rng.random(people.staffs) < 0.8, at + rng.exponential(6 * 3600.0, people.staffs), np.inf)
        wanted = rng.random(len(relations.account)) < 0.5
        outcome = choose(rng, len(relations.account), (0.95, 0.02, 0.03)) + 1
        picked = np.flatnonzero(wanted & (relations.at < at) & (relations.staff < _SENDERS))
        picked = picked[np.unique(relations.account[picked], return_index=True)[1]]  # one staff for a customer
        staff = relations.staff[picked]
        customers = pl.DataFrame({"external_userid": gather(people.external_userid, relations.account[picked])})
        text = names.MESSAGES[number % len(names.MESSAGES)]
        _message(con, single, "single", text, customers, userids, staff, confirmed, outcome[picked], at, time)
        if number % 2 == 0:
            chats = np.flatnonzero((groups.created < at) & (groups.owner < _SENDERS))
            told, owner = pl.DataFrame({"chat_id": gather(pl.Series(groups.chat_id), chats)}), groups.owner[chats]
            _message(con, group, "group", text, told, userids, owner, confirmed, np.ones(len(chats), int), at, time)


def _message(
    con: sqlite3.Connection, msgid: str, chat_type: str, text: str, receivers: pl.DataFrame, userids: pl.Series,
    staff: Ints, confirmed: Floats, outcome: Ints, at: float, time: Calendar,
) -> None:  # fmt: skip
    """One corp message, made *at*, and its *receivers* (one column) by *staff*, as known at the view of *time*."""
    if at >= time.view:
        return
    content = json.dumps({"text": {"content": text}}, ensure_ascii=False)
    con.execute("insert or ignore into messages values (?, ?, '', ?, ?, 0)", (msgid, chat_type, content, int(at)))
    out = confirmed[staff] < time.view
    status, sent = np.where(out, outcome, 0), np.where(out & (outcome == 1), confirmed[staff], 0).astype(np.int64)
    frame = receivers.with_columns(
        msgid=pl.lit(msgid), userid=gather(userids, staff), status=pl.Series(status), send_time=pl.Series(sent)
    )
    _fill(con, "message_sends", frame)
    column = receivers.columns[0]
    con.executemany(  # of an older view: confirmed since
        f"update message_sends set status = ?, send_time = ? where msgid = ? and {column} = ? and status = 0",
        frame.filter(pl.Series(out)).select("status", "send_time", "msgid", column).iter_rows(),
    )
