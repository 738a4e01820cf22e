"""The page of `adjax live --web` in a real browser, whose microphone is a file: Chromium without a window."""

from __future__ import annotations

import base64
import json
import os
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

pytest.importorskip("websockets")

from websockets.sync.client import ClientConnection, connect

import adjax
from adjax.live.web.models import Models
from adjax.live.web.protocol import CHUNK_HEADER, REPLY_HEADER
from tests.test_web import serving

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
SPEECH = Path(__file__).parents[1] / "examples" / "speech48.flac"
FLAGS = (
    "--headless=new --no-first-run --disable-gpu --disable-dev-shm-usage --remote-debugging-port=0 "
    "--use-fake-ui-for-media-stream --use-fake-device-for-media-stream --autoplay-policy=no-user-gesture-required "
    "--window-size=820,1040"
)
SETTINGS = {1: (4, 8, False), 2: (8, 4, False), 3: (8, 4, True)}  # frames, codebooks and bypass by their number
FADED = 240  # samples of 5 ms
SPY = """
window.sent = []; window.came = []; window.problems = [];
addEventListener("error", (event) => problems.push(event.message));
addEventListener("unhandledrejection", (event) => problems.push(String(event.reason)));
addEventListener("securitypolicyviolation", (event) => problems.push(event.violatedDirective + event.blockedURI));
const Native = WebSocket;
window.WebSocket = class extends Native {
  constructor(...all) {
    super(...all);
    this.addEventListener("message", ({data}) => typeof data === "string" || came.push(data.slice(0)));
  }
  send(data) {
    if (typeof data !== "string") sent.push(data.slice(0));
    super.send(data);
  }
};
window.text64 = (buffer) => btoa(Array.from(new Uint8Array(buffer), (byte) => String.fromCharCode(byte)).join(""));
"""


class Tab:
    """A page of the browser, driven over its DevTools protocol."""

    def __init__(self, connection: ClientConnection) -> None:
        self._connection, self._id = connection, 0

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._id += 1
        self._connection.send(json.dumps({"id": self._id, "method": method, "params": parameters}))
        while True:
            answer = json.loads(self._connection.recv(timeout=60))
            if answer.get("id") == self._id:
                assert "error" not in answer, answer
                return answer["result"]

    def run(self, script: str) -> Any:
        result = self.call("Runtime.evaluate", expression=script, returnByValue=True, userGesture=True)
        assert "exceptionDetails" not in result, result
        return result["result"].get("value")

    def wait(self, condition: str, seconds: float = 60) -> None:
        deadline = time.monotonic() + seconds
        while not self.run(condition):
            assert time.monotonic() < deadline, f"{condition}: {self.run('document.body.innerText')}"
            time.sleep(0.05)

    def choose(self, name: str, value: int) -> None:
        element = f"document.getElementById('{name}')"
        self.run(f"{element}.value = {value}; {element}.dispatchEvent(new Event('change'))")

    def binary(self, name: str) -> list[bytes]:
        return [base64.b64decode(text) for text in self.run(f"{name}.map(text64)")]


@contextmanager
def browsing(place: Path, microphone: Path) -> Iterator[Tab]:
    assert CHROMIUM is not None
    flags = [*FLAGS.split(), f"--user-data-dir={place}", f"--use-file-for-fake-audio-capture={microphone}"]
    if os.getuid() == 0:
        flags.append("--no-sandbox")
    process = subprocess.Popen([CHROMIUM, *flags], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        port_file, deadline = place / "DevToolsActivePort", time.monotonic() + 60
        while not port_file.exists() or not port_file.read_text().strip():
            assert process.poll() is None, "Chromium does not start"
            assert time.monotonic() < deadline, "Chromium does not listen"
            time.sleep(0.1)
        port = port_file.read_text().split()[0]
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            address = next(row for row in json.load(answer) if row["type"] == "page")["webSocketDebuggerUrl"]
        with connect(address, max_size=None, compression=None, ping_interval=None) as connection:
            yield Tab(connection)
    finally:
        process.terminate()
        process.wait(30)


@pytest.mark.slow
@pytest.mark.skipif(CHROMIUM is None, reason="needs Chromium")
def test_microphone_to_loudspeaker(tmp_path: Path) -> None:
    """Speech in the microphone is what the server gets, and what it made of that comes to the loudspeaker.

    The page's own messages are compared: those it got are what the codec's steps make of those it sent, over changes
    of chunk length and codebooks; the bypass gives the samples themselves, late by the codec's delay, behind 5 ms
    in which the one is faded into the other. What reaches the loudspeaker is seen by the page's own meter.
    """
    natural, rate = soundfile.read(SPEECH, dtype="float32")
    assert rate == 48000
    microphone = tmp_path / "speech.wav"
    soundfile.write(microphone, natural, rate, subtype="PCM_16")
    codec = adjax.load()
    models = Models(chunk_ms=25)
    models.prepare(models.chosen.model, models.chosen)
    with serving(models) as authority, browsing(tmp_path / "profile", microphone) as tab:
        tab.call("Page.enable")
        tab.call("Page.addScriptToEvaluateOnNewDocument", source=SPY)
        tab.call("Page.navigate", url=f"http://{authority}/")
        status = "document.getElementById('status')?.textContent"
        tab.wait(f"{status} === 'Ready.'")
        tab.run("document.getElementById('start').click()")
        tab.wait("came.length >= 60")
        tab.choose("chunk", 8)
        tab.choose("codebooks", 4)
        tab.wait("new DataView(came.at(-1)).getUint32(0, true) === 2")
        tab.wait("document.getElementById('level-out').value > -40")
        tab.run("document.getElementById('bypass').click()")
        tab.wait("came.filter((data) => new DataView(data).getUint32(0, true) === 3).length >= 6")
        tab.run("document.getElementById('start').click()")
        tab.wait(f"{status} === 'Stopped.'")
        sent, came = tab.binary("sent"), tab.binary("came")
        for pause_s in (0.0, 0.0, 0.3, 0.05, 0.1, 0.0, 0.6, 0.0, 0.0):  # each ends or begins a stream, ready or not
            tab.run("document.getElementById('start').click()")
            time.sleep(pause_s)
        tab.wait(f"{status}.startsWith('Running')")
        problems = tab.run("problems")
    assert not problems
    heads = [REPLY_HEADER.unpack_from(reply)[:2] for reply in came]
    chunks = {CHUNK_HEADER.unpack_from(chunk): np.frombuffer(chunk, "<f4", offset=CHUNK_HEADER.size) for chunk in sent}
    indices = [index for _, index in heads]
    assert indices == sorted(set(indices)), (
        "a busy machine may drop chunks, which are then not coded, but reorders none"
    )
    assert len(indices) > len(sent) / 2
    encoder, decoder = codec.init_encoder(1), codec.init_decoder(1)
    late = np.zeros(codec.delay, np.float32)
    for head, reply in zip(heads, came, strict=True):
        got, chunk = np.frombuffer(reply, "<f4", offset=REPLY_HEADER.size), chunks[head]
        frames, codebooks, bypass = SETTINGS[head[0]]
        encoder, codes = codec.encode_step(encoder, chunk[None, :, None], codebooks=codebooks)
        decoder, sound = codec.decode_step(decoder, codes)
        both = np.concatenate([late, chunk])
        original, late = both[: len(chunk)], both[len(chunk) :]
        wanted = original if bypass else np.asarray(sound)[0, :, 0]
        assert len(got) == frames * codec.hop_length
        assert np.abs(got - wanted)[FADED if bypass else 0 :].max() < 1e-4
    assert likeness(np.concatenate(list(chunks.values())), natural) > 0.9


def likeness(heard: np.ndarray, natural: np.ndarray) -> float:
    """Largest correlation of the loudest quarter second of `heard` with any of a file that plays again and again."""
    size = 12000
    start = max(range(0, len(heard) - size, size // 4), key=lambda i: float(np.square(heard[i : i + size]).sum()))
    piece = heard[start : start + size].astype(np.float64)
    ring = np.concatenate([natural, natural[:size]]).astype(np.float64)
    length = len(ring) + size
    products = np.fft.irfft(np.fft.rfft(ring, length) * np.conj(np.fft.rfft(piece, length)), length)[: len(natural)]
    energy = np.cumsum(np.square(np.concatenate([[0], ring])))
    norms = np.sqrt((energy[size:] - energy[:-size])[: len(natural)] * np.square(piece).sum())
    return float(np.max(products / np.maximum(norms, 1e-9)))
