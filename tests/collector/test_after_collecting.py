"""What happens to collected files after they have landed, and to what was refused."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import httpx
import orjson
import pytest
from typer.testing import CliRunner

from app.main import app
from cdp.config import parse
from cdp.errors import ConfigError
from connectors.settings import SourcesConfig
from connectors.wecom.callbacks import was_read
from pipelines.collected import prune_collected
from tests.collector.running import Threaded, folders, lines_of
from tests.source_support import Brand
from warehouse.landing_ledger import LandingLedger

YAML = """
sources:
  app: {connector: sensors, path: data/collected/sensors/*.jsonl}
  copy: {connector: sensors, path: data/collected/sensors/, enabled: false}
  web: {connector: segment, path: data/collected/segment/*.jsonl}
"""
EVENT = {"type": "track", "event": "Pay", "distinct_id": "d1", "time": 1763600000000, "properties": {}}


@pytest.fixture
def brand(tmp_path: Path) -> Brand:
    (tmp_path / "config").mkdir()
    (tmp_path / "config" / "cdp.yaml").write_text("name: 测试\n", encoding="utf-8")
    (tmp_path / "config" / "sources.yaml").write_text(YAML, encoding="utf-8")
    (tmp_path / "data" / "collected" / "segment").mkdir(parents=True)
    return Brand(tmp_path, YAML)


def _later(days: float) -> datetime:
    return datetime.now(UTC) + timedelta(days=days)


def test_a_file_goes_once_every_source_that_reads_it_has_landed_it_and_its_days_are_over(brand: Brand) -> None:
    with Threaded(brand.root) as collector:
        httpx.post(f"{collector.base}/sa", data={"data": orjson.dumps(EVENT).decode()}, trust_env=False)
        httpx.post(f"{collector.base}/v1/track", json={"userId": "u", "event": "E"}, trust_env=False)
        collector.stop()
    sensors, segment = (folders(brand.root).of(log) for log in ("sensors", "segment"))
    assert prune_collected(brand.home, brand.config, now=_later(90)) == [], "nothing has landed"
    brand.land("web")
    brand.land("app")
    assert prune_collected(brand.home, brand.config, now=_later(29)) == [], "landed, but young"
    [gone] = prune_collected(brand.home, brand.config, now=_later(31))
    assert gone.parent == segment
    assert len(list(sensors.iterdir())) == 1, "a source that is switched off has not read it yet"
    alone = parse(YAML.replace("  copy:", "  # copy:"), SourcesConfig, file="f")
    assert len(prune_collected(brand.home, alone, now=_later(31))) == 1
    assert brand.land("web")["messages"].received == 0


def test_files_that_are_gone_are_forgotten_and_renamed_ones_are_not_read_again(brand: Brand) -> None:
    folder = folders(brand.root).of("segment")
    for name in ("a", "b"):
        line = {"type": "track", "event": "E", "userId": "u", "messageId": name}
        (folder / f"{name}.jsonl").write_bytes(orjson.dumps(line) + b"\n")
    brand.land("web")
    (folder / "a.jsonl").rename(folder / "a1.jsonl")
    (folder / "b.jsonl").unlink()
    (folder / "c.jsonl").write_bytes(orjson.dumps({"type": "page", "userId": "u", "messageId": "c"}) + b"\n")
    assert brand.land("web")["messages"].received == 1
    state, _ = LandingLedger(brand.home.landing_ledger).state("web", "messages")
    assert {name.rsplit("/")[-1] for name in state["files"]} == {"a1.jsonl", "c.jsonl"}


def test_days_may_be_none_or_nought(brand: Brand) -> None:
    (folders(brand.root).of("segment") / "20260101T000000.000000Z-abcd.jsonl").write_bytes(b"")
    brand.land("web")
    config = brand.root / "config" / "collector.yaml"
    config.write_text("keep_days:\n", encoding="utf-8")
    assert prune_collected(brand.home, brand.config, now=_later(9999)) == []
    config.write_text("keep_days: 0\n", encoding="utf-8")
    assert len(prune_collected(brand.home, brand.config, now=_later(0))) == 1


def _cdp(brand: Brand, *words: str) -> str:
    result = CliRunner().invoke(app, ["--home", str(brand.root), *words], env={"COLUMNS": "250"})
    if result.exception is not None and not isinstance(result.exception, SystemExit):
        raise result.exception
    return result.output


def test_what_was_refused_is_mended_and_collected_again(brand: Brand) -> None:
    bad = {**EVENT, "time": "soon"}
    with Threaded(brand.root) as collector:
        httpx.post(f"{collector.base}/sa", data={"data_list": orjson.dumps([EVENT, bad]).decode()}, trust_env=False)
        httpx.post(f"{collector.base}/v1/batch", content=b'{"batch": [{"type": "track"', trust_env=False)
        collector.stop()
    assert "expected JSON" in _cdp(brand, "source", "rejects", "_collector")
    mend = brand.root / "mend.jsonl"
    _cdp(brand, "source", "rejects", "_collector", "--to", str(mend))
    sensors, segment = sorted(mend.read_text(encoding="utf-8").splitlines(), key=lambda line: "segment" in line)
    assert orjson.loads(sensors)["item"]["time"] == "soon"
    whole = {"endpoint": "segment", "received_at": orjson.loads(segment)["received_at"], "reason": ""} | {
        "item": {"batch": [{"type": "track", "event": "E", "userId": "u"}, {"type": "nonsense"}]}
    }
    mend.write_text(sensors.replace('"soon"', "1763600000001") + "\n" + orjson.dumps(whole).decode(), encoding="utf-8")
    assert "2 lines: 2 events collected again, 1 refused again" in _cdp(
        brand, "source", "replay", "_collector", str(mend)
    )
    again = lines_of(brand.root, "sensors")
    assert [line["time"] for line in again] == [EVENT["time"], 1763600000001]
    assert again[1]["recv_time"] == pytest.approx(again[0]["recv_time"], abs=2000), "it came when it came"
    assert brand.land("app")["records"].landed == 2
    assert brand.land("web")["messages"].landed == 1
    _cdp(brand, "source", "replay", "_collector", str(mend))
    assert brand.land("app")["records"].landed == 0, "collected twice, landed once"
    mend.write_text("{}\n", encoding="utf-8")
    with pytest.raises(ConfigError, match="line 1: expected a JSON object with `endpoint`"):
        _cdp(brand, "source", "replay", "_collector", str(mend))


def test_callbacks_older_than_the_window_of_the_newest_one_read_have_been_read() -> None:
    read = ["20260101T120000.000000Z-aa.jsonl", "20260101T120500.000000Z-bb.jsonl"]
    assert was_read(read[0], read)
    assert was_read("20260101T110000.000000Z-cc.jsonl", read)
    assert not was_read("20260101T120100.000000Z-dd.jsonl", read), "closed by another collector in those minutes"
    assert not was_read(read[0], [])
