"""WeCom endpoints beyond the tag job: hand-over of customers, corp messages, join ways, id conversion."""

from __future__ import annotations

from sandbox.http import Endpoint

ENDPOINTS: dict[str, Endpoint] = {}
