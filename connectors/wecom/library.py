"""The corp's tag library: reading it, and carrying out a plan's steps on it without losing sight of a tag we made."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import Any

from cdp.errors import FatalError
from cdp.sync.ledger import Ledger
from cdp.sync.library import adoption
from cdp.sync.model import GroupSpec, LibraryChange, RegisteredTag, RegisterState, Remote, RemoteTag
from connectors.wecom.client import WeComClient
from connectors.wecom.replies import WeComError

TAGS_PER_CALL = 50
_ON_THE_WAY: dict[str, RegisterState] = {"revive": "active", "drain": "draining", "empty": "empty"}


def read_remote(client: WeComClient) -> Remote:
    """The library and the staff this app sees, as they are now. Raises `WeComError`."""
    tags = [tag for group in client.tag_library() for tag in remote_tags(group)]
    return Remote(tags=tuple(tags), staff=frozenset(client.follow_users()))


def remote_tags(group: Mapping[str, Any]) -> list[RemoteTag]:
    """The tags of one group as WeCom gives it."""
    return [
        RemoteTag(
            tag_id=str(tag["id"]),
            name=str(tag["name"]),
            order=int(tag.get("order") or 0),
            group_id=str(group["group_id"]),
            group_name=str(group["group_name"]),
            group_order=int(group.get("order") or 0),
        )
        for tag in group.get("tag") or ()
    ]


def apply_library(
    client: WeComClient,
    ledger: Ledger,
    changes: Sequence[LibraryChange],
    *,
    now: Callable[[], datetime],
    group_orders: Mapping[str, int] | None = None,
) -> int:
    """Carry out *changes* in order; returns the calls made. Idempotent: what is already so is not done again, and a
    tag created just before a crash is found by its intent and registered. Raises `WeComError`, or `FatalError` when a
    group of our name was made by somebody else meanwhile."""
    register = {tag.key: tag for tag in ledger.register() if tag.state != "retired"}
    before = sum(client.calls.values())
    creations = [change for change in changes if change.action == "create" and change.key not in register]
    for group in dict.fromkeys(change.group for change in creations):
        wanted = [change for change in creations if change.group == group]
        _create(client, ledger, register, wanted, (group_orders or {}).get(group, 0), now)
    for change in changes:
        if change.action != "create":
            _change(client, ledger, register, change, now)
    return sum(client.calls.values()) - before


def _create(
    client: WeComClient,
    ledger: Ledger,
    register: dict[str, RegisteredTag],
    wanted: Sequence[LibraryChange],
    order: int,
    now: Callable[[], datetime],
) -> None:
    """Create the missing tags of one group, and the group with its first tag."""
    group, name = wanted[0].group, wanted[0].detail
    ours = next((tag.group_id for tag in register.values() if tag.group == group), None)
    begun = ledger.intents()
    there = {tag.name: tag for tag in read_remote_group(client, name, ours)}
    if there and ours is None and not any(change.key in begun for change in wanted):
        raise FatalError(
            f"WeCom already has a tag group `{name}` that this app did not register",
            hint="name ours differently (write_back in config/tags.yaml), or `cdp sync adopt` it if our app made it",
        )
    found = [change for change in wanted if change.name in there and change.key in begun]
    missing = [change for change in wanted if change not in found]
    ledger.save_registered([registered(change, there[change.name]) for change in found], now=now())
    if found:
        ours = there[found[0].name].group_id
    for start in range(0, len(missing), TAGS_PER_CALL):
        slice_ = missing[start : start + TAGS_PER_CALL]
        ledger.intend([(str(change.key), name, change.name) for change in slice_], now=now())
        made = client.add_tags(
            [(change.name, change.order) for change in slice_], group_id=ours, group_name=name, order=order
        )
        tags = {tag.name: tag for tag in remote_tags(made)}
        ours = str(made["group_id"])
        ledger.save_registered([registered(change, tags[change.name]) for change in slice_], now=now())
    register.update({tag.key: tag for tag in ledger.register() if tag.group == group and tag.state != "retired"})


def read_remote_group(client: WeComClient, name: str, group_id: str | None) -> list[RemoteTag]:
    """The tags of the group with that id, else of that name; empty when there is none."""
    tags = [tag for group in client.tag_library() for tag in remote_tags(group)]
    return [tag for tag in tags if (tag.group_id == group_id if group_id else tag.group_name == name)]


def registered(change: LibraryChange, there: RemoteTag) -> RegisteredTag:
    """The register row of a tag just created or adopted."""
    key = str(change.key)
    return RegisteredTag(
        tag_id=there.tag_id,
        group_id=there.group_id,
        key=key,
        group=change.group,
        value=key.removeprefix(f"{change.group}/"),
        name=there.name,
        group_name=there.group_name,
        order=change.order,
        group_order=there.group_order,
    )


def _change(
    client: WeComClient,
    ledger: Ledger,
    register: dict[str, RegisteredTag],
    change: LibraryChange,
    now: Callable[[], datetime],
) -> None:
    mine = register.get(change.key or "")
    if change.action == "rename" and change.key is None:
        client.edit_tag(str(change.tag_id), name=change.name)
        same = [tag for tag in register.values() if tag.group_id == change.tag_id]
        ledger.save_registered([replace(tag, group_name=change.name) for tag in same], now=now())
    elif change.action == "reorder" and change.key is None:
        client.edit_tag(str(change.tag_id), order=change.order)
        same = [tag for tag in register.values() if tag.group_id == change.tag_id]
        ledger.save_registered([replace(tag, group_order=change.order) for tag in same], now=now())
    elif mine is None or not change.acts:
        return
    elif change.action == "rename":
        client.edit_tag(mine.tag_id, name=change.name)
        ledger.save_registered([replace(mine, name=change.name)], now=now())
    elif change.action == "reorder":
        client.edit_tag(mine.tag_id, order=change.order)
        ledger.save_registered([replace(mine, order=change.order)], now=now())
    elif change.action in _ON_THE_WAY:
        ledger.save_registered([replace(mine, state=_ON_THE_WAY[change.action], since="")], now=now())
    elif change.action == "delete":
        _delete(client, mine)
        ledger.save_registered([replace(mine, state="retired", since="")], now=now())
    register |= {tag.key: tag for tag in ledger.register() if tag.state != "retired"}


def _delete(client: WeComClient, tag: RegisteredTag) -> None:
    try:
        client.delete_tags([tag.tag_id])
    except WeComError as error:
        if error.errcode != 40068:  # already gone: what we wanted
            raise


def adopt_group(
    client: WeComClient,
    ledger: Ledger,
    group_name: str,
    groups: Sequence[GroupSpec],
    remote: Remote,
    *,
    who: str,
    now: Callable[[], datetime],
) -> int:
    """Register the tags of an existing group that this app created; returns how many. Raises `ConfigError` where the
    app may not, with what to do instead."""
    there = [tag for tag in remote.tags if tag.group_name == group_name]
    changes = adoption(group_name, groups, remote, created_by_app=bool(there) and _may_edit(client, there[0]))
    by_id = {tag.tag_id: tag for tag in there}
    adopted = [registered(change, by_id[str(change.tag_id)]) for change in changes]
    ledger.save_registered(adopted, now=now())
    ledger.audit(who, "adopt", now=now(), group=group_name, tags=len(adopted))
    return len(adopted)


def _may_edit(client: WeComClient, tag: RemoteTag) -> bool:
    """Whether WeCom lets this app edit the tag: asked by giving it the name it has."""
    try:
        client.edit_tag(tag.tag_id, name=tag.name)
    except WeComError as error:
        if error.kind == "RETRY":
            raise
        return False
    return True
