"""The HTTP side of the collector: routes, failures as JSON, and the life of the server."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import socket
import traceback
from collections.abc import AsyncIterator, Callable
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.middleware import Middleware
from starlette.middleware.cors import CORSMiddleware
from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response
from starlette.routing import Route

from cdp.errors import FatalError
from connectors.collector import endpoints
from connectors.collector.bodies import BodyError
from connectors.collector.collector import Collector
from connectors.collector.endpoints import failure
from connectors.collector.segments import BusyError

_LOG = logging.getLogger(__name__)


def create_app(collector: Collector) -> Starlette:
    """The ASGI application of *collector*; closes its segments on shutdown."""

    @contextlib.asynccontextmanager
    async def lifespan(_: Starlette) -> AsyncIterator[None]:
        roller = asyncio.create_task(_roll_forever(collector))
        yield
        roller.cancel()
        await collector.journal.close()

    def handler(work: Callable[[Collector, Request], Any]) -> Callable[[Request], Any]:
        async def handle(request: Request) -> Response:
            return await _guarded(collector, work, request)

        return handle

    sensors, segment = handler(endpoints.sensors_events), handler(endpoints.segment_messages)
    callback, health = handler(endpoints.wecom_callback), handler(endpoints.health)
    cors = Middleware(
        CORSMiddleware,
        allow_origins=collector.config.allowed_origins,
        allow_methods=["GET", "POST"],
        allow_headers=["*"],
        allow_credentials=True,
        max_age=86_400,
    )
    return Starlette(
        lifespan=lifespan,
        middleware=[cors],
        exception_handlers={404: _unknown, 405: _unknown},
        routes=[
            *(Route(path, sensors, methods=["GET", "POST"]) for path in ("/sa", "/sa.gif", "/debug")),
            Route("/v1/pixel/{kind}", segment, methods=["GET"]),
            Route("/v1/{kind}", segment, methods=["POST"]),
            Route("/beacon/v1/{kind}", segment, methods=["POST"]),
            Route("/wecom/callback", callback, methods=["GET", "POST"]),
            Route("/wecom/callback/{source}", callback, methods=["GET", "POST"]),
            Route("/health", health, methods=["GET"]),
        ],
    )


async def _unknown(request: Request, _: Exception) -> Response:
    return failure(404, "not_found", f"nothing is collected here by {request.method}; see the guide of `cdp collect`")


async def _roll_forever(collector: Collector) -> None:
    while True:
        await asyncio.sleep(min(1.0, collector.config.segment_seconds))
        with contextlib.suppress(OSError):
            await collector.journal.roll()


async def _guarded(collector: Collector, work: Callable[[Collector, Request], Any], request: Request) -> Response:
    """*work*, with every failure as JSON: what was wrong with the request, or 503 when the disk cannot keep up."""
    try:
        response: Response = await work(collector, request)
        return response
    except BodyError as error:
        return failure(error.status, error.code, error.message)
    except TimeoutError:
        return failure(408, "timeout", f"the body did not arrive within {endpoints.READ_SECONDS:.0f} s")
    except ClientDisconnect:
        return Response(status_code=400)
    except BusyError:
        return failure(503, "busy", "too much is waiting to be written; send again", {"Retry-After": "2"})
    except OSError:
        return failure(
            503, "storage", "nothing was stored: the disk refused the write; send again", {"Retry-After": "10"}
        )
    except Exception as error:  # its text may quote what was sent, so only its kind and place are told
        place = traceback.extract_tb(error.__traceback__)[-1]
        _LOG.error("request failed: %s in %s line %s", type(error).__name__, place.name, place.lineno)
        return failure(500, "internal", "the collector failed on this request; nothing of it was kept")


def serve(collector: Collector, *, host: str, port: int, on_started: Callable[[str, int], None] | None = None) -> None:
    """Collect until SIGINT or SIGTERM, then answer what came in and close every segment.

    What an earlier collector left open is recovered first. Nothing is logged per request: addresses carry personal
    data and keys. *on_started* is told where it listens. Raises `FatalError` when the folders cannot be written or the
    address cannot be had.
    """
    try:
        collector.recover()
    except OSError as error:
        raise FatalError(
            f"{collector.folders.collected} cannot be written: {error.strerror}",
            hint="check owner, mode and free space",
        ) from error
    listener = _listener(host, port)
    if on_started is not None:
        on_started(host, listener.getsockname()[1])
    with contextlib.suppress(KeyboardInterrupt):
        http_server(collector).run(sockets=[listener])


def http_server(collector: Collector) -> uvicorn.Server:
    """The server of *collector*, not yet listening."""
    config = uvicorn.Config(
        create_app(collector),
        log_level="warning",
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        timeout_graceful_shutdown=10,
    )
    return uvicorn.Server(config)


def _listener(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=4096)
    except OSError as error:
        raise FatalError(
            f"cannot listen on {host} port {port}: {error.strerror}",
            hint="choose another port, or stop what has it",
        ) from error
