"""Tables as a source: keyset pages on (cursor, key), in a half-open window ending at the source's clock less the lag.

Rows that share a cursor value are told apart by the key, so ties lose nothing; rows whose cursor is null are read in
full each time. A page is one query of its own: a connection that breaks is opened again and goes on behind it.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Generator, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from typing import Any

import polars as pl
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

from cdp.errors import CdpError, ConfigError, FatalError, RetriableError
from cdp.streams import Batch, SourceCheck, Stream
from connectors.database.dialects import Row, Session, as_text, is_wall_time, session
from connectors.files.connector import mapped_streams
from connectors.mapping import apply, rules_of
from connectors.registry import SourceContext
from connectors.sample import sample
from connectors.settings import TableStream, duration

_ATTEMPTS = 5
_KEYS_A_QUERY = 200
_MARK = "\x00"  # stands for a parameter until the driver is known
# What a MySQL zero date is read as is null, yet it sorts before every date.
_BEFORE_ALL = "0000-00-00 00:00:00"


def build(context: SourceContext) -> DatabaseConnector:
    return DatabaseConnector(context)


def streams_of(settings: Any) -> tuple[Stream, ...]:
    """The canonical streams a database source gives."""
    return mapped_streams(settings.streams, settings.reject_budget)


@dataclass(frozen=True)
class _Plan:
    """How one stream is read. *origin*: what stands after `from`; *key*: source columns that identify a row."""

    stream: Stream
    mapping: TableStream
    origin: str
    key: tuple[str, ...]


@dataclass(frozen=True)
class _Place:
    """Behind which row the next page starts: its cursor (None in the part without one) and its key."""

    cursor: Any
    key: tuple[Any, ...]


class DatabaseConnector:
    """A database whose tables are mapped onto canonical streams.

    *window*: read the rows changed between two instants again and leave the saved place alone (backfill).
    """

    def __init__(
        self,
        context: SourceContext,
        *,
        sleep: Callable[[float], None] = time.sleep,
        window: tuple[datetime, datetime | None] | None = None,
    ) -> None:
        self.context, self.sleep, self.window = context, sleep, window
        self._open: Any = None

    def streams(self) -> tuple[Stream, ...]:
        return streams_of(self.context.settings)

    # -- pulling -------------------------------------------------------------------------------------------------------

    def pull(self, stream: Stream, state: Mapping[str, Any]) -> Iterator[Batch]:
        """Changed rows since *state*, page by page; then, where configured, the keys of all rows that still exist."""
        mapping: TableStream = self.context.settings.streams[stream.name]
        try:
            plan = self._plan(stream, mapping)
            if mapping.cursor is None:
                yield from self._full(plan, state)
            else:
                state = yield from self._changed(plan, state)
                if self.window:
                    return
                yield from self._without_cursor(plan, state)
            if mapping.deletes and stream.mode != "snapshot":
                yield from self._keys(plan, state)
        finally:
            self._close()

    def _full(self, plan: _Plan, state: Mapping[str, Any]) -> Iterator[Batch]:
        """Every row, by key. Interrupted, it goes on behind the last key."""
        place = _Place(None, tuple(state["key"])) if state.get("key") else None
        snapshot = plan.stream.mode == "snapshot"
        for names, rows, last in self._pages(plan, place, by_cursor=False):
            following = {} if last else {"key": _plain(_values(names, rows[-1], plan.key))}
            yield self._batch(plan, names, rows, following, complete=last and snapshot)

    def _changed(self, plan: _Plan, state: Mapping[str, Any]) -> Any:
        """Rows behind the saved (cursor, key), up to the source's clock less the lag; returns the state reached."""
        cursor = plan.mapping.cursor
        place = _Place(state["cursor"], tuple(state["key"])) if state.get("cursor") is not None else None
        place = None if self.window else place
        latest = self._latest(plan)
        notes = self._doubts(plan, latest)
        for names, rows, _ in self._pages(plan, place, where=self._bounds(plan, latest), by_cursor=True):
            if rows and not self.window:
                reached = _plain(_values(names, rows[-1], (str(cursor), *plan.key)))
                state = {"cursor": _BEFORE_ALL if reached[0] is None else reached[0], "key": reached[1:]}
            yield self._batch(plan, names, rows, state, notes=notes)
        return state

    def _doubts(self, plan: _Plan, latest: Any) -> tuple[str, ...]:
        """What to tell where the window's end rests on a guess: a time without a zone, and nobody said which it is."""
        if self.context.settings.timezone is not None or not is_wall_time(latest):
            return ()
        return (
            f"`{plan.mapping.cursor}` holds times without a zone: read as {self.context.timezone}, the brand's;"
            f" if the database writes another (UTC, say), give `timezone:` under sources.{self.context.name},"
            " or rows committed late are missed",
        )

    def _latest(self, plan: _Plan) -> Any:
        return self._rows(f"select max({self._quote(str(plan.mapping.cursor))}) from {plan.origin}", [])[1][0][0]

    def _without_cursor(self, plan: _Plan, state: Mapping[str, Any]) -> Iterator[Batch]:
        where = (f"{self._quote(str(plan.mapping.cursor))} is null", None)
        for names, rows, _ in self._pages(plan, None, where=[where], by_cursor=False):
            if rows:
                yield self._batch(plan, names, rows, state)

    def _keys(self, plan: _Plan, state: Mapping[str, Any]) -> Generator[Batch, Sequence[int] | None, None]:
        """The keys that exist now, and the rows of those that have never landed: committed later than the lag, say.

        The last batch says that it is the last, and only then is anything deleted.
        """
        frame = pl.DataFrame()
        for names, rows, _ in self._pages(plan, None, by_cursor=False, only_keys=True):
            frame = self._mapped_keys(plan, names, rows)
            unlanded = yield Batch(plan.stream.name, frame, state, keys_only=True)
            keys = [_values(names, rows[number - 1], plan.key) for number in unlanded or ()]
            for start in range(0, len(keys), _KEYS_A_QUERY):
                found = self._rows(*self._by_key(plan, keys[start : start + _KEYS_A_QUERY]))
                yield self._batch(plan, *found, state, again=True)
        yield Batch(plan.stream.name, frame.clear(), state, keys_only=True, complete=True)

    def _mapped_keys(self, plan: _Plan, names: list[str], rows: Sequence[Row]) -> pl.DataFrame:
        frame = _frame(names, rows)
        return apply(frame, plan.stream, plan.mapping, timezone=self.context.timezone, only=plan.stream.key).frame

    def _by_key(self, plan: _Plan, keys: Sequence[tuple[Any, ...]]) -> tuple[str, list[Any]]:
        one = "(" + " and ".join(f"{self._quote(name)} = {_MARK}" for name in plan.key) + ")"
        return f"select * from {plan.origin} where {' or '.join([one] * len(keys))}", [
            cell for key in keys for cell in key
        ]

    def _batch(
        self,
        plan: _Plan,
        names: list[str],
        rows: Sequence[Row],
        state: Mapping[str, Any],
        *,
        complete: bool = False,
        again: bool = False,
        notes: tuple[str, ...] = (),
    ) -> Batch:
        mapped = apply(_frame(names, rows), plan.stream, plan.mapping, timezone=self.context.timezone)
        return Batch(
            plan.stream.name,
            mapped.frame,
            state,
            mapped.rejects,
            complete=complete,
            known=mapped.known,
            again=again,
            notes=notes,
        )

    # -- pages ---------------------------------------------------------------------------------------------------------

    def _pages(
        self,
        plan: _Plan,
        place: _Place | None,
        *,
        where: Sequence[tuple[str, Any]] = (),
        by_cursor: bool,
        only_keys: bool = False,
    ) -> Iterator[tuple[list[str], list[Row], bool]]:
        """(column names, rows, whether it is the last page); the last page may be empty."""
        size = plan.mapping.page
        while True:
            sql, parameters = self._query(plan, place, where, by_cursor=by_cursor, only_keys=only_keys)
            names, rows = self._rows(f"{sql} limit {size}", parameters)
            yield names, rows, len(rows) < size
            if len(rows) < size:
                return
            key = _values(names, rows[-1], plan.key)
            cursor = _values(names, rows[-1], (str(plan.mapping.cursor),))[0] if by_cursor else None
            place = _Place(_BEFORE_ALL if by_cursor and cursor is None else cursor, key)

    def _query(
        self,
        plan: _Plan,
        place: _Place | None,
        where: Sequence[tuple[str, Any]],
        *,
        by_cursor: bool,
        only_keys: bool,
    ) -> tuple[str, list[Any]]:
        key = [self._quote(name) for name in plan.key]
        conditions, parameters = [text for text, _ in where], [value for _, value in where if value is not None]
        order = list(key)
        if by_cursor:
            order.insert(0, self._quote(str(plan.mapping.cursor)))
            conditions.append(f"{order[0]} is not null")
        if place is not None:
            values = [place.cursor, *place.key] if by_cursor else list(place.key)
            condition, extra = _behind(order, values)
            conditions.append(condition)
            parameters += extra
        columns = ", ".join(key) if only_keys else "*"
        filtered = f" where {' and '.join(conditions)}" if conditions else ""
        return f"select {columns} from {plan.origin}{filtered} order by {', '.join(order)}", parameters

    def _bounds(self, plan: _Plan, latest: Any) -> list[tuple[str, Any]]:
        """The window as (comparison, value): it ends at the source's clock less the lag, or is the one to fill again.

        Cursors that are no times (sequences) have no clock to end at.
        """
        column = self._quote(str(plan.mapping.cursor))
        since, until = self.window or (None, None)
        lag = duration(self.context.settings.lag)
        bounds = []
        for sign, moment in ((">=", since), ("<", until or self._retrying(lambda opened: opened.now()) - lag)):
            value = None if moment is None else self._retrying(partial(_instant, latest, moment))
            if value is not None:
                bounds.append((f"{column} {sign} {_MARK}", value))
        if self.window and not bounds and latest is not None:
            raise ConfigError(f"{self.context.name}.{plan.stream.name}: cursor {column} is no time to go by")
        return bounds

    def _plan(self, stream: Stream, mapping: TableStream) -> _Plan:
        if mapping.table is not None:
            origin = ".".join(self._quote(part) for part in mapping.table.split("."))
        else:
            origin = f"({str(mapping.query).strip().rstrip(';')}) as source_rows"
        names, _ = self._rows(f"select * from {origin} limit 0", [])
        key = tuple(mapping.key or self._derived_key(stream, mapping, names))
        missing = [name for name in (*key, mapping.cursor) if name and name not in names]
        if missing:
            raise FatalError(
                f"{self.context.name}.{stream.name}: no column {', '.join(missing)}; found {', '.join(names)}",
                hint="mend `key` and `cursor` in config/sources.yaml",
            )
        return _Plan(stream, mapping, origin, key)

    def _derived_key(self, stream: Stream, mapping: TableStream, names: Sequence[str]) -> list[str]:
        rules = rules_of(stream, mapping, names)
        key = [rule.from_ for name in stream.key if (rule := rules.get(name)) is not None and rule.from_]
        if not key:
            raise ConfigError(
                f"{self.context.name}.{stream.name}: cannot tell which columns identify a row",
                hint=f"give `key: [column, …]`, or map {', '.join(stream.key)}",
            )
        return key

    # -- connection ----------------------------------------------------------------------------------------------------

    def _rows(self, sql: str, parameters: Sequence[Any]) -> tuple[list[str], list[Row]]:
        return self._retrying(lambda opened: opened.rows(_marked(sql, opened.mark, parameters), parameters))

    def _retrying(self, ask: Callable[[Session], Any]) -> Any:
        def once() -> Any:
            try:
                return ask(self._session())
            except RetriableError:
                self._close()
                raise

        retrying = Retrying(
            retry=retry_if_exception_type(RetriableError),
            stop=stop_after_attempt(_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.5, max=15),
            sleep=self.sleep,
            reraise=True,
        )
        return retrying(once)

    def _session(self) -> Session:
        if self._open is None:
            manager = session(self.context)
            self._open = (manager, manager.__enter__())
        opened: Session = self._open[1]
        return opened

    def _close(self) -> None:
        if self._open is not None:
            manager, self._open = self._open[0], None
            manager.__exit__(None, None, None)

    def _quote(self, name: str) -> str:
        return self._retrying(lambda opened: opened.quote(name))

    # -- check ---------------------------------------------------------------------------------------------------------

    def check(self) -> SourceCheck:
        steps: list[tuple[str, bool, str]] = []
        shown: pl.DataFrame | None = None
        try:
            self._session()
            steps.append(("connect", True, "session opened, read-only"))
            for stream in self.streams():
                frame, told = self._check(stream)
                steps.append((stream.name, True, told))
                shown = sample(frame, stream) if shown is None else shown
        except CdpError as error:
            steps.append((self.context.name, False, error.message))
        finally:
            self._close()
        return SourceCheck(all(ok for _, ok, _ in steps), tuple(steps), shown)

    def _check(self, stream: Stream) -> tuple[pl.DataFrame, str]:
        mapping: TableStream = self.context.settings.streams[stream.name]
        plan = self._plan(stream, mapping)
        names, rows = self._rows(f"select * from {plan.origin} limit 5", [])
        mapped = apply(_frame(names, rows), stream, mapping, timezone=self.context.timezone)
        told = f"{len(rows)} rows read, {len(mapped.rejects)} do not fit; key {', '.join(plan.key)}"
        doubts = self._doubts(plan, self._latest(plan)) if mapping.cursor else ()
        return mapped.frame, "; ".join([told, *doubts])


def _instant(like: Any, moment: datetime, opened: Session) -> Any:
    return opened.instant(like, moment)


def _marked(sql: str, mark: str, parameters: Sequence[Any]) -> str:
    """*sql* with the driver's own mark for parameters; where that is `%s`, a `%` of the text itself is doubled."""
    if mark == "%s" and parameters:
        sql = sql.replace("%", "%%")
    return sql.replace(_MARK, mark)


def _behind(order: Sequence[str], values: Sequence[Any]) -> tuple[str, list[Any]]:
    """`(a > ?) or (a = ? and b > ?) …`: row comparison spelt out, which every planner can use an index for."""
    parts, parameters = [], []
    for place, column in enumerate(order):
        equal = [f"{earlier} = {_MARK}" for earlier in order[:place]]
        parts.append("(" + " and ".join([*equal, f"{column} > {_MARK}"]) + ")")
        parameters += [*values[:place], values[place]]
    return f"({' or '.join(parts)})", parameters


def _frame(names: Sequence[str], rows: Sequence[Row]) -> pl.DataFrame:
    """Rows as text columns, exactly as the database holds them."""
    columns = list(zip(*rows, strict=True)) if rows else [()] * len(names)
    series = [
        pl.Series(name, [as_text(value) for value in cells], dtype=pl.String)
        for name, cells in zip(names, columns, strict=True)
    ]
    return pl.DataFrame([*series, pl.Series("_row_number", range(1, len(rows) + 1), dtype=pl.Int64)])


def _values(names: Sequence[str], row: Row, wanted: Sequence[str]) -> tuple[Any, ...]:
    return tuple(row[names.index(name)] for name in wanted)


def _plain(values: Sequence[Any]) -> list[Any]:
    """Values that JSON keeps: numbers as they are, everything else as text the database reads back."""
    return [value if isinstance(value, int) and not isinstance(value, bool) else as_text(value) for value in values]
