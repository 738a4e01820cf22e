"""The server of `adjax live --web`: one port for the page and for the WebSocket that its audio goes through."""

from __future__ import annotations

import asyncio
import json
import logging
import signal
import sys
import time
import traceback
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from http import HTTPStatus
from typing import Any

from websockets.asyncio.server import ServerConnection, serve
from websockets.datastructures import Headers
from websockets.exceptions import ConnectionClosed
from websockets.http11 import Request, Response

from adjax.errors import AdjaxError
from adjax.live.engine import QUEUE_CHUNKS
from adjax.live.web import page
from adjax.live.web.models import Models
from adjax.live.web.protocol import (
    CHUNK_HEADER,
    MAX_CONTROL_CHARACTERS,
    VERSION,
    Control,
    ProtocolError,
    Start,
    Stop,
    close_reason,
    parse_control,
)
from adjax.live.web.session import Allowance, Session

MAX_SESSIONS = 4
CONTROLS_AT_ONCE, CONTROLS_PER_SECOND = 40.0, 10.0
CONTROLS_WAITING = 8  # behind one that is being compiled
REPORT_S = 1.0
CLOSE_S = 2.0  # what a browser may take to answer a close frame
POLICY, INTERNAL, TRY_LATER = 1008, 1011, 1013  # close codes of RFC 6455 and its registry


class Server:
    """What all connections share: the models, and the threads that compile (one) and code (one a connection)."""

    def __init__(self, models: Models, host: str) -> None:
        self._models, self._host = models, host
        self._compiling = ThreadPoolExecutor(1, "adjax compile")
        self._coding = ThreadPoolExecutor(MAX_SESSIONS, "adjax coder")
        self._sessions = 0

    def close(self) -> None:
        """Ends the threads; what is being compiled still is."""
        self._compiling.shutdown(cancel_futures=True)
        self._coding.shutdown(cancel_futures=True)

    def answer(self, connection: ServerConnection, request: Request) -> Response | None:
        """The HTTP response to a request; None for one that may open a WebSocket."""
        path = request.path.partition("?")[0]
        audio = path == page.AUDIO_PATH
        origins = request.headers.get_all("Origin") if audio else None
        if reason := page.refusal(self._host, request.headers.get_all("Host"), origins):
            return connection.respond(HTTPStatus.FORBIDDEN, f"adjax: {reason}\n")
        if audio:
            return None
        file = page.read_file(path)
        if request.method != "GET":
            return connection.respond(HTTPStatus.METHOD_NOT_ALLOWED, "adjax: only GET\n")
        if file is None:
            return connection.respond(HTTPStatus.NOT_FOUND, "adjax: no such page\n")
        kind, content = file
        headers = Headers({"Content-Type": kind, "Content-Length": str(len(content)), "Connection": "close"})
        headers.update(page.HEADERS)
        return Response(HTTPStatus.OK, "OK", headers, content)

    async def handle(self, connection: ServerConnection) -> None:
        """Serves one WebSocket until either side closes it."""
        if self._sessions >= MAX_SESSIONS:
            await connection.close(TRY_LATER, f"{MAX_SESSIONS} pages are connected already; close one of them")
            return
        self._sessions += 1
        try:
            await _Connection(connection, self._models, self._compiling, self._coding).serve()
        except ConnectionClosed:
            pass
        except ProtocolError as error:
            await connection.close(POLICY, close_reason(error))
        except Exception:
            traceback.print_exc()  # a fault of ours: others go on
            await connection.close(INTERNAL, "the server failed; its terminal shows where")
        finally:
            self._sessions -= 1


class _Connection:
    """The tasks of one WebSocket; the first that ends, ends all."""

    def __init__(
        self,
        connection: ServerConnection,
        models: Models,
        compiling: ThreadPoolExecutor,
        coding: ThreadPoolExecutor,
    ) -> None:
        self._connection, self._models = connection, models
        self._compiling, self._coding = compiling, coding
        self._loop = asyncio.get_running_loop()
        self._replies: asyncio.Queue[bytes] = asyncio.Queue(QUEUE_CHUNKS)
        self._controls: asyncio.Queue[Control] = asyncio.Queue(CONTROLS_WAITING)
        self._model: str | None = None
        self._session = Session(lambda reply: self._loop.call_soon_threadsafe(self._deliver, reply))

    async def serve(self) -> None:
        """Raises what the first task that fails raises."""
        work = self._loop.run_in_executor(self._coding, self._session.run)
        tasks = [asyncio.ensure_future(task()) for task in (self._receive, self._control, self._send, self._report)]
        try:
            await asyncio.wait([work, *tasks], return_when=asyncio.FIRST_COMPLETED)
        finally:
            self._session.close()
            for task in tasks:
                task.cancel()
            results = await asyncio.gather(*tasks, work, return_exceptions=True)
        for result in results:
            if isinstance(result, Exception):
                raise result

    async def _receive(self) -> None:
        allowance = Allowance(CONTROLS_AT_ONCE, CONTROLS_PER_SECOND)
        async for message in self._connection:
            if isinstance(message, bytes):
                self._session.receive(message)
                continue
            wanted = parse_control(message)
            if not allowance.take(1, time.monotonic()) or self._controls.full():
                raise ProtocolError("control messages come faster than they can be followed")
            self._controls.put_nowait(wanted)

    async def _control(self) -> None:
        models = self._models
        await self._say("hello", version=VERSION, models=models.describe(), chosen=vars(models.chosen))
        while True:
            wanted = await self._controls.get()
            if isinstance(wanted, Stop):
                self._session.stop()
                self._model = None
                await self._say("stopped", **self._session.statistics())
                continue
            if isinstance(wanted, Start):
                self._session.begin()
                self._model = None
            model = wanted.model if isinstance(wanted, Start) else self._model
            if model is None:
                raise ProtocolError("change: no stream is started")
            models.check(model, wanted)
            await self._say("preparing")
            try:
                codec = await self._loop.run_in_executor(self._compiling, models.prepare, model, wanted)
            except AdjaxError as error:
                await self._say("refused", reason=str(error))
                continue
            self._model = model
            await self._say("ready", **self._session.apply(codec, wanted).describe())

    def _deliver(self, reply: bytes) -> None:
        if self._replies.full():  # a browser that does not read
            self._session.unsent += 1
        else:
            self._replies.put_nowait(reply)

    async def _send(self) -> None:
        while True:
            await self._connection.send(await self._replies.get())

    async def _report(self) -> None:
        while True:
            await asyncio.sleep(REPORT_S)
            if self._session.now is not None:
                await self._say("statistics", **self._session.statistics())

    async def _say(self, kind: str, **values: Any) -> None:
        await self._connection.send(json.dumps({"type": kind, **values}))


async def serve_web(models: Models, host: str, port: int, stop: asyncio.Event, opened: Callable[[str], None]) -> None:
    """Serves until `stop` is set; `opened` is called with the page's address once it is there.

    Raises AdjaxError where the address cannot be bound.
    """
    quiet = logging.getLogger("adjax.live.web")
    quiet.setLevel(logging.CRITICAL + 1)  # what others send amiss is answered, not logged
    server = Server(models, host)
    try:
        running = await serve(
            server.handle,
            host,
            port,
            process_request=server.answer,
            compression=None,
            max_size=max(CHUNK_HEADER.size + 4 * models.most_samples, MAX_CONTROL_CHARACTERS),
            close_timeout=CLOSE_S,
            server_header=None,
            logger=quiet,
        )
    except (OSError, UnicodeError, OverflowError) as error:
        server.close()
        reason = getattr(error, "strerror", None) or error
        raise AdjaxError(f"--host {host}, --port {port}: {reason}") from None
    try:
        opened(_address(host, running.sockets[0].getsockname()[1]))
        await stop.wait()
    finally:
        running.close(reason="the server was ended")
        await running.wait_closed()
        server.close()


def _address(host: str, port: int) -> str:
    if host in {"0.0.0.0", "::", ""}:
        host = "localhost"
    return f"http://[{host}]:{port}/" if ":" in host else f"http://{host}:{port}/"


def run_web(
    model: str | None = None,
    host: str = "127.0.0.1",
    port: int = 8080,
    chunk_ms: float = 25.0,
    codebooks: int | None = None,
    opened: Callable[[str], None] | None = None,
) -> None:
    """Serves the page until Ctrl-C or SIGTERM; `opened` is called with its address.

    `model`, `chunk_ms` and `codebooks` are what is chosen when the page opens. Raises AdjaxError for a model that
    cannot be used and an address that cannot be bound.
    """
    models = Models(model, chunk_ms, codebooks)
    models.prepare(models.chosen.model, models.chosen)

    async def run() -> None:
        stop = asyncio.Event()
        loop = asyncio.get_running_loop()
        for number in (signal.SIGINT, signal.SIGTERM):
            try:
                loop.add_signal_handler(number, stop.set)
            except (NotImplementedError, RuntimeError, ValueError):  # not on this system or in this thread
                continue
        await serve_web(models, host, port, stop, opened or (lambda _: None))

    if not page.is_loopback(host):
        print(
            f"adjax: warning: --host {host}: whoever reaches port {port} can use it, and browsers give the microphone "
            "only to pages from https or localhost",
            file=sys.stderr,
        )
    asyncio.run(run())
