"""The metric losses of the released `config.yml` to a Losses and back."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from adjax.config import Losses, Mel, Stft
from adjax.torch_port.yaml_values import Values


def read_weight(values: Values, use: str, key: str) -> float:
    """A loss's weight, 0 where the loss is not used."""
    values.need(use, *((key,) if values.values.get(use) is True else ()))
    weight = values.number(key, 1.0, 0, 1e6)
    return weight if values.flag(use, False) else 0.0


def read_losses(values: Values, mode: str, sample_rate_hz: int) -> Losses:
    """The metric losses of the procedure `mode`; problems are left in `values`."""
    default = Losses()
    weights = {
        name: read_weight(values, f"use_{name}_loss", f"lambda_{name}_loss") for name in ("mel", "stft", "shape")
    }
    given = {name: weights[name] or f"{name}_loss_params" in values.values for name in weights}
    windows = default.shape_windows
    if given["shape"]:
        inner = values.within("shape_loss_params")
        inner.only("winlen")
        inner.need("winlen")
        windows = inner.integers("winlen", windows)
    values.need(*(("lambda_vq_loss",) if mode != "vocoder" else ()))
    vq_weight = values.number("lambda_vq_loss", 1.0, 0, 1e6)
    return Losses(
        mel=_read_mel(values.within("mel_loss_params"), sample_rate_hz) if given["mel"] else default.mel,
        mel_weight=weights["mel"],
        stft=_read_stft(values.within("stft_loss_params")) if given["stft"] else default.stft,
        stft_weight=weights["stft"],
        shape_windows=windows,
        shape_weight=weights["shape"],
        vq_weight=0.0 if mode == "vocoder" else vq_weight,  # of a frozen quantizer it would move nothing
    )


def _read_mel(inner: Values, sample_rate_hz: int) -> Mel:
    default = Mel()
    keys = ("fft_sizes", "hop_sizes", "num_mels", "fs")
    inner.only(*keys, "win_lengths", "fmin", "fmax", "log_base", "window")
    inner.need(*keys)
    inner.choice("window", "hann_window")
    if inner.values.get("fs", sample_rate_hz) != sample_rate_hz:
        inner.problem("fs", f"must be sampling_rate, {sample_rate_hz}")
    fft_sizes = inner.integers("fft_sizes", default.fft_sizes)
    low, high, base = (inner.values.get(key) for key in ("fmin", "fmax", "log_base"))
    if base not in (None, 2, 10) or isinstance(base, bool):
        inner.problem("log_base", "must be null, 2 or 10")
        base = None
    return Mel(
        fft_sizes,
        inner.integers("hop_sizes", default.hop_samples, len(fft_sizes)),
        _window_lengths(inner, fft_sizes),
        (inner.integer("num_mels", default.bands[0]),) * len(fft_sizes),
        0.0 if low is None else inner.number("fmin", 0.0, 0, sample_rate_hz / 2),
        None if high is None else inner.number("fmax", sample_rate_hz / 2, 0, sample_rate_hz / 2),
        None if base is None else float(base),
    )


def _read_stft(inner: Values) -> Stft:
    default = Stft()
    inner.only("fft_sizes", "hop_sizes", "win_lengths", "window")
    inner.need("fft_sizes", "hop_sizes")
    inner.choice("window", "hann_window")
    fft_sizes = inner.integers("fft_sizes", default.fft_sizes)
    hops = inner.integers("hop_sizes", default.hop_samples, len(fft_sizes))
    return Stft(fft_sizes, hops, _window_lengths(inner, fft_sizes))


def _window_lengths(inner: Values, fft_sizes: tuple[int, ...]) -> tuple[int, ...]:
    """Window lengths; null, for all or one, is the FFT's size."""
    lengths = inner.values.get("win_lengths")
    if lengths is None:
        return fft_sizes
    if isinstance(lengths, list) and len(lengths) == len(fft_sizes):
        lengths = [size if length is None else length for length, size in zip(lengths, fft_sizes, strict=True)]
    given = Values({"win_lengths": lengths}, inner.prefix, inner.problems)
    return given.integers("win_lengths", fft_sizes, len(fft_sizes))


def loss_parameters(losses: Losses, sample_rate_hz: int) -> dict[str, Any]:
    """The entries of `config.yml` that `read_losses` reads as `losses`."""
    mel, stft = losses.mel, losses.stft
    weights = {"mel": losses.mel_weight, "stft": losses.stft_weight, "shape": losses.shape_weight}
    return {
        **{f"use_{name}_loss": bool(weight) for name, weight in weights.items()},
        **{f"lambda_{name}_loss": weight for name, weight in weights.items()},
        "mel_loss_params": {
            "fs": sample_rate_hz,
            **_resolutions(mel.fft_sizes, mel.hop_samples, mel.win_lengths),
            "num_mels": mel.bands[0],
            "fmin": mel.fmin_hz,
            "fmax": mel.fmax_hz,
            "log_base": mel.log_base,
        },
        "stft_loss_params": _resolutions(stft.fft_sizes, stft.hop_samples, stft.win_lengths),
        "shape_loss_params": {"winlen": list(losses.shape_windows)},
    }


def _resolutions(fft_sizes: Sequence[int], hops: Sequence[int], lengths: Sequence[int]) -> dict[str, Any]:
    sizes = {"fft_sizes": list(fft_sizes), "hop_sizes": list(hops), "win_lengths": list(lengths)}
    return {**sizes, "window": "hann_window"}
