"""The searches for settings behind a run (`bench tune`), and whether a method still has what was chosen for it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

TUNED, DEFAULT, CHANGED = "tuned", "default", "changed since they were tuned"


def searches(config: Mapping[str, Any]) -> Sequence[Mapping[str, Any]]:
    """Those that a config.yaml tells of: one or none; several of runs that were merged."""
    one = config.get("tuned")
    return config.get("searches") or ([one] if one else [])


def standing(config: Mapping[str, Any], row: str) -> str:
    """Where the settings of the method in a row are from: TUNED, DEFAULT (the preset's and the user's) or CHANGED."""
    name = row.partition("@")[0]
    method = name.partition("~")[0]  # of a sweep's variant
    found = [search["methods"][method] for search in searches(config) if method in search["methods"]]
    if not found:
        return DEFAULT
    options = (config.get("methods") or {}).get(name) or {}
    recipes = (config.get("recipes") or {}).get(method) or {}

    def has(name: str, value: Any) -> bool:
        kind, _, key = name.rpartition(".")
        own = (recipes.get(kind) or {}) if kind else options
        return bool(own.get(key) == value)

    kept = any(all(has(*setting) for setting in one["chosen"].items()) for one in found)
    return TUNED if kept else CHANGED
