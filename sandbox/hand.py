"""What people do by hand in WeCom between a pull and a push. Each action changes the state and raises its event."""

from __future__ import annotations

import json
import secrets
from collections.abc import Callable, Mapping
from typing import Any

from sandbox.http import World
from sandbox.state import split
from sandbox.wecom.library import delete_tags

Action = Mapping[str, Any]


class HandError(ValueError):
    """The action names something that does not exist."""


def _contact_event(world: World, change: str, action: Action, **more: str) -> None:
    event = {"Event": "change_external_contact", "ChangeType": change}
    world.raise_event(event | {"UserID": action["userid"], "ExternalUserID": action["external_userid"]} | more)


def _relation(world: World, action: Action) -> Any:
    row = world.state.relation(action["userid"], action["external_userid"])
    if row is None:
        raise HandError(f"no relation of {action['userid']} with {action['external_userid']}")
    return row


def mark(world: World, action: Action) -> None:
    """Staff puts `add` tags on and takes `remove` tags off."""
    row = _relation(world, action)
    tags = [tag for tag in split(row["tag_ids"]) if tag not in action.get("remove", [])]
    tags += [tag for tag in action.get("add", []) if tag not in tags]
    world.state.run("update relations set tag_ids = ? where rid = ?", ",".join(tags), row["rid"])
    if not action.get("silent"):
        _contact_event(world, "edit_external_contact", action)


def remark(world: World, action: Action) -> None:
    row = _relation(world, action)
    world.state.run("update relations set remark = ? where rid = ?", action.get("remark", ""), row["rid"])
    _contact_event(world, "edit_external_contact", action)


def personal_tags(world: World, action: Action) -> None:
    """Staff sets the personal tags of a customer (`tags`: names); they have no id and no app can write them."""
    row = _relation(world, action)
    world.state.run("update relations set personal_tags = ? where rid = ?", ",".join(action["tags"]), row["rid"])
    _contact_event(world, "edit_external_contact", action)


def add_relation(world: World, action: Action) -> None:
    """A customer is added (`half`: without verification, so tag writes fail until the staff adds back)."""
    state, now = world.state, int(world.now())
    if action["userid"] not in state.staff:
        raise HandError(f"no staff {action['userid']}")
    if state.one("select 1 from contacts where external_userid = ?", action["external_userid"]) is None:
        state.run(
            "insert into contacts (external_userid, name, type, gender, unionid, openid) values (?, ?, ?, ?, ?, ?)",
            action["external_userid"], action.get("name", "新客户"), action.get("type", 1), action.get("gender", 0),
            action.get("unionid"), action.get("openid"),
        )  # fmt: skip
    state.run(
        "delete from relations where external_userid = ? and userid = ?", action["external_userid"], action["userid"]
    )
    half = bool(action.get("half"))
    state.run(
        "insert into relations (userid, external_userid, createtime, oper_userid, add_way, state, status)"
        " values (?, ?, ?, ?, ?, ?, ?)",
        action["userid"], action["external_userid"], action.get("createtime", now), action["external_userid"],
        action.get("add_way", 1), action.get("state", ""), "half" if half else "normal",
    )  # fmt: skip
    code = secrets.token_urlsafe(16)
    world.welcome_codes[code] = world.now()
    more = {"WelcomeCode": code} | ({"State": action["state"]} if action.get("state") else {})
    _contact_event(world, "add_half_external_contact" if half else "add_external_contact", action, **more)


def add_back(world: World, action: Action) -> None:
    """The staff of a half relation adds the customer back."""
    row = _relation(world, action)
    world.state.run("update relations set status = 'normal' where rid = ?", row["rid"])
    _contact_event(world, "add_external_contact", action)


def remove_customer(world: World, action: Action) -> None:
    """The staff removes the customer: the relation is over."""
    row = _relation(world, action)
    world.state.run("update relations set status = 'removed', ended_at = ? where rid = ?", int(world.now()), row["rid"])
    _contact_event(
        world, "del_external_contact", action, **({"Source": action["source"]} if action.get("source") else {})
    )


def remove_staff(world: World, action: Action) -> None:
    """The customer removes the staff: one-way, still readable and writable."""
    row = _relation(world, action)
    world.state.run("update relations set status = 'oneway' where rid = ?", row["rid"])
    _contact_event(world, "del_follow_user", action)


def leave(world: World, action: Action) -> None:
    """A staff member leaves the corp; customers wait to be inherited."""
    now = int(world.now())
    if world.state.run("update staff set left_at = ?, status = 5 where userid = ?", now, action["userid"]) == 0:
        raise HandError(f"no staff {action['userid']}")
    world.state.run("update groups set status = 1 where owner = ?", action["userid"])
    world.state.reload()


def transfer(world: World, action: Action) -> None:
    """An admin hands customers over (done at once here): new relations without tags, old ones over."""
    rows = world.state.all("select * from relations where userid = ? and status <> 'removed'", action["userid"])
    wanted = set(action.get("external_userids", [row["external_userid"] for row in rows]))
    for row in [row for row in rows if row["external_userid"] in wanted]:
        old = {"userid": action["userid"], "external_userid": row["external_userid"]}
        if world.state.relation(action["to"], row["external_userid"]) is None:
            add_relation(
                world,
                {
                    "userid": action["to"],
                    "external_userid": row["external_userid"],
                    "add_way": 202,
                    "state": row["state"],
                },
            )
        if action.get("keep_tags"):
            world.state.run("update relations set tag_ids = ? where external_userid = ? and userid = ?",
                            row["tag_ids"], row["external_userid"], action["to"])  # fmt: skip
        remove_customer(world, old | {"source": "DELETE_BY_TRANSFER"})


def _tag_event(world: World, change: str, key: str, kind: str) -> None:
    world.raise_event({"Event": "change_external_tag", "ChangeType": change, "Id": key, "TagType": kind})


def create_tag(world: World, action: Action) -> dict[str, str]:
    """An admin makes a group (by name, joined when it exists) and a tag in the console: no app owns it."""
    state, now = world.state, int(world.now())
    group_id = next((key for key, group in state.groups.items() if group["name"] == action["group"]), "")
    if not group_id:
        group_id = "et" + secrets.token_hex(15)
        state.run("insert into tag_groups values (?, ?, 0, ?, null, 0)", group_id, action["group"], now)
        _tag_event(world, "create", group_id, "tag_group")
    tag_id = "et" + secrets.token_hex(15)
    state.run("insert into tags values (?, ?, ?, 0, ?, null, 0)", tag_id, group_id, action["name"], now)
    state.reload_tags()
    _tag_event(world, "create", tag_id, "tag")
    return {"group_id": group_id, "tag_id": tag_id}


def rename_tag(world: World, action: Action) -> None:
    """An admin renames a tag or a group, whoever made it."""
    if action["id"] in world.state.tags:
        world.state.run("update tags set name = ? where tag_id = ?", action["name"], action["id"])
        kind = "tag"
    elif action["id"] in world.state.groups:
        world.state.run("update tag_groups set name = ? where group_id = ?", action["name"], action["id"])
        kind = "tag_group"
    else:
        raise HandError(f"no tag or group {action['id']}")
    world.state.reload_tags()
    _tag_event(world, "update", action["id"], kind)


def delete_tag(world: World, action: Action) -> None:
    """An admin deletes a tag or a group: one event, whatever it held."""
    doomed = {key for key, tag in world.state.tags.items() if action["id"] in (key, tag["group_id"])}
    if not doomed:
        raise HandError(f"no tag or group {action['id']}")
    kind = "tag" if action["id"] in doomed else "tag_group"
    delete_tags(world.state, doomed)
    _tag_event(world, "delete", action["id"], kind)


def create_group(world: World, action: Action) -> None:
    """Staff opens a customer group (`chat_id` begins with wr)."""
    now = int(world.now())
    world.state.run(
        "insert into groups (chat_id, name, owner, create_time) values (?, ?, ?, ?)",
        action["chat_id"], action["name"], action["owner"], now,
    )  # fmt: skip
    world.state.run(
        "insert into group_members (chat_id, member_id, type, join_time, join_scene) values (?, ?, 1, ?, 1)",
        action["chat_id"], action["owner"], now,
    )  # fmt: skip
    world.raise_event({"Event": "change_external_chat", "ChangeType": "create", "ChatId": action["chat_id"]})


def join_group(world: World, action: Action) -> None:
    world.state.run(
        "insert or replace into group_members values (?, ?, ?, ?, ?, ?, ?, ?, ?)",
        action["chat_id"], action["external_userid"], 2, action.get("unionid"), int(world.now()),
        action.get("join_scene", 3),
        action.get("invitor"), action.get("state"), action.get("name", ""),
    )  # fmt: skip
    _group_event(world, action, "add_member", "JoinScene", str(action.get("join_scene", 3)))


def quit_group(world: World, action: Action) -> None:
    world.state.run(
        "delete from group_members where chat_id = ? and member_id = ?", action["chat_id"], action["external_userid"]
    )
    _group_event(world, action, "del_member", "QuitScene", str(action.get("quit_scene", 0)))


def _group_event(world: World, action: Action, detail: str, scene: str, value: str) -> None:
    event = {
        "Event": "change_external_chat",
        "ChangeType": "update",
        "ChatId": action["chat_id"],
        "UpdateDetail": detail,
    }
    world.raise_event(event | {scene: value, "MemChangeCnt": "1"})


def dismiss_group(world: World, action: Action) -> None:
    world.state.run("update groups set dismissed = 1 where chat_id = ?", action["chat_id"])
    world.raise_event({"Event": "change_external_chat", "ChangeType": "dismiss", "ChatId": action["chat_id"]})


def confirm_message(world: World, action: Action) -> None:
    """The staff of a corp message confirms it: what is his goes out."""
    now = int(world.now())
    world.state.run(
        "update message_sends set status = 1, send_time = ? where msgid = ? and userid = ? and status = 0",
        now, action["msgid"], action["userid"],
    )  # fmt: skip


def set_scope(world: World, action: Action) -> None:
    """An admin puts staff, new ones too, inside or outside the customer-contact scope."""
    world.state.run(
        "insert into staff (userid, name, in_scope) values (?, ?, ?)"
        " on conflict (userid) do update set in_scope = excluded.in_scope",
        action["userid"], action.get("name", action["userid"]), int(action["in_scope"]),
    )  # fmt: skip
    world.state.reload()


def set_app(world: World, action: Action) -> None:
    """An admin changes an app: `callable`, `enabled`, `visible` and `trusted_ips` (list or null), `secret`."""
    for name in ("callable", "enabled", "secret"):
        if name in action:
            world.state.run(f"update apps set {name} = ? where agentid = ?", action[name], action["agentid"])
    for name in ("visible", "trusted_ips"):
        if name in action:
            value = None if action[name] is None else json.dumps(action[name])
            world.state.run(f"update apps set {name} = ? where agentid = ?", value, action["agentid"])
    world.state.reload()


def unsubscribe(world: World, action: Action) -> None:
    """A follower leaves the Official Account."""
    world.state.run("update oa_followers set subscribe = 0 where openid = ?", action["openid"])


ACTIONS: dict[str, Callable[[World, Action], Any]] = {
    action.__name__: action
    for action in (
        mark, remark, personal_tags, add_relation, add_back, remove_customer, remove_staff, leave, transfer,
        create_tag, rename_tag, delete_tag,
        create_group, join_group, quit_group, dismiss_group, confirm_message, set_scope, set_app, unsubscribe,
    )
}  # fmt: skip


def perform(world: World, action: Action) -> Any:
    """Do one action, `{"do": "mark", …}`. Raises `HandError` when it is unknown or names nothing that exists."""
    name = action.get("do")
    if name not in ACTIONS:
        raise HandError(f"unknown action {name!r}; one of {', '.join(ACTIONS)}")
    try:
        return ACTIONS[name](world, action)
    except KeyError as missing:
        raise HandError(f"{name} needs {missing.args[0]!r}") from missing
