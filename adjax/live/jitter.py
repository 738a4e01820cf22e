"""The jitter buffer: frames put in order and played by the receiver's clock. Pure: the time is an argument."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

REMEMBERED = 1024  # sequence numbers below the highest that duplicates are known by
LATE_IN_A_ROW = 8  # after so many late packets the sender's clock is believed, not ours
WINDOW_S = 1.0  # in which the level is watched before a frame is dropped or inserted
SLACK_S, SLACK_FRAMES = 0.01, 2  # by which the level may leave the range it has by itself, at least


@dataclass
class JitterCounts:
    """What came, and what became of it."""

    received: int = 0
    expected: int = 0
    late: int = 0
    duplicate: int = 0
    resyncs: int = 0
    frames_dropped: int = 0
    frames_inserted: int = 0
    jitter_s: float = 0.0

    @property
    def lost(self) -> int:
        """Packets that never came."""
        return self.expected - self.received


def unwrap(value: int, near: int, bits: int) -> int:
    """The number closest to `near` whose last `bits` are `value`."""
    span = 1 << bits
    return near + (value - near + span // 2) % span - span // 2


class JitterBuffer:
    """Frames of one stream, at most `capacity` of them whatever comes.

    Playing begins `delay_s` after the first packet; from then on `take` is called by the clock of what plays. The level
    is the number of frames between the one to play next and the newest that came. Late packets do not lower its maximum
    over a window, so that tells how far the two clocks have run apart: where it leaves its band around the delay, one
    frame a window is dropped or played twice. Frames too far ahead, and LATE_IN_A_ROW packets that came too late, begin
    anew from there.
    """

    def __init__(self, delay_s: float, frame_s: float, counts: JitterCounts | None = None) -> None:
        self.delay_frames = delay_s / frame_s
        self.capacity = int(2 * self.delay_frames + 1.0 / frame_s) + 512
        self.counts = counts or JitterCounts()
        self._delay_s, self._frame_s, self._held_frames = delay_s, frame_s, self.delay_frames
        self._window_frames = max(1, round(WINDOW_S / frame_s))
        self._frames: dict[int, np.ndarray] = {}
        self._seen: set[int] = set()
        self._lowest = self._highest = self._newest = self._next = 0
        self._any = self._playing = False
        self._start_at = 0.0
        self._late_run = self._packet_frames = 0
        self._window_left, self._window_level, self._window_packets = self._window_frames, None, 0
        self._transit: float | None = None
        self.end_frame: int | None = None

    @property
    def held(self) -> int:
        """Frames in memory."""
        return len(self._frames)

    @property
    def level(self) -> int:
        """Frames from the next one to play to the newest; less than 0 where nothing came for long."""
        return self._newest + 1 - self._next if self._any else 0

    @property
    def ended(self) -> bool:
        """Whether the stream's last frame has been taken."""
        return self.end_frame is not None and self._next >= self.end_frame

    def ready(self, now: float) -> bool:
        """Whether it is time to play."""
        return self._any and (self._playing or now >= self._start_at)

    def add(self, now: float, sequence: int, first_frame: int, codes: np.ndarray) -> None:
        """A packet with codes int32[frames, codebooks], whose numbers have 16 and 32 bits."""
        first = self._count(sequence, first_frame)
        if first is None:
            return
        self._measure_jitter(now, first)
        self._window_packets += 1
        self._packet_frames = len(codes)
        end = first + len(codes)
        if not self._any:
            self._restart(now, first)
        elif not self._playing and first < self._next and self._newest - first < self.capacity:
            self._next = first  # packets that overtook this one came before it
        if end <= self._next:
            self.counts.late += 1
            self._late_run += 1
            if self._late_run < LATE_IN_A_ROW:
                return
            self.counts.resyncs += 1
            self._restart(now, first)
        elif end > self._next + self.capacity:
            self.counts.resyncs += 1
            self._restart(now, first)
        self._late_run = 0
        for frame, row in enumerate(codes, first):
            if frame >= self._next:
                self._frames.setdefault(frame, row)
        self._newest = max(self._newest, end - 1)

    def finish(self, sequence: int, first_frame: int) -> None:
        """The end of the stream, at this frame and before this packet."""
        if not self._any or self.end_frame is not None:
            return
        sequence, end = unwrap(sequence, self._highest, 16), unwrap(first_frame, self._newest, 32)
        if not self._highest < sequence <= self._highest + REMEMBERED or not 0 <= end - self._next <= self.capacity:
            return  # no number that this stream can have got to
        self.counts.expected += sequence - 1 - self._highest
        self._highest = sequence - 1
        self.end_frame = end

    def take(self, now: float, count: int) -> list[np.ndarray | None]:
        """Codes of the next `count` frames, fewer at the end; None for those that are not there.

        An empty list where it is not time to play yet, and behind the end.
        """
        if not self.ready(now):
            return []
        if not self._playing:
            self._begin(now, count)
        self._watch(count)
        rows: list[np.ndarray | None] = []
        while len(rows) < count and not self.ended:
            rows.append(self._frames.pop(self._next, None))
            self._next += 1
        return rows

    def _count(self, sequence: int, first_frame: int) -> int | None:
        """The packet's first frame, not wrapped; None for a duplicate or one older than is remembered."""
        if not self._any:
            self._lowest = self._highest = sequence
            self._seen = {sequence}
            self.counts.expected += 1
            self.counts.received += 1
            return first_frame
        sequence = unwrap(sequence, self._highest, 16)
        if sequence in self._seen:
            self.counts.duplicate += 1
            return None
        if sequence <= self._highest - REMEMBERED:
            self.counts.late += 1  # whether it had come before is forgotten, so it does not count as received
            return None
        self.counts.expected += max(0, sequence - self._highest) + max(0, self._lowest - sequence)
        self.counts.received += 1
        self._lowest, highest = min(self._lowest, sequence), max(self._highest, sequence)
        if highest > self._highest:
            self._highest = highest
            if len(self._seen) >= 2 * REMEMBERED:
                self._seen = {number for number in self._seen if number > highest - REMEMBERED}
        self._seen.add(sequence)
        return unwrap(first_frame, self._newest, 32)

    def _measure_jitter(self, now: float, first: int) -> None:
        """The mean deviation of transit times as in RFC 3550, section 6.4.1."""
        transit = now - first * self._frame_s
        if self._transit is not None:
            deviation = min(abs(transit - self._transit), 10.0)
            self.counts.jitter_s += (deviation - self.counts.jitter_s) / 16
        self._transit = transit

    def _restart(self, now: float, first: int) -> None:
        self._frames.clear()
        self._any, self._playing = True, False
        self._next, self._newest = first, first
        self._start_at = now + self._delay_s
        self._late_run = 0
        self._open_window()

    def _begin(self, now: float, count: int) -> None:
        """Starts to play. The delay is what it has become at the clock's tick; what waited far longer is dropped."""
        self._playing = True
        waited = self.delay_frames + (now - self._start_at) / self._frame_s
        self._held_frames = min(waited, self.delay_frames + count)
        for _ in range(int(max(0, self.level - self._held_frames - self._packet_frames))):
            self._frames.pop(self._next, None)
            self._next += 1
            self.counts.frames_dropped += 1

    def _open_window(self) -> None:
        self._window_left, self._window_level, self._window_packets = self._window_frames, None, 0

    def _watch(self, count: int) -> None:
        """Drops or inserts a frame where a window's highest level is out of its band."""
        level = self.level
        self._window_level = level if self._window_level is None else max(level, self._window_level)
        self._window_left -= count
        if self._window_left > 0:
            return
        away = self._window_level - self._held_frames - self._packet_frames / 2
        band = self._packet_frames / 2 + max(SLACK_FRAMES, SLACK_S / self._frame_s)
        if self._window_packets and self.end_frame is None:
            if away > band:
                self._frames.pop(self._next, None)
                self._next += 1
                self.counts.frames_dropped += 1
            elif away < -band and self._next in self._frames:
                self._frames[self._next - 1] = self._frames[self._next]
                self._next -= 1
                self.counts.frames_inserted += 1
        self._open_window()
