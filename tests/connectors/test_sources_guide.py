"""docs/guides/sources.md: its blocks are valid, it names everything there is, and leads and costs land by it."""

from __future__ import annotations

import re
from pathlib import Path

import polars as pl
import pytest

from cdp.config import parse
from connectors import registry
from connectors.marketplaces.profile import Profile, load_profiles
from connectors.settings import SourcesConfig
from tests.source_support import Brand

GUIDE = (Path(__file__).parents[2] / "docs" / "guides" / "sources.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", GUIDE, re.S)
PLATFORMS = [
    "企业微信", "公众号", "小程序", "H5", "App", "小红书", "美团", "点评", "视频号", "抖音",
    "快手", "微博", "知乎", "京东", "淘宝", "天猫", "拼多多", "ERP", "CRM", "会员",
]  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_a_valid_configuration(block: str) -> None:
    config = parse(block, SourcesConfig, file="guide")
    assert all(registry.source_streams(settings) for settings in config.sources.values())


def test_every_platform_kind_and_profile_has_its_row() -> None:
    table = "\n".join(line for line in GUIDE.splitlines() if line.startswith("|"))
    assert [name for name in PLATFORMS if name not in table] == []
    assert [kind for kind in registry.KINDS if f"`{kind}`" not in table] == []
    assert [name for name in load_profiles() if f"`{name}`" not in table] == []


def test_every_rule_of_a_profile_is_told() -> None:
    rules = {"requires", "grain", "from", "contains", "unmasked", "where", "absolute", "rows", "beside", "aggregate"}
    assert [rule for rule in rules if f"{rule}:" not in GUIDE] == []
    assert {"requires", "grain", "beside"} <= set(Profile.model_fields)


def test_leads_and_costs_land_as_the_guide_says(tmp_path: Path) -> None:
    for folder in ("weibo", "zhihu"):
        (tmp_path / "inbox" / folder).mkdir(parents=True)
    (tmp_path / "inbox" / "weibo" / "leads_1.csv").write_bytes(
        "提交时间,姓名,手机号,城市\n2026/1/2 9:05,王芳,13800138000,杭州\n".encode("gb18030")
    )
    leads = pl.DataFrame({"线索ID": ["L1"], "电话": ["13800138000"], "留资时间": ["2026-01-03 10:00:00"]})
    leads.write_excel(tmp_path / "inbox" / "zhihu" / "leads_1.xlsx")
    (tmp_path / "inbox" / "zhihu" / "costs_1.csv").write_text(
        "日期,计划,消费\n2026-01-03,春节,￥99.50\n", encoding="utf-8"
    )
    [block] = [block for block in BLOCKS if "zhihu" in block]
    brand = Brand(tmp_path, block)
    for source in ("weibo", "zhihu"):
        assert all(report.landed == 1 for report in brand.land(source).values())
    people = brand.latest("canonical__people", "channel, phone, registered_at::text")
    assert people == [
        ("weibo", "13800138000", "2026-01-02 01:05:00+00"),
        ("zhihu", "13800138000", "2026-01-03 02:00:00+00"),
    ]
    assert brand.latest("canonical__costs", "channel_id, date::text, amount::text") == [
        ("zhihu", "2026-01-03", "99.50")
    ]
