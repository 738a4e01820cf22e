"""The file of a vocoder's input statistics: mean and standard deviation of the latents over a training set."""

from __future__ import annotations

import io
from pathlib import Path

import numpy as np

from adjax.errors import AdjaxError

_MAX_STATISTICS_BYTES = 1 << 20


def read_latent_statistics(path: Path, dim: int) -> dict[str, np.ndarray]:
    """`mean` and `scale`, float32[dim], of a .npy file with the means in row 0, the standard deviations in row 1.

    Raises AdjaxError for any other file; none can make it run code or take more memory than a small one's.
    """
    try:
        with path.open("rb") as file:
            data = file.read(_MAX_STATISTICS_BYTES + 1)
    except FileNotFoundError:
        raise AdjaxError(f"{path}: no such file; `adjax statistics` writes it") from None
    except OSError as error:
        raise AdjaxError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_STATISTICS_BYTES:
        raise AdjaxError(f"{path}: has more than {_MAX_STATISTICS_BYTES} bytes, which no statistics need")
    try:
        header = io.BytesIO(data)
        if np.lib.format.read_magic(header) != (1, 0):
            raise ValueError("not of format 1.0")
        shape, _, dtype = np.lib.format.read_array_header_1_0(header)
        if shape != (2, dim) or dtype.kind != "f":
            raise AdjaxError(
                f"{path}: holds {dtype}{shape}, but statistics of this model's latents are floats of shape (2, {dim})"
            )
        table = np.load(io.BytesIO(data), allow_pickle=False)
    except AdjaxError:
        raise
    except Exception as error:  # whatever NumPy makes of a damaged header
        raise AdjaxError(f"{path}: is not a .npy file, or is damaged ({type(error).__name__})") from None
    with np.errstate(over="ignore"):
        mean, scale = np.array(table, np.float32, order="C")
    if not np.isfinite(mean).all() or not np.isfinite(scale).all() or not (scale > 0).all():
        raise AdjaxError(f"{path}: must hold finite means in row 0 and positive standard deviations in row 1")
    return {"mean": mean, "scale": scale}
