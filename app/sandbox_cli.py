"""`cdp sandbox`: the practice WeCom and brand, as programs of their own (this room does not import them)."""

from __future__ import annotations

import os
import sys
from pathlib import Path
from typing import Annotated

import typer

app = typer.Typer(no_args_is_help=True)
ROOT = Path(__file__).resolve().parent.parent


def _become(*arguments: str) -> None:
    """Replace this process by `python -m sandbox …`, so that Ctrl-C and exit codes are its own."""
    path = os.pathsep.join(filter(None, [str(ROOT), os.environ.get("PYTHONPATH", "")]))
    os.environ["PYTHONPATH"] = path
    sys.stdout.flush()
    os.execv(sys.executable, [sys.executable, "-m", "sandbox", *arguments])  # noqa: S606 (this very project)


@app.command()
def wecom(
    state: Annotated[Path, typer.Option(help="SQLite state; made when absent")] = Path("brand/wecom.sqlite"),
    port: Annotated[int, typer.Option(help="on 127.0.0.1")] = 8787,
    scenario: Annotated[
        str | None, typer.Option(help="trouble: bad_day, silent_drop, old_corp, slow, …, or a YAML file")
    ] = None,
    limits: Annotated[
        bool | None, typer.Option(help="the call limits of the real one; default: as the state says")
    ] = None,
) -> None:
    """Serve a practice WeCom and Official Account over HTTP until Ctrl-C (docs/guides/sandbox.md)."""
    arguments = ["serve", "--state", str(state), "--port", str(port)]
    if scenario is not None:
        arguments += ["--scenario", scenario]
    if limits is not None:
        arguments += ["--limits", "on" if limits else "off"]
    _become(*arguments)


@app.command()
def brand(
    out: Annotated[Path, typer.Option(help="folder to write; earlier contents of the same names go")] = Path("brand"),
    people: Annotated[int, typer.Option(min=100)] = 20_000,
    events: Annotated[int, typer.Option(min=1000)] = 400_000,
    seed: Annotated[int, typer.Option(help="same seed, same bytes")] = 7,
    as_of: Annotated[str, typer.Option(help="everything happens before this day")] = "2026-11-20",
    until: Annotated[str | None, typer.Option(help="show what was known before this day; default: all")] = None,
    grow: Annotated[bool, typer.Option("--grow", help="keep WeCom's state and add what is new since")] = False,
) -> None:
    """Generate a practice brand with known truth: WeCom state, tables, log lines, exports."""
    size = ["--people", str(people), "--events", str(events)]
    view = ["--as-of", as_of, *(["--until", until] if until else []), *(["--grow"] if grow else [])]
    _become("brand", "--out", str(out), *size, "--seed", str(seed), *view)
