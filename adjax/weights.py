"""Model folders: `config.json` says everything needed to rebuild a model, `model.safetensors` holds its arrays.

A model most of whose weights are 0 is small as `model.safetensors.gz`, which stands in the other's place.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import math
import os
import tempfile
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import load, save

from adjax import zoo
from adjax.config import ModelConfig
from adjax.errors import AdjaxError
from adjax.storage import STORAGES, restored, stored
from adjax.strict_json import ConfigError, from_dict, to_dict, to_json

CONFIG_FILE, WEIGHTS_FILE = "config.json", "model.safetensors"
COMPRESSED_FILE = f"{WEIGHTS_FILE}.gz"
_MAX_CONFIG_BYTES = 1 << 20
_MAX_HEADER_BYTES = 1 << 20  # of a compressed file: names and shapes of the arrays
_MAX_BYTES_A_NUMBER = 12  # of one that is rounded and beyond its limit, 9
_MAX_DECOMPRESSED_BYTES = 1 << 29  # whatever its configuration asks for, which is no more to be trusted
Tree = dict[str, Any]


def flatten(tree: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """Nested dicts of arrays as one dict with '/' between names."""
    flat: dict[str, Any] = {}
    for key, value in tree.items():
        flat |= flatten(value, f"{prefix}{key}/") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def unflatten(flat: Mapping[str, Any]) -> Tree:
    """The inverse of `flatten`."""
    tree: Tree = {}
    for path, value in flat.items():
        *parents, last = path.split("/")
        node = tree
        for part in parents:
            node = node.setdefault(part, {})
        node[last] = value
    return tree


def checkpoint_folders() -> list[Path]:
    """Where models that come with adjax lie: in the installed package, or beside it in a source tree."""
    here = Path(__file__).resolve().parent
    return [here / "checkpoints", here.parent / "checkpoints"]


def find_model(name: str | os.PathLike[str] | None = None) -> Path:
    """The folder of a model, by its name or path; None is the default model. Raises AdjaxError if there is none."""
    wanted = os.fspath(name) if name is not None else zoo.DEFAULT_MODEL
    candidates = [Path(wanted), *(folder / wanted for folder in checkpoint_folders())]
    for folder in candidates:
        if (folder / CONFIG_FILE).is_file():
            return folder
    shipped = sorted(
        {f.name for d in checkpoint_folders() if d.is_dir() for f in d.iterdir() if (f / CONFIG_FILE).is_file()}
    )
    if wanted in zoo.MODELS:
        raise AdjaxError(
            f"model '{wanted}' does not come with adjax; make its folder with `adjax import-torch` or `adjax train` "
            f"(models that come with it: {', '.join(shipped) or 'none'})"
        )
    raise AdjaxError(
        f"no model '{wanted}': neither a folder with {CONFIG_FILE} nor a model that comes with adjax "
        f"({', '.join(shipped) or 'none'})"
    )


def save_model(folder: str | os.PathLike[str], config: ModelConfig, variables: Tree, storage: str = "float32") -> Path:
    """Write a model folder, its arrays stored as one of `adjax.storage.STORAGES`.

    Raises AdjaxError for a compressed model of over half a gigabyte, which would not be read again.
    """
    folder, kind = Path(folder), STORAGES[storage]
    folder.mkdir(parents=True, exist_ok=True)
    arrays = stored({k: np.asarray(v) for k, v in flatten(variables).items()}, kind)
    data = save(arrays, metadata={"format": "adjax"})
    if kind.compressed and len(data) > _MAX_DECOMPRESSED_BYTES:
        raise AdjaxError(f"{folder}: {len(data)} bytes are too large for a compressed file; write it in another type")
    written, other = (COMPRESSED_FILE, WEIGHTS_FILE) if kind.compressed else (WEIGHTS_FILE, COMPRESSED_FILE)
    _write(folder / written, gzip.compress(data, mtime=0) if kind.compressed else data)
    (folder / other).unlink(missing_ok=True)
    _write(folder / CONFIG_FILE, to_json(config).encode())
    return folder


def load_model(folder: str | os.PathLike[str]) -> tuple[ModelConfig, Tree]:
    """Configuration and float32 variables of a model folder; AdjaxError on anything missing, damaged or misshapen."""
    folder = Path(folder)
    config = read_config(folder / CONFIG_FILE)
    path, shapes = folder / WEIGHTS_FILE, _shapes(config)
    try:
        if not path.exists() and (folder / COMPRESSED_FILE).exists():
            path = folder / COMPRESSED_FILE
            arrays = load(_decompressed(path, sum(map(math.prod, (shapes[0] | shapes[1]).values()))))
        else:
            with safe_open(path, framework="np") as file:
                arrays = {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118 (not a dict)
    except FileNotFoundError:
        raise AdjaxError(f"{path}: no such file; a model folder holds {CONFIG_FILE} and {WEIGHTS_FILE}") from None
    except (SafetensorError, ValueError, TypeError, OSError, EOFError, zlib.error) as error:
        raise AdjaxError(f"{path}: damaged, cannot be read as safetensors ({error})") from None
    flat = restored(path, arrays)
    _check_fit(path, flat, *shapes)
    return config, unflatten(flat)


def _decompressed(path: Path, values: int) -> bytes:
    """A compressed file of arrays, read no further than so many numbers can reach; ValueError where it goes on."""
    limit = min(_MAX_HEADER_BYTES + _MAX_BYTES_A_NUMBER * values, _MAX_DECOMPRESSED_BYTES)
    with gzip.open(path) as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"it is of more than {limit} bytes, the most that its configuration may take")
    return data


def read_config(path: Path) -> ModelConfig:
    """A model's configuration from its JSON file."""
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_CONFIG_BYTES + 1)
    except OSError as error:
        raise AdjaxError(f"{path}: {error.strerror or error}") from None
    if len(data) > _MAX_CONFIG_BYTES:
        raise AdjaxError(f"{path}: too large for a model's configuration")
    try:
        return from_dict(ModelConfig, json.loads(data))
    except (ConfigError, ValueError, RecursionError) as error:
        raise AdjaxError(f"{path}: not a model's configuration: {error}") from None


def fingerprint(config: ModelConfig, variables: Tree) -> bytes:
    """Eight bytes that identify the encoder and codebooks: what decides which codes a signal gets."""
    digest = hashlib.blake2b(digest_size=8)
    described = to_dict(config)
    digest.update(json.dumps([config.sample_rate_hz, described["encoder"], _wire(described["quantizer"])]).encode())
    params = variables["params"]
    tree = {
        "encoder": params["encoder"],
        "projector": params["projector"],
        "embed": variables["codebook"]["quantizer"]["embed"],
        "stats": variables.get("stats", {}).get("encoder", {}),
    }
    for key, array in sorted(flatten(tree).items()):
        digest.update(key.encode() + np.ascontiguousarray(array, np.float32).tobytes())
    return digest.digest()


def _wire(quantizer: dict[str, Any]) -> list[float]:
    names = ("codebooks", "codebook_size", "dim", *(("predicted", "prediction") if quantizer["predicted"] else ()))
    return [quantizer[name] for name in names]


def _shapes(config: ModelConfig) -> tuple[dict[str, tuple[int, ...]], dict[str, tuple[int, ...]]]:
    """Shapes of the arrays that a model has, and of those that it may have: the codebooks' statistics."""
    import jax

    from adjax.models.codec import init

    expected = {k: v.shape for k, v in flatten(jax.eval_shape(lambda: init(config, jax.random.key(0)))).items()}
    q, optional = config.quantizer, {}
    optional["codebook/quantizer/embed_avg"] = (q.codebooks, q.codebook_size, q.dim)
    optional["codebook/quantizer/cluster_size"] = (q.codebooks, q.codebook_size)
    return expected, optional


def _check_fit(
    path: Path,
    flat: Mapping[str, np.ndarray],
    expected: dict[str, tuple[int, ...]],
    optional: dict[str, tuple[int, ...]],
) -> None:
    """AdjaxError unless names and shapes of the arrays from `path` are those that the configuration asks for."""
    problems = [f"missing '{k}'" for k in expected if k not in flat]
    problems += [f"unknown '{k}'" for k in flat if k not in expected and k not in optional]
    for key, shape in (expected | optional).items():
        if key in flat and flat[key].shape != shape:
            problems.append(f"'{key}' is {flat[key].shape}, must be {shape}")
    if problems:
        raise AdjaxError(f"{path}: does not fit its configuration: {'; '.join(problems[:5])}")


def _write(path: Path, data: bytes) -> None:
    """Write beside the place, then rename."""
    descriptor, temporary = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(data)
        os.chmod(temporary, 0o644)
        os.replace(temporary, path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
