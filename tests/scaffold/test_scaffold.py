"""`cdp source add`: its drafts are valid, and the guide that walks through them is true, word for word."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import polars as pl
import pytest
import typer
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from app import context, scaffold_cli
from cdp.config import parse
from cdp.errors import CdpError, ConfigError, FatalError
from connectors import canonical, registry
from connectors.files.guess import propose
from connectors.settings import FileSource, ShopExportSource, SourcesConfig
from tests.scaffold.guide import Block, blocks, with_assignments

ROOT = Path(__file__).resolve().parents[2]
GUIDE = ROOT / "docs" / "guides" / "write-a-connector.md"


@pytest.fixture
def home(tmp_path: Path) -> Path:
    (tmp_path / "config").mkdir()
    (tmp_path / "inbox").mkdir()
    (tmp_path / "config" / "cdp.yaml").write_text("name: 测试\n", encoding="utf-8")
    (tmp_path / "config" / "sources.yaml").write_text("# 我的数据源\nsources: {}\n", encoding="utf-8")
    return tmp_path


def add(home: Path, *arguments: str) -> str:
    """Run `cdp source add` and give back what it printed; a `CdpError` comes through."""
    app = typer.Typer()
    app.command()(scaffold_cli.add)
    context.choose_home(str(home))
    result = CliRunner().invoke(app, list(arguments))
    if isinstance(result.exception, CdpError):
        raise result.exception
    assert result.exit_code == 0, result.output
    return result.output


def sources(home: Path) -> SourcesConfig:
    path = home / "config" / "sources.yaml"
    return parse(path.read_text(encoding="utf-8"), SourcesConfig, file=str(path))


ORDERS = "订单号,手机号,实付金额,付款时间,订单状态\nO1,13800000001,12.50,2026年1月2日,已付款\n"


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "gb18030", "utf-16"])
def test_a_file_in_any_encoding_becomes_an_entry_that_fits_its_rows(home: Path, encoding: str) -> None:
    (home / "inbox" / "订单.csv").write_text(ORDERS, encoding=encoding)
    told = add(home, "orders", "--sample", str(home / "inbox" / "订单.csv"))
    source = sources(home).sources["orders"]
    assert isinstance(source, FileSource)
    assert source.streams["orders"].columns["amount"] == "实付金额"
    assert "1 rows fit, 0 do not" in told


def test_the_rest_of_the_file_stays_as_it_is(home: Path) -> None:
    (home / "inbox" / "a.csv").write_text(ORDERS, encoding="utf-8")
    path = home / "config" / "sources.yaml"
    add(home, "first", "--sample", str(home / "inbox" / "a.csv"))
    before = path.read_text(encoding="utf-8")
    add(home, "second", "--sample", str(home / "inbox" / "a.csv"))
    assert before.startswith("# 我的数据源\nsources:\n  first:\n")
    assert path.read_text(encoding="utf-8").startswith(before)
    assert list(sources(home).sources) == ["first", "second"]


def test_the_template_of_a_new_home_takes_an_entry(home: Path) -> None:
    template = (ROOT / "config" / "sources.yaml").read_text(encoding="utf-8")
    (home / "config" / "sources.yaml").write_text(template, encoding="utf-8")
    (home / "inbox" / "a.csv").write_text(ORDERS, encoding="utf-8")
    add(home, "first", "--sample", str(home / "inbox" / "a.csv"))
    text = (home / "config" / "sources.yaml").read_text(encoding="utf-8")
    assert list(sources(home).sources) == ["first"]
    assert all(line in text for line in template.splitlines() if line.strip().startswith("#"))


def test_what_cannot_be_added_is_told_and_changes_nothing(home: Path) -> None:
    (home / "inbox" / "a.csv").write_text(ORDERS, encoding="utf-8")
    sample = str(home / "inbox" / "a.csv")
    add(home, "orders", "--sample", sample)
    before = (home / "config" / "sources.yaml").read_bytes()
    for arguments, message in (
        (("orders", "--sample", sample), "already"),
        (("Orders", "--sample", sample), "lowercase"),
        (("other",), "needs a sample"),
        (("other", "--sample", "nothing.csv"), "is not a file"),
        (("other", "--sample", sample, "--stream", "order"), "did you mean `orders`"),
        (("other", "--kind", "database"), "no kind"),
    ):
        with pytest.raises(ConfigError, match=message):
            add(home, *arguments)
    (home / "inbox" / "broken.xlsx").write_bytes(b"PK\x03\x04 no workbook")
    with pytest.raises(FatalError):
        add(home, "other", "--sample", str(home / "inbox" / "broken.xlsx"))
    add(home, "other", "--sample", sample, "--dry-run")
    assert (home / "config" / "sources.yaml").read_bytes() == before


@pytest.mark.parametrize("kind", [kind for kind in registry.KINDS if kind != "file"])
def test_every_kind_has_an_example_to_start_from(home: Path, kind: str) -> None:
    told = add(home, "mine", "--kind", kind)
    source = sources(home).sources["mine"]
    assert source.connector == kind
    assert registry.source_streams(source)
    assert "cdp source check mine" in told
    assert (
        (home / "config" / "sources.yaml").read_text(encoding="utf-8").startswith("# 我的数据源\nsources:\n  mine:\n")
    )


def test_a_shop_export_is_known_by_its_header(home: Path) -> None:
    header = "订单号,订单状态,商品总价(元),用户实付金额(元),商家实收金额(元),商品数量(件),订单成交时间,商品id,样式ID"
    (home / "inbox" / "orders_20261121.csv").write_text(header + "\n", encoding="utf-8")
    add(home, "pdd", "--sample", str(home / "inbox" / "orders_20261121.csv"))
    source = sources(home).sources["pdd"]
    assert isinstance(source, ShopExportSource)
    assert source.path == "inbox/orders_*.csv"


def test_a_workbook_names_its_sheet_and_unknown_values_are_pointed_at(home: Path) -> None:
    frame = pl.DataFrame({"订单编号": ["1", "2"], "订单状态": ["已付款", "售后中"], "实付金额": ["1", "2"]})
    frame.write_excel(home / "inbox" / "orders.xlsx", worksheet="订单")
    told = add(home, "orders", "--sample", str(home / "inbox" / "orders.xlsx"))
    source = sources(home).sources["orders"]
    assert isinstance(source, FileSource)
    assert source.streams["orders"].sheet == "订单"
    assert "add to map: 售后中" in told
    assert "1 rows fit, 1 do not" in told


def test_a_column_whose_cells_are_of_another_kind_is_not_taken() -> None:
    frame = pl.DataFrame(
        {"订单号": ["1", "2", "3"], "金额": ["见备注", "无", "待定"], "付款时间": ["昨天", "今天", "明天"]}
    )
    proposal = propose(frame, canonical.STREAMS_BY_NAME["orders"])
    assert list(proposal.columns) == ["order_id"]
    assert proposal.unused == ("金额", "付款时间")


@settings(deadline=None)
@given(
    st.lists(st.text(min_size=1, max_size=12), min_size=1, max_size=8, unique=True), st.sampled_from(canonical.STREAMS)
)
def test_any_header_gives_a_valid_entry(names: list[str], stream: canonical.Stream) -> None:
    frame = pl.DataFrame({name: ["1", "男", None] for name in names if name != "_row_number"} or {"a": ["1"]})
    proposal = propose(frame, stream)
    entry = scaffold_cli.render(
        "file_entry.yaml.j2", name="x", file="f.csv", format="csv", rows=1, width=1, stream=stream, path="f.csv",
        sheet=None, lines=scaffold_cli.column_lines(proposal), lacking=proposal.lacking,
        unused=scaffold_cli.remark(*proposal.unused), others="",
    )  # fmt: skip
    config = parse(scaffold_cli.with_entry("sources: {}\n", "x", entry), SourcesConfig, file="f")
    source = config.sources["x"]
    assert isinstance(source, FileSource)
    columns = source.streams[stream.name].columns
    assert set(columns) == set(proposal.columns) | set(proposal.hashed)
    for target, guess in proposal.columns.items():
        rule = columns[target]
        assert (rule if isinstance(rule, str) else rule.from_) == guess.source


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy of what a new connector is written into and tested with."""
    root = tmp_path_factory.mktemp("project")
    for folder in ("cdp", "connectors"):
        shutil.copytree(ROOT / folder, root / folder, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "pyproject.toml", root)
    return root


def in_project(project: Path, *command: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(project)}
    return subprocess.run(
        [sys.executable, "-m", *command], cwd=project, env=environment, text=True, capture_output=True, check=False
    )


def pytest_in(project: Path, *names: str) -> subprocess.CompletedProcess[str]:
    return in_project(project, "pytest", "-q", "-p", "no:cacheprovider", *names)


def test_a_new_connector_passes_its_own_test_and_the_style_check(project: Path) -> None:
    for name, stream in (("erp", "order_lines"), ("loyalty", "events")):
        told = add(project, name, "--kind", "api", "--stream", stream, "--project", str(project))
        lines = [int(count) for count in re.findall(rf"connectors/{name}/\S+\s+\((\d+) lines\)", told)]
        assert len(lines) == 3
        assert sum(lines) < 100
    passed = pytest_in(project, "tests/connectors/test_erp.py", "tests/connectors/test_loyalty.py")
    assert passed.returncode == 0, passed.stdout
    files = ["connectors/erp", "connectors/loyalty", "tests", "connectors/settings.py", "connectors/registry.py"]
    checked = in_project(project, "ruff", "check", *files)
    formatted = in_project(project, "ruff", "format", "--check", *files)
    assert checked.returncode == formatted.returncode == 0, checked.stdout + formatted.stdout
    with pytest.raises(ConfigError, match="already"):
        add(project, "erp", "--kind", "api", "--project", str(project))


def test_the_guide_works_as_it_is_written(home: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(home)
    ran = 0
    for block in blocks(GUIDE):
        ran += _follow(block, home, project)
    assert ran == len(blocks(GUIDE))


def _follow(block: Block, home: Path, project: Path) -> bool:
    """Do what one block of the guide says; False when nothing is known to do with it."""
    in_home = home / block.path
    if block.language == "bash":
        for line in block.text.splitlines():
            _run(line, home, project)
    elif block.act == "expect":
        assert block.text.strip() in in_home.read_text(encoding="utf-8")
    elif block.act == "mend":
        text, (target, rule) = in_home.read_text(encoding="utf-8"), block.text.strip().split(": ", 1)
        in_home.write_text(re.sub(rf"{target}: .*", lambda _: f"{target}: {rule}", text, count=1), encoding="utf-8")
        result = scaffold_cli._check(context.home_path(), sources(home), "walkins")
        assert "2 rows fit, 0 do not" in result.steps[0][2]
    elif block.act == "append":
        text = in_home.read_text(encoding="utf-8") + block.text
        (project / "sources.yaml").write_text(text, encoding="utf-8")
        code = "import cdp.config as c, connectors.settings as s; "
        code += "c.parse(open('sources.yaml', encoding='utf-8').read(), s.SourcesConfig, file='sources.yaml')"
        done = subprocess.run([sys.executable, "-c", code], cwd=project, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    elif block.act == "edit":
        path = project / block.path
        path.write_text(with_assignments(path.read_text(encoding="utf-8"), block.text), encoding="utf-8")
    elif block.act == "file":
        path = in_home if block.language == "csv" else project / block.path
        path.write_text(block.text, encoding="utf-8")
    else:
        return False
    return True


def _run(line: str, home: Path, project: Path) -> None:
    words = shlex.split(line)
    if words[0] == "pytest":
        done = pytest_in(project, *words[1:])
        assert done.returncode == 0, done.stdout
        return
    assert words[:3] == ["cdp", "source", "add"]
    told = add(home, *words[3:], *(("--project", str(project)) if "api" in words else ()))
    assert "api" in words or "1 rows fit, 1 do not" in told
