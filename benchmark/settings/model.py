"""The base of settings, and mistakes in them as a user reads them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, TypeVar, get_args, get_origin

from pydantic import (
    BaseModel,
    ConfigDict,
    ValidationError,
)

from voxbench.benchmark.settings.errors import BenchError, nearest

M = TypeVar("M", bound=BaseModel)


class Model(BaseModel):
    """Settings that know their keys: another is a mistake. They do not change once they are made."""

    model_config = ConfigDict(extra="forbid", frozen=True)


def validated(model: type[M], data: Mapping[str, Any], where: str) -> M:
    """`data` as `model`; a BenchError names each wrong key with the nearest right one, and each wrong value."""
    lists = {
        key: [word.strip() for word in value.split(",")]
        for key, value in data.items()
        if isinstance(value, str) and key in model.model_fields and "tuple" in str(model.model_fields[key].annotation)
    }
    try:
        return model.model_validate({**data, **lists})
    except ValidationError as error:
        raise BenchError(_readable(error, where, model.model_fields)) from error


def _readable(error: ValidationError, where: str, fields: Mapping[str, Any]) -> str:
    lines = []
    found = error.errors()
    for problem in found:
        path = [str(part) for part in problem["loc"]]
        if problem["type"] == "too_short" and any(other["loc"][:-1] == problem["loc"] for other in found):
            continue  # its items are wrong, and have a line each
        key = ".".join(filter(None, [where, *path]))
        if problem["type"] == "extra_forbidden":
            lines.append(f"{key}: no such setting: {nearest(path[-1], _known(fields, path[:-1]))}")
        elif problem["type"] == "missing":
            lines.append(f"{key}: missing")
        else:
            lines.append(f"{key}: {problem['msg'][0].lower()}{problem['msg'][1:]} (given: {problem['input']!r})")
    return "\n".join(lines)


def _known(fields: Mapping[str, Any], path: Sequence[str]) -> list[str]:
    rest = iter(path)
    for part in rest:
        inner = fields[part].annotation if part in fields else None
        if get_origin(inner) is dict:  # of models by name
            inner = get_args(inner)[1]
            next(rest, None)
        if not (isinstance(inner, type) and issubclass(inner, BaseModel)):
            return []
        fields = inner.model_fields
    return list(fields)
