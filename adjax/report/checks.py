"""Strict checks of JSON files that others may have written or changed: every value is of the kind that it must be."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from adjax.audio import os_reason
from adjax.errors import AdjaxError

NAMED = 5  # errors that a message names
_KINDS = {str: "text", int: "a whole number", float: "a number", bool: "true or false"}


@dataclass(frozen=True)
class Maybe:
    """Null, or what `shape` says."""

    shape: Any


@dataclass(frozen=True)
class Each:
    """An object whose keys are not known beforehand, and whose values are all as `shape` says."""

    shape: Any


def read_json(path: Path) -> Any:
    """The value in a file of JSON without NaN and infinities; raises AdjaxError, which says what is wrong where."""
    try:
        return parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise AdjaxError(f"{path}: {os_reason(error)}") from None
    except (ValueError, RecursionError) as error:
        raise AdjaxError(f"{path}: is not JSON: {error}") from None


def parse(text: str) -> Any:
    """As `json.loads`, but raises ValueError for NaN and infinities."""

    def refuse(name: str) -> None:
        raise ValueError(f"{name} is not a number of JSON")

    return json.loads(text, parse_constant=refuse)


def require(path: Path, value: Any, shape: Any) -> None:
    """Raises AdjaxError, which names the first errors, unless `value` of the file `path` has the shape.

    A shape is a type (str, int, float, bool), `Maybe`, `Each`, [shape] for a list, or an object of the keys that must
    be there. Further keys do not matter.
    """
    complain(path, list(_errors(value, shape, "")))


def complain(path: Path, errors: list[str]) -> None:
    """Raises AdjaxError that names the first errors, if there are any."""
    if errors:
        more = f"; and {len(errors) - NAMED} more" if len(errors) > NAMED else ""
        raise AdjaxError(f"{path}: {'; '.join(errors[:NAMED])}{more}")


def _errors(value: Any, shape: Any, where: str) -> Iterator[str]:
    name = where or "the whole"
    if isinstance(shape, Maybe):
        if value is not None:
            yield from _errors(value, shape.shape, where)
    elif isinstance(shape, list):
        if not isinstance(value, list):
            yield f"{name} is {_brief(value)}, but must be a list"
            return
        for i, item in enumerate(value):
            yield from _errors(item, shape[0], f"{where}[{i}]")
    elif isinstance(shape, dict | Each):
        if not isinstance(value, dict):
            yield f"{name} is {_brief(value)}, but must be an object"
            return
        for key, inner in ({k: shape.shape for k in value} if isinstance(shape, Each) else shape).items():
            place = f"{where}.{key}" if where else key
            if key in value:
                yield from _errors(value[key], inner, place)
            else:
                yield f"{place} is missing"
    elif not _fits(value, shape):
        yield f"{name} is {_brief(value)}, but must be {_KINDS[shape]}"


def _fits(value: Any, kind: type) -> bool:
    if kind is float:
        return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    return isinstance(value, kind) and (kind is bool or not isinstance(value, bool))


def _brief(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) <= 40 else f"{text[:37]}..."
