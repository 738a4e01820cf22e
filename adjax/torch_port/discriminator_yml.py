"""`discriminator_params` of the released `config.yml` to a Discriminators and back."""

from __future__ import annotations

from typing import Any

from adjax.config import Discriminators, MultiPeriod, MultiResolution, MultiScale
from adjax.errors import AdjaxError
from adjax.torch_port.yaml_values import MAX_ITEMS, Values

_POOLING = {"kernel_size": 4, "stride": 2, "padding": 2}
_LAYERS = ("bias", "channels", "kernel_sizes", "nonlinear_activation", "nonlinear_activation_params")
_NORMS = ("use_weight_norm", "use_spectral_norm")
_ENDS = ("in_channels", "out_channels")
_DOWNSAMPLING = (*_ENDS, "downsample_scales", "max_downsample_channels")
_PERIODS = ("periods", "period_discriminator_params")


def read_discriminators(values: Values) -> Discriminators:
    """The discriminators of a `discriminator_params` mapping: spectral ("Univ") where it has resolutions, multi-scale
    elsewhere; problems are left in `values`, or raised as AdjaxError.

    The norms of the multi-scale ones are not followed: the released program names them, but applies none.
    """
    is_univ = "spectral_discriminator_params" in values.values or "fft_sizes" in values.values
    period = _read_periods(values)
    if is_univ:
        return Discriminators(scale=None, resolution=_read_resolutions(values), period=period)
    return Discriminators(scale=_read_scales(values), period=period)


def _read_scales(values: Values) -> MultiScale:
    default = MultiScale()
    pooling = ("scale_downsample_pooling", "scale_downsample_pooling_params")
    values.only("scales", "scale_discriminator_params", "follow_official_norm", *pooling, *_PERIODS)
    values.choice("scale_downsample_pooling", "AvgPool1d")
    for key, value in _POOLING.items():
        values.within(pooling[1]).constant(key, value)
    values.flag("follow_official_norm", True)
    inner = values.within("scale_discriminator_params")
    inner.only(*_LAYERS, *_DOWNSAMPLING, *_NORMS, "max_groups")
    for key in _NORMS:
        inner.flag(key, False)
    _check_ends(inner)
    kernels = inner.integers("kernel_sizes", default.kernel_sizes, 4)
    return MultiScale(
        scales=values.integer("scales", default.scales, MAX_ITEMS),
        channels=inner.integer("channels", default.channels),
        max_channels=inner.integer("max_downsample_channels", default.max_channels),
        max_groups=inner.integer("max_groups", default.max_groups),
        kernel_sizes=(kernels[0], kernels[1], kernels[2], kernels[3]),
        strides=inner.integers("downsample_scales", default.strides),
        slope=inner.leaky_slope(default.slope),
    )


def _read_resolutions(values: Values) -> MultiResolution:
    default = MultiResolution()
    values.only("fft_sizes", "hop_sizes", "win_lengths", "window", "spectral_discriminator_params", *_PERIODS)
    values.choice("window", "hann_window")
    inner = values.within("spectral_discriminator_params")
    inner.only(*_LAYERS, "strides", *_NORMS)
    inner.constant("bias", True)
    return MultiResolution(
        fft_sizes=values.integers("fft_sizes", default.fft_sizes),
        hop_samples=values.integers("hop_sizes", default.hop_samples),
        win_lengths=values.integers("win_lengths", default.win_lengths),
        channels=inner.integer("channels", default.channels),
        kernel_sizes=inner.integer_rows("kernel_sizes", default.kernel_sizes, 2),
        strides=inner.integer_rows("strides", default.strides, 2),
        slope=inner.leaky_slope(default.slope),
        norm=_read_norm(inner),
    )


def _read_periods(values: Values) -> MultiPeriod:
    default = MultiPeriod()
    inner = values.within("period_discriminator_params")
    inner.only(*_LAYERS, *_DOWNSAMPLING, *_NORMS)
    _check_ends(inner)
    kernels = inner.integers("kernel_sizes", default.kernel_sizes, 2)
    if kernels[1] < 2:
        inner.problem("kernel_sizes", "must end in 2 or more: the last convolution's kernel is one shorter")
    return MultiPeriod(
        periods=values.integers("periods", default.periods),
        channels=inner.integer("channels", default.channels),
        max_channels=inner.integer("max_downsample_channels", default.max_channels),
        kernel_sizes=(kernels[0], kernels[1]),
        strides=inner.integers("downsample_scales", default.strides),
        slope=inner.leaky_slope(default.slope),
        norm=_read_norm(inner),
    )


def _check_ends(inner: Values) -> None:
    inner.constant("bias", True)
    for key in _ENDS:
        inner.constant(key, 1)


def _read_norm(inner: Values) -> Any:
    inner.constant("use_spectral_norm", False)
    return "weight" if inner.flag("use_weight_norm", True) else "none"


def discriminator_parameters(config: Discriminators) -> dict[str, Any]:
    """The `discriminator_params` that `read_discriminators` reads as `config`.

    Raises AdjaxError where the released program has no such set of discriminators.
    """
    scale, resolution, period = config.scale, config.resolution, config.period
    if period is None or config.stft is not None or (scale is None) == (resolution is None):
        raise AdjaxError(
            "the published program trains against period discriminators with either scale or resolution "
            "discriminators; others cannot be exported"
        )
    parameters: dict[str, Any] = {
        "periods": list(period.periods),
        "period_discriminator_params": {
            "in_channels": 1,
            "out_channels": 1,
            "kernel_sizes": list(period.kernel_sizes),
            "channels": period.channels,
            "downsample_scales": list(period.strides),
            "max_downsample_channels": period.max_channels,
            **_layers(period.slope),
            "use_weight_norm": period.norm == "weight",
            "use_spectral_norm": False,
        },
    }
    if scale is not None:
        return parameters | {
            "scales": scale.scales,
            "scale_downsample_pooling": "AvgPool1d",
            "scale_downsample_pooling_params": dict(_POOLING),
            "scale_discriminator_params": {
                "in_channels": 1,
                "out_channels": 1,
                "kernel_sizes": list(scale.kernel_sizes),
                "channels": scale.channels,
                "max_downsample_channels": scale.max_channels,
                "max_groups": scale.max_groups,
                "downsample_scales": list(scale.strides),
                **_layers(scale.slope),
            },
            "follow_official_norm": True,
        }
    assert resolution is not None
    if resolution.exponent != 1:
        raise AdjaxError(f"the published program has no discriminators.resolution.exponent {resolution.exponent:g}")
    spectral: dict[str, Any] = {
        "channels": resolution.channels,
        "kernel_sizes": [list(pair) for pair in resolution.kernel_sizes],
        "strides": [list(pair) for pair in resolution.strides],
        **_layers(resolution.slope),
    }
    if resolution.norm == "none":
        spectral["use_weight_norm"] = False
    return parameters | {
        "fft_sizes": list(resolution.fft_sizes),
        "hop_sizes": list(resolution.hop_samples),
        "win_lengths": list(resolution.win_lengths),
        "window": "hann_window",
        "spectral_discriminator_params": spectral,
    }


def _layers(slope: float) -> dict[str, Any]:
    return {
        "bias": True,
        "nonlinear_activation": "LeakyReLU",
        "nonlinear_activation_params": {"negative_slope": slope},
    }
