"""Publishing a large marts file while an analyst in another process keeps asking.

`python tests/benchmarks/bench_publish.py [million rows] [publishes]`: 22 million rows make about 1 GB. Prints the
seconds of a publish beside those of copying the same bytes, and p50 and p99 of the analyst's answers with and without a
publish going on. Every answer opens the version that is current then, as `cdp sql` does.
"""

from __future__ import annotations

import bisect
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from warehouse.connection import open_warehouse
from warehouse.home import Home
from warehouse.publish import publish

QUIET_S = 15
ANALYST = """
import sys, time
from pathlib import Path
from warehouse.home import Home
from warehouse.query import run_query
home, until = Home(Path(sys.argv[1])), Path(sys.argv[2])
while not until.exists():
    begun = time.monotonic()
    run_query(home, "select city, count(*) from dim_people group by city order by 2 desc")
    print(begun, time.monotonic() - begun, flush=True)
    time.sleep(0.01)
"""


def main(millions: int, publishes: int) -> None:
    with tempfile.TemporaryDirectory() as folder:
        home, until = Home(Path(folder) / "home"), Path(folder) / "until"
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
            print(
                f"{first.size / 1e9:.2f} GB, copied alone in {_copy_seconds(first.path, Path(folder) / 'copy'):.2f} s"
            )
            answers = (Path(folder) / "answers.txt").open("w+")
            analyst = subprocess.Popen([sys.executable, "-c", ANALYST, str(home.root), str(until)], stdout=answers)
            time.sleep(QUIET_S)
            busy = []
            for number in range(1, publishes + 1):
                begun = time.monotonic()
                publish(home, con, version=f"v{number}", checks=[])
                busy.append((begun, time.monotonic()))
                print(f"publish {busy[-1][1] - begun:.2f} s")
            until.touch()
            if analyst.wait(timeout=60):
                raise SystemExit("the analyst met an error")
            answers.seek(0)
            _tell([(float(at), float(took)) for at, took in map(str.split, answers)], busy)


def _copy_seconds(source: Path, target: Path) -> float:
    begun = time.perf_counter()
    shutil.copyfile(source, target)
    seconds = time.perf_counter() - begun
    target.unlink()
    return seconds


def _tell(answers: list[tuple[float, float]], busy: list[tuple[float, float]]) -> None:
    """Answers that overlap a publish against those that do not."""
    starts, ends = [start for start, _ in busy], [end for _, end in busy]
    waits: dict[str, list[float]] = {"quiet": [], "publishing": []}
    for at, took in answers:
        place = bisect.bisect_right(starts, at + took) - 1
        waits["publishing" if place >= 0 and at < ends[place] else "quiet"].append(took * 1000)
    p99 = {}
    for name, found in waits.items():
        found.sort()
        p99[name] = found[int(len(found) * 0.99)] if found else float("nan")
        middle = found[len(found) // 2] if found else float("nan")
        print(f"{name:<12} {len(found):>6} answers  p50 {middle:.0f} ms  p99 {p99[name]:.0f} ms")
    print(f"p99 while publishing / quiet: {p99['publishing'] / p99['quiet']:.2f}")


if __name__ == "__main__":
    main(int(sys.argv[1]) if len(sys.argv) > 1 else 2, int(sys.argv[2]) if len(sys.argv) > 2 else 5)
