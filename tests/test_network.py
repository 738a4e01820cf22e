"""Live audio over UDP: packets, jitter buffer, concealment, and a sender and receiver with a bad network between."""

from __future__ import annotations

import socket
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import soundfile
from hypothesis import given, settings
from hypothesis import strategies as st

from adjax.errors import AdjaxError
from adjax.live import FileSink, FileSource, Receiver, run_receive, run_send
from adjax.live.conceal import Concealer
from adjax.live.jitter import REMEMBERED, JitterBuffer, unwrap
from adjax.live.packet import MAX_BYTES, OVERHEAD, ForeignModelError, Format, Packet, PacketError, build, parse
from adjax.live.sender import Layers, wire_kbps

FORM = Format(b"12345678", 3, 16)
CHUNK = 8  # frames, 20 ms of the tiny model
FRAME_S = 0.0025
QUICK = settings(deadline=None, max_examples=60)


def coded(frames: int, codebooks: int = 3, seed: int = 0, size: int = 16) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, size, (frames, codebooks)).astype(np.int32)


# ------------------------------------------------------------------------------------------------------------ packets


@QUICK
@given(st.integers(0, 2**32 - 1), st.integers(0, 2**17), st.integers(0, 2**33), st.integers(1, 60), st.integers(1, 3))
def test_packet_comes_back(session: int, sequence: int, first: int, frames: int, codebooks: int) -> None:
    """What is built is parsed to the same numbers, modulo the widths of the counters."""
    codes = coded(frames, codebooks, seed=frames)
    data = build(Packet(session, sequence, first, codes), FORM)
    got = parse(data, FORM)
    assert len(data) == FORM.size(frames, codebooks) <= MAX_BYTES
    assert (got.session, got.sequence, got.first_frame) == (session, sequence % 2**16, first % 2**32)
    np.testing.assert_array_equal(got.codes, codes)


def test_packet_bytes() -> None:
    """The bytes that docs/packets.md shows: a reader in another language is written from that page alone."""
    data = build(Packet(0x01020304, 5, 6, np.array([[1, 2], [3, 4]], np.int32)), FORM)
    page = (Path(__file__).parents[1] / "docs" / "packets.md").read_text(encoding="utf-8")
    dump = page.split("```text\n")[1].split("```")[0]
    assert bytes.fromhex("".join(line.split("  ")[0] for line in dump.splitlines())) == data


@QUICK
@given(st.binary(max_size=MAX_BYTES + 10))
def test_garbage_is_refused(data: bytes) -> None:
    """Bytes that no sender made do not pass a 32-bit magic and a CRC, and raise nothing but PacketError."""
    with pytest.raises(PacketError):
        parse(data, FORM)


@QUICK
@given(st.data())
def test_damaged_packet_is_refused(data: st.DataObject) -> None:
    """A CRC-32C finds every single damaged byte and every length that is not the packet's."""
    good = build(Packet(1, 2, 3, coded(4)), FORM)
    at = data.draw(st.integers(0, len(good) - 1))
    bad = bytearray(good)
    bad[at] ^= data.draw(st.integers(1, 255))
    for wrong in (bytes(bad), good[:at], good + b"\0"):
        with pytest.raises(PacketError):
            parse(wrong, FORM)


def test_hostile_but_intact_packets_are_refused() -> None:
    """Whoever can compute a checksum can send any field: each is checked by itself."""
    bigger = Format(FORM.fingerprint, 4, 16)
    with pytest.raises(PacketError, match="4 codebooks"):
        parse(build(Packet(1, 2, 3, coded(4, 4)), bigger), FORM)
    with pytest.raises(PacketError, match="codes are below 11"):
        parse(build(Packet(1, 2, 3, np.full((4, 3), 12, np.int32)), FORM), Format(FORM.fingerprint, 3, 11))
    with pytest.raises(ForeignModelError):
        parse(build(Packet(1, 2, 3, coded(4)), FORM), Format(b"87654321", 3, 16))
    with pytest.raises(AdjaxError, match="do not fit"):
        build(Packet(1, 2, 3, coded(256)), FORM)


# ------------------------------------------------------------------------------------------------------ jitter buffer


@given(st.integers(0, 2**40), st.integers(-(2**15) + 1, 2**15 - 1))
def test_unwrap(near: int, away: int) -> None:
    """Counters that wrap are told apart as long as they are less than half their range away."""
    assert unwrap((near + away) % 2**16, near, 16) == near + away


@QUICK
@given(
    st.lists(st.tuples(st.booleans(), st.integers(0, 3), st.integers(0, 2)), min_size=5, max_size=60),
    st.integers(0, 2**16 - 1),
    st.integers(0, 2**32 - 1),
)
def test_order_and_counts(fates: list[tuple[bool, int, int]], sequence: int, frame: int) -> None:
    """Whatever is lost, late or doubled within the delay: what is played is the sent frame of its place, or None.

    Packets are at most 3 periods late and the delay is 4, so each that is not lost must be played, in its place, across
    the wrap-around of both counters; and each event must be counted once.
    """
    period, buffer = 4 * FRAME_S, JitterBuffer(4 * 4 * FRAME_S, FRAME_S)
    fates = [(False, 0, 0), *fates]
    arrivals = sorted(
        (i + late + (copy > 0), i)
        for i, (lost, late, copies) in enumerate(fates)
        if not lost
        for copy in range(copies + 1)
    )
    sent = [coded(4, seed=i) for i in range(len(fates))]
    played: list[np.ndarray | None] = []
    for tick in range(len(fates) + 12):
        for when, i in arrivals:
            if when == tick:
                buffer.add(tick * period, (sequence + i) % 2**16, (frame + 4 * i) % 2**32, sent[i])
        if tick == len(fates) + 4:
            buffer.finish((sequence + len(fates)) % 2**16, (frame + 4 * len(fates)) % 2**32)
        played += buffer.take(tick * period + 1e-9, 4)
    assert len(played) == 4 * len(fates)
    assert buffer.ended
    for i, row in enumerate(played):
        if fates[i // 4][0]:
            assert row is None
        else:
            assert row is not None
            np.testing.assert_array_equal(row, sent[i // 4][i % 4])
    counts = buffer.counts
    kept = [copies for lost, _, copies in fates if not lost]
    assert (counts.received, counts.lost) == (len(kept), len(fates) - len(kept))
    assert (counts.duplicate, counts.late, counts.resyncs) == (sum(kept), 0, 0)


@QUICK
@given(
    st.lists(
        st.tuples(st.integers(0, 2**16 - 1), st.integers(0, 2**32 - 1), st.integers(1, 255), st.booleans()),
        max_size=300,
    )
)
def test_memory_is_bounded(packets: list[tuple[int, int, int, bool]]) -> None:
    """No sequence of packets, however hostile its numbers, makes the buffer hold more than its capacity."""
    buffer = JitterBuffer(0.05, FRAME_S)
    for i, (sequence, frame, frames, take) in enumerate(packets):
        buffer.add(i * 0.01, sequence, frame, np.zeros((frames, 1), np.int32))
        if take:
            assert len(buffer.take(i * 0.01, 8)) in (0, 8)
        assert buffer.held <= buffer.capacity
        assert len(buffer._seen) <= 2 * REMEMBERED
    assert buffer.counts.lost >= 0


@pytest.mark.parametrize("drift", [0.998, 1.002])
def test_drift_is_made_up_for(drift: float) -> None:
    """Over 60 s a clock that is 0.2 % off runs 48 frames away; one dropped or inserted now and then holds the level.

    Nothing is then late, and only the right one of the two counters moves, by what the clocks ran apart but for the
    width of the band, 2 * 8 frames, and the window.
    """
    buffer, frames = JitterBuffer(0.1, FRAME_S), 8
    events = [(i * frames * FRAME_S * drift, 0, i) for i in range(3000)]
    events += [(i * frames * FRAME_S + 0.013, 1, i) for i in range(3000)]
    levels = []
    for now, kind, i in sorted(events):
        if kind == 0:
            buffer.add(now, i % 2**16, i * frames, coded(frames))
        else:
            buffer.take(now, frames)
            levels.append(buffer.level)
    counts = buffer.counts
    moved, still = (counts.frames_dropped, counts.frames_inserted)[:: 1 if drift < 1 else -1]
    assert still == 0
    assert 48 - 20 <= moved <= 48 + 1
    assert counts.late == 0
    steady = levels[50:2900]  # all packets of the faster sender have come by then
    assert max(steady) - min(steady) <= 20


def test_late_start_keeps_the_delay() -> None:
    """A loudspeaker that takes a second to start does not make the stream a second late: the oldest frames go."""
    buffer = JitterBuffer(0.1, FRAME_S)
    for i in range(50):
        buffer.add(i * 0.02, i, i * 8, coded(8))
    assert len(buffer.take(1.0, 8)) == 8
    assert buffer.level <= 40 + 8
    assert buffer.counts.frames_dropped == 400 - buffer.level - 8


def test_resync_after_a_pause() -> None:
    """A sender that was suspended comes back with old time stamps: after some late packets it is played again."""
    buffer, now = JitterBuffer(0.05, FRAME_S), 0.0
    for i in range(200):
        now += 0.02 if i != 50 else 3.0
        if i == 50:
            for _ in range(150):
                buffer.take(now, 8)
        buffer.add(now, i, i * 8, coded(8, seed=i))
        last = buffer.take(now, 8)
    assert buffer.counts.resyncs == 1
    assert buffer.counts.lost == 0
    assert last
    assert all(row is not None for row in last)


# -------------------------------------------------------------------------------------------------------- concealment


@pytest.fixture(scope="module")
def receiver_of(tiny_codec: Any) -> Any:
    Receiver(tiny_codec, CHUNK, 0.04)  # compiles
    return lambda: Receiver(tiny_codec, CHUNK, 0.04)


@settings(deadline=None, max_examples=30)
@given(st.lists(st.booleans(), min_size=1, max_size=400), st.integers(1, 30))
def test_gain_is_continuous(present: list[bool], hop: int) -> None:
    """From sample to sample the gain moves by its slope at most, stays in [0, 1], and is 1 where nothing is missing."""
    concealer = Concealer(hop, 3, 8000)
    gain = np.concatenate([concealer.gain(present[i : i + 7]) for i in range(0, len(present), 7)])[:, 0]
    assert len(gain) == hop * len(present)
    assert gain.min() >= 0
    assert gain.max() <= 1
    assert np.abs(np.diff(gain)).max(initial=0) <= concealer.rise + 1e-6
    assert all(present) <= bool((gain == 1).all())


@settings(deadline=None, max_examples=12)
@given(st.lists(st.booleans(), min_size=1, max_size=40), st.integers(1, 3))
def test_no_loss_pattern_clicks(tiny_codec: Any, receiver_of: Any, lost: list[bool], codebooks: int) -> None:
    """The output is what the decoder makes of codes without a break, times a gain: |d(gy)| <= |dy| + |dg| |y|.

    So wherever packets are missing no jump is larger than the decoder's own by more than the gain's slope; all samples
    are finite and none is missing. Where nothing is lost the output is the offline decoder's.
    """
    lost = [False, *lost]
    codes = coded(CHUNK * len(lost), codebooks, seed=len(lost))
    sound, receiver = transmit(tiny_codec, receiver_of(), codes, lost)
    held = codes.copy()
    for i, gone in enumerate(lost):
        if gone:
            held[i * CHUNK : (i + 1) * CHUNK] = held[i * CHUNK - 1]
    state, parts = tiny_codec.init_decoder(1), []
    for i in range(len(lost)):
        state, part = tiny_codec.decode_step(state, held[None, i * CHUNK : (i + 1) * CHUNK])
        parts.append(np.asarray(part)[0, :, 0])
    plain = np.concatenate(parts)
    assert sound.shape == plain.shape
    assert np.isfinite(sound).all()
    slope = 1 / (0.005 * tiny_codec.sample_rate)  # far above the gain's
    allowed = np.abs(np.diff(plain)) + slope * np.maximum(np.abs(plain[1:]), np.abs(plain[:-1])) + 1e-6
    assert (np.abs(np.diff(sound)) <= allowed).all()
    assert receiver.concealed == CHUNK * sum(lost)
    if not any(lost):
        np.testing.assert_array_equal(sound, plain)
    if lost[-8:] == [True] * 8:
        assert not sound[-CHUNK * tiny_codec.hop_length :].any()  # 160 ms after the last packet: silence


def transmit(codec: Any, receiver: Receiver, codes: np.ndarray, lost: list[bool]) -> tuple[np.ndarray, Receiver]:
    """What the receiver plays, at virtual time."""
    form, now, parts = Format.of(codec), 0.0, []
    for i in range(len(lost) + 10):
        if i < len(lost) and not lost[i]:
            packet = Packet(7, i, i * CHUNK, codes[i * CHUNK : (i + 1) * CHUNK])
            receiver.datagram(build(packet, form), "a", now)
        if i == len(lost):
            receiver.datagram(build(Packet(7, i, len(codes), codes[:0]), form), "a", now)
        parts.append(receiver.play(now))
        now += CHUNK * FRAME_S
    return np.concatenate([part for part in parts if part is not None])[:, 0], receiver


# ----------------------------------------------------------------------------------------------------------- receiver


def test_first_sender_is_pinned(tiny_codec: Any, receiver_of: Any) -> None:
    """Others cannot disturb a stream, from another address or with another session; silence frees the place."""
    form, receiver = Format.of(tiny_codec), receiver_of()
    codes = coded(CHUNK)
    receiver.datagram(build(Packet(1, 0, 0, codes[:0]), form), "z", 0.0)  # an end pins nobody
    receiver.datagram(b"garbage", "z", 0.0)
    receiver.datagram(build(Packet(1, 0, 0, codes), form), "a", 0.0)
    receiver.datagram(build(Packet(1, 1, 8, codes), form), "b", 0.01)
    receiver.datagram(build(Packet(2, 1, 8, codes), form), "a", 0.01)
    foreign = Format(b"notthis!", form.codebooks, form.codebook_size)
    receiver.datagram(build(Packet(1, 1, 8, codes), foreign), "a", 0.01)
    refused = receiver.refused
    assert (refused.garbage, refused.foreign_model, refused.other_sender) == (1, 1, 2)
    assert receiver.counts.received == 1
    assert receiver.play(0.05) is not None
    assert receiver.play(6.0) is None
    assert receiver.streams_ended == 1
    receiver.datagram(build(Packet(1, 2, 16, codes), form), "b", 6.1)
    assert receiver.counts.received == 2
    assert refused.other_sender == 2


@settings(deadline=None, max_examples=8)
@given(st.integers(0, 2**32 - 1))
def test_receiver_survives_anything(tiny_codec: Any, receiver_of: Any, seed: int) -> None:
    """Random intact packets of the pinned sender, and damaged ones: only finite sound of whole frames comes out."""
    form, receiver, rng = Format.of(tiny_codec), receiver_of(), np.random.default_rng(seed)
    now = 0.0
    for _ in range(80):
        now += rng.exponential(0.02)
        frames = int(rng.integers(0, 30))
        codes = coded(frames, int(rng.integers(1, 4)), seed=frames)
        first = int(rng.choice([rng.integers(0, 100), rng.integers(0, 2**32)]))
        data = bytearray(build(Packet(7, int(rng.integers(0, 2**16)), first, codes), form))
        if rng.random() < 0.3:
            data[rng.integers(0, len(data))] ^= 1 << rng.integers(0, 8)
        receiver.datagram(bytes(data), "a", now)
        sound = receiver.play(now)
        assert sound is None or (len(sound) % tiny_codec.hop_length == 0 and np.isfinite(sound).all())


# ------------------------------------------------------------------------------------------------------------- sender


def test_layers_fall_under_pressure_and_come_back() -> None:
    """A queue that fills costs a layer a packet, never the last; without pressure one comes back a second."""
    layers = Layers(4)
    assert [layers.update(0.6, i / 40) for i in range(6)] == [3, 2, 1, 1, 1, 1]
    assert layers.lowered == 3
    assert layers.update(0.2, 0.5) == 1
    assert [layers.update(0.0, 1.2 + t) for t in (0, 0.5, 1, 1.5, 2, 3)] == [2, 2, 3, 3, 4, 4]


def test_bitrate_bound(tiny_codec: Any, voice: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """--max-kbps leaves out the last codebooks until headers and all fit, and says so where not even one does."""
    monkeypatch.setattr("adjax.live.sender.QUEUE_CHUNKS", 1000)  # so that a busy machine leaves out none besides
    form = Format.of(tiny_codec)
    source = FileSource(voice, 8000, 1, CHUNK * 20, None, 0.2)
    two = wire_kbps(tiny_codec, form, CHUNK, 2)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sink:
        sink.bind(("127.0.0.1", 0))
        port = sink.getsockname()[1]
        report = run_send(tiny_codec, source, "127.0.0.1", port, CHUNK, max_kbps=two)
        assert report["codebooks"] == 2
        assert report["packets"]["sent"] > 0
        data = sink.recv(2000)
        assert parse(data, form).codes.shape == (CHUNK, 2)
        assert len(data) == OVERHEAD + 2 * 4
        with pytest.raises(AdjaxError, match="one codebook takes"):
            run_send(tiny_codec, source, "127.0.0.1", port, CHUNK, max_kbps=1.0)
        with pytest.raises(AdjaxError, match="--chunk-ms: a packet holds"):
            run_send(tiny_codec, source, "127.0.0.1", port, 300)


# ------------------------------------------------------------------------------------------------------- over sockets


@pytest.fixture(scope="module")
def voice(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Noise of a second and some at 8 kHz."""
    path = tmp_path_factory.mktemp("network") / "voice.wav"
    soundfile.write(path, np.random.default_rng(0).uniform(-0.5, 0.5, 9003).astype(np.float32), 8000)
    return path


class Relay:
    """Forwards datagrams on loopback and loses, doubles, reorders and invents some, by its seed; keeps its own book."""

    def __init__(self, port: int, bad: bool) -> None:
        self.sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(("127.0.0.1", 0))
        self.sock.settimeout(0.1)
        self.port, self._target, self._bad = self.sock.getsockname()[1], ("127.0.0.1", port), bad
        self.lost = self.doubled = self.garbage = 0
        self.stop = threading.Event()
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _run(self) -> None:
        rng, kept, count = np.random.default_rng(1), None, 0
        with self.sock:
            while not self.stop.is_set():
                try:
                    data = self.sock.recv(2000)
                except TimeoutError:
                    continue
                if len(data) == OVERHEAD:  # the end; what is kept goes first
                    out, kept = ([kept, data] if kept else [data]), None
                elif not self._bad or not count:
                    out = [data]
                else:
                    fate = rng.random()
                    self.lost += fate < 0.15
                    self.doubled += 0.15 <= fate < 0.3
                    out = [] if fate < 0.15 else [data, data] if fate < 0.3 else [data]
                    if fate > 0.8 and kept is None:
                        out, kept = [], data
                    elif kept is not None:
                        out, kept = [*out, kept], None
                    if rng.random() < 0.2:
                        out.append(rng.bytes(int(rng.integers(0, 1300))))
                        self.garbage += 1
                count += 1
                for item in out:
                    self.sock.sendto(item, self._target)

    def __enter__(self) -> Relay:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop.set()
        self.thread.join()


@pytest.mark.parametrize("bad", [False, True], ids=["clean", "bad"])
def test_loopback(tiny_codec: Any, voice: Path, tmp_path: Path, bad: bool) -> None:
    """Through real sockets the counts are the relay's, whatever the machine's load makes late.

    The length is the input's. With nothing lost, late or missed at the output, the samples are the offline codec's.
    """
    target, ports, reports = tmp_path / "out.wav", [], []
    bound = threading.Event()

    def listening(address: Any) -> None:
        ports.append(address[1])
        bound.set()

    def receive() -> None:
        sink = FileSink(target, 8000, 1, CHUNK * 20)
        reports.append(
            run_receive(tiny_codec, sink, "127.0.0.1", 0, CHUNK, 0.2, 0.1, duration_s=20, listening=listening)
        )

    thread = threading.Thread(target=receive)
    thread.start()
    assert bound.wait(30)
    with Relay(ports[0], bad) as relay:
        sent = run_send(tiny_codec, FileSource(voice, 8000, 1, CHUNK * 20), "127.0.0.1", relay.port, CHUNK)
        thread.join(30)
    (got,) = reports
    packets = got["packets"]
    assert sent["packets"]["sent"] + sent["drop_outs"]["chunks_not_sent"] <= 57
    assert packets["lost"] == relay.lost
    assert packets["received"] == sent["packets"]["sent"] - relay.lost
    assert packets["duplicate"] == relay.doubled
    assert packets["garbage"] == relay.garbage
    assert (relay.lost > 0, relay.doubled > 0, relay.garbage > 0) == (bad, bad, bad)
    assert packets["foreign_model"] == packets["other_sender"] == 0
    audio = soundfile.read(target, dtype="float32")[0]
    drops = got["drop_outs"]
    if not drops["underruns"] and not drops["chunks_not_played"] and not got["jitter_buffer"]["resyncs"]:
        shift = got["jitter_buffer"]["frames_inserted"] - got["jitter_buffer"]["frames_dropped"]
        assert len(audio) == 20 * (451 + shift)
    whole = not got["jitter_buffer"]["frames_concealed"] and len(audio) == 9020
    hurried = sum(sent["drop_outs"].values()) + sent["packets"]["with_fewer_codebooks"]
    if not bad and whole and not drops["underruns"] and not hurried:
        natural = soundfile.read(voice, dtype="float32")[0]
        offline = np.asarray(tiny_codec.decode(tiny_codec.encode(natural[None, :, None])))[0, :, 0]
        assert np.abs(audio - np.clip(offline, -1, 1)).max() < 1e-4  # 16 bits


def test_taken_port_and_unknown_host_are_named(tiny_codec: Any, voice: Path, tmp_path: Path) -> None:
    """The user's mistakes are one line that names the option."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as taken:
        taken.bind(("127.0.0.1", 0))
        sink = FileSink(tmp_path / "x.wav", 8000, 1, 160)
        with pytest.raises(AdjaxError, match=r"--bind 127\.0\.0\.1, --port"):
            run_receive(tiny_codec, sink, "127.0.0.1", taken.getsockname()[1], CHUNK)
    with pytest.raises(AdjaxError, match="--host no host"):
        run_send(tiny_codec, FileSource(voice, 8000, 1, 160), "no host", 1, CHUNK)
    assert not list(tmp_path.iterdir())


def test_nobody_sends(tiny_codec: Any, tmp_path: Path) -> None:
    """Without a sender the receiver ends at its duration, and writes no file."""
    start = time.monotonic()
    sink = FileSink(tmp_path / "x.wav", 8000, 1, 160)
    report = run_receive(tiny_codec, sink, "127.0.0.1", 0, CHUNK, duration_s=0.2)
    assert report["packets"]["received"] == 0
    assert time.monotonic() - start >= 0.2
    assert not list(tmp_path.iterdir())
