"""The tag library: what we want against what is registered and what WeCom holds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from datetime import datetime
from typing import get_args

from cdp.config import nearest
from cdp.errors import ConfigError
from cdp.sync.config import Library, parse_duration
from cdp.sync.model import LIVE, GroupSpec, LibraryAction, LibraryChange, RegisteredTag, Remote, RemoteTag


def lint(groups: Sequence[GroupSpec], limits: Library, *, foreign_tags: int = 0) -> list[str]:
    """Check names and budget before any call. Raises `ConfigError` that lists every fault with its row number (the
    tag's place in the whole library, from 1); returns warnings (names longer than the console shows)."""
    faults: list[str] = []
    warnings: list[str] = []
    names: dict[str, str] = {}
    row = 0
    for group in groups:
        faults += _name_faults(f"group `{group.key}`", group.name, limits)
        if group.name in names:
            faults.append(f"group `{group.key}`: the name `{group.name}` is also that of group `{names[group.name]}`")
        names[group.name] = group.key
        seen: dict[str, int] = {}
        for tag in group.tags:
            row += 1
            faults += _name_faults(f"row {row}, tag `{tag.key}`", tag.name, limits)
            if tag.name in seen:
                faults.append(
                    f"row {row}, tag `{tag.key}`: `{tag.name}` stands in this group already, row {seen[tag.name]}"
                )
            seen.setdefault(tag.name, row)
            if len(tag.name) > limits.warn_name:
                warnings.append(
                    f"row {row}, tag `{tag.key}`: longer than {limits.warn_name} characters; some screens cut it"
                )
    if row + foreign_tags > limits.max_tags:
        faults.append(
            f"row {limits.max_tags - foreign_tags + 1}: {row} tags of ours and {foreign_tags} of others pass the corp's"
            f" {limits.max_tags}"
        )
    if faults:
        raise ConfigError("tag library: " + "\n".join(faults), hint="shorten names or drop tags in config/tags.yaml")
    return warnings


def _name_faults(where: str, name: str, limits: Library) -> list[str]:
    if not name.strip():
        return [f"{where}: the name is empty"]
    if len(name) > limits.max_name:
        return [f"{where}: the name has {len(name)} characters, at most {limits.max_name} are allowed"]
    return []


def diff(
    groups: Sequence[GroupSpec],
    register: Sequence[RegisteredTag],
    remote: Remote,
    limits: Library,
    *,
    now: datetime,
    holders: dict[str, int] | None = None,
) -> tuple[LibraryChange, ...]:
    """Steps that bring WeCom's library to *groups*: create, rename, reorder, drain, empty, delete; in that order.

    A tag no longer wanted is first drained (its holders lose it by ops). Once it is read to have no *holders* (tag_id
    -> relations, anyone's) it counts as empty, and when it has been so for the wait, it is deleted. Renames and
    reorders keep the id.
    """
    by_key = {tag.key: tag for tag in register if tag.state in (*LIVE, "broken")}
    on_remote = {tag.tag_id: tag for tag in remote.tags}
    wanted = {tag.key: (group, tag) for group in groups for tag in group.tags}
    changes: list[LibraryChange] = []
    for key, (group, tag) in wanted.items():
        mine = by_key.get(key)
        if mine is None:
            changes.append(LibraryChange("create", group.key, key, tag.name, order=tag.order, detail=group.name))
            continue
        if mine.state in ("draining", "empty"):
            changes.append(LibraryChange("revive", group.key, key, tag.name, mine.tag_id))
        if mine.tag_id in on_remote:
            changes += _edits(group, tag.key, tag.name, tag.order, mine, on_remote[mine.tag_id])
    changes += _group_edits(groups, by_key, on_remote)
    for key, mine in by_key.items():
        if key not in wanted:
            there = mine.tag_id in on_remote
            changes += _retire(mine, limits, now, (holders or {}).get(mine.tag_id, 0) if there else None)
    order = get_args(LibraryAction)
    return tuple(
        sorted(changes, key=lambda change: (order.index(change.action), change.group, -change.order, change.key or ""))
    )


def _edits(
    group: GroupSpec, key: str, name: str, order: int, mine: RegisteredTag, there: RemoteTag
) -> list[LibraryChange]:
    """A new name is ours to give where WeCom still shows the one we registered, or shows the new one already; else the
    ownership gate speaks."""
    changes = []
    if name != mine.name and there.name in (mine.name, name):
        changes.append(LibraryChange("rename", group.key, key, name, mine.tag_id, detail=mine.name))
    if order != mine.order:
        changes.append(LibraryChange("reorder", group.key, key, name, mine.tag_id, order=order))
    return changes


def _group_edits(
    groups: Sequence[GroupSpec], by_key: dict[str, RegisteredTag], on_remote: dict[str, RemoteTag]
) -> list[LibraryChange]:
    changes = []
    for group in groups:
        mine = next((by_key[tag.key] for tag in group.tags if tag.key in by_key), None)
        if mine is None or mine.tag_id not in on_remote:
            continue
        if mine.group_name != group.name:
            changes.append(LibraryChange("rename", group.key, None, group.name, mine.group_id, detail=mine.group_name))
        if mine.group_order != group.order:
            changes.append(LibraryChange("reorder", group.key, None, group.name, mine.group_id, order=group.order))
    return changes


def _retire(mine: RegisteredTag, limits: Library, now: datetime, holders: int | None) -> list[LibraryChange]:
    """The next step of a tag on its way out; *holders* is None when WeCom has it no more."""
    step = LibraryChange("drain", mine.group, mine.key, mine.name, mine.tag_id)
    if holders is None:
        return [replace(step, action="delete")]
    if mine.state in ("active", "broken") or (mine.state == "empty" and holders):
        return [step]
    if holders:
        return [replace(step, holders=holders)]
    if mine.state == "draining":
        return [replace(step, action="empty")]
    ends = datetime.fromisoformat(mine.since) + parse_duration(limits.retire_wait)
    return [replace(step, action="delete") if now >= ends else replace(step, action="empty", deleted_from=f"{ends:%F}")]


def ownership_faults(
    register: Sequence[RegisteredTag], remote: Remote, wanted: Mapping[str, str] | None = None
) -> list[tuple[str, str, str]]:
    """Registered tags that WeCom no longer shows as we left them: (key, zh, en) each. A missing tag was deleted by
    somebody; a tag of another name, or in another group, was renamed or moved by somebody. *wanted*: key -> name of the
    tags we want from now on (all, when None): one not wanted may be missing, and a name we want is no fault."""
    on_remote = {tag.tag_id: tag for tag in remote.tags}
    faults = []
    for tag in register:
        if tag.state not in (*LIVE, "broken"):
            continue
        there = on_remote.get(tag.tag_id)
        if there is None:
            if wanted is None or tag.key in wanted:
                zh = f"标签已在企业微信中被删除；确认后用 cdp tags retire {tag.key}，下次计划会重建"
                en = f"the tag has been deleted in WeCom: `cdp tags retire {tag.key}`, and the next plan makes it anew"
                faults.append((tag.key, zh, en))
        elif there.name not in (tag.name, (wanted or {}).get(tag.key)):
            zh = f"标签被改名为「{there.name}」；请改回，或在 sync.yaml 的 names 中采用"
            en = f"the tag has been renamed to `{there.name}`: rename it back, or take the name in sync.yaml (names)"
            faults.append((tag.key, zh, en))
        elif there.group_id != tag.group_id:
            faults.append((tag.key, "标签被移到其他标签组", "the tag has been moved to another group"))
    return faults


def adoption(
    group_name: str, groups: Sequence[GroupSpec], remote: Remote, *, created_by_app: bool
) -> list[LibraryChange]:
    """Steps to take over the existing WeCom group *group_name* for the group of the same name in tags.yaml.

    Raises `ConfigError` when there is no such group, or when another app or a person created it (*created_by_app* is
    found by an edit that changes nothing): then only a parallel group is possible.
    """
    spec = next((group for group in groups if group.name == group_name), None)
    if spec is None:
        known = [group.name for group in groups]
        raise ConfigError(f"no tag group is written to `{group_name}`{nearest(group_name, known)}")
    there = [tag for tag in remote.tags if tag.group_name == group_name]
    if not there:
        raise ConfigError(f"WeCom has no tag group `{group_name}`", hint="the next plan creates it")
    if not created_by_app:
        raise ConfigError(
            f"the tag group `{group_name}` was not created by this app, and WeCom lets an app change only its own",
            hint=f"name ours differently, e.g. `{group_name}·CDP`, under write_back in config/tags.yaml",
        )
    names = {tag.name: tag for tag in there}
    return [
        LibraryChange("adopt", spec.key, tag.key, tag.name, names[tag.name].tag_id, order=names[tag.name].order)
        for tag in spec.tags
        if tag.name in names
    ]
