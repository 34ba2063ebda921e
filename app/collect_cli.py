"""`cdp collect`: the HTTP collector for tracking SDKs and WeCom callbacks."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Annotated

import typer

from app import context
from app.context import console
from cdp.errors import ConfigError
from connectors.collector.collector import Collector, Folders
from connectors.collector.server import serve
from connectors.collector.settings import CollectorConfig
from connectors.settings import SourcesConfig, WeComSource, resolve
from connectors.wecom.callbacks import CallbackError, CallbackReceiver
from pipelines.collected import collector_config
from warehouse.home import Home, load_config

LOOPBACK = ("127.0.0.1", "::1", "localhost")


def collect(
    host: Annotated[str, typer.Option(help="address to listen on; put a proxy with HTTPS in front")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="0 takes a free one")] = 8790,
    segment_seconds: Annotated[
        float | None, typer.Option(min=1, help="close files at this age; default: config/collector.yaml")
    ] = None,
) -> None:
    """Take events of 神策 and Segment/RudderStack SDKs and WeCom callbacks; keep each on disk before answering."""
    home = context.home()
    config = collector_config(home)
    if segment_seconds is not None:
        config = config.model_copy(update={"segment_seconds": segment_seconds})
    collector = collector_of(home, config, os.environ)
    if host not in LOOPBACK and not collector.write_keys:
        console.print(
            "[yellow]![/] no `write_keys` in config/collector.yaml: anybody who reaches this port can send events"
        )

    def started(host: str, port: int) -> None:
        shown = f"[{host}]" if ":" in host else host
        for line in addresses(f"http://{shown}:{port}", collector):
            console.print(line, highlight=False, soft_wrap=True)

    serve(collector, host=host, port=port, on_started=started)
    console.print("[green]✓[/] stopped; every file is closed")


def collector_of(home: Home, config: CollectorConfig, environment: Mapping[str, str]) -> Collector:
    """The collector of *home*. Raises `ConfigError` for a secret that is not set."""
    keys = {
        resolve(value, environment, home.root, where=f"collector.yaml: write_keys.{name}")
        for name, value in config.write_keys.items()
    }
    return Collector(
        config,
        folders_of(home),
        write_keys=frozenset(keys),
        receivers=receivers(home, load_config(home, "sources.yaml", SourcesConfig), environment),
        refusals=(CallbackError,),
    )


def folders_of(home: Home) -> Folders:
    """Where the collector of *home* writes."""
    return Folders(home.root / "data" / "collected", home.rejects / "_collector")


def receivers(home: Home, sources: SourcesConfig, environment: Mapping[str, str]) -> dict[str, CallbackReceiver]:
    """Source name -> receiver, for each enabled WeCom source with both callback secrets."""
    found = {}
    for name, source in sources.enabled().items():
        if not isinstance(source, WeComSource) or (source.callback_token or source.callback_aes_key) is None:
            continue
        if source.callback_token is None or source.callback_aes_key is None:
            raise ConfigError(
                f"sources.{name}: `callback_token` and `callback_aes_key` go together",
                hint="both stand in 接收事件服务器 of the WeCom console",
            )
        token, key, corpid = (
            resolve(value, environment, home.root, where=f"sources.{name}.{field}")
            for field, value in (
                ("callback_token", source.callback_token),
                ("callback_aes_key", source.callback_aes_key),
                ("corpid", source.corpid),
            )
        )
        found[name] = CallbackReceiver.of(token, key, corpid, where=name)
    return found


def addresses(base: str, collector: Collector) -> list[str]:
    """What to enter in the SDKs and the WeCom console."""
    lines = [
        f"[green]✓[/] collecting on {base}  (Ctrl-C stops)",
        f"  神策 server_url   {base}/sa?project=default",
        f"  Segment host      {base}",
        f"  health            {base}/health",
    ]
    return lines + [f"  WeCom callback    {base}/wecom/callback/{name}" for name in collector.receivers]
