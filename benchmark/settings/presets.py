"""Presets and `--set`: from text to nested settings, laid over one another."""

from __future__ import annotations

import re
from collections.abc import Mapping
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from voxbench.benchmark.settings.errors import BenchError, nearest


def presets() -> dict[str, str]:
    """Built-in presets: name -> text."""
    folder = resources.files("voxbench.configs")
    return {f.name[:-5]: f.read_text(encoding="utf-8") for f in folder.iterdir() if f.name.endswith(".yaml")}


def read_preset(name: str) -> dict[str, Any]:
    """A built-in preset, or a YAML file of the user's; ``extends: NAME`` lays it over a built-in one."""
    builtin = presets()
    if name in builtin:
        text = builtin[name]
    elif Path(name).is_file():
        try:
            text = Path(name).read_text(encoding="utf-8")
        except (OSError, UnicodeDecodeError) as error:
            raise BenchError(f"preset {name}: not a readable text file ({error}): give a YAML file") from error
    else:
        raise BenchError(f"no preset and no file is called {name!r}: {nearest(name, builtin)}")
    try:
        data = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise BenchError(f"preset {name}: not valid YAML: {str(error).splitlines()[0]}") from error
    if not isinstance(data, dict):
        raise BenchError(f"preset {name}: expected a mapping of settings")
    if "extends" not in data:
        return data
    base = str(data.pop("extends"))
    if base not in builtin:
        raise BenchError(f"preset {name}: extends: no built-in preset is called {base!r}: {nearest(base, builtin)}")
    return merge(read_preset(base), data)


class _Scalars(yaml.SafeLoader):
    """YAML in which words stay words: yes, no, on and off are class names, 02 is one too, and 12:30 is no number."""


_PLAIN = {"bool": "true|false|True|False", "int": "[-+]?(0|[1-9][0-9]*)"}
_Scalars.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in rules if tag.rpartition(":")[2] not in (*_PLAIN, "timestamp")]
    for first, rules in yaml.SafeLoader.yaml_implicit_resolvers.items()
}
for _kind, _pattern in _PLAIN.items():
    _Scalars.add_implicit_resolver(
        f"tag:yaml.org,2002:{_kind}", re.compile(f"^({_pattern})$"), list("tTfF-+0123456789")
    )


def plain_yaml(text: str) -> Any:
    """YAML as people mean it: 12:30 is no number, and `no` is a word. Raises yaml.YAMLError."""
    return yaml.load(text, _Scalars)


def parse_setting(text: str) -> dict[str, Any]:
    """``a.b.c=value`` as nested mappings; the value is read as YAML. Raises BenchError without '='."""
    path, equals, raw = text.partition("=")
    keys = path.strip().split(".")
    if not equals or not all(keys):
        raise BenchError(f"--set {text!r}: expected key=value, e.g. --set finetune.lr=0.001")
    try:
        value: Any = plain_yaml(raw)
    except yaml.YAMLError:
        value = raw
    for key in reversed(keys):
        value = {key: value}
    return dict(value)


def merge(base: Mapping[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    """`over` laid over `base`, mapping by mapping; neither is changed."""
    merged = dict(base)
    for key, value in over.items():
        old = merged.get(key)
        merged[key] = merge(old, value) if isinstance(old, Mapping) and isinstance(value, Mapping) else value
    return merged
