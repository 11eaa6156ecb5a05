"""What `bench tune` tried and chose for each method, and whether a run has it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxbench.reports.tables.table import Entry, Table

TUNED, DEFAULT, CHANGED = "tuned", "default", "changed since it was tuned"


def tuning_table(tuned: Mapping[str, Any]) -> Table:
    """A row a method, from `tuned` of a config.yaml."""
    rows = []
    for method, found in tuned["methods"].items():
        chosen = ", ".join(f"{name} {_said(value)}" for name, value in found["chosen"].items())
        rows.append(
            (
                Entry(str(method)),
                Entry(str(found["trials"])),
                Entry(str(found["failed"])),
                Entry(_score(found["default_auprc"])),
                Entry(_score(found["auprc"])),
                Entry(f"{found['seconds'] / 60:.1f}"),
                Entry(chosen or "the default", faint=not chosen),
            )
        )
    folds, seeds = (", ".join(map(str, tuned[key])) for key in ("folds", "seeds"))
    return Table(
        title=f"Search of settings at {tuned['fraction']:.0%} of the labels",
        columns=("Method", "Trials", "Failed", "Default's AUPRC", "Best AUPRC", "Minutes", "Chosen"),
        rows=tuple(rows),
        notes=(
            f"AUPRC on the validation part of fold {folds} of {tuned['of_folds']}, seed {seeds}, of "
            f"{tuned['dataset']}; who is tested in these folds was not read. The best of several trials is "
            "flattered by its choice: it is no estimate. Trial 0 is the default. Minutes: of training, all trials "
            f"together. Sampler: {tuned['sampler']}; search seed {tuned['search_seed']}.",
        ),
    )


def standing(config: Mapping[str, Any], method: str) -> str:
    """Whether a method's settings in a config.yaml are a search's choice, or the preset's and the user's."""
    found = ((config.get("tuned") or {}).get("methods") or {}).get(method.partition("@")[0])
    if not found:
        return DEFAULT
    options = (config.get("methods") or {}).get(method.partition("@")[0]) or {}
    recipes = (config.get("recipes") or {}).get(method.partition("@")[0]) or {}
    for name, value in found["chosen"].items():
        kind, _, key = name.rpartition(".")
        if (recipes.get(kind) or {} if kind else options).get(key) != value:
            return CHANGED
    return TUNED


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"


def _said(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
