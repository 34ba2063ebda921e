"""How fast we call one interface: a token bucket that slows down when told to, and a budget for the hour."""

from __future__ import annotations

import threading
from collections.abc import Callable


class Pacer:
    """Calls per second over one interface, shared by threads.

    `wait` sleeps until the next call is due. `slow_down` multiplies the pace by *factor* (45009, 45033, 45035); every
    *recover_after* good calls it rises by a tenth, never past *per_second*. `block` forbids calls for a while (a broken
    quota window). *burst*: calls that may go at once after a rest. Times are seconds of *clock*.
    """

    def __init__(
        self,
        per_second: float,
        *,
        clock: Callable[[], float],
        sleep: Callable[[float], None],
        burst: int = 4,
        factor: float = 0.5,
        recover_after: int = 100,
    ) -> None:
        self._full = per_second
        self._pace = per_second
        self._clock, self._sleep = clock, sleep
        self._burst = burst
        self._factor, self._recover_after = factor, recover_after
        self._good = 0
        self._next = 0.0  # when the bucket, drained, will next hold a call
        self._blocked: tuple[float, float] = (0.0, 0.0)  # from when, for how long
        self._lock = threading.Lock()

    @property
    def per_second(self) -> float:
        """The present pace."""
        return self._pace

    def wait(self) -> None:
        """Return when a call may go. A clock that jumps back cannot make this wait longer than one bucket."""
        delay = self.reserve()
        if delay > 0:
            self._sleep(delay)

    def reserve(self) -> float:
        """Book the next call; returns the seconds to sleep before making it."""
        with self._lock:
            now = self._clock()
            step = 1.0 / self._pace
            earliest = now - (self._burst - 1) * step
            self._next = min(max(self._next, earliest), now + self._burst * step + 1.0)
            due = self._next
            self._next = due + step
            began, length = self._blocked
            # min: a clock that jumped back must not turn a block of a minute into one of a day.
            return max(due - now, min(began + length - now, length), 0.0)

    def good(self) -> None:
        """One call went well."""
        with self._lock:
            self._good += 1
            if self._good >= self._recover_after and self._pace < self._full:
                self._good = 0
                self._pace = min(self._full, self._pace * 1.1)

    def slow_down(self) -> None:
        """Multiply the pace by the factor, to no less than one call in ten seconds."""
        with self._lock:
            self._good = 0
            self._pace = max(0.1, self._pace * self._factor)

    def block(self, seconds: float) -> None:
        """No call for the next *seconds*."""
        with self._lock:
            self._blocked = (self._clock(), seconds)


class HourBudget:
    """Calls one run may make in an hour, so that other apps of the corp have theirs. Times are seconds of *clock*."""

    def __init__(self, calls: int, *, clock: Callable[[], float]) -> None:
        self._calls = max(calls, 1)
        self._clock = clock
        self._began = clock()
        self._used = 0
        self._lock = threading.Lock()

    def reserve(self) -> float:
        """Book one call; returns the seconds to sleep before making it, until the hour is over."""
        with self._lock:
            elapsed = self._clock() - self._began
            if not 0 <= elapsed < 3600:
                self._began, self._used, elapsed = self._clock(), 0, 0.0
            self._used += 1
            return 0.0 if self._used <= self._calls else 3600 - elapsed
