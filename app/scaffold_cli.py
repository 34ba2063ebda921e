"""`cdp source add`: a first draft of a source, from a sample file or as a new connector."""

from __future__ import annotations

import os
import re
from datetime import UTC, datetime
from importlib.resources import files
from pathlib import Path
from typing import Annotated

import fastexcel
import typer
from jinja2 import Environment, StrictUndefined
from rich.markup import escape

from app import context
from app.context import console
from app.source_examples import example_entry
from cdp.config import nearest, parse
from cdp.errors import ConfigError
from cdp.streams import SourceCheck, Stream
from connectors import canonical, registry
from connectors.files.guess import SURE, Guess, Proposal, propose
from connectors.files.reader import format_of, read
from connectors.marketplaces.profile import load_profiles
from connectors.marketplaces.tables import Table, UnknownHeaderError, tables
from connectors.settings import FileStream, SourcesConfig
from warehouse.home import Home

_NAME = re.compile(r"^[a-z][a-z0-9_]{0,39}$")
_PLAIN = re.compile(r"^[A-Za-z_\u4e00-\u9fff][\w\u4e00-\u9fff /.()（）+*-]*$")
_WORDS = {"true", "false", "yes", "no", "on", "off", "null", "y", "n"}
_IMPORTS = (
    "from connectors.api import JsonApi, records_frame",
    "from connectors.files.connector import mapped_streams",
    "from connectors.mapping import apply",
    "from connectors.registry import SourceContext",
)
_TEST_IMPORTS = (
    "from connectors.api import JsonApi",
    "from connectors.registry import SourceContext, build, source_streams",
)
_FROM_EXAMPLE = sorted(registry.KINDS.keys() - {"file"})
_UNION, _KINDS_END = "SourceSettings = Annotated[\n    WeComSource\n", "    )\n}\n"


def add(
    name: Annotated[str, typer.Argument(help="name of the new source: lowercase letters, digits and `_`")],
    kind: Annotated[
        str,
        typer.Option(help=f"file: map a file; api: write a connector for an HTTP API; or {', '.join(_FROM_EXAMPLE)}"),
    ] = "file",
    sample: Annotated[Path | None, typer.Option(help="file: one of the files to map")] = None,
    stream: Annotated[
        str | None, typer.Option(help="canonical stream; default: guessed (file) or people (api)")
    ] = None,
    project: Annotated[Path | None, typer.Option(help="api: the checkout to write to; default: this one")] = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="show what would be written, write nothing")] = False,
) -> None:
    """Draft a new source: a commented entry in config/sources.yaml, or a connector with parser and test."""
    if not _NAME.match(name):
        raise ConfigError(f"`{name}`: a source name is lowercase letters, digits and `_`, at most 40, a letter first")
    chosen = None if stream is None else _stream(stream)
    if kind == "file":
        if sample is None:
            raise ConfigError("a file source needs a sample", hint="add --sample FILE, one of the files to map")
        _add_file(context.home(), name, sample, chosen, dry_run=dry_run)
    elif kind == "api":
        _add_api(project or _checkout(), name, chosen or canonical.STREAMS_BY_NAME["people"], dry_run=dry_run)
    elif kind in registry.KINDS:
        _add_entry(context.home(), name, example_entry(name, kind), dry_run=dry_run)
        console.print(f"next: fill it in;  cdp source check {name}  tries it")
    else:
        raise ConfigError(f"no kind `{kind}`{nearest(kind, ['api', *registry.KINDS])}")


def _stream(name: str) -> Stream:
    if name not in canonical.STREAMS_BY_NAME:
        raise ConfigError(f"no canonical stream `{name}`{nearest(name, sorted(canonical.STREAMS_BY_NAME))}")
    return canonical.STREAMS_BY_NAME[name]


# Files ---------------------------------------------------------------------------------------------------------------


def _add_file(home: Home, name: str, sample: Path, stream: Stream | None, *, dry_run: bool) -> None:
    config = _add_entry(home, name, file_entry(home, name, sample, stream), dry_run=dry_run)
    if dry_run:
        return
    _show(_check(home, config, name))
    console.print(f"next: read the entry;  cdp source check {name}  shows five rows;  cdp run  loads")


def _add_entry(home: Home, name: str, entry: str, *, dry_run: bool) -> SourcesConfig:
    """Show *entry* and, unless it is a dry run, put it at the end of sources.yaml; what that says then."""
    path = home.config / "sources.yaml"
    text = with_entry(path.read_text(encoding="utf-8"), name, entry)
    config = parse(text, SourcesConfig, file=str(path))
    console.print(escape(entry), highlight=False, soft_wrap=True)
    if dry_run:
        console.print("nothing written (--dry-run)")
    else:
        replace_text(path, text)
        console.print(f"[green]✓[/] added to {path}")
    return config


def file_entry(home: Home, name: str, sample: Path, stream: Stream | None) -> str:
    """The YAML of source *name* for files like *sample*: a shop export where a profile knows its header.

    Raises `ConfigError` when the file is not there, `FatalError` when it cannot be read.
    """
    path = sample.expanduser().resolve()
    if not path.is_file():
        raise ConfigError(f"{sample} is not a file", hint="give one of the files to map")
    pattern = pattern_of(path, home.root)
    if stream is None and (known := _shop_table(home, path)) is not None:
        profile = known.profile
        return render("shop_entry.yaml.j2", name=name, path=scalar(pattern), title=profile.title, profile=profile.name)
    frame = next(read(path, FileStream.model_validate({"path": str(path)}), name=path.name)).frame
    names = [column for column in frame.columns if column != "_row_number"]
    proposal = propose(frame, stream)
    return render(
        "file_entry.yaml.j2",
        name=name,
        file=remark(path.name),
        format=format_of(path, path.name),
        rows=frame.height,
        width=len(names),
        stream=proposal.stream,
        path=scalar(pattern),
        sheet=_sheet(path),
        lines=column_lines(proposal),
        lacking=proposal.lacking,
        unused=remark(*proposal.unused),
        others=", ".join(_others(proposal)),
    )


def _shop_table(home: Home, path: Path) -> Table | None:
    """The first table of a shop's export; None where no profile, ours or the brand's own, knows the file."""
    try:
        return next(iter(tables(path, load_profiles(home.config / "profiles"), name=path.name)), None)
    except UnknownHeaderError:
        return None


def pattern_of(path: Path, root: Path) -> str:
    """The path of files like this one, relative to the home where it lies there: runs of digits (dates) become `*`."""
    folder = path.parent.relative_to(root) if path.is_relative_to(root) else path.parent
    return str(folder / re.sub(r"\d{4,}([-_.]?\d{2,})*", "*", path.name))


def _sheet(path: Path) -> str | None:
    if format_of(path, path.name) != "xlsx":
        return None
    return scalar(fastexcel.read_excel(path).sheet_names[0])


def column_lines(proposal: Proposal) -> list[str]:
    """`canonical: rule  # remark`, one a line."""
    lines = [f"{target}: {_rule(guess)}{_remark(guess)}" for target, guess in proposal.columns.items()]
    for target, sources in proposal.hashed.items():
        lines.append(f"{target}: {{hash: [{', '.join(map(scalar, sources))}]}}  # 没有编号列 / no id column was found")
    return lines


def _rule(guess: Guess) -> str:
    if guess.values or guess.unknown:
        pairs = ", ".join(f"{scalar(source)}: {value}" for source, value in guess.values.items())
        return f"{{from: {scalar(guess.source)}, map: {{{pairs}}}}}"
    if guess.format:
        return f'{{from: {scalar(guess.source)}, format: "{guess.format}"}}'
    return scalar(guess.source)


def _remark(guess: Guess) -> str:
    if guess.unknown:
        return f"  # 请补全 / add to map: {remark(*guess.unknown)}"
    return "" if guess.score >= SURE else "  # 请核对 / please check"


def _others(proposal: Proposal) -> list[str]:
    return [column.name for column in proposal.stream.columns if column.name not in proposal.columns]


def scalar(text: str) -> str:
    """*text* as a YAML scalar: plain where that is safe, else double-quoted."""
    if _PLAIN.match(text) and text.strip() == text and text.lower() not in _WORDS:
        return text
    return '"' + "".join(map(_escaped, text)) + '"'


def _escaped(character: str) -> str:
    if character in '"\\':
        return "\\" + character
    return character if character.isprintable() else f"\\U{ord(character):08x}"


def remark(*texts: str) -> str:
    """*texts* as they may stand in a comment, on one line."""
    return "".join(character if character.isprintable() else " " for character in ", ".join(texts))


def with_entry(text: str, name: str, entry: str) -> str:
    """*text* of sources.yaml with *entry* at its end; what stands there stays as it is. Raises `ConfigError`."""
    config = parse(text, SourcesConfig, file="config/sources.yaml")
    if name in config.sources:
        raise ConfigError(
            f"source `{name}` is in config/sources.yaml already", hint="choose another name, or edit it there"
        )
    if not config.sources:
        text = re.sub(r"^sources:.*$", "sources:", text, flags=re.MULTILINE)
    if not re.search(r"^sources:", text, flags=re.MULTILINE):
        text += "sources:\n"
    text = text.rstrip()
    return text + ("\n" if text.endswith("\nsources:") else "\n\n") + entry.rstrip() + "\n"


def replace_text(path: Path, text: str) -> None:
    """Write *text* to *path* in one step: a reader sees the old file or the new one."""
    fresh = path.with_name(f".{path.name}.tmp")
    fresh.write_text(text, encoding="utf-8")
    os.replace(fresh, path)


def _check(home: Home, config: SourcesConfig, name: str) -> SourceCheck:
    now = datetime.now(UTC)
    source = registry.build(name, config.sources[name], root=home.root, environment=os.environ, now=now)
    return source.check()


def _show(result: SourceCheck) -> None:
    for step, ok, told in result.steps:
        console.print(f"  [{'green]✓' if ok else 'red]✗'}[/] {step}: {escape(told)}", highlight=False, soft_wrap=True)


# Connectors -----------------------------------------------------------------------------------------------------------


def _checkout() -> Path:
    root = Path(registry.__file__).resolve().parents[1]
    if not (root / "pyproject.toml").is_file():
        raise ConfigError(
            "a connector is written into a checkout of the project", hint="give its folder with --project DIR"
        )
    return root


def _add_api(root: Path, name: str, stream: Stream, *, dry_run: bool) -> None:
    if name in registry.KINDS or (root / "connectors" / name).exists():
        raise ConfigError(f"there is a connector `{name}` already", hint="choose another name")
    texts = connector_files(root, name, stream)
    for path, text in texts.items():
        if not dry_run:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_text(path, text)
        console.print(
            f"[green]{'·' if dry_run else '✓'}[/] {path.relative_to(root)}  ({text.count(chr(10))} lines)",
            highlight=False,
        )
    console.print(f"next: make tests/connectors/test_{name}.py say what the API really answers, then parse.py")


def connector_files(root: Path, name: str, stream: Stream) -> dict[Path, str]:
    """Every file of a new connector, and the two that learn of it. Raises `ConfigError` where those look different."""
    title = "".join(part.capitalize() for part in name.split("_"))
    facts = {
        "name": name,
        "title": title,
        "stream": stream,
        "required": [column for column in stream.columns if column.required],
        "imports": sorted(
            [*_IMPORTS, _settings_import(title, "duration", "resolve"), f"from connectors.{name} import parse"]
        ),
        "test_imports": sorted(
            [*_TEST_IMPORTS, _settings_import(title), f"from connectors.{name}.connector import {title}Connector"]
        ),
    }
    folder = root / "connectors" / name
    settings, kinds = root / "connectors" / "settings.py", root / "connectors" / "registry.py"
    return {
        folder / "__init__.py": f'"""{title}: over its HTTP API."""\n',
        folder / "parse.py": render("parse.py.j2", **facts),
        folder / "connector.py": render("connector.py.j2", **facts),
        root / "tests" / "connectors" / f"test_{name}.py": render("test.py.j2", **facts),
        settings: _inserted(
            _inserted(settings, None, _UNION, f"    | {title}Source\n", after=True),
            settings,
            _UNION.split("\n")[0],
            render("settings.py.j2", **facts) + "\n\n",
        ),
        kinds: _inserted(kinds, None, _KINDS_END, render("kind.py.j2", **facts)),
    }


def _settings_import(title: str, *others: str) -> str:
    return f"from connectors.settings import {', '.join([f'{title}Source', *others])}"


def _inserted(origin: Path | str, file: Path | None, anchor: str, text: str, *, after: bool = False) -> str:
    """The text of *origin* with *text* before (or after) its first *anchor*."""
    whole = origin.read_text(encoding="utf-8") if isinstance(origin, Path) else origin
    place = whole.find(anchor)
    if place < 0:
        where = file or origin
        raise ConfigError(
            f"{where}: expected `{anchor.strip()}`", hint="add the new source there by hand, as its neighbours are"
        )
    place += len(anchor) if after else 0
    return whole[:place] + text + whole[place:]


def render(template: str, **facts: object) -> str:
    """A template of `app/templates/connector`. What it makes is YAML and Python, so nothing is escaped for HTML."""
    text = (files("app") / "templates" / "connector" / template).read_text(encoding="utf-8")
    options = {"undefined": StrictUndefined, "trim_blocks": True, "lstrip_blocks": True, "keep_trailing_newline": True}
    return Environment(autoescape=False, **options).from_string(text).render(**facts)  # type: ignore[arg-type]  # noqa: S701
