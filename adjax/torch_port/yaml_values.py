"""YAML files that nobody vouches for, and typed look-ups in them."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

from adjax.errors import AdjaxError

MAX_ITEMS = 16  # of a list: the released models have at most 6
_MAX_BYTES = 1 << 16
_MAX_INTEGER = 1 << 20


def load_yaml(path: Path) -> dict[Any, Any]:
    """The mapping in a YAML file of at most 64 kB; raises AdjaxError for anything else."""
    import yaml

    try:
        with path.open("rb") as file:
            data = file.read(_MAX_BYTES + 1)
    except OSError as error:
        raise AdjaxError(f"{path}: cannot be read: {error.strerror}") from None
    if len(data) > _MAX_BYTES:
        raise AdjaxError(f"{path}: has more than {_MAX_BYTES} bytes, which no model's configuration needs")
    try:
        document = yaml.safe_load(data)
    except Exception as error:  # besides YAMLError its constructors let KeyError, IndexError and others through
        place = f" at line {mark.line + 1}" if (mark := getattr(error, "problem_mark", None)) else ""
        raise AdjaxError(f"{path}: is not valid YAML{place}") from None
    if not isinstance(document, dict):
        raise AdjaxError(f"{path}: must be a mapping with model_type and generator_params")
    return document


class Values:
    """Typed look-ups in a mapping that collect what is wrong, so that one message names it all."""

    def __init__(self, values: dict[Any, Any], prefix: str = "", problems: list[str] | None = None) -> None:
        self.values = values
        self.prefix = prefix
        self.problems: list[str] = [] if problems is None else problems

    def problem(self, key: str, text: str) -> None:
        self.problems.append(f"{self.prefix}{key} {text}")

    def only(self, *keys: str) -> None:
        """All other keys are problems."""
        for key in self.values:
            if key not in keys:
                shown = repr(key[:40]) if isinstance(key, str) else f"({type(key).__name__})"
                self.problems.append(f"{self.prefix}{shown} is unknown")

    def need(self, *keys: str) -> None:
        """Keys that are missing are problems: where a default would be a guess."""
        for key in keys:
            if key not in self.values:
                self.problem(key, "is missing")

    def within(self, key: str) -> Values:
        """Look-ups in the mapping at `key`; an empty one if it is missing."""
        value = self.values.get(key, {})
        if not isinstance(value, dict):
            self.problem(key, "must be a mapping")
            value = {}
        return Values(value, f"{self.prefix}{key}.", self.problems)

    def integer(self, key: str, default: int, most: int = _MAX_INTEGER) -> int:
        value = self.values.get(key, default)
        if _is_size(value) and value <= most:
            return value
        self.problem(key, f"must be a whole number from 1 to {most}")
        return default

    def integers(self, key: str, default: tuple[int, ...], count: int | None = None) -> tuple[int, ...]:
        value = self.values.get(key, default)
        if _are_sizes(value) and count in (None, len(value)):
            return tuple(value)
        items = f"1 to {MAX_ITEMS}" if count is None else count
        self.problem(key, f"must be a list of {items} whole numbers from 1 to {_MAX_INTEGER}")
        return default

    def integer_rows(self, key: str, default: tuple[tuple[int, ...], ...], count: int | None = None) -> Any:
        """A tuple of tuples of whole numbers, of `count` each."""
        value = self.values.get(key, default)
        rows = value if isinstance(value, list | tuple) and len(value) <= MAX_ITEMS else ()
        if rows and all(_are_sizes(row) and count in (None, len(row)) for row in rows):
            return tuple(tuple(row) for row in rows)
        items = f"1 to {MAX_ITEMS}" if count is None else count
        self.problem(key, f"must be a list of 1 to {MAX_ITEMS} lists of {items} whole numbers from 1")
        return default

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self.values.get(key, default)
        if isinstance(value, int | float) and not isinstance(value, bool) and least <= value <= most:
            return float(value)
        above = f"from {least:g}" if math.isinf(most) else f"from {least:g} to {most:g}"
        self.problem(key, f"must be a number {above} (YAML wants a point in it: 1.0e-4)")
        return default

    def flag(self, key: str, default: bool) -> bool:
        value = self.values.get(key, default)
        if isinstance(value, bool):
            return value
        self.problem(key, "must be true or false")
        return default

    def choice(self, key: str, *options: str) -> str:
        """One of `options`, the first if it is missing."""
        value = self.values.get(key, options[0])
        if isinstance(value, str) and value in options:
            return value
        shown = f"{value[:40]!r} " if isinstance(value, str) else ""
        self.problem(key, f"{shown}is not supported; it must be {' or '.join(options)}")
        return options[0]

    def constant(self, key: str, value: Any) -> None:
        """A key that may be left out, but has only one value that adjax can follow."""
        found = self.values.get(key, value)
        if type(found) is not type(value) or found != value:
            self.problem(
                key, f"is not supported unless it is {str(value).lower() if value in (True, False) else value}"
            )

    def leaky_slope(self, default: float) -> float:
        """The slope of the activation, which must be a leaky ReLU."""
        self.choice("nonlinear_activation", "LeakyReLU")
        inner = self.within("nonlinear_activation_params")
        inner.only("negative_slope")
        return inner.number("negative_slope", default, 0, 1)


def _is_size(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and 1 <= value <= _MAX_INTEGER


def _are_sizes(value: Any) -> bool:
    return isinstance(value, list | tuple) and 1 <= len(value) <= MAX_ITEMS and all(map(_is_size, value))
