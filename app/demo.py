"""The demo's outside world: a generated brand, and a WeCom that answers on loopback."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import date
from importlib.resources import as_file, files

from app.home_cli import create_home
from sandbox.brand import generate
from sandbox.server import RunningServer, start
from warehouse.home import Home

AS_OF = date(2026, 11, 20)
SEED = 20261120
TEMPLATES = {"demo_cdp.yaml": "cdp.yaml", "demo_sources.yaml": "sources.yaml", "demo_sync.yaml": "sync.yaml"}


def prepare(home: Home, *, people: int, events: int, seed: int = SEED) -> bool:
    """Make the demo's home and its brand. Returns False when both are there already with the same numbers.

    The brand's files lie in `HOME/brand`; the configuration is the default one with the demo's sources.
    """
    wanted = {"people": people, "events": events, "seed": seed, "as_of": AS_OF.isoformat()}
    marker = home.root / "brand" / "made.json"
    if marker.is_file() and json.loads(marker.read_text(encoding="utf-8")) == wanted:
        return False
    for stale in ("brand", "data", "config", "dagster", "secrets"):
        shutil.rmtree(home.root / stale, ignore_errors=True)
    create_home(home)
    for template, target in TEMPLATES.items():
        with as_file(files("app") / "templates" / template) as source:
            shutil.copyfile(source, home.config / target)
    generate(home.root / "brand", people=people, events=events, seed=seed, as_of=AS_OF)
    marker.write_text(json.dumps(wanted), encoding="utf-8")
    return True


@contextmanager
def outside_world(home: Home) -> Iterator[RunningServer]:
    """WeCom and the Official Account on loopback, and the environment variables that the demo's sources name."""
    names = json.loads((home.root / "brand" / "brand.json").read_text(encoding="utf-8"))
    before = dict(os.environ)
    # Without the real one's windows of 10,000 calls a minute, so that the demo does not have to wait for one to end.
    server = start(home.root / "brand" / "wecom.sqlite", limits=False)
    try:
        os.environ.update(
            WECOM_BASE_URL=server.base_url.removesuffix("/cgi-bin/"),
            OA_BASE_URL=server.oa_base_url,
            WECOM_SECRET=names["app_secret"],
            OA_SECRET=names["oa_secret"],
        )
        yield server
    finally:
        server.stop()
        os.environ.clear()
        os.environ.update(before)
