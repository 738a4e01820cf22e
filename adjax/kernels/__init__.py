"""Convolution and quantization for inference on CPUs, in C++: built on the machine that runs it, where that can be.

XLA's own convolution reaches half of a core's arithmetic at the few frames of a stream's chunk; this one four fifths
(docs/performance.md). Its sums run in one order whatever the chunk and the batch, so that codes cannot depend on them.
"""

from __future__ import annotations

import ctypes
import functools
import hashlib
import logging
import os
import platform
import shlex
import subprocess
import tempfile
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from adjax.cache import private_folder
from adjax.packed import Part

LANES = 16  # outputs of a weight block
_SOURCE = Path(__file__).with_name("layers.cc")
PACKED = "packed"  # the collection of weights as they are taken here
_CONV, _QUANTIZE = "adjax_conv", "adjax_quantize"
_ACTIVATIONS = ("none", "elu", "leaky")  # as numbered in the source
_FLAGS = ("-std=c++17", "-O3", "-fno-math-errno", "-fno-trapping-math", "-fPIC", "-shared", "-w")
_BUILD_LIMIT_S = 120

_log = logging.getLogger(__name__)


@functools.cache
def available() -> bool:
    """Whether `conv` can be used here: on CPUs, with a C++ compiler or an earlier build; ADJAX_NO_KERNELS=1 says no."""
    if os.environ.get("ADJAX_NO_KERNELS") or jax.default_backend() != "cpu" or os.name != "posix":
        return False
    try:
        library = ctypes.CDLL(str(_built()))
        jax.ffi.register_ffi_target(_CONV, jax.ffi.pycapsule(library.AdjaxConv), platform="cpu")
        jax.ffi.register_ffi_target(_QUANTIZE, jax.ffi.pycapsule(library.AdjaxQuantize), platform="cpu")
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        _log.info("XLA's convolution is used, at half the speed: the kernel could not be built (%s)", error)
        return False
    return True


def pack(kernel: np.ndarray) -> np.ndarray:
    """Weights [taps, in, out] as `conv` takes them: [ceil(out / 16), taps, in, 16], padded with zeros."""
    taps, channels, features = kernel.shape
    blocks = -(-features // LANES)
    kernel = np.pad(kernel, ((0, 0), (0, 0), (0, blocks * LANES - features)))
    return np.ascontiguousarray(kernel.reshape(taps, channels, blocks, LANES).transpose(2, 0, 1, 3))


def conv(
    x: Array,
    context: Array,
    packed: Part,
    bias: Part | None,
    residual: Array | None,
    features: int,
    stride: int = 1,
    dilation: int = 1,
    activation: str = "none",
    slope: float = 0.0,
    scale: Part | None = None,
    tail: Part | None = None,
) -> tuple[Array, Array]:
    """VALID convolution of context[batch, earlier, in] followed by activation(x[batch, time, in]); no gradient.

    Gives float32[batch, frames, features], with frames = (earlier + time - (taps - 1) * dilation - 1) // stride + 1,
    plus bias[features] and residual (of that shape), and the last `earlier` frames of the input: the next context.
    With scale[in], x / rms(x) * scale stands for activation(x). `tail`, a packed pointwise kernel, makes it a residual
    unit of in = features and frames = time: what is given is x + tail applied to activation(the rest). `packed` is what
    `pack` gave, in one array with bias, scale and tail.
    """
    if any(part is not None and part.array is not packed.array for part in (bias, scale, tail)):
        raise ValueError("all weights of a convolution must lie in one array")
    batch, earlier, _ = context.shape
    _, taps, _, _ = packed.shape
    frames = (earlier + x.shape[1] - (taps - 1) * dilation - 1) // stride + 1
    shapes = [jax.ShapeDtypeStruct(s, jnp.float32) for s in ((batch, frames, features), context.shape)]
    call = jax.ffi.ffi_call(_CONV, shapes, vmap_method="sequential", input_output_aliases={1: 1})
    y, later = call(
        x,
        context,
        packed.array,
        jnp.zeros((0,), jnp.float32) if residual is None else residual,
        weights_at=np.int64(packed.offset),
        bias_at=np.int64(-1 if bias is None else bias.offset),
        scale_at=np.int64(-1 if scale is None else scale.offset),
        tail_at=np.int64(-1 if tail is None else tail.offset),
        taps=np.int64(taps),
        stride=np.int64(stride),
        dilation=np.int64(dilation),
        activation=np.int64(_ACTIVATIONS.index(activation)),
        slope=np.float32(slope),
    )
    return y, later


def pack_codebooks(embed: np.ndarray) -> dict[str, np.ndarray]:
    """Codebooks [stages, size, dim] as `quantize` takes them: [stages, ceil(size / 16), dim, 16] and squared norms."""
    size = embed.shape[1]
    blocks = -(-size // LANES)
    padded = np.pad(embed, ((0, 0), (0, blocks * LANES - size), (0, 0)))
    norms = np.sum(padded * padded, axis=-1)
    norms[:, size:] = np.inf
    lanes = padded.reshape(len(embed), blocks, LANES, -1).transpose(0, 1, 3, 2)
    return {"embed": np.ascontiguousarray(lanes), "norms": norms}


def quantize(
    x: Array,
    embed: Array,
    norms: Array,
    stages: int,
    beams: int,
    earlier: Array | None = None,
    factors: Array | None = None,
) -> tuple[Array, Array]:
    """Codes int32[batch, frames, stages] of latents x[batch, frames, dim], as `ResidualQuantizer.encode` finds them.

    With factors[dim] the codes are of what each frame differs by from them times the frame before as decoded, which is
    earlier[batch, dim] for the first; the last as decoded is the second result.
    """
    if earlier is None or factors is None:
        earlier, factors = jnp.zeros((len(x), 0), jnp.float32), jnp.zeros((0,), jnp.float32)
    shapes = (
        jax.ShapeDtypeStruct((*x.shape[:2], stages), jnp.int32),
        jax.ShapeDtypeStruct(earlier.shape, jnp.float32),
    )
    call = jax.ffi.ffi_call(_QUANTIZE, shapes, vmap_method="sequential")
    codes, later = call(x, embed, norms, earlier, factors, beams=np.int64(beams))
    return codes, later


def _built() -> Path:
    """The shared library, built if it is not in the cache; its name says what it was built from, for and with."""
    compiler = shlex.split(os.environ.get("CXX", "c++"))
    machine = [platform.machine(), *_cpu_features()]
    said = subprocess.run([*compiler, "--version"], capture_output=True, check=True, timeout=_BUILD_LIMIT_S).stdout
    native = ["-mcpu=native"] if platform.machine() in ("aarch64", "arm64") else ["-march=native"]
    command = [*compiler, *_FLAGS, *native, f"-I{jax.ffi.include_dir()}", str(_SOURCE)]
    key = [_SOURCE.read_text(), jax.__version__, *machine, *command, said.decode(errors="replace")]
    digest = hashlib.blake2b(repr(key).encode(), digest_size=8).hexdigest()
    folder = private_folder("kernels") or Path(tempfile.mkdtemp(prefix="adjax-"))
    library = folder / f"layers-{digest}.so"
    if not library.exists():
        with tempfile.NamedTemporaryFile(dir=folder, suffix=".so", delete=False) as file:
            temporary = Path(file.name)
        try:
            subprocess.run([*command, "-o", str(temporary)], capture_output=True, check=True, timeout=_BUILD_LIMIT_S)
            temporary.replace(library)
        finally:
            temporary.unlink(missing_ok=True)
    return library


def _cpu_features() -> list[str]:
    """What tells processors apart that a home folder may be shared between."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        return [platform.processor()]
    return sorted({line for line in lines if line.startswith(("flags", "Features", "model name"))})
