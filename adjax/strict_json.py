"""Dataclasses to plain JSON values and strictly back: every unknown key and ill-typed value is named at once."""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import types
import typing
from typing import Any, Literal, TypeVar, Union

from adjax.errors import AdjaxError


class ConfigError(AdjaxError):
    """A configuration that cannot be used; the message names every offending key."""


def require(condition: bool, message: str) -> None:
    """Raises ConfigError unless `condition`."""
    if not condition:
        raise ConfigError(message)


T = TypeVar("T")


def to_dict(value: Any) -> Any:
    """Plain JSON values of a configuration; where a dataclass is one of several, it carries its class as "type"."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        hints = typing.get_type_hints(type(value))
        out: dict[str, Any] = {}
        for f in dataclasses.fields(value):
            inner = getattr(value, f.name)
            plain = to_dict(inner)
            if dataclasses.is_dataclass(inner) and len(_choices(hints[f.name])) > 1:
                plain = {"type": type(inner).__name__, **plain}
            out[f.name] = plain
        return out
    if isinstance(value, tuple):
        return [to_dict(v) for v in value]
    return value


def to_json(value: Any) -> str:
    return json.dumps(to_dict(value), indent=2) + "\n"


def from_dict(cls: type[T], data: Any) -> T:
    """The configuration that `to_dict` gave; raises ConfigError with every unknown key and ill-typed value at once."""
    errors: list[str] = []
    value = _build(cls, data, "", errors)
    if errors:
        raise ConfigError("; ".join(errors))
    return value


def override(config: T, assignments: list[str]) -> T:
    """`config` with "key.path=value" assignments applied; values are JSON, or else plain strings."""
    data = to_dict(config)
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals:
            raise ConfigError(f"'{assignment}' is not of the form key.path=value")
        *parents, last = path.split(".")
        node: Any = data
        for part in parents:
            if not isinstance(node, dict) or part not in node:
                raise ConfigError(f"unknown key '{path}'{_did_you_mean(part, node)}")
            node = node[part]
        if not isinstance(node, dict) or last not in node:
            raise ConfigError(f"unknown key '{path}'{_did_you_mean(last, node)}")
        try:
            node[last] = json.loads(text)
        except ValueError:
            node[last] = text
    return from_dict(type(config), data)


def _did_you_mean(key: str, options: Any) -> str:
    close = difflib.get_close_matches(key, list(options) if isinstance(options, dict) else [], n=1)
    return f"; did you mean '{close[0]}'?" if close else ""


def _is_union(hint: Any) -> bool:
    return typing.get_origin(hint) in (Union, types.UnionType)


def _choices(hint: Any) -> list[type]:
    """The dataclasses of a union."""
    arguments = typing.get_args(hint) if _is_union(hint) else ()
    return [c for c in arguments if isinstance(c, type) and dataclasses.is_dataclass(c)]


def _build(hint: Any, data: Any, path: str, errors: list[str]) -> Any:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return _build_dataclass(hint, data, path, errors)
    if _is_union(hint):
        classes = {c.__name__: c for c in _choices(hint)}
        if data is None and type(None) in arguments:
            return None
        if not classes:  # Optional[...]
            return _build(arguments[0], data, path, errors)
        if len(classes) == 1:
            return _build_dataclass(next(iter(classes.values())), data, path, errors)
        kind = data.get("type") if isinstance(data, dict) else None
        if not isinstance(data, dict) or kind not in classes:
            errors.append(f"{path}.type is {kind!r}, but must be one of {', '.join(classes)}")
            return None
        return _build_dataclass(classes[kind], {k: v for k, v in data.items() if k != "type"}, path, errors)
    if origin is Literal:
        if data not in arguments:
            errors.append(f"{path} is {data!r}, but must be one of {', '.join(map(repr, arguments))}")
        return data
    if origin is tuple:
        if not isinstance(data, list | tuple):
            errors.append(f"{path} is {data!r}, but must be a list")
            return ()
        item = arguments[0]
        if arguments[-1] is not Ellipsis and len(data) != len(arguments):
            errors.append(f"{path} must have {len(arguments)} entries")
        return tuple(_build(item, v, f"{path}[{i}]", errors) for i, v in enumerate(data))
    if hint is float and isinstance(data, int) and not isinstance(data, bool):
        return float(data)
    if not isinstance(data, hint) or (isinstance(data, bool) and hint is not bool):
        errors.append(f"{path} is {data!r}, but must be of type {hint.__name__}")
    elif isinstance(data, float) and not math.isfinite(data):
        errors.append(f"{path} is {data!r}, but must be finite")
    return data


def _build_dataclass(cls: Any, data: Any, path: str, errors: list[str]) -> Any:
    where = f"{path}." if path else ""
    if not isinstance(data, dict):
        errors.append(f"{path or 'configuration'} must be an object")
        return None
    hints = typing.get_type_hints(cls)
    fields = {f.name: f for f in dataclasses.fields(cls)}
    before = len(errors)
    for key in data:
        if key not in fields:
            errors.append(f"unknown key '{where}{key}'{_did_you_mean(key, fields)}")
    values = {}
    for name, f in fields.items():
        if name in data:
            values[name] = _build(hints[name], data[name], where + name, errors)
        elif f.default is dataclasses.MISSING and f.default_factory is dataclasses.MISSING:
            errors.append(f"missing key '{where}{name}'")
    if len(errors) > before:
        return None
    try:
        return cls(**values)
    except ConfigError as error:
        errors.append(str(error))
        return None
