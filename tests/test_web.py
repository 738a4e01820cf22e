"""`adjax live --web`: what the browser gets is the offline codec's result, and nothing it sends harms the server."""

from __future__ import annotations

import asyncio
import http.client
import json
import socket
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import asdict
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("websockets")

from websockets.exceptions import ConnectionClosed, InvalidStatus
from websockets.sync.client import ClientConnection, connect

from adjax.cli import main
from adjax.errors import AdjaxError
from adjax.live.web import server as web
from adjax.live.web.models import Models
from adjax.live.web.page import refusal
from adjax.live.web.protocol import (
    CHUNK_HEADER,
    MAX_REASON_BYTES,
    REPLY_HEADER,
    Change,
    ProtocolError,
    Start,
    Stop,
    close_reason,
    parse_control,
)
from adjax.live.web.session import AHEAD_S, Coder, Session, Settings

CHUNK = 8  # frames of 20 samples: 20 ms of the tiny model
SAMPLES = CHUNK * 20
START = {"type": "start", "model": "tiny-spectral", "chunk_frames": CHUNK, "codebooks": 3, "bypass": False}


@pytest.fixture(scope="module")
def voice() -> np.ndarray:
    return np.random.default_rng(0).uniform(-0.5, 0.5, 6 * SAMPLES).astype(np.float32)


@pytest.fixture(scope="module")
def models(tiny_model: str) -> Models:
    return Models(tiny_model, chunk_ms=20)


@contextmanager
def serving(models: Models) -> Iterator[str]:
    """The authority (host and port) of a server in a thread, which has ended behind it."""
    there: list[str] = []
    opened, control = threading.Event(), {}

    async def run() -> None:
        control["stop"], control["loop"] = asyncio.Event(), asyncio.get_running_loop()

        def note(address: str) -> None:
            there.append(address.removeprefix("http://").rstrip("/"))
            opened.set()

        await web.serve_web(models, "127.0.0.1", 0, control["stop"], note)

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert opened.wait(30)
        yield there[0]
    finally:
        control["loop"].call_soon_threadsafe(control["stop"].set)
        thread.join(30)
        assert not thread.is_alive()


@pytest.fixture(scope="module")
def authority(models: Models) -> Iterator[str]:
    with serving(models) as there:
        yield there


def opened(authority: str, **options: Any) -> ClientConnection:
    return connect(f"ws://{authority}/audio", origin=f"http://{authority}", compression=None, **options)


def heard(client: ClientConnection, kind: str) -> dict[str, Any]:
    """The next message of a kind; of others only reports may come before it."""
    while True:
        message = client.recv(timeout=60)
        assert isinstance(message, str), f"audio in place of '{kind}'"
        data = json.loads(message)
        if data["type"] == kind:
            return data
        assert data["type"] in {"hello", "preparing", "statistics"}, data


def started(client: ClientConnection, **values: Any) -> dict[str, Any]:
    client.send(json.dumps(START | values))
    return heard(client, "ready")


def farewell(client: ClientConnection) -> tuple[int, str]:
    """Code and reason with which the server closes; what it says before is skipped."""
    with pytest.raises(ConnectionClosed) as closed:
        read_all(client)
    assert closed.value.rcvd is not None
    return closed.value.rcvd.code, closed.value.rcvd.reason


def read_all(client: ClientConnection) -> None:
    while True:
        client.recv(timeout=30)


def through(client: ClientConnection, number: int, index: int, samples: np.ndarray) -> np.ndarray:
    """A chunk there and back."""
    client.send(CHUNK_HEADER.pack(number, index) + samples.astype("<f4").tobytes())
    while isinstance(reply := client.recv(timeout=30), str):
        assert json.loads(reply)["type"] == "statistics"
    came_number, came_index, waited_ms, computed_ms = REPLY_HEADER.unpack_from(reply)
    assert (came_number, came_index) == (number, index)
    assert waited_ms >= 0
    assert computed_ms > 0
    return np.frombuffer(reply, "<f4", offset=REPLY_HEADER.size)


def stream(client: ClientConnection, number: int, samples: np.ndarray, size: int = SAMPLES) -> np.ndarray:
    return np.concatenate([through(client, number, i, part) for i, part in enumerate(samples.reshape(-1, size))])


def offline(codec: Any, samples: np.ndarray) -> np.ndarray:
    return np.asarray(codec.decode(codec.encode(samples[None, :, None])))[0, :, 0]


# --------------------------------------------------------------------------------------------------------- protocol


def test_audio_is_offline(authority: str, tiny_codec: Any, voice: np.ndarray) -> None:
    """Chunks in, chunks out are the streaming codec, which equals the offline one; a second start begins afresh.

    `ready` says what a page needs: how long its chunks are, and how late and how costly what comes back is.
    """
    expected = offline(tiny_codec, voice)
    with opened(authority) as client:
        hello = heard(client, "hello")
        assert hello["chosen"] == {k: v for k, v in START.items() if k != "type"}
        assert {"tiny-spectral", "spectral48"} <= {row["name"] for row in hello["models"]}
        for count in (1, 2):
            ready = started(client)
            assert (ready["stream"], ready["chunk_samples"], ready["sample_rate_hz"]) == (count, SAMPLES, 8000)
            assert ready["delay_samples"] == tiny_codec.delay
            assert ready["kbps"] == tiny_codec.bitrate / 1000
            assert np.abs(stream(client, ready["settings"], voice) - expected).max() < 1e-4
        client.send('{"type": "stop"}')
        stopped = heard(client, "stopped")
        assert stopped["chunks"] == 6
        assert not any(stopped["drop_outs"].values())
        for part in ("queue", "encode", "decode"):
            assert 0 <= stopped["latency_ms"][part]["p50"] <= stopped["latency_ms"][part]["p95"]


def test_change_of_settings(authority: str, tiny_codec: Any, voice: np.ndarray) -> None:
    """Neither another chunk length nor other codebooks break the stream: what comes is the steps' own result.

    Chunks follow the settings that they name, so those under way when a change is ready are still the old ones.
    """
    first, second = voice[: 3 * SAMPLES], voice[3 * SAMPLES :]
    with opened(authority) as client:
        old = started(client)["settings"]
        parts = [stream(client, old, first[: 2 * SAMPLES])]
        client.send(json.dumps({"type": "change", "chunk_frames": 4, "codebooks": 2, "bypass": False}))
        new = heard(client, "ready")
        assert (new["chunk_samples"], new["codebooks"], new["stream"]) == (SAMPLES // 2, 2, 1)
        assert new["kbps"] == round(tiny_codec.bitrate / 1000 * 2 / 3, 3)
        parts.append(stream(client, old, first[2 * SAMPLES :]))
        parts.append(stream(client, new["settings"], second, SAMPLES // 2))
    encoder, decoder, expected = tiny_codec.init_encoder(1), tiny_codec.init_decoder(1), []
    for samples, size, codebooks in ((first, SAMPLES, 3), (second, SAMPLES // 2, 2)):
        for chunk in samples.reshape(-1, 1, size, 1):
            encoder, codes = tiny_codec.encode_step(encoder, chunk, codebooks=codebooks)
            decoder, sound = tiny_codec.decode_step(decoder, codes)
            expected.append(np.array(sound)[0, :, 0])
    assert np.abs(np.concatenate(parts) - np.concatenate(expected)).max() < 1e-4


def test_coder_codes_and_bypass(tiny_codec: Any, voice: np.ndarray) -> None:
    """The codes are the offline ones, whatever is heard; the original comes as late as the decoded signal would.

    Behind the 5 ms in which the one is faded into the other they are exactly the original, exactly the decoded signal.
    """
    codes = np.asarray(tiny_codec.encode(voice[None, :, None]))
    decoded, delay = offline(tiny_codec, voice), tiny_codec.delay
    late = np.concatenate([np.zeros(delay, np.float32), voice[:-delay]])
    coder = Coder()
    for i, bypass in enumerate((False, True, True, False)):
        at = slice(i * SAMPLES, (i + 1) * SAMPLES)
        came, sound = coder.step(Settings(i, 1, tiny_codec, CHUNK, 3, bypass), voice[at])
        np.testing.assert_array_equal(came, codes[:, i * CHUNK : (i + 1) * CHUNK])
        faded = 40 if i in (1, 3) else 0
        wanted = late[at] if bypass else decoded[at]
        assert np.abs(sound - wanted)[faded:].max() < 1e-4
        steps = np.linspace(0, 1, faded, endpoint=False)
        other = decoded[at] if bypass else late[at]
        mixed = steps * wanted[:faded] + (1 - steps) * other[:faded]
        np.testing.assert_allclose(sound[:faded], mixed, atol=1e-4)


BAD: dict[str, tuple[list[str | bytes], int, str]] = {
    "no JSON": (["{"], 1008, "not a JSON message"),
    "nested": (["[" * 900], 1008, "not a JSON message"),
    "long": (['{"type": "stop"' + " " * 1000 + "}"], 1008, "at most 1000 characters"),
    "unknown type": (['{"type": "shutdown"}'], 1008, "type is one of start, change, stop"),
    "unknown key": ([json.dumps(START | {"gain": 1})], 1008, "unknown key 'gain'"),
    "twice": (['{"type": "stop", "type": "stop"}'], 1008, "twice"),
    "not a number": ([json.dumps(START | {"codebooks": True})], 1008, "codebooks is True"),
    "no such chunk": ([json.dumps(START | {"chunk_frames": 7})], 1008, "chunk_frames must be one of 1, 2, 4, 8, 16"),
    "no such model": ([json.dumps(START | {"model": "../x"})], 1008, "model '../x' is not offered"),
    "no such codebook": ([json.dumps(START | {"codebooks": 4})], 1008, "codebooks must be 1 to 3"),
    "change first": (['{"type": "change", "chunk_frames": 8, "codebooks": 3, "bypass": true}'], 1008, "no stream"),
    "audio first": ([CHUNK_HEADER.pack(1, 0) + bytes(4 * SAMPLES)], 1008, "settings 1, which are not ready"),
    "short": ([b"\0" * 7], 1008, "a message of 7 bytes"),
    "empty": ([b""], 1008, "a message of 0 bytes"),
    "huge": ([bytes(1 << 20)], 1009, ""),
    "many": (['{"type": "stop"}'] * 200, 1008, "control messages come faster"),
}


@pytest.mark.parametrize("case", BAD)
def test_bad_message_closes(authority: str, case: str) -> None:
    """Whoever does not speak the protocol is told so in the close frame."""
    messages, code, reason = BAD[case]
    with opened(authority) as client:
        with suppress(ConnectionClosed):  # the server may close before the last of many messages
            for message in messages:
                client.send(message)
        closed_with, told = farewell(client)
    assert closed_with == code
    assert reason in told


def test_server_outlives(authority: str, tiny_codec: Any, voice: np.ndarray) -> None:
    """A stream goes on beside connections that break the rules, are cut off or send no chunk's length.

    Samples that are not finite become 0, those too large are limited: the encoder's state stays sound, so what comes
    is the offline result of the repaired signal.
    """
    wild = voice.copy()
    wild[[5, SAMPLES + 3, 2 * SAMPLES]] = [np.nan, np.inf, -np.inf]
    wild[3 * SAMPLES] = 1e30
    tame = np.clip(np.where(np.isfinite(wild), wild, 0), -1, 1).astype(np.float32)
    with opened(authority) as client:
        number = started(client)["settings"]
        first = stream(client, number, wild[: 3 * SAMPLES])
        with opened(authority) as other:
            started(other)
            other.send(CHUNK_HEADER.pack(1, 0) + bytes(4 * SAMPLES - 4))
            assert farewell(other) == (1008, f"a chunk of settings 1 has {SAMPLES} samples, not {SAMPLES - 1}")
        with opened(authority) as cut:
            started(cut)
            cut.send(CHUNK_HEADER.pack(1, 0) + bytes(4 * SAMPLES))
            cut.socket.shutdown(socket.SHUT_RDWR)
        second = stream(client, number, wild[3 * SAMPLES :])
        client.send('{"type": "stop"}')
        assert heard(client, "stopped")["drop_outs"]["chunks_not_finite"] == 3
    assert np.abs(np.concatenate([first, second]) - offline(tiny_codec, tame)).max() < 1e-4


def test_too_many_and_end(models: Models) -> None:
    """One more page than allowed is told to come later, one that leaves makes room, and the server's end is announced.

    `serving` joins the server's thread, and that all of its workers have ended is seen by their names.
    """
    before = set(threading.enumerate())
    with ExitStack() as stack:
        with serving(models) as there:
            clients = [stack.enter_context(opened(there)) for _ in range(web.MAX_SESSIONS)]
            for client in clients:
                heard(client, "hello")
            with opened(there) as extra:
                assert farewell(extra)[0] == 1013
            clients.pop().close()
            deadline = time.monotonic() + 10
            while not welcome(there):  # the server may still be taking leave of the other
                assert time.monotonic() < deadline
            started(clients[0])
        for client in clients:
            assert farewell(client) == (1001, "the server was ended")
    assert not [thread.name for thread in set(threading.enumerate()) - before if thread.name.startswith("adjax")]


def welcome(authority: str) -> bool:
    with opened(authority) as client:
        try:
            return bool(heard(client, "hello"))
        except ConnectionClosed:
            return False


# ------------------------------------------------------------------------------------------------------------ pieces


def test_queue_and_pace_are_bounded(tiny_codec: Any) -> None:
    """Chunks that nobody codes are dropped and counted; those that come faster than time goes end the connection."""
    session = Session(lambda _: None)
    session.begin()
    number = session.apply(tiny_codec, Start("tiny-spectral", CHUNK, 3, False)).number
    message = CHUNK_HEADER.pack(number, 0) + bytes(4 * SAMPLES)
    for _ in range(20):
        session.receive(message)
    assert session.statistics()["drop_outs"]["chunks_not_coded"] == 12
    for _ in range(int(AHEAD_S / 0.02) - 21):
        session.receive(message)
    with pytest.raises(ProtocolError, match="faster than real time"):
        [session.receive(message) for _ in range(int(AHEAD_S / 0.02))]
    session.stop()
    with pytest.raises(ProtocolError, match="not ready"):
        session.receive(message)


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=6,
)
controls = st.one_of(
    st.builds(Start, st.text(max_size=20), st.integers(), st.integers(), st.booleans()),
    st.builds(Change, st.integers(), st.integers(), st.booleans()),
    st.just(Stop()),
)


@settings(deadline=None, max_examples=200)
@given(st.one_of(st.text(), values.map(json.dumps), st.dictionaries(st.sampled_from([*START]), values).map(json.dumps)))
def test_control_parser_never_fails(text: str) -> None:
    """Any text is a control message or a ProtocolError, whose reason fits a close frame: nothing else may come out."""
    reason = ""
    try:
        assert isinstance(parse_control(text), Start | Change | Stop)
    except ProtocolError as error:
        reason = close_reason(error)
    assert len(reason.encode()) <= MAX_REASON_BYTES


@settings(deadline=None, max_examples=100)
@given(controls, st.data())
def test_control_parser_is_strict(control: Start | Change | Stop, data: st.DataObject) -> None:
    """What a message says is what is read; with a key more, a key less or a value of another type it is refused."""
    plain = {"type": type(control).__name__.lower(), **asdict(control)}
    assert parse_control(json.dumps(plain)) == control
    key = data.draw(st.sampled_from([*plain]))
    other = data.draw(values.filter(lambda value: type(value) is not type(plain[key])))
    for wrong in (plain | {"more": 1}, {k: v for k, v in plain.items() if k != key}, plain | {key: other}):
        with pytest.raises(ProtocolError):
            parse_control(json.dumps(wrong))


@pytest.mark.parametrize(
    ("bound", "host", "origin", "served"),
    [
        ("127.0.0.1", "127.0.0.1:8080", "http://127.0.0.1:8080", True),
        ("127.0.0.1", "localhost:9000", "http://localhost:9000", True),
        ("127.0.0.1", "LOCALHOST", "https://localhost", True),
        ("127.0.0.1", "[::1]:8080", "http://[::1]:8080", True),
        ("127.0.0.1", "localhost:9000", "http://localhost:8080", False),
        ("127.0.0.1", "localhost:8080", "http://evil.example", False),
        ("127.0.0.1", "localhost:8080", "null", False),
        ("127.0.0.1", "localhost:8080", "", False),
        ("127.0.0.1", "evil.example:8080", "http://evil.example:8080", False),
        ("127.0.0.1", "localhost.evil.example", "http://localhost.evil.example", False),
        ("127.0.0.1", "192.0.2.1:8080", "http://192.0.2.1:8080", False),
        ("127.0.0.1", "evil@localhost", "http://evil@localhost", False),
        ("127.0.0.1", "localhost:port", "http://localhost:port", False),
        ("127.0.0.1", "", "http://", False),
        ("0.0.0.0", "192.0.2.1:8080", "http://192.0.2.1:8080", True),
        ("0.0.0.0", "evil.example:8080", "http://evil.example:8080", False),
        ("studio.example", "studio.example:8080", "http://studio.example:8080", True),
    ],
)
def test_who_is_served(bound: str, host: str, origin: str, served: bool) -> None:
    """Only this very page opens a connection, under no name that somebody else's name server gave this machine."""
    assert (refusal(bound, [host], [origin]) is None) == served
    assert refusal(bound, [host], []) is not None
    assert refusal(bound, [host, host], [origin]) is not None


def test_page_is_served(authority: str) -> None:
    """The page and what it names come from here, with a policy that lets it fetch from nowhere else."""

    def fetch(path: str, method: str = "GET", **headers: str) -> tuple[int, str, bytes]:
        client = http.client.HTTPConnection(authority, timeout=30)
        client.request(method, path, headers=headers)
        response = client.getresponse()
        body = response.read()
        client.close()
        assert response.status != 200 or "default-src 'none'" in response.headers["Content-Security-Policy"]
        return response.status, response.headers["Content-Type"], body

    for path, kind in (("/", "html"), ("/page.css", "css"), ("/page.js", "javascript"), ("/worklet.js", "javascript")):
        status, content_type, body = fetch(path)
        assert (status, kind in content_type) == (200, True)
        assert b"http://" not in body
        assert b"https://" not in body
    assert fetch("/?from=bookmark")[0] == 200
    assert fetch("/../server.py")[0] == 404
    assert fetch("/page.html", Host="evil.example")[0] == 403
    assert fetch("/", "POST")[0] in (400, 405)
    assert fetch("/audio")[0] == 403
    with pytest.raises(InvalidStatus, match="403"):
        connect(f"ws://{authority}/audio", origin="http://evil.example")


def test_command(tiny_model: str, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Wrong combinations and a port that is taken are one line that names the option; so is the missing package."""
    assert main(["live", "--web", "--input", "x.wav"]) == 1
    assert capsys.readouterr().err.startswith("adjax: error: --web and --input")
    assert main(["live", "--web", "--model", tiny_model, "--chunk-ms", "500"]) == 1
    assert "--chunk-ms is 500" in capsys.readouterr().err
    for name in [name for name in sys.modules if name.startswith("adjax.live.web")]:
        monkeypatch.delitem(sys.modules, name)
    for name in [name for name in sys.modules if name.startswith("websockets")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "websockets", None)
    assert main(["live", "--web"]) == 1
    assert "pip install 'adjax[web]'" in capsys.readouterr().err


def test_port_is_taken(models: Models, authority: str) -> None:
    """Nobody waits for a page that another program serves."""
    port = int(authority.rpartition(":")[2])
    with pytest.raises(AdjaxError, match=f"--host 127.0.0.1, --port {port}"):
        asyncio.run(web.serve_web(models, "127.0.0.1", port, asyncio.Event(), lambda _: None))
