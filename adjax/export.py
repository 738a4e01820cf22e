"""Encode and decode steps as StableHLO with explicit state, to run without adjax's model code."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import jax
import jax.export
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from adjax import weights
from adjax.audio import replacing
from adjax.errors import AdjaxError
from adjax.streaming import Codec

PLATFORMS = ("cpu", "cuda", "tpu")
MANIFEST = "manifest.json"


def export_stablehlo(codec: Codec, folder: Path, frames: int) -> dict[str, Any]:
    """Write both steps for chunks of `frames` frames and any number of streams; returns the manifest.

    The folder holds `encode.stablehlo` and `decode.stablehlo` (serialized `jax.export` functions of weights, state and
    chunk that give the next state and the result), `encode.safetensors` and `decode.safetensors` (their weights) and
    `manifest.json` (shapes, which state leaf is which, sample rate). A stream starts from a state of zeros.
    Raises AdjaxError for a codec on kernels of this machine and for a model that is not causal.
    """
    if codec.uses_kernels:
        raise AdjaxError("a codec without kernels of this machine is needed: Codec(config, variables, kernels=False)")
    folder.mkdir(parents=True, exist_ok=True)
    (batch,) = jax.export.symbolic_shape("streams")
    audio = jax.ShapeDtypeStruct((batch, frames * codec.hop_length, codec.audio_channels), jnp.float32)
    codes = jax.ShapeDtypeStruct((batch, frames, codec.num_codebooks), jnp.int32)
    manifest: dict[str, Any] = {
        "model": codec.config.name,
        "licence": codec.config.licence,
        "sample_rate_hz": codec.sample_rate,
        "hop_samples": codec.hop_length,
        "frames_per_chunk": frames,
        "codebook_size": codec.codebook_size,
        "delay_samples": codec.delay,
        "platforms": list(PLATFORMS),
    }
    manifest["encode"] = _export(codec, "encode", audio, codec.init_encoder(1), folder)
    manifest["decode"] = _export(codec, "decode", codes, codec.init_decoder(1), folder)
    with replacing(folder / MANIFEST) as temporary:
        temporary.write_text(json.dumps(manifest, indent=2) + "\n")
    return manifest


def _export(
    codec: Codec, name: Literal["encode", "decode"], chunk: jax.ShapeDtypeStruct, state: Any, folder: Path
) -> dict[str, Any]:
    step = codec.pure_step(name)
    used = _used(step, codec.tree, state, chunk)
    flat = {key: leaf for key, leaf in weights.flatten(codec.tree).items() if key in used}

    def function(flat_tree: dict[str, Any], flat_state: dict[str, Any], x: Any) -> Any:
        following, y = step(weights.unflatten(flat_tree), weights.unflatten(flat_state), x)
        return weights.flatten(following), y

    def spread(leaf: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((chunk.shape[0], *leaf.shape[1:]), leaf.dtype)

    shapes = {key: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype) for key, leaf in flat.items()}
    states = {key: spread(leaf) for key, leaf in weights.flatten(state).items()}
    exported = jax.export.export(jax.jit(function), platforms=PLATFORMS)(shapes, states, chunk)
    with replacing(folder / f"{name}.stablehlo") as temporary:
        temporary.write_bytes(exported.serialize())
    with replacing(folder / f"{name}.safetensors") as temporary:
        save_file({key: np.asarray(leaf) for key, leaf in flat.items()}, temporary)
    result = exported.out_avals[-1]
    return {
        "chunk": {"shape": [str(n) for n in chunk.shape], "dtype": str(np.dtype(chunk.dtype))},
        "result": {"shape": [str(n) for n in result.shape], "dtype": str(np.dtype(result.dtype))},
        "state": {
            key: {"shape": [str(n) for n in leaf.shape], "dtype": str(np.dtype(leaf.dtype))}
            for key, leaf in states.items()
        },
    }


def _used(step: Callable[..., Any], tree: Any, state: Any, chunk: jax.ShapeDtypeStruct) -> set[str]:
    """The weights that a step reads: an encoder needs no decoder."""
    x = jax.ShapeDtypeStruct((1, *chunk.shape[1:]), chunk.dtype)
    jaxpr = jax.make_jaxpr(step)(tree, state, x).jaxpr
    read = {id(v) for equation in jaxpr.eqns for v in equation.invars} | {id(v) for v in jaxpr.outvars}
    leaves, _ = jax.tree_util.tree_flatten_with_path(tree)
    names = [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in leaves]
    return {name for name, v in zip(names, jaxpr.invars, strict=False) if id(v) in read}
