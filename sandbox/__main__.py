"""`python -m sandbox serve|brand`: the practice server and the brand generator."""

from __future__ import annotations

import argparse
import sys
from datetime import date
from pathlib import Path


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m sandbox", description=__doc__)
    verbs = parser.add_subparsers(dest="verb", required=True)
    server = verbs.add_parser("serve", help="serve WeCom and the Official Account over HTTP on loopback")
    server.add_argument("--state", type=Path, required=True, help="SQLite file; made when absent")
    server.add_argument("--host", default="127.0.0.1")
    server.add_argument("--port", type=int, default=8787)
    server.add_argument("--scenario", help="a shipped scenario (bad_day, silent_drop, …) or a YAML file")
    server.add_argument(
        "--limits", choices=("on", "off"), help="the 45009 windows of the reference (default: as the state says)"
    )
    server.add_argument("--end-with-stdin", action="store_true", help=argparse.SUPPRESS)
    brand = verbs.add_parser("brand", help="generate a brand with known truth")
    brand.add_argument("--out", type=Path, required=True)
    brand.add_argument("--people", type=int, default=20_000)
    brand.add_argument("--events", type=int, default=400_000)
    brand.add_argument("--seed", type=int, default=7)
    brand.add_argument("--as-of", type=date.fromisoformat, default=date(2026, 11, 20))
    brand.add_argument("--until", type=date.fromisoformat, help="show what was known before this day; default: --as-of")
    brand.add_argument("--grow", action="store_true", help="keep WeCom's state and add what is new since")
    options = parser.parse_args(arguments)
    if options.verb == "serve":
        from sandbox.server import scenario_path, serve

        limits = None if options.limits is None else options.limits == "on"
        scenario = scenario_path(options.scenario) if options.scenario else None
        serve(
            options.state,
            host=options.host,
            port=options.port,
            scenario=scenario,
            limits=limits,
            end_with_stdin=options.end_with_stdin,
        )
        return 0
    from sandbox.brand import generate

    report = generate(
        options.out,
        people=options.people,
        events=options.events,
        seed=options.seed,
        as_of=options.as_of,
        until=options.until,
        grow=options.grow,
        echo=print,
    )
    print(report)
    return 0


if __name__ == "__main__":
    sys.exit(main())
