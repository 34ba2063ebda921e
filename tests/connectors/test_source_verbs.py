"""`cdp source …` and `cdp load` as a person uses them, and the guide's own configuration."""

from __future__ import annotations

import re
import shutil
import sqlite3
from pathlib import Path

import fastexcel
import polars as pl
import pytest
import xlsxwriter
from typer.testing import CliRunner, Result

from app.main import app
from cdp.config import parse
from cdp.errors import CdpError, ConfigError
from connectors import registry
from connectors.settings import SourcesConfig
from tests.source_support import Brand

ROOT = Path(__file__).parents[2]
YAML = """
sources:
  stores:
    connector: file
    streams:
      orders:
        path: inbox/*.csv
        columns: {order_id: 单号, amount: 实付, paid_at: 时间}
  crm:
    connector: sqlite
    path: crm.sqlite
    streams: {people: {table: members, cursor: at, columns: {person_key: id, updated_at: at}}}
  log: {connector: sensors, path: logs/*.log}
"""


@pytest.fixture
def brand(tmp_path: Path) -> Brand:
    (tmp_path / "config").mkdir()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "logs").mkdir()
    shutil.copy(ROOT / "config" / "cdp.yaml", tmp_path / "config")
    (tmp_path / "config" / "sources.yaml").write_text(YAML, encoding="utf-8")
    rows = "".join(f"A{n},{n},2026-01-01 10:00:00\n" for n in range(20))
    (tmp_path / "inbox" / "o.csv").write_text("单号,实付,时间\n" + rows + "B1,一百,2026-01-01\n", encoding="utf-8")
    with sqlite3.connect(tmp_path / "crm.sqlite") as con:
        con.execute("create table members (id text, name text, at text)")
        con.executemany(
            "insert into members values (?, 'x', ?)", [(f"M{n}", f"2026-01-{n:02d} 00:00:00") for n in range(1, 11)]
        )
    con.close()
    return Brand(tmp_path, YAML)


def _cdp(brand: Brand, *words: str) -> Result:
    return CliRunner().invoke(app, ["--home", str(brand.root), *words], env={"COLUMNS": "200"})


def _ok(brand: Brand, *words: str) -> str:
    result = _cdp(brand, *words)
    assert result.exit_code == 0, (result.output, result.exception)
    return result.output


def test_list_check_pull_and_status(brand: Brand) -> None:
    assert "sqlite" in _ok(brand, "source", "list")
    assert "20 rows fit, 1 do not" in _ok(brand, "source", "check", "stores")
    told = _ok(brand, "source", "pull", "stores")
    assert "21 received = 20 landed + 0 duplicates + 1 rejected" in told
    status = _ok(brand, "source", "status")
    assert re.search(r"stores.*orders.*21.*20.*0.*1.*0.*ok", status), status


def test_an_unknown_source_is_told(brand: Brand) -> None:
    result = _cdp(brand, "source", "pull", "store")
    assert isinstance(result.exception, ConfigError)
    assert "there are: stores, crm, log" in str(result.exception)


def test_rejects_are_mended_in_a_workbook_and_landed(brand: Brand) -> None:
    _ok(brand, "source", "pull", "stores")
    assert "`实付` is not a valid decimal" in _ok(brand, "source", "rejects", "stores")
    sheet = brand.root / "mend.xlsx"
    _ok(brand, "source", "rejects", "stores", "--to", str(sheet))
    frame = fastexcel.read_excel(sheet).load_sheet("orders", dtypes="string").to_polars()
    assert frame.rows() == [("B1", "一百", "2026-01-01", "`实付` is not a valid decimal")]
    mended = frame.with_columns(pl.lit("100").alias("实付"))
    with xlsxwriter.Workbook(str(sheet)) as book:
        page = book.add_worksheet("orders")
        for place, row in enumerate([mended.columns, *mended.rows()]):
            page.write_row(place, 0, row)
    assert "1 received = 1 landed" in _ok(brand, "source", "replay", "stores", str(sheet))
    assert "1 received = 0 landed + 1 duplicates" in _ok(brand, "source", "replay", "stores", str(sheet))
    rows = brand.sql("select amount::text, _extra from raw.canonical__orders where order_id = 'B1'")
    assert rows == [("100.00", None)]
    assert "0 received" in _ok(brand, "source", "pull", "stores"), "the source's place has not moved"


def test_rejected_log_lines_are_mended_as_text(brand: Brand) -> None:
    good = "".join(f'{{"type":"track","event":"E","time":{n}}}\n' for n in range(20))
    (brand.root / "logs" / "a.log").write_text(good + '{"type":"track","time":"soon"}\n', encoding="utf-8")
    _ok(brand, "source", "pull", "log")
    lines = brand.root / "mend.log"
    _ok(brand, "source", "rejects", "log", "--to", str(lines))
    lines.write_text(lines.read_text(encoding="utf-8").replace('"soon"', "99"), encoding="utf-8")
    assert "1 received = 1 landed" in _ok(brand, "source", "replay", "log", str(lines))
    assert brand.sql("select count(*) from raw.sensors__records where time = 99") == [(1,)]


def test_a_range_of_days_is_filled_again_without_moving_the_cursor(brand: Brand) -> None:
    _ok(brand, "source", "pull", "crm")
    with sqlite3.connect(brand.root / "crm.sqlite") as con:
        con.execute("update members set name = 'bulk'")  # without touching the cursor
    con.close()
    assert "0 received" in _ok(brand, "source", "pull", "crm")
    told = _ok(
        brand, "source", "pull", "crm", "--since", "2026-01-03T00:00:00+08:00", "--until", "2026-01-06T00:00:00+08:00"
    )
    assert "3 received = 3 landed" in told
    assert "0 received" in _ok(brand, "source", "pull", "crm")
    refused = _cdp(brand, "source", "pull", "stores", "--since", "2026-01-03")
    assert isinstance(refused.exception, CdpError)


def test_load_previews_and_lands_an_export(brand: Brand) -> None:
    text = "订单编号,买家实付金额,订单状态,买家下单时间\n1,9.9,交易成功,2026-01-01 10:00:00\n2,x,交易成功,2026-01-01\n"
    path = brand.root / "export.csv"
    path.write_bytes(text.encode("gb18030"))
    told = _ok(brand, "load", str(path), "--shop", "main", "--yes", "--rejects", str(brand.root / "bad.xlsx"))
    assert "profile `taobao_orders`), gb18030" in told
    assert "2 received = 1 landed + 0 duplicates + 1 rejected" in told
    assert fastexcel.read_excel(brand.root / "bad.xlsx").load_sheet(0).to_polars().height == 1
    assert "0 received" in _ok(brand, "load", str(path), "--shop", "main", "--yes")


def test_every_block_of_the_guide_is_a_valid_configuration() -> None:
    guide = (ROOT / "docs" / "guides" / "bring-your-own-data.md").read_text(encoding="utf-8")
    blocks = re.findall(r"```yaml\n(.*?)```", guide, re.S)
    assert len(blocks) >= 6
    for block in blocks:
        config = parse(block, SourcesConfig, file="guide")
        for settings in config.sources.values():
            assert registry.source_streams(settings)


def test_the_template_is_valid_as_it_is_and_with_every_source_switched_on() -> None:
    text = (ROOT / "config" / "sources.yaml").read_text(encoding="utf-8")
    assert parse(text, SourcesConfig, file="sources.yaml").sources == {}
    everything = re.sub(r"(?m)^  # (?!---)", "  ", text)
    config = parse(everything, SourcesConfig, file="sources.yaml")
    assert {settings.connector for settings in config.sources.values()} >= {"wecom", "postgres", "file", "shop_export"}
