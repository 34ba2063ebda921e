"""WeCom endpoints, by subject. Handlers read one `Call` and run in one transaction."""

from __future__ import annotations

from sandbox.http import Endpoint
from sandbox.wecom import behaviour, customers, groups, library, marks, messages, staff, transfer, ways

ENDPOINTS: dict[str, Endpoint] = {
    **staff.ENDPOINTS,
    **customers.ENDPOINTS,
    **library.ENDPOINTS,
    **marks.ENDPOINTS,
    **groups.ENDPOINTS,
    **ways.ENDPOINTS,
    **behaviour.ENDPOINTS,
    **transfer.ENDPOINTS,
    **messages.ENDPOINTS,
}
