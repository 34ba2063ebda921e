"""The `cdp` command: global options, the verbs of every room, and how errors are shown."""

from __future__ import annotations

import sys
from collections.abc import Callable
from importlib import import_module
from typing import Annotated, Any

import typer
from typer.core import TyperGroup
from typer.main import get_command

from cdp.errors import CdpError

# Verb -> where it is. A module is imported when its verb is called, so that `cdp sql` does not wait for Dagster.
VERBS: dict[str, str] = {
    "init": "app.home_cli:init",
    "run": "app.run_cli:run",
    "demo": "app.run_cli:demo",
    "dev": "app.run_cli:dev",
    "config": "app.config_cli:app",
    "source": "app.source_cli:app",
    "load": "app.load_cli:load",
    "collect": "app.collect_cli:collect",
    "identity": "app.identity_cli:app",
    "privacy": "app.privacy_cli:app",
    "sql": "app.sql_cli:sql",
    "tags": "app.tags_cli:app",
    "funnel": "app.funnel_cli:app",
    "ltv": "app.ltv_cli:app",
    "metric": "app.metric_cli:app",
    "report": "app.operations_cli:report",
    "publish": "app.sql_cli:publish_app",
    "model": "app.model_cli:app",
    "sync": "app.sync_cli:app",
    "drift": "app.sync_cli:drift",
    "explain": "app.sync_cli:explain",
    "doctor": "app.operations_cli:doctor",
    "backup": "app.operations_cli:backup",
    "restore": "app.operations_cli:restore",
    "sandbox": "app.sandbox_cli:app",
}
# The singular and plural people type.
ALIASES = {"tag": "tags", "funnels": "funnel", "metrics": "metric"}
SUMMARIES = {
    "config": "check the home's configuration; JSON Schemas for editors",
    "source": "sources: list, add, check, pull, status, rejects",
    "identity": "who is who: show, explain, cut, link, forget, what-if",
    "privacy": "what is kept of whom: retention, requests to be forgotten",
    "tags": "tags: plan, show, explain, health; their library in WeCom: apply, retire",
    "funnel": "funnels: run, show",
    "ltv": "lifetime value: show (cohorts, channels, curves), person",
    "metric": "business metrics by name: list, show (GMV, repurchase, attribution, referral, retention …)",
    "publish": "published versions: list, rollback",
    "model": "SQL models: list, check, run, diff, lineage, docs",
    "sync": "tags to WeCom: plan, review, apply, verify",
    "sandbox": "practice: a WeCom with trouble on demand, a brand with known truth",
}


class Verbs(TyperGroup):
    """A group whose commands are imported when they are asked for."""

    def list_commands(self, ctx: Any) -> list[str]:  # noqa: ARG002 (click's signature)
        return list(VERBS)

    def get_command(self, ctx: Any, cmd_name: str) -> Any:  # noqa: ARG002 (click's signature)
        cmd_name = ALIASES.get(cmd_name, cmd_name)
        if cmd_name not in VERBS:
            return None
        module, _, name = VERBS[cmd_name].partition(":")
        command = _command(getattr(import_module(module), name))
        command.name = cmd_name
        command.help = SUMMARIES.get(cmd_name, command.help)
        return command


def _command(verb: typer.Typer | Callable[..., Any]) -> Any:
    if isinstance(verb, typer.Typer):
        verb._add_completion = False
        return get_command(verb)
    single = typer.Typer(add_completion=False)
    single.command()(verb)
    return get_command(single)


app = typer.Typer(
    cls=Verbs,
    name="cdp",
    help="siyu-cdp: customer data platform for brands that sell in their own channels (私域).",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    rich_markup_mode="rich",
)


@app.callback()
def main_options(
    home: Annotated[
        str | None, typer.Option("--home", envvar="CDP_HOME", help="the brand's home; default: this folder")
    ] = None,
) -> None:
    from app import context

    context.choose_home(home)


def main() -> None:
    """Run the command line; a `CdpError` prints as words and its exit code, never as a traceback."""
    try:
        app()
    except CdpError as error:
        from app import context

        context.errors.print(f"[bold red]error[/] {error.code}", highlight=False)
        context.errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
