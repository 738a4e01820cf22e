"""Signal transforms as pure functions: short-time Fourier, mel filters, lapped transforms, reproducible signs.

Audio is float32[batch, samples] here: channels are folded into the batch by the callers.
"""

from __future__ import annotations

from functools import lru_cache

import jax.numpy as jnp
import numpy as np
from jax import Array


def hann(win_length: int, fft_size: int) -> np.ndarray:
    """Periodic Hann window of win_length, zero-padded on both sides to fft_size."""
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(win_length) / win_length)
    return np.pad(window, _sides(win_length, fft_size)).astype(np.float32)


def stft(x: Array, fft_size: int, hop_samples: int, window: int | Array | None = None) -> Array:
    """Complex spectra [batch, 1 + samples // hop, fft_size // 2 + 1] of x[batch, samples]: centred, reflect padding.

    `window` is its samples [win_length] or, for a periodic Hann window, its length; None: fft_size.
    """
    if window is None or isinstance(window, int):
        weights = jnp.asarray(hann(window or fft_size, fft_size))
    else:
        weights = jnp.pad(window, _sides(window.shape[0], fft_size))
    x = jnp.pad(x, ((0, 0), (fft_size // 2, fft_size // 2)), mode="reflect")
    return jnp.fft.rfft(_frames(x, fft_size, hop_samples) * weights)


def _sides(win_length: int, fft_size: int) -> tuple[int, int]:
    """Zeros before and after a window in its frame."""
    left = (fft_size - win_length) // 2
    return left, fft_size - win_length - left


def _frames(x: Array, size: int, hop: int) -> Array:
    """Overlapping frames [batch, frames, size] of x[batch, samples].

    A frame is laid together from hops: the gradient of a gather is a slow scatter.
    """
    count = 1 + (x.shape[1] - size) // hop
    parts = -(-size // hop)
    length = (count + parts - 1) * hop
    x = jnp.pad(x, ((0, 0), (0, max(0, length - x.shape[1]))))  # where a frame ends within a hop
    hops = x[:, :length].reshape(x.shape[0], -1, hop)
    return jnp.concatenate([hops[:, i : i + count] for i in range(parts)], axis=-1)[..., :size]


def mel_scale(hz: np.ndarray) -> np.ndarray:
    """Slaney's mel scale: linear below 1 kHz, logarithmic above."""
    linear, step = hz / (200 / 3), np.log(6.4) / 27
    return np.where(hz < 1000, linear, 15 + np.log(np.maximum(hz, 1e-9) / 1000) / step)


def _mel_to_hz(mel: np.ndarray) -> np.ndarray:
    return np.where(mel < 15, mel * (200 / 3), 1000 * np.exp(np.log(6.4) / 27 * (mel - 15)))


@lru_cache(maxsize=64)
def mel_filters(
    sample_rate_hz: int, fft_size: int, bands: int, fmin_hz: float = 0.0, fmax_hz: float | None = None
) -> np.ndarray:
    """Triangular mel filters float32[fft_size // 2 + 1, bands] on Slaney's scale, each of unit area over hertz."""
    top = sample_rate_hz / 2 if fmax_hz is None else fmax_hz
    ends = mel_scale(np.array([fmin_hz, top], np.float64))
    edges = _mel_to_hz(np.linspace(ends[0], ends[1], bands + 2))
    bins = np.linspace(0, sample_rate_hz / 2, fft_size // 2 + 1)[:, None]
    rising = (bins - edges[:-2]) / (edges[1:-1] - edges[:-2])
    falling = (edges[2:] - bins) / (edges[2:] - edges[1:-1])
    return (np.maximum(0, np.minimum(rising, falling)) * 2 / (edges[2:] - edges[:-2])).astype(np.float32)


def lapped_bases(window: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """MDCT and MDST bases [2 * hop, hop] under a window [2 * hop]; orthonormal if it is power-complementary."""
    hop = len(window) // 2
    n, k = np.arange(2 * hop)[:, None], np.arange(hop)[None]
    angle = np.pi / hop * (n + 0.5 + hop / 2) * (k + 0.5)
    scale = np.sqrt(2 / hop) * window[:, None]
    return scale * np.cos(angle), scale * np.sin(angle)


@lru_cache(maxsize=16)
def _mdct_basis(hop: int) -> tuple[np.ndarray, np.ndarray]:
    """Orthonormal MDCT and MDST bases [2 * hop, hop] under a sine window."""
    return lapped_bases(np.sin(np.pi * (np.arange(2 * hop) + 0.5) / (2 * hop)))


def analysis_kernel(hop: int) -> np.ndarray:
    """Two-tap kernel float32[2, hop, 2 * hop]: hops of samples to MDCT, then MDST bins (Princen and Bradley, 1986)."""
    return np.concatenate(_mdct_basis(hop), axis=1).reshape(2, hop, 2 * hop).astype(np.float32)


def synthesis_kernel(hop: int) -> np.ndarray:
    """Two-tap kernel float32[2, hop, hop]: MDCT bins of frames i-1 and i to the samples of hop i-1 (overlap-add)."""
    cosine, _ = _mdct_basis(hop)
    return np.stack([cosine[hop:].T, cosine[:hop].T]).astype(np.float32)


def frame_signs(frames: Array, bins: int) -> Array:
    """Signs +1 or -1, float32[..., bins], that depend on the frame's number int32[...] and the bin alone.

    A counter-based generator: 32-bit integer mixing by xor-shifts and odd multipliers (the "lowbias32" construction,
    C. Wellons, public domain), so that streaming, offline and every device agree.
    """
    x = frames.astype(jnp.uint32)[..., None] * jnp.uint32(0x9E3779B9) + jnp.arange(bins, dtype=jnp.uint32)
    x = (x ^ (x >> 16)) * jnp.uint32(0x7FEB352D)
    x = (x ^ (x >> 15)) * jnp.uint32(0x846CA68B)
    x = x ^ (x >> 16)
    return jnp.where(x & 1 == 1, 1.0, -1.0).astype(jnp.float32)


def fold_channels(x: Array) -> Array:
    """[batch, samples, channels] to [batch * channels, samples]."""
    return jnp.moveaxis(x, -1, 1).reshape(-1, x.shape[1])


def safe_abs(z: Array, floor: float) -> Array:
    """sqrt(max(|z|^2, floor)); the gradient is 0 where the floor holds."""
    return safe_sqrt(jnp.real(z) ** 2 + jnp.imag(z) ** 2, floor)


def safe_sqrt(x: Array, floor: float = 0.0) -> Array:
    """sqrt(max(x, floor)); the gradient is 0 where the floor holds, which may be 0. NaN stays NaN."""
    below = x <= floor
    return jnp.where(below, floor**0.5, jnp.sqrt(jnp.where(below, 1.0, x)))


__all__ = [
    "analysis_kernel",
    "fold_channels",
    "frame_signs",
    "hann",
    "lapped_bases",
    "mel_filters",
    "safe_abs",
    "safe_sqrt",
    "stft",
    "synthesis_kernel",
]
