"""Publishing a large marts file while an analyst keeps asking: seconds of a publish, and the answers' p50 and p99.

`python tests/benchmarks/bench_publish.py [million rows]` (22 million rows make about 1 GB).
"""

from __future__ import annotations

import sys
import tempfile
import threading
import time
from datetime import UTC, datetime
from pathlib import Path

from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.publish import publish
from warehouse.query import run_query

QUESTION = "select city, count(*) from dim_people group by city order by 2 desc"
QUIET_SECONDS, PUBLISHES = 10, 5


def main(millions: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home = Home(Path(folder))
        with open_warehouse(home, as_of=datetime(2026, 3, 1, tzinfo=UTC), timezone="Asia/Shanghai") as con:
            con.execute(
                "create table marts_db.marts.fct_events as select "
                "md5(i::varchar) || md5((i + 1)::varchar) as event_key, "
                f"i % 1000 as kind, random() as amount from range({millions * 1_000_000}) as t(i)"
            )
            con.execute(
                "create table marts_db.marts.dim_people as select i as one_id, i % 50 as city from range(100000) t(i)"
            )
            first = publish(home, con, version="v0", checks=[])
            print(f"{first.size / 1e9:.2f} GB")
            waits: dict[str, list[float]] = {"quiet": [], "publishing": []}
            phase, stop = ["quiet"], threading.Event()

            def ask() -> None:
                while not stop.is_set():
                    begun = time.perf_counter()
                    run_query(home, QUESTION)
                    waits[phase[0]].append(time.perf_counter() - begun)

            asking = threading.Thread(target=ask)
            asking.start()
            time.sleep(QUIET_SECONDS)
            phase[0] = "publishing"
            for number in range(1, PUBLISHES + 1):
                begun = time.perf_counter()
                publish(home, con, version=f"v{number}", checks=[])
                print(f"publish {time.perf_counter() - begun:.2f} s")
            stop.set()
            asking.join()
    for name, seconds in waits.items():
        ordered = sorted(seconds)
        p50, p99 = ordered[len(ordered) // 2], ordered[int(len(ordered) * 0.99)]
        print(f"{name:<12} {len(ordered):>5} answers  p50 {p50 * 1000:.0f} ms  p99 {p99 * 1000:.0f} ms")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 22)
