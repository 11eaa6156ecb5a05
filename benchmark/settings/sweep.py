"""``--sweep methods.NAME.KEY=V1,V2``: a method once with each value, a row a value."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import product
from typing import Any

import yaml

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.config import VARIANT
from voxbench.benchmark.settings.errors import BenchError
from voxbench.benchmark.settings.presets import merge, plain_yaml
from voxbench.benchmark.settings.resolve import split_variant

Setting = tuple[str, Any]  # an option and its value


def swept(texts: Sequence[str]) -> dict[str, dict[str, dict[str, Any]]]:
    """Method -> variant -> the options in which it differs; of several sweeps of one method all combinations.

    Raises BenchError for what is no sweep.
    """
    found: dict[str, list[list[Setting]]] = {}
    for text in texts:
        method, settings = _parsed(text)
        if any(settings[0][0] == other[0][0] for other in found.get(method, ())):
            raise BenchError(f"--sweep {text}: {settings[0][0]} is swept twice: give all its values at once")
        found.setdefault(method, []).append(settings)
    return {
        method: {variant(method, chosen): dict(chosen) for chosen in product(*sweeps)}
        for method, sweeps in found.items()
    }


def variant(method: str, chosen: Sequence[Setting]) -> str:
    """`residual~median=3`; of several options `residual~loss=l1+median=3`."""
    return f"{method}{VARIANT}{'+'.join(f'{key}={_plain(value)}' for key, value in chosen)}"


def _parsed(text: str) -> tuple[str, list[Setting]]:
    path, equals, raw = text.partition("=")
    parts = path.strip().split(".")
    values = [word.strip() for word in raw.split(",") if word.strip()]
    if not equals or len(parts) != 3 or parts[0] != "methods" or not all(parts):
        raise BenchError(
            f"--sweep {text}: expected methods.NAME.KEY=V1,V2,...: of a setting that methods share make a run a value"
        )
    if len({*values}) < 2:
        raise BenchError(f"--sweep {text}: give two values or more, with commas between; for one there is --set")
    try:
        return parts[1], [(parts[2], plain_yaml(value)) for value in dict.fromkeys(values)]
    except yaml.YAMLError:
        raise BenchError(f"--sweep {text}: expected plain values, such as 0,3,5 or bce,l1") from None


def _plain(value: Any) -> str:
    """As it may stand in a row's name, which is a folder's name too."""
    text = str(value).lower() if isinstance(value, bool) else str(value)
    if not all(char.isalnum() or char in "._-" for char in text):
        raise BenchError(f"--sweep: {text!r}: values are numbers or words")
    return text


def with_variants(
    methods: Sequence[str], layers: Sequence[Mapping[str, Any]], variants: Mapping[str, Mapping[str, dict[str, Any]]]
) -> tuple[list[str], dict[str, Any]]:
    """The specs of `methods` with each swept one's variants in its place, and the variants' options.

    `layers` are settings, later ones winning. Raises BenchError where a swept method does not run.
    """
    if not variants:
        return list(methods), {}
    by_name = {registry.method_name(split_variant(spec)[0]): spec for spec in methods}
    missing = [name for name in variants if name not in by_name]
    if missing:
        raise BenchError(f"--sweep methods.{missing[0]}: {missing[0]} is not among --methods: add it")
    settings: dict[str, Any] = {}
    for layer in layers:
        settings = merge(settings, {"methods": layer.get("methods") or {}})
    names = {spec: name for name, spec in by_name.items() if name in variants}
    specs = [
        f"{spec}{row.removeprefix(names[spec])}" if spec in names else spec
        for spec in methods
        for row in (variants[names[spec]] if spec in names else (spec,))
    ]
    options = {
        row: {**(settings.get("methods", {}).get(name) or {}), **differing}
        for name, rows in variants.items()
        for row, differing in rows.items()
    }
    return specs, options
