"""Landing speed against the engines' bare reads of the same file in the same run.

    python -m tests.benchmarks.bench_landing [LINES] [ROWS] [PAIRS]

Targets: log lines in at most 2 times DuckDB's plain `read_ndjson` into Parquet; a GB18030 CSV in at most 3 times
Polars' bare read. One line in a thousand of the log was delivered twice, as in real ones. Bare read and landing take
turns, PAIRS times; prints the medians of seconds and ratios, the rate, and the peak memory of the landing process.
"""

from __future__ import annotations

import multiprocessing
import resource
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
import polars as pl

from cdp.config import parse
from connectors import registry
from connectors.settings import SourcesConfig
from warehouse.home import Home
from warehouse.landing import land

AGAIN = 1000
NOW = datetime(2026, 11, 21, tzinfo=UTC)
YAML = """
sources:
  log: {connector: sensors, path: events.log}
  shop: {connector: shop_export, path: orders.csv, shop: s}
  mapped:
    connector: file
    streams: {orders: {path: orders.csv, columns: {order_id: 订单编号, buyer_id: 买家会员名, amount: 买家实际支付金额,
      paid_at: 订单付款时间, ordered_at: 订单创建时间, platform: {value: taobao}}}}
"""
_EVENT = """
    select '{"type":"track","event":"ViewProduct","time":' || (1700000000000 + i) || ',"distinct_id":"' || md5(i::text)
        || '","_track_id":' || (hash(i) % 2147483647) || ',"lib":{"$lib":"js","$lib_version":"1.25.7",'
        || '"$lib_method":"code"},"identities":{"$identity_cookie_id":"' || (i % 5000)
        || '"},"anonymous_id":"' || (i % 5000)
        || '","project":"default","properties":{"$url":"https://shop.example/p/' || (i % 900)
        || '","$title":"商品详情","$os":"iOS","$model":"iPhone14,2","price":' || (i % 100)
        || '.5,"product_id":"P' || (i % 900)
        || '","$is_login_id":false,"$screen_height":844,"$latest_utm_source":"wecom"}}' as line, i from range(?) t(i)
"""


def _write_log(path: Path, lines: int) -> None:
    with duckdb.connect() as con:
        con.execute(
            f"copy (select unnest(repeat([line], 1 + (i % {AGAIN} = 7)::int)) from ({_EVENT.replace('?', str(lines))}))"
            f" to '{path}'"
            " (format csv, header false, quote '', escape '', delimiter '\x01')"
        )


def _write_orders(path: Path, rows: int) -> None:
    number = pl.int_range(rows, eager=True)
    frame = pl.DataFrame(
        {
            "订单编号": ('="26' + (number + 10**15).cast(pl.String) + '"'),
            "买家会员名": "会员" + (number % 9999).cast(pl.String),
            "买家应付邮费": "0.00",
            "总金额": (number % 500).cast(pl.String) + ".00",
            "买家实际支付金额": (number % 500).cast(pl.String) + ".50",
            "订单状态": "交易成功",
            "收货人姓名": "张**",
            "收货地址": "浙江省 杭州市 余杭区 某某街道******",
            "联系手机": "'138****0000",
            "订单创建时间": "2026-01-01 10:00:00",
            "订单付款时间": "2026-01-01 10:01:00",
            "宝贝标题": "婴儿奶粉三段八百克罐装",
            "宝贝种类": "1",
            "物流公司": "顺丰速运",
            "宝贝总数量": "1",
            "店铺名称": "旗舰店",
            "订单备注": "",
            "退款金额": "0.00",
        }
    )
    path.write_bytes(frame.write_csv(quote_style="necessary").encode("gb18030"))


def _timed(work: Callable[[], Any]) -> tuple[float, Any]:
    started = time.perf_counter()
    result = work()
    return time.perf_counter() - started, result


def _land(root: str, source: str, stream: str, pipe: Any) -> None:
    """In a process of its own, so that its peak memory is its own."""
    config = parse(YAML, SourcesConfig, file="bench")
    settings = config.sources[source]
    connector = registry.build(source, settings, root=Path(root), environment={}, now=NOW)
    [declared] = [item for item in registry.source_streams(settings) if item.name == stream]
    seconds, report = _timed(lambda: land(Home(Path(root)), source, connector, declared, now=NOW))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024**2
    pipe.send((seconds, report.landed, peak))


def _landed(root: Path, source: str, stream: str) -> tuple[float, int, float]:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_land, args=(str(root), source, stream, theirs))
    process.start()
    result: tuple[float, int, float] = mine.recv()
    process.join()
    return result


def _plain_ndjson(path: Path, target: Path) -> None:
    with duckdb.connect() as con:
        con.execute(f"copy (from read_ndjson('{path}')) to '{target}' (format parquet, compression zstd)")


def _compared(
    name: str, rows: int, bare: Callable[[], Any], landing: Callable[[], tuple[float, int, float]], times: int
) -> None:
    """*bare* and *landing* in turns; *rows*: what has to land."""
    pairs = [(_timed(bare)[0], *landing()) for _ in range(times)]
    for _, _, count, _ in pairs:
        assert count == rows, (count, rows)
    ratios = sorted(seconds / plain for plain, seconds, _, _ in pairs)
    plain, seconds = (statistics.median(pair[place] for pair in pairs) for place in (0, 1))
    print(
        f"{name}: {rows:,} rows; bare read {plain:.1f} s; landed in {seconds:.1f} s = {rows / seconds:,.0f} rows/s;"
        f" {statistics.median(ratios):.2f} times ({', '.join(f'{ratio:.2f}' for ratio in ratios)});"
        f" peak {max(pair[3] for pair in pairs):.2f} GiB",
        flush=True,
    )


def main(lines: int = 2_000_000, rows: int = 1_000_000, pairs: int = 3) -> None:
    with tempfile.TemporaryDirectory(prefix="bench-landing-") as folder:
        root = Path(folder)

        def landing(source: str, stream: str) -> Callable[[], tuple[float, int, float]]:
            def once() -> tuple[float, int, float]:
                shutil.rmtree(root / "data", ignore_errors=True)
                return _landed(root, source, stream)

            return once

        log, orders = root / "events.log", root / "orders.csv"
        _write_log(log, lines)
        size = log.stat().st_size / 1024**3
        bare = root / "bare.parquet"
        _compared(
            f"log lines ({size:.1f} GiB)", lines, lambda: _plain_ndjson(log, bare), landing("log", "records"), pairs
        )
        log.unlink()
        _write_orders(orders, rows)

        def read() -> pl.DataFrame:
            return pl.read_csv(orders, encoding="gb18030", infer_schema=False)

        _compared("GB18030 CSV, mapped", rows, read, landing("mapped", "orders"), pairs)
        _compared("GB18030 CSV, shop profile", rows, read, landing("shop", "orders"), pairs)


if __name__ == "__main__":
    main(*[int(argument) for argument in sys.argv[1:]])
