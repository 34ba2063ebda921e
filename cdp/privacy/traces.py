"""What a person leaves behind: how their identifiers are found in rows and texts, and what becomes of a row that has
one. Pure.

A *distinctive* identifier (a phone, an openid, an address) is looked for in every text. A short one (`member_id` 7) is
looked for only where an identifier of its type stands, because elsewhere 7 is a number like any other. A name is looked
for in every text where nobody else bears it (`word_kind`); it never decides whose a row is, it is only blanked.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from decimal import Decimal
from functools import cached_property
from typing import Any, Literal

from cdp.privacy.masking import mask_phone

Verdict = Literal["whole", "cells"]

# Field of a row (column, or key of a JSON object) -> the types of identifier it holds; () is any type.
FIELDS: dict[str, tuple[str, ...]] = {
    "member_id": ("member_id",),
    "inviter_member_id": ("member_id",),
    "crm_id": ("crm_id",),
    "reg_id": ("reg_id",),
    "unionid": ("unionid",),
    "openid": ("openid",),
    "external_userid": ("external_userid",),
    "pending_id": ("pending_id",),
    "taobao_ouid": ("taobao_ouid",),
    "jd_openid": ("jd_openid",),
    "douyin_openid": ("douyin_openid",),
    "buyer_id": ("buyer_id",),
    "phone": ("phone", "phone_relay", "phone_md5", "phone_sha256", "phone_sm3"),
    "receiver_phone": ("phone", "phone_relay"),
    "email": ("email",),
    "device_id": ("device_id",),
    "login_id": (),
    "account_id": (),
    "user_id": (),
    "previous_id": (),
    "anonymous_id": (),
    "distinct_id": (),
    "original_id": (),
    "inviter_value": (),
    "invitee_value": (),
    "a_value": (),
    "b_value": (),
}
# Fields that say whose row it is, the strongest first; all other fields only mention somebody.
OWNERS: dict[str, int] = {
    "one_id": 0,
    "recorded_one_id": 1,
    "member_id": 2,
    "login_id": 2,
    "account_id": 2,
    "user_id": 2,
    "crm_id": 3,
    "reg_id": 4,
    "unionid": 10,
    "external_userid": 11,
    "openid": 12,
    "pending_id": 13,
    "taobao_ouid": 14,
    "jd_openid": 14,
    "douyin_openid": 14,
    "buyer_id": 15,
    "phone": 20,
    "phone_md5": 21,
    "phone_sha256": 21,
    "phone_sm3": 21,
    "email": 22,
    "device_id": 30,
    "anonymous_id": 40,
    "phone_relay": 41,
    "distinct_id": 42,
    "original_id": 43,
}
# Relations whose rows are nothing but a link between two people: half of one is no row.
LINKS = ("referrals", "id_links", "_rejects")
# Rows of these hang on an order, and name nobody themselves.
PARTS_OF_ORDERS = ("order_lines", "refunds")
# When a row says that its person did something, by relation; the first that is there counts.
TIMES: dict[str, tuple[str, ...]] = {
    "people": ("registered_at", "updated_at"),
    "orders": ("paid_at", "ordered_at"),
    "events": ("event_at",),
    "relations": ("added_at",),
    "followers": ("subscribed_at",),
    "group_members": ("join_at",),
    "id_links": ("linked_at",),
    "referrals": ("invited_at",),
    "callbacks": ("happened_at", "received_at"),
    "records": ("time", "recv_time"),
    "messages": ("timestamp", "original_timestamp", "sent_at", "received_at"),
}
# How keys of JSON objects that hold identifiers end, where no source declares them: `$identity_mp_openid`, `mobile`.
_KEY_ENDS = (
    ("login_id", "member_id"),
    ("unionid", "unionid"),
    ("openid", "openid"),
    ("mobile", "phone"),
    ("phone", "phone"),
    ("email", "email"),
    ("anonymous_id", "anonymous_id"),
    ("cookie_id", "anonymous_id"),
    ("device_id", "device_id"),
)
# Fields, and keys of JSON objects, that hold what a person is called.
NAME_FIELDS = frozenset({"name", "nickname", "nick_name", "real_name", "realname", "receiver_name", "buyer_name"})
# What platforms call everybody who has no name there.
_NOBODYS = frozenset(
    {"微信用户", "匿名用户", "淘宝用户", "游客", "会员", "顾客", "客户", "用户", "匿名", "未知", "先生", "女士"}
)
_NUMBERS = ("BIGINT", "UBIGINT", "HUGEINT", "UHUGEINT", "DOUBLE", "DECIMAL")
GONE = "***"
_PLACEHOLDERS = {"", "null", "none", "undefined", "nan", "0", "-1", "-", "n/a"}
_MOBILE = re.compile(r"1[3-9]\d{9}\Z")
_HEX = re.compile(r"(?:[0-9a-fA-F]{32}|[0-9a-fA-F]{64})\Z")
_FULL_WIDTH = str.maketrans("0123456789", "０１２３４５６７８９")
# RE2 knows no look-around: a boundary is a character that no identifier goes on with, or an escape of JSON.
_BEFORE, _AFTER = r"(?:^|[^0-9A-Za-z]|\\[nrt])", r"(?:$|[^0-9A-Za-z])"
_LETTER = "0-9A-Za-z\u3400-\u9fff"
_HAN = rb"(?:\xe3[\x90-\xbf]|[\xe4-\xe9][\x80-\xbf])[\x80-\xbf]"


def is_distinctive(value: str) -> bool:
    """Whether *value* is long and odd enough that nothing else is spelt like it."""
    if not value.isascii():
        return len(value) >= 8
    digits, letters = any(c.isdigit() for c in value), any(c.isalpha() for c in value)
    return "@" in value[1:-1] or (len(value) >= 8 and digits and letters) or len(value) >= 11


def word_kind(name: str) -> Literal["anywhere", "alone", ""]:
    """How a name can be told from other words: `anywhere` in a text, only where it stands `alone` (two characters may
    be the half of another word), or not at all ("": one character, a single word of Latin letters, what nobody is
    called by)."""
    letters = [c for c in name if c.isalpha()]
    foreign = sum(not c.isascii() for c in letters)
    if name in _NOBODYS or len(letters) < 2:
        return ""
    if foreign >= 3 or (foreign == 0 and " " in name and len(letters) >= 5) or is_distinctive(name):
        return "anywhere"
    return "alone" if foreign >= 2 else ""


UNTELLABLE = "a name that cannot be told from other words: one character, one Latin word, or what nobody is called by"


def called(row: Mapping[str, Any]) -> set[str]:
    """The names that stand in *row*, in its own fields and in those of its JSON objects."""
    found = set()
    for field, value in row.items():
        if field in NAME_FIELDS and isinstance(value, str):
            found.add(value.strip())
        elif isinstance(value, str) and isinstance(data := _parsed(value), dict):
            found |= called(data)
    return found - {""}


def borne(row: Mapping[str, Any], word: str, *, of_people: bool) -> str:
    """Why *word* in *row*, which is somebody else's, cannot be looked for: the reason, "" where the row only mentions
    it and can lose it. *of_people*: the row is about a person, and not about a thing of the brand."""
    if not of_people:
        return "a name that a thing or a member of staff of the brand bears as well"
    if word in _values(row):
        return "a name that somebody else bears as well"
    return "two characters that stand in rows of others" if word_kind(word) == "alone" else ""


def _values(row: Mapping[str, Any]) -> set[str]:
    """All texts of *row*, and those in its JSON objects."""
    found = set()
    for value in row.values():
        if isinstance(value, str):
            found.add(value.strip())
            data = _parsed(value)
            found |= _values(data) if isinstance(data, dict) else set()
    return found


def canonical(text: str) -> str:
    """The form in which a distinctive identifier is compared: e-mails and digests in lower case, phones as digits."""
    text = text.strip()
    if "@" in text or _HEX.match(text):
        return text.lower()
    digits = re.sub(r"[ +-]", "", text).removeprefix("0086").removeprefix("86")
    return digits if _MOBILE.match(digits) else text


def happened_at(row: Mapping[str, Any], relation: str) -> datetime | None:
    """When the person did what *row* of *relation* tells, UTC; None where the row does not say."""
    names = next((TIMES[end] for end in TIMES if relation.endswith(end)), ())
    for name in names:
        value = row.get(name)
        if isinstance(value, datetime):
            return value if value.tzinfo else value.replace(tzinfo=UTC)
        if isinstance(value, int) and value > 0:
            return datetime.fromtimestamp(value / 1000, UTC)
        if isinstance(value, str) and value:
            try:
                moment = datetime.fromisoformat(value)
            except ValueError:
                continue
            return moment if moment.tzinfo else moment.replace(tzinfo=UTC)
    return None


def is_placeholder(value: object) -> bool:
    """Whether a cell holds no identifier at all: empty, `null`, zero."""
    return value is None or str(value).strip().lower() in _PLACEHOLDERS


@dataclass(frozen=True)
class Traces:
    """Everything that points to some people. *identifiers*: (type, value), raw and normal forms; type "" where it is
    not known. *one_ids*: the ids they have had. *orders*: (source, order id). *fields*: further keys of JSON objects
    -> type of identifier, as sources declare them. *names*: what they are called. *words*: those of the names that
    nobody else bears, looked for in every text and blanked there. *unsought*: (reason, how many) of the other names.
    *masks*: forms of their phones that other phones have too, blanked where they stand in a longer text.
    """

    identifiers: frozenset[tuple[str, str]]
    one_ids: frozenset[str] = frozenset()
    orders: frozenset[tuple[str, str]] = frozenset()
    fields: tuple[tuple[str, str], ...] = ()
    names: frozenset[str] = frozenset()
    words: frozenset[str] = frozenset()
    unsought: tuple[tuple[str, int], ...] = ()
    masks: frozenset[str] = frozenset()

    @classmethod
    def from_json(cls, text: str) -> Traces:
        data = json.loads(text)
        return cls(
            identifiers=frozenset((kind, value) for kind, value in data["identifiers"]),
            one_ids=frozenset(data["one_ids"]),
            orders=frozenset((source, order) for source, order in data["orders"]),
            fields=tuple((field, kind) for field, kind in data["fields"]),
            names=frozenset(data["names"]),
            words=frozenset(data["words"]),
            unsought=tuple((reason, count) for reason, count in data["unsought"]),
        )

    def to_json(self) -> str:
        data = {name: sorted(getattr(self, name)) for name in self.__dataclass_fields__ if name != "masks"}
        return json.dumps(data, ensure_ascii=False)

    @cached_property
    def tokens(self) -> tuple[str, ...]:
        """Distinctive identifiers and one_ids, in every form they are looked for."""
        found = {value for _, value in self.identifiers if is_distinctive(value)}
        found |= {canonical(value) for value in found}
        return tuple(sorted(found | self.one_ids))

    @cached_property
    def short(self) -> frozenset[tuple[str, str]]:
        """Identifiers that are looked for in fields of their type alone."""
        return frozenset((kind, value) for kind, value in self.identifiers if value and not is_distinctive(value))

    @cached_property
    def known_fields(self) -> dict[str, tuple[str, ...]]:
        return {field: (kind,) for field, kind in self.fields} | FIELDS

    # -- in texts ----------------------------------------------------------------------------------------------------

    @cached_property
    def _spelt(self) -> list[str]:
        """One regular expression per way an identifier is spelt."""
        found: dict[str, None] = {}
        for token in self.tokens:
            if _MOBILE.match(token):
                parts = (token[:3], token[3:7], token[7:])
                found["(?:[+]?(?:00)?86[ -]?)?" + "[ -]?".join(parts)] = None
                found[token.translate(_FULL_WIDTH)] = None
                continue
            found[_quoted(token)] = None
            escaped = json.dumps(token)[1:-1]
            if escaped != token:
                found[_quoted(escaped)] = None
        return list(found)

    @cached_property
    def _keyed(self) -> list[str]:
        """Short identifiers as members of a JSON object whose key says what they are."""
        found = []
        for kind, value in sorted(self.short):
            keys = [name for name, kinds in self.known_fields.items() if not kinds or kind in kinds]
            names = "|".join(_quoted(name.removeprefix("properties.").removeprefix("traits.")) for name in keys)
            found.append(rf'"(?:{names})"\s*:\s*"?{_quoted(value)}"?\s*[,}}\]]')
        return found

    @cached_property
    def _words(self) -> dict[str, list[str]]:
        """Regular expressions of the words, as they stand and as JSON escapes them, by `word_kind`."""
        found: dict[str, list[str]] = {"anywhere": [], "alone": []}
        for word in sorted(self.words):
            forms = dict.fromkeys((word, json.dumps(word)[1:-1]))
            found["alone" if word_kind(word) == "alone" else "anywhere"] += map(_quoted, forms)
        return found

    @cached_property
    def pattern(self) -> str:
        """A regular expression (RE2) that matches a text with one of the identifiers or words; "" when none are."""
        parts = []
        if self._spelt:
            parts.append(f"{_BEFORE}(?:{'|'.join(self._spelt)}){_AFTER}")
        if self._words["alone"]:
            parts.append(f"(?:^|[^{_LETTER}])(?:{'|'.join(self._words['alone'])})(?:$|[^{_LETTER}])")
        return "|".join([*parts, *self._words["anywhere"], *self._keyed])

    @cached_property
    def _found(self) -> re.Pattern[str]:
        body = "|".join(self._spelt) or r"(?!)"
        return re.compile(rf"(?:(?<![0-9A-Za-z])|(?<=\\[nrt]))(?:{body})(?![0-9A-Za-z])")

    @cached_property
    def _words_found(self) -> re.Pattern[str]:
        alone = "|".join(self._words["alone"]) or r"(?!)"
        masks = map(_quoted, sorted(self.masks))
        return re.compile("|".join([*self._words["anywhere"], *masks, rf"(?<![{_LETTER}])(?:{alone})(?![{_LETTER}])"]))

    @cached_property
    def in_bytes(self) -> re.Pattern[bytes]:
        """The distinctive identifiers and the words in the bytes of any file (UTF-8; names in GB18030 too)."""
        body = "|".join(self._spelt).encode() or rb"(?!)"
        alone = "|".join(self._words["alone"]).encode() or rb"(?!)"
        parts = [
            rb"(?:(?<![0-9A-Za-z])|(?<=\\[nrt]))(?:" + body + rb")(?![0-9A-Za-z])",
            rb"(?<![0-9A-Za-z])(?<!" + _HAN + rb")(?:" + alone + rb")(?![0-9A-Za-z]|" + _HAN + rb")",
            *(word.encode() for word in self._words["anywhere"]),
            *(re.escape(word.encode("gb18030")) for word in sorted(self.words) if word_kind(word) == "anywhere"),
        ]
        return re.compile(b"|".join(parts))

    def names_in(self, text: str) -> bool:
        """Whether *text* (a line, a cell, a JSON object) holds one of the identifiers: it is about these people."""
        return bool(self._found.search(text)) or any(re.search(pattern, text) for pattern in self._keyed)

    def in_text(self, text: str) -> bool:
        """Whether *text* holds one of the identifiers or words."""
        return self.names_in(text) or bool(self.words and self._words_found.search(text))

    def without(self, text: str) -> str:
        """*text* with every identifier and word in it replaced by `***`."""
        text = self._found.sub(GONE, text)
        return self._words_found.sub(GONE, text) if self.words or self.masks else text

    def and_those(self, other: Traces) -> Traces:
        """What points to the people of either."""
        sets = {name: getattr(self, name) | getattr(other, name)
                for name in ("identifiers", "one_ids", "orders", "names", "words")}  # fmt: skip
        fields = tuple(dict.fromkeys((*self.fields, *other.fields)))
        return replace(self, **sets, fields=fields, unsought=other.unsought or self.unsought)

    def as_published(self) -> Traces:
        """What to look for in built tables, where the phones that texts mention are masked."""
        return replace(self, masks=frozenset(mask_phone(token) for token in self.tokens if _MOBILE.match(token)))

    # -- in rows -----------------------------------------------------------------------------------------------------

    def names_one(self, field: str, value: object, relation: str = "") -> bool:
        """Whether a cell that is nothing but an identifier is one of ours."""
        if value is None:
            return False
        text = str(value).strip()
        if field.endswith("one_id"):
            return text in self.one_ids
        if text in self._distinct or canonical(text) in self._distinct:
            return True
        kinds = _kinds(field, relation, self.known_fields)
        return kinds is not None and any(
            found == text and (not kinds or kind in kinds or kind == "") for kind, found in self.short
        )

    @cached_property
    def _distinct(self) -> frozenset[str]:
        return frozenset(self.tokens)

    def hit_sql(self, columns: Sequence[tuple[str, str]], relation: str = "") -> str:
        """A DuckDB condition: the row of *relation* holds something of these people. *columns*: (name, type)."""
        tests = []
        for name, kind in columns:
            quoted = '"' + name.replace('"', '""') + '"'
            if name in ("_source", "_batch_id", "source", "stream", "batch_id"):
                continue
            if kind.startswith(_NUMBERS) and not kind.endswith("]"):
                mobiles = ", ".join(token for token in self.tokens if _MOBILE.match(token))
                tests += [f"try_cast({quoted} as hugeint) in ({mobiles})"] if mobiles else []
                continue
            if not _is_text(kind):
                continue
            if name.endswith("one_id") and kind == "VARCHAR":
                tests += [f"{quoted} in ({_listed(self.one_ids)})"] if self.one_ids else []
                continue
            text = quoted if kind in ("VARCHAR", "JSON") else f"cast({quoted} as varchar)"
            if self.pattern:
                tests.append(f"regexp_matches({text}, {_literal(self.pattern)})")
            if self.masks:
                masked = "|".join(map(_quoted, sorted(self.masks)))
                alone = f"trim({text}) in ({_listed(self.masks)})"
                tests.append(f"(regexp_matches({text}, {_literal(masked)}) and not {alone})")
            tests += self._short_sql(name, kind, quoted, relation)
        if relation.endswith(PARTS_OF_ORDERS) and self.orders:
            pairs = ", ".join(f"({_literal(source)}, {_literal(order)})" for source, order in sorted(self.orders))
            if {"_source", "order_id"} <= {name for name, _ in columns}:
                tests.append(f'("_source", "order_id") in ({pairs})')
        return " or ".join(f"coalesce({test}, false)" for test in tests) or "false"

    def _short_sql(self, name: str, kind: str, quoted: str, relation: str) -> list[str]:
        if not self.short:
            return []
        if kind.startswith("STRUCT") and kind.endswith("[]") and name.endswith("identifiers"):
            pairs = _listed(f"{kind}\x1f{value}" for kind, value in self.short)
            joined = f"list_transform({quoted}, lambda item: concat(item.type, chr(31), trim(item.value)))"
            return [f"list_has_any({joined}, [{pairs}])"]
        kinds = _kinds(name, relation, self.known_fields)
        if kinds is None or kind != "VARCHAR":
            return []
        values = {value for kind_, value in self.short if not kinds or kind_ in kinds or kind_ == ""}
        return [f"trim({quoted}) in ({_listed(values)})"] if values else []

    def judge(self, row: Mapping[str, Any], *, relation: str = "", key: Sequence[str] = ()) -> Verdict:
        """What becomes of a row that has a hit: it goes as a `whole` when it is theirs, else only the `cells` that
        name them are emptied.

        It is theirs when its strongest identifier is; the key of the row decides before that, and so does a link of
        two people, half of which would say nothing. A word alone makes no row theirs.
        """
        if (self.words or self.masks) and not self.mentioned(row, relation):
            return "cells"
        if relation.endswith((*LINKS, *PARTS_OF_ORDERS)):
            return "whole"
        if any(self.names_one(name, row.get(name), relation) for name in key):
            return "whole"
        best, theirs = min(self._owners(row, relation), key=lambda item: (item[0], not item[1]), default=(99, True))
        return "whole" if theirs or best == 99 else "cells"

    def mentioned(self, row: Mapping[str, Any], relation: str) -> bool:
        """Whether *row* holds an identifier, or hangs on an order, and not only a word."""
        if (str(row.get("_source")), str(row.get("order_id"))) in self.orders and relation.endswith(PARTS_OF_ORDERS):
            return True
        return any(self._mention(field, value, relation) for field, value in row.items())

    def _mention(self, field: str, value: object, relation: str) -> bool:
        if isinstance(value, list):
            return any(self._mention(field, item, relation) for item in value)
        if isinstance(value, Mapping):
            return self._mention(str(value.get("type")), value.get("value"), "")
        return value is not None and (self.names_one(field, value, relation) or self.names_in(str(value)))

    def _owners(self, row: Mapping[str, Any], relation: str) -> Iterable[tuple[int, bool]]:
        """(strength, is it ours) of every identifier that says whose the row is."""
        for field, value in row.items():
            if isinstance(value, list) and field.endswith("identifiers"):
                for item in value:
                    if isinstance(item, Mapping) and item.get("type") in OWNERS and not is_placeholder(item["value"]):
                        kind = str(item["type"])
                        yield OWNERS[kind], self.names_one(kind, item["value"])
            elif field in OWNERS and not is_placeholder(value):
                yield OWNERS[field], self.names_one(field, value, relation)
            elif field in ("identities", "traits", "properties") and isinstance(value, str):
                yield from self._json_owners(value)

    def _json_owners(self, text: str) -> Iterable[tuple[int, bool]]:
        data = _parsed(text)
        for name, value in data.items() if isinstance(data, dict) else ():
            kind = self._kind_of_key(name)
            if kind in OWNERS and isinstance(value, str | int) and not is_placeholder(value):
                yield OWNERS[kind], self.names_one(kind, value)

    def _kind_of_key(self, name: str) -> str:
        """The type of identifier that a key of a JSON object holds, by declaration, else by its name; "" for none."""
        for declared in (name, f"traits.{name}", f"properties.{name}"):
            if kinds := self.known_fields.get(declared):
                return kinds[0]
        return next((kind for end, kind in _KEY_ENDS if name.lower().endswith(end)), "")

    def emptied(self, row: Mapping[str, Any], *, relation: str = "") -> dict[str, Any]:
        """The cells of *row* that change when what names these people is taken out, with what they become."""
        changed = {}
        for field, value in row.items():
            if field.startswith("_") and field != "_extra":
                continue
            new = self._emptied(field, value, relation)
            if new != value:
                changed[field] = new
        return changed

    def _emptied(self, field: str, value: Any, relation: str) -> Any:
        if isinstance(value, list):
            return [
                item
                for item in value
                if not (
                    self.names_one(str(item.get("type")), item.get("value"))
                    if isinstance(item, Mapping)
                    else isinstance(item, str) and (self.names_one("", item) or self.in_text(item))
                )
            ]
        if isinstance(value, int | float | Decimal) and not isinstance(value, bool):
            return None if _whole_number(value) in self._distinct else value
        if isinstance(value, bytes):
            return None if self.in_text(value.decode(errors="replace")) else value
        if not isinstance(value, str):
            return value
        if self.names_one(field, value, relation) or value.strip() in self.names:
            return None
        if value.strip() in self.masks:
            return value  # another phone may have this mask, and nothing tells whose it is
        data = _parsed(value)
        if data is not None:
            cleaned = self._emptied_json("", data)
            return value if cleaned == data else json.dumps(cleaned, ensure_ascii=False, separators=(",", ":"))
        return self.without(value)

    def _emptied_json(self, field: str, value: Any) -> Any:
        if isinstance(value, dict):
            return {name: self._emptied_json(name, item) for name, item in value.items()}
        if isinstance(value, list):
            return [self._emptied_json(field, item) for item in value]
        if isinstance(value, str | int) and not isinstance(value, bool) and self.names_one(field, value):
            return None
        return self._emptied(field, value, "") if isinstance(value, str) else value

    # -- kept apart ----------------------------------------------------------------------------------------------------

    def keyed_texts(self) -> tuple[set[str], set[str]]:
        """What is digested under the platform's key so that the same rows are known when they come again: distinctive
        values, and short ones with what they are (orders with their source)."""
        whole = {canonical(token) for token in self.tokens if token not in self.one_ids}
        short = {f"{kind}\x1f{value}" for kind, value in self.short}
        return whole, short | {f"order\x1f{source}\x1f{order}" for source, order in self.orders}


def _kinds(field: str, relation: str, fields: Mapping[str, tuple[str, ...]]) -> tuple[str, ...] | None:
    """Types of identifier a field holds; None when it holds none. A group's `member_id` is a customer of WeCom."""
    if field == "member_id" and relation.endswith(("group_members", "memberships", "roles")):
        return ("external_userid",)
    if field in fields:
        return fields[field]
    return (field,) if field in OWNERS else None


def _parsed(text: str) -> Any:
    """A JSON object or array, None when *text* is none."""
    if text[:1] not in "{[":
        return None
    try:
        return json.loads(text)
    except ValueError:
        return None


def _is_text(kind: str) -> bool:
    return "VARCHAR" in kind or kind in ("JSON", "BLOB")


def _whole_number(value: float | Decimal) -> str:
    """The digits of a number that has no others; "" for infinities and fractions."""
    try:
        return str(int(value)) if value == int(value) else ""
    except (OverflowError, ValueError):
        return ""


def _quoted(text: str) -> str:
    """*text* in a regular expression, for RE2 and Python alike."""
    return re.sub(r"([^0-9A-Za-z_\u0080-\U0010ffff])", r"\\\1", text)


def _literal(text: str) -> str:
    return "'" + text.replace("'", "''") + "'"


def _listed(values: Iterable[str]) -> str:
    return ", ".join(_literal(value) for value in sorted(values)) or "null"
