"""What an Official Account gives."""

from __future__ import annotations

from cdp.streams import Stream
from connectors.canonical import columns

FOLLOWERS = Stream(
    "official_account",
    "followers",
    ("appid", "openid"),
    columns(
        """openid!, appid!, unionid, subscribe:bool, subscribed_at:timestamp, subscribe_scene, qr_scene_str, remark,
        tag_ids:text_list, language"""
    ),
    mode="snapshot",
    description="one follower of one account; who unfollows is marked deleted",
)
STREAMS = (FOLLOWERS,)
