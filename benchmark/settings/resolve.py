"""From layers of settings to one validated configuration, with every option filled in."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, Literal

from voxbench.benchmark.settings import registry
from voxbench.benchmark.settings.config import VARIANT, Config, PluginConfig
from voxbench.benchmark.settings.errors import BenchError, nearest
from voxbench.benchmark.settings.model import validated
from voxbench.benchmark.settings.presets import merge
from voxbench.datasets.views.policies import policies


def resolve(layers: Sequence[Mapping[str, Any]], methods: Sequence[str] | None) -> Config:
    """One validated configuration from layers, later ones winning, every plug-in option filled in.

    `methods` are names or ``file.py:Class`` specs; None = those that the layers name. Raises BenchError with every
    wrong key, its nearest valid name, and every wrong value.
    """
    data: dict[str, Any] = {}
    for layer in layers:
        data = merge(_without_replaced(data, layer), layer)
    options = data.get("methods") or {}
    if not isinstance(options, Mapping) or not all(isinstance(value, Mapping | None) for value in options.values()):
        raise BenchError("methods: expected options by method, e.g. --set methods.spark.mask_ratio=0.5")
    for name, own in options.items():
        base, _ = split_variant(name)
        if base in registry.names("methods"):  # also of methods that do not run: a mistyped option is a mistake
            validated(registry.load("methods", base).Options, own or {}, f"methods.{name}")
    if methods is not None:
        specs = _specs(methods)
        known = registry.names("methods")
        unknown = [name for name in options if name not in specs and split_variant(name)[0] not in known]
        if unknown:
            raise BenchError(f"methods.{unknown[0]}: no such method: {nearest(unknown[0], registry.names('methods'))}")
        data["methods"] = {name: options.get(name) or {} for name in specs}
        data["sources"] = {name: spec for name, spec in specs.items() if ".py:" in spec}
        lacking = [name for name in specs if VARIANT in name and name not in options]
        if lacking:
            raise BenchError(f"--methods {lacking[0]}: no configuration has this variant: make it with --sweep")
    config = validated(Config, data, "")
    _check_recipes(config)
    running = {config.method_of(row) for row in config.methods}
    filled: dict[str, Any] = {
        "dataset": _filled("datasets", config.dataset),
        "encoder": _filled("encoders", config.encoder),
        "encoders": {name: _filled("encoders", plugin, name) for name, plugin in config.encoders.items()},
        "methods": {
            name: validated(
                registry.load("methods", config.method_spec(name)).Options, options, f"methods.{name}"
            ).model_dump(mode="json")
            for name, options in config.methods.items()
        },
    }
    policies(config.augmentation)  # raises DatasetError for strengths that no policy has
    return config.model_copy(
        update={
            "dataset": PluginConfig(**filled["dataset"]),
            "encoder": PluginConfig(**filled["encoder"]),
            "encoders": {name: PluginConfig(**plugin) for name, plugin in filled["encoders"].items()},
            "methods": filled["methods"],
            "recipes": {name: own for name, own in config.recipes.items() if name in running},
        }
    )


def _check_recipes(config: Config) -> None:
    """Raises BenchError for recipes of a method that there is not, and for wrong keys and values in them."""
    known = {*registry.names("methods"), *map(config.method_of, config.methods)}
    for name in config.recipes:
        if name not in known:
            raise BenchError(f"recipes.{name}: no such method: {nearest(name, known)}")
        config.stage_recipe(name, "prior"), config.stage_recipe(name, "pretrain"), config.finetune_recipe(name)


def _without_replaced(data: Mapping[str, Any], layer: Mapping[str, Any]) -> dict[str, Any]:
    """`data` less the options of a dataset or encoder in whose place `layer` puts another: they are not the other's."""
    kept = dict(data)
    for kind in ("dataset", "encoder"):
        old, new = data.get(kind), layer.get(kind)
        if not (isinstance(old, Mapping) and isinstance(new, Mapping)) or "name" not in new:
            continue
        if new["name"] not in (old.get("name"), old.get("source")):
            del kept[kind]
        if kind == "encoder":
            kept.pop("encoders", None)  # who names an encoder names all
    return kept


def split_variant(spec: str) -> tuple[str, str]:
    """A method's name or file, and what follows it where it is a variant: (`residual`, `~median=3`)."""
    place, colon, name = spec.rpartition(".py:")
    name, mark, label = name.partition(VARIANT)
    return f"{place}{colon}{name}", f"{mark}{label}"


def _specs(methods: Sequence[str]) -> dict[str, str]:
    """Name -> spec. Raises BenchError where two have one name."""
    specs: dict[str, str] = {}
    for given in methods:
        spec, label = split_variant(given)
        name = f"{registry.method_name(spec)}{label}"
        if specs.get(name, spec) != spec or (".py:" in spec and name in registry.names("methods")):
            raise BenchError(f"{spec}: another method is called {name!r}: give the class another `name`")
        specs[name] = spec
    return specs


def _filled(kind: Literal["datasets", "encoders"], plugin: PluginConfig, further: str = "") -> dict[str, Any]:
    found = registry.load(kind, plugin.spec)
    options = validated(found.Options, plugin.options, f"{kind}.{further}" if further else kind[:-1])
    source = plugin.spec if ".py:" in plugin.spec else None
    return {"name": found.name, "source": source, **options.model_dump(mode="json")}
