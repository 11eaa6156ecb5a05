"""What `bench tune` tried and chose for each method."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from voxbench.reports.judging.words import listed
from voxbench.reports.reading.results import percent
from voxbench.reports.tables.table import Entry, Table


def search_table(search: Mapping[str, Any], fingerprint: str | None = None) -> Table:
    """A row a method: its trials, and the default against the best, on validation.

    `fingerprint` is that of the data set whose results stand beside it.
    """
    folds, seeds = (", ".join(map(str, search[key])) for key in ("folds", "seeds"))
    return Table(
        title=f"Search of settings at {percent(search['fraction'])} of the labels",
        columns=("Method", "Trials", "Failed", "Default's AUPRC", "Best AUPRC", "Minutes"),
        rows=tuple(
            (
                Entry(str(method)),
                Entry(str(found["trials"])),
                Entry(str(found["failed"])),
                Entry(_score(found["default_auprc"])),
                Entry(_score(found["auprc"]), bold=bool(found["chosen"])),
                Entry(f"{found['seconds'] / 60:.1f}"),
            )
            for method, found in search["methods"].items()
        ),
        notes=(
            f"Mean AUPRC on the validation part of fold {folds} of {search['of_folds']}, seed {seeds}, of "
            f"{search['dataset']}. The best of several trials is flattered by its choice: it is no estimate. Bold: "
            f"better than the default, which is trial 0. Minutes: of training, all trials together. Trials: "
            f"{search['sampler']}; search seed {search['search_seed']}.",
            *([] if fingerprint is None else [_cohort(search, fingerprint)]),
        ),
    )


def chosen_table(search: Mapping[str, Any]) -> Table | None:
    """A row a setting, a column a method; None where every default was best."""
    methods = list(search["methods"])
    chosen = {method: search["methods"][method]["chosen"] for method in methods}
    names = dict.fromkeys(name for settings in chosen.values() for name in settings)
    if not names:
        return None
    return Table(
        title="Chosen settings",
        columns=("Setting", *methods),
        rows=tuple((Entry(name), *(_value(chosen[method], name) for method in methods)) for name in names),
        notes=("Without a point: an option of the method's own. Default: as the preset has it, which nothing beat.",),
    )


def _cohort(search: Mapping[str, Any], fingerprint: str) -> str:
    if search["data"] != fingerprint:
        return "The search was on other data than is tested here."
    if search["of_folds"] == 1:
        return "The search was on the training and validation parts of this split; who is tested was not read."
    folds = listed([str(fold) for fold in search["folds"]])
    return (
        f"The search was on this cohort: who is tested in fold {folds} was not read, and others took part in the "
        "choice who are tested in other folds, so that scores there may be flattered."
    )


def _value(settings: Mapping[str, Any], name: str) -> Entry:
    if not settings:
        return Entry("default", faint=True)
    if name not in settings:
        return Entry("–", faint=True)
    value = settings[name]
    return Entry(f"{value:.3g}" if isinstance(value, float) else str(value))


def _score(value: float | None) -> str:
    return "–" if value is None else f"{value:.3f}"
