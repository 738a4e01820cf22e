"""adjax: a streaming neural speech codec in JAX."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import os

    from adjax.streaming import Codec

__version__ = "0.1.0"
__all__ = ["__version__", "load"]


def load(model: str | os.PathLike[str] | None = None) -> Codec:
    """A codec ready to encode and decode, by a model's name or folder; the default model without one."""
    from adjax.streaming import Codec

    return Codec.load(model)
