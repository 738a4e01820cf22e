"""`adjax report`: the page holds what the evaluation found, loads nothing, and no input becomes part of its code."""

from __future__ import annotations

import base64
import hashlib
import io
import json
import re
import shutil
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile

from adjax import report
from adjax.cli import main
from adjax.errors import AdjaxError
from adjax.report import curves, runs

RATE = 8000
VOID = {"meta", "link", "img", "input", "br", "path"}
HOSTILE = "<img src=x onerror=alert(1)>&\"'"  # a good name of a file


class Page(HTMLParser):
    """Elements with their attributes and the text inside, and the tree's nesting checked on the way."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.text: dict[str, list[str]] = {}
        self.tables: list[list[list[str]]] = []
        self._open: list[str] = []
        self.feed(text)
        self.close()
        assert not self._open, f"not closed: {self._open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag == "table":
            self.tables.append([])
        elif tag == "tr":
            self.tables[-1].append([])
        elif tag in ("td", "th"):
            self.tables[-1][-1].append("")
        if tag not in VOID:
            self._open.append(tag)
            self.text.setdefault(tag, []).append("")

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, {name: value or "" for name, value in attrs}))

    def handle_endtag(self, tag: str) -> None:
        assert self._open.pop() == tag, f"</{tag}> closes nothing"

    def handle_data(self, data: str) -> None:
        for tag in set(self._open):
            self.text[tag][-1] += data
        if "td" in self._open or "th" in self._open:
            self.tables[-1][-1][-1] += data

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def tone(hz: float, seconds: float = 0.2) -> np.ndarray:
    return 0.3 * np.sin(2 * np.pi * hz * np.arange(round(seconds * RATE)) / RATE)


def mean(value: float | None, files: int) -> dict[str, Any]:
    low, high = (None, None) if value is None else (value - 0.25, value + 0.25)
    return {"mean": value, "low": low, "high": high, "files": files}


def results(files: list[str], audio: bool = True) -> dict[str, Any]:
    """As `adjax evaluate` writes them: two systems and two metrics of made-up values, one of them with none at all."""
    systems, rows = [], []
    for i, name in enumerate(("tiny-2", "opus-12")):
        marks = {"pesq_wb": mean(2.5 + i, len(files)), "stoi": mean(None, 0)}
        use = {"frames": 40, "stages": [{"used": 9, "size": 16, "entropy_bits": 2.5}] * 2, "entropy_kbps": 0.8}
        systems.append(
            {
                "name": name,
                "kind": "opus" if i else "model",
                "model": None if i else "tiny",
                "codebooks": None if i else 2,
                "target_kbps": 12.0 if i else None,
                "files": len(files),
                "duration_s": 0.2 * len(files),
                "payload_kbps": 3.25 + i,
                "file_kbps": 4.5,
                "encode_rtf": 0.01,
                "decode_rtf": None,
                "lag_ms": 1.5 * i,
                "codebook_use": None if i else use,
                "raw": marks,
                "compensated": {**marks, "pesq_wb": mean(2.75 + i, len(files))},
            }
        )
    for k, file in enumerate(files):
        for system in systems:
            rows.append(
                {
                    **{name: system[name] for name in ("payload_kbps", "file_kbps", "encode_rtf", "decode_rtf")},
                    "file": file,
                    "system": system["name"],
                    "duration_s": 0.2,
                    "sample_rate_hz": RATE,
                    "channels": 1,
                    "natural_audio": f"natural/{file}.flac" if audio else None,
                    "decoded_audio": f"decoded/{system['name']}/{file}.flac" if audio else None,
                    "raw": {"pesq_wb": 2.0 + k},
                    "compensated": {"pesq_wb": 2.125 + k},
                }
            )
    metric = {"unit": "", "higher_is_better": True, "decimals": 3, "package": None}
    return {
        "schema": 1,
        "settings": {"confidence": 0.95, "bootstrap_resamples": 10000},
        "versions": {"adjax": "0"},
        "metrics": [{"name": "pesq_wb", "label": "PESQ-WB", **metric}, {"name": "stoi", "label": "STOI", **metric}],
        "missing": {"pystoi": ["stoi"]},
        "systems": systems,
        "rows": rows,
        "failures": [],
        "unavailable": [],
    }


def write(folder: Path, found: dict[str, Any]) -> Path:
    """The folder of an evaluation: tones, of another frequency for each file and system, and `results.json`."""
    folder.mkdir(exist_ok=True)
    for name, hz in frequencies(found).items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, tone(hz), RATE, subtype="PCM_16")
    (folder / "results.json").write_text(json.dumps(found))
    return folder


def frequencies(found: dict[str, Any]) -> dict[str, float]:
    names = [row[key] for row in found["rows"] for key in ("natural_audio", "decoded_audio") if row[key]]
    return {name: 500.0 + 250 * i for i, name in enumerate(dict.fromkeys(names))}


def build(folder: Path, **settings: Any) -> Page:
    return Page(report.build_page(report.read_evaluation(folder), report.Settings(**settings)))


def played(player: dict[str, str]) -> tuple[np.ndarray, int]:
    head, _, data = player["src"].partition(";base64,")
    assert head.startswith("data:audio/")
    return soundfile.read(io.BytesIO(base64.b64decode(data, validate=True)))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("evaluation"), results(["below/one", HOSTILE]))


@pytest.fixture(scope="module")
def page(folder: Path) -> Page:
    return build(folder)


@pytest.mark.parametrize("audio_format", ["opus", "flac"])
def test_a_player_for_each_utterance_and_system(folder: Path, audio_format: str) -> None:
    """Each player, in the order of its label, holds its own file's tone, as long as the file."""
    made = build(folder, audio_format=audio_format)
    names = [f"{file}{who}" for file in ("below/one", HOSTILE) for who in (", natural", " by tiny-2", " by opus-12")]
    assert [player["aria-label"] for player in made.all("audio")] == names
    assert len(made.all("article")) == 2
    expected = list(frequencies(results(["below/one", HOSTILE])).values())
    for player, hz in zip(made.all("audio"), expected, strict=True):
        sound, rate = played(player)
        assert (len(sound), rate) == (len(tone(hz)), RATE)
        spectrum = np.abs(np.fft.rfft(sound))
        assert np.argmax(spectrum) * rate / len(sound) == pytest.approx(hz, abs=5)
        if audio_format == "flac":
            np.testing.assert_allclose(sound, tone(hz), atol=1 / 32768)
    assert [image["alt"] for image in made.all("img")] == [f"Spectrogram of {name}" for name in names]
    assert [s["aria-label"] for s in made.all("svg") if s.get("class") == "wave"] == [f"Waveform of {n}" for n in names]
    assert [text.strip() for text in made.text["button"]] == ["Play", "1 natural", "2 tiny-2", "3 opus-12"] * 2
    assert sum("PESQ-WB2.125" in text for text in made.text["dl"]) == 2  # the first utterance by both systems


def test_tables_hold_the_figures(page: Page) -> None:
    """Both quality tables, rates and codebook use have a row a system; a metric without values has no column."""
    raw, compensated, rates, codebooks = page.tables
    assert raw[0] == ["system", "kbps", "files", "PESQ-WB\u00a0↑"]
    assert raw[1:] == [
        ["tiny-2", "3.25", "2", "2.500 (2.250 to 2.750)"],
        ["opus-12", "4.25", "2", "3.500 (3.250 to 3.750)"],
    ]
    assert [row[3] for row in compensated[1:]] == ["2.750 (2.500 to 3.000)", "3.750 (3.500 to 4.000)"]
    assert rates[0][1:3] == ["payload kbps", "file kbps"]
    assert [row[0] for row in rates[1:]] == ["tiny-2", "opus-12"]
    assert codebooks[1] == ["tiny", "40", "16", "9, 2.50", "9, 2.50"]
    assert "Left out, because the package is not installed: STOI (pystoi)" in page.text["main"][0]
    assert "opus-12 1.50 ms" in page.text["main"][0]


def test_nothing_is_loaded(page: Page) -> None:
    """Whatever could name another place is data or an anchor, and the page forbids the rest to the browser."""
    for _, attributes in page.elements:
        assert not {"style", "srcset", "action", "poster", "data"} & attributes.keys()
        assert not [name for name in attributes if name.startswith("on")]
        for name in ("src", "href"):
            assert re.match(r"data:|#", attributes.get(name, "#")), attributes
    (style,), (script,) = page.text["style"], page.text["script"]
    assert not re.search(r"url\(|@import|fetch|XMLHttp|import\(|http", style + script)
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert policy.startswith("default-src 'none';")
    for text in (style, script):
        assert base64.b64encode(hashlib.sha256(text.encode()).digest()).decode() in policy
    anchors = {a["href"][1:] for a in page.all("a")}
    assert anchors <= {attributes["id"] for _, attributes in page.elements if "id" in attributes}


def test_hostile_texts_are_escaped(tmp_path: Path) -> None:
    """Names and texts from files reach the reader as they are, and never become elements."""
    texts = [f"<b onclick=x>{i}</b>" for i in range(9)]
    plain = results([HOSTILE])
    found = json.loads(json.dumps(plain))
    found["metrics"][0] |= {"label": texts[0], "unit": texts[1]}
    found["systems"][0] |= {"name": texts[2], "model": texts[3]}
    found["rows"][0]["system"] = texts[2]
    found["failures"] = [{"file": texts[4], "system": None, "reason": texts[5]}]
    found["versions"][texts[6]] = "</script>"
    write(tmp_path, found)
    log = tmp_path / f"{HOSTILE}.jsonl"
    log.write_text(json.dumps({"step": 1, "train/<b>_loss": 1.0}) + "\n")
    bench = tmp_path / "b.json"
    row = {"part": "<b>", "streams": 1, "together": 1.0, "alone": 1.0}
    bench.write_text(json.dumps({"machine": {"device": "<b>", "</style>": 1}, "rows": [row]}))
    settings = report.Settings(title=texts[7], credits=texts[8])
    evaluation = report.read_evaluation(tmp_path)
    text = report.build_page(evaluation, settings, [report.read_run(log)], [report.read_benchmark(bench)])
    made = Page(text)
    # The legend has elements <b> of its own, without attributes.
    assert all(not attributes for attributes in made.all("b"))
    assert len(made.all("script")) == len(made.all("style")) == 1
    assert {"x"}.isdisjoint(image["src"] for image in made.all("img"))
    whole = made.text["html"][0]
    for expected in (*texts, HOSTILE, "<b> loss", "</style>"):
        assert expected in whole


def test_without_audio(tmp_path: Path) -> None:
    """Tables need no audio; the page says why there is none."""
    made = build(write(tmp_path, results(["one"], audio=False)))
    assert not made.all("audio")
    assert len(made.tables) == 4
    assert "evaluated without --save-audio" in made.text["main"][0]


def test_limit_and_choice(folder: Path) -> None:
    made = build(folder, limit=1)
    assert len(made.all("audio")) == 3
    assert "1 of 2 utterances" in made.text["main"][0]
    made = build(folder, utterances=[HOSTILE], systems=["opus-12"])
    assert [p["aria-label"] for p in made.all("audio")] == [f"{HOSTILE}, natural", f"{HOSTILE} by opus-12"]
    assert [row[0] for row in made.tables[0][1:]] == ["tiny-2", "opus-12"]  # tables stay whole
    with pytest.raises(AdjaxError, match=r"--systems opus-6: not in the evaluation, which has tiny-2, opus-12"):
        build(folder, systems=["opus-6"])
    with pytest.raises(AdjaxError, match="--utterances two: not in the evaluation"):
        build(folder, utterances=["two"])


def test_what_a_system_could_not_code_is_said(tmp_path: Path) -> None:
    found = results(["one"])
    del found["rows"][1]
    found["unavailable"] = [{"file": "one", "system": "opus-12", "reason": "not at 12 kbps"}]
    made = build(write(tmp_path, found))
    assert len(made.all("audio")) == 2
    assert "Not here: opus-12: not at 12 kbps" in made.text["main"][0]


BROKEN = [
    (lambda r: r.pop("systems"), "systems is missing"),
    (lambda r: r.update(schema=2), "schema is 2, but this adjax reads 1"),
    (lambda r: r["rows"][1].pop("system"), r"rows\[1\]\.system is missing"),
    (lambda r: r["systems"][0].update(lag_ms="0"), r'systems\[0\]\.lag_ms is "0", but must be a number'),
    (lambda r: r["systems"][1]["raw"].pop("stoi"), r"systems\[1\]\.raw\.stoi is missing"),
    (lambda r: r["systems"][0]["raw"]["stoi"].update(files=True), r"files is true, but must be a whole number"),
    (lambda r: r["systems"][0]["raw"]["pesq_wb"].update(low=None), "only some of mean, low and high"),
    (lambda r: r["rows"][0].update(system="other"), "'other', which is not in systems"),
    (lambda r: r["rows"].append(r["rows"][0]), r"rows\[2\] is a second one for 'one' and 'tiny-2'"),
    (lambda r: r["metrics"][0].update(decimals=99), r"metrics\[0\]\.decimals is 99"),
    (lambda r: r["missing"].update(pesq=["x"]), "missing.pesq names 'x'"),
    (lambda r: r["rows"][0].update(natural_audio="../x.flac"), r"audio '\.\./x\.flac' lies outside"),
    (lambda r: r["rows"][0].update(natural_audio="natural/no.flac"), "no.flac: is not there, but results.json names"),
    (lambda r: r["rows"][0].update(natural_audio="results.json"), "not an audio file"),
]


@pytest.mark.parametrize(("damage", "message"), BROKEN, ids=[message for _, message in BROKEN])
def test_broken_results_are_named(tmp_path: Path, damage: Any, message: str) -> None:
    """What would otherwise fail far from its cause, or show wrong figures, is refused with its place in the file."""
    found = results(["one"])
    write(tmp_path, found)
    damage(found)
    (tmp_path / "results.json").write_text(json.dumps(found))
    with pytest.raises(AdjaxError, match=message):
        build(tmp_path)


@pytest.mark.parametrize(
    ("text", "message"), [("{", "is not JSON"), ('{"schema": NaN}', "NaN"), ("[]", "must be an object")]
)
def test_what_is_not_json(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "results.json").write_text(text)
    with pytest.raises(AdjaxError, match=message):
        report.read_evaluation(tmp_path)


def test_training_curves(tmp_path: Path) -> None:
    """Scalars go to their charts, those that may be negative never to a logarithmic one; a torn last line is left."""
    records = [
        {
            "step": 10 * i,
            "time": 1.0,
            "train/mel_loss": 2.0 / (i + 1),
            "train/error_loss": 1.0 - i,
            "train/real_loss": 0.5,
            "train/ppl_0": 7.0,
            "train/ppl_1": None,
            "validation/mel_loss": 2.5 / (i + 1),
        }
        for i in range(700)
    ]
    (tmp_path / "log.jsonl").write_text("".join(json.dumps(r) + "\n" for r in records) + '{"step": 9')
    run = report.read_run(tmp_path)
    made = {chart.title: chart for chart in runs.charts(run)}
    assert list(made) == [
        "Losses",
        "Losses that may be negative",
        "Adversarial losses",
        "Perplexity of each codebook",
    ]
    assert [(s.label, s.dashed) for s in made["Losses"].series] == [("mel loss", False), ("mel loss, validation", True)]
    assert made["Losses"].log
    assert not made["Losses that may be negative"].log
    curve = made["Losses"].series[0].points
    assert len(curve) <= runs.POINTS
    assert curve[0] == (10.0, pytest.approx((2 + 1 + 2 / 3) / 3))  # the mean of the first three of 700
    svg = Page(curves.figure(made["Losses"]))
    lines = [p["d"] for p in svg.all("path") if p.get("class") == "line line0"]
    heights = [float(point.split()[1]) for point in lines[0][1:].split("L")]
    assert heights == sorted(heights)  # a falling loss: downwards on the page
    (tmp_path / "log.jsonl").write_text('{"step": 1, "a": 1}\nnonsense\n')
    with pytest.raises(AdjaxError, match=r"log\.jsonl: line 2 is not JSON"):
        report.read_run(tmp_path)
    with pytest.raises(AdjaxError, match="no such file"):
        report.read_run(tmp_path / "none")


def test_benchmark_tables(tmp_path: Path) -> None:
    path = tmp_path / "b.json"
    row = {"part": "encode", "buffer_ms": 12.5, "p50_ms": 1.0, "p95_ms": 2.0, "p99_ms": 3.0, "floor_ms": 0.25}
    found = {"machine": {"device": "X", "platform": "gpu", "threads": 2}, "rows": [row]}
    path.write_text(json.dumps(found))
    benchmark = report.read_benchmark(path)
    assert (benchmark.title, benchmark.machine) == ("Latency of a buffer", "X, GPU, threads 2")
    assert benchmark.table[1] == ["encode", "12.5", "1.00", "2.00", "3.00", "0.25"]
    path.write_text(json.dumps({**found, "rows": [row, {**row, "p50_ms": None}]}))
    with pytest.raises(AdjaxError, match=r"rows\[1\]\.p50_ms is null, but must be a number"):
        report.read_benchmark(path)
    path.write_text(json.dumps({**found, "rows": [{}]}))
    with pytest.raises(AdjaxError, match="neither of latency nor of throughput"):
        report.read_benchmark(path)


def test_the_command(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It says how large the page is; where anything is wrong, nothing is written."""
    out, words = tmp_path / "out.html", tmp_path / "credits.txt"
    words.write_text("Spoken by nobody.\n")
    assert main(["report", str(folder), str(out), "--limit", "1", "--credits", str(words)]) == 0
    assert f"{out.stat().st_size / 1e6:.2f} MB" in capsys.readouterr().out
    assert "Spoken by nobody." in Page(out.read_text(encoding="utf-8")).text["main"][0]
    out.unlink()
    assert main(["report", str(folder), str(out), "--benchmark", str(words)]) == 1
    assert "credits.txt: is not JSON" in capsys.readouterr().err
    assert not out.exists()
    assert main(["report", str(tmp_path), str(out)]) == 1
    assert "holds no results.json" in capsys.readouterr().err


# --------------------------------------------------------------------------------------------------------- a browser


class Browser:
    """Chromium's DevTools protocol, as far as the test needs it."""

    def __init__(self, socket: Any) -> None:
        self._socket, self._sent = socket, 0
        self.events: list[dict[str, Any]] = []

    def call(self, method: str, **parameters: Any) -> dict[str, Any]:
        self._sent += 1
        self._socket.send(json.dumps({"id": self._sent, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv(timeout=60))
            if message.get("id") == self._sent:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression: str) -> Any:
        found = self.call(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True, userGesture=True
        )
        assert "exceptionDetails" not in found, found
        return found["result"].get("value")

    def wait_for(self, expression: str, seconds: float = 60) -> None:
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never true: {expression}"
            time.sleep(0.1)


@contextmanager
def chromium(profile: Path) -> Iterator[Browser]:
    program = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
    client = pytest.importorskip("websockets.sync.client", reason="needs the package websockets")
    if program is None:
        pytest.skip("needs chromium")
    options = ["--headless=new", "--no-sandbox", "--disable-gpu", "--mute-audio", "--no-first-run"]
    command = [program, *options, f"--user-data-dir={profile}", "--remote-debugging-port=0", "about:blank"]
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as process:
        try:
            place, end = profile / "DevToolsActivePort", time.monotonic() + 60
            while not place.exists() or place.read_text().count("\n") < 1:
                assert time.monotonic() < end, "chromium does not start"
                time.sleep(0.1)
            port = place.read_text().split()[0]
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/json") as answer:
                target = next(t for t in json.load(answer) if t["type"] == "page")
            with client.connect(target["webSocketDebuggerUrl"], max_size=None) as socket:
                yield Browser(socket)
        finally:
            process.terminate()


@pytest.mark.slow
def test_in_a_browser(tmp_path: Path) -> None:
    """What only a browser can tell: it plays and shows all, switches at the same position, and asks for nothing."""
    found = results(["one", HOSTILE])
    folder = write(tmp_path / "evaluation", found)
    for name, hz in frequencies(found).items():
        soundfile.write(folder / name, tone(hz, 3.0), RATE, subtype="PCM_16")
    out = tmp_path / "page.html"
    assert main(["report", str(folder), str(out)]) == 0
    with chromium(tmp_path / "profile") as browser:
        for domain in ("Runtime", "Log", "Network", "Page"):
            browser.call(f"{domain}.enable")
        browser.call("Page.navigate", url=out.as_uri())
        browser.wait_for("document.readyState === 'complete' && document.querySelectorAll('audio').length === 6")
        browser.wait_for("[...document.querySelectorAll('audio')].every((a) => a.readyState > 0 && a.duration > 0)")
        durations = browser.evaluate("[...document.querySelectorAll('audio')].map((a) => a.duration)")
        assert durations == pytest.approx([3.0] * 6, abs=0.05)
        assert browser.evaluate("[...document.images].every((i) => i.complete && i.naturalWidth > 0)")
        rows = browser.evaluate("[...document.querySelectorAll('tbody')].map((t) => t.rows.length)")
        assert rows == [2, 2, 2, 1]
        # The second system goes on where the first one is.
        browser.evaluate("document.querySelector('.play').click()")
        playing = "[...document.querySelectorAll('audio')].map((a) => !a.paused)"
        browser.wait_for("document.querySelector('audio').currentTime > 0.4")
        at = browser.evaluate(
            "(() => { const [a, b] = document.querySelectorAll('audio'); const before = a.currentTime;"
            " document.querySelectorAll('.pick')[1].click(); return [before, b.currentTime]; })()"
        )
        assert at[1] == pytest.approx(at[0], abs=0.1)
        browser.wait_for("document.querySelectorAll('audio')[1].currentTime > 0.6")
        assert browser.evaluate(playing) == [False, True] + [False] * 4
        press = "document.dispatchEvent(new KeyboardEvent('keydown', {key: '%s'}))"
        browser.evaluate(press % "3")
        browser.wait_for("!document.querySelectorAll('audio')[2].paused")
        browser.evaluate(press % "p")
        browser.wait_for("[...document.querySelectorAll('audio')].every((a) => a.paused)")
        assert browser.evaluate("document.querySelectorAll('audio')[2].currentTime") > 0.5
        assert browser.evaluate("document.querySelectorAll('.pick[aria-pressed=true]')[0].textContent").endswith("12")
        kinds = [event["method"] for event in browser.events]
        assert not {"Log.entryAdded", "Runtime.consoleAPICalled", "Runtime.exceptionThrown"} & set(kinds)
        asked = [e["params"]["request"]["url"] for e in browser.events if e["method"] == "Network.requestWillBeSent"]
        assert [url for url in asked if not url.startswith("data:")] == [out.as_uri()]
