"""The guide's settings are valid, and its code sends events that the guide's sources find."""

from __future__ import annotations

from pathlib import Path

from cdp.config import parse
from connectors.collector.settings import CollectorConfig
from connectors.settings import SensorsSource, SourcesConfig
from tests.collector.running import Threaded
from tests.scaffold.guide import blocks

GUIDE = Path(__file__).resolve().parents[2] / "docs" / "guides" / "collector.md"
TEMPLATE = Path(__file__).resolve().parents[2] / "config" / "collector.yaml"


def test_the_settings_are_valid_and_the_template_holds_the_defaults() -> None:
    texts = [(block.path, block.text) for block in blocks(GUIDE) if block.act == "config"]
    assert [path for path, _ in texts] == ["collector.yaml", "sources.yaml", "sources.yaml"]
    parse(texts[0][1], CollectorConfig, file="collector.yaml")
    collected, _ = (parse(text, SourcesConfig, file=path) for path, text in texts[1:])
    source = collected.sources["collected_sensors"]
    assert isinstance(source, SensorsSource)
    assert parse(TEMPLATE.read_text(encoding="utf-8"), CollectorConfig, file="template") == CollectorConfig()


def test_the_code_sends_what_it_says(tmp_path: Path) -> None:
    code = {block.path: block.text for block in blocks(GUIDE) if block.act == "run"}
    with Threaded(tmp_path, keys=["key-of-the-guide"], projects=["production"]) as collector:
        for name in ("sensors", "segment"):
            exec(compile(code[name], name, "exec"), {"host": collector.base, "write_key": "key-of-the-guide"})
        collector.stop()
    assert [line["event"] for line in collector.lines("sensors")] == ["PayOrder"]
    assert [line["event"] for line in collector.lines("segment")] == ["Order Completed"]
