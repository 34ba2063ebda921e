"""What the server answers when it refuses: a code of the reference and a short text."""

from __future__ import annotations

MESSAGES = {
    -1: "system busy",
    6000: "data version conflict",
    40001: "invalid credential",
    40003: "invalid userid",
    40013: "invalid corpid",
    40014: "invalid access_token",
    40029: "invalid code",
    40032: "invalid openid list size",
    40033: "invalid charset: the request body holds escaped unicode",
    40035: "invalid parameter",
    40050: "invalid chat id",
    40058: "invalid parameter value",
    40063: "some parameters are empty or not json",
    40068: "invalid tagid",
    40071: "tag name already exists",
    40072: "invalid tag name length",
    40096: "invalid external userid",
    40097: "takeover user already has this customer",
    40099: "customer has been transferred recently",
    40126: "corp tag num exceeds the limit",
    41001: "access_token missing",
    41002: "corpid missing",
    41004: "corpsecret missing",
    41009: "userid missing",
    41017: "tagid missing",
    41018: "tag name missing",
    41035: "external_userid missing",
    41041: "too many users in contact way",
    41045: "contact way num exceeds the limit",
    41046: "msgid missing",
    41047: "invalid msgid",
    41048: "no customer to send",
    41050: "invalid welcome code",
    41054: "user not activated",
    42001: "access_token expired",
    45009: "api freq out of limit",
    45033: "api concurrent out of limit",
    45035: "the same relation is being changed",
    45056: "too many tags",
    45058: "can not modify system tag",
    45059: "too many tags of one user",
    45157: "invalid or repeated tag name",
    45158: "tag name too long",
    45159: "invalid tagid or the user is being tagged",
    48001: "api unauthorized",
    48002: "api forbidden",
    49003: "openid of another account",
    49008: "chat dismissed",
    50002: "userid out of app scope",
    50003: "app disabled",
    50005: "user does not follow",
    60011: "no privilege to access user",
    60020: "not allow to access from your ip",
    60111: "userid not found",
    60123: "invalid party id",
    81017: "too many objects requested, narrow the filter",
    84061: "not external contact",
    84074: "no external contact privilege",
    90500: "chat can not be transferred",
    600018: "invalid time range",
}


class ApiError(Exception):
    """Refuse the call with `errcode` *code*; HTTP status stays 200."""

    def __init__(self, code: int, text: str | None = None, *, keep: bool = False) -> None:
        super().__init__(code)
        self.code = code
        self.text = text or MESSAGES.get(code, "error")
        self.keep = keep  # what was written before the refusal stays written
