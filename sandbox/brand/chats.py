"""Customer groups, and sixty days of chat archive (会话内容存档) as decrypted lines: groups and some private talk."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import polars as pl

from sandbox.brand.ids import LETTERS, Floats, Ints, choose, gather, random_text
from sandbox.brand.people import DAY, Calendar, People
from sandbox.brand.records import pick, staff_ids, words
from sandbox.brand.truth import Evidence
from sandbox.brand.wecom_relations import Relations

DAYS = 60
ASKS = (
    "这款精华敏感肌能用吗", "今天有活动吗", "已下单～", "收到了，包装很好看", "面膜还有货吗",
    "怎么领券呀", "求推荐防晒", "物流好慢", "谢谢小客服", "和上次的香味不一样", "可以换货吗",
    "打卡第三天", "拼单有人吗", "会员日是几号", "好用，已回购",
)  # fmt: skip
TELLS = (
    "今晚八点直播，到店礼三选一", "新品到店，欢迎来试", "亲，这边帮您查一下",
    "满 299 减 50，今天截止", "您的积分快到期了", "早上好～",
)  # fmt: skip
TYPES, SHARES = ("text", "image", "link", "weapp"), (0.9, 0.06, 0.02, 0.02)


@dataclass
class Groups:
    """Customer groups and, one row each, their external members."""

    chat_id: list[str]
    owner: Ints
    created: Floats
    chat: Ints
    account: Ints
    joined: Floats
    scene: Ints


def make_groups(rng: np.random.Generator, people: People, time: Calendar) -> Groups:
    """Groups of 20 to 160; most members are friends, some are nobody's customer."""
    count = max(3, people.count // 350)
    chats = random_text(rng, count, 30, prefix="wr").to_list()
    owner = rng.integers(0, people.staffs, count)
    created = time.start + rng.random(count) * 300 * DAY
    pool = np.flatnonzero(people.account_friend | (rng.random(len(people.account_person)) < 0.05))
    chat = np.repeat(np.arange(count), rng.integers(20, 160, count))
    account = pool[rng.integers(0, len(pool), len(chat))]
    _, keep = np.unique(chat * len(people.account_person) + account, return_index=True)
    chat, account = chat[keep], account[keep]
    low = np.maximum(created[chat], people.born[people.account_person[account]])
    joined = low + rng.random(len(chat)) * np.maximum(time.end - 3600 - low, 1)
    scene = choose(rng, len(chat), (0.25, 0.15, 0.60)) + 1
    return Groups(chats, owner, np.floor(created), chat, account, np.floor(joined), scene)


def write_chats(
    folder: Path, rng: np.random.Generator, people: People, groups: Groups, relations: Relations, evidence: Evidence,
    time: Calendar,
) -> int:  # fmt: skip
    """`chat-YYYY-MM.jsonl`, by time. A few members talk a lot, most are silent. Returns the number of lines."""
    folder.mkdir(parents=True, exist_ok=True)
    frame = pl.concat(
        [
            _members(rng, people, groups, time),
            _owners(rng, people, groups, time),
            _private(rng, people, relations, time),
        ]
    )
    frame = frame.sort("at", "from", maintain_order=True)
    evidence.see("external", frame["account"].to_numpy())
    size = frame.height
    kind = words(TYPES, choose(rng, size, SHARES))
    body = words(ASKS, rng.integers(0, len(ASKS), size))
    told = words(TELLS, rng.integers(0, len(TELLS), size))
    staff = (frame["account"] < 0).to_numpy()
    text = pick(staff, told).fill_null(body)
    frame = frame.with_columns(msgid=random_text(rng, size, 24, LETTERS))
    frame = frame.with_columns(before=pl.col("msgid").shift(1).over("from", "room"))  # people take back their own words
    taken_back = pl.Series(rng.random(size) < 0.006) & frame["before"].is_not_null()
    revoke = pl.concat_str(pl.lit(',"msgtype":"revoke","revoke":{"pre_msgid":"'), pl.col("before"), pl.lit('"}}'))
    lines = frame.with_columns(
        line=pl.concat_str(
            pl.lit('{"seq":'), pl.Series(np.arange(size) + 1).cast(pl.String), pl.lit(',"msgid":"'), pl.col("msgid"),
            pl.lit('","action":"'), pl.when(taken_back).then(pl.lit("recall")).otherwise(pl.lit("send")),
            pl.lit('","from":"'), pl.col("from"), pl.lit('","tolist":['), pl.col("to"),
            pl.lit('],"roomid":"'), pl.col("room"),
            pl.lit('","msgtime":'), (pl.col("at") * 1000).cast(pl.Int64).cast(pl.String),
            pl.when(taken_back).then(revoke).otherwise(_body(kind, text)),
        )
    )  # fmt: skip
    lines = lines.filter(pl.col("at") < time.view)
    month = (lines["at"].to_numpy() + 28_800).astype(np.int64).astype("datetime64[s]").astype("datetime64[M]")
    for label in np.unique(month):
        part = lines.filter(pl.Series(month == label)).select("line")
        with (folder / f"chat-{label}.jsonl").open("wb") as file:
            part.write_csv(file, include_header=False, quote_style="never")
    return lines.height


def _body(kind: pl.Series, text: pl.Series) -> pl.Expr:
    """The part named after the type."""
    k = pl.lit(kind)
    said = pl.concat_str(pl.lit(',"msgtype":"text","text":{"content":"'), pl.lit(text), pl.lit('"}}'))
    link = pl.concat_str(
        pl.lit(',"msgtype":"link","link":{"title":"'), pl.lit(text), pl.lit('","description":"","link_url":"https://example.com"}}')
    )  # fmt: skip
    card = pl.concat_str(
        pl.lit(',"msgtype":"weapp","weapp":{"title":"'), pl.lit(text), pl.lit('","displayname":"山茶集"}}')
    )
    image = pl.lit(',"msgtype":"image","image":{"filesize":52311,"md5sum":"0123456789abcdef0123456789abcdef"}}')
    return pl.when(k == "text").then(said).when(k == "link").then(link).when(k == "weapp").then(card).otherwise(image)


def _rows(at: Floats, sender: pl.Series, to: pl.Series, room: pl.Series, account: Ints) -> pl.DataFrame:
    return pl.DataFrame({"at": np.floor(at), "from": sender, "to": to, "room": room, "account": account})


def _members(rng: np.random.Generator, people: People, groups: Groups, time: Calendar) -> pl.DataFrame:
    """What customers say in groups."""
    begin = np.maximum(time.end - DAYS * DAY, groups.joined)
    talk = np.where(rng.random(len(groups.chat)) < 0.32, rng.gamma(0.5, 9.0, len(groups.chat)), 0.0)
    count = rng.poisson(talk * (time.end - begin) / (DAYS * DAY))
    row = np.repeat(np.arange(len(groups.chat)), count)
    at = begin[row] + rng.random(len(row)) * (time.end - 60 - begin[row])
    account = groups.account[row]
    owner = gather(staff_ids(people), groups.owner[groups.chat[row]])
    sender, room = gather(people.external_userid, account), gather(pl.Series(groups.chat_id), groups.chat[row])
    return _rows(at, sender, '"' + owner + '"', room, account)


def _owners(rng: np.random.Generator, people: People, groups: Groups, time: Calendar) -> pl.DataFrame:
    """The owner's daily post."""
    count = len(groups.chat_id)
    chat, day = np.repeat(np.arange(count), DAYS), np.tile(np.arange(DAYS), count)
    at = time.end - (DAYS - day) * DAY + 36_000 + rng.random(len(chat)) * 20_000
    keep = (rng.random(len(chat)) < 0.7) & (at > groups.created[chat])
    chat, at = chat[keep], at[keep]
    first = np.full(count, 0)
    first[groups.chat[::-1]] = groups.account[::-1]
    to = gather(people.external_userid, first[chat])
    sender, room = gather(staff_ids(people), groups.owner[chat]), gather(pl.Series(groups.chat_id), chat)
    return _rows(at, sender, '"' + to + '"', room, np.full(len(chat), -1))


def _private(rng: np.random.Generator, people: People, relations: Relations, time: Calendar) -> pl.DataFrame:
    """A question and its answer between customer and staff, in one relation of twenty."""
    live = (relations.status != "removed").to_numpy() & (relations.at < time.end - 2 * DAY)
    chosen = np.flatnonzero(live & (rng.random(len(relations.at)) < 0.05))
    begin = np.maximum(relations.at[chosen], time.end - DAYS * DAY)
    at = begin + rng.random(len(chosen)) * (time.end - 7200 - begin)
    account = relations.account[chosen]
    customer, staff = gather(people.external_userid, account), gather(staff_ids(people), relations.staff[chosen])
    none = pl.select(pl.repeat("", len(chosen))).to_series()
    asked = _rows(at, customer, '"' + staff + '"', none, account)
    return pl.concat([asked, _rows(at + 90, staff, '"' + customer + '"', none, np.full(len(chosen), -1))])
