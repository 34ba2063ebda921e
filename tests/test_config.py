"""Configuration faults are told with file, line, what was expected, and the nearest valid name."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Literal

import jsonschema
import pytest
from pydantic import Field
from ruamel.yaml import YAML

from app.config_cli import FILES, write_schemas
from cdp.brand import BrandConfig
from cdp.config import Strict, parse
from cdp.errors import ConfigError

TEMPLATES = Path(__file__).parent.parent / "config"


class Part(Strict):
    name: str
    kind: Literal["one", "two"] = "one"
    size: int = 1


class Whole(Strict):
    parts: list[Part] = Field(default_factory=list)
    named: dict[str, Part] = Field(default_factory=dict)


def faults(text: str) -> list[str]:
    with pytest.raises(ConfigError) as caught:
        parse(text, Whole, file="whole.yaml")
    return caught.value.message.split("\n")


def test_every_fault_is_told_at_once_with_its_line() -> None:
    text = "parts:\n  - name: a\n    kindd: one\n  - {name: b, kind: tow}\nnamed:\n  x: {size: big}\n"
    assert faults(text) == [
        "whole.yaml:3: parts.0.kindd: unknown key `kindd`; did you mean `kind`?",
        "whole.yaml:4: parts.1.kind: expected one of one, two; found `tow`; did you mean `two`?",
        "whole.yaml:6: named.x.name: `name` is missing",
        "whole.yaml:6: named.x.size: Input should be a valid integer, unable to parse string as an integer"
        "; found `big`",
    ]


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("parts: [\n", "whole.yaml:2:1: not valid YAML"),
        ("parts: []\nparts: []\n", "whole.yaml:2:1: not valid YAML"),
        ("- a\n", "whole.yaml:1: expected a mapping"),
        ("parts:\n\t- a\n", "whole.yaml:2:1: not valid YAML"),
    ],
)
def test_broken_yaml_names_the_place(text: str, where: str) -> None:
    assert faults(text)[0].startswith(where)


def test_an_empty_file_is_an_empty_mapping() -> None:
    assert parse("", Whole, file="whole.yaml") == Whole()


@pytest.mark.parametrize("name", FILES)
def test_the_shipped_template_is_valid(name: str) -> None:
    parse((TEMPLATES / name).read_text(encoding="utf-8"), FILES[name], file=name)


@pytest.mark.parametrize("name", FILES)
def test_the_exported_schema_accepts_the_template_and_refuses_unknown_keys(name: str, tmp_path: Path) -> None:
    write_schemas(tmp_path)
    schema = json.loads((tmp_path / name.replace(".yaml", ".json")).read_text(encoding="utf-8"))
    data = YAML(typ="safe").load((TEMPLATES / name).read_text(encoding="utf-8")) or {}
    plain = {key: value for key, value in json.loads(json.dumps(data, default=str)).items() if value is not None}
    jsonschema.validate(plain, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({**plain, "no_such_key": 1}, schema)


def test_a_date_is_the_end_of_that_day_in_the_brands_zone() -> None:
    brand = BrandConfig(name="x", timezone="Asia/Shanghai")
    assert brand.instant("2026-11-20").isoformat() == "2026-11-20T16:00:00+00:00"
    assert brand.instant("2026-11-20T08:00").isoformat() == "2026-11-20T00:00:00+00:00"
    assert brand.instant("2026-11-20T08:00+00:00").isoformat() == "2026-11-20T08:00:00+00:00"


def test_an_unknown_time_zone_is_a_fault_with_its_line() -> None:
    with pytest.raises(ConfigError, match=r"cdp\.yaml:2: timezone: .*Asia/Shanghai; found `Asia/Shangai`"):
        parse("name: x\ntimezone: Asia/Shangai\n", BrandConfig, file="cdp.yaml")
