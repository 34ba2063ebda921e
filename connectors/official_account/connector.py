"""Followers of one Official Account as a source."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

import polars as pl

from cdp.errors import CdpError, RetriableError
from cdp.streams import POLARS_TYPES, Batch, Reject, SourceCheck, Stream
from connectors.official_account.client import OfficialAccountClient
from connectors.official_account.streams import FOLLOWERS
from connectors.registry import SourceContext
from connectors.sample import sample
from connectors.settings import resolve

DETAILS_PER_CALL = 100
_SCHEMA = {column.name: POLARS_TYPES[column.type] for column in FOLLOWERS.columns}


def build(context: SourceContext) -> OfficialAccountConnector:
    settings, where = context.settings, f"sources.{context.name}"
    given = {
        key: resolve(getattr(settings, key), context.environment, context.root, where=f"{where}.{key}")
        for key in ("base_url", "appid", "secret")
    }
    return OfficialAccountConnector(OfficialAccountClient(given["base_url"], given["appid"], given["secret"]))


class OfficialAccountConnector:
    """All followers, page by page; each page is one batch and one point to resume from."""

    def __init__(self, client: OfficialAccountClient) -> None:
        self.client = client

    def streams(self) -> tuple[Stream, ...]:
        return (FOLLOWERS,)

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        """Every follower of now. The pull is complete when as many came as the account says it has.

        Someone may leave while pages are read; with fewer rows than `total` nobody is marked deleted this time.
        """
        try:
            yield from self._pages(stream, state)
        finally:
            self.client.close()

    def _pages(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        after, seen = str(state.get("next_openid", "")), int(state.get("seen", 0))
        while True:
            page = self.client.followers(after)
            openids = list((page.get("data") or {}).get("openid") or [])
            following = str(page.get("next_openid") or "")
            if openids and following and following == after:
                raise RetriableError("Official Account `user/get`: the same page came twice", hint="run again")
            if openids:
                seen += len(openids)
                frame, rejects = self._details(openids)
                yield Batch(stream.name, frame, {"next_openid": following, "seen": seen}, rejects)
            if following in ("", after):
                complete = seen >= int(page.get("total") or 0)
                yield Batch(stream.name, pl.DataFrame(schema=_SCHEMA), {}, complete=complete)
                return
            after = following

    def _details(self, openids: Sequence[str]) -> tuple[pl.DataFrame, tuple[Reject, ...]]:
        """What is known of *openids*; one of whom nothing readable came is a reject, not a follower who has left."""
        infos: list[Any] = []
        for start in range(0, len(openids), DETAILS_PER_CALL):
            infos += self.client.follower_details(list(openids[start : start + DETAILS_PER_CALL]))
        return read_followers(self.client.appid, openids, infos)

    def check(self) -> SourceCheck:
        try:
            page = self.client.followers("")
            openids = list((page.get("data") or {}).get("openid") or [])[:5]
            frame, _ = self._details(openids)
        except CdpError as error:
            return SourceCheck(False, (("connect", False, error.message),))
        finally:
            self.client.close()
        steps = (("connect", True, "token granted"), ("followers", True, f"{page.get('total', 0)} in all"))
        return SourceCheck(True, steps, sample(frame, FOLLOWERS))


def read_followers(appid: str, openids: Sequence[str], infos: Sequence[Any]) -> tuple[pl.DataFrame, tuple[Reject, ...]]:
    """A row or a reject for each of *openids*, in their order. *infos*: what `user/info/batchget` answered."""
    told = {info["openid"]: info for info in infos if isinstance(info, dict) and isinstance(info.get("openid"), str)}
    rows, rejects = [], []
    for number, openid in enumerate(openids, start=1):
        if openid not in told:
            rejects.append(Reject("no details of this follower came", json.dumps({"openid": openid}), number, "openid"))
            continue
        try:
            rows.append(_row(appid, told[openid]) | {"_row_number": number})
        except (TypeError, ValueError, OverflowError, OSError):
            raw = json.dumps(told[openid], ensure_ascii=False, default=str)
            rejects.append(Reject("not of the documented shape", raw, number))
    schema = {**_SCHEMA, "_row_number": pl.Int64()}
    return pl.DataFrame(rows, schema=schema, orient="row"), tuple(rejects)


def _text(value: Any) -> str | None:
    return str(value) if value not in (None, "") else None


def _row(appid: str, info: Mapping[str, Any]) -> dict[str, Any]:
    since = info.get("subscribe_time")
    return {
        "openid": info.get("openid"),
        "appid": appid,
        "unionid": _text(info.get("unionid")),
        "subscribe": bool(info.get("subscribe")),
        "subscribed_at": datetime.fromtimestamp(since, UTC) if since else None,
        "subscribe_scene": _text(info.get("subscribe_scene")),
        "qr_scene_str": _text(info.get("qr_scene_str")),
        "remark": _text(info.get("remark")),
        "tag_ids": [str(tag) for tag in info.get("tagid_list") or []],
        "language": _text(info.get("language")),
    }
