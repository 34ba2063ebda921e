"""What connectors of JSON APIs share: calls with back-off by error class, and records as a frame of text columns."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx
import orjson
import polars as pl
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from cdp.errors import FatalError, RetriableError

_ATTEMPTS = 6


class JsonApi:
    """GET calls of one API. *name* stands in errors; *transport* and *sleep* are given by tests.

    Time-outs, broken connections, 429 and 5xx are tried again; any other refusal raises `FatalError` at once. No key
    and nothing of a reply's body goes into a message.
    """

    def __init__(
        self,
        name: str,
        base_url: str,
        headers: Mapping[str, str],
        *,
        transport: httpx.BaseTransport | None = None,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self.name, self._sleep = name, sleep
        self._http = httpx.Client(base_url=base_url, headers=headers, timeout=30, transport=transport)

    def get(self, path: str, query: Mapping[str, str]) -> Any:
        """The JSON that *path* answers; empty values of *query* are left out."""
        retrying = Retrying(
            retry=retry_if_exception_type(RetriableError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=20),
            sleep=self._sleep,
            reraise=True,
        )
        return retrying(self._once, path, {name: value for name, value in query.items() if value})

    def _once(self, path: str, query: Mapping[str, str]) -> Any:
        where = f"{self.name} `{path}`"
        try:
            response = self._http.get(path, params=query)
        except httpx.TransportError as error:
            hint = "are the network, the proxy and `base_url` right?"
            raise RetriableError(f"{where}: {type(error).__name__}", hint=hint) from None
        if response.status_code == 429 or response.status_code >= 500:
            raise RetriableError(f"{where}: HTTP {response.status_code}")
        if response.status_code != 200:
            raise FatalError(f"{where}: HTTP {response.status_code}", hint="check `key` and `base_url` of the source")
        try:
            return response.json()
        except ValueError:
            raise RetriableError(f"{where}: the reply is not JSON") from None


def records_frame(records: Sequence[Mapping[str, Any]]) -> pl.DataFrame:
    """Records as text columns named as they come, nested values and numbers as JSON text; `_row_number` from 1."""
    names = list(dict.fromkeys(name for record in records for name in record))
    columns = [pl.Series(name, [_cell(record.get(name)) for record in records], dtype=pl.String) for name in names]
    return pl.DataFrame([*columns, pl.Series("_row_number", range(1, len(records) + 1), dtype=pl.Int64)])


def _cell(value: Any) -> str | None:
    return value if value is None or isinstance(value, str) else orjson.dumps(value).decode()
