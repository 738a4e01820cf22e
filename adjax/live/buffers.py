"""Between the threads of a live run: bounded queues, the buffer that a loudspeaker pulls from, and the threads."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

import numpy as np

from adjax.live.statistics import Durations

T = TypeVar("T")
FADE_S = 0.005  # over which a gap's two edges are joined
DRAIN_S = 5.0  # what an interrupted run may take to play what it holds


class Channel(Generic[T]):
    """A bounded queue from one thread to another.

    A full one drops what comes and counts it; a lossless one lets the writer wait. Iterating ends once it is closed and
    empty, or aborted.
    """

    def __init__(self, size: int, lossless: bool = False) -> None:
        self._items: deque[T] = deque()
        self._size, self._lossless = size, lossless
        self._changed = threading.Condition()
        self._closed = self._aborted = False
        self.dropped = 0

    @property
    def fill(self) -> float:
        """0 when empty, 1 when full."""
        return len(self._items) / self._size

    def put(self, item: T) -> bool:
        """Whether it was taken."""
        with self._changed:
            while self._lossless and len(self._items) >= self._size and not self._aborted:
                self._changed.wait()
            if self._aborted or len(self._items) >= self._size:
                self.dropped += not self._aborted
                return False
            self._items.append(item)
            self._changed.notify_all()
            return True

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        with self._changed:
            self._aborted = True
            self._items.clear()
            self._changed.notify_all()

    def __iter__(self) -> Iterator[T]:
        while True:
            with self._changed:
                while not self._items and not self._closed and not self._aborted:
                    self._changed.wait()
                if not self._items:
                    return
                item = self._items.popleft()
                self._changed.notify_all()
            yield item


class Playout:
    """The samples that a loudspeaker, or the thread that stands for one, pulls at its own pace.

    Pushing starts it; `lead` samples of silence go first, so that later blocks may be that late. Where samples are
    missing (an underrun) it plays silence, where there are too many (an overrun) it drops the oldest blocks; both are
    counted, and both edges are joined by a ramp of FADE_S, so that nothing clicks.
    """

    def __init__(self, rate_hz: int, channels: int, capacity: int, lead: int = 0, lossless: bool = False) -> None:
        self.rate_hz, self.channels, self.lead = rate_hz, channels, lead
        self._capacity, self._lossless = capacity, lossless
        self._fade = max(1, round(FADE_S * rate_hz))
        self._changed = threading.Condition()
        self._blocks: deque[tuple[np.ndarray, float | None]] = deque()  # samples, and when they were pushed
        self._running = self._closed = self._aborted = False
        self._gap = self._starved = False  # samples were dropped before what is held; silence is being played
        self._lead_left = 0
        self._last = np.zeros(channels, np.float32)
        self._offset, self._offset_left = np.zeros(channels, np.float32), 0
        self.level = 0
        self.overruns = self.underruns = self.silent_samples = self.pulled = 0
        self.ready = threading.Event()  # the loudspeaker runs
        self.waits = Durations()  # how long what is pushed waits to be pulled

    def push(self, block: np.ndarray) -> bool:
        """Appends float32[samples, channels]; whether they were taken."""
        with self._changed:
            while self._lossless and self.level and self.level + len(block) > self._capacity and not self._aborted:
                self._changed.wait()
            if self._aborted:
                return False
            if self.level and self.level + len(block) > self._capacity:
                self._drop()
            if not self._running:
                self._running, self._lead_left = True, self.lead
            self._blocks.append((block, time.monotonic()))
            self.level += len(block)
            self._changed.notify_all()
            return True

    def pull(self, count: int) -> np.ndarray:
        """The next float32[count, channels]: what was pushed, else silence."""
        with self._changed:
            out = np.zeros((count, self.channels), np.float32)
            done = min(count, self._lead_left) if self._running else 0
            self._lead_left -= done
            self._emit(out[:done], False)
            while done < count and self._blocks:
                block, pushed = self._blocks.popleft()
                part, rest = block[: count - done], block[count - done :]
                if len(rest):
                    self._blocks.appendleft((rest, None))
                if pushed is not None:
                    self.waits.add(time.monotonic() - pushed)
                out[done : done + len(part)] = part
                self._emit(out[done : done + len(part)], self._gap or self._starved)
                self._gap = self._starved = False
                done += len(part)
                self.level -= len(part)
            if done < count:
                if self._running and not self._closed:
                    self.underruns += not self._starved
                    self.silent_samples += count - done
                self._emit(out[done:], not self._starved)
                self._starved = True
            self.pulled += count
            self._changed.notify_all()
            return out

    def _drop(self) -> None:
        """Drops the oldest blocks down to the lead, so that what comes is as late as at the start."""
        while self._blocks and self.level > self.lead:
            self.level -= len(self._blocks.popleft()[0])
            self.overruns += 1
        self._gap = True

    def _emit(self, part: np.ndarray, gap: bool) -> None:
        """Adds to samples what joins them to those before: behind a gap, an offset that falls to 0."""
        if not len(part):
            return
        if gap:
            self._offset, self._offset_left = self._last - part[0], self._fade
        ramp = min(len(part), self._offset_left)
        if ramp:
            falling = np.arange(self._offset_left, self._offset_left - ramp, -1, dtype=np.float32) / self._fade
            part[:ramp] += falling[:, None] * self._offset
            self._offset_left -= ramp
        self._last = part[-1].copy()

    def pause(self) -> None:
        """Until the next push, silence is what is wanted, not an underrun."""
        with self._changed:
            self._running = False

    def skip_lead(self) -> None:
        """For who waits for as long instead of playing that silence."""
        with self._changed:
            self._lead_left = 0

    def wait_for_samples(self, count: int) -> int:
        """Waits for `count` samples; fewer where no more will come, so 0 at the end."""
        with self._changed:
            while self.level < count and not self._closed and not self._aborted:
                self._changed.wait()
            return 0 if self._aborted else min(count, self.level)

    def wait_for_room(self, level: int, timeout_s: float) -> bool:
        """Whether within `timeout_s` no more than `level` samples are left to play."""
        with self._changed:
            return self._changed.wait_for(lambda: self.level + self._lead_left <= level or self._aborted, timeout_s)

    @property
    def finished(self) -> bool:
        """Whether no more will come."""
        return self._aborted or (self._closed and not self.level)

    @property
    def aborted(self) -> bool:
        """Whether what is held will not be played."""
        return self._aborted

    @property
    def closed(self) -> bool:
        """Whether no more will be pushed."""
        return self._closed or self._aborted

    @property
    def active(self) -> bool:
        """Whether samples are due, so that their lack is an underrun."""
        return self._running and not self.closed

    def close(self) -> None:
        with self._changed:
            self._closed = True
            self._changed.notify_all()

    def abort(self) -> None:
        self.ready.set()
        with self._changed:
            self._aborted = True
            self._changed.notify_all()


class Workers:
    """Threads that end together: the first error in one aborts all, and `run` raises it."""

    def __init__(self, abort: Callable[[], None]) -> None:
        self.stop = threading.Event()  # the sources shall end; what they gave is still played
        self._abort = abort
        self._threads: list[threading.Thread] = []
        self._errors: list[BaseException] = []
        self._ended = threading.Condition()  # not Thread.join: interrupted, that takes running threads for ended ones
        self._working = 0

    def add(self, name: str, work: Callable[[], None], after: Callable[[], None] | None = None) -> None:
        """A thread for `run` to start; `after` follows the work, however that ends."""

        def guarded() -> None:
            try:
                work()
            except BaseException as error:
                self._errors.append(error)
                self.stop.set()
                self._abort()
            finally:
                if after:
                    after()
                with self._ended:
                    self._working -= 1
                    self._ended.notify_all()

        self._threads.append(threading.Thread(target=guarded, name=f"adjax {name}", daemon=True))

    def run(self, limit_s: float | None = None) -> None:
        """Starts the threads and waits for all of them.

        Ctrl-C and `limit_s` stop the sources; what is not played DRAIN_S later, or at a second Ctrl-C, is given up.
        Raises the first error of a thread.
        """
        start = time.monotonic()
        deadline = None
        self._working = len(self._threads)
        for thread in self._threads:
            thread.start()
        while self._working:
            try:
                with self._ended:
                    self._ended.wait_for(lambda: not self._working, 0.05)
                if limit_s is not None and time.monotonic() > start + limit_s:
                    self.stop.set()
            except KeyboardInterrupt:
                if self.stop.is_set():
                    self._abort()
                self.stop.set()
            if self.stop.is_set() and deadline is None:
                deadline = time.monotonic() + DRAIN_S
            if deadline is not None and time.monotonic() > deadline:
                self._abort()
                deadline = time.monotonic() + DRAIN_S
        for thread in self._threads:
            thread.join()
        if self._errors:
            raise self._errors[0]
