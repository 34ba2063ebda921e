"""The `cdp` command: global options, the verbs of every room, and how errors are shown."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from app import (
    collect_cli,
    config_cli,
    context,
    funnel_cli,
    home_cli,
    operations_cli,
    run_cli,
    sandbox_cli,
    source_cli,
    sql_cli,
    sync_cli,
    tags_cli,
)
from cdp.errors import CdpError

app = typer.Typer(
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
    context.choose_home(home)


app.command("init")(home_cli.init)
app.command("run")(run_cli.run)
app.command("demo")(run_cli.demo)
app.command("dev")(run_cli.dev)
app.command("load")(source_cli.load)
app.command("sql")(sql_cli.sql)
app.command("collect")(collect_cli.collect)
app.command("report")(operations_cli.report)
app.command("doctor")(operations_cli.doctor)
app.command("backup")(operations_cli.backup)
app.command("restore")(operations_cli.restore)
app.add_typer(config_cli.app, name="config", help="check the home's configuration; JSON Schemas for editors")
app.add_typer(source_cli.app, name="source", help="sources: list, check, status")
app.add_typer(tags_cli.app, name="tags", help="tags: plan, show, explain, health")
app.add_typer(funnel_cli.app, name="funnel", help="funnels: run, show")
app.add_typer(sql_cli.publish_app, name="publish", help="published versions: list, rollback")
app.add_typer(
    sandbox_cli.app, name="sandbox", help="practice: a WeCom with trouble on demand, a brand with known truth"
)
app.add_typer(sync_cli.app, name="sync", help="tags to WeCom: plan, review, apply, verify")


def main() -> None:
    """Run the command line; a `CdpError` prints as words and its exit code, never as a traceback."""
    try:
        app()
    except CdpError as error:
        context.errors.print(f"[bold red]error[/] {error.code}", highlight=False)
        context.errors.print(str(error), markup=False, highlight=False, soft_wrap=True)
        sys.exit(error.exit_code)


if __name__ == "__main__":
    main()
