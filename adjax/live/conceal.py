"""What is played for frames that did not come: the codes before them, ever softer."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

FALL_S, RISE_S = 0.1, 0.01  # from full gain to silence, and back


class Concealer:
    """Codes for the decoder and a gain for what it makes of them.

    Missing frames repeat the last codes that came, so the decoder's stream has no break in it; the gain falls over
    FALL_S to 0 while frames are missing and rises over RISE_S while they come. It is continuous, so the product jumps
    no more than the decoder's output does, plus the gain's slope. Without losses it is exactly 1.
    """

    def __init__(self, hop: int, codebooks: int, rate_hz: int) -> None:
        self._hop = hop
        self._last = np.zeros(codebooks, np.int32)
        self._gain: float | None = None  # before the first frame
        self.fall, self.rise = 1 / (FALL_S * rate_hz), 1 / (RISE_S * rate_hz)  # a sample
        self.concealed = 0

    def codes(self, rows: Sequence[np.ndarray | None]) -> np.ndarray:
        """int32[1, frames, codebooks] of one code row a frame, None where it is missing.

        Rows may have different numbers of codebooks; what all of them have is used.
        """
        filled = []
        for row in rows:
            self._last = self._last if row is None else row
            filled.append(self._last)
        shared = min(len(row) for row in filled)
        return np.stack([row[:shared] for row in filled])[None].astype(np.int32)

    def gain(self, present: Sequence[bool]) -> np.ndarray:
        """float32[frames * hop, 1] for frames that came or did not."""
        if self._gain is None:
            self._gain = 1.0 if present[0] else 0.0
        out = np.ones((len(present), self._hop))
        steps = np.arange(1, self._hop + 1)
        for i, came in enumerate(present):
            if came and self._gain == 1:
                continue
            out[i] = np.clip(self._gain + steps * (self.rise if came else -self.fall), 0, 1)
            self._gain = float(out[i, -1])
            self.concealed += not came
        return out.reshape(-1, 1).astype(np.float32)
