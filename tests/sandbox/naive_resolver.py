"""An independent, slow resolver: reads a generated brand's files row by row and joins what stands together.

It knows the shapes of `sandbox/README.md`, limits per person and the strength of sources, and nothing of the generator.
"""

from __future__ import annotations

import csv
import json
import re
import sqlite3
from collections import defaultdict
from collections.abc import Iterator
from pathlib import Path

import polars as pl

Id = tuple[str, str, str]
MP, H5, OA, CORP = "wx0b00000000000002", "wx0c00000000000003", "wx0a00000000000001", "ww5a7d0c3b9e1f2468"
DEFAULTS = {"13800138000", "13888888888", "13000000000", "18888888888", "13900000000", "11111111111"}
WIDE = str.maketrans("０１２３４５６７８９", "0123456789")
CLASSES = {name: place for place, names in enumerate([
    ("member_id", "crm_id"), ("unionid", "openid", "external_userid", "buyer_id"),
    ("phone", "email"), ("device_id", "anonymous_id"),
]) for name in names}  # fmt: skip
LIMITS = {
    "member_id": 1,
    "crm_id": 1,
    "phone": 3,
    "unionid": 3,
    "openid": 3,
    "external_userid": 3,
    "email": 5,
    "buyer_id": 3,
}
BIND, LOGIN, ORDER, WEAK = 1, 2, 3, 4


def phone(text: str | None) -> Id | None:
    digits = re.sub(r"[\s'-]|^\s*\+86", "", (text or "").translate(WIDE)).removeprefix("+86")
    real = re.fullmatch(r"1[3-9]\d{9}", digits) and digits not in DEFAULTS
    return ("phone", "", "+86" + digits) if real else None


def identifier(kind: str, scope: str, value: str | None) -> Id | None:
    return (kind, scope, value) if value else None


def evidence(brand: Path) -> Iterator[tuple[int, str, list[Id]]]:
    """(strength, time, identifiers that stand in one row)."""
    for strength, when, found in _rows(brand):
        yield strength, when, [item for item in found if item]


def _rows(brand: Path) -> Iterator[tuple[int, str, list[Id | None]]]:
    yield from _database(brand / "brand.sqlite")
    yield from _wecom(brand / "wecom.sqlite")
    for path in sorted((brand / "events" / "sensors").iterdir()):
        yield from _sensors(path)
    for path in sorted((brand / "events" / "segment").iterdir()):
        yield from _segment(path)
    with (brand / "exports" / "taobao_orders.csv").open(encoding="gb18030", newline="") as file:
        for row in csv.DictReader(file):
            yield (
                ORDER,
                row["订单创建时间"],
                [("buyer_id", "taobao:山茶集旗舰店", row["买家会员名"]), phone(row["联系手机"])],
            )
    with (brand / "exports" / "douyin_orders.csv").open(encoding="utf-8-sig", newline="") as file:
        for row in csv.DictReader(file):
            yield ORDER, row["订单提交时间"], [phone(row["收件人手机号"])]
    visits = pl.read_excel(brand / "exports" / "store_visits.xlsx", infer_schema_length=0)
    for row in visits.iter_rows(named=True):
        yield ORDER, row["登记日期"], [identifier("member_id", "", row["会员号"]), phone(row["手机号"])]


def _database(path: Path) -> Iterator[tuple[int, str, list[Id | None]]]:
    con = sqlite3.connect(path)
    con.row_factory = sqlite3.Row
    for row in con.execute("select * from members"):
        account = [identifier("unionid", "", row["unionid"]), identifier("openid", MP, row["mp_openid"])]
        rest = [phone(row["mobile"]), identifier("email", "", row["email"])]
        yield BIND, row["register_time"], [("member_id", "", row["member_id"]), *account, *rest]
    for row in con.execute("select * from crm_contacts"):
        rest = [
            phone(row["phone"]),
            identifier("email", "", row["email"]),
            identifier("external_userid", CORP, row["external_userid"]),
        ]
        yield BIND, "9", [("crm_id", "", row["crm_id"]), identifier("member_id", "", row["member_id"]), *rest]
    for row in con.execute("select * from orders"):
        account = [identifier("openid", row["appid"], row["openid"]), identifier("unionid", "", row["unionid"])]
        yield (
            ORDER,
            row["created_at"],
            [identifier("member_id", "", row["member_id"]), phone(row["buyer_phone"]), *account],
        )
        yield ORDER, row["created_at"], [phone(row["receiver_phone"])]
    con.close()


def _wecom(path: Path) -> Iterator[tuple[int, str, list[Id | None]]]:
    con = sqlite3.connect(path)
    sql = "select external_userid, unionid, remark_mobiles from relations join contacts using (external_userid)"
    for external, unionid, mobiles in con.execute(sql + " where type = 1 and status <> 'removed'"):
        yield BIND, "0", [("external_userid", CORP, external), identifier("unionid", "", unionid)]
        yield WEAK, "9", [("external_userid", CORP, external), phone(mobiles)]
    for external, unionid in con.execute("select member_id, unionid from group_members where type = 2"):
        yield BIND, "0", [("external_userid", CORP, external), identifier("unionid", "", unionid)]
    for openid, unionid in con.execute("select openid, unionid from oa_followers where subscribe = 1"):
        yield BIND, "0", [("openid", OA, openid), identifier("unionid", "", unionid)]
    con.close()


def _sensors(path: Path) -> Iterator[tuple[int, str, list[Id | None]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        ids = record["identities"]
        yield (
            LOGIN,
            "0",
            [
                identifier("member_id", "", ids.get("$identity_login_id")),
                ("anonymous_id", path.name.split("-")[0], record["anonymous_id"]),
                identifier("openid", MP, ids.get("$identity_mp_openid")),
                identifier("openid", H5, ids.get("identity_h5_openid")),
                identifier("unionid", "", ids.get("$identity_mp_unionid") or ids.get("identity_h5_unionid")),
                phone(ids.get("$identity_mobile")),
                identifier("device_id", "app", record["properties"].get("$device_id")),
            ],
        )


def _segment(path: Path) -> Iterator[tuple[int, str, list[Id | None]]]:
    for line in path.read_text(encoding="utf-8").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        traits = record.get("traits", {})
        found = [identifier("member_id", "", record.get("userId")), ("anonymous_id", "web", record["anonymousId"])]
        yield LOGIN, "0", [*found, phone(traits.get("phone")), identifier("email", "", traits.get("email"))]


def resolve(brand: Path) -> dict[Id, Id]:
    """Every identifier of the files -> the one that stands for its cluster."""
    rows = list(evidence(brand))
    members: dict[Id, set[Id]] = defaultdict(set)
    for _, _, found in rows:
        for item in found:
            members[item] |= {other for other in found if other[0] == "member_id"}
    shared = {item for item, seen in members.items() if CLASSES[item[0]] == 3 and len(seen) > 1}
    edges: dict[tuple[Id, Id], tuple[int, str]] = {}
    for strength, when, found in rows:
        star = sorted((item for item in found if item not in shared), key=lambda item: (CLASSES[item[0]], item))
        for item in star[1:]:
            key = (star[0], item)
            edges[key] = min(edges.get(key, (strength, when)), (strength, when))
    leader = {item: item for item in members}
    values: dict[Id, dict[tuple[str, str], set[str]]] = {item: {item[:2]: {item[2]}} for item in members}

    def find(item: Id) -> Id:
        while leader[item] != item:
            leader[item] = leader[leader[item]]
            item = leader[item]
        return item

    for left, right in sorted(edges, key=lambda edge: (edges[edge][0], CLASSES[edge[0][0]], edges[edge][1], edge)):
        a, b = find(left), find(right)
        if a == b:
            continue
        union = {key: values[a].get(key, set()) | values[b].get(key, set()) for key in {*values[a], *values[b]}}
        if all(len(found) <= LIMITS.get(key[0], len(found)) for key, found in union.items()):
            leader[b], values[a] = a, union
    return {item: find(item) for item in members}


def accuracy(truth: pl.DataFrame, clusters: dict[Id, Id]) -> tuple[float, float]:
    """Pairwise precision (against persons) and recall (inside what the evidence can link); shared ids left out."""
    names = {leader: number for number, leader in enumerate(dict.fromkeys(clusters.values()))}
    rows = truth.filter(~pl.col("shared"))
    cluster = [
        names[clusters[key]] if key in clusters else -place - 1
        for place, key in enumerate(rows.select("type", "scope", "value").iter_rows())
    ]
    frame = rows.with_columns(cluster=pl.Series(cluster))

    def pairs(*keys: str) -> int:
        size = frame.group_by(*keys).len().get_column("len").cast(pl.Int64)
        return int((size * (size - 1) // 2).sum())

    precision = pairs("cluster", "person_id") / max(1, pairs("cluster"))
    return precision, pairs("cluster", "linkable_group") / max(1, pairs("linkable_group"))
