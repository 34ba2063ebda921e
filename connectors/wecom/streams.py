"""What the WeCom source gives, stream by stream. Pulled ones are snapshots: a clean pull holds everything there is.

One row of `relations` is one (staff, customer) pair: WeCom keeps remarks, tags and the time of adding per pair, not per
customer. Instants are UTC. Source: the customer-contact interfaces (客户联系) of the WeCom API.
"""

from __future__ import annotations

from cdp.streams import Column, Stream
from connectors.wecom.callbacks import CALLBACKS_STREAM

FAMILY = "wecom"


def _stream(name: str, key: tuple[str, ...], description: str, *columns: Column) -> Stream:
    return Stream(family=FAMILY, name=name, key=key, columns=columns, mode="snapshot", description=description)


STAFF = _stream(
    "staff",
    ("corpid", "userid"),
    "One row per staff member who may have customers and whom the app can see.",
    Column("userid", required=True, description="staff id inside the corp; case-sensitive"),
    Column("corpid", required=True),
    Column("name", sensitivity="personal", description="empty where the app may not read the address book"),
    Column("department", "json", description="department ids"),
    Column("status", "int", description="1 active, 2 disabled, 4 not activated, 5 left"),
)

RELATIONS = _stream(
    "relations",
    ("corpid", "userid", "external_userid"),
    "One row per (staff, customer) pair.",
    Column("userid", required=True),
    Column("external_userid", required=True),
    Column("corpid", required=True),
    Column("unionid", sensitivity="personal", description="WeChat users only, if an open-platform account is bound"),
    Column("type", "int", description="1 WeChat user, 2 WeCom user"),
    Column("name", sensitivity="personal"),
    Column("gender", "int", description="0 unknown, 1 male, 2 female"),
    Column("avatar", sensitivity="personal"),
    Column("corp_name", description="type 2 only"),
    Column("position", description="type 2 only"),
    Column("remark", sensitivity="personal", description="what this staff member calls the customer"),
    Column("description", sensitivity="personal"),
    Column("added_at", "timestamp", description="start of this relation"),
    Column("tag_ids", "text_list", description="corp and strategy tags on this pair; personal tags have no id"),
    Column("remark_mobiles", "text_list", sensitivity="personal"),
    Column("oper_userid", description="who started the relation: staff, the customer, a sharer or an admin"),
    Column("add_way", "int", description="how the customer was added (来源); unknown values are kept"),
    Column("state", description="channel parameter of the contact way (活码) or acquisition link"),
    Column("read_at", "timestamp", description="empty from the API, so that an unchanged pair is no new version"),
)

TAGS = _stream(
    "tags",
    ("corpid", "tag_id"),
    "One row per corp tag of the library.",
    Column("tag_id", required=True),
    Column("corpid", required=True),
    Column("tag_name"),
    Column("group_id"),
    Column("group_name"),
    Column("group_order", "int", description="higher shows first"),
    Column("tag_order", "int", description="higher shows first"),
    Column("created_at", "timestamp"),
)

GROUP_CHATS = _stream(
    "group_chats",
    ("corpid", "chat_id"),
    "One row per customer group (客户群).",
    Column("chat_id", required=True),
    Column("corpid", required=True),
    Column("name"),
    Column("owner", description="userid of the owning staff member"),
    Column("admins", "text_list", description="userids of the administrators"),
    Column("status", "int", description="0 normal, 1 owner left, 2 inheriting, 3 inherited"),
    Column("created_at", "timestamp"),
)

GROUP_MEMBERS = _stream(
    "group_members",
    ("corpid", "chat_id", "member_id"),
    "One row per member of a customer group.",
    Column("chat_id", required=True),
    Column("member_id", required=True, description="userid of staff, external_userid of a customer"),
    Column("corpid", required=True),
    Column("member_type", "int", description="1 staff, 2 external"),
    Column("unionid", sensitivity="personal"),
    Column("join_at", "timestamp"),
    Column("join_scene", "int", description="1 invited, 2 link, 3 QR code"),
    Column("invitor", description="userid of who invited"),
    Column("state", description="channel parameter of the group join way"),
    Column("name", sensitivity="personal"),
)

CONTACT_WAYS = _stream(
    "contact_ways",
    ("corpid", "config_id"),
    "One row per contact way (活码) made through the API.",
    Column("config_id", required=True),
    Column("corpid", required=True),
    Column("type", "int", description="1 one employee, 2 several"),
    Column("scene", "int", description="1 mini program, 2 QR code"),
    Column("remark"),
    Column("state", description="channel parameter that relations made by it carry"),
    Column("skip_verify", "bool"),
    Column("users", "json", description="userids it leads to"),
    Column("is_temp", "bool"),
)

ACQUISITION_LINKS = _stream(
    "acquisition_links",
    ("corpid", "link_id"),
    "One row per acquisition link (获客链接).",
    Column("link_id", required=True),
    Column("corpid", required=True),
    Column("name"),
    Column("url"),
    Column("users", "json"),
    Column("created_at", "timestamp"),
)

STAFF_BEHAVIOR = Stream(
    family=FAMILY,
    name="staff_behavior",
    key=("corpid", "userid", "stat_at"),
    mode="versioned",
    description="One row per employee and day: how they talked to customers. A day is read again on the next two.",
    columns=(
        Column("userid", required=True),
        Column("corpid", required=True),
        Column("stat_at", "timestamp", required=True, description="start of the day"),
        Column("chat_count", "int"),
        Column("message_count", "int"),
        Column("reply_percentage", "float", description="empty without chats"),
        Column("reply_minutes", "int", description="mean time to the first reply; empty without chats"),
        Column("negative_feedback_count", "int", description="customers who deleted or blocked the employee"),
        Column("new_apply_count", "int"),
        Column("new_contact_count", "int"),
    ),
)

CUSTOMER_TAGS = _stream(
    "customer_tags",
    ("corpid", "userid", "external_userid", "type", "tag_id", "tag_name"),
    "One row per tag on a pair, personal (个人) and strategy (规则组) ones too. Takes one call per customer.",
    Column("userid", required=True),
    Column("external_userid", required=True),
    Column("corpid", required=True),
    Column("type", "int", description="1 corp, 2 personal, 3 strategy"),
    Column("tag_id", description="empty for personal tags: they have none"),
    Column("tag_name"),
    Column("group_name"),
)

MESSAGES = Stream(
    family=FAMILY,
    name="messages",
    key=("corpid", "msgid", "userid", "external_userid", "chat_id"),
    mode="versioned",
    description="One row per corp message (企业群发) and receiver, of staff who confirmed it. Read again for"
    " thirty days. Takes one call per message and employee.",
    columns=(
        Column("msgid", required=True),
        Column("userid", required=True, description="staff who confirmed it and in whose name it went"),
        Column("external_userid", description="the customer it went to; empty for a group"),
        Column("chat_id", description="the customer group it went to; empty for a customer"),
        Column("corpid", required=True),
        Column("chat_type", description="single, group"),
        Column("creator", description="userid of who made it; empty where the API made it for several"),
        Column("create_type", "int", description="0 made by the corp, 1 by staff themselves"),
        Column("content", description="its text; empty for pictures and cards alone"),
        Column("created_at", "timestamp"),
        Column("status", "int", description="0 not sent, 1 sent, 2 not a friend, 3 has had its messages of the day"),
        Column("sent_at", "timestamp", description="empty while not sent"),
    ),
)

# Pulled unless a source says otherwise.
DEFAULT: tuple[Stream, ...] = (STAFF, RELATIONS, TAGS, GROUP_CHATS, GROUP_MEMBERS, CALLBACKS_STREAM)
# Pulled where a source's `streams` names them: they need further rights, or many calls.
OPTIONAL: tuple[Stream, ...] = (CONTACT_WAYS, ACQUISITION_LINKS, STAFF_BEHAVIOR, CUSTOMER_TAGS, MESSAGES)
STREAMS: tuple[Stream, ...] = DEFAULT + OPTIONAL
